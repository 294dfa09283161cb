/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of the driver `quorum` share; see quorum.c for words and invariants.
 */
#ifndef BLOCK_QUORUM_QUORUM_H
#define BLOCK_QUORUM_QUORUM_H

#include "block/driver.h"
#include "qapi-types.h"

/* The children at one time.  A set never changes: another one takes its place (quorum-change.c). */
typedef struct QuorumSet {
    CoGroup users; /* calls that use it, and the state while it is the current one */
    unsigned n;    /* at least 1 */
    Edge *child[];
} QuorumSet;

typedef struct QuorumState {
    /* ---- constant after open ---- */
    unsigned threshold; /* 1 … number of children */
    bool blkverify, rewrite_corrupted, fifo;
    /* ---- any thread ---- */
    _Atomic(QuorumSet *) set; /* by quorum_set_enter() only */
    _Atomic bool rewrites;    /* what lost a vote is put right; not so in an old disk (Q2) */
    /* Writes hold their range, and so does a read that looks twice; before any lock of a child. */
    CoRangeLock lock;
    /* ---- control thread ---- */
    unsigned next_index; /* in the name of the next child */
} QuorumState;

/* A request that goes to all children at once. */
typedef struct QuorumCall {
    Node *n;
    QuorumSet *set; /* entered */
    Request *r;
    GuestOffset offset;
    uint64_t bytes;
    unsigned flags;
    const IoVector *iov; /* writes */
    void **bufs;         /* reads: one for each child, of `bytes` bytes */
} QuorumCall;

typedef int coroutine_fn QuorumFn(const QuorumCall *c, unsigned child);

/* ---- quorum-change.c ---- */

/* A set with the children of `from` (NULL: none) and room for n; from there on the caller fills it. */
QuorumSet *quorum_set_new(const QuorumSet *from, unsigned n);
/* The children as they are now, for one call; any thread.  What a lock orders is entered with the lock held. */
QuorumSet *quorum_set_enter(QuorumState *s);
void quorum_set_leave(QuorumSet *set);
/* All have left, the state too. */
void quorum_set_free(QuorumSet *set);

/* BlockDriver.add_child, .remove_child */
bool coroutine_fn quorum_add_child(Node *n, Node *child, Error **errp);
bool coroutine_fn quorum_remove_child(Node *n, Edge *e, Error **errp);

/* ---- quorum.c ---- */

/* False: the two children differ in size.  Error: "Children '%s' and '%s' of a quorum differ in size". */
bool quorum_check_size(const Node *n, const Node *first, const Node *child, Error **errp);
/* Calls fn for every child, all at once, and waits for all; ret[i]: what it said for child i. */
void coroutine_fn quorum_all(const QuorumCall *c, QuorumFn *fn, int *ret);
/* 0 if at least as many succeeded as have to agree, otherwise the commonest error; every failed child is reported, and so is a lost vote. */
int quorum_vote_results(const QuorumCall *c, QuorumOpType type, const int *ret);

/* Events; any thread, does not suspend.  err: a negative errno, 0: none (the child's data differs).  offset, bytes: the request's. */
void quorum_report_bad(Edge *child, QuorumOpType type, uint64_t offset, uint64_t bytes, int err);
void quorum_report_failure(const Node *n, uint64_t offset, uint64_t bytes);

int coroutine_fn quorum_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                               unsigned flags);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of the driver `quorum` share; see quorum.c for words and invariants.
 */
#ifndef BLOCK_QUORUM_QUORUM_H
#define BLOCK_QUORUM_QUORUM_H

#include "block/driver.h"
#include "qapi-types.h"

typedef struct QuorumState {
    /* ---- constant after open ---- */
    Edge **children;
    unsigned nchildren;
    unsigned threshold; /* 1 … nchildren */
    bool blkverify, rewrite_corrupted, fifo;
    /* Writes hold their range, and so does a read that looks twice; before any lock of a child. */
    CoRangeLock lock;
} QuorumState;

/* A request that goes to all children at once. */
typedef struct QuorumCall {
    Node *n;
    Request *r;
    GuestOffset offset;
    uint64_t bytes;
    unsigned flags;
    const IoVector *iov; /* writes */
    void **bufs;         /* reads: one for each child, of `bytes` bytes */
    bool exact;          /* truncate */
} QuorumCall;

typedef int coroutine_fn QuorumFn(const QuorumCall *c, unsigned child);

/* Calls fn for every child, all at once, and waits for all; ret[i]: what it said for child i. */
void coroutine_fn quorum_all(const QuorumCall *c, QuorumFn *fn, int *ret);
/* 0 if at least as many succeeded as have to agree, otherwise the commonest error; every failed child is reported, and so is a lost vote. */
int quorum_vote_results(const QuorumCall *c, QuorumOpType type, const int *ret);

/* Events; any thread, does not suspend.  err: a negative errno, 0: none (the child's data differs).  offset, bytes: the request's. */
void quorum_report_bad(const Node *n, unsigned child, QuorumOpType type, uint64_t offset,
                       uint64_t bytes, int err);
void quorum_report_failure(const Node *n, uint64_t offset, uint64_t bytes);

int coroutine_fn quorum_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                               unsigned flags);

#endif

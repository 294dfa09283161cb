/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Copy before write: what a disk holds at an instant is kept, while it is written to.
 *
 * Words
 *  source    the disk; the filter's `file`.
 *  target    where what would be overwritten is copied to first.
 *  cluster   what is copied as a whole: at least 64 KiB and a cluster of the target.
 *  snapshot  the source as it was at the instant: target where a cluster has been copied, source where not.
 *  todo      clusters that have to be copied before they are overwritten.
 *  done      clusters that are in the target.
 *  access    clusters that readers of the snapshot may read.
 *  broken    a copy that was needed is missing: there is no snapshot any more, and nobody waits for one.
 *
 * What must hold
 *  S1  a cluster of todo is as it was at the instant: who writes waits until it is not in todo.
 *  S2  a cluster leaves todo after it is in done, and is in done when all of it is in the target.
 *  S3  a cluster that is being copied, or read by a reader of the snapshot from the source, is held: copies exclude each other and readers.
 *      Who waits for a hold does so in the order in which they came, and a write of a guest no longer than the timeout.
 *  S4  a write of a guest waits at most the timeout (for each piece of a long one), whatever source and target do: the copy goes on alone and keeps its hold.  The write then fails
 *      or breaks the snapshot, as the options say.
 */
#ifndef BLOCK_FILTER_CBW_H
#define BLOCK_FILTER_CBW_H

#include "block/driver.h"
#include "block/dirty-bitmap.h"
#include "block/io.h"

/* Guests' writes wait so long for copies where nobody said how long (ns), for each MiB or cluster of them. */
#define CBW_TIMEOUT_NS (10 * INT64_C(1000000000))

typedef struct Cbw Cbw;

typedef struct CbwOptions {
    bool break_snapshot; /* what cannot be copied breaks the snapshot; else it fails the write */
    bool timeout_breaks_snapshot; /* the same for what is not copied in time */
    int64_t timeout_ns;           /* 0: none */
    uint64_t min_cluster;         /* bytes, a power of two; 0: do not say */
    bool compress;                /* the target writes compressed clusters */
    bool discard_source;          /* what is in the target may be discarded in the source */
    /* Bytes of the disk that have been copied; the first error that broke the snapshot (negative errno).  Any thread; NULL: nobody wants to know. */
    void (*copied)(void *opaque, uint64_t bytes);
    void (*broke)(void *opaque, int err);
    void *opaque;
} CbwOptions;

/* `filter` has its size and its edges.  All of the disk is to be kept, or what `only` marks.  Errors: "Unable to determine…", no memory. */
Cbw *cbw_new(Node *filter, Edge *target, const CbwOptions *options, const DirtyBitmap *only,
             Error **errp);
/* Nothing of it runs. */
void cbw_free(Cbw *c);
/* Waits until nothing of it runs: copies that writes did not wait for, readers by guards. */
void coroutine_fn cbw_wait_idle(Cbw *c);

/* Bytes of a cluster for a target with that of facts and this option; errors: "min-cluster-size needs to be a power of 2", "min-cluster-size too
 * large: …". */
bool cbw_cluster_size(Node *target, uint64_t min_cluster, uint32_t *ret, Error **errp);

/* ---- any loop ---- */

/* Before [offset, offset + bytes) of the source is changed.  Negative errno: it must not be. */
int coroutine_fn cbw_before_write(Cbw *c, uint64_t offset, uint64_t bytes);
/* Copies what of the range is in todo; buf: memory of len bytes, at least a cluster.  Whole clusters.  Negative errno; *ret_reading: of the source. */
int coroutine_fn cbw_copy(Cbw *c, uint64_t offset, uint64_t bytes, uint8_t *buf, size_t len,
                          bool *ret_reading);
int coroutine_fn cbw_snapshot_preadv(Cbw *c, Request *r, GuestOffset offset, const IoVector *iov,
                                     unsigned flags);
int coroutine_fn cbw_snapshot_status(Cbw *c, Request *r, GuestOffset offset, uint64_t bytes,
                                     unsigned flags, uint64_t *ret_bytes);
int coroutine_fn cbw_snapshot_discard(Cbw *c, Request *r, GuestOffset offset, uint64_t bytes);
/* 0, or what broke it: a negative errno. */
int cbw_error(const Cbw *c);

/* The clusters that are (still) to be copied, and the size of one. */
DirtyBitmap *cbw_todo(Cbw *c);
uint32_t cbw_cluster(const Cbw *c);
Edge *cbw_target(const Cbw *c);
/* What `only` does not mark need not be copied, nor read: from here on. */
void cbw_restrict(Cbw *c, const DirtyBitmap *only);
/* Bytes of the disk that a bitmap of clusters marks. */
uint64_t cbw_marked(const DirtyBitmap *b);

/* ---- backing edges of a target that lead to the source (cbw-guard.c); control thread ---- */

/* Before the target gets its edge: backing edges that will be guarded do not keep anybody from writing to the source; false: takes it back. */
void cbw_guard_share(const Node *source, Node *target, bool share);
/* Readers of a target that has the source as backing see the snapshot, not what is written to the source.  file: the filter's edge to source. */
void cbw_guard(Cbw *c, Node *source, Edge *file, Node *target);
/* No longer; waits for readers under way. */
void coroutine_fn cbw_unguard(Cbw *c);
/* One more, one less who uses c beside requests of the filter.  Any thread. */
void cbw_enter(Cbw *c);
void cbw_leave(Cbw *c);
/* All of the range is part of the snapshot. */
bool cbw_keeps(const Cbw *c, uint64_t offset, uint64_t bytes);

/* ---- the filter of a job (copy-before-write.c); control thread ---- */

/* A hidden filter over source, with a target, in nobody's way yet.  name: NULL: generated.  Its edge to source shares everything until
 * cbw_filter_settled(). */
Node *coroutine_fn cbw_filter_new(Node *source, Node *target, const char *name,
                                  const CbwOptions *options, Error **errp);
Cbw *cbw_of(const Node *filter);
/* The instant: users of the source are users of the filter now.  Does not suspend. */
void cbw_filter_in_place(Node *filter);
/* The requests that did not come through it have ended. */
void coroutine_fn cbw_filter_settled(Node *filter);
/* Its users are users of the source again.  False: a transaction has one of both, try again later. */
bool coroutine_fn cbw_filter_take_out(Node *filter);
/* It goes; nobody uses it but by `filter`, which is consumed. */
void coroutine_fn cbw_filter_drop(Node *filter);

#endif

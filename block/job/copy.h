/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Carrying data for a job; private to block/job/.
 *
 * What is to be carried is marked in a dirty bitmap.  Workers on the jobs' I/O thread take pieces of it, many at a time: a piece is unmarked, then
 * carried, and marked again if that failed.  A piece that is being carried is not taken by another worker though it be marked anew
 * meanwhile: so of two copies of one place the later one ends later.  Others may carry pieces beside the workers (copy_now), by the same rule.
 */
#ifndef BLOCK_JOB_COPY_H
#define BLOCK_JOB_COPY_H

#include "block/dirty-bitmap.h"
#include "block/job.h"

#define COPY_WORKERS   4u
#define COPY_PIECE_MAX (UINT64_C(512) * 1024)

/* Carries [offset, offset + bytes); buf: memory of COPY_PIECE_MAX bytes, or of a granule if that is more.  Negative errno;
 * *ret_reading: whether reading failed. */
typedef int coroutine_fn CopyFn(void *opaque, uint64_t offset, uint64_t bytes, uint8_t *buf,
                                bool *ret_reading);
/* Is there something to carry in [offset, offset + *ret_bytes)?  In: at most `bytes`, > 0.  1, 0 or a negative errno. */
typedef int coroutine_fn ScanFn(void *opaque, uint64_t offset, uint64_t bytes, uint64_t *ret_bytes);

/* What somebody carries, or is about to; in a list while it is carried. */
typedef struct CopyPiece {
    uint64_t offset, bytes;
    struct CopyPiece *next;
} CopyPiece;

typedef struct Copy {
    Job *job;
    Loop *loop;
    DirtyBitmap *todo;
    CopyFn *copy;
    ScanFn *scan;
    void *opaque;
    JobOnError on_error;       /* about reading ... */
    JobOnError on_write_error; /* ... and about writing */
    /* `ignore` means: leave the piece out and remember the error; else: try again. */
    bool ignore_leaves_out;
    Edge *
        target; /* where it is written to; its storage is kept from caching too much; the caller's */
    uint64_t size;      /* bytes to look at */
    bool count_skipped; /* what scan finds nothing in counts as progress ... */
    _Atomic uint64_t
        skipped; /* ... bytes of it, counted when the first piece is carried: who fails before that has not come far */
    bool counts_itself; /* `copy` says how far the job has come */
    unsigned workers;   /* 0: as many as there are; at most that */
    uint64_t
        piece_max; /* the longest piece, bytes, if that is more than a granule; 0: COPY_PIECE_MAX */
    _Atomic bool hurry;
    _Atomic uint64_t behind; /* bytes written since storage was last told */
    _Atomic int64_t deadline;
    _Atomic int error;         /* reported: the job ends with it */
    _Atomic int left_out;      /* the first error of what was left out */
    _Atomic unsigned rounds;   /* how often all of the disk has been looked through for marks */
    _Atomic unsigned failures; /* pieces that could not be carried */
    pthread_mutex_t lock;      /* innermost; protects: */
    CopyPiece *carried;
    CoMutex
        gently; /* held, beyond yields, by the worker that carries while guests write to the same storage; only tried */
    CoQueue ended; /* who waits for some piece to be carried no more */
    uint64_t cursor;
} Copy;

/* c: the first members are filled in.  False: no memory for the bitmap, no I/O thread. */
bool coroutine_fn copy_init(Copy *c, uint32_t granularity, Error **errp);
void copy_clear(Copy *c);
/* Marks what there is to carry.  False: cancelled, or c->error. */
bool coroutine_fn copy_scan(Copy *c);
/* Carries until nothing is marked or clock_ns() passed the deadline (-1: none); more may be marked by the time it returns.  hurry: writers are
 * waiting: no points, no speed limit.  False: cancelled, or c->error. */
bool coroutine_fn copy_run(Copy *c, int64_t deadline_ns, bool hurry);
/* Carries what [offset, offset + bytes) touches, marked or not, in the caller's coroutine, of any loop, whether or not the job is paused; waits for
 * those who carry a part of it.  Stops between two pieces when *stop is set.  Negative errno (told, as the job's policy is), -ECANCELED if stopped: what
 * was not carried is marked. */
int coroutine_fn copy_now(Copy *c, uint64_t offset, uint64_t bytes, const _Atomic bool *stop);
/* Nothing is marked, and nothing is being carried. */
bool copy_is_idle(Copy *c);
/* The error of a job that ended with c->error. */
void copy_error(const Copy *c, Error **errp);

#endif

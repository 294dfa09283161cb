/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Copying a disk that is being written to, until little is left to copy; private to block/job/.
 *
 * What is written meanwhile is marked again in copy->todo by whoever records it.  Guests that write faster than we copy are slowed down: the delay of
 * every write is doubled while they make more than half of what we carry dirty again, and halved when they do not; at most max_delay.
 */
#ifndef BLOCK_JOB_CONVERGE_H
#define BLOCK_JOB_CONVERGE_H

#include "copy.h"

#define CONVERGE_SLICE_NS INT64_C(200000000)

typedef struct Converge {
    Copy *copy;
    Node *node;        /* what guests write to */
    int64_t max_delay; /* ns by which a write may be slowed down; 0: nobody is */
    /* private; zeroes in the beginning */
    uint64_t seen; /* dirty at the last look */
    uint64_t rate; /* bytes a second that we carry */
    int64_t pace;
} Converge;

/* The job's total follows from what is dirty.  Returns that, bytes. */
uint64_t converge_total(Copy *c);
/* One slice of copying.  slow: guests may be slowed down.  False: as copy_run(). */
bool coroutine_fn converge_slice(Converge *v, bool slow);
/* Until so little is left that it can be copied while writers wait for a moment; something is copied if there is anything.  False: cancelled, or
 * an error. */
bool coroutine_fn converge_run(Converge *v);

#endif

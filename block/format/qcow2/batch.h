/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pieces of one request that run beside each other: several coroutines of the thread that the request belongs to.
 *
 * Because they share a thread, they may share the Request, and no lock is needed here.
 */
#ifndef QCOW2_BATCH_H
#define QCOW2_BATCH_H

#include "util/coroutine.h"

typedef struct Batch {
    Coroutine *waiter; /* set while the owner waits */
    unsigned running, max;
    int ret; /* of the first piece that failed; 0 */
} Batch;

/* What a piece does; 0 or a negative errno.  piece is freed with g_free() afterwards. */
typedef int coroutine_fn BatchFn(void *piece);

void batch_init(Batch *b, unsigned max);
/* Starts a piece; waits first while `max` are running.  After a failure further pieces are dropped. */
void coroutine_fn batch_add(Batch *b, BatchFn *fn, void *piece);
/* Waits for all; the result. */
int coroutine_fn batch_wait(Batch *b);

#endif

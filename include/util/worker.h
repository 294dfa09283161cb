/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pools of worker threads, for calls that block.
 *
 * Guest I/O and everything else have separate pools, so that creating a hundred files cannot keep a guest's request
 * waiting for a thread (invariant T4).
 */
#ifndef UTIL_WORKER_H
#define UTIL_WORKER_H

#include "util/coroutine.h"

typedef enum WorkerPool {
    WORKERS_GUEST,   /* guest I/O where io_uring cannot do it */
    WORKERS_CONTROL, /* opens, creates, grace periods, settle's flushes, the journal */
} WorkerPool;

/* Returns a value of the callee's meaning, by convention 0 or a negative errno. */
typedef int WorkerFn(void *opaque);

/* Runs fn(opaque) on a thread of the pool and returns its value; suspends the calling coroutine meanwhile. */
int coroutine_fn worker_run(WorkerPool pool, WorkerFn *fn, void *opaque);

/* Runs fn(opaque) on a thread of the pool, then done(opaque, value) there as well (done may be NULL).  Any thread. */
void worker_submit(WorkerPool pool, WorkerFn *fn, void (*done)(void *opaque, int value),
                   void *opaque);

/* Most threads a pool may have; they are started as needed and end when idle for some seconds. */
void worker_set_max(WorkerPool pool, unsigned max);
/* How many jobs of the control pool run at once while none of them waits for long; more, up to the most, when they do. */
unsigned worker_eager(void);
/* Around a wait for another thread in a job: others may run meanwhile as if this one did not.  On a thread that is no worker: nothing. */
void worker_wait_begin(void);
void worker_wait_end(void);
/* Threads that a pool has at the moment (tests, diagnosis). */
unsigned worker_threads(WorkerPool pool);

#endif

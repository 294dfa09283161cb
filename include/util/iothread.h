/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * I/O threads: a thread with an I/O loop, an object that users create (`object-add iothread`) or that is
 * there by itself.
 *
 * All functions: control thread, unless said otherwise.
 */
#ifndef UTIL_IOTHREAD_H
#define UTIL_IOTHREAD_H

#include "util/loop.h"

typedef struct IOThread IOThread;

/* Starts a thread with a loop.  id is copied, used as the thread's name too.  NULL with errp when the
 * system has no more threads, descriptors or slots (LOOP_SLOTS). */
IOThread *iothread_new(const char *id, Error **errp);
/* One more / one less user (exports).  iothread_free() needs that there is none. */
IOThread *iothread_ref(IOThread *t);
void iothread_unref(IOThread *t);
unsigned iothread_users(const IOThread *t);
/* Ends the loop when what is queued has run and its coroutines have ended; joins the thread.  The caller saw
 * to it that they will, and that nobody queues anything from here on.  Should one not end within some
 * seconds, the thread is left to itself, with a line in the log: the process can still end. */
void iothread_free(IOThread *t);

const char *iothread_id(const IOThread *t);
/* The number that the system has given to the thread. */
pid_t iothread_tid(const IOThread *t);
/* Any thread. */
Loop *iothread_loop(const IOThread *t);

/*
 * The properties that users may give to the object, with their meaning here.
 *
 * aio_max_batch  most requests submitted to the kernel by one call; 0: as many as a turn of the loop brings.
 *
 * The others are accepted and kept, and change nothing.  poll_*: the loops do not busy-wait, which would cost
 * processor time that guests could use; so the default of poll_max_ns is 0 here, not 32768.
 * thread_pool_*: worker threads are shared by all loops, see util/worker.h.
 */
typedef struct IOThreadParams {
    int64_t poll_max_ns, poll_grow, poll_shrink; /* nanoseconds, factor, divisor; >= 0 */
    int64_t aio_max_batch;                       /* >= 0 */
    int64_t thread_pool_min, thread_pool_max;    /* 0 <= min <= max, 1 <= max <= INT_MAX */
} IOThreadParams;

void iothread_params_init(IOThreadParams *ret_params); /* the defaults */
void iothread_get_params(const IOThread *t, IOThreadParams *ret_params);
/* Takes effect at once.  Errors: "<property> value must be in range [0, 9223372036854775807]",
 * "bad thread-pool-min/thread-pool-max values". */
bool iothread_set_params(IOThread *t, const IOThreadParams *params, Error **errp);

#endif

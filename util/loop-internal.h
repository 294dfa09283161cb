/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the kinds of loops share; private to util/.
 *
 * Queues of a loop: `ready` is its own thread's; `remote` and `calls` are filled by anybody under `lock`, with one kick of
 * the loop for as many as come before it looks.  A turn of the loop runs what was in the queues when it began, then timers.
 */
#ifndef UTIL_LOOP_INTERNAL_H
#define UTIL_LOOP_INTERNAL_H

#include "util/loop.h"
#include <glib.h>
#include <pthread.h>
#include <stdatomic.h>

typedef struct LoopOps {
    LoopBackend backend;
    bool (*init)(Loop *l, Error **errp);
    void (*cleanup)(Loop *l);
    /* Wakes the loop's thread out of wait.  Any thread. */
    void (*kick)(Loop *l);
    /* Submits, waits at most timeout_ns (-1: for ever, 0: not at all), queues what completed as ready. */
    void (*wait)(Loop *l, int64_t timeout_ns);
    ssize_t (*preadv)(int fd, const struct iovec *iov, int niov, off_t offset);
    ssize_t (*pwritev)(int fd, const struct iovec *iov, int niov, off_t offset);
    int (*fsync)(int fd, bool data_only);
    int (*fallocate)(int fd, int mode, off_t offset, off_t len);
    int (*ftruncate)(int fd, off_t len);
    int (*poll)(int fd, short events, int64_t timeout_ns);
} LoopOps;

typedef struct CoList {
    Coroutine *head, *tail;
} CoList;

struct Loop {
    const LoopOps *ops;
    void *impl; /* the backend's */
    unsigned slot;
    CoList ready;
    pthread_mutex_t lock; /* innermost */
    CoList remote;
    GQueue calls; /* Call * */
    _Atomic bool kicked;
    GPtrArray *timers; /* Timer *, a heap by deadline */
    bool stop;
};

extern const LoopOps loop_ops_control, loop_ops_uring, loop_ops_poll;

Loop *loop_new(const LoopOps *ops, Error **errp);
void loop_free(Loop *l);
/* The calling thread's loop from here on (NULL: none). */
void loop_enter_thread(Loop *l);
/* Runs an I/O loop until loop_stop() and nothing is queued. */
void loop_run(Loop *l);
void loop_stop(Loop *l); /* any thread */
LoopChoice loop_choice(void);

/* One turn: queues and due timers.  True if something ran. */
bool loop_turn(Loop *l);
bool loop_has_work(Loop *l);
/* Nanoseconds until the first timer; -1: none. */
int64_t loop_timeout(Loop *l);

void loop_queue_coroutine(Loop *l, Coroutine *co);
void coroutine_resume(Coroutine *co);
Coroutine **coroutine_link(Coroutine *co);

/* Blocking calls carried out by a pool's threads (loop-blocking.c). */
ssize_t coroutine_fn blocking_preadv(int fd, const struct iovec *iov, int niov, off_t offset);
ssize_t coroutine_fn blocking_pwritev(int fd, const struct iovec *iov, int niov, off_t offset);
int coroutine_fn blocking_fsync(int fd, bool data_only);
int coroutine_fn blocking_fallocate(int fd, int mode, off_t offset, off_t len);
int coroutine_fn blocking_ftruncate(int fd, off_t len);

#endif

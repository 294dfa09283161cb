/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the kinds of loops share; private to util/.
 *
 * Words
 *  item     something a loop shall do once: resume a coroutine, call a function.
 *  ready    the list of items that only the loop's own thread touches.
 *  remote   where other threads put items: a stack that they push to with one compare-and-swap and
 *           that the loop takes as a whole and turns round, so that items keep their order.
 *  kick     what gets the loop's thread out of its wait for the kernel.
 *
 * Waking a sleeping loop.  The loop says `asleep`, then looks at `remote` once more, then waits; who
 * pushes looks at `asleep` afterwards and kicks when it could take it back.  Both sides are
 * sequentially consistent, so either the loop sees the item or the other sees it asleep; and as many
 * items as come before the loop looks cost one kick.
 *
 * End of life.  Who pushes counts himself in `posters` first, and loop_free() waits until there are
 * none: an item may be the very thing that lets the loop end while its sender has yet to kick.
 */
#ifndef UTIL_LOOP_INTERNAL_H
#define UTIL_LOOP_INTERNAL_H

#include "util/loop.h"
#include <glib.h>
#include <stdatomic.h>

typedef struct LoopItem {
    struct LoopItem *next;
    void (*run)(struct LoopItem *item);
} LoopItem;

typedef struct LoopOps {
    LoopBackend backend;
    /* On the loop's thread, as everything below but kick. */
    bool (*init)(Loop *l, Error **errp);
    void (*cleanup)(Loop *l);
    /* Gets the thread out of wait.  Any thread. */
    void (*kick)(Loop *l);
    /* Submits, waits at most timeout_ns (-1: for ever, 0: not at all), queues what completed.
     * NULL: somebody else's main loop drives this one. */
    void (*wait)(Loop *l, int64_t timeout_ns);
    ssize_t (*preadv)(int fd, const struct iovec *iov, int niov, off_t offset);
    ssize_t (*pwritev)(int fd, const struct iovec *iov, int niov, off_t offset);
    int (*fsync)(int fd, bool data_only);
    int (*fallocate)(int fd, int mode, off_t offset, off_t len);
    int (*ftruncate)(int fd, off_t len);
    int (*poll)(int fd, short events, int64_t timeout_ns);
    /* Receives when there is something; -EAGAIN: try again.  NULL: poll and try again. */
    ssize_t (*recv)(int fd, void *buf, size_t len);
} LoopOps;

typedef struct TimerHeap {
    Timer **at; /* the earliest at index 0; Timer.impl holds the index + 1 */
    size_t len, allocated;
} TimerHeap;

struct Loop {
    /* ---- constant ---- */
    const LoopOps *ops;
    void *impl; /* the backend's */
    unsigned slot;
    bool background;
    /* ---- its own thread ---- */
    LoopItem *ready, **ready_tail;
    TimerHeap timers;
    unsigned coroutines; /* that have begun and not ended */
    bool stop;
    /* ---- any thread ---- */
    _Atomic unsigned max_batch; /* most submissions at once; 0: the backend's choice */
    _Alignas(64) _Atomic(LoopItem *) remote;
    _Atomic bool asleep;
    _Atomic unsigned posters;
};

extern const LoopOps loop_ops_control, loop_ops_uring, loop_ops_epoll;

/* ---- loop.c ---- */

/* On the thread that shall be the loop's; it becomes loop_current() of that thread. */
Loop *loop_new(const LoopOps *ops, Error **errp);
/* The same for an I/O loop, with the backend that the choice and the system allow. */
Loop *loop_new_io(Error **errp);
/* On the same thread; nothing is queued, no coroutine lives. */
void loop_free(Loop *l);
/* Runs an I/O loop until loop_stop() was called, nothing is queued and no coroutine lives. */
void loop_run(Loop *l);
/* Any thread. */
void loop_stop(Loop *l);

/* ---- loop-queue.c ---- */

/* Queues an item; any thread.  It is the caller's again when it runs. */
void loop_post(Loop *l, LoopItem *item);
/* Runs what is queued by now; returns how many items that were. */
unsigned loop_run_ready(Loop *l);
bool loop_has_work(const Loop *l);
/* True: nothing is queued, and who queues something from here on kicks.  loop_awake() ends that. */
bool loop_prepare_sleep(Loop *l);
void loop_awake(Loop *l);

/* ---- loop-timer.c ---- */

/* Nanoseconds until the first timer; 0: due; -1: none. */
int64_t loop_timeout(const Loop *l);
bool loop_run_timers(Loop *l);

/* ---- loop-blocking.c: calls carried out by worker threads ---- */

ssize_t coroutine_fn blocking_preadv(int fd, const struct iovec *iov, int niov, off_t offset);
ssize_t coroutine_fn blocking_pwritev(int fd, const struct iovec *iov, int niov, off_t offset);
int coroutine_fn blocking_fsync(int fd, bool data_only);
int coroutine_fn blocking_fallocate(int fd, int mode, off_t offset, off_t len);
int coroutine_fn blocking_ftruncate(int fd, off_t len);

#endif

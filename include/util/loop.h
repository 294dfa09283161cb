/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Event loops.
 *
 * Two kinds.  The *control loop* is GLib's default main loop on the main thread: monitors, commands, every graph change.
 * An *I/O loop* runs on a thread of its own (util/iothread.h), on io_uring or, where that is forbidden or told so, on epoll
 * with worker threads for file I/O.  Which backend an I/O loop got is decided at run time when it is created.
 *
 * On either, coroutines run; storage and socket calls below suspend the calling coroutine only.  On the control loop they are
 * carried out by the worker threads of pool WORKERS_CONTROL: guest I/O never runs there, but opening an image does.
 *
 * Each loop has a thread slot: a small number, unique among living loops, by which per-thread counters are indexed.
 */
#ifndef UTIL_LOOP_H
#define UTIL_LOOP_H

#include "util/coroutine.h"
#include "util/error.h"
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Loops alive at one time, the control loop included. */
#define LOOP_SLOTS 64

typedef enum LoopBackend { LOOP_CONTROL, LOOP_IO_URING, LOOP_EPOLL } LoopBackend;

/* How new I/O loops choose their backend; also set by the environment variable CUTPOINT_LOOP=io_uring|epoll (tests). */
typedef enum LoopChoice { LOOP_CHOICE_AUTO, LOOP_CHOICE_IO_URING, LOOP_CHOICE_EPOLL } LoopChoice;
void loop_set_choice(LoopChoice choice);

/* Makes the calling thread the control thread and sets up its loop; once, before any other function here. */
void loop_control_init(void);
Loop *loop_control(void);

/* The calling thread's loop; NULL on a thread without (a worker). */
Loop *loop_current(void);
LoopBackend loop_backend(const Loop *loop);
/* What runs on this loop is nobody's who waits for it: storage lets others go first.  Before the first request on it; any thread. */
void loop_set_background(Loop *loop);
bool loop_is_background(const Loop *loop);
/* 0 <= slot < LOOP_SLOTS.  loop_slot_self(): of the calling thread, which must have a loop. */
unsigned loop_slot(const Loop *loop);
unsigned loop_slot_self(void);

/* Calls fn(opaque) on the loop's thread, outside of coroutines, soon.  Any thread.  In order per caller. */
void loop_call(Loop *loop, void (*fn)(void *opaque), void *opaque);

/* True on the thread of `loop`. */
bool loop_is_self(const Loop *loop);

/* ---- time: CLOCK_MONOTONIC, nanoseconds ---- */
int64_t clock_ns(void);
void coroutine_fn co_sleep_ns(int64_t ns);

/* A one-shot timer that calls fn(opaque) on the loop that was current at timer_init(); all calls from that loop's thread. */
typedef struct Timer {
    Loop *loop;
    void (*fn)(void *opaque);
    void *opaque;
    int64_t deadline; /* clock_ns() value; -1: not armed */
    void *impl;       /* the loop's own */
} Timer;
void timer_init(Timer *t, void (*fn)(void *opaque), void *opaque);
void timer_arm(Timer *t, int64_t deadline_ns); /* re-arms when armed */
void timer_cancel(Timer *t);

/* ---- storage: all return a byte count or 0, or a negative errno; EINTR is handled; suspend the calling coroutine.
 * Buffers, iovecs and descriptors must live until they return.  Short transfers are returned as such. ---- */
ssize_t coroutine_fn co_preadv(int fd, const struct iovec *iov, int niov, off_t offset);
ssize_t coroutine_fn co_pwritev(int fd, const struct iovec *iov, int niov, off_t offset);
int coroutine_fn co_fdatasync(int fd);
int coroutine_fn co_fsync(int fd);
/* mode: as fallocate(2). */
int coroutine_fn co_fallocate(int fd, int mode, off_t offset, off_t len);
int coroutine_fn co_ftruncate(int fd, off_t len);

/* ---- sockets: descriptors must be non-blocking.  Return bytes, 0 at end of file (recv), or a negative errno.  Tried at
 * once; the coroutine is suspended only when the call would block.  shutdown(2) by anybody makes them return. ---- */
ssize_t coroutine_fn co_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t coroutine_fn co_recv(int fd, void *buf, size_t len);
ssize_t coroutine_fn co_sendmsg(int fd, const struct msghdr *msg, int flags);
/* Sends all of it (advances iov: its contents are changed).  0 or a negative errno. */
int coroutine_fn co_send_all(int fd, struct iovec *iov, int niov);
/* Waits until poll(2) `events` hold on fd or timeout_ns passed (-1: for ever); returns the events, 0 at the timeout, or
 * a negative errno. */
int coroutine_fn co_poll(int fd, short events, int64_t timeout_ns);

#endif

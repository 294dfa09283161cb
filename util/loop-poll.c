/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * I/O loop on poll(2), with worker threads for storage: for machines where io_uring is forbidden.
 *
 * Who waits for a descriptor is in one array, next to the array that poll takes; both belong to the loop's thread.
 */
#include "loop-internal.h"
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef struct PollWait {
    Coroutine *co;
    guint index; /* in fds; fds[0] is the kick */
    int ret;
    bool waiting;
    Timer timer;
} PollWait;

typedef struct PollLoop {
    int kick_fd;
    GArray *fds;      /* struct pollfd */
    GPtrArray *waits; /* PollWait *, same indices; NULL for the kick */
} PollLoop;

static bool poll_init(Loop *l, Error **errp)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    PollLoop *pl;

    if (fd < 0) {
        error_set_errno(errp, errno, NULL, "iothread", "Could not create an event descriptor");
        return false;
    }
    pl = g_new0(PollLoop, 1);
    pl->kick_fd = fd;
    pl->fds = g_array_new(false, false, sizeof(struct pollfd));
    pl->waits = g_ptr_array_new();
    g_array_append_val(pl->fds, p);
    g_ptr_array_add(pl->waits, NULL);
    l->impl = pl;
    return true;
}

static void poll_cleanup(Loop *l)
{
    PollLoop *pl = l->impl;

    close(pl->kick_fd);
    g_array_free(pl->fds, true);
    g_ptr_array_free(pl->waits, true);
    g_free(pl);
}

static void poll_kick(Loop *l)
{
    eventfd_write(((PollLoop *)l->impl)->kick_fd, 1);
}

static void wait_over(PollLoop *pl, PollWait *w, int ret)
{
    guint last = pl->fds->len - 1;

    if (!w->waiting) {
        return;
    }
    w->waiting = false;
    w->ret = ret;
    if (w->index != last) {
        PollWait *moved = g_ptr_array_index(pl->waits, last);

        g_array_index(pl->fds, struct pollfd, w->index) = g_array_index(pl->fds, struct pollfd, last);
        g_ptr_array_index(pl->waits, w->index) = moved;
        moved->index = w->index;
    }
    g_array_set_size(pl->fds, last);
    g_ptr_array_set_size(pl->waits, last);
    co_wake(w->co);
}

static void poll_wait(Loop *l, int64_t timeout_ns)
{
    PollLoop *pl = l->impl;
    struct timespec ts = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    struct pollfd *fds = (struct pollfd *)(void *)pl->fds->data;
    eventfd_t unused;

    if (ppoll(fds, pl->fds->len, timeout_ns < 0 ? NULL : &ts, NULL) <= 0) {
        return;
    }
    if (fds[0].revents) {
        eventfd_read(pl->kick_fd, &unused);
    }
    for (guint i = pl->fds->len; i-- > 1;) {
        short revents = fds[i].revents;

        if (revents) {
            wait_over(pl, g_ptr_array_index(pl->waits, i), revents & POLLNVAL ? -EBADF : revents);
        }
    }
}

static void poll_timeout(void *opaque)
{
    wait_over(loop_current()->impl, opaque, 0);
}

static int coroutine_fn poll_poll(int fd, short events, int64_t timeout_ns)
{
    PollLoop *pl = loop_current()->impl;
    PollWait w = {.co = co_self(), .index = pl->fds->len, .waiting = true};
    struct pollfd p = {.fd = fd, .events = events};

    g_array_append_val(pl->fds, p);
    g_ptr_array_add(pl->waits, &w);
    timer_init(&w.timer, poll_timeout, &w);
    if (timeout_ns >= 0) {
        timer_arm(&w.timer, clock_ns() + timeout_ns);
    }
    co_yield();
    timer_cancel(&w.timer);
    return w.ret;
}

const LoopOps loop_ops_poll = {
    .backend = LOOP_POLL,
    .init = poll_init,
    .cleanup = poll_cleanup,
    .kick = poll_kick,
    .wait = poll_wait,
    .preadv = blocking_preadv,
    .pwritev = blocking_pwritev,
    .fsync = blocking_fsync,
    .fallocate = blocking_fallocate,
    .ftruncate = blocking_ftruncate,
    .poll = poll_poll,
};

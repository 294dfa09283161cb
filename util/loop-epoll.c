/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * I/O loop on epoll(7), with worker threads for storage: for machines where io_uring is forbidden.
 *
 * Several coroutines may wait for one descriptor (a reader and a writer), but epoll knows a descriptor
 * once.  So each has a Watch with a list of Waits.  Registrations are one-shot: one that fired or whose waits
 * timed out is silent until it is armed again, and arming finds out by itself whether the descriptor is still
 * the one that was registered (it may have been closed and its number used again).
 */
#include "loop-internal.h"
#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS_PER_TURN 128

typedef struct Wait {
    struct Wait *next, **link; /* link: what points to this one */
    Coroutine *co;
    struct Watch *watch;
    short events;
    int ret;
    Timer timer;
} Wait;

typedef struct Watch {
    int fd;
    Wait *waits;
    short events; /* what the waits wait for; what one that timed out did, until the next event */
} Watch;

typedef struct EpollLoop {
    int epoll_fd, kick_fd;
    GHashTable *watches; /* of Watch, by descriptor; kept once made */
    bool no_pwait2;      /* old kernels wait in milliseconds */
} EpollLoop;

static EpollLoop *self(void)
{
    return loop_current()->impl;
}

static bool epoll_init(Loop *l, Error **errp)
{
    EpollLoop *e = g_new0(EpollLoop, 1);
    /* Edge-triggered: every kick is an event, and nobody needs to read the counter. */
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET};

    e->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    e->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (e->epoll_fd < 0 || e->kick_fd < 0 ||
        epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, e->kick_fd, &ev) < 0) {
        error_set_errno(errp, errno, NULL, "iothread", "Could not create an event descriptor");
        if (e->epoll_fd >= 0) {
            close(e->epoll_fd);
        }
        if (e->kick_fd >= 0) {
            close(e->kick_fd);
        }
        g_free(e);
        return false;
    }
    e->watches = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    l->impl = e;
    return true;
}

static void epoll_cleanup(Loop *l)
{
    EpollLoop *e = l->impl;

    g_hash_table_destroy(e->watches);
    close(e->kick_fd);
    close(e->epoll_fd);
    g_free(e);
}

static void epoll_kick(Loop *l)
{
    EpollLoop *e = l->impl;

    eventfd_write(e->kick_fd, 1);
}

/* ---- watches ---- */

static Watch *get_watch(EpollLoop *e, int fd)
{
    Watch *w = g_hash_table_lookup(e->watches, GINT_TO_POINTER(fd));

    if (!w) {
        w = g_new0(Watch, 1);
        w->fd = fd;
        g_hash_table_insert(e->watches, GINT_TO_POINTER(fd), w);
    }
    return w;
}

static void add_wait(Watch *w, Wait *wait)
{
    wait->next = w->waits;
    wait->link = &w->waits;
    if (w->waits) {
        w->waits->link = &wait->next;
    } else {
        w->events = 0;
    }
    w->waits = wait;
    w->events |= wait->events;
}

static void remove_wait(Wait *wait)
{
    *wait->link = wait->next;
    if (wait->next) {
        wait->next->link = wait->link;
    }
}

/* Registers what w's waits wait for.  0 or a negative errno; -EPERM: files of this kind are always
 * ready. */
static int arm(EpollLoop *e, Watch *w)
{
    struct epoll_event ev = {.events = EPOLLONESHOT | (unsigned short)w->events, .data.ptr = w};

    if (epoll_ctl(e->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev) == 0) {
        return 0;
    }
    if (errno == ENOENT && epoll_ctl(e->epoll_fd, EPOLL_CTL_ADD, w->fd, &ev) == 0) {
        return 0;
    }
    return -errno;
}

/* Takes `wait` out of its watch's list and lets its coroutine go on. */
static void finish(Wait *wait, int ret)
{
    remove_wait(wait);
    wait->ret = ret;
    timer_cancel(&wait->timer);
    co_wake(wait->co);
}

static void fired(EpollLoop *e, Watch *w, uint32_t events)
{
    Wait *next;

    w->events = 0;
    for (Wait *i = w->waits; i; i = next) {
        /* Errors and hang-ups are for everybody, as with poll(2). */
        short got = events & ((unsigned short)i->events | EPOLLERR | EPOLLHUP);

        next = i->next;
        if (got) {
            finish(i, got);
        } else {
            w->events |= i->events;
        }
    }
    if (w->waits) {
        int ret = arm(e, w);

        while (ret < 0 && w->waits) {
            finish(w->waits, ret);
        }
    }
}

static int wait_for_events(EpollLoop *e, struct epoll_event *events, int64_t timeout_ns)
{
    if (timeout_ns > 0 && !e->no_pwait2) {
        struct timespec ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};
        int n = epoll_pwait2(e->epoll_fd, events, EVENTS_PER_TURN, &ts, NULL);

        if (n >= 0 || errno != ENOSYS) {
            return n;
        }
        e->no_pwait2 = true;
    }
    if (timeout_ns > 0) {
        timeout_ns = MIN((timeout_ns + 999999) / 1000000, G_MAXINT);
    }
    return epoll_wait(e->epoll_fd, events, EVENTS_PER_TURN, timeout_ns);
}

static void epoll_wait_turn(Loop *l, int64_t timeout_ns)
{
    EpollLoop *e = l->impl;
    struct epoll_event events[EVENTS_PER_TURN];
    int n = wait_for_events(e, events, timeout_ns);

    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr) {
            fired(e, events[i].data.ptr, events[i].events);
        }
    }
}

static void timed_out(void *opaque)
{
    finish(opaque, 0); /* the registration fires into the void at worst */
}

static int coroutine_fn epoll_poll(int fd, short events, int64_t timeout_ns)
{
    EpollLoop *e = self();
    Wait wait = {.co = co_self(), .watch = get_watch(e, fd), .events = events};
    int ret;

    add_wait(wait.watch, &wait);
    ret = arm(e, wait.watch);
    if (ret < 0) {
        remove_wait(&wait);
        return ret == -EPERM ? events & (POLLIN | POLLOUT) : ret;
    }
    timer_init(&wait.timer, timed_out, &wait);
    if (timeout_ns >= 0) {
        timer_arm(&wait.timer, clock_ns() + MIN(timeout_ns, INT64_MAX / 2));
    }
    co_yield();
    return wait.ret;
}

const LoopOps loop_ops_epoll = {
    .backend = LOOP_EPOLL,
    .init = epoll_init,
    .cleanup = epoll_cleanup,
    .kick = epoll_kick,
    .wait = epoll_wait_turn,
    .preadv = blocking_preadv,
    .pwritev = blocking_pwritev,
    .fsync = blocking_fsync,
    .fallocate = blocking_fallocate,
    .ftruncate = blocking_ftruncate,
    .poll = epoll_poll,
};

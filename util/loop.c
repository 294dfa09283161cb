/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Loops: making, running and ending them, thread slots, and the calls that go to the backend.
 *
 * Lock: slots_lock, innermost, protects the slots.
 */
#include "loop-internal.h"
#include "util/log.h"
#include "util/rcu.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* Items run before the kernel is asked again: long enough to collect submissions, short enough that
 * coroutines that keep each other ready do not shut out completions. */
#define ITEMS_PER_TURN 256

static __thread Loop *current;
static Loop *control;
static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;
static bool slots[LOOP_SLOTS];
static _Atomic LoopChoice choice = LOOP_CHOICE_AUTO;

void loop_set_choice(LoopChoice c)
{
    choice = c;
}

static LoopChoice effective_choice(void)
{
    const char *env = g_getenv("CUTPOINT_LOOP");

    if (!env || !*env) {
        return choice;
    }
    if (strcmp(env, "io_uring") == 0) {
        return LOOP_CHOICE_IO_URING;
    }
    if (strcmp(env, "epoll") == 0) {
        return LOOP_CHOICE_EPOLL;
    }
    log_warn("CUTPOINT_LOOP is neither 'io_uring' nor 'epoll': ignored");
    return choice;
}

/* ---- birth and death ---- */

static bool take_slot(unsigned *ret_slot)
{
    bool found = false;

    pthread_mutex_lock(&slots_lock);
    for (unsigned i = 0; i < LOOP_SLOTS && !found; i++) {
        if (!slots[i]) {
            slots[i] = found = true;
            *ret_slot = i;
        }
    }
    pthread_mutex_unlock(&slots_lock);
    return found;
}

static void give_slot(unsigned slot)
{
    pthread_mutex_lock(&slots_lock);
    slots[slot] = false;
    pthread_mutex_unlock(&slots_lock);
}

Loop *loop_new(const LoopOps *ops, Error **errp)
{
    unsigned slot;
    Loop *l;

    g_assert(!current);
    if (!take_slot(&slot)) {
        error_set(errp, ERROR_LIMIT, NULL, "iothread",
                  "Too many I/O threads: at most %d are supported", LOOP_SLOTS - 1);
        return NULL;
    }
    if (posix_memalign((void **)&l, 64, sizeof(*l))) {
        g_error("out of memory");
    }
    memset(l, 0, sizeof(*l));
    l->ops = ops;
    l->slot = slot;
    l->ready_tail = &l->ready;
    if (!ops->init(l, errp)) {
        give_slot(slot);
        free(l);
        return NULL;
    }
    current = l;
    rcu_thread_register();
    return l;
}

Loop *loop_new_io(Error **errp)
{
    LoopChoice c = effective_choice();
    g_autoptr(Error) err = NULL;
    Loop *l;

    if (c == LOOP_CHOICE_EPOLL) {
        return loop_new(&loop_ops_epoll, errp);
    }
    l = loop_new(&loop_ops_uring, &err);
    if (!l && c == LOOP_CHOICE_AUTO && err->kind != ERROR_LIMIT) {
        static atomic_flag told = ATOMIC_FLAG_INIT;

        if (!atomic_flag_test_and_set(&told)) {
            log_info("%s; using epoll and worker threads", err->message);
        }
        return loop_new(&loop_ops_epoll, errp);
    }
    error_move(errp, &err);
    return l;
}

void loop_free(Loop *l)
{
    g_assert(l == current && !loop_has_work(l) && l->coroutines == 0);
    while (atomic_load_explicit(&l->posters, memory_order_acquire) > 0) {
        sched_yield(); /* between its push and the end of its kick: a moment */
    }
    l->ops->cleanup(l);
    co_pool_drain();
    rcu_thread_unregister();
    current = NULL;
    give_slot(l->slot);
    free(l->timers.at);
    free(l);
}

void loop_control_init(void)
{
    g_autoptr(Error) err = NULL;

    g_assert(!control);
    control = loop_new(&loop_ops_control, &err);
    g_assert(control);
}

Loop *loop_control(void)
{
    return control;
}

Loop *loop_current(void)
{
    return current;
}

void loop_set_background(Loop *loop)
{
    loop->background = true;
}

bool loop_is_background(const Loop *loop)
{
    return loop->background;
}

LoopBackend loop_backend(const Loop *loop)
{
    return loop->ops->backend;
}

unsigned loop_slot(const Loop *loop)
{
    return loop->slot;
}

unsigned loop_slot_self(void)
{
    return current->slot;
}

bool loop_is_self(const Loop *loop)
{
    return loop == current;
}

/* ---- running ---- */

void loop_run(Loop *l)
{
    for (;;) {
        int64_t timeout = 0;
        unsigned ran = 0;

        do {
            ran += loop_run_ready(l);
        } while (ran < ITEMS_PER_TURN && loop_has_work(l));
        loop_run_timers(l);
        if (loop_prepare_sleep(l)) {
            if (l->stop && l->coroutines == 0) {
                loop_awake(l);
                return;
            }
            timeout = loop_timeout(l);
        }
        l->ops->wait(l, timeout);
        loop_awake(l);
    }
}

static void set_stop(void *opaque)
{
    ((Loop *)opaque)->stop = true;
}

void loop_stop(Loop *l)
{
    loop_call(l, set_stop, l);
}

/* ---- calls to the backend ---- */

ssize_t coroutine_fn co_preadv(int fd, const struct iovec *iov, int niov, off_t offset)
{
    ssize_t ret;

    if (offset < 0) {
        return -EINVAL; /* io_uring would take it for the file's own position */
    }
    do {
        ret = current->ops->preadv(fd, iov, niov, offset);
    } while (ret == -EINTR);
    return ret;
}

ssize_t coroutine_fn co_pwritev(int fd, const struct iovec *iov, int niov, off_t offset)
{
    ssize_t ret;

    if (offset < 0) {
        return -EINVAL; /* io_uring would take it for the file's own position */
    }
    do {
        ret = current->ops->pwritev(fd, iov, niov, offset);
    } while (ret == -EINTR);
    return ret;
}

/* A sync that a signal interrupted has not said whether there was an error: asking again is right,
 * since the error is reported then. */
static int coroutine_fn sync_fd(int fd, bool data_only)
{
    int ret;

    do {
        ret = current->ops->fsync(fd, data_only);
    } while (ret == -EINTR);
    return ret;
}

int coroutine_fn co_fdatasync(int fd)
{
    return sync_fd(fd, true);
}

int coroutine_fn co_fsync(int fd)
{
    return sync_fd(fd, false);
}

int coroutine_fn co_fallocate(int fd, int mode, off_t offset, off_t len)
{
    int ret;

    do {
        ret = current->ops->fallocate(fd, mode, offset, len);
    } while (ret == -EINTR);
    return ret;
}

int coroutine_fn co_ftruncate(int fd, off_t len)
{
    int ret;

    do {
        ret = current->ops->ftruncate(fd, len);
    } while (ret == -EINTR);
    return ret;
}

int coroutine_fn co_poll(int fd, short events, int64_t timeout_ns)
{
    int ret = 0;

    if (timeout_ns != 0) {
        do {
            ret = current->ops->poll(fd, events, timeout_ns);
        } while (ret == -EINTR && timeout_ns < 0);
    }
    if (ret == 0) {
        /* Time may have passed before anybody looked. */
        struct pollfd p = {.fd = fd, .events = events};

        ret = poll(&p, 1, 0);
        if (ret > 0) {
            ret = p.revents & POLLNVAL ? -EBADF : p.revents;
        } else if (ret < 0) {
            ret = -errno;
        }
    }
    return ret;
}

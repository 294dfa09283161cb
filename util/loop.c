/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What all loops have in common: slots, queues, timers, and the calls that go to the backend.
 */
#include "loop-internal.h"
#include "util/rcu.h"
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct Call {
    void (*fn)(void *opaque);
    void *opaque;
} Call;

static __thread Loop *current;
static Loop *control;
static pthread_mutex_t slots_lock = PTHREAD_MUTEX_INITIALIZER;
static bool slots[LOOP_SLOTS];
static LoopChoice choice = LOOP_CHOICE_AUTO;

void loop_set_choice(LoopChoice c)
{
    choice = c;
}

LoopChoice loop_choice(void)
{
    const char *env = g_getenv("CUTPOINT_LOOP");

    if (g_strcmp0(env, "io_uring") == 0) {
        return LOOP_CHOICE_IO_URING;
    }
    return g_strcmp0(env, "poll") == 0 ? LOOP_CHOICE_POLL : choice;
}

Loop *loop_new(const LoopOps *ops, Error **errp)
{
    Loop *l = g_new0(Loop, 1);
    unsigned slot = 0;

    pthread_mutex_lock(&slots_lock);
    while (slot < LOOP_SLOTS && slots[slot]) {
        slot++;
    }
    if (slot < LOOP_SLOTS) {
        slots[slot] = true;
    }
    pthread_mutex_unlock(&slots_lock);
    if (slot == LOOP_SLOTS) {
        error_set(errp, ERROR_LIMIT, NULL, "iothread", "Too many I/O threads: at most %d are supported", LOOP_SLOTS - 1);
        g_free(l);
        return NULL;
    }
    l->ops = ops;
    l->slot = slot;
    l->timers = g_ptr_array_new();
    g_queue_init(&l->calls);
    pthread_mutex_init(&l->lock, NULL);
    if (!ops->init(l, errp)) {
        l->impl = NULL;
        loop_free(l);
        return NULL;
    }
    return l;
}

void loop_free(Loop *l)
{
    if (l->impl) {
        l->ops->cleanup(l);
    }
    pthread_mutex_lock(&slots_lock);
    slots[l->slot] = false;
    pthread_mutex_unlock(&slots_lock);
    g_ptr_array_free(l->timers, true);
    pthread_mutex_destroy(&l->lock);
    g_free(l);
}

void loop_enter_thread(Loop *l)
{
    current = l;
    if (l) {
        rcu_thread_register();
    } else {
        co_pool_drain();
        rcu_thread_unregister();
    }
}

void loop_control_init(void)
{
    g_autoptr(Error) err = NULL;

    g_assert(!control);
    control = loop_new(&loop_ops_control, &err);
    g_assert(control);
    loop_enter_thread(control);
}

Loop *loop_control(void)
{
    return control;
}

Loop *loop_current(void)
{
    return current;
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

/* ---- queues ---- */

static void list_add(CoList *list, Coroutine *co)
{
    *coroutine_link(co) = NULL;
    if (list->tail) {
        *coroutine_link(list->tail) = co;
    } else {
        list->head = co;
    }
    list->tail = co;
}

static void kick(Loop *l)
{
    if (!atomic_exchange_explicit(&l->kicked, true, memory_order_acq_rel)) {
        l->ops->kick(l);
    }
}

void loop_queue_coroutine(Loop *l, Coroutine *co)
{
    if (l == current) {
        list_add(&l->ready, co);
        return;
    }
    pthread_mutex_lock(&l->lock);
    list_add(&l->remote, co);
    /* Under the lock: a loop that ends when its queues are empty is not freed before we have let go of it. */
    kick(l);
    pthread_mutex_unlock(&l->lock);
}

void loop_call(Loop *loop, void (*fn)(void *opaque), void *opaque)
{
    Call *c = g_new(Call, 1);

    *c = (Call){fn, opaque};
    pthread_mutex_lock(&loop->lock);
    g_queue_push_tail(&loop->calls, c);
    kick(loop);
    pthread_mutex_unlock(&loop->lock);
}

typedef struct Spawn {
    CoroutineFn *fn;
    void *opaque;
} Spawn;

static void spawn(void *opaque)
{
    Spawn s = *(Spawn *)opaque;

    g_free(opaque);
    co_start(s.fn, s.opaque);
}

void co_spawn(Loop *loop, CoroutineFn *fn, void *opaque)
{
    Spawn *s = g_new(Spawn, 1);

    *s = (Spawn){fn, opaque};
    loop_call(loop, spawn, s);
}

void loop_stop(Loop *l)
{
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    kick(l);
    pthread_mutex_unlock(&l->lock);
}

bool loop_has_work(Loop *l)
{
    bool work;

    if (l->ready.head) {
        return true;
    }
    if (!atomic_load_explicit(&l->kicked, memory_order_acquire)) {
        return false;
    }
    pthread_mutex_lock(&l->lock);
    work = l->remote.head || !g_queue_is_empty(&l->calls);
    pthread_mutex_unlock(&l->lock);
    return work;
}

static bool run_queues(Loop *l)
{
    GQueue calls = G_QUEUE_INIT;
    CoList ready = l->ready;
    Coroutine *co;
    bool ran = ready.head;
    Call *c;

    l->ready = (CoList){0};
    if (atomic_exchange_explicit(&l->kicked, false, memory_order_acq_rel)) {
        pthread_mutex_lock(&l->lock);
        calls = l->calls;
        g_queue_init(&l->calls);
        if (l->remote.head) {
            if (ready.tail) {
                *coroutine_link(ready.tail) = l->remote.head;
            } else {
                ready.head = l->remote.head;
            }
            ready.tail = l->remote.tail;
            l->remote = (CoList){0};
        }
        pthread_mutex_unlock(&l->lock);
    }
    while ((c = g_queue_pop_head(&calls))) {
        c->fn(c->opaque);
        g_free(c);
        ran = true;
    }
    while ((co = ready.head)) {
        ready.head = *coroutine_link(co);
        coroutine_resume(co);
        ran = true;
    }
    return ran;
}

/* ---- timers: a binary heap, the earliest at index 0; impl holds the index + 1 ---- */

int64_t clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static Timer *heap_at(Loop *l, guint i)
{
    return g_ptr_array_index(l->timers, i);
}

static void heap_put(Loop *l, guint i, Timer *t)
{
    g_ptr_array_index(l->timers, i) = t;
    t->impl = GSIZE_TO_POINTER(i + 1);
}

static void heap_up(Loop *l, guint i)
{
    Timer *t = heap_at(l, i);

    while (i > 0 && heap_at(l, (i - 1) / 2)->deadline > t->deadline) {
        heap_put(l, i, heap_at(l, (i - 1) / 2));
        i = (i - 1) / 2;
    }
    heap_put(l, i, t);
}

static void heap_down(Loop *l, guint i)
{
    guint n = l->timers->len;
    Timer *t = heap_at(l, i);

    for (;;) {
        guint child = 2 * i + 1;

        if (child + 1 < n && heap_at(l, child + 1)->deadline < heap_at(l, child)->deadline) {
            child++;
        }
        if (child >= n || heap_at(l, child)->deadline >= t->deadline) {
            break;
        }
        heap_put(l, i, heap_at(l, child));
        i = child;
    }
    heap_put(l, i, t);
}

void timer_init(Timer *t, void (*fn)(void *opaque), void *opaque)
{
    *t = (Timer){.loop = current, .fn = fn, .opaque = opaque, .deadline = -1};
}

void timer_cancel(Timer *t)
{
    Loop *l = t->loop;
    guint i;

    if (t->deadline < 0) {
        return;
    }
    i = GPOINTER_TO_SIZE(t->impl) - 1;
    t->deadline = -1;
    t->impl = NULL;
    if (i == l->timers->len - 1) {
        g_ptr_array_set_size(l->timers, i);
        return;
    }
    heap_put(l, i, heap_at(l, l->timers->len - 1));
    g_ptr_array_set_size(l->timers, l->timers->len - 1);
    heap_up(l, i);
    heap_down(l, i);
}

void timer_arm(Timer *t, int64_t deadline_ns)
{
    g_assert(t->loop == current);
    timer_cancel(t);
    t->deadline = MAX(deadline_ns, 0);
    g_ptr_array_add(t->loop->timers, t);
    heap_up(t->loop, t->loop->timers->len - 1);
}

int64_t loop_timeout(Loop *l)
{
    int64_t left;

    if (l->timers->len == 0) {
        return -1;
    }
    left = heap_at(l, 0)->deadline - clock_ns();
    return MAX(left, 0);
}

static bool run_timers(Loop *l)
{
    int64_t now;
    bool ran = false;

    if (l->timers->len == 0) {
        return false;
    }
    now = clock_ns();
    while (l->timers->len > 0 && heap_at(l, 0)->deadline <= now) {
        Timer *t = heap_at(l, 0);

        timer_cancel(t);
        t->fn(t->opaque);
        ran = true;
    }
    return ran;
}

bool loop_turn(Loop *l)
{
    bool ran = run_queues(l);

    return run_timers(l) || ran;
}

void loop_run(Loop *l)
{
    for (;;) {
        loop_turn(l);
        if (loop_has_work(l)) {
            l->ops->wait(l, 0);
            continue;
        }
        pthread_mutex_lock(&l->lock);
        if (l->stop && !l->remote.head && g_queue_is_empty(&l->calls)) {
            pthread_mutex_unlock(&l->lock);
            return;
        }
        pthread_mutex_unlock(&l->lock);
        l->ops->wait(l, loop_timeout(l));
    }
}

static void wake_sleeper(void *opaque)
{
    co_wake(opaque);
}

void coroutine_fn co_sleep_ns(int64_t ns)
{
    Timer t;

    timer_init(&t, wake_sleeper, co_self());
    timer_arm(&t, clock_ns() + MAX(ns, 0));
    co_yield();
}

/* ---- calls to the backend ---- */

ssize_t coroutine_fn co_preadv(int fd, const struct iovec *iov, int niov, off_t offset)
{
    ssize_t ret;

    do {
        ret = current->ops->preadv(fd, iov, niov, offset);
    } while (ret == -EINTR);
    return ret;
}

ssize_t coroutine_fn co_pwritev(int fd, const struct iovec *iov, int niov, off_t offset)
{
    ssize_t ret;

    do {
        ret = current->ops->pwritev(fd, iov, niov, offset);
    } while (ret == -EINTR);
    return ret;
}

int coroutine_fn co_fdatasync(int fd)
{
    return current->ops->fsync(fd, true);
}

int coroutine_fn co_fsync(int fd)
{
    return current->ops->fsync(fd, false);
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
    return current->ops->ftruncate(fd, len);
}

int coroutine_fn co_poll(int fd, short events, int64_t timeout_ns)
{
    return current->ops->poll(fd, events, timeout_ns);
}

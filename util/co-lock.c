/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Locks for coroutines of any thread.
 *
 * Hand-over: who releases a lock gives it to the first waiter before waking it; the waiter owns it when it
 * runs.  A waiter's record is on its own stack and is not touched after co_wake().  Nor is the lock: whoever
 * gets it may free it, so wake-ups come after the guard was let go.  (CoQueue's guard is the caller's.)
 */
#include "util/co-lock.h"
#include "util/loop.h"

struct CoWaiter {
    Coroutine *co;
    CoWaiter *next;
    bool writer;
};

static void list_add(CoWaitList *l, CoWaiter *w)
{
    w->next = NULL;
    if (l->tail) {
        l->tail->next = w;
    } else {
        l->head = w;
    }
    l->tail = w;
}

static CoWaiter *list_take(CoWaitList *l)
{
    CoWaiter *w = l->head;

    if (w) {
        l->head = w->next;
        if (!l->head) {
            l->tail = NULL;
        }
    }
    return w;
}

/* ---- CoMutex ---- */

/*
 * `state` says FREE, LOCKED or CONTENDED (locked, and somebody is in the list of waiters or about to be).
 * Taking a free lock and releasing one that nobody waits for is one compare-and-swap; the rest happens
 * under the guard, where alone CONTENDED is entered and left.  A lock with waiters is never FREE, so nobody
 * overtakes them.
 */
enum { FREE, LOCKED, CONTENDED };

void co_mutex_init(CoMutex *m)
{
    *m = (CoMutex){.state = FREE, .guard = PTHREAD_MUTEX_INITIALIZER};
}

void co_mutex_destroy(CoMutex *m)
{
    g_assert(atomic_load(&m->state) == FREE);
    pthread_mutex_destroy(&m->guard);
}

static bool move_state(CoMutex *m, unsigned from, unsigned to)
{
    return atomic_compare_exchange_strong_explicit(&m->state, &from, to, memory_order_acq_rel,
                                                   memory_order_acquire);
}

bool co_mutex_trylock(CoMutex *m)
{
    return move_state(m, FREE, LOCKED);
}

void coroutine_fn co_mutex_lock(CoMutex *m)
{
    CoWaiter w = {.co = co_self()};

    if (move_state(m, FREE, LOCKED)) {
        return;
    }
    g_assert(w.co);
    pthread_mutex_lock(&m->guard);
    while (atomic_load_explicit(&m->state, memory_order_relaxed) != CONTENDED) {
        if (move_state(m, FREE, LOCKED)) {
            pthread_mutex_unlock(&m->guard);
            return;
        }
        if (move_state(m, LOCKED, CONTENDED)) {
            break;
        }
    }
    list_add(&m->waiters, &w);
    pthread_mutex_unlock(&m->guard);
    co_yield();
}

void co_mutex_unlock(CoMutex *m)
{
    CoWaiter *w;

    if (move_state(m, LOCKED, FREE)) {
        return;
    }
    pthread_mutex_lock(&m->guard);
    g_assert(atomic_load_explicit(&m->state, memory_order_relaxed) == CONTENDED);
    w = list_take(&m->waiters);
    if (!m->waiters.head) {
        atomic_store_explicit(&m->state, LOCKED, memory_order_relaxed); /* by w */
    }
    pthread_mutex_unlock(&m->guard);
    co_wake(w->co);
}

/* ---- CoRwlock ---- */

void co_rwlock_init(CoRwlock *l)
{
    *l = (CoRwlock){.guard = PTHREAD_MUTEX_INITIALIZER};
}

void co_rwlock_destroy(CoRwlock *l)
{
    g_assert(l->readers == 0);
    pthread_mutex_destroy(&l->guard);
}

static void coroutine_fn rw_wait(CoRwlock *l, bool writer)
{
    CoWaiter w = {.co = co_self(), .writer = writer};

    list_add(&l->waiters, &w);
    pthread_mutex_unlock(&l->guard);
    co_yield();
}

void coroutine_fn co_rwlock_rdlock(CoRwlock *l)
{
    pthread_mutex_lock(&l->guard);
    if (l->readers < 0 || l->waiters.head) {
        rw_wait(l, false);
        return;
    }
    l->readers++;
    pthread_mutex_unlock(&l->guard);
}

void coroutine_fn co_rwlock_wrlock(CoRwlock *l)
{
    pthread_mutex_lock(&l->guard);
    if (l->readers != 0) {
        rw_wait(l, true);
        return;
    }
    l->readers = -1;
    pthread_mutex_unlock(&l->guard);
}

/* Lets in whoever may come in now.  The guard is held; the caller wakes the list when it is not. */
static CoWaitList rw_admit(CoRwlock *l)
{
    CoWaitList admitted = {0};

    while (l->waiters.head && l->readers >= 0) {
        if (l->waiters.head->writer) {
            if (l->readers == 0) {
                l->readers = -1;
                list_add(&admitted, list_take(&l->waiters));
            }
            break;
        }
        l->readers++;
        list_add(&admitted, list_take(&l->waiters));
    }
    return admitted;
}

static void wake_list(CoWaitList l)
{
    CoWaiter *w;

    while ((w = list_take(&l))) {
        co_wake(w->co);
    }
}

void co_rwlock_unlock(CoRwlock *l)
{
    CoWaitList admitted;

    pthread_mutex_lock(&l->guard);
    g_assert(l->readers != 0);
    l->readers = l->readers < 0 ? 0 : l->readers - 1;
    admitted = rw_admit(l);
    pthread_mutex_unlock(&l->guard);
    wake_list(admitted);
}

void co_rwlock_downgrade(CoRwlock *l)
{
    CoWaitList admitted;

    pthread_mutex_lock(&l->guard);
    g_assert(l->readers == -1);
    l->readers = 1;
    admitted = rw_admit(l);
    pthread_mutex_unlock(&l->guard);
    wake_list(admitted);
}

/* ---- CoQueue ---- */

void co_queue_init(CoQueue *q)
{
    *q = (CoQueue){0};
}

void coroutine_fn co_queue_wait(CoQueue *q, pthread_mutex_t *held)
{
    CoWaiter w = {.co = co_self()};

    list_add(&q->waiters, &w);
    pthread_mutex_unlock(held);
    co_yield();
    pthread_mutex_lock(held);
}

bool co_queue_wake_one(CoQueue *q)
{
    CoWaiter *w = list_take(&q->waiters);

    if (w) {
        co_wake(w->co);
    }
    return w;
}

bool co_queue_wake_all(CoQueue *q)
{
    bool any = q->waiters.head;

    while (co_queue_wake_one(q)) {
    }
    return any;
}

/* ---- CoGroup ---- */

void co_group_init(CoGroup *g)
{
    *g = (CoGroup){.guard = PTHREAD_MUTEX_INITIALIZER};
}

void co_group_destroy(CoGroup *g)
{
    g_assert(g->running == 0);
    pthread_mutex_destroy(&g->guard);
}

void co_group_add(CoGroup *g, unsigned n)
{
    pthread_mutex_lock(&g->guard);
    g->running += n;
    pthread_mutex_unlock(&g->guard);
}

void co_group_done(CoGroup *g)
{
    Coroutine *waiter = NULL;

    pthread_mutex_lock(&g->guard);
    g_assert(g->running > 0);
    if (--g->running == 0) {
        waiter = g->waiter;
        g->waiter = NULL;
    }
    pthread_mutex_unlock(&g->guard);
    if (waiter) {
        co_wake(waiter);
    }
}

void coroutine_fn co_group_wait(CoGroup *g)
{
    pthread_mutex_lock(&g->guard);
    if (g->running == 0) {
        pthread_mutex_unlock(&g->guard);
        return;
    }
    g_assert(!g->waiter);
    g->waiter = co_self();
    pthread_mutex_unlock(&g->guard);
    co_yield();
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Locks for coroutines of any thread.
 *
 * Hand-over: who releases a lock gives it to the first waiter before waking it; the waiter owns it when it runs.  A waiter's record is on
 * its own stack and must not be touched after co_wake().
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

void co_mutex_init(CoMutex *m)
{
    *m = (CoMutex){.guard = PTHREAD_MUTEX_INITIALIZER};
}

void co_mutex_destroy(CoMutex *m)
{
    g_assert(!m->locked);
    pthread_mutex_destroy(&m->guard);
}

void coroutine_fn co_mutex_lock(CoMutex *m)
{
    CoWaiter w = {.co = co_self()};

    pthread_mutex_lock(&m->guard);
    if (!m->locked) {
        m->locked = true;
        pthread_mutex_unlock(&m->guard);
        return;
    }
    list_add(&m->waiters, &w);
    pthread_mutex_unlock(&m->guard);
    co_yield();
}

void co_mutex_unlock(CoMutex *m)
{
    CoWaiter *w;

    pthread_mutex_lock(&m->guard);
    g_assert(m->locked);
    w = list_take(&m->waiters);
    m->locked = w;
    if (w) {
        co_wake(w->co);
    }
    pthread_mutex_unlock(&m->guard);
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

/* Lets in whoever may come in now; guard is held. */
static void rw_admit(CoRwlock *l)
{
    while (l->waiters.head && l->readers >= 0) {
        if (l->waiters.head->writer) {
            if (l->readers == 0) {
                l->readers = -1;
                co_wake(list_take(&l->waiters)->co);
            }
            return;
        }
        l->readers++;
        co_wake(list_take(&l->waiters)->co);
    }
}

void co_rwlock_unlock(CoRwlock *l)
{
    pthread_mutex_lock(&l->guard);
    g_assert(l->readers != 0);
    l->readers = l->readers < 0 ? 0 : l->readers - 1;
    rw_admit(l);
    pthread_mutex_unlock(&l->guard);
}

void co_rwlock_downgrade(CoRwlock *l)
{
    pthread_mutex_lock(&l->guard);
    g_assert(l->readers == -1);
    l->readers = 1;
    rw_admit(l);
    pthread_mutex_unlock(&l->guard);
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
    pthread_mutex_lock(&g->guard);
    g_assert(g->running > 0);
    if (--g->running == 0 && g->waiter) {
        co_wake(g->waiter);
        g->waiter = NULL;
    }
    pthread_mutex_unlock(&g->guard);
}

void coroutine_fn co_group_wait(CoGroup *g)
{
    pthread_mutex_lock(&g->guard);
    if (g->running > 0) {
        g_assert(!g->waiter);
        g->waiter = co_self();
        pthread_mutex_unlock(&g->guard);
        co_yield();
        /* The last one may still hold the guard: it must have let go before the group may be freed. */
        pthread_mutex_lock(&g->guard);
    }
    pthread_mutex_unlock(&g->guard);
}

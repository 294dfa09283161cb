/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Range locks: requests that overlap exclude each other.
 *
 * Holders and waiters are in one list in the order in which they came.  A range waits for every conflicting one before it in the
 * list, held or waiting, so nobody overtakes and nobody starves; `next` and `prev` link the list, `waiters.head` being set means
 * that the range itself is still waiting.
 */
#include "util/co-lock.h"

struct CoWaiter {
    Coroutine *co;
};

void co_range_lock_init(CoRangeLock *l)
{
    *l = (CoRangeLock){.guard = PTHREAD_MUTEX_INITIALIZER};
}

void co_range_lock_destroy(CoRangeLock *l)
{
    g_assert(!l->held);
    pthread_mutex_destroy(&l->guard);
}

static bool conflicts(const CoRange *a, const CoRange *b)
{
    return !(a->shared && b->shared) && a->offset < b->offset + b->length && b->offset < a->offset + a->length;
}

/* The list's newest is l->held; `next` leads to older ones. */
static bool must_wait(const CoRange *r)
{
    for (const CoRange *older = r->next; older; older = older->next) {
        if (conflicts(r, older)) {
            return true;
        }
    }
    return false;
}

void coroutine_fn co_range_lock(CoRangeLock *l, CoRange *r, uint64_t offset, uint64_t length, bool shared)
{
    CoWaiter w = {.co = co_self()};

    g_assert(length > 0);
    *r = (CoRange){.offset = offset, .length = length, .shared = shared};
    pthread_mutex_lock(&l->guard);
    r->next = l->held;
    if (l->held) {
        l->held->prev = r;
    }
    l->held = r;
    if (!must_wait(r)) {
        pthread_mutex_unlock(&l->guard);
        return;
    }
    r->waiters.head = &w;
    pthread_mutex_unlock(&l->guard);
    co_yield();
}

void co_range_unlock(CoRangeLock *l, CoRange *r)
{
    pthread_mutex_lock(&l->guard);
    if (r->next) {
        r->next->prev = r->prev;
    }
    if (r->prev) {
        r->prev->next = r->next;
    } else {
        l->held = r->next;
    }
    /* Only newer ones can have waited for it. */
    for (CoRange *newer = r->prev; newer; newer = newer->prev) {
        if (newer->waiters.head && conflicts(newer, r) && !must_wait(newer)) {
            Coroutine *co = newer->waiters.head->co;

            newer->waiters.head = NULL;
            co_wake(co);
        }
    }
    pthread_mutex_unlock(&l->guard);
}

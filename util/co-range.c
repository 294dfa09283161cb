/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Range locks: requests that overlap exclude each other.
 *
 * Holders and waiters are in one list in the order in which they came.  A range waits for every conflicting
 * one that came before it, held or waiting, so nobody overtakes and nobody starves.  `blockers` counts
 * those; who leaves the list subtracts himself from the newer ones he conflicts with, and wakes those that
 * have none left.
 *
 * The list is searched from one end to the other: it has as many entries as there are requests that need such a
 * lock at one time, which is few.
 */
#include "util/co-lock.h"

void co_range_lock_init(CoRangeLock *l)
{
    *l = (CoRangeLock){.guard = PTHREAD_MUTEX_INITIALIZER};
}

void co_range_lock_destroy(CoRangeLock *l)
{
    g_assert(!l->newest);
    pthread_mutex_destroy(&l->guard);
}

static bool conflicts(const CoRange *a, const CoRange *b)
{
    return !(a->shared && b->shared) && a->offset < b->offset + b->length &&
           b->offset < a->offset + a->length;
}

void coroutine_fn co_range_lock(CoRangeLock *l, CoRange *r, uint64_t offset, uint64_t length,
                                bool shared)
{
    bool wait;

    g_assert(length > 0 && length <= UINT64_MAX - offset);
    *r = (CoRange){.offset = offset, .length = length, .shared = shared};
    pthread_mutex_lock(&l->guard);
    for (CoRange *o = l->newest; o; o = o->older) {
        r->blockers += conflicts(r, o);
    }
    r->older = l->newest;
    if (r->older) {
        r->older->newer = r;
    }
    l->newest = r;
    wait = r->blockers > 0;
    if (wait) {
        r->waiter = co_self();
    }
    pthread_mutex_unlock(&l->guard);
    if (wait) {
        co_yield();
    }
}

void co_range_unlock(CoRangeLock *l, CoRange *r)
{
    CoRange *n;

    pthread_mutex_lock(&l->guard);
    g_assert(r->blockers == 0);
    if (r->older) {
        r->older->newer = r->newer;
    }
    if (r->newer) {
        r->newer->older = r->older;
    } else {
        l->newest = r->older;
    }
    for (n = r->newer; n; n = n->newer) {
        if (conflicts(n, r) && --n->blockers == 0) {
            /* It holds its range from here on, and cannot unlock it before we let go of the guard. */
            co_wake(n->waiter);
        }
    }
    pthread_mutex_unlock(&l->guard);
}

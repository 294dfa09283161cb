/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Locks for coroutines, across threads: a waiter suspends its coroutine, not its thread.
 *
 * All are fair (first come, first served) and usable from any loop's thread; a coroutine of one loop can wait for one of
 * another.  Internally a short spin/pthread lock protects the list of waiters; it is never held across a yield.
 * They are plain members of the structure they protect; the lock order is written where they are declared.
 */
#ifndef UTIL_CO_LOCK_H
#define UTIL_CO_LOCK_H

#include "util/coroutine.h"
#include <glib.h>
#include <pthread.h>
#include <stdatomic.h>

typedef struct CoWaiter CoWaiter; /* on the waiting coroutine's stack */
typedef struct CoWaitList {
    CoWaiter *head, *tail;
} CoWaitList;

/* ---- mutual exclusion ---- */
typedef struct CoMutex {
    _Atomic unsigned state;
    pthread_mutex_t guard;
    CoWaitList waiters;
} CoMutex;
void co_mutex_init(CoMutex *m);
void co_mutex_destroy(CoMutex *m);
void coroutine_fn co_mutex_lock(CoMutex *m);
/* False: somebody has it.  Any thread, in a coroutine or not. */
bool co_mutex_trylock(CoMutex *m);
/* Any thread.  The next owner may free the lock. */
void co_mutex_unlock(CoMutex *m);

/* ---- readers and one writer; a waiting writer keeps later readers out ---- */
typedef struct CoRwlock {
    pthread_mutex_t guard;
    int readers; /* -1: a writer */
    CoWaitList waiters;
} CoRwlock;
void co_rwlock_init(CoRwlock *l);
void co_rwlock_destroy(CoRwlock *l);
void coroutine_fn co_rwlock_rdlock(CoRwlock *l);
void coroutine_fn co_rwlock_wrlock(CoRwlock *l);
void co_rwlock_unlock(CoRwlock *l);
void co_rwlock_downgrade(CoRwlock *l); /* writer becomes reader without a gap */

/* ---- condition: wait under a pthread mutex that protects the predicate (held only for moments) ---- */
typedef struct CoQueue {
    CoWaitList waiters; /* protected by the caller's mutex */
} CoQueue;
void co_queue_init(CoQueue *q);
/* Puts the caller in the queue, unlocks, suspends; the mutex is locked again on return. */
void coroutine_fn co_queue_wait(CoQueue *q, pthread_mutex_t *held);
/* Wakes the first / all waiters.  The mutex is held.  False: nobody waited. */
bool co_queue_wake_one(CoQueue *q);
bool co_queue_wake_all(CoQueue *q);

/* ---- the end of parallel work: add, done, wait for zero ---- */
typedef struct CoGroup {
    pthread_mutex_t guard;
    unsigned running;
    Coroutine *waiter; /* at most one */
} CoGroup;
void co_group_init(CoGroup *g);
void co_group_destroy(CoGroup *g);
void co_group_add(CoGroup *g, unsigned n);
void co_group_done(
    CoGroup *g); /* any thread; the group may be freed by the waiter as soon as this woke it */
void coroutine_fn co_group_wait(CoGroup *g);

/* ---- byte ranges: overlapping holders exclude each other (shared ones do not) ---- */
typedef struct CoRange {
    uint64_t offset, length;
    bool shared;
    /* private */
    struct CoRange *newer, *older;
    unsigned blockers;
    Coroutine *waiter;
} CoRange;
typedef struct CoRangeLock {
    pthread_mutex_t guard;
    CoRange *newest;
} CoRangeLock;
void co_range_lock_init(CoRangeLock *l);
void co_range_lock_destroy(CoRangeLock *l);
/* r: caller's memory, lives until unlock.  length > 0; offset + length must not overflow. */
void coroutine_fn co_range_lock(CoRangeLock *l, CoRange *r, uint64_t offset, uint64_t length,
                                bool shared);
void co_range_unlock(CoRangeLock *l, CoRange *r);

#endif

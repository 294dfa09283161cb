/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Counting requests in nodes, and waiting until there are none.
 *
 * Every thread counts for itself; a sum is exact enough to decide "none" because of the order on both sides:
 *
 *   a request begins:  count up, barrier, look at the change     (request.c)
 *   a request ends:    count down, barrier, look for waiters     (count.h)
 *   a waiter:          announce itself, barrier, sum; sleep only if the sum was not zero
 *
 * The barriers are the light and the heavy side of util/rcu.h.  So either the waiter's sum contains a request, or that request sees
 * what was stored before the sum (the cut, or the announcement).  A count may rise for a moment when a request looks in at
 * the old node and goes on to the new one; that can only delay a waiter, and the request wakes it.
 *
 * Lock: wait_lock is innermost; it is held while summing so that no wake-up falls between sum and sleep.
 */
#include "block/count.h"

/* What to sum up. */
enum {
    READS = 1 << 0,
    WRITES = 1 << 1,
    PASSED = 1 << 2,
    FLUSHES = 1 << 3,
};

static uint64_t sum(const Node *n, unsigned what)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < LOOP_SLOTS; i++) {
        const NodeCount *c = &n->count[i];

        total += what & READS ? atomic_load_explicit(&c->reads, memory_order_acquire) : 0;
        total += what & WRITES ? atomic_load_explicit(&c->writes, memory_order_acquire) : 0;
        total += what & PASSED ? atomic_load_explicit(&c->passed, memory_order_acquire) : 0;
        total += what & FLUSHES ? atomic_load_explicit(&c->flushes, memory_order_acquire) : 0;
    }
    return total;
}

uint64_t node_count_writes(const Node *n)
{
    return sum(n, WRITES | PASSED);
}

uint64_t node_count_all(const Node *n)
{
    return sum(n, READS | WRITES | PASSED | FLUSHES);
}

void count_notify(Node *n)
{
    pthread_mutex_lock(&n->wait_lock);
    co_queue_wake_all(&n->waiters);
    pthread_mutex_unlock(&n->wait_lock);
}

static void wait_timeout(void *opaque)
{
    count_notify(opaque);
}

static bool coroutine_fn wait_for(Node *n, unsigned what, int64_t deadline_ns)
{
    _Atomic unsigned *announced = what & READS ? &n->idle_waiters : &n->write_waiters;
    Timer timer;
    bool timed = false, done;

    pthread_mutex_lock(&n->wait_lock);
    atomic_fetch_add_explicit(announced, 1, memory_order_relaxed);
    barrier_heavy();
    while (!(done = sum(n, what) == 0)) {
        if (deadline_ns >= 0) {
            if (clock_ns() >= deadline_ns) {
                break;
            }
            if (!timed) {
                timer_init(&timer, wait_timeout, n);
                timer_arm(&timer, deadline_ns);
                timed = true;
            }
        }
        co_queue_wait(&n->waiters, &n->wait_lock);
        if (timed && timer.deadline < 0) {
            timed = false; /* fired early or for another round: arm again if there is time left */
        }
    }
    atomic_fetch_sub_explicit(announced, 1, memory_order_relaxed);
    pthread_mutex_unlock(&n->wait_lock);
    if (timed) {
        timer_cancel(&timer);
    }
    return done;
}

bool coroutine_fn node_wait_writes(Node *n, bool with_flushes, int64_t deadline_ns)
{
    return wait_for(n, WRITES | PASSED | (with_flushes ? FLUSHES : 0), deadline_ns);
}

bool coroutine_fn node_wait_old_writes(Node *n, int64_t deadline_ns)
{
    return wait_for(n, WRITES, deadline_ns);
}

bool coroutine_fn node_wait_passed(Node *n, int64_t deadline_ns)
{
    return wait_for(n, PASSED, deadline_ns);
}

bool coroutine_fn node_wait_idle(Node *n, int64_t deadline_ns)
{
    return wait_for(n, READS | WRITES | PASSED | FLUSHES, deadline_ns);
}

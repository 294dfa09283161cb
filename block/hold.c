/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Holds: writes that begin at the edges of a change wait for a moment.
 *
 * Several daemons that shall cut together hold first, each its own disks, and cut when every hold is in force.  A write that was let in
 * before the hold is an old one; one that was not waits in `held`, counted nowhere, and decides when it is let go.  So what one
 * daemon calls new depends on nothing that another one calls old.
 *
 *   HELD --change_cut--> CUT        by the control thread, if the deadline has not passed
 *        --hold_end----> EXPIRED    by whoever looks first after the deadline: a request that comes, the timer of one that waits
 *                                   (in its own I/O thread), the control thread
 *
 * Invariants
 *   H1  the state leaves HELD once, by compare-and-swap; who wins lets all waiting requests go, in their order.
 *   H2  a request joins `held` only under hold_lock with the state still HELD; so none is left behind.
 *   H3  a request that waits does not keep the change: it joins and its timer looks in a read section, and the change is freed a
 *       grace period after the hold ended.
 */
#include "change-internal.h"
#include "io-internal.h"
#include "util/loop.h"
#include "util/rcu.h"

typedef struct HeldRequest {
    Change *change;
    Node *node; /* its caller keeps it */
    int64_t since;
    Coroutine *co;
    Timer timer;
    _Atomic bool released;
} HeldRequest;

void node_waited(Node *n, int64_t since)
{
    int64_t waited = clock_ns() - since;
    int64_t longest = atomic_load_explicit(&n->longest_wait, memory_order_relaxed);

    while (waited > longest &&
           !atomic_compare_exchange_weak_explicit(&n->longest_wait, &longest, waited,
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
}

bool hold_end(Change *c, ChangeState state)
{
    int held = CHANGE_HELD;
    HeldRequest *h;

    if (!atomic_compare_exchange_strong_explicit(&c->state, &held, state, memory_order_seq_cst,
                                                 memory_order_seq_cst)) {
        return false;
    }
    pthread_mutex_lock(&c->hold_lock);
    while ((h = g_queue_pop_head(&c->held))) {
        node_waited(h->node, h->since);
        atomic_store_explicit(&h->released, true, memory_order_relaxed);
        co_wake(h->co); /* h is gone when it runs */
    }
    pthread_mutex_unlock(&c->hold_lock);
    return true;
}

static void deadline_passed(void *opaque)
{
    HeldRequest *h = opaque;

    rcu_begin(); /* H3 */
    if (!atomic_load_explicit(&h->released, memory_order_relaxed)) {
        hold_end(h->change, CHANGE_EXPIRED);
    }
    rcu_end();
}

void coroutine_fn hold_wait(Change *c, Node *n)
{
    HeldRequest h = {.change = c, .node = n, .since = clock_ns(), .co = co_self()};
    bool wait;

    if (h.since >= c->hold_deadline) {
        hold_end(c, CHANGE_EXPIRED);
        rcu_end();
        return;
    }
    timer_init(&h.timer, deadline_passed, &h);
    timer_arm(&h.timer, c->hold_deadline);
    pthread_mutex_lock(&c->hold_lock);
    wait = atomic_load_explicit(&c->state, memory_order_seq_cst) == CHANGE_HELD;
    if (wait) {
        g_queue_push_tail(&c->held, &h);
    }
    pthread_mutex_unlock(&c->hold_lock);
    rcu_end();
    if (wait) {
        co_yield();
    }
    timer_cancel(&h.timer);
}

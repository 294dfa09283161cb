/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reservations: a node belongs to at most one running transaction, from plan until settled.
 *
 * Planning never suspends, so a transaction reserves everything it needs or nothing: two transactions cannot wait for each
 * other.  Who finds a node reserved waits for the end of some transaction and looks again, at most
 * TRANSACTION_BUSY_TIMEOUT_NS; not for one that is kept prepared: that may last, and is refused as busy at once.
 */
#include "action.h"

static GPtrArray *waiters; /* Waiter * */
static unsigned running;

typedef struct Waiter {
    Coroutine *co;
    bool woken;
} Waiter;

static void wake(Waiter *w)
{
    if (!w->woken) {
        w->woken = true;
        co_wake(w->co);
    }
}

static void wait_timeout(void *opaque)
{
    wake(opaque);
}

/* Suspends until a transaction ends or the deadline passes. */
static void coroutine_fn wait_for_an_end(int64_t deadline_ns)
{
    Waiter w = {.co = co_self()};
    Timer timer;

    if (!waiters) {
        waiters = g_ptr_array_new();
    }
    g_ptr_array_add(waiters, &w);
    timer_init(&timer, wait_timeout, &w);
    timer_arm(&timer, deadline_ns);
    co_yield();
    timer_cancel(&timer);
    g_ptr_array_remove(waiters, &w);
}

bool coroutine_fn node_wait_unreserved(Node *n, Error **errp)
{
    int64_t deadline = clock_ns() + TRANSACTION_BUSY_TIMEOUT_NS;
    g_autoptr(Node) hold = node_ref(n); /* it may go while we wait */

    while (hold->reserved_by) {
        if (hold->reserved_by->kept || clock_ns() >= deadline) {
            error_set(errp, ERROR_BUSY, n->name, "wait",
                      "Node '%s' is busy: it is in use by a transaction", n->name);
            return false;
        }
        wait_for_an_end(deadline);
    }
    return true;
}

bool transaction_reserve(Transaction *t, Node *n)
{
    if (n->reserved_by == t) {
        return true;
    }
    if (n->reserved_by) {
        return false;
    }
    n->reserved_by = t;
    g_ptr_array_add(t->nodes, node_ref(n));
    return true;
}

void transaction_release_all(Transaction *t)
{
    for (guint i = 0; i < t->nodes->len; i++) {
        Node *n = g_ptr_array_index(t->nodes, i);

        n->reserved_by = NULL;
        node_unref(n);
    }
    g_ptr_array_set_size(t->nodes, 0);
    for (guint i = 0; i < t->names->len; i++) {
        node_name_release(g_ptr_array_index(t->names, i), t);
    }
    g_ptr_array_set_size(t->names, 0);
}

void transaction_began(Transaction *t)
{
    t->running = true;
    running++;
}

void transaction_ended(Transaction *t)
{
    t->running = false;
    running--;
    transaction_wake_waiters();
}

void transaction_wake_waiters(void)
{
    for (guint i = 0; waiters && i < waiters->len; i++) {
        wake(g_ptr_array_index(waiters, i));
    }
}

bool coroutine_fn transaction_wait_all(int64_t deadline_ns)
{
    while (running > 0 && clock_ns() < deadline_ns) {
        wait_for_an_end(deadline_ns);
    }
    return running == 0;
}

/* Used by transaction.c: wait for another transaction and plan again. */
void coroutine_fn transaction_wait_other(int64_t deadline_ns)
{
    if (running > 0) {
        wait_for_an_end(deadline_ns);
    }
}

Transaction *reservation_new(void)
{
    Transaction *t = transaction_new();

    transaction_began(t);
    return t;
}

bool reservation_add(Transaction *t, Node *n)
{
    return transaction_reserve(t, n);
}

void reservation_end(Transaction *t)
{
    transaction_release_all(t);
    transaction_ended(t);
    transaction_free(t);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Closing the graph when the daemon ends.
 *
 * Exports and jobs are gone by then.  Every node that only the monitor holds is let go; the chains below follow.  Closing
 * writes back and flushes; storage that never answers must not keep the process, so the wait has a deadline.
 */
#include "block/graph.h"
#include "node-internal.h"
#include "util/log.h"

typedef struct CloseAll {
    Coroutine *waiter;
    Timer timer;
    bool done, timed_out;
    unsigned users; /* the waiter and the closer; the last one frees */
} CloseAll;

static void release(CloseAll *c)
{
    if (--c->users == 0) {
        g_free(c);
    }
}

static void coroutine_fn wait_closed(void *opaque)
{
    CloseAll *c = opaque;

    node_wait_all_closed();
    c->done = true;
    if (!c->timed_out) {
        timer_cancel(&c->timer);
        co_wake(c->waiter);
    }
    release(c);
}

static void close_timeout(void *opaque)
{
    CloseAll *c = opaque;

    c->timed_out = true;
    co_wake(c->waiter);
}

void graph_abandon_all(void)
{
    g_autoptr(GPtrArray) nodes = node_list();

    for (guint i = 0; i < nodes->len; i++) {
        Node *n = g_ptr_array_index(nodes, i);

        if (n->driver->abandon) {
            n->driver->abandon(n);
        }
    }
}

bool coroutine_fn node_wait_all_closed_until(int64_t deadline_ns)
{
    CloseAll *c = g_new0(CloseAll, 1);
    bool done;

    c->users = 2;
    c->waiter = co_self();
    timer_init(&c->timer, close_timeout, c);
    timer_arm(&c->timer, deadline_ns);
    co_spawn(loop_control(), wait_closed, c);
    co_yield();
    done = c->done;
    release(c);
    return done;
}

bool coroutine_fn graph_close_all(int64_t deadline_ns)
{
    g_autoptr(GPtrArray) nodes = node_list();

    /* Hold all, so that none goes while the list is walked. */
    for (guint i = 0; i < nodes->len; i++) {
        node_ref(g_ptr_array_index(nodes, i));
    }
    for (guint i = 0; i < nodes->len; i++) {
        Node *n = g_ptr_array_index(nodes, i);

        if (n->monitor_owned) {
            n->monitor_owned = false;
            node_unref(n);
        }
    }
    for (guint i = 0; i < nodes->len; i++) {
        node_unref(g_ptr_array_index(nodes, i));
    }
    if (!node_wait_all_closed_until(deadline_ns)) {
        log_error("some images did not close in time: their storage does not answer");
        return false;
    }
    return true;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Gates: requests that begin in a node wait while the node changes (reopening, shrinking, a change between active and inactive).
 *
 * A hold (hold.c) belongs to a change of edges and stops writes; a gate belongs to a node and stops every request that comes by whatever
 * edge.  Who has been let in ends as usual: a request that is pinned in the node passes, as does one that says that it may (Request.passes_gates:
 * the driver's own I/O while it changes).
 *
 *   OPEN --gate_close--> CLOSED --gate_claim--> CLAIMED --gate_open--> OPEN
 *                          '--- deadline, gate_open ---> OPEN
 *
 * Several nodes are closed parents first, each when the one above it is idle: a request that waits at a lower gate then holds nothing in an upper
 * node that is being waited for.
 *
 * Invariants
 *   G1  the state leaves CLOSED once, by compare-and-swap: by the control thread, or after the deadline by whoever looks first (a request that
 *       comes, the timer of one that waits, in its own I/O thread).  So a control thread that hangs holds nobody's I/O.
 *   G2  a request joins gate_held only under wait_lock with the gate not open; so none is left behind.
 *   G3  while a request waits, its edge keeps the node: the node is reserved, no edge is moved.  After the gate has opened it does not touch
 *       the node but by entering it again; its timer looks in a read section (as in hold.c).
 */
#include "gate.h"
#include "block/count.h"
#include "util/loop.h"
#include "util/rcu.h"

typedef struct GateRequest {
    Node *node;
    Coroutine *co;
    Timer timer;
    _Atomic bool released;
} GateRequest;

/* Under wait_lock. */
static void let_go(Node *n)
{
    GateRequest *g;

    while ((g = g_queue_pop_head(&n->gate_held))) {
        atomic_store_explicit(&g->released, true, memory_order_relaxed);
        co_wake(g->co); /* g is gone when it runs */
    }
}

/* G1 */
static void expire(Node *n)
{
    int closed = GATE_CLOSED;

    pthread_mutex_lock(&n->wait_lock);
    if (clock_ns() >= n->gate_deadline &&
        atomic_compare_exchange_strong_explicit(&n->gate, &closed, GATE_OPEN, memory_order_seq_cst,
                                                memory_order_seq_cst)) {
        let_go(n);
    }
    pthread_mutex_unlock(&n->wait_lock);
}

static void deadline_passed(void *opaque)
{
    GateRequest *g = opaque;

    rcu_begin(); /* G3 */
    if (!atomic_load_explicit(&g->released, memory_order_relaxed)) {
        expire(g->node);
    }
    rcu_end();
}

void coroutine_fn gate_wait(Node *n)
{
    GateRequest g = {.node = n, .co = co_self()};
    bool wait;

    timer_init(&g.timer, deadline_passed, &g);
    pthread_mutex_lock(&n->wait_lock);
    wait = atomic_load_explicit(&n->gate, memory_order_seq_cst) != GATE_OPEN;
    if (wait) {
        timer_arm(&g.timer, n->gate_deadline);
        g_queue_push_tail(&n->gate_held, &g); /* G2 */
    }
    pthread_mutex_unlock(&n->wait_lock);
    rcu_end();
    if (wait) {
        co_yield();
        timer_cancel(&g.timer);
    }
}

void gate_close(Node *n, int64_t deadline_ns)
{
    pthread_mutex_lock(&n->wait_lock);
    g_assert(atomic_load(&n->gate) == GATE_OPEN);
    n->gate_deadline = deadline_ns;
    atomic_store_explicit(&n->gate, GATE_CLOSED, memory_order_seq_cst);
    pthread_mutex_unlock(&n->wait_lock);
    barrier_heavy(); /* who did not see it is counted */
}

bool coroutine_fn gate_wait_idle(Node *n)
{
    if (node_wait_idle(n, n->gate_deadline) &&
        atomic_load_explicit(&n->gate, memory_order_acquire) != GATE_OPEN) {
        return true;
    }
    expire(n);
    return false;
}

bool gate_claim(Node *n)
{
    int closed = GATE_CLOSED;

    if (clock_ns() >= n->gate_deadline) {
        expire(n);
        return false;
    }
    return atomic_compare_exchange_strong_explicit(&n->gate, &closed, GATE_CLAIMED,
                                                   memory_order_seq_cst, memory_order_seq_cst);
}

void gate_open(Node *n)
{
    pthread_mutex_lock(&n->wait_lock);
    atomic_store_explicit(&n->gate, GATE_OPEN, memory_order_seq_cst);
    let_go(n);
    pthread_mutex_unlock(&n->wait_lock);
}

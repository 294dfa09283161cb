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
 * A gate can be closed for write-like requests alone (an internal snapshot): WRITES and WRITES_CLAIMED are CLOSED and CLAIMED for those, and
 * others pass.
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
#include "change-internal.h"
#include "util/loop.h"
#include "util/rcu.h"

typedef struct GateRequest {
    Node *node;
    Coroutine *co;
    int64_t since;
    Timer timer;
    _Atomic bool released;
} GateRequest;

/* Under wait_lock. */
static void let_go(Node *n)
{
    GateRequest *g;

    while ((g = g_queue_pop_head(&n->gate_held))) {
        node_waited(n, g->since);
        atomic_store_explicit(&g->released, true, memory_order_relaxed);
        co_wake(g->co); /* g is gone when it runs */
    }
}

static bool leave(Node *n, int from, int to)
{
    return atomic_compare_exchange_strong_explicit(&n->gate, &from, to, memory_order_seq_cst,
                                                   memory_order_seq_cst);
}

/* Under wait_lock.  G1 */
static void expire_locked(Node *n)
{
    if (clock_ns() >= n->gate_deadline &&
        (leave(n, GATE_CLOSED, GATE_OPEN) || leave(n, GATE_WRITES, GATE_OPEN))) {
        let_go(n);
    }
}

static void expire(Node *n)
{
    pthread_mutex_lock(&n->wait_lock);
    expire_locked(n);
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
    GateRequest g = {.node = n, .co = co_self(), .since = clock_ns()};
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

static void close_to(Node *n, int64_t deadline_ns, GateState state)
{
    pthread_mutex_lock(&n->wait_lock);
    g_assert(atomic_load(&n->gate) == GATE_OPEN);
    n->gate_deadline = deadline_ns;
    atomic_store_explicit(&n->gate, state, memory_order_seq_cst);
    pthread_mutex_unlock(&n->wait_lock);
    barrier_heavy(); /* who did not see it is counted */
}

void gate_close(Node *n, int64_t deadline_ns)
{
    close_to(n, deadline_ns, GATE_CLOSED);
}

void gate_close_writes(Node *n, int64_t deadline_ns)
{
    close_to(n, deadline_ns, GATE_WRITES);
}

bool coroutine_fn gate_wait_writes(Node *n)
{
    if (node_wait_writes(n, false, n->gate_deadline) &&
        atomic_load_explicit(&n->gate, memory_order_acquire) != GATE_OPEN) {
        return true;
    }
    expire(n);
    return false;
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
    if (clock_ns() >= n->gate_deadline) {
        expire(n);
        return false;
    }
    return leave(n, GATE_CLOSED, GATE_CLAIMED) || leave(n, GATE_WRITES, GATE_WRITES_CLAIMED);
}

void gate_unclaim(Node *n)
{
    pthread_mutex_lock(&n->wait_lock);
    if (leave(n, GATE_WRITES_CLAIMED, GATE_WRITES)) {
        expire_locked(n); /* timers may have found it claimed */
    }
    pthread_mutex_unlock(&n->wait_lock);
}

void gate_open(Node *n)
{
    pthread_mutex_lock(&n->wait_lock);
    atomic_store_explicit(&n->gate, GATE_OPEN, memory_order_seq_cst);
    let_go(n);
    pthread_mutex_unlock(&n->wait_lock);
}

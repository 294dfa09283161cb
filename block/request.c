/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The request's side of the cut.
 *
 * edge_enter() is where a request decides for a node.  Count first, then look:
 *
 *   1. load the edge's node N and count the request in N;
 *   2. barrier (light; the control thread's heavy side follows the cut, see change.c);
 *   3. if a change is pending on the edge and its cut has happened, count in the next node, un-count in N.
 *
 * Either the sum that settle takes of N's counts contains the request, or the request sees the cut: nobody writes to an old node
 * after it was found idle (T2, T6).
 *
 * One decision.  The pin that the first entry leaves in the Request serves every further call of that Request through the edge,
 * and keeps N counted until the Request ends.  When a Request meets another edge of the same change (nested edges), and one
 * of its pins shows that it decided for the old side, it decides for the old side again: that first pin keeps the change
 * unsettled, so looking at the edges' `pending` is enough to know.
 *
 * Hold.  A write that finds the change HELD is un-counted again, waits in the change's queue (hold.c) and starts over; but not one that has come
 * through another edge of the change, which is inside what is held.
 *
 * Gate.  A request that finds the node's gate closed, for all or for its kind, is un-counted again, waits there (gate.c) and starts over.
 *
 * How a request is counted: as its kind, but as a read through EDGE_COW edges and below them (REQ_BELOW_COW): nothing is ever
 * written that way, and a guest's write that copies from the old node must not look like an old write to it.
 *
 * What a filter that a change inserts lets through enters the old node after the cut, by the filter's own edge, which is marked (Edge.fresh): it is
 * counted apart, so that settling can wait for old requests alone.
 *
 * The read section covers steps 1-3 and never a yield; fold and free wait for grace periods (change.c, node.c).
 */
#include "block/change.h"
#include "block/count.h"
#include "change-internal.h"
#include "gate.h"
#include "io-internal.h"

void request_begin(Request *r, RequestKind kind)
{
    r->kind = kind;
    r->slot = loop_slot_self();
    r->npins = 0;
    r->passes_gates = false;
    r->passes_holds = false;
    r->behalf = NULL;
    r->more = NULL;
}

static Pin *pin_at(const Request *r, unsigned i)
{
    return i < REQUEST_PINS ? (Pin *)&r->pins[i] : &g_array_index(r->more, Pin, i - REQUEST_PINS);
}

void request_end(Request *r)
{
    /* Newest first: a child's count ends before that of the node above it.  In a read section: when the count is zero, only that
     * keeps the node from being freed while we look for waiters. */
    rcu_begin();
    while (r->npins > 0) {
        Pin *p = pin_at(r, --r->npins);

        count_end(p->node, r->slot, p->counted);
    }
    rcu_end();
    if (G_UNLIKELY(r->more)) {
        g_array_free(r->more, true);
        r->more = NULL;
    }
}

static void pin(Request *r, Edge *e, Node *n, RequestKind counted)
{
    Pin p = {.edge = e, .node = n, .counted = counted};

    if (r->npins < REQUEST_PINS) {
        r->pins[r->npins] = p;
    } else {
        if (!r->more) {
            r->more = g_array_new(false, false, sizeof(Pin));
        }
        g_array_set_size(r->more, r->npins - REQUEST_PINS);
        g_array_append_val(r->more, p);
    }
    r->npins++;
}

/* True if an earlier entry of r decided for the old side of c. */
static bool decided_old(const Request *r, const Change *c)
{
    for (unsigned i = 0; i < r->npins; i++) {
        const Pin *p = pin_at(r, i);

        if (atomic_load_explicit(&p->edge->pending, memory_order_acquire) == c &&
            p->node != atomic_load_explicit(&p->edge->next, memory_order_relaxed)) {
            return true;
        }
    }
    return false;
}

/* True if r has come through an edge of c already.  While c is HELD: it was let in before, and is being waited for. */
static bool came_through(const Request *r, const Change *c)
{
    for (unsigned i = 0; i < r->npins; i++) {
        if (atomic_load_explicit(&pin_at(r, i)->edge->pending, memory_order_acquire) == c) {
            return true;
        }
    }
    return false;
}

/* Who is in the node already goes on: it is being waited for. */
static bool passes_gate(const Request *r, const Node *n)
{
    if (r->passes_gates) {
        return true;
    }
    for (unsigned i = 0; i < r->npins; i++) {
        if (pin_at(r, i)->node == n) {
            return true;
        }
    }
    return r->behalf && passes_gate(r->behalf, n);
}

Node *edge_enter_flags(Edge *e, Request *r, unsigned flags)
{
    RequestKind kind = e->role == EDGE_COW || (flags & REQ_BELOW_COW) ? REQUEST_READ : r->kind;
    RequestKind counted;
    Change *c;
    Node *n;
    int gate;

    for (unsigned i = 0; i < r->npins; i++) {
        Pin *p = pin_at(r, i);

        if (p->edge == e) {
            return p->node;
        }
    }

again:
    rcu_begin();
    n = atomic_load_explicit(&e->node, memory_order_acquire);
    counted =
        G_UNLIKELY(atomic_load_explicit(&e->fresh, memory_order_relaxed)) && kind == REQUEST_WRITE
            ? REQUEST_PASSED
            : kind;
    count_begin(n, r->slot, counted);
    barrier_light();
    c = atomic_load_explicit(&e->pending, memory_order_acquire);
    if (G_UNLIKELY(c)) {
        Node *next = atomic_load_explicit(&e->next, memory_order_relaxed);
        int state = atomic_load_explicit(&c->state, memory_order_acquire);

        if (n != next && state == CHANGE_CUT && !decided_old(r, c)) {
            count_begin(next, r->slot, counted);
            count_end(n, r->slot, counted);
            n = next;
        } else if (state == CHANGE_HELD && kind == REQUEST_WRITE && !r->passes_holds &&
                   !came_through(r, c)) {
            count_begin(n, r->slot, REQUEST_READ); /* keeps n, and nobody waits for it */
            count_end(n, r->slot, counted);
            hold_wait(c, n); /* ends the read section */
            rcu_begin();
            count_end(n, r->slot, REQUEST_READ);
            rcu_end();
            goto again;
        }
    }
    gate = atomic_load_explicit(&n->gate, memory_order_acquire);
    if (G_UNLIKELY(gate != GATE_OPEN) && (gate < GATE_WRITES || kind == REQUEST_WRITE) &&
        !passes_gate(r, n)) {
        count_end(n, r->slot, counted);
        gate_wait(n); /* ends the read section */
        goto again;
    }
    rcu_end();
    pin(r, e, n, counted);
    return n;
}

Node *edge_enter(Edge *e, Request *r)
{
    return edge_enter_flags(e, r, 0);
}

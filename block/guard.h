/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Guards of backing edges; private to block/.
 *
 * A backing node does not change below those who read it; where one does nevertheless, since its overlay keeps what is overwritten (the target of
 * a copy-before-write filter whose backing is the source), reads through the edge go by a guard, which knows what is where.
 */
#ifndef BLOCK_GUARD_H
#define BLOCK_GUARD_H

#include "block/io.h"
#include "util/rcu.h"

struct EdgeGuard {
    /* In a read section of RCU: keeps it until leave(). */
    void (*enter)(EdgeGuard *g);
    void (*leave)(EdgeGuard *g);
    int coroutine_fn (*preadv)(EdgeGuard *g, Request *r, GuestOffset offset, const IoVector *iov,
                               unsigned flags);
    /* As edge_block_status_above() of the node below. */
    int coroutine_fn (*block_status)(EdgeGuard *g, Request *r, GuestOffset offset, uint64_t bytes,
                                     unsigned flags, uint64_t *ret_bytes);
};

/* The guard by which a read or status query through e goes; NULL: none.  The caller leaves it. */
static inline EdgeGuard *edge_guard(Edge *e, unsigned flags)
{
    EdgeGuard *g;

    if (G_LIKELY(!atomic_load_explicit(&e->guard, memory_order_relaxed)) ||
        (flags & REQ_UNGUARDED)) {
        return NULL;
    }
    rcu_begin();
    g = atomic_load_explicit(&e->guard, memory_order_acquire);
    if (g) {
        g->enter(g);
    }
    rcu_end();
    return g;
}

#endif

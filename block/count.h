/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Counting requests in nodes; private to block/.  See count.c.
 */
#ifndef BLOCK_COUNT_H
#define BLOCK_COUNT_H

#include "block/io.h"
#include "util/rcu.h"

static inline _Atomic uint32_t *count_of(Node *n, unsigned slot, RequestKind kind)
{
    NodeCount *c = &n->count[slot];

    switch (kind) {
    case REQUEST_READ:
        return &c->reads;
    case REQUEST_WRITE:
        return &c->writes;
    case REQUEST_PASSED:
        return &c->passed;
    default:
        return &c->flushes;
    }
}

/* Only the thread of `slot` changes its counts: no read-modify-write operation is needed. */
static inline void count_begin(Node *n, unsigned slot, RequestKind kind)
{
    _Atomic uint32_t *c = count_of(n, slot, kind);

    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + 1,
                          memory_order_relaxed);
}

void count_notify(Node *n);

/* Release: whoever sees the count fall sees what the request did. */
static inline void count_end(Node *n, unsigned slot, RequestKind kind)
{
    _Atomic uint32_t *c = count_of(n, slot, kind);

    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) - 1,
                          memory_order_release);
    barrier_light();
    if (G_UNLIKELY(atomic_load_explicit(&n->idle_waiters, memory_order_relaxed) ||
                   (kind != REQUEST_READ &&
                    atomic_load_explicit(&n->write_waiters, memory_order_relaxed)))) {
        count_notify(n);
    }
}

#endif

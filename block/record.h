/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What requests do for those who watch a node's writes; private to block/.  See dirty-bitmap.c.
 */
#ifndef BLOCK_RECORD_H
#define BLOCK_RECORD_H

#include "block/count.h"
#include "block/node.h"

void node_mark(Node *n, uint64_t offset, uint64_t bytes);
void coroutine_fn node_pace(Node *n);
/* A write-like request has ended in the node, and its client is not told yet. */
void coroutine_fn node_follow(Node *n, uint64_t offset, uint64_t bytes);

/* A write-like request begins or ends. */
static inline void node_wrote(Node *n, uint64_t offset, uint64_t bytes)
{
    if (G_UNLIKELY(atomic_load_explicit(&n->recorders, memory_order_acquire))) {
        node_mark(n, offset, bytes);
    }
}

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The part of a change that requests look at; private to block/.
 */
#ifndef BLOCK_CHANGE_INTERNAL_H
#define BLOCK_CHANGE_INTERNAL_H

#include "block/change.h"

/* One old node and what replaces it. */
typedef struct Move {
    Node *old_node, *new_node; /* references */
    Edge *barrier;             /* NULL: none */
} Move;

struct Change {
    _Atomic int state; /* ChangeState; only ever goes up */
    GArray *moves;     /* of Move */
    GPtrArray *edges;  /* Edge *: those armed */
    int64_t cut_time;
};

/* Acquire: who sees the cut sees everything that was prepared for it. */
static inline bool change_is_cut(const Change *c)
{
    return atomic_load_explicit(&c->state, memory_order_acquire) == CHANGE_CUT;
}

#endif

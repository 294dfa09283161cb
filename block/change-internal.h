/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The part of a change that requests look at; private to block/.
 */
#ifndef BLOCK_CHANGE_INTERNAL_H
#define BLOCK_CHANGE_INTERNAL_H

#include "block/change.h"
#include <pthread.h>

/* One old node and what replaces it. */
typedef struct Move {
    Node *old_node, *new_node; /* references */
    Edge *barrier;             /* NULL: none */
    Edge *only;                /* the one edge that moves; NULL: all of old_node */
    bool
        filter; /* new_node is a filter, barrier its edge to old_node: writes go on into old_node */
} Move;

struct Change {
    _Atomic int state; /* ChangeState; ARMED -> CUT, ARMED -> HELD -> CUT or EXPIRED */
    GArray *moves;     /* of Move */
    GPtrArray *edges;  /* Edge *: those armed */
    int64_t cut_time;
    /* hold.c */
    int64_t hold_deadline;     /* constant while HELD */
    pthread_mutex_t hold_lock; /* innermost */
    GQueue held;               /* HeldRequest *, in the order in which they came */
};

/* Acquire: who sees the cut sees everything that was prepared for it. */
static inline bool change_is_cut(const Change *c)
{
    return atomic_load_explicit(&c->state, memory_order_acquire) == CHANGE_CUT;
}

/* ---- hold.c ---- */

/* In a read section of RCU, which it ends: waits until c, which was HELD, is not any more.  n: where the request would have gone;
 * it is not counted there. */
void coroutine_fn hold_wait(Change *c, Node *n);
/* HELD -> state, and lets those go that wait.  False: it was not HELD any more. */
bool hold_end(Change *c, ChangeState state);
/* A request waited since `since` because of the change whose old node n is. */
void node_waited(Node *n, int64_t since);

#endif

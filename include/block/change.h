/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Changes: re-pointing a set of edges at one instant.
 *
 * The life of a change, each step by the control thread:
 *
 *   change_new, change_add_*   PLANNED  nothing is visible to requests
 *   change_arm                 ARMED    every edge knows its next node; all still decide for the old one
 *   change_hold                HELD     optional: writes that begin wait, until the cut or the deadline
 *   change_cut                 CUT      one store: from here on requests that begin decide for the new node
 *   change_settle                       waits for old write-like requests and flushes, flushes old nodes
 *   change_fold                         edges point straight at the new nodes; grace periods; the change is freed
 *
 *   change_disarm              EXPIRED  the way back before the cut: all goes on as if nothing had been
 *
 * Nothing waits but the control thread's coroutine, copies (REQ_COPY) over the edge new -> old, and in HELD writes, until the deadline.
 * docs/architecture.md and tests/model have the reasoning.
 */
#ifndef BLOCK_CHANGE_H
#define BLOCK_CHANGE_H

#include "block/node.h"

typedef enum ChangeState {
    CHANGE_PLANNED,
    CHANGE_ARMED,
    CHANGE_HELD,
    CHANGE_CUT,
    CHANGE_EXPIRED,
} ChangeState;

Change *change_new(void);
/* Only before change_arm(), or after change_fold(). */
void change_free(Change *c);
/* At arm, every edge that then leads to old_node, except `barrier`, shall lead to new_node.  barrier: the EDGE_COW edge (in new_node or
 * below it) that leads to old_node; copies through it wait until old_node is settled.  References are taken. */
void change_add(Change *c, Node *old_node, Node *new_node, Edge *barrier);
/* The same for stacks: where an earlier move of c leads to old_node, it shall lead to new_node instead. */
void change_add_overlay(Change *c, Node *old_node, Node *new_node, Edge *barrier);

/* Nothing moves, but a hold of c holds writes into n too: what is moved is below n, and writes that are inside n would wait there.  Not to be settled. */
void change_add_held(Change *c, Node *n);
/* The same where new_node is a filter that goes on writing to old_node, by its edge `own`: old_node is not settled for good but for the requests
 * that did not come through the filter, and copies by `own` wait for these.  Edges of what the filter itself uses stay. */
void change_add_filter(Change *c, Node *old_node, Node *filter, Edge *own);

/* One edge alone shall lead to new_node, which reads the same as the one it leads to now; nobody writes through it, so there is nothing to
 * settle: arm, cut and fold follow each other. */
void change_add_edge(Change *c, Edge *e, Node *new_node);

/* Cannot fail, does not suspend; arm, record and cut may follow each other directly. */
void change_arm(Change *c);
/* When it returns the hold is in force: a write that has not been let in waits until the cut or clock_ns() reaches the deadline.
 * The threads that serve the writes keep the deadline; the control thread may be stopped. */
void change_hold(Change *c, int64_t deadline_ns);
/* False: the change was held and the deadline passed; nothing is cut, ever. */
bool change_cut(Change *c);
/* After arm or hold, instead of the cut: writes go on at once; when it returns the change may be freed. */
void coroutine_fn change_disarm(Change *c);
/* True once a hold has ended without a cut. */
bool change_expired(const Change *c);
/* clock_ns() of the cut. */
int64_t change_cut_time(const Change *c);

/* After the cut: waits for old requests and flushes each old node; true when all are settled; false when clock_ns() passed
 * the deadline or a flush failed (errp says which): may be called again. */
bool coroutine_fn change_settle(Change *c, int64_t deadline_ns, Error **errp);
/* Instead of settle, when the old nodes have served their time (the pivot of a job): waits for what is left of requests in them, and
 * nobody needs them to be durable any more. */
void coroutine_fn change_abandon_old(Change *c);
/* After a successful settle. */
void coroutine_fn change_fold(Change *c);

#endif

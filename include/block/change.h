/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Changes: re-pointing a set of edges at one instant.
 *
 * The life of a change, each step by the control thread:
 *
 *   change_new, change_add_*   PLANNED  nothing is visible to requests
 *   change_arm                 ARMED    every edge knows its next node; all still decide for the old one
 *   change_cut                 CUT      one store: from here on requests that begin decide for the new node
 *   change_settle                       waits for old write-like requests and flushes, flushes old nodes
 *   change_fold                         edges point straight at the new nodes; grace periods; the change is freed
 *
 * Nothing waits but the control thread's coroutine, and copies (REQ_COPY) over the edge new -> old.
 * docs/architecture.md and tests/model have the reasoning.
 */
#ifndef BLOCK_CHANGE_H
#define BLOCK_CHANGE_H

#include "block/node.h"

typedef enum ChangeState { CHANGE_PLANNED, CHANGE_ARMED, CHANGE_CUT } ChangeState;

Change *change_new(void);
/* Only before change_arm(), or after change_fold(). */
void change_free(Change *c);
/* At arm, every edge that then leads to old_node, except `barrier`, shall lead to new_node.  barrier: the EDGE_COW edge (in new_node or
 * below it) that leads to old_node; copies through it wait until old_node is settled.  References are taken. */
void change_add(Change *c, Node *old_node, Node *new_node, Edge *barrier);
/* The same for stacks: where an earlier move of c leads to old_node, it shall lead to new_node instead. */
void change_add_overlay(Change *c, Node *old_node, Node *new_node, Edge *barrier);

/* Cannot fail, does not suspend; arm, record and cut may follow each other directly. */
void change_arm(Change *c);
void change_cut(Change *c);
/* clock_ns() of the cut. */
int64_t change_cut_time(const Change *c);

/* After the cut: waits for old requests and flushes each old node; true when all are settled; false when clock_ns() passed
 * the deadline or a flush failed (errp says which): may be called again. */
bool coroutine_fn change_settle(Change *c, int64_t deadline_ns, Error **errp);
/* After a successful settle. */
void coroutine_fn change_fold(Change *c);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Graph internals shared by node.c, edge.c, perm.c, open.c and change.c; private to block/.  Control thread.
 */
#ifndef BLOCK_NODE_INTERNAL_H
#define BLOCK_NODE_INTERNAL_H

#include "block/driver.h"
#include "block/node.h"

/* A node that is not in the registry yet, with one reference.  Takes a copy of name. */
Node *node_alloc(const BlockDriver *driver, const char *name);
/* A fresh "#block…" name; freed by the caller. */
char *node_generate_name(void);
/* Puts n into the registry under its name, which its maker has reserved or checked. */
void node_register(Node *n);
/* As node_find(), hidden ones included. */
Node *node_find_any(const char *name);
/* Frees a node whose open failed: no request ever entered it. */
void coroutine_fn node_discard(Node *n);
/* Detaches all children, newest first. */
void coroutine_fn node_detach_children(Node *n);

/* Is n reachable from `from` by its children (or the same)? */
bool node_reaches(const Node *from, const Node *n);
/* At the cut: the control thread's view of an edge. */
void edge_retarget(Edge *e, Node *target);
/* An edge's change is folded. */
void edge_settled(Edge *e);

/* ---- perm.c ---- */

/* Recomputes the permissions of `n` and of what is below it from the edges' perm and shared.  On failure nothing has changed
 * and the caller takes its own change of the edges back. */
bool coroutine_fn perm_refresh(Node *n, Error **errp);
/* Same, for lowering: cannot fail (conflicts cannot arise; drivers give up only). */
void coroutine_fn perm_lower(Node *n);
/* "write, resize" of a set of Perm. */
char *perm_names(unsigned perm);

/* ---- change.c ---- */
void change_arm_edge(Change *c, Edge *e, Node *new_node);
Node *change_next_of(const Change *c, const Node *old_node);
void change_edge_gone(Change *c, Edge *e);

#endif

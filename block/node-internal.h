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
/* Decides where n will be in lists of nodes: behind those that have a place, before those that get one later.  A node comes after its file
 * and before the backing nodes that are opened for it. */
void node_take_place(Node *n);
/* Puts n into the registry under its name, which its maker has reserved or checked. */
void node_register(Node *n);
/* As node_find(), hidden ones included. */
Node *node_find_any(const char *name);
/* Frees a node whose open failed: no request ever entered it. */
void coroutine_fn node_discard(Node *n);
/* Detaches all children, newest first. */
void coroutine_fn node_detach_children(Node *n);

/* The backing edge e, after it was made to lead to node_nothing(): its parent has no backing any more. */
void coroutine_fn edge_park(Edge *e);
/* Detaches e, by which its parent `from` makes no calls any more; it is not in the list of children already.  Requests may still remember it: its
 * memory stays until `from` closes. */
void coroutine_fn edge_retire(Edge *e, Node *from);
/* A node without a byte, in no list: what reads from it reads zeroes.  It stays. */
Node *node_nothing(void);
/* Is n reachable from `from` by its children (or the same)? */
bool node_reaches(const Node *from, const Node *n);
/* At the cut: the control thread's view of an edge. */
void edge_retarget(Edge *e, Node *target);
/* Tells the users of n that its size is another; filters and raw nodes above that have no size of their own follow. */
void node_resized(Node *n);
/* An edge's change is folded. */
void edge_settled(Edge *e);

/* ---- open.c ---- */

/* The options that every driver has, and that decide what a node is like. */
typedef struct NodeFlags {
    bool read_only, auto_read_only; /* as asked for */
    bool cache_direct, cache_no_flush, discard_unmap, force_share;
    bool inactive; /* of a parent, for its children */
    DetectZeroes detect_zeroes;
} NodeFlags;
/* Those that options say; fills in read-only. */
bool options_flags(const char *name, struct BlockdevOptions *o, bool read_only_default,
                   NodeFlags *ret, Error **errp);
NodeFlags node_flags(const Node *n);
/* All but read_only and inactive, which is the caller's. */
void node_set_flags(Node *n, const NodeFlags *f);
/* Fills in what a child that is defined in place has from its parent. */
void options_inherit(struct BlockdevOptions *o, const NodeFlags *parent, EdgeRole role);

/* ---- read-only.c ---- */

/* n is inactive: it will be read-only when it is active again, with what it stores in. */
void node_rest_read_only(Node *n);

/* ---- filename.c ---- */

/* Formats and filters: n->filename, if it is not set. */
void node_set_filename(Node *n);
/* `backing` was opened because the header of n says `name`. */
void node_set_header_backing(Node *n, const char *name, Node *backing);

/* ---- perm.c ---- */

/* Recomputes the permissions of `n` and of what is below it from the edges' perm and shared.  On failure nothing has changed
 * and the caller takes its own change of the edges back. */
bool coroutine_fn perm_refresh(Node *n, Error **errp);
/* Same, for lowering: cannot fail (conflicts cannot arise; drivers give up only). */
void coroutine_fn perm_lower(Node *n);
/* The driver's child_perm(), and what being inactive makes of it. */
void node_child_perm(const Node *n, EdgeRole role, unsigned parent_perm, unsigned parent_shared,
                     unsigned *perm, unsigned *shared);
/* Would permissions fit if the users of `old` used `filter` instead, which uses old by its edge `own`?  Changes nothing. */
bool coroutine_fn perm_check_filter(Node *old, Node *filter, Edge *own, Error **errp);
/* "write, resize" of a set of Perm. */
char *perm_names(unsigned perm);

/* An update of any number of nodes, with what marks on edges and nodes say (`leaving`, `reopening`).  Between begin and end no other update
 * of any node runs (perm_refresh() and perm_lower() keep out those of the same nodes only); after a successful prepare comes exactly one of apply and abort. */
typedef struct PermPlan PermPlan;
PermPlan *coroutine_fn perm_plan_begin(void);
void perm_plan_add(PermPlan *p, Node *n);
bool coroutine_fn perm_plan_prepare(PermPlan *p, Error **errp);
void perm_plan_apply(PermPlan *p);
void perm_plan_abort(PermPlan *p);
/* The i-th node of the plan, parents before children; NULL: there are no more. */
Node *perm_plan_node(const PermPlan *p, unsigned i);
void perm_plan_end(PermPlan *p);

/* ---- edge.c ---- */

/* An edge that nobody uses yet and that has no permissions; for a plan. */
Edge *edge_join(Node *n, Node *parent, const char *name, EdgeRole role);
/* Takes back edge_join(). */
void edge_unjoin(Edge *e);

/* ---- change.c ---- */
void change_arm_edge(Change *c, Edge *e, Node *new_node);
Node *change_next_of(const Change *c, const Node *old_node);
void change_edge_gone(Change *c, Edge *e);

#endif

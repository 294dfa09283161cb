/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Edges: attaching and detaching parents.
 *
 * An edge is in two lists: its target's `parents` and its parent node's `children`; the control thread's.  What I/O threads see of it
 * (`node`, `next`, `pending`) is stored before the parent can use it.
 *
 * While a change is pending (armed, not cut) an edge that is made onto an old node is born in that change; one that is deleted
 * leaves the requests it let in counted in the node.
 *
 * An edge is freed after a grace period and only when its parent can have no request left that pinned it: detaching is for
 * parents that are idle.
 */
#include "block/stats.h"
#include "block/change.h"
#include "block/count.h"
#include "block/reopen.h"
#include "change-internal.h"
#include "node-internal.h"
#include <stdlib.h>
#include <string.h>

char *edge_owner_unnamed_describe(void *opaque)
{
    (void)opaque;
    return g_strdup("an unnamed block device");
}

char *edge_owner_unnamed_name(void *opaque)
{
    (void)opaque;
    return g_strdup("");
}

const EdgeOwner edge_owner_unnamed = {.describe = edge_owner_unnamed_describe,
                                      .name = edge_owner_unnamed_name};

static void link_parent(Edge *e, Node *n)
{
    e->target = node_ref(n);
    g_ptr_array_add(n->parents, e);
}

static void set_node(Edge *e, Node *n)
{
    Change *c = n->unsettled;
    Node *next = c && !change_is_cut(c) && !edge_is_job(e) ? change_next_of(c, n)
                                                           : NULL; /* born in the change */

    atomic_store_explicit(&e->node, n, memory_order_relaxed);
    if (next) {
        change_arm_edge(c, e, next);
    }
}

static Edge *edge_new(Node *n, Node *parent, const EdgeOwner *owner, void *opaque, const char *name,
                      EdgeRole role, unsigned perm, unsigned shared)
{
    Edge *e = g_new0(Edge, 1);

    e->role = role;
    e->name = g_strdup(name);
    e->parent = parent;
    e->owner = owner;
    e->owner_opaque = opaque;
    e->perm = perm;
    e->shared = shared;
    set_node(e, n);
    link_parent(e, n);
    if (parent) {
        g_ptr_array_add(parent->children, e);
    }
    return e;
}

static void unlink_edge(Edge *e)
{
    Change *c = atomic_load_explicit(&e->pending, memory_order_relaxed);

    if (c) {
        change_edge_gone(c, e);
    }
    g_ptr_array_remove(e->target->parents, e);
    if (e->parent) {
        g_ptr_array_remove(e->parent->children, e);
        if (e->parent->file == e) {
            e->parent->file = NULL;
        }
        if (atomic_load_explicit(&e->parent->backing, memory_order_relaxed) == e) {
            atomic_store_explicit(&e->parent->backing, NULL, memory_order_release);
        }
    }
}

bool node_check_child_active(const Node *parent, const Node *child, const char *name, Error **errp)
{
    if (node_will_be_inactive(child) && !node_will_be_inactive(parent)) {
        error_set(errp, ERROR_INVALID, child->name, "attach",
                  "Inactive '%s' can't be a %s child of active '%s'", child->name, name,
                  parent->name);
        return false;
    }
    return true;
}

bool node_reaches(const Node *from, const Node *n)
{
    if (from == n) {
        return true;
    }
    for (guint i = 0; i < from->children->len; i++) {
        const Edge *e = g_ptr_array_index(from->children, i);

        if (!e->leaving && node_reaches(e->target, n)) {
            return true;
        }
    }
    return false;
}

Edge *edge_join(Node *n, Node *parent, const char *name, EdgeRole role)
{
    Edge *e = edge_new(n, parent, NULL, NULL, name, role, PERM_NONE, PERM_ALL);

    e->joining = true;
    return e;
}

void edge_unjoin(Edge *e)
{
    Node *target = e->target;

    unlink_edge(e);
    g_free(e->name);
    g_free(e);
    node_unref(target);
}

Edge *coroutine_fn edge_attach(Node *n, Node *parent, const EdgeOwner *owner, void *opaque,
                               const char *name, EdgeRole role, unsigned perm, unsigned shared,
                               Error **errp)
{
    Edge *e;

    if (parent && node_reaches(n, parent)) {
        error_set(errp, ERROR_INVALID, n->name, "attach",
                  "Making '%s' a %s child of '%s' would create a cycle", n->name, name,
                  parent->name);
        return NULL;
    }
    if (parent && !node_check_child_active(parent, n, name, errp)) {
        return NULL;
    }
    e = edge_new(n, parent, owner, opaque, name, role, perm, shared);
    if (!perm_refresh(n, errp)) {
        Node *target = e->target;

        unlink_edge(e);
        g_free(e->name);
        g_free(e);
        node_unref(target);
        return NULL;
    }
    return e;
}

void coroutine_fn edge_detach(Edge *e)
{
    Node *n = e->target;

    unlink_edge(e);
    perm_lower(n);
    /* A request that has just left may still be looking at it. */
    co_rcu_synchronize();
    g_free(e->name);
    edge_stats_free(e);
    g_free(e);
    node_unref(n);
}

void coroutine_fn edge_park(Edge *e)
{
    Node *n = e->parent;

    g_assert(e->target == node_nothing() && e->role == EDGE_COW);
    unlink_edge(e);
    node_unref(e->target);
    /* Who found it in n->backing may use it until his request ends, and it leads to what is always there. */
    if (!n->parked) {
        n->parked = g_ptr_array_new();
    }
    g_ptr_array_add(n->parked, e);
}

void coroutine_fn edge_retire(Edge *e, Node *from)
{
    Node *n = e->target;

    unlink_edge(e);
    atomic_store_explicit(&e->pending, NULL, memory_order_release);
    perm_lower(n);
    if (!from->parked) {
        from->parked = g_ptr_array_new();
    }
    g_ptr_array_add(from->parked, e);
    node_unref(n);
}

bool coroutine_fn edge_set_perm(Edge *e, unsigned perm, unsigned shared, Error **errp)
{
    unsigned old_perm = e->perm, old_shared = e->shared;

    e->perm = perm;
    e->shared = shared;
    if (!perm_refresh(e->target, errp)) {
        e->perm = old_perm;
        e->shared = old_shared;
        return false;
    }
    return true;
}

/* A filter is called what the image below it is. */
static void rename_filter(Node *filter, const Node *below)
{
    if (!filter->filename || !below->filename) {
        return;
    }
    g_free(filter->filename);
    filter->filename = g_strdup(below->filename);
    for (guint i = 0; i < filter->parents->len; i++) {
        const Edge *e = g_ptr_array_index(filter->parents, i);

        if (e->parent && e->parent->driver->is_filter && e->parent->file == e) {
            rename_filter(e->parent, filter);
        }
    }
}

void edge_retarget(Edge *e, Node *target)
{
    Node *old = e->target;

    g_ptr_array_remove(old->parents, e);
    link_parent(e, target);
    if (e->parent && e->parent->driver->is_filter && e->parent->file == e) {
        rename_filter(e->parent, target);
    }
    /* The change still holds references to both, so this one is never the last. */
    g_assert(old->refs > 1);
    node_unref(old);
}

bool edge_is_job(const Edge *e)
{
    return !e->parent && e->owner->is_job;
}

static bool check_no_job(const Node *n, bool fillers_too, Error **errp)
{
    for (guint i = 0; i < n->parents->len; i++) {
        const Edge *e = g_ptr_array_index(n->parents, i);
        bool fills = (e->perm & PERM_WRITE) && !(e->perm & PERM_CONSISTENT_READ);

        if (edge_is_job(e) && (fillers_too || !fills)) {
            error_set(errp, ERROR_BUSY, n->name, "job",
                      "Node '%s' is busy: block device is in use by block job: %s", n->name,
                      e->owner->job_type);
            return false;
        }
    }
    return true;
}

bool node_check_no_job(const Node *n, Error **errp)
{
    return check_no_job(n, true, errp);
}

bool node_check_filled_only(const Node *n, Error **errp)
{
    return check_no_job(n, false, errp);
}

void edge_settled(Edge *e)
{
    if (e->owner && e->owner->resized) {
        e->owner->resized(e->owner_opaque);
    }
}

void node_resized(Node *n)
{
    for (guint i = 0; i < n->parents->len; i++) {
        Edge *e = g_ptr_array_index(n->parents, i);

        if (e->parent && e->role == EDGE_FILTERED && e->parent->driver->child_resized) {
            e->parent->driver->child_resized(e->parent);
            node_resized(e->parent);
        } else {
            edge_settled(e);
        }
    }
}

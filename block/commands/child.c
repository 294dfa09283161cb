/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * x-blockdev-change: children of a node at run time.
 *
 * The node and the child are reserved, so that no transaction has them in its plan meanwhile; the driver does the rest (quorum-change.c).
 */
#include "block/graph.h"
#include "block/transaction.h"
#include "qapi-commands.h"
#include <string.h>

#define CLOSE_NS INT64_C(500000000)

static Edge *find_child(const Node *parent, const char *name, Error **errp)
{
    for (guint i = 0; i < parent->children->len; i++) {
        Edge *e = g_ptr_array_index(parent->children, i);

        if (!e->joining && strcmp(e->name, name) == 0) {
            return e;
        }
    }
    error_set(errp, ERROR_NOT_FOUND, parent->name, "change", "Node '%s' does not have child '%s'",
              parent->name, name);
    return NULL;
}

static Node *find_new(const char *name, Error **errp)
{
    Node *n = node_find(name);

    if (!n) {
        error_set(errp, ERROR_NOT_FOUND, name, "change", "Node '%s' not found", name);
    }
    return n;
}

static bool check_add(const Node *parent, const Node *child, Error **errp)
{
    if (!parent->driver->add_child) {
        error_set(errp, ERROR_UNSUPPORTED, parent->name, "change",
                  "The node %s does not support adding a child", parent->name);
        return false;
    }
    if (child->parents->len > 0) {
        error_set(errp, ERROR_BUSY, child->name, "change", "The node %s already has a parent",
                  child->name);
        return false;
    }
    return true;
}

static bool check_remove(const Node *parent, const Edge *e, Error **errp)
{
    if (!parent->driver->remove_child) {
        error_set(errp, ERROR_UNSUPPORTED, parent->name, "change",
                  "The node %s does not support removing a child", parent->name);
        return false;
    }
    return node_check_no_job(e->target, errp);
}

/* What is to be changed; nothing suspends.  *ret_edge: to remove, NULL: child is to be added. */
static bool find_all(const XBlockdevChangeArg *arg, Node **ret_parent, Edge **ret_edge,
                     Node **ret_child, Error **errp)
{
    Node *parent = node_lookup(arg->parent, arg->parent, errp);

    if (!parent) {
        return false;
    }
    if (!arg->child == !arg->node) {
        error_set(errp, ERROR_INVALID, parent->name, "change", "%s",
                  arg->child ? "The parameters child and node are in conflict"
                             : "Either child or node must be specified");
        return false;
    }
    *ret_parent = parent;
    if (arg->child) {
        *ret_edge = find_child(parent, arg->child, errp);
        *ret_child = *ret_edge ? (*ret_edge)->target : NULL;
        return *ret_edge && check_remove(parent, *ret_edge, errp);
    }
    *ret_edge = NULL;
    *ret_child = find_new(arg->node, errp);
    return *ret_child && check_add(parent, *ret_child, errp);
}

bool coroutine_fn qmp_x_blockdev_change(const XBlockdevChangeArg *arg, Error **errp)
{
    for (;;) {
        Transaction *t;
        Node *parent, *child, *busy;
        Edge *e;
        bool ok;

        if (!find_all(arg, &parent, &e, &child, errp)) {
            return false;
        }
        t = reservation_new();
        busy = !reservation_add(t, parent) ? parent : !reservation_add(t, child) ? child : NULL;
        if (!busy) {
            ok = e ? parent->driver->remove_child(parent, e, errp)
                   : parent->driver->add_child(parent, child, errp);
            reservation_end(t);
            if (ok && e) {
                /* The files of a node that is gone are closed when the reply comes, unless they hang. */
                (void)node_wait_all_closed_until(clock_ns() + CLOSE_NS);
            }
            return ok;
        }
        node_ref(busy);
        reservation_end(t);
        ok = node_wait_unreserved(busy, errp);
        node_unref(busy);
        if (!ok) {
            return false;
        }
    }
}

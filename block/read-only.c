/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Making a node read-only, down to its file, without a pause, and writable again.
 *
 * It concerns the node and those storage and filtered children that nobody else uses and that the user did not add himself to be
 * writable: a `file` node of blockdev-add keeps its own flag, and gives up the file by its permissions (dynamic
 * auto-read-only) when no parent writes any more.
 *
 * prepare may fail and runs beside I/O; commit runs when no write-like request is left and what was written is flushed.
 */
#include "block/graph.h"
#include "node-internal.h"

/* The child that becomes read-only together with n; NULL: none. */
static Node *follower(const Node *n)
{
    Node *child = n->file ? n->file->target : NULL;

    if (!child || child->monitor_owned || child->parents->len != 1 ||
        atomic_load(&child->read_only)) {
        return NULL;
    }
    return child;
}

static void coroutine_fn abort_until(Node *n, const Node *end)
{
    for (; n && n != end; n = follower(n)) {
        if (n->driver->ro_abort) {
            n->driver->ro_abort(n);
        }
    }
}

bool coroutine_fn node_ro_prepare(Node *top, Error **errp)
{
    for (Node *n = top; n; n = follower(n)) {
        if (n->driver->ro_prepare && !n->driver->ro_prepare(n, errp)) {
            abort_until(top, n);
            return false;
        }
    }
    return true;
}

void coroutine_fn node_ro_abort(Node *n)
{
    abort_until(n, NULL);
}

void coroutine_fn node_ro_commit(Node *top)
{
    Node *n = top;

    /* Top down: who writes into a file gives up before the file does. */
    while (n) {
        Node *next = follower(n);

        atomic_store_explicit(&n->read_only, true, memory_order_seq_cst);
        if (n->driver->ro_commit) {
            n->driver->ro_commit(n);
        }
        n = next;
    }
}

/* ---- the way back ---- */

static void add_read_only(GPtrArray *list, const Node *top, Node *n)
{
    if (atomic_load(&n->read_only) && (n == top || !n->monitor_owned)) {
        g_ptr_array_add(list, n);
    }
    for (guint i = 0; i < n->children->len; i++) {
        const Edge *e = g_ptr_array_index(n->children, i);

        if (e == n->file || e->role == EDGE_STORAGE) {
            add_read_only(list, top, e->target);
        }
    }
}

/* Nodes of n's storage, n first, that have to become writable with it. */
static GPtrArray *read_only_below(Node *n)
{
    GPtrArray *list = g_ptr_array_new();

    add_read_only(list, n, n);
    return list;
}

static void set_all(const GPtrArray *list, bool read_only)
{
    for (guint i = 0; i < list->len; i++) {
        atomic_store_explicit(&((Node *)g_ptr_array_index(list, i))->read_only, read_only,
                              memory_order_seq_cst);
    }
}

bool coroutine_fn node_set_writable(Node *n, Error **errp)
{
    g_autoptr(GPtrArray) list = NULL;

    if (atomic_load(&n->inactive)) {
        error_set(errp, ERROR_PERMISSION, n->name, "permissions",
                  "Permission 'write' unavailable on inactive node");
        return false;
    }
    if (!atomic_load(&n->read_only)) {
        return true;
    }
    list = read_only_below(n);
    set_all(list, false);
    if (perm_refresh(n, errp) && (!n->driver->rw_begin || n->driver->rw_begin(n, errp))) {
        return true;
    }
    set_all(list, true);
    perm_lower(n);
    return false;
}

/* An inactive node writes nothing; it shall be read-only when it is active. */
void node_rest_read_only(Node *n)
{
    do {
        n->rest_read_only = true;
        n = n->file ? n->file->target : NULL;
    } while (n && atomic_load(&n->inactive) && !n->monitor_owned && n->parents->len == 1);
}

bool coroutine_fn node_set_read_only(Node *n, Error **errp)
{
    if (atomic_load(&n->inactive)) {
        node_rest_read_only(n);
    }
    if (atomic_load(&n->read_only)) {
        return true;
    }
    if (!node_write_out(n, errp) || !node_ro_prepare(n, errp)) {
        /* In memory it is, as after a snapshot that could not be flushed: nobody writes. */
        atomic_store_explicit(&n->read_only, true, memory_order_seq_cst);
        return false;
    }
    node_ro_commit(n);
    perm_lower(n);
    return true;
}

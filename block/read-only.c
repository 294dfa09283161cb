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
#include "block/put-away.h"
#include "node-internal.h"
#include "qapi-types.h"

/* Is e an edge to what n stores all of its disk in?  A quorum has several. */
static bool stores(const Node *n, const Edge *e)
{
    return e == n->file || n->driver->replicates;
}

static void add_followers(GPtrArray *list, Node *n)
{
    g_ptr_array_add(list, n);
    for (guint i = 0; i < n->children->len; i++) {
        const Edge *e = g_ptr_array_index(n->children, i);
        Node *child = e->target;

        if (stores(n, e) && !child->monitor_owned && child->parents->len == 1 &&
            !atomic_load(&child->read_only)) {
            add_followers(list, child);
        }
    }
}

/* n, and what becomes read-only together with it; parents before children. */
static GPtrArray *with_followers(Node *n)
{
    GPtrArray *list = g_ptr_array_new();

    add_followers(list, n);
    return list;
}

static void coroutine_fn abort_first(const GPtrArray *list, guint count)
{
    for (guint i = 0; i < count; i++) {
        Node *n = g_ptr_array_index(list, i);

        if (n->driver->ro_abort) {
            n->driver->ro_abort(n);
        }
    }
}

bool coroutine_fn node_ro_prepare(Node *top, Error **errp)
{
    g_autoptr(GPtrArray) list = with_followers(top);

    for (guint i = 0; i < list->len; i++) {
        Node *n = g_ptr_array_index(list, i);

        if (n->driver->ro_prepare && !n->driver->ro_prepare(n, errp)) {
            abort_first(list, i);
            return false;
        }
    }
    return true;
}

void coroutine_fn node_ro_abort(Node *n)
{
    g_autoptr(GPtrArray) list = with_followers(n);

    abort_first(list, list->len);
}

void coroutine_fn node_ro_commit(Node *top)
{
    g_autoptr(GPtrArray) list = with_followers(top);

    /* Top down: who writes into a file gives up before the file does. */
    for (guint i = 0; i < list->len; i++) {
        Node *n = g_ptr_array_index(list, i);

        atomic_store_explicit(&n->read_only, true, memory_order_seq_cst);
        if (n->driver->ro_commit) {
            void *watched = put_away_begin(n);

            n->driver->ro_commit(n);
            put_away_end(watched);
        }
    }
}

/* ---- the way back ---- */

/* A child that the user defined himself, or said of that it be read-only, stays so. */
static bool meant_read_only(const Node *n)
{
    return n->monitor_owned ||
           (n->given && n->given->has_read_only && n->given->read_only && !n->auto_read_only);
}

static void add_read_only(GPtrArray *list, const Node *top, Node *n)
{
    if (atomic_load(&n->read_only) && (n == top || !meant_read_only(n))) {
        g_ptr_array_add(list, n);
    }
    for (guint i = 0; i < n->children->len; i++) {
        const Edge *e = g_ptr_array_index(n->children, i);

        if (stores(n, e) || e->role == EDGE_STORAGE) {
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
    n->rest_read_only = true;
    for (guint i = 0; i < n->children->len; i++) {
        const Edge *e = g_ptr_array_index(n->children, i);
        Node *child = e->target;

        if (stores(n, e) && atomic_load(&child->inactive) && !child->monitor_owned &&
            child->parents->len == 1) {
            node_rest_read_only(child);
        }
    }
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

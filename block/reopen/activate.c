/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Active and inactive nodes (blockdev-set-active).
 *
 * An inactive node is in the graph, but its image belongs to others: another process may write it, and hand it back.  So a disk can move between
 * processes, each of which has its nodes and exports ready.  Invariant N4 (node.h) says what it means for the graph.
 *
 *   inactivate  n, and of what is below it whatever no active node uses: idle, all that memory holds in the files, locks of writers given up
 *   activate    n and all that is inactive below it: locks taken, then sizes, headers and tables read anew
 *
 * Both go through the sequence of set.c: all nodes or none, nobody is held longer than there, and what fails leaves everything as it was.
 */
#include "block/reopen.h"
#include "block/graph.h"
#include "block/transaction.h"
#include "set.h"

typedef struct Walk {
    GPtrArray *order; /* Node *, parents before children */
    GHashTable *seen;
} Walk;

static void visit(Walk *w, Node *n)
{
    if (!g_hash_table_add(w->seen, n)) {
        return;
    }
    for (guint i = 0; i < n->children->len; i++) {
        visit(w, ((Edge *)g_ptr_array_index(n->children, i))->target);
    }
    g_ptr_array_insert(w->order, 0, n);
}

/* Is there a node above n that is active, and will stay so? */
static bool has_active_parent(const Set *s, const Node *n)
{
    for (guint i = 0; i < n->parents->len; i++) {
        const Edge *e = g_ptr_array_index(n->parents, i);

        if (e->parent && !atomic_load(&e->parent->inactive) && !set_find(s, e->parent)) {
            return true;
        }
    }
    return false;
}

static bool check_users(const Node *n, Error **errp)
{
    for (guint i = 0; i < n->parents->len; i++) {
        const Edge *e = g_ptr_array_index(n->parents, i);

        if (!e->parent &&
            !(e->owner->bears_inactive && e->owner->bears_inactive(e->owner_opaque))) {
            error_set(errp, ERROR_BUSY, n->name, "set-active",
                      "Failed to inactivate node: Operation not permitted");
            return false;
        }
    }
    return true;
}

static void add(Set *s, Node *n, bool active)
{
    Item *i = set_add(s, n, NULL);

    i->changed = true;
    i->flags = node_flags(n);
    i->r = (Reopen){
        .node = i->r.node,
        .options = qapi_copy_BlockdevOptions(n->options),
        .inactive = !active,
        .reload = active,
        .rest_read_only = node_is_read_only(n),
        .read_only = !active || n->rest_read_only,
        .auto_read_only = n->auto_read_only,
        .cache_direct = n->cache_direct,
        .discard_unmap = n->discard_unmap,
        .file = n->file,
        .backing = atomic_load_explicit(&n->backing, memory_order_relaxed),
        .hold = true,
    };
}

/* The nodes below `top`, or all, that change; none is fine. */
static bool collect(Set *s, Node *top, bool active, Error **errp)
{
    g_autoptr(GPtrArray) order = g_ptr_array_new(), all = top ? NULL : node_list();
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    Walk w = {.order = order, .seen = seen};

    if (top) {
        visit(&w, top);
    }
    for (guint i = 0; all && i < all->len; i++) {
        visit(&w, g_ptr_array_index(all, i));
    }
    for (guint i = 0; i < order->len; i++) {
        Node *n = g_ptr_array_index(order, i);

        if (atomic_load(&n->inactive) == !active) {
            continue;
        }
        if (!active && has_active_parent(s, n)) {
            if (n == top) {
                error_set(errp, ERROR_BUSY, n->name, "set-active", "Node has active parent node");
                return false;
            }
            continue;
        }
        if (!active && !check_users(n, errp)) {
            return false;
        }
        add(s, n, active);
    }
    return true;
}

bool coroutine_fn blockdev_set_active_reserved(Node *n, bool active, Error **errp)
{
    Set s;
    bool ok;

    set_init(&s);
    ok = collect(&s, n, active, errp) && (s.items->len == 0 || set_run(&s, errp));
    set_clear(&s);
    return ok;
}

bool coroutine_fn blockdev_set_active(Node *n, bool active, Error **errp)
{
    g_autoptr(Node) top = n ? node_ref(n) : NULL;

    (void)top; /* holds n while we wait */
    for (;;) {
        g_autoptr(Node) busy = NULL;
        Set s;
        bool ok;

        set_init(&s);
        ok = collect(&s, n, active, errp);
        if (ok && s.items->len > 0) {
            busy = set_reserve(&s);
            if (busy) {
                node_ref(busy);
            } else {
                ok = set_run(&s, errp);
            }
        }
        set_clear(&s);
        if (!busy) {
            return ok;
        }
        if (!node_wait_unreserved(busy, errp)) {
            return false;
        }
    }
}

bool coroutine_fn blockdev_activate_for_export(const char *node_name, Error **errp)
{
    Node *n = node_find(node_name);

    return !n || !atomic_load(&n->inactive) || blockdev_set_active(n, true, errp);
}

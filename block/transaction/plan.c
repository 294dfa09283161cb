/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The planned graph: the real one plus what the earlier actions of a transaction will have done.
 *
 * Actions look nodes up here, so that a later one can name an overlay that an earlier one makes, and is refused what the earlier one will
 * have made impossible.  Nothing real changes but reservations: names (node.c) and nodes (reserve.c); both end with the
 * transaction.
 */
#include "action.h"
#include "snapshot-common.h"
#include "../node-internal.h"
#include "block/backend.h"
#include <sys/stat.h>

struct PlannedGraph {
    Transaction *t;
    GHashTable *nodes; /* name -> PlannedNode */
    GHashTable *files; /* canonical path */
};

static void planned_node_free(gpointer p)
{
    PlannedNode *n = p;

    g_free(n->name);
    g_free(n);
}

PlannedGraph *planned_graph_new(Transaction *t)
{
    PlannedGraph *g = g_new0(PlannedGraph, 1);

    g->t = t;
    g->nodes = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, planned_node_free);
    g->files = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    return g;
}

void planned_graph_free(PlannedGraph *g)
{
    if (g) {
        g_hash_table_destroy(g->nodes);
        g_hash_table_destroy(g->files);
        g_free(g);
    }
}

static PlannedNode *add(PlannedGraph *g, const char *name)
{
    PlannedNode *p = g_new0(PlannedNode, 1);

    p->name = g_strdup(name);
    g_hash_table_insert(g->nodes, p->name, p);
    return p;
}

PlannedNode *planned_lookup(PlannedGraph *g, const char *device, const char *node_name,
                            Error **errp)
{
    PlannedNode *p = node_name ? g_hash_table_lookup(g->nodes, node_name) : NULL;
    Node *n;

    if (p) {
        return p;
    }
    n = node_lookup(device, node_name, errp);
    if (!n) {
        return NULL;
    }
    p = g_hash_table_lookup(g->nodes, n->name);
    /* A device is where its disk will be: on top of what the earlier actions put there. */
    for (; p && p->overlay && device && backend_find(device); p = p->overlay) {
    }
    if (!p) {
        if (!transaction_reserve(g->t, n)) {
            const Transaction *other = n->reserved_by;

            if (other->kept) {
                error_set(errp, ERROR_BUSY, n->name, "plan",
                          "Node '%s' is busy: it is reserved by the prepared transaction '%s'",
                          n->name, other->id);
            } else {
                error_set(errp, ERROR_BUSY, n->name, "reserve",
                          "Node '%s' is busy: it is in use by another transaction", n->name);
            }
            return NULL;
        }
        p = add(g, n->name);
        p->real = n;
    }
    return p;
}

PlannedNode *planned_new(PlannedGraph *g, Action *maker, const char *name, Error **errp)
{
    PlannedNode *p;

    if (!node_name_check(name, errp)) {
        return NULL;
    }
    if (!node_name_reserve(name, g->t, errp)) {
        error_free(*errp);
        *errp = NULL;
        error_set(errp, ERROR_EXISTS, name, "snapshot", "New overlay node-name already in use");
        return NULL;
    }
    g_ptr_array_add(g->t->names, g_strdup(name));
    p = add(g, name);
    p->maker = maker;
    return p;
}

PlannedNode *planned_new_auto(PlannedGraph *g, Action *maker, const char *name)
{
    PlannedNode *p = add(g, name);

    p->maker = maker;
    return p;
}

bool planned_file(PlannedGraph *g, const char *path, Error **errp)
{
    g_autofree char *dir = g_path_get_dirname(path), *base = g_path_get_basename(path);
    g_autofree char *key = NULL;
    struct stat st;

    if (stat(path, &st) == 0) {
        key = g_strdup_printf("%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
    } else if (stat(dir, &st) == 0) {
        key = g_strdup_printf("%ju:%ju/%s", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino, base);
    } else {
        return true; /* prepare will say what is wrong with the directory */
    }
    if (!g_hash_table_add(g->files, g_steal_pointer(&key))) {
        error_set(errp, ERROR_BUSY, path, "create", "Failed to get \"write\" lock");
        error_hint(errp, "Two actions of one transaction write to the image [%s]", path);
        return false;
    }
    return true;
}

bool planned_check_nesting(PlannedGraph *g, const PlannedNode *old, Error **errp)
{
    GHashTableIter iter;
    gpointer value;

    g_hash_table_iter_init(&iter, g->nodes);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        const PlannedNode *other = value;

        if (other == old || !other->real || !other->overlay) {
            continue;
        }
        if (node_reaches(other->real, old->real) || node_reaches(old->real, other->real)) {
            error_set(errp, ERROR_BUSY, old->name, "snapshot",
                      "Node '%s' is busy: it uses or is used by node '%s' of the same transaction",
                      old->name, other->name);
            return false;
        }
    }
    return true;
}

Node *planned_node(const PlannedNode *p)
{
    return p->real ? p->real : p->made;
}

char *planned_filename(const PlannedNode *p)
{
    if (!p->real) {
        return p->maker->ops->filename(p->maker);
    }
    return p->real->filename ? snapshot_backing_name(p->real) : NULL;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * x-debug-query-block-graph: nodes, their users, and the edges with permissions.
 */
#include "block/graph.h"
#include "node-internal.h"
#include "qapi-types.h"

typedef struct Dump {
    XDbgBlockGraph *graph;
    GHashTable *ids; /* object -> id */
} Dump;

static uint64_t add_object(Dump *d, const void *object, XDbgBlockGraphNodeType type, char *name)
{
    uint64_t id = GPOINTER_TO_SIZE(g_hash_table_lookup(d->ids, object));
    XDbgBlockGraphNodeList *item;

    if (id) {
        g_free(name);
        return id;
    }
    id = g_hash_table_size(d->ids) + 1;
    g_hash_table_insert(d->ids, (void *)object, GSIZE_TO_POINTER(id));
    item = g_new0(XDbgBlockGraphNodeList, 1);
    item->value = g_new0(XDbgBlockGraphNode, 1);
    item->value->id = id;
    item->value->type = type;
    item->value->name = name;
    item->next = d->graph->nodes;
    d->graph->nodes = item;
    return id;
}

static BlockPermissionList *perm_list(unsigned perm)
{
    static const struct {
        unsigned bit;
        BlockPermission value;
    } table[] = {
        {PERM_CONSISTENT_READ, BLOCK_PERMISSION_CONSISTENT_READ},
        {PERM_WRITE, BLOCK_PERMISSION_WRITE},
        {PERM_WRITE_UNCHANGED, BLOCK_PERMISSION_WRITE_UNCHANGED},
        {PERM_RESIZE, BLOCK_PERMISSION_RESIZE},
    };
    BlockPermissionList *list = NULL;

    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        if (perm & table[i].bit) {
            BlockPermissionList *item = g_new0(BlockPermissionList, 1);

            item->value = table[i].value;
            item->next = list;
            list = item;
        }
    }
    return list;
}

static void add_edge(Dump *d, uint64_t parent, uint64_t child, const Edge *e)
{
    XDbgBlockGraphEdgeList *item = g_new0(XDbgBlockGraphEdgeList, 1);

    item->value = g_new0(XDbgBlockGraphEdge, 1);
    item->value->parent = parent;
    item->value->child = child;
    item->value->name = g_strdup(e->name);
    item->value->perm = perm_list(e->perm);
    item->value->shared_perm = perm_list(e->shared);
    item->next = d->graph->edges;
    d->graph->edges = item;
}

/* Root edges of jobs, or of all others. */
static void add_users(Dump *d, GPtrArray *nodes, bool jobs)
{
    for (guint i = nodes->len; i-- > 0;) {
        Node *n = g_ptr_array_index(nodes, i);

        for (guint j = 0; j < n->parents->len; j++) {
            Edge *e = g_ptr_array_index(n->parents, j);

            if (!e->parent && e->owner->is_job == jobs) {
                add_object(d, e->owner_opaque,
                           jobs ? X_DBG_BLOCK_GRAPH_NODE_TYPE_BLOCK_JOB
                                : X_DBG_BLOCK_GRAPH_NODE_TYPE_BLOCK_BACKEND,
                           e->owner->name(e->owner_opaque));
            }
        }
    }
}

static uint64_t id_of(const Dump *d, const void *object)
{
    return GPOINTER_TO_SIZE(g_hash_table_lookup(d->ids, object));
}

XDbgBlockGraph *graph_query(void)
{
    g_autoptr(GPtrArray) nodes = node_list();
    Dump d = {.graph = g_new0(XDbgBlockGraph, 1), .ids = g_hash_table_new(NULL, NULL)};

    /* Numbers count from users to nodes, oldest first; both lists are newest first, the children of one node oldest last. */
    add_users(&d, nodes, false);
    add_users(&d, nodes, true);
    for (guint i = nodes->len; i-- > 0;) {
        Node *n = g_ptr_array_index(nodes, i);

        add_object(&d, n, X_DBG_BLOCK_GRAPH_NODE_TYPE_BLOCK_DRIVER, g_strdup(n->name));
    }
    for (guint i = nodes->len; i-- > 0;) {
        Node *n = g_ptr_array_index(nodes, i);

        for (guint j = n->parents->len; j-- > 0;) {
            Edge *e = g_ptr_array_index(n->parents, j);

            if (!e->parent) {
                add_edge(&d, id_of(&d, e->owner_opaque), id_of(&d, n), e);
            }
        }
    }
    for (guint i = nodes->len; i-- > 0;) {
        Node *n = g_ptr_array_index(nodes, i);

        for (guint j = n->children->len; j-- > 0;) {
            Edge *e = g_ptr_array_index(n->children, j);

            if (id_of(&d, e->target)) { /* else a hidden overlay's */
                add_edge(&d, id_of(&d, n), id_of(&d, e->target), e);
            }
        }
    }
    g_hash_table_destroy(d.ids);
    return d.graph;
}

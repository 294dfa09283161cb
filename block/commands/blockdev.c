/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * blockdev-add, blockdev-del and the queries of nodes.
 */
#include "block/backend.h"
#include "block/graph.h"
#include "block/job.h"
#include "block/superseded.h"
#include "qapi-commands.h"
#include "util/log.h"

bool coroutine_fn qmp_blockdev_add(const BlockdevOptions *arg, Error **errp)
{
    g_autoptr(BlockdevOptions) instead = NULL;
    Node *n;

    if (!arg->node_name) {
        error_set(errp, ERROR_INVALID, NULL, "blockdev-add",
                  "'node-name' must be specified for the root node");
        return false;
    }
    if (!superseded_check(arg, &instead, errp)) {
        return false;
    }
    n = node_open(instead ? instead : arg, 0, NULL, errp);
    if (!n) {
        node_wait_all_closed(); /* what was opened on the way has its files closed when the reply comes */
        return false;
    }
    n->monitor_owned = true; /* the reference is the monitor's now */
    return true;
}

static bool check_unused(const Node *n, Error **errp)
{
    if (!node_check_no_job(n, errp)) {
        return false;
    }
    for (guint i = n->parents->len; i-- > 0;) { /* the newest is named */
        const Edge *e = g_ptr_array_index(n->parents, i);

        if (!e->parent) {
            error_set(errp, ERROR_BUSY, n->name, "blockdev-del", "Node %s is in use", n->name);
            return false;
        }
        if (e->role == EDGE_COW) {
            error_set(errp, ERROR_BUSY, n->name, "blockdev-del",
                      "Node '%s' is busy: node is used as backing hd of '%s'", n->name,
                      e->parent->name);
            return false;
        }
    }
    return true;
}

bool coroutine_fn qmp_blockdev_del(const BlockdevDelArg *arg, Error **errp)
{
    Node *n = node_find(arg->node_name);

    if (n) {
        job_wait_ending(n);
        n = node_find(arg->node_name);
    }
    if (n) {
        if (!node_wait_unreserved(n, errp)) {
            return false;
        }
        n = node_find(arg->node_name);
    }
    if (!n) {
        error_set(errp, ERROR_NOT_FOUND, arg->node_name, "blockdev-del",
                  "Failed to find node with node-name='%s'", arg->node_name);
        return false;
    }
    if (!check_unused(n, errp)) {
        return false;
    }
    if (!n->monitor_owned) {
        error_set(errp, ERROR_PERMISSION, n->name, "blockdev-del",
                  "Node %s is not owned by the monitor", n->name);
        return false;
    }
    if (n->parents->len > 0 || n->refs > 1) {
        error_set(errp, ERROR_BUSY, n->name, "blockdev-del", "Block device %s is in use", n->name);
        return false;
    }
    n->monitor_owned = false;
    node_unref(n);
    /* Who asks to delete a node may use its file next: the reply means that it is closed. */
    node_wait_all_closed();
    return true;
}

bool coroutine_fn qmp_query_named_block_nodes(const QueryNamedBlockNodesArg *arg,
                                              BlockDeviceInfoList **ret_out, Error **errp)
{
    g_autoptr(GPtrArray) nodes = node_list();
    g_autoptr(BlockDeviceInfoList) list = NULL;
    BlockDeviceInfoList **tail = &list;

    for (guint i = 0; i < nodes->len; i++) {
        BlockDeviceInfo *info =
            node_query_info(g_ptr_array_index(nodes, i), arg->has_flat && arg->flat, errp);

        if (!info) {
            return false;
        }
        *tail = g_new0(BlockDeviceInfoList, 1);
        (*tail)->value = info;
        tail = &(*tail)->next;
    }
    *ret_out = g_steal_pointer(&list);
    return true;
}

bool coroutine_fn qmp_query_block(BlockInfoList **ret_out, Error **errp)
{
    g_autoptr(Error) err = NULL;

    *ret_out = backend_query(&err);
    if (err) {
        error_move(errp, &err);
        return false;
    }
    return true;
}

bool coroutine_fn qmp_x_debug_query_block_graph(XDbgBlockGraph **ret_out, Error **errp)
{
    (void)errp;
    *ret_out = graph_query();
    return true;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which node keeps the internal snapshots of a disk.
 */
#include "block/internal-snapshot.h"
#include "block/driver.h"

Node *internal_snapshot_node(Node *n)
{
    while (!n->driver->snapshots) {
        if (!n->file || n->file->role != EDGE_FILTERED ||
            atomic_load_explicit(&n->backing, memory_order_acquire)) {
            return NULL;
        }
        n = n->file->target;
    }
    return n;
}

bool internal_snapshot_check_root(const Node *n, Error **errp)
{
    for (guint i = 0; i < n->parents->len; i++) {
        const Edge *e = g_ptr_array_index(n->parents, i);

        if (e->parent && !e->parent->hidden && !e->leaving) {
            error_set(errp, ERROR_BUSY, n->name, "snapshot", "Need a root block node");
            return false;
        }
    }
    return node_check_no_job(n, errp);
}

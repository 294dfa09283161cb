/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * blockdev-snapshot-delete-internal-sync.  (Making one is a transaction: transaction.c.)
 *
 * Requests run meanwhile: nobody uses what a snapshot alone has.  The node is reserved, as in a transaction.
 */
#include "block/driver.h"
#include "block/graph.h"
#include "block/internal-snapshot.h"
#include "block/transaction.h"
#include "qapi-commands.h"
#include <errno.h>

/* Reserves what the device is, and the node that keeps its snapshots (NULL: nobody). */
static Transaction *coroutine_fn reserve(const char *device, Node **ret_top, Node **ret_keeper,
                                         Error **errp)
{
    for (;;) {
        Node *n = node_lookup(device, device, errp), *busy;
        Transaction *t;

        if (!n) {
            return NULL;
        }
        *ret_top = n;
        *ret_keeper = internal_snapshot_node(n);
        t = reservation_new();
        busy = reservation_add(t, n) ? NULL : n;
        if (!busy && *ret_keeper && *ret_keeper != n && !reservation_add(t, *ret_keeper)) {
            busy = *ret_keeper;
        }
        if (!busy) {
            return t;
        }
        reservation_end(t);
        if (!node_wait_unreserved(busy, errp)) {
            return NULL;
        }
    }
}

static bool coroutine_fn remove_snapshot(const BlockdevSnapshotDeleteInternalSync *arg, Node *top,
                                         Node *keeper, SnapshotInfo **ret_out, Error **errp)
{
    int ret;

    if (!internal_snapshot_check_root(top, errp)) {
        return false;
    }
    if (!arg->id && !arg->name) {
        error_set(errp, ERROR_INVALID, arg->device, "snapshot", "Name or id must be provided");
        return false;
    }
    if (!keeper) {
        error_set(errp, ERROR_UNSUPPORTED, arg->device, "snapshot",
                  "Block format '%s' used by device '%s' does not support internal snapshots",
                  top->driver->name, arg->device);
        return false;
    }
    ret = keeper->driver->snapshots->check(keeper);
    if (ret < 0) {
        error_set_errno(errp, -ret, arg->device, "snapshot", "Failed to get a snapshot list");
        return false;
    }
    if (atomic_load(&keeper->read_only)) {
        error_set(errp, ERROR_PERMISSION, arg->device, "snapshot", "Device '%s' is read only",
                  arg->device);
        return false;
    }
    ret = keeper->driver->snapshots->remove(keeper, arg->id, arg->name, ret_out);
    if (ret == -ENOENT) {
        error_set(errp, ERROR_NOT_FOUND, arg->device, "snapshot",
                  "Snapshot with id '%s' and name '%s' does not exist on device '%s'",
                  arg->id ? arg->id : "null", arg->name ? arg->name : "null", arg->device);
    } else if (ret < 0) {
        error_set_errno(errp, -ret, arg->device, "snapshot",
                        "Failed to delete snapshot of device '%s'", arg->device);
    }
    return ret == 0;
}

bool coroutine_fn qmp_blockdev_snapshot_delete_internal_sync(
    const BlockdevSnapshotDeleteInternalSync *arg, SnapshotInfo **ret_out, Error **errp)
{
    Node *top, *keeper;
    Transaction *t = reserve(arg->device, &top, &keeper, errp);
    bool ok;

    if (!t) {
        return false;
    }
    ok = remove_snapshot(arg, top, keeper, ret_out, errp);
    reservation_end(t);
    return ok;
}

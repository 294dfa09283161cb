/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * transaction, and the snapshot commands that are transactions of one action.
 */
#include "block/transaction.h"
#include "qapi-commands.h"

static void add_snapshot_sync(Transaction *t, const BlockdevSnapshotSync *d)
{
    SnapshotSyncArgs args = {
        .device = d->device,
        .node_name = d->node_name,
        .snapshot_file = d->snapshot_file,
        .snapshot_node_name = d->snapshot_node_name,
        .format = d->format,
        .mode = d->has_mode && d->mode == NEW_IMAGE_MODE_EXISTING ? SNAPSHOT_EXISTING
                                                                  : SNAPSHOT_ABSOLUTE_PATHS,
    };

    transaction_add_snapshot_sync(t, &args);
}

static bool coroutine_fn run(Transaction *t, Error **errp)
{
    bool ok = transaction_run(t, errp);

    transaction_free(t);
    return ok;
}

bool coroutine_fn qmp_blockdev_snapshot_sync(const BlockdevSnapshotSync *arg, Error **errp)
{
    Transaction *t = transaction_new();

    add_snapshot_sync(t, arg);
    return run(t, errp);
}

bool coroutine_fn qmp_blockdev_snapshot(const BlockdevSnapshot *arg, Error **errp)
{
    Transaction *t = transaction_new();

    transaction_add_snapshot(t, arg->node, arg->overlay);
    return run(t, errp);
}

/* completion-mode=grouped is for actions that start jobs; first of all checks. */
static bool check_properties(const TransactionArg *arg, Error **errp)
{
    if (!arg->properties || !arg->properties->has_completion_mode ||
        arg->properties->completion_mode == ACTION_COMPLETION_MODE_INDIVIDUAL || !arg->actions) {
        return true;
    }
    error_set(errp, ERROR_INVALID, NULL, "transaction",
              "Action '%s' does not support transaction property completion-mode = %s",
              qapi_enum_TransactionActionKind(arg->actions->value->type),
              qapi_enum_ActionCompletionMode(arg->properties->completion_mode));
    return false;
}

bool coroutine_fn qmp_transaction(const TransactionArg *arg, Error **errp)
{
    Transaction *t;

    if (!check_properties(arg, errp)) {
        return false;
    }
    t = transaction_new();
    for (const TransactionActionList *a = arg->actions; a; a = a->next) {
        switch (a->value->type) {
        case TRANSACTION_ACTION_KIND_BLOCKDEV_SNAPSHOT_SYNC:
            add_snapshot_sync(t, a->value->u.blockdev_snapshot_sync.data);
            break;
        case TRANSACTION_ACTION_KIND_BLOCKDEV_SNAPSHOT:
            transaction_add_snapshot(t, a->value->u.blockdev_snapshot.data->node,
                                     a->value->u.blockdev_snapshot.data->overlay);
            break;
        default:
            transaction_add_abort(t);
            break;
        }
    }
    return run(t, errp);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * transaction, the snapshot commands that are transactions of one action, prepared transactions and snapshot groups.
 */
#include "block/transaction.h"
#include "qapi-commands.h"

/* ms */
#define MAX_TIMEOUT 3600000
#define MAX_HOLD    60000

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

/* Verbs that name one bitmap. */
static void add_bitmap(Transaction *t, BitmapVerb verb, const BlockDirtyBitmap *d)
{
    transaction_add_bitmap(t, verb, &(BitmapArgs){.node = d->node, .name = d->name});
}

static void add_bitmap_add(Transaction *t, const BlockDirtyBitmapAdd *d)
{
    transaction_add_bitmap(t, BITMAP_ADD,
                           &(BitmapArgs){.node = d->node,
                                         .name = d->name,
                                         .has_granularity = d->has_granularity,
                                         .granularity = d->granularity,
                                         .persistent = d->has_persistent && d->persistent,
                                         .disabled = d->has_disabled && d->disabled});
}

static void add_bitmap_merge(Transaction *t, const BlockDirtyBitmapMerge *d)
{
    transaction_add_bitmap(
        t, BITMAP_MERGE, &(BitmapArgs){.node = d->node, .name = d->target, .sources = d->bitmaps});
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

bool coroutine_fn qmp_blockdev_snapshot_internal_sync(const BlockdevSnapshotInternal *arg,
                                                      Error **errp)
{
    Transaction *t = transaction_new();

    transaction_add_snapshot_internal(t, arg->device, arg->name);
    return run(t, errp);
}

static bool starts_job(const TransactionAction *a)
{
    return a->type == TRANSACTION_ACTION_KIND_BLOCKDEV_BACKUP ||
           a->type == TRANSACTION_ACTION_KIND_DRIVE_BACKUP;
}

static bool is_grouped(const TransactionProperties *p)
{
    return p && p->has_completion_mode && p->completion_mode == ACTION_COMPLETION_MODE_GROUPED;
}

/* completion-mode=grouped is for actions that start jobs; first of all checks. */
static bool check_properties(const TransactionActionList *actions, const TransactionProperties *p,
                             Error **errp)
{
    for (const TransactionActionList *a = actions; a && is_grouped(p); a = a->next) {
        if (!starts_job(a->value)) {
            error_set(errp, ERROR_INVALID, NULL, "transaction",
                      "Action '%s' does not support transaction property completion-mode = %s",
                      qapi_enum_TransactionActionKind(a->value->type),
                      qapi_enum_ActionCompletionMode(p->completion_mode));
            return false;
        }
    }
    if (p && p->has_settle_timeout && (p->settle_timeout < 1 || p->settle_timeout > MAX_TIMEOUT)) {
        error_set(errp, ERROR_INVALID, "settle-timeout", "transaction",
                  "Parameter 'settle-timeout' expects a value between 1 and %d", MAX_TIMEOUT);
        return false;
    }
    return true;
}

static bool check_timeout(uint32_t timeout, int max, Error **errp)
{
    if (timeout < 1 || timeout > (uint32_t)max) {
        error_set(errp, ERROR_INVALID, "timeout", "transaction",
                  "Parameter 'timeout' expects a value between 1 and %d", max);
        return false;
    }
    return true;
}

static Transaction *build(const TransactionActionList *actions, const TransactionProperties *p)
{
    Transaction *t = transaction_new();

    if (is_grouped(p)) {
        transaction_set_grouped(t);
    }
    for (const TransactionActionList *a = actions; a; a = a->next) {
        switch (a->value->type) {
        case TRANSACTION_ACTION_KIND_BLOCKDEV_SNAPSHOT_SYNC:
            add_snapshot_sync(t, a->value->u.blockdev_snapshot_sync.data);
            break;
        case TRANSACTION_ACTION_KIND_BLOCKDEV_BACKUP:
            transaction_add_backup(t, a->value->u.blockdev_backup.data);
            break;
        case TRANSACTION_ACTION_KIND_DRIVE_BACKUP:
            transaction_add_drive_backup(t, a->value->u.drive_backup.data);
            break;
        case TRANSACTION_ACTION_KIND_BLOCKDEV_SNAPSHOT:
            transaction_add_snapshot(t, a->value->u.blockdev_snapshot.data->node,
                                     a->value->u.blockdev_snapshot.data->overlay);
            break;
        case TRANSACTION_ACTION_KIND_BLOCKDEV_SNAPSHOT_INTERNAL_SYNC:
            transaction_add_snapshot_internal(
                t, a->value->u.blockdev_snapshot_internal_sync.data->device,
                a->value->u.blockdev_snapshot_internal_sync.data->name);
            break;
        case TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_CLEAR:
            add_bitmap(t, BITMAP_CLEAR, a->value->u.block_dirty_bitmap_clear.data);
            break;
        case TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_DISABLE:
            add_bitmap(t, BITMAP_DISABLE, a->value->u.block_dirty_bitmap_disable.data);
            break;
        case TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_ENABLE:
            add_bitmap(t, BITMAP_ENABLE, a->value->u.block_dirty_bitmap_enable.data);
            break;
        case TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_REMOVE:
            add_bitmap(t, BITMAP_REMOVE, a->value->u.block_dirty_bitmap_remove.data);
            break;
        case TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_ADD:
            add_bitmap_add(t, a->value->u.block_dirty_bitmap_add.data);
            break;
        case TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_MERGE:
            add_bitmap_merge(t, a->value->u.block_dirty_bitmap_merge.data);
            break;
        default:
            transaction_add_abort(t);
            break;
        }
    }
    if (p && p->has_settle_timeout) {
        transaction_set_settle_timeout(t, p->settle_timeout * INT64_C(1000000));
    }
    return t;
}

/* The same request has the same digest. */
static char *digest_of(const TransactionActionList *actions)
{
    g_autofree char *sum = NULL;
    GString *text = g_string_new(NULL);

    for (const TransactionActionList *a = actions; a; a = a->next) {
        struct json_object *o = qapi_serialise_TransactionAction(a->value);

        g_string_append(text, json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
        g_string_append_c(text, '\n');
        json_object_put(o);
    }
    sum = g_compute_checksum_for_string(G_CHECKSUM_SHA256, text->str, text->len);
    g_string_free(text, true);
    return g_steal_pointer(&sum);
}

bool coroutine_fn qmp_transaction(const TransactionArg *arg, Error **errp)
{
    const char *id = arg->properties ? arg->properties->group : NULL;
    g_autofree char *digest = id ? digest_of(arg->actions) : NULL;
    Transaction *t = NULL;
    bool done = false;

    if (!check_properties(arg->actions, arg->properties, errp)) {
        return false;
    }
    if (id && !transaction_claim(id, digest, &done, &t, errp)) {
        return false;
    }
    if (done) {
        return true;
    }
    if (t) {
        return transaction_commit(id, errp);
    }
    t = build(arg->actions, arg->properties);
    transaction_set_group(t, id, digest);
    return run(t, errp);
}

bool coroutine_fn qmp_transaction_check(const TransactionCheckArg *arg,
                                        TransactionCheckInfo **ret_out, Error **errp)
{
    Transaction *t;

    if (!check_properties(arg->actions, arg->properties, errp)) {
        return false;
    }
    t = build(arg->actions, arg->properties);
    *ret_out = transaction_check(t);
    transaction_free(t);
    return true;
}

bool coroutine_fn qmp_transaction_prepare(const TransactionPrepareArg *arg,
                                          TransactionInfo **ret_out, Error **errp)
{
    g_autofree char *digest = digest_of(arg->actions);
    bool hold = arg->has_hold && arg->hold, done;
    Transaction *t;

    if (!check_properties(arg->actions, arg->properties, errp) ||
        !check_timeout(arg->timeout, hold ? MAX_HOLD : MAX_TIMEOUT, errp)) {
        return false;
    }
    if (arg->properties && arg->properties->group) {
        error_set(errp, ERROR_INVALID, "group", "transaction",
                  "Property 'group' cannot be combined with the argument 'id'");
        return false;
    }
    if (!transaction_claim(arg->id, digest, &done, &t, errp)) {
        return false;
    }
    if (done) {
        *ret_out = transaction_info_of_committed(arg->id);
        return true;
    }
    if (!t) {
        t = build(arg->actions, arg->properties);
        transaction_set_group(t, arg->id, digest);
        if (!transaction_keep(t, arg->timeout * INT64_C(1000000), hold, errp)) {
            return false;
        }
    }
    *ret_out = transaction_info(t);
    return true;
}

bool coroutine_fn qmp_transaction_hold(const TransactionHoldArg *arg, TransactionInfo **ret_out,
                                       Error **errp)
{
    return check_timeout(arg->timeout, MAX_HOLD, errp) &&
           transaction_hold(arg->id, arg->timeout * INT64_C(1000000), ret_out, errp);
}

bool coroutine_fn qmp_transaction_commit(const TransactionCommitArg *arg, Error **errp)
{
    return transaction_commit(arg->id, errp);
}

bool coroutine_fn qmp_transaction_abort(const TransactionAbortArg *arg, Error **errp)
{
    return transaction_abort(arg->id, errp);
}

bool coroutine_fn qmp_query_transactions(TransactionInfoList **ret_out, Error **errp)
{
    (void)errp;
    *ret_out = transaction_query();
    return true;
}

bool coroutine_fn qmp_query_snapshot_groups(const QuerySnapshotGroupsArg *arg,
                                            SnapshotGroupInfoList **ret_out, Error **errp)
{
    (void)errp;
    *ret_out = snapshot_group_query(arg->id);
    return true;
}

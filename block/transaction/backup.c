/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The action `blockdev-backup`: a backup job whose instant is that of the transaction.
 *
 *   link     the job and its filter are made; the filter is in nobody's way
 *   cut      the change puts all filters in place, with the overlays of snapshots, by its one store
 *   commit   the bitmap is taken, the jobs start, newest first
 *   settled  the requests that did not come through the filter have ended: the job may begin to copy
 *   undo     the job goes as if it had been cancelled
 */
#include "backup.h"
#include "../job/backup.h"
#include "qapi-types.h"

static const ActionOps ops;

/* ---- plan ---- */

/* An earlier try has left it so. */
static void give_back_bitmap(BackupAction *x)
{
    if (x->holds_bitmap) {
        x->bitmap->busy--;
        x->holds_bitmap = false;
    }
    x->bitmap = NULL;
}

static bool plan_bitmap(BackupAction *x, Error **errp)
{
    give_back_bitmap(x);
    if (x->args->bitmap) {
        x->bitmap = planned_bitmap(&x->base, x->source, x->args->bitmap);
    }
    if (!backup_check_args(x->args, x->bitmap, errp)) {
        x->bitmap = NULL;
        return false;
    }
    if (x->bitmap) {
        bool changes = !x->args->has_bitmap_mode || x->args->bitmap_mode != BITMAP_SYNC_MODE_NEVER;

        if (!user_bitmap_check(x->bitmap, x->source->real, changes ? 0 : BITMAP_ALLOW_READ_ONLY,
                               errp)) {
            x->bitmap = NULL;
            return false;
        }
        /* Later actions leave it alone.  (One that an earlier action makes is not there yet, and may go with that.) */
        x->holds_bitmap =
            x->source->real && node_bitmap_find(x->source->real, x->args->bitmap) == x->bitmap;
        x->bitmap->busy += x->holds_bitmap;
    }
    return true;
}

bool backup_plan_source(BackupAction *x, PlannedGraph *g, Error **errp)
{
    x->source = planned_lookup(g, x->args->device, x->args->device, errp);
    if (!x->source) {
        return false;
    }
    if (x->source->filter || x->source->overlay) {
        error_set(
            errp, ERROR_BUSY, x->source->name, "backup",
            "Node '%s' is busy: another action of the transaction puts something on top of it",
            x->source->name);
        return false;
    }
    return true;
}

bool backup_plan_rest(BackupAction *x, Error **errp)
{
    if (!plan_bitmap(x, errp)) {
        return false;
    }
    x->source->filter = &x->base;
    return true;
}

static bool plan(Action *a, PlannedGraph *g, Error **errp)
{
    BackupAction *x = (BackupAction *)a;

    if (!backup_plan_source(x, g, errp)) {
        return false;
    }
    x->target = planned_lookup(g, x->target_name, x->target_name, errp);
    if (!x->target || !backup_plan_rest(x, errp)) {
        return false;
    }
    return !x->source->real || !x->target->real ||
           backup_check_nodes(x->args, x->source->real, x->target->real, errp);
}

/* ---- link ---- */

bool coroutine_fn backup_link_to(BackupAction *x, Node *target, Error **errp)
{
    Node *source = planned_node(x->source);

    x->job = backup_new(x->args, source, target, x->bitmap, x->base.t->jobs, errp);
    if (!x->job) {
        return false;
    }
    change_add_filter(x->base.t->change, source, backup_filter(x->job),
                      backup_filter(x->job)->file);
    return true;
}

static bool coroutine_fn link_job(Action *a, Error **errp)
{
    BackupAction *x = (BackupAction *)a;

    return backup_link_to(x, planned_node(x->target), errp);
}

/* ---- the instant, and after it ---- */

void backup_commit(Action *a)
{
    BackupAction *x = (BackupAction *)a;
    bool last = true;

    backup_begin(x->job);
    for (guint i = a->index + 1; i < a->t->actions->len; i++) {
        last &= !backup_of(g_ptr_array_index(a->t->actions, i));
    }
    for (guint i = a->t->actions->len; last && i-- > 0;) {
        BackupAction *other = backup_of(g_ptr_array_index(a->t->actions, i));

        if (other) {
            backup_start(other->job);
        }
    }
}

void coroutine_fn backup_action_settled(Action *a)
{
    BackupAction *x = (BackupAction *)a;

    give_back_bitmap(x);
    backup_settled(x->job);
}

void coroutine_fn backup_action_undo(Action *a)
{
    BackupAction *x = (BackupAction *)a;

    give_back_bitmap(x);
    if (x->job) {
        backup_undo(x->job);
        x->job = NULL;
    }
}

void backup_action_clear(BackupAction *x)
{
    give_back_bitmap(x);
    g_free(x->target_name);
    qapi_free(&qapi_type_BackupCommon, x->args);
}

static void free_action(Action *a)
{
    backup_action_clear((BackupAction *)a);
    g_free(a);
}

BackupAction *backup_of(Action *a)
{
    return a->ops == &ops || a->ops == &drive_backup_ops ? (BackupAction *)a : NULL;
}

static const ActionOps ops = {
    .name = "blockdev-backup",
    .plan = plan,
    .link = link_job,
    .commit = backup_commit,
    .settled = backup_action_settled,
    .undo = backup_action_undo,
    .free = free_action,
};

void transaction_add_backup(Transaction *t, const BlockdevBackup *args)
{
    BackupAction *x = g_new0(BackupAction, 1);

    x->base.ops = &ops;
    x->args = qapi_copy(&qapi_type_BackupCommon, args);
    x->target_name = g_strdup(args->target);
    transaction_add(t, &x->base);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The action `drive-backup`: a backup (backup.c) to a file that is made for it, or exists.
 *
 * The file is made in prepare, and undone as that of an overlay is: announced to the journal, if there is one, and what was in the way comes back.
 * Its group has a member without an old image then, so that a crash before the record leaves nothing.
 *
 * A new image for sync mode top has the backing file of the disk; for mode none the disk itself is the backing node of the target, so that the target
 * shows the disk as it was.
 */
#include "../job/chain.h"
#include "../job/target-image.h"
#include "../node-internal.h"
#include "backup.h"
#include "journal-internal.h"
#include "qapi-types.h"
#include "util/worker.h"
#include <string.h>

typedef struct DriveBackupAction {
    BackupAction backup; /* first */
    char *format;        /* NULL: see the schema */
    bool existing;
    TargetImage target;
    Edge *backing; /* of the target, if we attached it */
} DriveBackupAction;

/* ---- plan ---- */

static bool plan(Action *a, PlannedGraph *g, Error **errp)
{
    DriveBackupAction *x = (DriveBackupAction *)a;

    return backup_plan_source(&x->backup, g, errp) &&
           (!x->backup.source->real || node_check_no_job(x->backup.source->real, errp)) &&
           backup_plan_rest(&x->backup, errp) && planned_file(g, x->backup.target_name, errp);
}

static GroupMember *member(Action *a, Group *g)
{
    DriveBackupAction *x = (DriveBackupAction *)a;

    if (!journal_active() || x->existing) {
        return NULL;
    }
    return group_add_member(g, g_strdup(x->backup.source->name), NULL, NULL,
                            g_canonicalize_filename(x->backup.target_name, NULL));
}

static int check_file(void *opaque)
{
    g_autoptr(SnapshotFile) f =
        snapshot_file_new(((const DriveBackupAction *)opaque)->backup.target_name);
    g_autoptr(Error) err = NULL;

    return snapshot_file_check(f, &err) ? 0 : -1;
}

static bool coroutine_fn check(Action *a, char **ret_warning, Error **errp)
{
    DriveBackupAction *x = (DriveBackupAction *)a;

    (void)ret_warning;
    if (!x->existing && worker_run(WORKERS_CONTROL, check_file, x) < 0) {
        error_set(errp, ERROR_INVALID, x->backup.target_name, "create", "Could not create '%s'",
                  x->backup.target_name);
        return false;
    }
    return true;
}

static SnapshotFile *file(Action *a)
{
    return ((DriveBackupAction *)a)->target.created;
}

/* ---- the file ---- */

/* On a worker. */
static bool announce(const SnapshotFileInfo *info, void *opaque, Error **errp)
{
    const Action *a = opaque;
    unsigned index;

    return g_ptr_array_find(a->t->group->members, a->member, &index) &&
           journal_announce(a->t->group, index, info, errp);
}

/* What a new target is on top of; NULL: nothing. */
static Node *backing_for(const DriveBackupAction *x, Node *source)
{
    Node *image = node_skip_filters(source);

    switch (x->backup.args->sync) {
    case MIRROR_SYNC_MODE_TOP:
        return chain_backing(image);
    case MIRROR_SYNC_MODE_NONE:
        return image;
    default:
        return NULL;
    }
}

static bool coroutine_fn open_target(DriveBackupAction *x, Node *source, Error **errp)
{
    Node *backing = x->existing ? NULL : backing_for(x, source);
    g_autofree char *backing_file = backing && backing->filename ? chain_full_name(backing) : NULL;
    Action *a = &x->backup.base;
    TargetImageSpec s = {
        .filename = x->backup.target_name,
        .format = x->format,
        .existing = x->existing,
        .like = source,
        .size = atomic_load(&source->size),
        .backing_file = backing_file,
        .backing_format = backing_file ? backing->driver->name : NULL,
        .with_backing = x->backup.args->sync != MIRROR_SYNC_MODE_NONE,
        .hidden = true,
    };

    if (!s.existing && !s.format) {
        s.format = node_skip_filters(source)->driver->name;
    }
    if (a->member) {
        s.group_uuid = a->t->group->uuid;
        s.announce = announce;
        s.announce_opaque = a;
    }
    return target_image_open(&s, &x->target, errp);
}

static bool coroutine_fn prepare(Action *a, Error **errp)
{
    DriveBackupAction *x = (DriveBackupAction *)a;
    Node *source = x->backup.source->real;

    /* One that an earlier action makes is there in link. */
    return !source || open_target(x, source, errp);
}

/* Sync mode none: who reads the target sees the disk as it was. */
static bool coroutine_fn put_on_source(DriveBackupAction *x, Node *source, Error **errp)
{
    Node *t = x->target.node;

    if (x->backup.args->sync != MIRROR_SYNC_MODE_NONE || !t->driver->supports_backing ||
        atomic_load(&t->backing)) {
        return true;
    }
    x->backing = edge_attach(source, t, NULL, NULL, "backing", EDGE_COW, PERM_NONE, PERM_ALL, errp);
    if (!x->backing) {
        return false;
    }
    atomic_store_explicit(&t->backing, x->backing, memory_order_release);
    return true;
}

static bool coroutine_fn link_job(Action *a, Error **errp)
{
    DriveBackupAction *x = (DriveBackupAction *)a;
    Node *source = planned_node(x->backup.source);

    return (x->target.node || open_target(x, source, errp)) && put_on_source(x, source, errp) &&
           backup_link_to(&x->backup, x->target.node, errp);
}

/* ---- the instant, and after it ---- */

static void commit(Action *a)
{
    node_show(((DriveBackupAction *)a)->target.node);
    backup_commit(a);
}

static void coroutine_fn settled(Action *a)
{
    DriveBackupAction *x = (DriveBackupAction *)a;

    if (a->member) {
        a->member->state = SNAPSHOT_GROUP_STATE_SETTLED;
    }
    node_unref(target_image_keep(&x->target)); /* the job has it */
    backup_action_settled(a);
}

static void coroutine_fn undo(Action *a)
{
    DriveBackupAction *x = (DriveBackupAction *)a;

    backup_action_undo(a);
    target_image_undo(&x->target);
}

static void free_action(Action *a)
{
    DriveBackupAction *x = (DriveBackupAction *)a;

    backup_action_clear(&x->backup);
    g_free(x->format);
    g_free(x);
}

const ActionOps drive_backup_ops = {
    .name = "drive-backup",
    .plan = plan,
    .member = member,
    .check = check,
    .file = file,
    .prepare = prepare,
    .link = link_job,
    .commit = commit,
    .settled = settled,
    .undo = undo,
    .free = free_action,
};

void transaction_add_drive_backup(Transaction *t, const DriveBackup *args)
{
    DriveBackupAction *x = g_new0(DriveBackupAction, 1);

    x->backup.base.ops = &drive_backup_ops;
    x->backup.args = qapi_copy(&qapi_type_BackupCommon, args);
    x->backup.target_name = g_strdup(args->target);
    x->format = g_strdup(args->format);
    x->existing = args->has_mode && args->mode == NEW_IMAGE_MODE_EXISTING;
    transaction_add(t, &x->backup.base);
}

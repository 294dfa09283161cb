/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The action `blockdev-snapshot-sync`: makes (or reuses) an image file and puts it as an overlay on top of a node.
 *
 * prepare, with I/O running and beside the other actions:
 *   1. flush the old node, beside the following;
 *   2. mode absolute-paths: the file comes into being with the new image in it (block/protocol/file-create.c says how an existing one is
 *      kept safe);
 *   3. the overlay is opened, hidden, with the options that the old node has (S18);
 *   4. the file is complete and durable, its directory too.
 * commit shows the overlay.  undo closes it and brings the directory back to what it was.
 *
 * The overlay has no other owner than its users; if the old node had none, it belongs to the monitor (S17).
 */
#include "journal-internal.h"
#include "snapshot-common.h"
#include "../node-internal.h"
#include "block/file.h"
#include "block/image-created.h"
#include "qapi-types.h"
#include <string.h>

typedef struct SnapshotSyncAction {
    Action base;
    /* arguments */
    char *device, *node_name, *file, *snapshot_node_name, *format;
    SnapshotMode mode;
    /* plan */
    char *overlay_name;
    Snapshot s;
    /* prepare */
    SnapshotFile *created; /* NULL in mode existing */
    NewImage image;        /* what is in it; until the overlay is open */
    Node *overlay;         /* reference */
} SnapshotSyncAction;

/* ---- plan ---- */

static bool plan(Action *a, PlannedGraph *g, Error **errp)
{
    SnapshotSyncAction *sa = (SnapshotSyncAction *)a;
    PlannedNode *old;

    if (!snapshot_plan_old(g, sa->device, sa->node_name, &old, errp)) {
        return false;
    }
    if (sa->node_name && !sa->snapshot_node_name) {
        error_set(errp, ERROR_INVALID, sa->node_name, "snapshot", "New overlay node-name missing");
        return false;
    }
    g_free(sa->overlay_name);
    sa->overlay_name =
        sa->snapshot_node_name ? g_strdup(sa->snapshot_node_name) : node_generate_name();
    sa->s.old = old;
    if (sa->snapshot_node_name) {
        sa->s.overlay = planned_new(g, a, sa->snapshot_node_name, errp);
    } else {
        sa->s.overlay = planned_new_auto(g, a, sa->overlay_name);
    }
    if (!sa->s.overlay) {
        return false;
    }
    sa->s.overlay->is_overlay = true;
    old->overlay = sa->s.overlay;
    return planned_file(g, sa->file, errp);
}

static GroupMember *member(Action *a, Group *g)
{
    SnapshotSyncAction *sa = (SnapshotSyncAction *)a;

    return group_add_member(g, g_strdup(sa->s.old->name), planned_filename(sa->s.old),
                            g_strdup(sa->overlay_name), g_canonicalize_filename(sa->file, NULL));
}

static char *filename(const Action *a)
{
    return g_canonicalize_filename(((const SnapshotSyncAction *)a)->file, NULL);
}

static SnapshotFile *file(Action *a)
{
    return ((SnapshotSyncAction *)a)->created;
}

/* ---- prepare ---- */

/* The first real node under what is planned: its options are what the user chose for this disk. */
static const Node *model_of(const PlannedNode *old)
{
    while (!old->real) {
        old = ((SnapshotSyncAction *)old->maker)->s.old;
    }
    return old->real;
}

static void add_cache(struct json_object *o, const Node *like)
{
    struct json_object *cache = json_object_new_object();

    json_object_object_add(cache, "direct", json_object_new_boolean(like->cache_direct));
    json_object_object_add(cache, "no-flush", json_object_new_boolean(like->cache_no_flush));
    json_object_object_add(o, "cache", cache);
}

/* What the user chose for the file of a disk; NULL: it is in something else. */
static const BlockdevOptionsFile *file_choices(const Node *like)
{
    while (like->file) {
        like = like->file->target;
    }
    /* The branches of both are of one type. */
    return like->options->driver == BLOCKDEV_DRIVER_FILE ||
                   like->options->driver == BLOCKDEV_DRIVER_HOST_DEVICE
               ? &like->options->u.file
               : NULL;
}

/* Options of the protocol node: those of the old one's file where it is a file (aio, locking). */
static BlockdevOptions *coroutine_fn file_options(const SnapshotSyncAction *sa, Error **errp)
{
    const Node *like = model_of(sa->s.old);
    const BlockdevOptionsFile *have = file_choices(like);
    struct json_object *o = json_object_new_object();
    BlockdevOptions *options = NULL;

    json_object_object_add(o, "driver", json_object_new_string(filename_driver(sa->file)));
    json_object_object_add(o, "filename", json_object_new_string(sa->file));
    json_object_object_add(o, "discard", json_object_new_string("unmap"));
    add_cache(o, like);
    if (qapi_parse_BlockdevOptions(o, &options, errp) && have) {
        options->u.file.has_aio = have->has_aio;
        options->u.file.aio = have->aio;
        options->u.file.has_locking = have->has_locking;
        options->u.file.locking = have->locking;
        options->u.file.has_aio_max_batch = have->has_aio_max_batch;
        options->u.file.aio_max_batch = have->aio_max_batch;
    }
    json_object_put(o);
    return options;
}

static BlockdevOptions *overlay_options(const SnapshotSyncAction *sa, const Node *file,
                                        Error **errp)
{
    static const char *const detect[] = {"off", "on", "unmap"};
    const Node *like = model_of(sa->s.old);
    struct json_object *o = json_object_new_object();
    BlockdevOptions *options = NULL;

    json_object_object_add(o, "driver", json_object_new_string(sa->format));
    json_object_object_add(o, "node-name", json_object_new_string(sa->overlay_name));
    json_object_object_add(o, "file", json_object_new_string(file->name));
    json_object_object_add(o, "read-only", json_object_new_boolean(node_is_read_only(like)));
    if (atomic_load(&((Node *)like)->inactive)) {
        json_object_object_add(o, "active", json_object_new_boolean(false));
    }
    json_object_object_add(o, "discard",
                           json_object_new_string(like->discard_unmap ? "unmap" : "ignore"));
    json_object_object_add(o, "detect-zeroes", json_object_new_string(detect[like->detect_zeroes]));
    add_cache(o, like);
    (void)qapi_parse_BlockdevOptions(o, &options, errp);
    json_object_put(o);
    return options;
}

/* Can the file be lent to its node?  Its options are like's. */
static bool will_lend(const Node *like)
{
    const BlockdevOptionsFile *have = file_choices(like);

    return !node_is_read_only(like) && !atomic_load(&((Node *)like)->inactive) &&
           !like->cache_direct && !(have && have->has_locking && have->locking != ON_OFF_AUTO_AUTO);
}

/* What the new image shall be.  *ret_backing is what spec refers to; freed by the caller. */
static CreateSpec create_spec(const SnapshotSyncAction *sa, char **ret_backing)
{
    const PlannedNode *old = sa->s.old;
    CreateSpec spec = {.size = atomic_load(&((Node *)model_of(old))->size)};

    if (old->real) {
        *ret_backing = snapshot_backing_name(old->real);
        spec.backing_format = node_skip_filters(old->real)->driver->name;
    } else {
        const SnapshotSyncAction *maker = (SnapshotSyncAction *)old->maker;

        *ret_backing = g_canonicalize_filename(maker->file, NULL);
        spec.backing_format = maker->format;
    }
    spec.backing_file = *ret_backing;
    spec.written_at_once = will_lend(model_of(old));
    spec.group_uuid = journal_active() ? sa->base.t->group->uuid : NULL;
    return spec;
}

/* What QEMU says of formats and names that cannot be, in its order. */
static const BlockDriver *check_format(const SnapshotSyncAction *sa, Error **errp)
{
    const BlockDriver *drv = driver_find(sa->format);
    g_autofree char *backing = NULL;

    if (sa->mode == SNAPSHOT_EXISTING) {
        if (!drv) {
            error_set(errp, ERROR_UNSUPPORTED, sa->format, "open", "Unknown driver '%s'",
                      sa->format);
        }
        return drv;
    }
    if (!drv) {
        error_set(errp, ERROR_UNSUPPORTED, sa->format, "create", "Unknown file format '%s'",
                  sa->format);
        return NULL;
    }
    if (!drv->lay_out && strcmp(drv->name, "raw") != 0 && strcmp(drv->name, "file") != 0) {
        error_set(errp, ERROR_UNSUPPORTED, sa->format, "create",
                  "Format driver '%s' does not support image creation", sa->format);
        return NULL;
    }
    if (!drv->supports_backing) {
        error_set(errp, ERROR_UNSUPPORTED, sa->format, "create",
                  "Backing file not supported for file format '%s'", sa->format);
        return NULL;
    }
    backing = sa->s.old->real ? g_strdup(sa->s.old->real->filename) : NULL;
    if (g_strcmp0(backing, sa->file) == 0) {
        error_set(errp, ERROR_INVALID, sa->file, "create",
                  "Error: Trying to create an image with the same filename as the backing file");
        return NULL;
    }
    return drv;
}

static bool coroutine_fn open_overlay(SnapshotSyncAction *sa, Error **errp)
{
    g_autoptr(BlockdevOptions) fo = file_options(sa, errp), oo = NULL;
    g_autoptr(Node) file = NULL;

    if (!fo) {
        return false;
    }
    file = node_open_made(fo, NODE_OPEN_HIDDEN, sa->created, errp);
    if (!file) {
        return false;
    }
    oo = overlay_options(sa, file, errp);
    if (!oo) {
        return false;
    }
    sa->overlay = node_open_new_image(oo, NODE_OPEN_HIDDEN | NODE_OPEN_NO_BACKING, sa->base.t,
                                      sa->created ? &sa->image : NULL, errp);
    new_image_clear(&sa->image);
    if (!sa->overlay) {
        return false;
    }
    sa->overlay->auto_name = !sa->snapshot_node_name;
    sa->s.overlay->made = sa->overlay;
    return !sa->created || snapshot_file_step(snapshot_file_finish, sa->created, errp);
}

/* On a worker. */
static bool announce(const SnapshotFileInfo *info, void *opaque, Error **errp)
{
    const SnapshotSyncAction *sa = opaque;
    unsigned index;

    return g_ptr_array_find(sa->base.t->group->members, sa->base.member, &index) &&
           journal_announce(sa->base.t->group, index, info, errp);
}

/* An existing image: can it be opened, and what does its header say? */
static bool coroutine_fn check_existing(SnapshotSyncAction *sa, char **ret_warning, Error **errp)
{
    struct json_object *o = json_object_new_object(), *file = json_object_new_object();
    g_autoptr(BlockdevOptions) options = NULL;
    g_autoptr(Node) n = NULL;

    json_object_object_add(file, "driver", json_object_new_string(filename_driver(sa->file)));
    json_object_object_add(file, "filename", json_object_new_string(sa->file));
    json_object_object_add(o, "driver", json_object_new_string(sa->format));
    json_object_object_add(o, "read-only", json_object_new_boolean(true));
    json_object_object_add(o, "force-share", json_object_new_boolean(true));
    json_object_object_add(o, "file", file);
    if (qapi_parse_BlockdevOptions(o, &options, errp)) {
        n = node_open(options, NODE_OPEN_HIDDEN | NODE_OPEN_NO_BACKING, NULL, errp);
    }
    json_object_put(o);
    if (n) {
        *ret_warning = snapshot_backing_warning(n, sa->s.old);
    }
    return n != NULL;
}

static bool coroutine_fn check(Action *a, char **ret_warning, Error **errp)
{
    SnapshotSyncAction *sa = (SnapshotSyncAction *)a;

    if (!check_format(sa, errp)) {
        return false;
    }
    if (sa->mode == SNAPSHOT_EXISTING) {
        return check_existing(sa, ret_warning, errp);
    } else {
        g_autoptr(SnapshotFile) f = snapshot_file_new(sa->file);

        return snapshot_file_step(snapshot_file_check, f, errp);
    }
}

/* The file with the image in it, not durable yet. */
static bool coroutine_fn make_file(SnapshotSyncAction *sa, const BlockDriver *drv, Error **errp)
{
    g_autofree char *backing_file = NULL;
    CreateSpec spec = create_spec(sa, &backing_file);

    if (!drv->lay_out(&spec, &sa->image, errp)) {
        return false;
    }
    sa->created = snapshot_file_new(sa->file);
    snapshot_file_set_image(sa->created, &sa->image);
    if (spec.written_at_once) {
        snapshot_file_set_lend(sa->created);
    }
    if (journal_active()) {
        snapshot_file_set_announce(sa->created, announce, sa);
    }
    return snapshot_file_step(snapshot_file_prepare, sa->created, errp);
}

static bool coroutine_fn make_overlay(SnapshotSyncAction *sa, Error **errp)
{
    const BlockDriver *drv = check_format(sa, errp);

    if (!drv) {
        return false;
    }
    if (sa->mode == SNAPSHOT_ABSOLUTE_PATHS && !make_file(sa, drv, errp)) {
        return false;
    }
    return open_overlay(sa, errp);
}

static bool coroutine_fn prepare(Action *a, Error **errp)
{
    SnapshotSyncAction *sa = (SnapshotSyncAction *)a;
    SnapshotQuiesce q;
    bool made;

    snapshot_quiesce_begin(&q, &sa->s);
    made = make_overlay(sa, errp);
    return snapshot_quiesce_end(&q, errp) && made;
}

/* ---- link, commit, settle, undo ---- */

static bool coroutine_fn link_overlay(Action *a, Error **errp)
{
    SnapshotSyncAction *sa = (SnapshotSyncAction *)a;

    if (sa->created) {
        g_autofree char *backing_file = NULL;
        CreateSpec spec = create_spec(sa, &backing_file);

        image_created(sa->file, sa->format, &spec);
    }
    return snapshot_link(&sa->s, a->t, errp) &&
           (sa->mode != SNAPSHOT_EXISTING || snapshot_complete_header(&sa->s, a, errp));
}

static void commit(Action *a)
{
    SnapshotSyncAction *sa = (SnapshotSyncAction *)a;

    node_show(sa->overlay);
    if (sa->overlay->parents->len == 0) {
        node_ref(sa->overlay);
        sa->overlay->monitor_owned = true;
    }
}

static void coroutine_fn settled(Action *a)
{
    SnapshotSyncAction *sa = (SnapshotSyncAction *)a;

    snapshot_settled(&sa->s, a);
    if (sa->created) {
        g_ptr_array_add(a->t->files_to_commit, sa->created);
    }
}

static void coroutine_fn undo(Action *a)
{
    SnapshotSyncAction *sa = (SnapshotSyncAction *)a;

    snapshot_unlink(&sa->s);
    g_clear_pointer(&sa->overlay, node_unref);
    node_wait_all_closed(); /* its file must not be written nor locked when it is put back, nor after the reply */
    if (sa->created) {
        snapshot_file_end(snapshot_file_undo, sa->created);
    }
}

static void free_action(Action *a)
{
    SnapshotSyncAction *sa = (SnapshotSyncAction *)a;

    snapshot_clear(&sa->s);
    node_unref(sa->overlay);
    snapshot_file_free(sa->created);
    new_image_clear(&sa->image);
    g_free(sa->device);
    g_free(sa->node_name);
    g_free(sa->file);
    g_free(sa->snapshot_node_name);
    g_free(sa->format);
    g_free(sa->overlay_name);
    g_free(sa);
}

static const ActionOps ops = {
    .name = "blockdev-snapshot-sync",
    .plan = plan,
    .member = member,
    .check = check,
    .filename = filename,
    .file = file,
    .prepare = prepare,
    .link = link_overlay,
    .commit = commit,
    .settled = settled,
    .undo = undo,
    .free = free_action,
};

Action *snapshot_sync_action_new(const SnapshotSyncArgs *args)
{
    SnapshotSyncAction *sa = g_new0(SnapshotSyncAction, 1);

    sa->base.ops = &ops;
    sa->device = g_strdup(args->device);
    sa->node_name = g_strdup(args->node_name);
    sa->file = g_strdup(args->snapshot_file);
    sa->snapshot_node_name = g_strdup(args->snapshot_node_name);
    sa->format = g_strdup(args->format ? args->format : "qcow2");
    sa->mode = args->mode;
    return &sa->base;
}

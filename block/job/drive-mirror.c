/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * drive-mirror: a mirror job whose target is said by a file name.
 *
 * What can be wrong is looked for before a file is made.  The target has no backing node while it is filled; it gets one when users move there: a
 * new image what it was made on top of, an existing one what its header names.
 */
#include "../node-internal.h"
#include "block/backend.h"
#include "mirror.h"
#include "qapi-types.h"
#include "target-image.h"
#include <string.h>

static MirrorSpec mirror_spec(const DriveMirrorArg *a)
{
    bool existing = a->has_mode && a->mode == NEW_IMAGE_MODE_EXISTING;

    return (MirrorSpec){
        .job =
            {
                .id = a->job_id,
                .speed = a->has_speed ? a->speed : 0,
                .manual_finalize = a->has_auto_finalize && !a->auto_finalize,
                .manual_dismiss = a->has_auto_dismiss && !a->auto_dismiss,
            },
        .replaces = a->replaces,
        .sync = a->sync,
        .granularity = a->has_granularity ? a->granularity : 0,
        .has_buf_size = a->has_buf_size,
        .buf_size = a->has_buf_size ? a->buf_size : 0,
        .on_source_error =
            a->has_on_source_error ? (JobOnError)a->on_source_error : JOB_ON_ERROR_REPORT,
        .on_target_error =
            a->has_on_target_error ? (JobOnError)a->on_target_error : JOB_ON_ERROR_REPORT,
        .write_blocking = a->has_copy_mode && a->copy_mode == MIRROR_COPY_MODE_WRITE_BLOCKING,
        .unmap = !a->has_unmap || a->unmap,
        .backing = existing ? MIRROR_BACKING_OPENED : MIRROR_BACKING_OF_SOURCE,
        .max_delay = INT64_C(100000000),
        .timeout = INT64_C(10000000000),
    };
}

/* A node and whether it will be in the way. */
static bool check_replaces(const DriveMirrorArg *a, Node *source, Error **errp)
{
    if (a->replaces && !a->node_name) {
        error_set(errp, ERROR_INVALID, a->device, "mirror",
                  "a node-name must be provided when replacing a named node of the graph");
        return false;
    }
    return mirror_find_replaced(a->replaces, source, errp);
}

/* The image that a new target is put on top of; NULL: none. */
static Node *backing_for(const DriveMirrorArg *a, Node *source)
{
    switch (a->sync) {
    case MIRROR_SYNC_MODE_TOP:
        return mirror_backing_of(source);
    case MIRROR_SYNC_MODE_NONE:
        return node_skip_filters(source);
    default:
        return NULL;
    }
}

static bool coroutine_fn open_target(const DriveMirrorArg *a, const MirrorSpec *spec, Node *source,
                                     TargetImage *ret, Error **errp)
{
    Node *backing = backing_for(a, source);
    g_autofree char *backing_file = backing && backing->filename ? chain_full_name(backing) : NULL;
    TargetImageSpec s = {
        .filename = a->target,
        .format = a->format,
        .node_name = a->node_name,
        .existing = spec->backing == MIRROR_BACKING_OPENED,
        .like = source,
        .size = atomic_load(&source->size),
        .backing_file = backing_file,
        .backing_format = backing_file ? backing->driver->name : NULL,
    };

    if (!s.existing && !s.format) {
        s.format = source->driver->name;
    }
    return target_image_open(&s, ret, errp);
}

static bool coroutine_fn start(const DriveMirrorArg *a, Node *source, Error **errp)
{
    MirrorSpec spec = mirror_spec(a);
    TargetImage target = {0};
    Node *again;
    bool ok;

    if (!mirror_check(&spec, source, errp) || !check_replaces(a, source, errp) ||
        !mirror_check_arguments(&spec, source, errp) ||
        !open_target(a, &spec, source, &target, errp)) {
        return false;
    }
    /* It may be another one after all that. */
    again = mirror_find_source(a->device, errp);
    if (again && again != source) {
        error_set(errp, ERROR_BUSY, a->device, "mirror", "Node '%s' is busy: it was changed",
                  source->name);
    }
    ok = again == source && mirror_start(&spec, source, target.node, errp);
    if (!ok) {
        target_image_undo(&target);
        return false;
    }
    node_unref(target_image_keep(&target)); /* the job has it */
    return true;
}

bool coroutine_fn job_drive_mirror_start(const DriveMirrorArg *a, Error **errp)
{
    Node *source = mirror_find_source(a->device, errp);
    bool ok;

    if (!source) {
        return false;
    }
    node_ref(source);
    ok = start(a, source, errp);
    node_unref(source);
    return ok;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The job `create`: makes an image (blockdev-create).
 *
 * Only the driver is checked before the reply; whatever else is wrong is the job's error.  It has one step, so its progress is 0 or 1 of 1.
 */
#include "block/file.h"
#include "block/graph.h"
#include "block/job.h"
#include "qapi-types.h"
#include "util/worker.h"

typedef struct CreateJob {
    Job job;
    BlockdevCreateOptions *options;
} CreateJob;

/* ---- file ---- */

#define EXTENT_SIZE_HINT (1u << 20) /* as QEMU's; bytes */

typedef struct FileTask {
    const BlockdevCreateOptionsFile *o;
    FileNew how;
    Error *err;
} FileTask;

static int create_file_on_worker(void *opaque)
{
    FileTask *t = opaque;

    return file_image_create(t->o->filename, t->o->size, &t->how, &t->err) ? 0 : -1;
}

static bool coroutine_fn create_file(const BlockdevCreateOptionsFile *o, Error **errp)
{
    uint64_t hint = o->has_extent_size_hint ? o->extent_size_hint : EXTENT_SIZE_HINT;
    FileTask t = {.o = o, .how = {.nocow = o->has_nocow && o->nocow}};

    if (hint > UINT32_MAX) {
        error_set(errp, ERROR_LIMIT, o->filename, "create", "Extent size hint is too large");
        return false;
    }
    t.how.extent_size_hint = hint;
    switch (o->has_preallocation ? o->preallocation : PREALLOC_MODE_OFF) {
    case PREALLOC_MODE_OFF:
        t.how.space = FILE_SPACE_SPARSE;
        break;
    case PREALLOC_MODE_FALLOC:
        t.how.space = FILE_SPACE_RESERVED;
        break;
    case PREALLOC_MODE_FULL:
        t.how.space = FILE_SPACE_FULL;
        break;
    default:
        error_set(errp, ERROR_UNSUPPORTED, o->filename, "create",
                  "Unsupported preallocation mode 'metadata'");
        return false;
    }
    if (worker_run(WORKERS_CONTROL, create_file_on_worker, &t) < 0) {
        error_move(errp, &t.err);
        return false;
    }
    return true;
}

/* ---- qcow2 ---- */

/* The node that `file` says, with a reference. */
static Node *coroutine_fn open_file(const BlockdevRef *file, Error **errp)
{
    Node *n;

    if (file->type != QAPI_KIND_STRING) {
        return node_open(file->u.definition, 0, NULL, errp);
    }
    n = node_lookup(file->u.reference, file->u.reference, errp);
    if (!n || !node_wait_unreserved(n, errp)) {
        return NULL;
    }
    n = node_lookup(file->u.reference, file->u.reference, errp);
    return n ? node_ref(n) : NULL;
}

static bool coroutine_fn format(Edge *e, const BlockDriver *drv, const CreateSpec *spec,
                                Error **errp)
{
    Request r;
    int ret;

    /* What was there is gone: the rest of it must not be taken for parts of the new image. */
    request_begin(&r, REQUEST_WRITE);
    ret = edge_truncate(e, &r, 0, true);
    request_end(&r);
    if (ret < 0 && ret != -ENOTSUP) {
        error_set_errno(errp, -ret, drv->name, "create", "Could not empty the file");
        return false;
    }
    if (drv->create(e, spec, errp)) {
        return true;
    }
    /* No image, and it may have filled the disk. */
    request_begin(&r, REQUEST_WRITE);
    (void)edge_truncate(e, &r, 0, true);
    request_end(&r);
    return false;
}

static bool coroutine_fn go_on(void *opaque)
{
    return job_point(opaque);
}

#define CREATE_PERM   (PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE)
#define CREATE_SHARED (PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED)

/* What a header calls the file of n: relative names in headers are relative to the image, not to us. */
static char *recorded_name(const Node *n)
{
    const char *name = n->filename ? n->filename : "";

    return strchr(name, ':') || g_path_is_absolute(name) ? g_strdup(name)
                                                         : g_canonicalize_filename(name, NULL);
}

static bool coroutine_fn create_qcow2(Job *j, const BlockdevCreateOptionsQcow2 *o, Error **errp)
{
    static const CreateSpace spaces[] = {
        [PREALLOC_MODE_OFF] = CREATE_SPACE_NONE,
        [PREALLOC_MODE_METADATA] = CREATE_SPACE_METADATA,
        [PREALLOC_MODE_FALLOC] = CREATE_SPACE_RESERVED,
        [PREALLOC_MODE_FULL] = CREATE_SPACE_FULL,
    };
    CreateSpec spec = {
        .size = o->size,
        .backing_file = o->backing_file,
        .backing_format = o->has_backing_fmt ? qapi_enum_BlockdevDriver(o->backing_fmt) : NULL,
        .cluster_size = o->has_cluster_size ? o->cluster_size : 0,
        .version = o->has_version && o->version == BLOCKDEV_QCOW2_VERSION_V2 ? 2 : 3,
        .refcount_bits = o->has_refcount_bits ? (uint64_t)o->refcount_bits : 16,
        .lazy_refcounts = o->has_lazy_refcounts && o->lazy_refcounts,
        .zstd = o->has_compression_type && o->compression_type == QCOW2_COMPRESSION_TYPE_ZSTD,
        .space = spaces[o->has_preallocation ? o->preallocation : PREALLOC_MODE_OFF],
        .extended_l2 = o->has_extended_l2 && o->extended_l2,
        .data_file_raw = o->has_data_file_raw && o->data_file_raw,
        .go_on = go_on,
        .go_on_opaque = j,
    };
    g_autoptr(Node) file = NULL, data = NULL;
    g_autofree char *data_name = NULL;
    Edge *e;

    if (o->size % 512) {
        error_set(errp, ERROR_INVALID, "qcow2", "create",
                  "Image size must be a multiple of 512 bytes");
        return false;
    }
    if (o->has_cluster_size && o->cluster_size == 0) {
        spec.cluster_size = 1; /* not the default, and not possible */
    }
    if (o->has_refcount_bits && o->refcount_bits <= 0) {
        spec.refcount_bits = UINT64_MAX;
    }
    file = open_file(o->file, errp);
    if (!file) {
        return false;
    }
    e = job_add_node(j, file, "file", CREATE_PERM, CREATE_SHARED, errp);
    if (e && o->data_file) {
        data = open_file(o->data_file, errp);
        if (!data) {
            return false;
        }
        spec.data_file_name = data_name = recorded_name(data);
        spec.data_file = job_add_node(j, data, "data-file", CREATE_PERM, CREATE_SHARED, errp);
        if (!spec.data_file) {
            return false;
        }
    }
    return e && format(e, driver_find("qcow2"), &spec, errp);
}

/* ---- the job ---- */

static bool coroutine_fn run(Job *j, Error **errp)
{
    CreateJob *c = (CreateJob *)j;
    bool ok;

    job_set_total(j, 1);
    if (c->options->driver == BLOCKDEV_DRIVER_FILE) {
        ok = create_file(&c->options->u.file, errp);
    } else {
        ok = create_qcow2(j, &c->options->u.qcow2, errp);
    }
    job_remove_nodes(j);
    node_wait_all_closed(); /* a file node defined in place is closed when the job says that it is done */
    job_progress(j, 1);
    return ok;
}

static void free_options(Job *j)
{
    qapi_free_BlockdevCreateOptions(((CreateJob *)j)->options);
}

static const JobDriver driver = {
    .kind = JOB_CREATE,
    .size = sizeof(CreateJob),
    .run = run,
    .free = free_options,
};

bool coroutine_fn job_create_start(const char *id, const BlockdevCreateOptions *options,
                                   Error **errp)
{
    JobArgs args = {.id = id, .manual_dismiss = true};
    const char *name = qapi_enum_BlockdevDriver(options->driver);
    Job *j;

    if (options->driver != BLOCKDEV_DRIVER_FILE && options->driver != BLOCKDEV_DRIVER_QCOW2) {
        error_set(errp, ERROR_UNSUPPORTED, name, "create",
                  "Driver does not support blockdev-create");
        return false;
    }
    j = job_new(&driver, &args, errp);
    if (!j) {
        return false;
    }
    ((CreateJob *)j)->options = qapi_copy_BlockdevCreateOptions(options);
    job_start(j);
    return true;
}

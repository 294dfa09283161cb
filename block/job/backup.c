/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The job `backup`: a disk as it is at an instant is copied to a target, while guests go on writing.
 *
 * A copy-before-write filter (block/filter/cbw.h) keeps in the target what guests overwrite; the job's workers copy the rest, from what the filter
 * has still to do.  The instant is that of the transaction that begins the job: its change puts the filter in place.
 *
 *   run      waits until the transaction has settled; then what there is to copy is known:
 *              full           all
 *              top            what the disk's own layer has
 *              bitmap         what the bitmap marks (incremental: the same with on-success)
 *              none           nothing: only what guests overwrite
 *   filter   stays until the job is finalized; then its users move to the disk again
 *   bitmap   from the instant on another map records; see backup-bitmap.c
 *
 * A guest's write waits for a copy of what it overwrites: at most cbw-timeout.  What cannot be copied in time breaks the backup, unless the user
 * said that it is to fail the write; what the target refuses fails the write, unless the user said that it is to break the backup.
 */
#include "backup.h"
#include "chain.h"
#include "../filter/cbw.h"
#include "../node-internal.h"
#include "backup-bitmap.h"
#include "block/backend.h"
#include "block/graph.h"
#include "block/io.h"
#include "chain.h"
#include "copy.h"
#include "job-internal.h"
#include "qapi-types.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>

struct BackupJob {
    Job job;
    BackupSync sync;
    Node *filter;         /* a reference, until clean */
    Node *target;         /* a reference, until clean */
    BackupBitmap *bitmap; /* NULL: none */
    Copy copy;
    const Node *top; /* sync top: the last node of the layer that is copied; only compared */
    bool copying, begun, settled;
};

/* ---- arguments ---- */

static const char *sync_name(const BackupCommon *a)
{
    return qapi_enum_MirrorSyncMode(a->sync);
}

static bool bad(const BackupCommon *a, Error **errp, const char *fmt, ...) G_GNUC_PRINTF(3, 4);

static bool bad(const BackupCommon *a, Error **errp, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    error_set(errp, ERROR_INVALID, a->device, "backup", "%s", text);
    return false;
}

static bool check_perf(const BackupCommon *a, Error **errp)
{
    const BackupPerf *p = a->x_perf;

    if (p && p->has_max_workers && (p->max_workers < 1 || p->max_workers > INT32_MAX)) {
        return bad(a, errp, "max-workers must be between 1 and %d", INT32_MAX);
    }
    if (p && p->has_max_chunk && p->max_chunk < 0) {
        return bad(a, errp, "max-chunk must be zero (which means no limit) or positive");
    }
    return true;
}

bool backup_check_args(const BackupCommon *a, bool has_bitmap, Error **errp)
{
    bool by_bitmap = a->sync == MIRROR_SYNC_MODE_BITMAP || a->sync == MIRROR_SYNC_MODE_INCREMENTAL;

    if (by_bitmap && !a->bitmap) {
        return bad(a, errp, "must provide a valid bitmap name for '%s' sync mode", sync_name(a));
    }
    if (a->sync == MIRROR_SYNC_MODE_INCREMENTAL && a->has_bitmap_mode &&
        a->bitmap_mode != BITMAP_SYNC_MODE_ON_SUCCESS) {
        return bad(a, errp,
                   "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'");
    }
    if (a->bitmap && !has_bitmap) {
        return bad(a, errp, "Bitmap '%s' could not be found", a->bitmap);
    }
    if (a->bitmap && !a->has_bitmap_mode && a->sync != MIRROR_SYNC_MODE_INCREMENTAL) {
        return bad(a, errp, "Bitmap sync mode must be given when providing a bitmap");
    }
    if (a->bitmap && a->sync == MIRROR_SYNC_MODE_NONE) {
        return bad(a, errp, "sync mode 'none' does not produce meaningful bitmap outputs");
    }
    if (a->bitmap && !by_bitmap && a->bitmap_mode == BITMAP_SYNC_MODE_NEVER) {
        return bad(a, errp,
                   "Bitmap sync mode 'never' has no meaningful effect when combined with sync "
                   "mode '%s'",
                   sync_name(a));
    }
    if (!a->bitmap && a->has_bitmap_mode) {
        return bad(a, errp, "Cannot specify bitmap sync mode without a bitmap");
    }
    return true;
}

static bool check_pair(const BackupCommon *a, const Node *source, const Node *target, Error **errp)
{
    uint64_t size = atomic_load(&((Node *)source)->size);

    if (source == target) {
        return bad(a, errp, "Source and target cannot be the same");
    }
    if (a->has_compress && a->compress && !node_can_compress(target)) {
        return bad(a, errp, "Compression is not supported for this drive %s", target->name);
    }
    if (!node_check_no_job(source, errp) || !node_check_no_job(target, errp) ||
        !check_perf(a, errp)) {
        return false;
    }
    if (atomic_load(&((Node *)target)->size) != size) {
        return bad(a, errp, "Source and target image have different sizes");
    }
    return true;
}

bool backup_check_nodes(const BackupCommon *a, const Node *source, const Node *target, Error **errp)
{
    const BackupPerf *p = a->x_perf;
    uint64_t min = p && p->has_min_cluster_size ? p->min_cluster_size : 0;
    uint32_t cluster;

    if (!check_pair(a, source, target, errp) ||
        !cbw_cluster_size((Node *)target, min, &cluster, errp)) {
        return false;
    }
    if (p && p->has_max_chunk && p->max_chunk > 0 && p->max_chunk < cluster) {
        return bad(a, errp,
                   "Required max-chunk (%" PRId64 ") is less than backup cluster size (%" PRIu32
                   ")",
                   p->max_chunk, cluster);
    }
    return true;
}

/* ---- data ---- */

static void copied(void *opaque, uint64_t bytes)
{
    job_progress(&((BackupJob *)opaque)->job, bytes);
}

static void kick(void *opaque)
{
    BackupJob *b = opaque;

    job_kick(&b->job);
    job_unref(&b->job);
}

static void broke(void *opaque, int err)
{
    BackupJob *b = opaque;
    int none = 0;

    atomic_compare_exchange_strong(&b->copy.error, &none, err);
    atomic_fetch_add(&b->job.refs, 1);
    loop_call(loop_control(), kick, b);
}

static int coroutine_fn copy_piece(void *opaque, uint64_t offset, uint64_t bytes, uint8_t *buf,
                                   bool *ret_reading)
{
    BackupJob *b = opaque;
    Cbw *c = cbw_of(b->filter);
    int ret = cbw_copy(c, offset, bytes, buf, MAX(b->copy.piece_max, cbw_cluster(c)), ret_reading);

    return cbw_error(c) < 0 ? 0 : ret; /* then the job ends, and not for this */
}

/* Allocated in the disk's own layer?  For whole clusters, or up to the end. */
static int coroutine_fn own_layer(BackupJob *b, uint64_t offset, uint64_t bytes,
                                  uint64_t *ret_bytes)
{
    Request r;
    int ret;

    request_begin(&r, REQUEST_READ);
    ret = edge_block_status_until(b->filter->file, &r, b->top, guest(offset), bytes, REQ_COPY,
                                  ret_bytes);
    request_end(&r);
    return ret < 0 ? ret : (ret & STATUS_ALLOCATED) != 0;
}

/* sync top: what the disk's own layer has not got need not be copied. */
static int coroutine_fn scan(void *opaque, uint64_t offset, uint64_t bytes, uint64_t *ret_bytes)
{
    BackupJob *b = opaque;
    uint64_t cluster = cbw_cluster(cbw_of(b->filter)), size = b->copy.size, len;
    uint64_t end = MIN(offset + cluster, size);
    int any = own_layer(b, offset, bytes, &len);

    if (any < 0) {
        return any;
    }
    if (offset + len < end) {
        /* A cluster of which only a part may be there. */
        for (uint64_t at = offset + len; at < end && !any; at += len) {
            any = own_layer(b, at, end - at, &len);
            if (any < 0) {
                return any;
            }
        }
        len = end - offset;
    } else if (offset + len < size) {
        len -= len % cluster;
    }
    *ret_bytes = len;
    if (!any) {
        dirty_bitmap_clear(cbw_todo(cbw_of(b->filter)), offset, len);
    }
    return any;
}

/* ---- the job ---- */

static bool ended(const BackupJob *b)
{
    return job_is_cancelled(&b->job) || atomic_load(&((BackupJob *)b)->copy.error) < 0;
}

static void coroutine_fn wait_settled(BackupJob *b)
{
    while (!b->settled) {
        /* A job that is cancelled meanwhile waits all the same: nobody may change the graph here before. */
        if (job_is_cancelled(&b->job)) {
            co_sleep_ns(INT64_C(5000000));
        } else {
            job_idle(&b->job);
        }
    }
}

static bool coroutine_fn copy_all(BackupJob *b, Error **errp)
{
    DirtyBitmap *todo = cbw_todo(cbw_of(b->filter));

    if (b->sync == BACKUP_TOP && !copy_scan(&b->copy)) {
        return false;
    }
    dirty_bitmap_clear(b->copy.todo, 0, b->copy.size);
    dirty_bitmap_merge(b->copy.todo, todo);
    job_set_total(&b->job, atomic_load(&b->job.progress) + cbw_marked(todo));
    if (b->sync == BACKUP_NONE) {
        while (!ended(b)) {
            job_idle(&b->job);
        }
        return false;
    }
    if (!copy_run(&b->copy, -1, false) || ended(b)) {
        return false;
    }
    job_set_total(&b->job, atomic_load(&b->job.progress));
    return node_write_out(b->target, errp);
}

static bool coroutine_fn run(Job *j, Error **errp)
{
    BackupJob *b = (BackupJob *)j;
    bool ok;

    wait_settled(b);
    if (ended(b)) {
        ok = false;
    } else {
        if (b->sync == BACKUP_BITMAP) {
            cbw_restrict(cbw_of(b->filter), backup_bitmap_marks(b->bitmap));
        }
        ok = copy_all(b, errp);
    }
    if (!ok && !*errp && atomic_load(&b->copy.error) < 0) {
        copy_error(&b->copy, errp);
    }
    return ok;
}

static void coroutine_fn commit(Job *j)
{
    BackupJob *b = (BackupJob *)j;

    if (b->bitmap) {
        backup_bitmap_end(g_steal_pointer(&b->bitmap), true, NULL);
    }
}

static void coroutine_fn abort_backup(Job *j)
{
    BackupJob *b = (BackupJob *)j;

    if (b->bitmap) {
        backup_bitmap_end(g_steal_pointer(&b->bitmap), false, cbw_todo(cbw_of(b->filter)));
    }
}

/* Other jobs change chains too, and transactions come first. */
static void coroutine_fn take_out(Node *filter)
{
    for (;;) {
        bool done;

        chain_lock();
        done = cbw_filter_take_out(filter);
        chain_unlock();
        if (done) {
            break;
        }
        co_sleep_ns(INT64_C(10000000));
    }
}

static void coroutine_fn clean(Job *j)
{
    BackupJob *b = (BackupJob *)j;
    Node *f = b->filter;

    while (b->begun && !b->settled) {
        co_sleep_ns(INT64_C(
            5000000)); /* it was cancelled before it began; the transaction still has to tell us */
    }
    if (b->filter) {
        job_remove_nodes(j);
        b->filter = NULL;
        take_out(f);
        cbw_filter_drop(f);
    }
    if (b->copying) {
        copy_clear(&b->copy);
        b->copying = false;
    }
    g_clear_pointer(&b->target, node_unref);
    node_wait_all_closed(); /* the target's file is closed when the job says that it is done */
}

static const JobDriver driver = {
    .kind = JOB_BACKUP,
    .size = sizeof(BackupJob),
    .block_job = true,
    .run = run,
    .commit = commit,
    .abort = abort_backup,
    .clean = clean,
};

/* ---- the beginning ---- */

static BackupSync sync_of(const BackupCommon *a)
{
    switch (a->sync) {
    case MIRROR_SYNC_MODE_TOP:
        return BACKUP_TOP;
    case MIRROR_SYNC_MODE_NONE:
        return BACKUP_NONE;
    case MIRROR_SYNC_MODE_INCREMENTAL:
    case MIRROR_SYNC_MODE_BITMAP:
        return BACKUP_BITMAP;
    default:
        return BACKUP_FULL;
    }
}

static CbwOptions filter_options(const BackupCommon *a, BackupJob *b)
{
    bool says = a->has_on_cbw_error;
    bool snapshot = says && a->on_cbw_error == ON_CBW_ERROR_BREAK_SNAPSHOT;

    return (CbwOptions){
        .break_snapshot = snapshot,
        .timeout_breaks_snapshot = snapshot || !says,
        .timeout_ns = a->has_cbw_timeout ? a->cbw_timeout * INT64_C(1000000000) : CBW_TIMEOUT_NS,
        .min_cluster =
            a->x_perf && a->x_perf->has_min_cluster_size ? a->x_perf->min_cluster_size : 0,
        .compress = a->has_compress && a->compress,
        .discard_source = a->has_discard_source && a->discard_source,
        .copied = copied,
        .broke = broke,
        .opaque = b,
    };
}

static bool coroutine_fn take_nodes(BackupJob *b, const BackupCommon *a, Node *source, Error **errp)
{
    CbwOptions o = filter_options(a, b);

    if (!chain_check_active(b->target, "target", a->filter_node_name,
                            "Could not create node: ", errp) ||
        !chain_check_active(source, "file", a->filter_node_name, "Could not create node: ", errp)) {
        return false;
    }
    b->filter = cbw_filter_new(source, b->target, a->filter_node_name, &o, errp);
    return b->filter && job_add_node(&b->job, b->filter, "main node", PERM_NONE, PERM_ALL, errp) &&
           job_add_node(&b->job, b->target, "target", PERM_NONE, PERM_ALL, errp);
}

BackupJob *coroutine_fn backup_new(const BackupCommon *a, Node *source, Node *target,
                                   UserBitmap *bitmap, JobGroup *group, Error **errp)
{
    JobArgs args = {
        .id = a->job_id ? a->job_id : node_backend_name(source),
        .speed = a->has_speed ? a->speed : 0,
        .manual_finalize = a->has_auto_finalize && !a->auto_finalize,
        .manual_dismiss = a->has_auto_dismiss && !a->auto_dismiss,
        .group = group,
    };
    const BackupPerf *p = a->x_perf;
    BackupJob *b;

    if (!backup_check_nodes(a, source, target, errp)) {
        return NULL;
    }
    b = (BackupJob *)job_new(&driver, &args, errp);
    if (!b) {
        return NULL;
    }
    b->sync = sync_of(a);
    b->target = node_ref(target);
    b->copy = (Copy){
        .job = &b->job,
        .scan = scan,
        .copy = copy_piece,
        .opaque = b,
        .on_error = a->has_on_source_error ? (JobOnError)a->on_source_error : JOB_ON_ERROR_REPORT,
        .on_write_error =
            a->has_on_target_error ? (JobOnError)a->on_target_error : JOB_ON_ERROR_REPORT,
        .size = atomic_load(&source->size),
        .counts_itself = true,
        .workers = p && p->has_max_workers ? (unsigned)p->max_workers : 0,
        .piece_max = p && p->has_max_chunk ? (uint64_t)p->max_chunk : 0,
    };
    b->top = source;
    if (!take_nodes(b, a, source, errp)) {
        backup_undo(b);
        return NULL;
    }
    if (!copy_init(&b->copy, cbw_cluster(cbw_of(b->filter)), errp)) {
        backup_undo(b);
        return NULL;
    }
    b->copying = true;
    b->copy.target = cbw_target(cbw_of(b->filter));
    job_set_total(&b->job, b->copy.size);
    if (bitmap) {
        BitmapSyncMode mode = a->has_bitmap_mode ? a->bitmap_mode : BITMAP_SYNC_MODE_ON_SUCCESS;

        b->bitmap = backup_bitmap_new(source, bitmap, mode, errp);
        if (!b->bitmap) {
            backup_undo(b);
            return NULL;
        }
    }
    return b;
}

Node *backup_filter(const BackupJob *b)
{
    return b->filter;
}

void backup_begin(BackupJob *b)
{
    b->begun = true;
    cbw_filter_in_place(b->filter);
    if (b->bitmap) {
        backup_bitmap_begin(b->bitmap);
    }
}

void backup_start(BackupJob *b)
{
    job_start(&b->job);
}

void coroutine_fn backup_settled(BackupJob *b)
{
    cbw_filter_settled(b->filter);
    if (b->bitmap) {
        backup_bitmap_settled(b->bitmap);
    }
    b->settled = true;
    job_kick(&b->job);
}

void coroutine_fn backup_undo(BackupJob *b)
{
    if (b->bitmap) {
        backup_bitmap_undo(g_steal_pointer(&b->bitmap));
    }
    clean(&b->job);
    job_discard(&b->job);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The job `mirror`: a disk is copied to another one while guests use it, and in the end they use that one, or have a copy.
 *
 * What is written to the source while the job runs is recorded in the bitmap of what is to be copied (dirty-bitmap.h).
 *
 *   copy        the first time round, what mirror-data.c finds
 *   converge    until little is left (converge.h)
 *   ready       the target is flushed; what guests write is copied behind them, or by them (mirror-through.c)
 *   complete    converge again, then pivot (mirror-pivot.c); a cancel without force does the same and leaves the users where they are
 *
 * The job writes to the target and lets nobody read it meanwhile; a snapshot may put it on top of a backing node.
 */
#include "mirror.h"
#include "../node-internal.h"
#include "block/backend.h"
#include "block/graph.h"
#include "block/io.h"
#include "qapi-types.h"
#include "util/log.h"
#include <errno.h>
#include <string.h>

/* Between two tries of what an error of storage is ignored for. */
#define RETRY_NS INT64_C(100000000)
/* A pivot that has to happen now, since the job is pending, is tried this long. */
#define PIVOT_NS INT64_C(30000000000)

/* ---- following ---- */

static void tick(void *opaque)
{
    MirrorJob *m = opaque;
    bool look = mirror_is_through(m) && (!m->synced || atomic_load(&m->suspended));

    if (look || dirty_bitmap_count(m->copy.todo) > 0) {
        job_kick(&m->job);
    } else {
        timer_arm(&m->tick, clock_ns() + CONVERGE_SLICE_NS / 2);
    }
}

static Converge converge_of(MirrorJob *m)
{
    return (Converge){
        .copy = &m->copy,
        .node = m->source,
        .max_delay = mirror_is_through(m) ? 0 : m->max_delay,
    };
}

/* Copies behind the guests until somebody wants an end. */
static bool coroutine_fn follow(MirrorJob *m)
{
    Converge v = converge_of(m);

    timer_init(&m->tick, tick, m);
    while (!m->completing && !job_is_cancelled(&m->job) && atomic_load(&m->copy.error) == 0) {
        mirror_through_look(m);
        timer_arm(&m->tick, clock_ns() + CONVERGE_SLICE_NS / 2);
        job_idle(&m->job);
        timer_cancel(&m->tick);
        if (dirty_bitmap_count(m->copy.todo) > 0 && !m->completing) {
            converge_slice(&v, false);
        }
        converge_total(&m->copy);
    }
    return atomic_load(&m->copy.error) == 0;
}

/* A flush has failed and will for ever (flush.c): to try again, now or when somebody resumes the job, is of no use. */
static bool is_lost(const Node *n)
{
    while (n->file) {
        n = n->file->target;
    }
    return atomic_load(&((Node *)n)->flush_error) < 0;
}

bool coroutine_fn mirror_flush_target(MirrorJob *m)
{
    int none = 0;

    while (job_point(&m->job) || atomic_load(&m->job.soft)) {
        g_autoptr(Error) err = NULL;
        JobOnError policy;

        if (node_write_out(m->target, &err)) {
            return true;
        }
        policy = is_lost(m->target) ? JOB_ON_ERROR_REPORT : m->on_target_error;
        switch (job_storage_error(&m->job, policy, false, err->err ? -err->err : -EIO)) {
        case JOB_ACTION_REPORT:
            atomic_compare_exchange_strong(&m->copy.error, &none, err->err ? -err->err : -EIO);
            return false;
        case JOB_ACTION_IGNORE:
            co_sleep_ns(RETRY_NS);
            break;
        case JOB_ACTION_STOP:
            break; /* at the point */
        }
    }
    return false;
}

/* ---- life ---- */

static bool coroutine_fn first_time(MirrorJob *m)
{
    Converge v = converge_of(m);

    return (m->what == MIRROR_NONE || copy_scan(&m->copy)) && converge_run(&v) &&
           mirror_flush_target(m);
}

static bool coroutine_fn run(Job *j, Error **errp)
{
    MirrorJob *m = (MirrorJob *)j;
    bool ok;

    if (!mirror_data_init(m, errp)) {
        return false;
    }
    m->copying = true;
    node_record(m->source, m->copy.todo);
    mirror_through_begin(m);
    m->recording = true;
    ok = first_time(m);
    if (ok) {
        mirror_through_look(m);
        job_ready(j);
        ok = follow(m);
    }
    if (!ok || (job_is_cancelled(j) && !atomic_load(&j->soft))) {
        if (atomic_load(&m->copy.error) < 0) {
            copy_error(&m->copy, errp);
        }
        return false;
    }
    if (!m->completing || j->auto_finalize) {
        ok = mirror_meet(m, m->completing, INT64_MAX, errp);
        if (m->pivoted) {
            /* Too late to be cancelled. */
            atomic_store(&j->cancelled, false);
        }
    }
    return ok;
}

static bool coroutine_fn prepare(Job *j, Error **errp)
{
    MirrorJob *m = (MirrorJob *)j;

    return !m->completing || m->pivoted || mirror_meet(m, true, clock_ns() + PIVOT_NS, errp);
}

static void coroutine_fn clean(Job *j)
{
    MirrorJob *m = (MirrorJob *)j;
    bool source_is_backing = m->backing_edge && m->pivoted && m->backing_edge->target == m->source;
    g_autoptr(Error) err = NULL;

    if (m->recording) {
        node_set_pace(m->source, 0, 0);
        mirror_through_end(m);
        node_unrecord(m->source, m->copy.todo);
        m->recording = false;
    }
    if (m->copying) {
        copy_clear(&m->copy);
        m->copying = false;
    }
    if (m->backing_edge && !m->pivoted) {
        edge_detach(m->backing_edge);
    }
    m->backing_edge = NULL;
    job_remove_nodes(j);
    chain_remove_filter(m->filter);
    m->filter = NULL;
    if (m->target) {
        perm_lower(m->target);
    }
    if (source_is_backing && !node_set_read_only(m->source, &err)) {
        log_warn("%s: stays open for writing: %s", m->source->name, err->message);
    }
    g_clear_pointer(&m->replaced, node_unref);
    g_clear_pointer(&m->source, node_unref);
    g_clear_pointer(&m->target, node_unref);
    node_wait_all_closed(); /* nodes that nobody uses any more are gone when the job says that it is done */
}

static bool complete(Job *j, Error **errp)
{
    MirrorJob *m = (MirrorJob *)j;

    (void)errp;
    m->completing = true;
    job_kick(j);
    return true;
}

static bool soft_cancel(Job *j)
{
    return job_is_ready(j);
}

static bool change(Job *j, const BlockJobChangeOptions *o, Error **errp)
{
    (void)errp;
    mirror_through_set((MirrorJob *)j, o->u.mirror.copy_mode == MIRROR_COPY_MODE_WRITE_BLOCKING);
    return true;
}

static void query(const Job *j, BlockJobInfo *info)
{
    const MirrorJob *m = (const MirrorJob *)j;

    info->u.mirror.actively_synced =
        m->synced && mirror_is_through(m) && !atomic_load(&((MirrorJob *)m)->suspended);
}

static const JobDriver driver = {
    .kind = JOB_MIRROR,
    .size = sizeof(MirrorJob),
    .block_job = true,
    .run = run,
    .prepare = prepare,
    .clean = clean,
    .complete = complete,
    .soft_cancel = soft_cancel,
    .change = change,
    .query = query,
};

/* ---- the beginning ---- */

/* Nobody but jobs and transactions may have it, and it is nobody's backing node. */
static bool check_free(const Node *n, Error **errp)
{
    const Edge *e = node_find_use(n, EDGE_COW);

    if (!node_check_no_job(n, errp)) {
        return false;
    }
    if (e) {
        error_set(errp, ERROR_BUSY, n->name, "mirror",
                  "Node '%s' is busy: node is used as backing hd of '%s'", n->name,
                  e->parent->name);
    }
    return !e;
}

static Node *find_source(const char *device, Error **errp)
{
    Node *n = node_lookup(device, device, errp);

    for (guint i = 0; n && i < n->parents->len; i++) {
        const Edge *e = g_ptr_array_index(n->parents, i);

        if (e->parent && !e->parent->hidden && !chain_is_filter(e->parent)) {
            error_set(errp, ERROR_INVALID, device, "mirror", "Need a root block node");
            return NULL;
        }
    }
    return n;
}

Node *coroutine_fn mirror_find_source(const char *device, Error **errp)
{
    Node *n = find_source(device, errp);

    if (!n || !node_wait_unreserved(n, errp)) {
        return NULL;
    }
    return find_source(device, errp);
}

Node *mirror_backing_of(Node *n)
{
    return chain_backing(node_skip_filters(n));
}

/* Nobody but the node above, and jobs. */
static bool has_one_parent(const Node *n)
{
    unsigned others = 0;

    for (guint i = 0; i < n->parents->len; i++) {
        others += !edge_is_job(g_ptr_array_index(n->parents, i));
    }
    return others == 1;
}

/* voted: there is a quorum above. */
static bool can_replace(const Node *n, const Node *replaced, bool voted)
{
    if (voted && !has_one_parent(n)) {
        return false; /* whoever reads it may have read what the others of the quorum do not have */
    }
    if (n == replaced) {
        return true;
    }
    for (guint i = 0; n->driver->replicates && i < n->children->len; i++) {
        if (can_replace(((const Edge *)g_ptr_array_index(n->children, i))->target, replaced,
                        true)) {
            return true;
        }
    }
    return n->driver->is_filter && n->file && can_replace(n->file->target, replaced, voted);
}

bool mirror_can_replace(const Node *source, const Node *replaced)
{
    return can_replace(source, replaced, false);
}

Node *mirror_find_replaced(const char *replaces, Node *source, Error **errp)
{
    Node *n = source;

    if (!replaces) {
        return n;
    }
    n = node_find(replaces);
    if (!n) {
        error_set(errp, ERROR_NOT_FOUND, replaces, "mirror",
                  "Failed to find node with node-name='%s'", replaces);
        return NULL;
    }
    if (!check_free(n, errp)) {
        return NULL;
    }
    if (!mirror_can_replace(source, n)) {
        error_set(errp, ERROR_INVALID, replaces, "mirror",
                  "Cannot replace '%s' by a node mirrored from '%s', because it cannot be "
                  "guaranteed that doing so would not lead to an abrupt change of visible data",
                  n->name, source->name);
        return NULL;
    }
    if (atomic_load(&n->size) != atomic_load(&source->size)) {
        error_set(errp, ERROR_INVALID, replaces, "mirror",
                  "cannot replace image with a mirror image of different size");
        return NULL;
    }
    return n;
}

bool mirror_check(const MirrorSpec *s, Node *source, Error **errp)
{
    const char *problem = NULL;

    if (s->granularity && (s->granularity < 512 || s->granularity > UINT32_C(64) << 20)) {
        problem = "a value in range [512B, 64MB]";
    } else if (s->granularity & (s->granularity - 1)) {
        problem = "a power of 2";
    }
    if (problem) {
        error_set(errp, ERROR_INVALID, source->name, "mirror", "Parameter 'granularity' expects %s",
                  problem);
        return false;
    }
    return check_free(source, errp);
}

bool mirror_check_arguments(const MirrorSpec *s, Node *source, Error **errp)
{
    if (s->sync == MIRROR_SYNC_MODE_INCREMENTAL || s->sync == MIRROR_SYNC_MODE_BITMAP) {
        error_set(errp, ERROR_UNSUPPORTED, source->name, "mirror", "Sync mode '%s' not supported",
                  qapi_enum_MirrorSyncMode(s->sync));
        return false;
    }
    if (s->has_buf_size && s->buf_size < 0) {
        error_set(errp, ERROR_INVALID, source->name, "mirror", "Invalid parameter 'buf-size'");
        return false;
    }
    return true;
}

/* In QEMU's order. */
static bool check_rest(const MirrorSpec *s, Node *source, Node *target, Error **errp)
{
    if (!mirror_check(s, source, errp) || !check_free(target, errp) ||
        !mirror_find_replaced(s->replaces, source, errp) ||
        !mirror_check_arguments(s, source, errp)) {
        return false;
    }
    if (source == target) {
        error_set(errp, ERROR_INVALID, source->name, "mirror", "Can't mirror node into itself");
        return false;
    }
    if (s->backing == MIRROR_BACKING_OF_SOURCE && s->sync == MIRROR_SYNC_MODE_NONE &&
        mirror_find_replaced(s->replaces, source, NULL) != source) {
        /* The target would be below the source, which it needs below it. */
        error_set(errp, ERROR_INVALID, source->name, "mirror",
                  "Making '%s' a backing child of '%s' would create a cycle", source->name,
                  target->name);
        return false;
    }
    return true;
}

static MirrorWhat what_of(const MirrorSpec *s, Node *source)
{
    if (s->sync == MIRROR_SYNC_MODE_NONE) {
        return MIRROR_NONE;
    }
    return s->sync == MIRROR_SYNC_MODE_TOP && mirror_backing_of(source) ? MIRROR_TOP : MIRROR_FULL;
}

static bool coroutine_fn take_nodes(MirrorJob *m, Error **errp)
{
    Job *j = &m->job;

    m->source_edge = job_add_node(j, m->source, "source", PERM_CONSISTENT_READ, PERM_ALL, errp);
    if (!m->source_edge) {
        return false;
    }
    m->target_edge = job_add_node(j, m->target, "target", PERM_WRITE, PERM_WRITE_UNCHANGED, errp);
    return m->target_edge && (m->replaced == m->source ||
                              job_add_node(j, m->replaced, "replaced", PERM_NONE, PERM_ALL, errp));
}

static bool coroutine_fn start(const MirrorSpec *s, Node *source, Node *target, Error **errp)
{
    JobArgs args = s->job;
    MirrorJob *m;

    if (!check_rest(s, source, target, errp)) {
        return false;
    }
    if (s->filter_name &&
        (!node_name_check(s->filter_name, errp) || !node_name_reserve(s->filter_name, s, errp))) {
        return false;
    }
    node_name_release(s->filter_name ? s->filter_name : "", s);
    if (!chain_check_active(source, "backing", s->filter_name, "", errp)) {
        return false;
    }
    if (!args.id) {
        args.id = node_backend_name(source);
    }
    m = (MirrorJob *)job_new(&driver, &args, errp);
    if (!m) {
        return false;
    }
    m->source = node_ref(source);
    m->target = node_ref(target);
    m->replaced = node_ref(mirror_find_replaced(s->replaces, source, errp));
    m->what = what_of(s, source);
    m->backing = s->backing;
    m->target_is_zero = s->target_is_zero;
    m->unmap = s->unmap;
    m->granularity = s->granularity;
    m->buf_size = s->buf_size;
    m->max_delay = s->max_delay;
    m->timeout = s->timeout;
    m->on_target_error = s->on_target_error;
    atomic_store(&m->follower.active, s->write_blocking);
    m->copy.job = &m->job;
    m->copy.on_error = s->on_source_error;
    m->copy.on_write_error = s->on_target_error;
    if (!take_nodes(m, errp) ||
        !chain_add_filter(source, s->filter_name, "mirror_top", &m->filter, errp)) {
        clean(&m->job);
        job_drop(&m->job);
        return false;
    }
    job_start(&m->job);
    return true;
}

bool coroutine_fn mirror_start(const MirrorSpec *s, Node *source, Node *target, Error **errp)
{
    bool ok;

    chain_lock();
    ok = start(s, source, target, errp);
    chain_unlock();
    return ok;
}

bool coroutine_fn job_mirror_start(const BlockdevMirrorArg *a, Error **errp)
{
    MirrorSpec s = {
        .job =
            {
                .id = a->job_id,
                .speed = a->has_speed ? a->speed : 0,
                .manual_finalize = a->has_auto_finalize && !a->auto_finalize,
                .manual_dismiss = a->has_auto_dismiss && !a->auto_dismiss,
            },
        .replaces = a->replaces,
        .filter_name = a->filter_node_name,
        .sync = a->sync,
        .granularity = a->has_granularity ? a->granularity : 0,
        .has_buf_size = a->has_buf_size,
        .buf_size = a->has_buf_size ? a->buf_size : 0,
        .on_source_error =
            a->has_on_source_error ? (JobOnError)a->on_source_error : JOB_ON_ERROR_REPORT,
        .on_target_error =
            a->has_on_target_error ? (JobOnError)a->on_target_error : JOB_ON_ERROR_REPORT,
        .write_blocking = a->has_copy_mode && a->copy_mode == MIRROR_COPY_MODE_WRITE_BLOCKING,
        .target_is_zero = a->has_target_is_zero && a->target_is_zero,
        .unmap = true,
        .backing = MIRROR_BACKING_AS_IS,
        .max_delay = (a->has_max_write_delay ? a->max_write_delay : 100) * INT64_C(1000000),
        .timeout = (a->has_target_timeout ? a->target_timeout : 10000) * INT64_C(1000000),
    };
    Node *source = mirror_find_source(a->device, errp), *target;

    if (!source) {
        return false;
    }
    target = node_lookup(a->target, a->target, errp);
    if (!target || !node_wait_unreserved(target, errp)) {
        return false;
    }
    /* They may be others after a wait. */
    source = mirror_find_source(a->device, errp);
    target = source ? node_lookup(a->target, a->target, errp) : NULL;
    return target && mirror_start(&s, source, target, errp);
}

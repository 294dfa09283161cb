/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The job `commit`: what the nodes from top down to base have, and base has not, is written into base.
 *
 *   intermediate  top has overlays and no writers: they get base as their backing node in the end
 *   active        top is what guests write to: they move to base in the end (commit-active.c)
 *
 * While it runs, base changes only where some node from top down to above base decides, so nobody who reads top or above sees it.  Reading a
 * node in between, or another overlay of base, would show it: the job shares neither.  The backing edges from top down to base are
 * marked lenient for it (perm.c).
 *
 * Base was read-only, as a backing node is, and becomes writable for the job.
 *
 * The end of an intermediate commit, each step durable before the next:
 *   data in base | header of every overlay of top names base | journal | the overlays' edges move, at one instant
 * After a crash in between the chain is whole either way, since base reads the same through top as without it.
 */
#include "commit.h"
#include "job-internal.h"
#include "../node-internal.h"
#include "block/backend.h"
#include "block/graph.h"
#include "block/io.h"
#include "qapi-types.h"
#include "util/log.h"
#include <errno.h>
#include <string.h>

/* ---- data ---- */

static int coroutine_fn scan(void *opaque, uint64_t offset, uint64_t bytes, uint64_t *ret_bytes)
{
    CommitJob *c = opaque;
    Request r;
    int ret;

    request_begin(&r, REQUEST_READ);
    ret = edge_block_status_until(c->top_edge, &r, c->last, guest(offset), bytes, REQ_COPY,
                                  ret_bytes);
    request_end(&r);
    return ret < 0 ? ret : (ret & STATUS_ALLOCATED) != 0;
}

static int coroutine_fn write_down(CommitJob *c, uint64_t offset, void *buf, uint64_t bytes,
                                   bool zero)
{
    Request r;
    int ret;

    request_begin(&r, REQUEST_WRITE);
    ret = zero ? edge_pwrite_zeroes(c->base_edge, &r, guest(offset), bytes, REQ_MAY_UNMAP)
               : edge_pwrite(c->base_edge, &r, guest(offset), buf, bytes, 0);
    request_end(&r);
    return ret;
}

static int coroutine_fn copy_down(void *opaque, uint64_t offset, uint64_t bytes, uint8_t *buf,
                                  bool *ret_reading)
{
    CommitJob *c = opaque;
    uint64_t end = offset + bytes, len;
    int ret = 0, status;

    for (; offset < end && ret == 0; offset += len) {
        Request r;

        *ret_reading = true;
        request_begin(&r, REQUEST_READ);
        ret = status = edge_block_status_until(c->top_edge, &r, c->last, guest(offset),
                                               end - offset, REQ_COPY, &len);
        if (ret >= 0) {
            ret = status & STATUS_DATA
                      ? edge_pread(c->top_edge, &r, guest(offset), buf, len, REQ_COPY)
                      : 0;
        }
        request_end(&r);
        if (ret == 0 && (status & STATUS_ALLOCATED)) {
            *ret_reading = false;
            ret =
                write_down(c, offset, buf, len, (status & STATUS_ZERO) || buffer_is_zero(buf, len));
        }
    }
    return ret;
}

static bool coroutine_fn grow_base(CommitJob *c, Error **errp)
{
    uint64_t size = atomic_load(&c->top->size);
    Request r;
    int ret = 0;

    if (atomic_load(&c->base->size) < size) {
        request_begin(&r, REQUEST_WRITE);
        uint64_t from = atomic_load(&c->base->size);

        ret = edge_truncate(c->base_edge, &r, size, false);
        if (ret == 0 && !edge_grows_zero(c->base_edge, &r)) {
            ret = edge_pwrite_zeroes(c->base_edge, &r, guest(from), size - from, REQ_MAY_UNMAP);
        }
        request_end(&r);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, c->base->name, "resize", "Could not resize node '%s'",
                        c->base->name);
        return false;
    }
    return true;
}

/* An overlay that is longer than top read zeroes behind its end; base must not show more. */
static bool coroutine_fn zero_tail(CommitJob *c, Error **errp)
{
    g_autoptr(GPtrArray) edges = chain_overlay_edges(c->top);
    uint64_t from = atomic_load(&c->top->size), to = 0;
    int ret;

    for (guint i = 0; i < edges->len; i++) {
        const Edge *e = g_ptr_array_index(edges, i);

        to = MAX(to, atomic_load(&e->parent->size));
    }
    to = MIN(to, atomic_load(&c->base->size));
    ret = from < to ? write_down(c, from, NULL, to - from, true) : 0;
    if (ret < 0) {
        error_set_errno(errp, -ret, c->base->name, "write", "Could not write to node '%s'",
                        c->base->name);
    }
    return ret == 0;
}

static bool coroutine_fn intermediate_run(CommitJob *c, Error **errp)
{
    job_set_total(&c->job, c->copy.size);
    if (!copy_scan(&c->copy) || !copy_run(&c->copy, -1, false)) {
        if (atomic_load(&c->copy.error) < 0) {
            copy_error(&c->copy, errp);
        }
        return false;
    }
    atomic_store(&c->job.progress, c->copy.size);
    return zero_tail(c, errp);
}

static bool coroutine_fn run(Job *j, Error **errp)
{
    CommitJob *c = (CommitJob *)j;

    if (!grow_base(c, errp)) {
        return false;
    }
    c->copy.size = atomic_load(&c->top->size);
    c->copy.target = c->base_edge;
    if (!copy_init(&c->copy, chain_granularity(c->base, c->copy.size), errp)) {
        return false;
    }
    c->copying = true;
    return c->active ? commit_active_run(c, errp) : intermediate_run(c, errp);
}

/* ---- the end ---- */

Node *commit_next_moved(const CommitJob *c, const Node *n)
{
    return n == c->top ? NULL : chain_below(n);
}

/* Edges that shall lead to `to`: all but those of jobs and of our filter. */
static GPtrArray *edges_to_move(CommitJob *c)
{
    GPtrArray *edges = g_ptr_array_new();

    for (Node *n = c->from; n; n = commit_next_moved(c, n)) {
        for (guint i = 0; i < n->parents->len; i++) {
            Edge *e = g_ptr_array_index(n->parents, i);

            if (!edge_is_job(e) && e->parent != c->filter) {
                g_ptr_array_add(edges, e);
            }
        }
    }
    return edges;
}

/* All overlays' headers name base, or all name what they did. */
static bool coroutine_fn write_headers(CommitJob *c, Error **errp)
{
    g_autoptr(GPtrArray) edges = chain_overlay_edges(c->top);

    for (guint i = 0; i < edges->len; i++) {
        Node *overlay = ((Edge *)g_ptr_array_index(edges, i))->parent;

        if (chain_write_backing(overlay, c->base, c->backing_file, c->mask_protocol, errp)) {
            continue;
        }
        while (i-- > 0) {
            g_autoptr(Error) err = NULL;

            overlay = ((Edge *)g_ptr_array_index(edges, i))->parent;
            if (!chain_write_backing(overlay, c->top, NULL, c->mask_protocol, &err)) {
                log_warn("%s: its header names a backing file that it has not got yet: %s",
                         overlay->name, err->message);
            }
        }
        return false;
    }
    return true;
}

static bool coroutine_fn relink(CommitJob *c, Error **errp)
{
    g_autoptr(GPtrArray) edges = chain_overlay_edges(c->top);
    Node *overlay = edges->len > 0 ? ((Edge *)g_ptr_array_index(edges, 0))->parent : NULL;

    for (Node *n = c->top; n && n != c->base; n = chain_backing(n)) {
        if (!chain_relink(n, NULL, errp)) {
            return false;
        }
    }
    return chain_relink(c->base, overlay, errp);
}

static bool coroutine_fn intermediate_prepare(CommitJob *c, Error **errp)
{
    g_autoptr(GPtrArray) edges = NULL;
    bool ok;

    if (!node_write_out(c->base, errp)) {
        return false;
    }
    chain_lock();
    ok = write_headers(c, errp) && relink(c, errp);
    if (ok) {
        edges = edges_to_move(c);
        chain_move(edges, c->to);
    }
    chain_unlock();
    return ok;
}

static bool coroutine_fn prepare(Job *j, Error **errp)
{
    CommitJob *c = (CommitJob *)j;

    return c->active ? commit_active_prepare(c, errp) : intermediate_prepare(c, errp);
}

static void coroutine_fn clean(Job *j)
{
    CommitJob *c = (CommitJob *)j;
    g_autoptr(Error) err = NULL;

    if (c->recording) {
        node_set_pace(c->top, 0, 0);
        node_unrecord(c->top, c->copy.todo);
        c->recording = false;
    }
    if (c->copying) {
        copy_clear(&c->copy);
        c->copying = false;
    }
    job_remove_nodes(j);
    chain_remove_filter(c->filter);
    c->filter = NULL;
    for (Node *n = c->to; c->to_was_read_only && !c->pivoted && n != c->base; n = chain_below(n)) {
        g_autoptr(Error) filter_err = NULL;

        /* Filters: nothing of their own to write, but flushing them flushes what is below. */
        if (!node_set_read_only(n, &filter_err)) {
            log_warn("%s: stays open for writing: %s", n->name, filter_err->message);
        }
    }
    if (c->base_was_read_only && !c->pivoted && !node_set_read_only(c->base, &err)) {
        log_warn("%s: stays open for writing: %s", c->base->name, err->message);
    }
    if (c->lenient) {
        chain_set_lenient(c->top, c->base, false);
        c->lenient = false;
    }
    perm_lower(c->to);
    g_clear_pointer(&c->from, node_unref);
    g_clear_pointer(&c->to, node_unref);
    g_clear_pointer(&c->device, node_unref);
    g_clear_pointer(&c->top, node_unref);
    g_clear_pointer(&c->base, node_unref);
    node_wait_all_closed(); /* nodes that only the chain needed are gone when the job says that it is done */
}

static void free_commit(Job *j)
{
    g_free(((CommitJob *)j)->backing_file);
}

static const JobDriver driver_intermediate = {
    .kind = JOB_COMMIT,
    .size = sizeof(CommitJob),
    .block_job = true,
    .run = run,
    .prepare = prepare,
    .clean = clean,
    .free = free_commit,
};

static const JobDriver driver_active = {
    .kind = JOB_COMMIT,
    .size = sizeof(CommitJob),
    .block_job = true,
    .run = run,
    .prepare = prepare,
    .clean = clean,
    .complete = commit_active_complete,
    .soft_cancel = commit_active_soft_cancel,
    .free = free_commit,
};

/* ---- the beginning ---- */

/* The device: a node that no other node uses (filters excepted, as all of them are seen through). */
static Node *find_device(const char *name, Error **errp)
{
    g_autoptr(GPtrArray) overlays = NULL;
    Node *n;

    if (!node_find(name) && !backend_find(name)) {
        error_set_class(errp, ERROR_CLASS_DEVICE_NOT_FOUND, ERROR_NOT_FOUND, name, "commit",
                        "Device '%s' not found", name);
        return NULL;
    }
    n = node_lookup(name, name, errp);
    for (guint i = 0; n && i < n->parents->len; i++) {
        const Edge *e = g_ptr_array_index(n->parents, i);

        if (e->parent && !e->parent->hidden && e->role != EDGE_FILTERED) {
            error_set(errp, ERROR_INVALID, name, "commit", "Need a root block node");
            return NULL;
        }
    }
    overlays = n ? chain_overlay_edges(n) : NULL;
    for (guint i = 0; n && i < overlays->len; i++) {
        if (!((Edge *)g_ptr_array_index(overlays, i))->parent->hidden) {
            error_set(errp, ERROR_INVALID, name, "commit", "Need a root block node");
            return NULL;
        }
    }
    return n;
}

static bool not_in_chain(const Node *n, Error **errp)
{
    error_set(errp, ERROR_INVALID, n->name, "commit", "'%s' is not in this backing file chain",
              n->name);
    return false;
}

typedef struct Ends {
    Node *device;    /* as named */
    Node *from, *to; /* CommitJob */
} Ends;

static bool find_ends(const BlockCommitArg *a, Ends *ret, Error **errp)
{
    Node *device = find_device(a->device, errp), *top, *base;
    g_autofree char *shown = NULL;

    if (!device) {
        return false;
    }
    if (a->top_node && a->top) {
        error_set(errp, ERROR_INVALID, a->device, "commit",
                  "'top-node' and 'top' are mutually exclusive");
        return false;
    }
    top = device;
    shown = node_shown_filename(device);
    if (a->top_node) {
        top = chain_named(a->top_node, errp);
        if (!top) {
            return false;
        }
        if (!chain_contains(device, top)) {
            return not_in_chain(top, errp);
        }
    } else if (a->top && g_strcmp0(device->filename, a->top) != 0 &&
               g_strcmp0(shown, a->top) != 0) {
        top = chain_find_file(device, a->top);
        if (!top) {
            error_set(errp, ERROR_NOT_FOUND, a->device, "commit", "Top image file %s not found",
                      a->top);
            return false;
        }
    }
    if (a->base_node && a->base) {
        error_set(errp, ERROR_INVALID, a->device, "commit",
                  "'base-node' and 'base' are mutually exclusive");
        return false;
    }
    if (a->base_node) {
        base = chain_named(a->base_node, errp);
        if (!base) {
            return false;
        }
        if (!chain_contains(top, base)) {
            return not_in_chain(base, errp);
        }
    } else if (a->base) {
        base = chain_find_file(top, a->base);
        if (!base) {
            error_set(errp, ERROR_NOT_FOUND, a->device, "commit",
                      "Can't find '%s' in the backing chain", a->base);
            return false;
        }
    } else {
        for (base = node_skip_filters(top); chain_backing(base); base = chain_backing(base)) {
        }
        if (base == node_skip_filters(top)) {
            error_set(errp, ERROR_INVALID, a->device, "commit", "There is no backing image");
            return false;
        }
    }
    if (node_skip_filters(top) == node_skip_filters(base)) {
        error_set(errp, ERROR_INVALID, a->device, "commit",
                  top == base ? "cannot commit an image into itself"
                              : "Invalid files for merge: top and base are the same");
        return false;
    }
    *ret = (Ends){.device = device, .from = top, .to = base};
    return true;
}

/* The same when nobody else has the nodes. */
static bool coroutine_fn find_free_ends(const BlockCommitArg *a, Ends *ret, Error **errp)
{
    return find_ends(a, ret, errp) &&
           chain_wait_free(ret->device, node_skip_filters(ret->device), errp) &&
           find_ends(a, ret, errp) &&
           chain_wait_free(ret->from, node_skip_filters(ret->to), errp) && find_ends(a, ret, errp);
}

/* Filters from n down to the image `end`, which are neither changed nor removed meanwhile.  shared: what their users may do. */
static bool coroutine_fn take_filters(CommitJob *c, Node *n, const Node *end, const char *name,
                                      unsigned shared, Error **errp)
{
    for (; n != end; n = chain_below(n)) {
        if (!job_add_node(&c->job, n, name, PERM_NONE, shared, errp)) {
            return false;
        }
    }
    return true;
}

/* Base, and the filters above it that stay, become writable. */
static bool coroutine_fn take_base(CommitJob *c, Error **errp)
{
    bool grow = atomic_load(&c->base->size) < atomic_load(&c->top->size);
    Node *n;

    c->base_was_read_only = atomic_load(&c->base->read_only);
    if (!node_set_writable(c->base, errp)) {
        c->base_was_read_only = false;
        return false;
    }
    c->base_edge = job_add_node(&c->job, c->base, "base",
                                PERM_CONSISTENT_READ | PERM_WRITE | (grow ? PERM_RESIZE : 0),
                                PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED, errp);
    if (!c->base_edge || c->to == c->base) {
        return c->base_edge;
    }
    c->to_edge = job_add_node(&c->job, c->to, "base", PERM_NONE, PERM_ALL, errp);
    if (!c->to_edge || !take_filters(c, chain_below(c->to), c->base, "base", PERM_ALL, errp)) {
        return false;
    }
    c->to_was_read_only = atomic_load(&c->to->read_only);
    for (n = c->base; c->active && n != c->to;) {
        n = chain_above(c->to, n);
        if (!node_set_writable(n, errp)) {
            return false;
        }
    }
    return true;
}

/* Holds the nodes, and makes base writable. */
static bool coroutine_fn take_nodes(CommitJob *c, Error **errp)
{
    Job *j = &c->job;

    c->last = chain_overlay(c->top, c->base);
    /* First of all what keeps transactions away. */
    if (c->device != c->top &&
        !job_add_node(j, c->device, "main node", PERM_NONE, PERM_ALL, errp)) {
        return false;
    }
    c->top_edge =
        job_add_node(j, c->top, "top", PERM_CONSISTENT_READ,
                     c->active ? PERM_ALL : PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED, errp);
    if (!c->top_edge || !take_filters(c, c->from, c->top, "top", PERM_ALL, errp)) {
        return false;
    }
    chain_set_lenient(c->top, c->base, true);
    c->lenient = true;
    for (Node *n = chain_below(c->top); n != c->to && n != c->base; n = chain_below(n)) {
        /* Who reads base by a filter is one who reads base. */
        bool is_base = node_skip_filters(n) == c->base;

        if (!job_add_node(j, n, "intermediate node", PERM_NONE,
                          PERM_WRITE_UNCHANGED | PERM_WRITE | (is_base ? PERM_CONSISTENT_READ : 0),
                          errp)) {
            return false;
        }
    }
    return take_base(c, errp);
}

bool coroutine_fn commit_start(const BlockCommitArg *a, bool once, CommitJob **ret_job,
                               Error **errp)
{
    JobArgs args = {
        .id = a->job_id,
        .speed = a->has_speed ? a->speed : 0,
        .manual_finalize = a->has_auto_finalize && !a->auto_finalize,
        .manual_dismiss = a->has_auto_dismiss && !a->auto_dismiss,
        .unseen = once,
    };
    Node *device, *top;
    CommitJob *c;
    bool active;
    Ends ends;

    if (!find_free_ends(a, &ends, errp)) {
        return false;
    }
    if (!args.id) {
        args.id = node_backend_name(ends.device);
    }
    device = node_skip_filters(ends.device);
    top = node_skip_filters(ends.from);
    active = top == device || (top->perm & PERM_WRITE);
    if (active && a->backing_file) {
        error_set(errp, ERROR_INVALID, a->device, "commit",
                  "'backing-file' specified, but 'top' is the active layer");
        return false;
    }
    if (!chain_check_active(top, "backing", a->filter_node_name, "", errp)) {
        return false;
    }
    c = (CommitJob *)job_new(active ? &driver_active : &driver_intermediate, &args, errp);
    if (!c) {
        return false;
    }
    c->active = active;
    c->once = once;
    c->device = node_ref(device);
    c->top = node_ref(top);
    c->base = node_ref(node_skip_filters(ends.to));
    c->from = node_ref(ends.from);
    c->to = node_ref(ends.to);
    c->backing_file = g_strdup(a->backing_file);
    c->mask_protocol = a->has_backing_mask_protocol && a->backing_mask_protocol;
    c->max_delay = (a->has_max_write_delay ? a->max_write_delay : 100) * INT64_C(1000000);
    c->copy = (Copy){
        .job = &c->job,
        .scan = scan,
        .copy = copy_down,
        .opaque = c,
        .on_error = a->has_on_error ? (JobOnError)a->on_error : JOB_ON_ERROR_REPORT,
        .on_write_error = a->has_on_error ? (JobOnError)a->on_error : JOB_ON_ERROR_REPORT,
        .count_skipped = !active,
    };
    if (!take_nodes(c, errp) ||
        !chain_add_filter(top, a->filter_node_name, active ? "mirror_top" : "commit_top",
                          &c->filter, errp)) {
        clean(&c->job);
        job_drop(&c->job);
        return false;
    }
    if (ret_job) {
        *ret_job = c;
        job_ref(&c->job);
    }
    job_start(&c->job);
    return true;
}

bool coroutine_fn job_commit_start(const BlockCommitArg *a, Error **errp)
{
    bool ok;

    chain_lock();
    ok = commit_start(a, false, NULL, errp);
    chain_unlock();
    return ok;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The job `stream`: what the nodes below a device have, down to `bottom`, is copied up into the device, which then needs only what is below bottom.
 *
 * Guests go on using the device.  Copying up changes what is allocated, never what is read, and the format driver does it exactly beside guests'
 * writes (driver->copy_up).  The device may itself be a backing node; then it becomes writable for the job.
 *
 * What is below bottom is looked up at the end: a commit there may have changed it meanwhile.  Filters between bottom and a base node that was named
 * go with bottom; those below a bottom node that was named, or from a filter on that was named as base, stay.
 *
 * The end, each step durable before the next:
 *   data in the device | its header names the new backing file, or none | journal | the backing edge moves
 */
#include "../node-internal.h"
#include "block/backend.h"
#include "block/io.h"
#include "chain.h"
#include "copy.h"
#include "qapi-types.h"
#include "util/log.h"
#include <errno.h>
#include <string.h>

/* The image that guests write to is one file: a write of theirs waits while one of these is under way in it. */
#define STREAM_PIECE   (UINT64_C(512) * 1024)
#define STREAM_WORKERS 2u

typedef struct StreamJob {
    Job job;
    /* Images: the last one that is copied from is bottom, the device if nothing is to be copied.  References, until clean. */
    Node *device, *bottom;
    Node *
        above; /* bottom, or the last of the filters below it that go too.  Reference, until clean */
    Edge *edge;
    bool whole; /* nothing is below bottom */
    Node *filter;
    bool was_read_only;
    char *backing_file;
    bool mask_protocol;
    Copy copy;
    bool copying;
} StreamJob;

/* ---- data ---- */

/* What is between the device and bottom: 0 (nothing that the device needs), or an or of BlockStatus. */
static int coroutine_fn status(StreamJob *s, Request *r, uint64_t offset, uint64_t bytes,
                               uint64_t *ret_bytes)
{
    Node *n = edge_enter(s->edge, r);
    uint64_t len;
    Edge *b;
    int ret = edge_block_status(s->edge, r, guest(offset), bytes, REQ_COPY, false, &len, NULL);

    if (ret < 0) {
        return ret;
    }
    *ret_bytes = len;
    b = atomic_load_explicit(&n->backing, memory_order_acquire);
    if ((ret & STATUS_ALLOCATED) || !b || n == s->bottom) {
        return 0;
    }
    ret = edge_block_status_until(b, r, s->bottom, guest(offset), len, REQ_COPY, ret_bytes);
    /* Zeroes need not be told where nothing could show through. */
    return ret < 0 || !(s->whole && (ret & STATUS_ZERO)) ? ret : 0;
}

static int coroutine_fn scan(void *opaque, uint64_t offset, uint64_t bytes, uint64_t *ret_bytes)
{
    StreamJob *s = opaque;
    Request r;
    int ret;

    request_begin(&r, REQUEST_READ);
    ret = status(s, &r, offset, bytes, ret_bytes);
    request_end(&r);
    return ret < 0 ? ret : (ret & STATUS_ALLOCATED) != 0;
}

static int coroutine_fn copy_up(void *opaque, uint64_t offset, uint64_t bytes, uint8_t *buf,
                                bool *ret_reading)
{
    StreamJob *s = opaque;
    uint64_t end = offset + bytes, len;
    int ret = 0;

    (void)buf;
    *ret_reading = true; /* what clients are told of every failure of a stream */
    for (; offset < end && ret >= 0; offset += len) {
        Request r;

        request_begin(&r, REQUEST_WRITE);
        ret = status(s, &r, offset, end - offset, &len);
        if (ret > 0 && (ret & STATUS_ALLOCATED)) {
            ret = edge_copy_up(s->edge, &r, guest(offset), len, ret & STATUS_ZERO, s->whole);
        }
        request_end(&r);
    }
    return ret < 0 ? ret : 0;
}

static bool coroutine_fn run(Job *j, Error **errp)
{
    StreamJob *s = (StreamJob *)j;
    int left_out;
    bool ok;

    s->copy.size = atomic_load(&s->device->size);
    s->copy.target = s->edge;
    job_set_total(j, s->copy.size);
    if (!copy_init(&s->copy, chain_granularity(s->device, s->copy.size), errp)) {
        return false;
    }
    s->copying = true;
    ok = copy_scan(&s->copy) && copy_run(&s->copy, -1, false);
    left_out = atomic_load(&s->copy.left_out);
    if (ok) {
        atomic_store(&j->progress, s->copy.size);
        if (left_out < 0) {
            /* The device has not got all: the chain has to stay. */
            atomic_store(&s->copy.error, left_out);
            ok = false;
        }
    }
    if (!ok && atomic_load(&s->copy.error) < 0) {
        copy_error(&s->copy, errp);
    }
    return ok;
}

/* ---- the end ---- */

static bool coroutine_fn relink(StreamJob *s, Node *below, Error **errp)
{
    for (Node *n = chain_backing(s->device); n && n != below; n = chain_backing(n)) {
        if (!chain_relink(n, NULL, errp)) {
            return false;
        }
    }
    return !below || chain_relink(below, s->device, errp);
}

static bool coroutine_fn take_off(StreamJob *s, Error **errp)
{
    g_autoptr(GPtrArray) edges = g_ptr_array_new();
    Node *below = chain_below(s->above);
    Edge *backing = atomic_load(&s->device->backing);

    if (!backing) {
        return true;
    }
    if (!chain_write_backing(s->device, below, s->backing_file, s->mask_protocol, errp) ||
        !relink(s, chain_backing(s->bottom), errp)) {
        return false;
    }
    if (s->above == s->device) {
        return true; /* only the name has changed */
    }
    g_ptr_array_add(edges, backing);
    chain_move(edges, below);
    perm_lower(s->device);
    return true;
}

static bool coroutine_fn prepare(Job *j, Error **errp)
{
    StreamJob *s = (StreamJob *)j;
    bool ok;

    if (!node_write_out(s->device, errp)) {
        return false;
    }
    chain_lock();
    ok = take_off(s, errp);
    chain_unlock();
    return ok;
}

static void coroutine_fn clean(Job *j)
{
    StreamJob *s = (StreamJob *)j;
    g_autoptr(Error) err = NULL;

    if (s->copying) {
        copy_clear(&s->copy);
        s->copying = false;
    }
    job_remove_nodes(j);
    chain_remove_filter(s->filter);
    s->filter = NULL;
    if (s->was_read_only && !node_set_read_only(s->device, &err)) {
        log_warn("%s: stays open for writing: %s", s->device->name, err->message);
    }
    g_clear_pointer(&s->device, node_unref);
    g_clear_pointer(&s->bottom, node_unref);
    g_clear_pointer(&s->above, node_unref);
    node_wait_all_closed(); /* nodes that only the chain needed are gone when the job says that it is done */
}

static void free_stream(Job *j)
{
    g_free(((StreamJob *)j)->backing_file);
}

static const JobDriver driver = {
    .kind = JOB_STREAM,
    .size = sizeof(StreamJob),
    .block_job = true,
    .run = run,
    .prepare = prepare,
    .clean = clean,
    .free = free_stream,
};

/* ---- the beginning ---- */

static bool exclusive(const char *a, const char *a_name, const char *b, const char *b_name,
                      Error **errp)
{
    if (a && b) {
        error_set(errp, ERROR_INVALID, NULL, "stream",
                  "'%s' and '%s' cannot be specified at the same time", a_name, b_name);
        return false;
    }
    return true;
}

/* The node, image or filter, below which nothing changes: what it shows is the device's backing in the end. */
static Node *find_above(const BlockStreamArg *a, Node *device, Error **errp)
{
    Node *n;

    if (a->bottom) {
        n = chain_named(a->bottom, errp);
        if (n && n->driver->is_filter) {
            error_set(errp, ERROR_INVALID, a->device, "stream",
                      "Node '%s' is a filter, use a non-filter node as 'bottom'", a->bottom);
            return NULL;
        }
        if (n && !chain_contains(device, n)) {
            error_set(errp, ERROR_INVALID, a->device, "stream",
                      "Node '%s' is not in a chain starting from '%s'", a->bottom, a->device);
            return NULL;
        }
        return n;
    }
    if (a->base) {
        n = chain_find_file(device, a->base);
        if (!n) {
            error_set(errp, ERROR_NOT_FOUND, a->device, "stream",
                      "Can't find '%s' in the backing chain", a->base);
            return NULL;
        }
        return chain_above(device, n);
    }
    if (a->base_node) {
        n = chain_named(a->base_node, errp);
        if (n && (n == device || !chain_contains(device, n))) {
            error_set(errp, ERROR_INVALID, a->device, "stream",
                      "Node '%s' is not a backing image of '%s'", a->base_node, a->device);
            return NULL;
        }
        return n ? chain_above(device, n) : NULL;
    }
    for (n = device; chain_backing(n); n = chain_backing(n)) {
    }
    return n;
}

/* The image that n is or is below. */
static Node *image_above(Node *device, Node *n)
{
    while (n->driver->is_filter) {
        n = chain_above(device, n);
    }
    return n;
}

static bool find_nodes(const BlockStreamArg *a, Node **ret_device, Node **ret_above, Error **errp)
{
    Node *device, *above;

    if (!exclusive(a->base, "base", a->base_node, "base-node", errp) ||
        !exclusive(a->base, "base", a->bottom, "bottom", errp) ||
        !exclusive(a->bottom, "bottom", a->base_node, "base-node", errp)) {
        return false;
    }
    device = node_lookup(a->device, a->device, errp);
    device = device ? node_skip_filters(device) : NULL;
    above = device ? find_above(a, device, errp) : NULL;
    if (!above) {
        return false;
    }
    if (a->backing_file && !chain_below(above)) {
        error_set(errp, ERROR_INVALID, a->device, "stream",
                  "backing file specified, but streaming the entire chain");
        return false;
    }
    *ret_device = device;
    *ret_above = above;
    return true;
}

static bool coroutine_fn take_nodes(StreamJob *s, Error **errp)
{
    /* First of all what keeps transactions away. */
    s->edge = job_add_node(&s->job, s->device, "main node", PERM_NONE, PERM_ALL, errp);
    if (!s->edge) {
        return false;
    }
    s->was_read_only = atomic_load(&s->device->read_only);
    if (!node_set_writable(s->device, errp)) {
        s->was_read_only = false;
        return false;
    }
    for (Node *n = s->device; n != s->above;) {
        n = chain_below(n);
        if (!job_add_node(&s->job, n, "intermediate node", PERM_NONE,
                          PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED, errp)) {
            return false;
        }
    }
    return edge_set_perm(s->edge, PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED, PERM_ALL, errp);
}

static bool coroutine_fn start(const BlockStreamArg *a, Error **errp)
{
    JobArgs args = {
        .id = a->job_id,
        .speed = a->has_speed ? a->speed : 0,
        .manual_finalize = a->has_auto_finalize && !a->auto_finalize,
        .manual_dismiss = a->has_auto_dismiss && !a->auto_dismiss,
    };
    Node *device, *above, *bottom;
    StreamJob *s;

    if (!find_nodes(a, &device, &above, errp) || !chain_wait_free(device, above, errp) ||
        !find_nodes(a, &device, &above, errp)) {
        return false;
    }
    bottom = image_above(device, above);
    if (bottom != device && !device->driver->copy_up) {
        error_set(errp, ERROR_UNSUPPORTED, a->device, "stream",
                  "Driver '%s' of node '%s' does not support block-stream", device->driver->name,
                  device->name);
        return false;
    }
    if (!chain_check_active(device, "file", a->filter_node_name, "Could not create node: ", errp)) {
        return false;
    }
    if (!args.id) {
        args.id = node_backend_name(device);
    }
    s = (StreamJob *)job_new(&driver, &args, errp);
    if (!s) {
        return false;
    }
    s->device = node_ref(device);
    s->bottom = node_ref(bottom);
    s->above = node_ref(above);
    s->whole = !chain_backing(bottom);
    s->backing_file = g_strdup(a->backing_file);
    s->mask_protocol = a->has_backing_mask_protocol && a->backing_mask_protocol;
    s->copy = (Copy){
        .job = &s->job,
        .scan = scan,
        .copy = copy_up,
        .piece_max = STREAM_PIECE,
        .workers = STREAM_WORKERS,
        .opaque = s,
        .on_error = a->has_on_error ? (JobOnError)a->on_error : JOB_ON_ERROR_REPORT,
        .on_write_error = a->has_on_error ? (JobOnError)a->on_error : JOB_ON_ERROR_REPORT,
        .ignore_leaves_out = true,
        .count_skipped = true,
    };
    if (!take_nodes(s, errp) ||
        !chain_add_filter(device, a->filter_node_name, "copy-on-read", &s->filter, errp)) {
        clean(&s->job);
        job_drop(&s->job);
        return false;
    }
    job_start(&s->job);
    return true;
}

bool coroutine_fn job_stream_start(const BlockStreamArg *a, Error **errp)
{
    bool ok;

    chain_lock();
    ok = start(a, errp);
    chain_unlock();
    return ok;
}

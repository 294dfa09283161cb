/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The format `raw`: a disk that is the child's data as it is, or a window of it (offset, size).
 *
 *   guest offset o  <->  o + offset in the child
 *
 * Without `size` the disk reaches to the end of the child and can be resized together with it.
 * With `size` it is fixed, and the child must not be resized by others.
 */
#include "block/debug.h"
#include "block/driver.h"
#include "block/reopen.h"
#include "qapi-types.h"
#include <errno.h>
#include <inttypes.h>

#define RAW_SECTOR UINT64_C(512)

/* Constant after open. */
typedef struct RawState {
    uint64_t offset;
    bool has_size;
    bool window; /* offset or size given */
} RawState;

static uint64_t round_up(uint64_t v)
{
    return (v + RAW_SECTOR - 1) & ~(RAW_SECTOR - 1);
}

/* The disk's size, from the child's. */
static bool window_size(const Node *n, const BlockdevOptionsRaw *o, const Edge *file,
                        uint64_t *ret_size, Error **errp)
{
    uint64_t have = atomic_load(&file->target->size);
    int64_t offset = o->has_offset ? o->offset : 0;

    if (offset < 0 || (o->has_size && o->size < 0)) {
        const char *which = offset < 0 ? "offset" : "size";

        error_set(errp, ERROR_INVALID, n->name, "open",
                  "Parameter '%s' expects a non-negative number of bytes", which);
        return false;
    }
    if ((uint64_t)offset > have) {
        error_set(errp, ERROR_INVALID, n->name, "open",
                  "Offset (%" PRId64
                  ") cannot be greater than size of the containing file (%" PRIu64 ")",
                  offset, have);
        return false;
    }
    if (!o->has_size) {
        *ret_size = round_up(have - offset);
        return true;
    }
    if ((uint64_t)o->size > have - offset) {
        error_set(
            errp, ERROR_INVALID, n->name, "open",
            "The sum of offset (%" PRId64 ") and size (%" PRId64
            ") has to be smaller or equal to the  actual size of the containing file (%" PRIu64 ")",
            offset, o->size, have);
        return false;
    }
    if (o->size % RAW_SECTOR) {
        error_set(errp, ERROR_INVALID, n->name, "open",
                  "Specified size is not multiple of %" PRIu64, RAW_SECTOR);
        return false;
    }
    *ret_size = o->size;
    return true;
}

static RawState state_of(const BlockdevOptionsRaw *o)
{
    return (RawState){
        .offset = o->has_offset && o->offset > 0 ? o->offset : 0,
        .has_size = o->has_size,
        .window = (o->has_offset && o->offset > 0) || o->has_size,
    };
}

static bool coroutine_fn raw_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    const BlockdevOptionsRaw *o = &options->u.raw;
    RawState *s = n->state;
    uint64_t size;

    *s = state_of(o);
    if (!node_open_child(n, o->file, "file", EDGE_FILTERED, errp) ||
        !window_size(n, o, n->file, &size, errp)) {
        return false;
    }
    atomic_store(&n->size, size);
    /* A child that could not be opened for writing makes this one read-only too. */
    if (n->auto_read_only && atomic_load(&n->file->target->read_only)) {
        atomic_store(&n->read_only, true);
    }
    return true;
}

/* ---- reopening ---- */

static const char *const reopen_options[] = {"offset", "size", NULL};

static bool coroutine_fn raw_reopen_prepare(Node *n, Reopen *r, Error **errp)
{
    const RawState *now = n->state;
    RawState *s = g_new0(RawState, 1);
    uint64_t size;

    *s = state_of(&r->options->u.raw);
    r->state = s;
    r->hold |= s->offset != now->offset || s->has_size != now->has_size;
    if (r->auto_read_only && node_will_be_read_only(r->file->target)) {
        r->read_only = true;
    }
    return window_size(n, &r->options->u.raw, r->file, &size, errp);
}

static bool coroutine_fn raw_reopen_load(Node *n, Reopen *r, Error **errp)
{
    uint64_t size;

    if (!r->reload) {
        return true;
    }
    if (!window_size(n, &r->options->u.raw, r->file, &size, errp)) {
        return false;
    }
    atomic_store(&n->size,
                 size); /* for those above; whether or not it becomes active, it is what there is */
    return true;
}

static void coroutine_fn raw_reopen_switch(Node *n, Reopen *r)
{
    const BlockdevOptionsRaw *o = &r->options->u.raw;
    uint64_t have = atomic_load(&r->file->target->size);
    RawState *s = n->state;

    *s = *(RawState *)r->state;
    atomic_store(&n->size, s->has_size ? (uint64_t)o->size : round_up(have - MIN(have, s->offset)));
}

static void coroutine_fn raw_reopen_end(Node *n, Reopen *r, bool done)
{
    (void)n;
    (void)done;
    g_clear_pointer(&r->state, g_free);
}

static void raw_child_resized(Node *n)
{
    const RawState *s = n->state;
    uint64_t have = atomic_load(&n->file->target->size);

    if (!s->has_size) {
        atomic_store(&n->size, round_up(have - MIN(have, s->offset)));
    }
}

static void raw_child_perm(const Node *n, EdgeRole role, unsigned parent_perm,
                           unsigned parent_shared, unsigned *perm, unsigned *shared)
{
    const RawState *s = n->reopening ? n->reopening->state : n->state;

    filter_child_perm(n, role, parent_perm, parent_shared, perm, shared);
    if (s->has_size) {
        *perm &= ~PERM_RESIZE;
    }
    if (s->window) {
        *shared &= ~PERM_RESIZE;
    }
}

static GuestOffset below(const Node *n, GuestOffset offset)
{
    return guest_add(offset, ((const RawState *)n->state)->offset);
}

static int coroutine_fn raw_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                   unsigned flags)
{
    GuestOffset from = below(n, offset);
    uint64_t size = edge_size(n->file, r);
    g_auto(IoVector) part = {0};
    int ret;

    edge_debug_event(n->file, r, flags, BLKDEBUG_EVENT_READ_AIO);
    if (G_LIKELY(from.v + iov->size <= size)) {
        return edge_preadv(n->file, r, from, iov, flags);
    }
    /* An odd offset leaves a last sector that the child has in part. */
    if (from.v >= size) {
        iov_memset(iov, 0, 0, iov->size);
        return 0;
    }
    iov_init_slice(&part, iov, 0, size - from.v);
    ret = edge_preadv(n->file, r, from, &part, flags);
    iov_memset(iov, part.size, 0, iov->size - part.size);
    return ret;
}

static int coroutine_fn raw_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                    unsigned flags)
{
    edge_debug_event(n->file, r, 0, BLKDEBUG_EVENT_WRITE_AIO);
    return edge_pwritev(n->file, r, below(n, offset), iov, flags);
}

static int coroutine_fn raw_pwrite_zeroes(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                          unsigned flags)
{
    return edge_pwrite_zeroes(n->file, r, below(n, offset), bytes, flags);
}

static int coroutine_fn raw_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    return edge_pdiscard(n->file, r, below(n, offset), bytes);
}

static int coroutine_fn raw_truncate(Node *n, Request *r, uint64_t size, bool exact)
{
    RawState *s = n->state;
    int ret;

    if (s->has_size) {
        return -ENOTSUP; /* "Cannot resize fixed-size raw disks" */
    }
    if (size < atomic_load(&n->size)) {
        atomic_store(&n->size, round_up(size));
    }
    /* The file shall end where the disk does. */
    exact |= edge_enter(n->file, r)->driver->grows_ahead;
    ret = edge_truncate(n->file, r, s->offset + size, exact);
    atomic_store(&n->size, round_up(edge_size(n->file, r) - s->offset));
    return ret;
}

static int coroutine_fn raw_block_status(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                         unsigned flags, bool precise, uint64_t *ret_bytes,
                                         HostOffset *ret_map)
{
    (void)r;
    (void)flags;
    (void)precise;
    /* All is data here, and where it is can be asked below. */
    *ret_bytes = bytes;
    if (ret_map) {
        *ret_map = host(below(n, offset).v);
    }
    return STATUS_DATA | STATUS_ALLOCATED | STATUS_OFFSET_VALID;
}

static bool coroutine_fn raw_create(Edge *file, const CreateSpec *spec, Error **errp)
{
    Request r;
    int ret;

    if (spec->backing_file) {
        error_set(errp, ERROR_UNSUPPORTED, "raw", "create",
                  "Backing file not supported for file format 'raw'");
        return false;
    }
    request_begin(&r, REQUEST_WRITE);
    ret = edge_truncate(file, &r, round_up(spec->size), true);
    if (ret == 0) {
        ret = edge_flush(file, &r);
    }
    request_end(&r);
    if (ret < 0) {
        error_set_errno(errp, -ret, "raw", "create", "Could not resize file");
    }
    return ret == 0;
}

/* No probe(): every file can be raw, so it is what probing says when no other format fits. */
const BlockDriver driver_raw = {
    .name = "raw",
    .state_size = sizeof(RawState),
    .open = raw_open,
    .reopen_options = reopen_options,
    .reopen_prepare = raw_reopen_prepare,
    .reopen_load = raw_reopen_load,
    .reopen_switch = raw_reopen_switch,
    .reopen_end = raw_reopen_end,
    .child_perm = raw_child_perm,
    .child_resized = raw_child_resized,
    .create = raw_create,
    .preadv = raw_preadv,
    .pwritev = raw_pwritev,
    .has_fua = true, /* passed on */
    .pwrite_zeroes = raw_pwrite_zeroes,
    .pdiscard = raw_pdiscard,
    .truncate = raw_truncate,
    .block_status = raw_block_status,
};

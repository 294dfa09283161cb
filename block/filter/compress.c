/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The filter `compress`: what is written through it is written compressed, as whole clusters of the format below.
 *
 * A write that covers a cluster in part reads the rest of it first.  Such a write has its clusters for itself (`ranges`); others
 * share theirs, as the driver below sorts those out.
 */
#include "block/graph.h"
#include "filter.h"
#include "qapi-types.h"
#include <errno.h>
#include <stdlib.h>

#define MAX_TRANSFER (32u << 20)

typedef struct CompressState {
    uint64_t cluster_size; /* constant after open */
    CoRangeLock ranges;    /* before all locks of the driver below */
} CompressState;

static uint64_t cluster_size_of(Node *n)
{
    g_auto(ImageFacts) f = {0};
    g_autoptr(Error) ignored = NULL;

    n = node_skip_filters(n);
    if (n->driver->facts && n->driver->facts(n, &f, &ignored) && f.cluster_size) {
        return f.cluster_size;
    }
    return 65536;
}

static bool coroutine_fn compress_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    CompressState *s = n->state;

    if (!filter_open_file(n, options->u.compress.file, errp)) {
        return false;
    }
    if (!node_can_compress(n->file->target)) {
        error_set(errp, ERROR_UNSUPPORTED, n->name, "open",
                  "Compression is not supported for underlying format: %s",
                  n->file->target->driver->name);
        return false;
    }
    s->cluster_size = cluster_size_of(n->file->target);
    n->limits.max_transfer = MAX_TRANSFER; /* of which a copy may be made */
    co_range_lock_init(&s->ranges);
    return true;
}

static void coroutine_fn compress_close(Node *n)
{
    co_range_lock_destroy(&((CompressState *)n->state)->ranges);
}

static bool coroutine_fn compress_reopen_prepare(Node *n, Reopen *r, Error **errp)
{
    const CompressState *s = n->state;

    if (!node_can_compress(r->file->target) ||
        cluster_size_of(r->file->target) != s->cluster_size) {
        error_set(errp, ERROR_UNSUPPORTED, n->name, "reopen",
                  "Cannot change the option 'file': the clusters of node '%s' are others",
                  r->file->target->name);
        return false;
    }
    return filter_reopen_prepare(n, r, errp);
}

/* [start, end) whole clusters, or up to the end of the disk, around the data. */
static int coroutine_fn write_around(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                     uint64_t start, uint64_t end, unsigned flags)
{
    uint8_t *buf = block_try_alloc(end - start);
    uint64_t to = offset.v + iov->size;
    int ret = buf ? 0 : -ENOMEM;

    if (ret == 0 && start < offset.v) {
        ret = edge_pread(n->file, r, guest(start), buf, offset.v - start, REQ_COPY);
    }
    if (ret == 0 && to < end) {
        ret = edge_pread(n->file, r, guest(to), buf + (to - start), end - to, REQ_COPY);
    }
    if (ret == 0) {
        iov_to_buf(iov, 0, buf + (offset.v - start), iov->size);
        ret = edge_pwrite(n->file, r, guest(start), buf, end - start, flags);
    }
    free(buf);
    return ret;
}

static int coroutine_fn compress_pwritev(Node *n, Request *r, GuestOffset offset,
                                         const IoVector *iov, unsigned flags)
{
    CompressState *s = n->state;
    uint64_t size = edge_size(n->file, r), to = offset.v + iov->size;
    uint64_t start = offset.v & ~(s->cluster_size - 1);
    uint64_t end = MIN((to + s->cluster_size - 1) & ~(s->cluster_size - 1), MAX(size, to));
    bool whole = start == offset.v && end == to;
    CoRange range;
    int ret;

    flags |= REQ_COMPRESSED;
    co_range_lock(&s->ranges, &range, start, end - start, whole);
    ret = whole ? edge_pwritev(n->file, r, offset, iov, flags)
                : write_around(n, r, offset, iov, start, end, flags);
    co_range_unlock(&s->ranges, &range);
    return ret;
}

/* Zeroes and discards leave out of a cluster what they do not cover: no other write may bring it back. */
static int coroutine_fn compress_pwrite_zeroes(Node *n, Request *r, GuestOffset offset,
                                               uint64_t bytes, unsigned flags)
{
    CompressState *s = n->state;
    CoRange range;
    int ret;

    co_range_lock(&s->ranges, &range, offset.v, bytes, true);
    ret = filter_pwrite_zeroes(n, r, offset, bytes, flags);
    co_range_unlock(&s->ranges, &range);
    return ret;
}

static int coroutine_fn compress_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    CompressState *s = n->state;
    CoRange range;
    int ret;

    co_range_lock(&s->ranges, &range, offset.v, bytes, true);
    ret = filter_pdiscard(n, r, offset, bytes);
    co_range_unlock(&s->ranges, &range);
    return ret;
}

const BlockDriver driver_compress = {
    .name = "compress",
    .is_filter = true,
    .state_size = sizeof(CompressState),
    .open = compress_open,
    .close = compress_close,
    .reopen_prepare = compress_reopen_prepare,
    .reopen_switch = filter_reopen_switch,
    .reopen_end = filter_reopen_end,
    .child_perm = filter_child_perm,
    .child_resized = filter_child_resized,
    .preadv = filter_preadv,
    .pwritev = compress_pwritev,
    .has_fua = true, /* passed on */
    .compresses = true,
    .pwrite_zeroes = compress_pwrite_zeroes,
    .copy_up = filter_copy_up,
    .pdiscard = compress_pdiscard,
    .truncate = filter_truncate,
};

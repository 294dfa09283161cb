/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reads and writes: from an edge to the driver.
 *
 * What a driver may rely on is made here: ranges are checked, unaligned requests are padded (a read of the rest, under a
 * lock that keeps overlapping writes out), memory is aligned, transfers are no longer than the driver takes.
 *
 * Writes to nodes with request_alignment > 1 take the node's rmw_lock: padded ones exclusively, aligned ones shared, so that a
 * padded write cannot put back what an aligned one has just replaced.  Others take no lock at all.
 *
 * Padding reads belong to the same Request, so they decide with the write (T6); they are marked REQ_COPY, because
 * what they read will be written.
 */
#include "block/count.h"
#include "block/debug.h"
#include "change-internal.h"
#include "guard.h"
#include "io-internal.h"
#include "record.h"
#include "stats-internal.h"
#include <stdlib.h>
#include <string.h>

#define BOUNCE_MAX (1024 * 1024)

void *block_try_alloc(size_t len)
{
    void *p;

    return posix_memalign(&p, 4096, MAX(len, 1)) == 0 ? p : NULL;
}

int node_check_range(const Node *n, GuestOffset offset, uint64_t bytes)
{
    uint64_t size = atomic_load_explicit(&n->size, memory_order_acquire);

    if (offset.v > BLOCK_MAX_SIZE || bytes > BLOCK_MAX_SIZE - offset.v) {
        return -EINVAL;
    }
    return offset.v + bytes > size ? -EIO : 0;
}

static int check_write(const Node *n, GuestOffset offset, uint64_t bytes)
{
    if (atomic_load_explicit(&n->read_only, memory_order_relaxed)) {
        return -EPERM;
    }
    return node_check_range(n, offset, bytes);
}

void coroutine_fn edge_copy_barrier(Edge *e)
{
    Node *old;

    old = atomic_load_explicit(&e->barrier, memory_order_acquire);
    if (G_UNLIKELY(old)) {
        int64_t since = clock_ns();

        if (atomic_load_explicit(&e->fresh, memory_order_acquire)) {
            node_wait_old_writes(old, -1);
        } else if (e->role == EDGE_COW) {
            node_wait_writes(old, false, -1);
        } /* else it settled just now */
        node_waited(old, since);
    }
}

/* ---- reading ---- */

static int coroutine_fn read_aligned(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                     unsigned flags)
{
    uint32_t max = n->limits.max_transfer ? n->limits.max_transfer : BLOCK_MAX_TRANSFER;
    size_t done = 0;
    int ret;

    if (G_LIKELY(iov->size <= max && iov->niov <= n->limits.max_iov)) {
        return n->driver->preadv(n, r, offset, iov, flags);
    }
    while (done < iov->size) {
        size_t len = MIN(iov->size - done, max);
        g_auto(IoVector) part = {0};

        iov_init_slice(&part, iov, done, len);
        if (part.niov > n->limits.max_iov) {
            void *buf = block_try_alloc(len = MIN(len, BOUNCE_MAX));
            IoVector flat;

            if (!buf) {
                return -ENOMEM;
            }
            iov_init_buf(&flat, buf, len);
            ret = n->driver->preadv(n, r, guest_add(offset, done), &flat, flags);
            if (ret == 0) {
                iov_from_buf(iov, done, buf, len);
            }
            free(buf);
        } else {
            ret = n->driver->preadv(n, r, guest_add(offset, done), &part, flags);
        }
        if (ret < 0) {
            return ret;
        }
        done += len;
    }
    return 0;
}

static bool is_aligned(const Node *n, GuestOffset offset, const IoVector *iov)
{
    uint32_t align = n->limits.request_alignment;

    return ((offset.v | iov->size) & (align - 1)) == 0 &&
           (n->limits.memory_alignment == 1 || iov_is_aligned(iov, n->limits.memory_alignment));
}

/* Reads through a buffer of ours, piece by piece. */
static int coroutine_fn read_bounced(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                     unsigned flags)
{
    uint64_t align = n->limits.request_alignment;
    size_t done = 0;

    while (done < iov->size) {
        uint64_t at = offset.v + done;
        uint64_t start = at & ~(align - 1);
        size_t len = MIN(iov->size - done, BOUNCE_MAX);
        uint64_t end = (at + len + align - 1) & ~(align - 1);
        uint8_t *buf = block_try_alloc(end - start);
        IoVector flat;
        int ret;

        if (!buf) {
            return -ENOMEM;
        }
        iov_init_buf(&flat, buf, end - start);
        ret = read_aligned(n, r, guest(start), &flat, flags);
        if (ret == 0) {
            iov_from_buf(iov, done, buf + (at - start), len);
        }
        free(buf);
        if (ret < 0) {
            return ret;
        }
        done += len;
    }
    return 0;
}

int coroutine_fn node_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                             unsigned flags)
{
    int ret = node_check_range(n, offset, iov->size);

    if (ret < 0 || iov->size == 0) {
        return ret;
    }
    if (is_aligned(n, offset, iov)) {
        return read_aligned(n, r, offset, iov, flags);
    }
    return read_bounced(n, r, offset, iov, flags);
}

int coroutine_fn edge_preadv(Edge *e, Request *r, GuestOffset offset, const IoVector *iov,
                             unsigned flags)
{
    int64_t begun = e->stats ? clock_ns() : 0;
    Node *n = edge_enter_flags(e, r, flags);
    EdgeGuard *guard;
    int ret;

    flags |= e->role == EDGE_COW ? REQ_BELOW_COW : 0;
    if (flags & REQ_COPY) {
        edge_copy_barrier(e);
    }
    node_stat_read(n, r, iov->size);
    guard = edge_guard(e, flags);
    if (G_UNLIKELY(guard)) {
        ret = guard->preadv(guard, r, offset, iov, flags);
        guard->leave(guard);
    } else {
        ret = node_preadv(n, r, offset, iov, flags);
    }
    if (e->stats) {
        edge_stat_end(e, r, STAT_READ, iov->size, begun, ret);
    }
    return ret;
}

/* ---- writing ---- */

static void write_ended(Node *n)
{
    /* After the driver is done, before anybody is told: a flush that is sent on being told sees it. */
    atomic_fetch_add_explicit(&n->write_gen, 1, memory_order_release);
}

static int coroutine_fn write_aligned(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                      unsigned flags)
{
    uint32_t max = n->limits.max_transfer ? n->limits.max_transfer : BLOCK_MAX_TRANSFER;
    size_t done = 0;
    int ret = 0;

    if (G_LIKELY(iov->size <= max && iov->niov <= n->limits.max_iov)) {
        return n->driver->pwritev(n, r, offset, iov, flags);
    }
    while (done < iov->size && ret == 0) {
        size_t len = MIN(iov->size - done, max);
        g_auto(IoVector) part = {0};

        iov_init_slice(&part, iov, done, len);
        if (part.niov > n->limits.max_iov) {
            void *buf = block_try_alloc(len = MIN(len, BOUNCE_MAX));
            IoVector flat;

            if (!buf) {
                return -ENOMEM;
            }
            iov_to_buf(iov, done, buf, len);
            iov_init_buf(&flat, buf, len);
            ret = n->driver->pwritev(n, r, guest_add(offset, done), &flat, flags);
            free(buf);
        } else {
            ret = n->driver->pwritev(n, r, guest_add(offset, done), &part, flags);
        }
        done += len;
    }
    return ret;
}

/* Fills the blocks of buf that the request covers in part with what the node has there. */
static int coroutine_fn read_padding(Node *n, Request *r, uint64_t start, uint64_t end,
                                     uint64_t from, uint64_t to, uint8_t *buf)
{
    uint64_t align = n->limits.request_alignment;
    IoVector v;
    int ret = 0;

    if (from > start || (to < end && end - start == align)) {
        node_debug_event(n, BLKDEBUG_EVENT_PWRITEV_RMW_HEAD);
        iov_init_buf(&v, buf, align);
        ret = read_aligned(n, r, guest(start), &v, REQ_COPY);
        node_debug_event(n, BLKDEBUG_EVENT_PWRITEV_RMW_AFTER_HEAD);
    }
    if (ret == 0 && to < end && end - start > align) {
        node_debug_event(n, BLKDEBUG_EVENT_PWRITEV_RMW_TAIL);
        iov_init_buf(&v, buf + (end - start - align), align);
        ret = read_aligned(n, r, guest(end - align), &v, REQ_COPY);
        node_debug_event(n, BLKDEBUG_EVENT_PWRITEV_RMW_AFTER_TAIL);
    }
    return ret;
}

static int coroutine_fn write_bounced(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                      unsigned flags)
{
    uint64_t align = n->limits.request_alignment;
    size_t done = 0;

    while (done < iov->size) {
        uint64_t from = offset.v + done;
        uint64_t to = from + MIN(iov->size - done, BOUNCE_MAX);
        uint64_t start = from & ~(align - 1), end = (to + align - 1) & ~(align - 1);
        uint8_t *buf = block_try_alloc(end - start);
        IoVector flat;
        CoRange range;
        int ret;

        if (!buf) {
            return -ENOMEM;
        }
        co_range_lock(&n->rmw_lock, &range, start, end - start, false);
        ret = read_padding(n, r, start, end, from, to, buf);
        if (ret == 0) {
            iov_to_buf(iov, done, buf + (from - start), to - from);
            iov_init_buf(&flat, buf, end - start);
            ret = write_aligned(n, r, guest(start), &flat, flags);
        }
        co_range_unlock(&n->rmw_lock, &range);
        free(buf);
        if (ret < 0) {
            return ret;
        }
        done += to - from;
    }
    return 0;
}

static int coroutine_fn write_any(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                  unsigned flags)
{
    CoRange range;
    int ret;

    if (!is_aligned(n, offset, iov)) {
        return write_bounced(n, r, offset, iov, flags);
    }
    if (n->limits.request_alignment == 1) {
        return write_aligned(n, r, offset, iov, flags);
    }
    co_range_lock(&n->rmw_lock, &range, offset.v, iov->size, true);
    ret = write_aligned(n, r, offset, iov, flags);
    co_range_unlock(&n->rmw_lock, &range);
    return ret;
}

/* Zeroes by way of buffers, for drivers that know no better. */
static int coroutine_fn write_zero_buffers(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    size_t chunk = MIN(bytes, BOUNCE_MAX);
    void *buf = block_try_alloc(chunk);
    int ret = 0;

    if (!buf) {
        return -ENOMEM;
    }
    memset(buf, 0, chunk);
    while (bytes > 0 && ret == 0) {
        size_t len = MIN(bytes, chunk);
        IoVector v;

        iov_init_buf(&v, buf, len);
        ret = write_any(n, r, offset, &v, 0);
        offset = guest_add(offset, len);
        bytes -= len;
    }
    free(buf);
    return ret;
}

/* The next piece of a long operation that prefers `align`: up to the next boundary if unaligned, else whole multiples,
 * else the rest. */
static uint64_t next_piece(uint64_t offset, uint64_t bytes, uint64_t align, uint64_t max)
{
    uint64_t len = bytes;

    if (align > 1 && offset % align) {
        len = MIN(bytes, align - offset % align);
    } else if (align > 1 && bytes > align) {
        len = bytes - bytes % align;
    }
    if (max && len > max) {
        len = align > 1 && max > align ? max - max % align : max;
    }
    return len;
}

static int coroutine_fn zero_piece(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                   unsigned flags)
{
    uint32_t align = n->limits.request_alignment;
    CoRange range;
    int ret = -ENOTSUP;

    if (n->driver->pwrite_zeroes && ((offset.v | bytes) & (align - 1)) == 0) {
        if (align > 1) {
            co_range_lock(&n->rmw_lock, &range, offset.v, bytes, true);
        }
        ret = n->driver->pwrite_zeroes(n, r, offset, bytes, flags & REQ_MAY_UNMAP);
        if (align > 1) {
            co_range_unlock(&n->rmw_lock, &range);
        }
    }
    if (ret == -ENOTSUP && !(flags & REQ_NO_FALLBACK)) {
        ret = write_zero_buffers(n, r, offset, bytes);
    }
    return ret;
}

static int coroutine_fn zero_range(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                   unsigned flags)
{
    uint64_t align = MAX(n->limits.write_zeroes_alignment, n->limits.request_alignment);
    int ret = 0;

    if (!n->discard_unmap) {
        flags &= ~REQ_MAY_UNMAP;
    }
    while (bytes > 0 && ret == 0) {
        uint64_t len = next_piece(offset.v, bytes, align, n->limits.max_write_zeroes);

        ret = zero_piece(n, r, offset, len, flags);
        offset = guest_add(offset, len);
        bytes -= len;
    }
    return ret;
}

/* What is left of a write-like request when its data is in the node.  The range is marked again whether or not it succeeded: part of it may
 * be there. */
static int coroutine_fn finish_write(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                     int ret, bool fua)
{
    node_wrote(n, offset.v, bytes);
    write_ended(n);
    if (ret == 0 && fua) {
        ret = node_flush_self(n, r);
    }
    if (G_UNLIKELY(atomic_load_explicit(&n->pace_ns, memory_order_relaxed) > 0)) {
        node_pace(n);
    }
    if (G_UNLIKELY(atomic_load_explicit(&n->follower, memory_order_acquire)) && ret == 0 &&
        bytes > 0) {
        node_follow(n, offset.v, bytes);
    }
    return ret;
}

static int coroutine_fn by_edge_pwritev(Edge *e, Request *r, GuestOffset offset,
                                        const IoVector *iov, unsigned flags)
{
    Node *n = edge_enter(e, r);
    bool fua = (flags & REQ_FUA) && !n->driver->has_fua;
    int ret = check_write(n, offset, iov->size);

    if (ret < 0 || iov->size == 0) {
        return ret;
    }
    if (G_UNLIKELY((flags & REQ_COMPRESSED) && !n->driver->compresses)) {
        return -ENOTSUP;
    }
    node_stat_write(n, r, offset.v, iov->size);
    node_wrote(n, offset.v, iov->size);
    if (G_UNLIKELY(n->detect_zeroes != DETECT_ZEROES_OFF) && iov_is_zero(iov)) {
        node_debug_event(n, BLKDEBUG_EVENT_PWRITEV_ZERO);
        ret = zero_range(n, r, offset, iov->size,
                         n->detect_zeroes == DETECT_ZEROES_UNMAP ? REQ_MAY_UNMAP : 0);
        fua = flags & REQ_FUA;
    } else {
        node_debug_event(n, BLKDEBUG_EVENT_PWRITEV);
        ret = write_any(n, r, offset, iov, fua ? flags & ~REQ_FUA : flags);
    }
    node_debug_event(n, BLKDEBUG_EVENT_PWRITEV_DONE);
    return finish_write(n, r, offset, iov->size, ret, fua);
}

int coroutine_fn edge_pwritev(Edge *e, Request *r, GuestOffset offset, const IoVector *iov,
                              unsigned flags)
{
    int64_t begun;
    int ret;

    if (!e->stats) {
        return by_edge_pwritev(e, r, offset, iov, flags);
    }
    begun = clock_ns();
    ret = by_edge_pwritev(e, r, offset, iov, flags);
    edge_stat_end(e, r, STAT_WRITE, iov->size, begun, ret);
    return ret;
}

static int coroutine_fn by_edge_pwrite_zeroes(Edge *e, Request *r, GuestOffset offset,
                                              uint64_t bytes, unsigned flags)
{
    Node *n = edge_enter(e, r);
    int ret = check_write(n, offset, bytes);

    if (ret < 0 || bytes == 0) {
        return ret;
    }
    node_stat_write(n, r, offset.v, bytes);
    node_wrote(n, offset.v, bytes);
    node_debug_event(n, BLKDEBUG_EVENT_PWRITEV_ZERO);
    ret = zero_range(n, r, offset, bytes, flags);
    node_debug_event(n, BLKDEBUG_EVENT_PWRITEV_DONE);
    return finish_write(n, r, offset, bytes, ret, flags & REQ_FUA);
}

int coroutine_fn edge_pwrite_zeroes(Edge *e, Request *r, GuestOffset offset, uint64_t bytes,
                                    unsigned flags)
{
    int64_t begun;
    int ret;

    if (!e->stats) {
        return by_edge_pwrite_zeroes(e, r, offset, bytes, flags);
    }
    begun = clock_ns();
    ret = by_edge_pwrite_zeroes(e, r, offset, bytes, flags);
    edge_stat_end(e, r, STAT_WRITE, bytes, begun, ret);
    return ret;
}

static int coroutine_fn by_edge_pdiscard(Edge *e, Request *r, GuestOffset offset, uint64_t bytes)
{
    Node *n = edge_enter(e, r);
    uint64_t align = MAX(n->limits.discard_alignment, n->limits.request_alignment), left = bytes;
    GuestOffset at = offset;
    int ret = check_write(n, offset, bytes);

    if (ret < 0 || bytes == 0 || !n->discard_unmap || !n->driver->pdiscard) {
        return ret;
    }
    node_stat_unmap(n, r, bytes);
    node_wrote(n, offset.v, bytes);
    while (left > 0 && ret == 0) {
        uint64_t len = next_piece(at.v, left, align, n->limits.max_discard);

        if (((at.v | len) & (n->limits.request_alignment - 1)) == 0) {
            ret = n->driver->pdiscard(n, r, at, len);
            ret = ret == -ENOTSUP ? 0 : ret;
        }
        at = guest_add(at, len);
        left -= len;
    }
    return finish_write(n, r, offset, bytes, ret, false);
}

int coroutine_fn edge_pdiscard(Edge *e, Request *r, GuestOffset offset, uint64_t bytes)
{
    int64_t begun;
    int ret;

    if (!e->stats) {
        return by_edge_pdiscard(e, r, offset, bytes);
    }
    begun = clock_ns();
    ret = by_edge_pdiscard(e, r, offset, bytes);
    edge_stat_end(e, r, STAT_UNMAP, bytes, begun, ret);
    return ret;
}

bool coroutine_fn edge_is_contended(Edge *e, Request *r)
{
    Node *n = edge_enter(e, r);

    if (n->driver->is_contended) {
        return n->driver->is_contended(n, r);
    }
    return n->file && edge_is_contended(n->file, r);
}

int coroutine_fn edge_copy_up(Edge *e, Request *r, GuestOffset offset, uint64_t bytes, bool zero,
                              bool skip_zeroes)
{
    Node *n = edge_enter(e, r);
    int ret = check_write(n, offset, bytes);

    if (ret < 0 || bytes == 0) {
        return ret;
    }
    if (!n->driver->copy_up) {
        return -ENOTSUP;
    }
    ret = n->driver->copy_up(n, r, offset, bytes, zero, skip_zeroes);
    write_ended(n); /* nothing that anybody reads has changed: no mark */
    return ret;
}

int coroutine_fn edge_truncate(Edge *e, Request *r, uint64_t size, bool exact)
{
    Node *n = edge_enter(e, r);
    int ret;

    if (atomic_load_explicit(&n->read_only, memory_order_relaxed)) {
        return -EPERM;
    }
    if (size > BLOCK_MAX_SIZE) {
        return -EFBIG;
    }
    if (!n->driver->truncate) {
        return -ENOTSUP;
    }
    ret = n->driver->truncate(n, r, size, exact);
    return finish_write(n, r, guest(0), 0, ret, false);
}

bool edge_grows_zero(Edge *e, Request *r)
{
    const Node *n = edge_enter(e, r);

    while (n->file && n->file->role == EDGE_FILTERED) {
        n = edge_enter(n->file, r);
    }
    return n->file || (n->driver->is_protocol && !n->driver->is_device);
}

/* ---- flat memory ---- */

int coroutine_fn edge_pread(Edge *e, Request *r, GuestOffset offset, void *buf, size_t len,
                            unsigned flags)
{
    IoVector v;

    iov_init_buf(&v, buf, len);
    return edge_preadv(e, r, offset, &v, flags);
}

int coroutine_fn edge_pwrite(Edge *e, Request *r, GuestOffset offset, const void *buf, size_t len,
                             unsigned flags)
{
    IoVector v;

    iov_init_buf(&v, (void *)buf, len);
    return edge_pwritev(e, r, offset, &v, flags);
}

uint64_t edge_size(Edge *e, Request *r)
{
    return atomic_load_explicit(&edge_enter(e, r)->size, memory_order_acquire);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block status, and reading through a backing chain.
 *
 * A layer answers for itself: allocated here (data or zeroes), or not.  What is not allocated belongs to the backing node,
 * and reads as zeroes where there is none or beyond its end.
 */
#include "block/count.h"
#include "guard.h"
#include "io-internal.h"
#include <string.h>

static int coroutine_fn node_status(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                    unsigned flags, bool precise, uint64_t *ret_bytes,
                                    HostOffset *ret_map)
{
    uint64_t size = atomic_load_explicit(&n->size, memory_order_acquire);
    uint64_t align = n->limits.request_alignment, pnum, head;
    HostOffset map = {0};
    int ret;

    if (bytes == 0 || offset.v > BLOCK_MAX_SIZE) {
        return -EINVAL;
    }
    if (offset.v >= size) {
        *ret_bytes = bytes;
        return STATUS_ZERO | STATUS_EOF;
    }
    bytes = MIN(bytes, size - offset.v);
    if (!n->driver->block_status) {
        if (n->driver->is_filter && n->file) {
            ret = n->driver->check_status ? n->driver->check_status(n, offset, bytes) : 0;
            if (ret < 0) {
                return ret;
            }
            return edge_block_status(n->file, r, offset, bytes, flags, precise, ret_bytes, ret_map);
        }
        pnum = bytes;
        map = host(offset.v);
        ret = STATUS_DATA | STATUS_ALLOCATED;
    } else {
        /* Drivers are asked in their own units. */
        head = offset.v & (align - 1);
        ret = n->driver->block_status(n, r, guest(offset.v - head),
                                      (bytes + head + align - 1) & ~(align - 1), flags, precise,
                                      &pnum, &map);
        if (ret < 0) {
            return ret;
        }
        pnum = MIN(pnum - head, bytes);
        map = host_add(map, head);
    }
    /* Data whose place is a hole in the file below reads as zeroes. */
    if (precise && n->file && (ret & STATUS_DATA) && (ret & STATUS_OFFSET_VALID) &&
        !(ret & STATUS_COMPRESSED)) {
        uint64_t below;
        int s = edge_block_status(n->file, r, host_to_child(map), pnum, flags & REQ_BELOW_COW, true,
                                  &below, NULL);

        if (s >= 0) {
            pnum = MIN(pnum, below);
            if (s & STATUS_ZERO) {
                ret = (ret & ~STATUS_DATA) | STATUS_ZERO;
            }
        }
    }
    if (offset.v + pnum == size) {
        ret |= STATUS_EOF;
    }
    *ret_bytes = pnum;
    if (ret_map) {
        *ret_map = map;
    }
    return ret;
}

/* What a guarded node reads as: data or zeroes, decided there. */
static int coroutine_fn guarded_status(EdgeGuard *g, Node *n, Request *r, GuestOffset offset,
                                       uint64_t bytes, unsigned flags, uint64_t *ret_bytes,
                                       HostOffset *ret_map)
{
    uint64_t size = atomic_load_explicit(&n->size, memory_order_acquire);
    int ret;

    if (offset.v >= size) {
        *ret_bytes = bytes;
        return STATUS_ZERO | STATUS_EOF;
    }
    ret = g->block_status(g, r, offset, MIN(bytes, size - offset.v), flags, ret_bytes);
    if (ret_map) {
        *ret_map = host(0);
    }
    return ret < 0 ? ret : (ret & ~STATUS_OFFSET_VALID) | STATUS_ALLOCATED;
}

int coroutine_fn edge_block_status(Edge *e, Request *r, GuestOffset offset, uint64_t bytes,
                                   unsigned flags, bool precise, uint64_t *ret_bytes,
                                   HostOffset *ret_map)
{
    Node *n = edge_enter_flags(e, r, flags);
    EdgeGuard *guard;

    if (e->role == EDGE_ROOT && atomic_load_explicit(&n->inactive, memory_order_relaxed)) {
        return -EPERM; /* what is allocated is another process's to say */
    }
    flags |= e->role == EDGE_COW ? REQ_BELOW_COW : 0;
    if (flags & REQ_COPY) {
        edge_copy_barrier(e);
    }
    guard = edge_guard(e, flags);
    if (G_UNLIKELY(guard)) {
        int ret = guarded_status(guard, n, r, offset, bytes, flags, ret_bytes, ret_map);

        guard->leave(guard);
        return ret;
    }
    return node_status(n, r, offset, bytes, flags, precise, ret_bytes, ret_map);
}

/* From *e down through filters to the layer that they show: the edge that leads to it.  *flags: as for what is below.  A filter may refuse
 * to have the range asked about. */
static int coroutine_fn skip_filters(Edge **edge, Request *r, GuestOffset offset, uint64_t bytes,
                                     unsigned *flags, const Node *last, bool *is_last)
{
    for (Edge *e = *edge;; e = *edge) {
        Node *n = edge_enter_flags(e, r, *flags);

        *is_last |= n == last;
        if (!n->driver->is_filter || n->driver->block_status || !n->file) {
            return 0;
        }
        if (G_UNLIKELY(n->driver->check_status)) {
            int ret = n->driver->check_status(n, offset, bytes);

            if (ret < 0) {
                return ret;
            }
        }
        *flags |= e->role == EDGE_COW ? REQ_BELOW_COW : 0;
        if (*flags & REQ_COPY) {
            edge_copy_barrier(e);
        }
        *edge = n->file;
    }
}

int coroutine_fn edge_block_status_above(Edge *e, Request *r, GuestOffset offset, uint64_t bytes,
                                         unsigned flags, uint64_t *ret_bytes, int *ret_depth)
{
    uint64_t top_size = edge_size(e, r), pnum = bytes;
    bool below_end = false; /* beyond the end of some backing node: zeroes by its shortness */
    int depth = 1;

    for (;;) {
        bool last = false;
        Node *n;
        uint64_t len;
        int ret;

        ret = skip_filters(&e, r, offset, pnum, &flags, NULL, &last);
        if (ret < 0) {
            return ret;
        }
        ret = edge_block_status(e, r, offset, pnum, flags, true, &len, NULL);
        if (ret < 0) {
            return ret;
        }
        n = edge_enter_flags(e, r, flags); /* pinned already */
        flags |= e->role == EDGE_COW ? REQ_BELOW_COW : 0;
        if (depth > 1 && (ret & STATUS_EOF) && !(ret & STATUS_ALLOCATED) &&
            offset.v >= atomic_load_explicit(&n->size, memory_order_acquire)) {
            below_end = true;
        }
        pnum = MIN(pnum, len);
        e = atomic_load_explicit(&n->backing, memory_order_acquire);
        if ((ret & STATUS_ALLOCATED) || !e || below_end) {
            bool decided = ret & STATUS_ALLOCATED;

            *ret_bytes = pnum;
            if (ret_depth) {
                *ret_depth = decided ? depth : below_end ? depth : 0;
            }
            ret = !decided || (ret & STATUS_ZERO) ? STATUS_ZERO : ret & STATUS_DATA;
            return ret | (offset.v + pnum >= top_size ? STATUS_EOF : 0) |
                   (decided ? STATUS_ALLOCATED : 0);
        }
        depth++;
    }
}

int coroutine_fn edge_block_status_until(Edge *e, Request *r, const Node *last, GuestOffset offset,
                                         uint64_t bytes, unsigned flags, uint64_t *ret_bytes)
{
    uint64_t len = bytes;

    for (bool top = true;; top = false) {
        bool is_last = false;
        Node *n;
        int ret = skip_filters(&e, r, offset, len, &flags, last, &is_last);

        if (ret < 0) {
            return ret;
        }
        n = edge_enter_flags(e, r, flags);
        if (!top && offset.v >= atomic_load_explicit(&n->size, memory_order_acquire)) {
            *ret_bytes = len;
            return STATUS_ZERO | STATUS_ALLOCATED;
        }
        ret = edge_block_status(e, r, offset, len, flags, true, &len, NULL);
        if (ret < 0) {
            return ret;
        }
        if (ret & STATUS_ALLOCATED) {
            *ret_bytes = len;
            return STATUS_ALLOCATED | (ret & STATUS_ZERO ? STATUS_ZERO : STATUS_DATA);
        }
        flags |= e->role == EDGE_COW ? REQ_BELOW_COW : 0;
        e = atomic_load_explicit(&n->backing, memory_order_acquire);
        if (is_last || !e) {
            *ret_bytes = len;
            return 0;
        }
    }
}

int coroutine_fn backing_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                unsigned flags)
{
    Edge *b = atomic_load_explicit(&n->backing, memory_order_acquire);
    uint64_t size = b ? edge_size(b, r) : 0;
    size_t len = offset.v >= size ? 0 : MIN(iov->size, size - offset.v);
    int ret = 0;

    if (len == iov->size) {
        return edge_preadv(b, r, offset, iov, flags);
    }
    if (len > 0) {
        g_auto(IoVector) part = {0};

        iov_init_slice(&part, iov, 0, len);
        ret = edge_preadv(b, r, offset, &part, flags);
    }
    if (ret == 0) {
        iov_memset(iov, len, 0, iov->size - len);
    }
    return ret;
}

int coroutine_fn backing_is_zero(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                 unsigned flags)
{
    Edge *b = atomic_load_explicit(&n->backing, memory_order_acquire);

    if (!b) {
        return STATUS_ZERO;
    }
    while (bytes > 0) {
        uint64_t len;
        int ret = edge_block_status_above(b, r, offset, bytes, flags, &len, NULL);

        if (ret < 0) {
            return ret;
        }
        if (!(ret & STATUS_ZERO)) {
            return STATUS_DATA;
        }
        offset = guest_add(offset, len);
        bytes -= MIN(len, bytes);
    }
    return STATUS_ZERO;
}

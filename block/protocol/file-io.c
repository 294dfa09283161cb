/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests of the driver `file`.
 *
 * Ends of files.  A node's size is the file's, rounded up to whole sectors.  Reading what the last
 * sector lacks gives zeroes.  A file that ends before that has been made shorter by somebody else:
 * that is an error, not a disk full of zeroes.
 *
 * Zeroes.  FALLOC_FL_ZERO_RANGE keeps the space; punching a hole frees it (REQ_MAY_UNMAP) or,
 * followed by an allocation, is the next best way to keep it.  What the file system refuses is not
 * tried again.  All with KEEP_SIZE: beyond the end of the file there are zeroes already.
 *
 * Status.  Asking where data ends can be slow (page by page on some file systems), and a format
 * asks cluster by cluster; so the last range of data is remembered.  It is forgotten when anything
 * that frees space begins or ends.  Holes are not remembered: to take a hole for data does no harm,
 * to take data for a hole does, and other processes may write too.
 */
#include "file-internal.h"
#include "util/log.h"
#include "util/worker.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

uint64_t file_node_size(uint64_t file_size)
{
    return (file_size + FILE_SECTOR - 1) / FILE_SECTOR * FILE_SECTOR;
}

/* ---- data ---- */

/* The file ended at `pos` during a read: fills the rest if that may be. */
static int read_end(Node *n, uint64_t pos, const IoVector *iov, size_t done)
{
    if (file_node_size(pos) < atomic_load_explicit(&n->size, memory_order_acquire)) {
        log_warn_limited("%s: the file has become shorter than the disk in it: nothing to read at "
                         "%" G_GUINT64_FORMAT,
                         n->filename, pos);
        return -EIO;
    }
    iov_memset(iov, done, 0, iov->size - done);
    return 0;
}

/* The way of requests that did not get through in one piece. */
static int coroutine_fn read_rest(Node *n, GuestOffset offset, const IoVector *iov, size_t done)
{
    FileState *s = n->state;

    while (done < iov->size) {
        g_auto(IoVector) part = {0};
        uint64_t pos = offset.v + done;
        ssize_t ret;

        if (pos % n->limits.request_alignment) {
            return read_end(n, pos, iov, done); /* only the end of the file cuts a block */
        }
        iov_init_slice(&part, iov, done, iov->size - done);
        ret = co_preadv(s->fd, part.iov, part.niov, pos);
        if (ret < 0) {
            return ret;
        }
        if (ret == 0) {
            return read_end(n, pos, iov, done);
        }
        done += ret;
    }
    return 0;
}

int coroutine_fn file_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                             unsigned flags)
{
    FileState *s = n->state;
    ssize_t ret = co_preadv(s->fd, iov->iov, iov->niov, offset.v);

    (void)r;
    (void)flags;
    if (G_LIKELY(ret == (ssize_t)iov->size)) {
        return 0;
    }
    return ret < 0 ? ret : read_rest(n, offset, iov, ret);
}

int coroutine_fn file_write_rest(Node *n, GuestOffset offset, const IoVector *iov, size_t done)
{
    FileState *s = n->state;
    uint32_t align = n->limits.request_alignment;

    while (done < iov->size) {
        g_auto(IoVector) part = {0};
        size_t from = done - done % align; /* of a block written in part, the whole again */
        ssize_t ret;

        iov_init_slice(&part, iov, from, iov->size - from);
        ret = co_pwritev(s->fd, part.iov, part.niov, offset.v + from);
        if (ret < 0) {
            return ret;
        }
        if (from + ret <= done) {
            return -EIO; /* no progress */
        }
        done = from + ret;
    }
    return 0;
}

int coroutine_fn file_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                              unsigned flags)
{
    FileState *s = n->state;
    ssize_t ret;

    (void)r;
    (void)flags;
    if (G_UNLIKELY(loop_is_background(loop_current()))) {
        return file_write_beside(n, offset, iov);
    }
    file_beside_count(s);
    ret = co_pwritev(s->fd, iov->iov, iov->niov, offset.v);
    if (G_LIKELY(ret == (ssize_t)iov->size)) {
        return 0;
    }
    return ret < 0 ? ret : file_write_rest(n, offset, iov, ret);
}

int coroutine_fn file_flush(Node *n, Request *r)
{
    FileState *s = n->state;

    (void)r;
    if (n->cache_no_flush) {
        return 0;
    }
    return atomic_load_explicit(&n->flush_times, memory_order_relaxed) ? co_fsync(s->fd)
                                                                       : co_fdatasync(s->fd);
}

/* ---- space ---- */

/* Around what frees space; see the note on status. */
static void shape_begin(FileState *s)
{
    atomic_fetch_add_explicit(&s->shape_seq, 1, memory_order_seq_cst);
}
#define shape_end shape_begin

/* One fallocate(2), remembered in *refused (may be NULL) if the file system does not know it. */
static int coroutine_fn try_fallocate(FileState *s, int mode, uint64_t offset, uint64_t bytes,
                                      _Atomic bool *refused)
{
    int ret;

    if (refused && atomic_load_explicit(refused, memory_order_relaxed)) {
        return -ENOTSUP;
    }
    ret = co_fallocate(s->fd, mode, offset, bytes);
    if (ret == -EOPNOTSUPP || ret == -ENOSYS || ret == -ENODEV || ret == -ENOTTY) {
        if (refused) {
            atomic_store_explicit(refused, true, memory_order_relaxed);
        }
        return -ENOTSUP;
    }
    return ret;
}

static int coroutine_fn punch_hole(FileState *s, uint64_t offset, uint64_t bytes)
{
    int ret;

    shape_begin(s);
    ret = try_fallocate(s, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes,
                        &s->no_punch_hole);
    shape_end(s);
    return ret;
}

int coroutine_fn file_pwrite_zeroes(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                    unsigned flags)
{
    FileState *s = n->state;
    int ret;

    (void)r;
    if (s->device && ((offset.v | bytes) & (s->sector - 1))) {
        return -ENOTSUP; /* devices do this by sectors */
    }
    if (flags & REQ_MAY_UNMAP) {
        ret = punch_hole(s, offset.v, bytes);
        if (ret != -ENOTSUP) {
            return ret;
        }
    }
    shape_begin(s);
    ret = try_fallocate(s, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset.v, bytes,
                        &s->no_zero_range);
    shape_end(s);
    if (ret == -EINVAL) {
        ret = -ENOTSUP; /* some file systems say this of ranges they do not like */
    }
    if (ret != -ENOTSUP || (flags & REQ_MAY_UNMAP)) {
        return ret;
    }
    ret = punch_hole(s, offset.v, bytes);
    if (ret == 0) {
        ret = try_fallocate(s, FALLOC_FL_KEEP_SIZE, offset.v, bytes, NULL);
    }
    return ret;
}

int coroutine_fn file_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    FileState *s = n->state;
    int ret = s->device ? file_device_discard(n, offset.v, bytes) : punch_hole(s, offset.v, bytes);

    (void)r;
    if (ret == 0) {
        atomic_fetch_add_explicit(&s->discards, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&s->discarded, bytes, memory_order_relaxed);
    } else {
        atomic_fetch_add_explicit(&s->discards_failed, 1, memory_order_relaxed);
    }
    return ret;
}

int coroutine_fn file_truncate(Node *n, Request *r, uint64_t size, bool exact)
{
    FileState *s = n->state;
    uint64_t old;
    int ret;

    if (s->device) {
        return file_device_truncate(n, r, size, exact);
    }
    /* a file can have any size: exact or not */
    co_mutex_lock(&s->resize_lock);
    old = atomic_load_explicit(&n->size, memory_order_relaxed);
    /* At every instant the node is no larger than the file. */
    if (file_node_size(size) < old) {
        atomic_store_explicit(&n->size, file_node_size(size), memory_order_release);
    }
    shape_begin(s);
    ret = co_ftruncate(s->fd, size);
    shape_end(s);
    atomic_store_explicit(&n->size, ret == 0 ? file_node_size(size) : old, memory_order_release);
    co_mutex_unlock(&s->resize_lock);
    return ret;
}

/* ---- status ---- */

typedef struct Seek {
    int fd;
    uint64_t offset;
    bool hole;
    uint64_t end; /* of the hole or data at offset; UINT64_MAX: a hole to the end of the file */
} Seek;

static int seek_on_worker(void *opaque)
{
    Seek *s = opaque;
    off_t data = lseek(s->fd, s->offset, SEEK_DATA), hole;

    if (data < 0) {
        s->hole = true;
        s->end = UINT64_MAX;
        return errno == ENXIO ? 0 : -errno;
    }
    if ((uint64_t)data > s->offset) {
        s->hole = true;
        s->end = data;
        return 0;
    }
    hole = lseek(s->fd, s->offset, SEEK_HOLE);
    if (hole < 0 || (uint64_t)hole <= s->offset) {
        return -EAGAIN; /* it changes while we look */
    }
    s->hole = false;
    s->end = hole;
    return 0;
}

static bool cached_data(FileState *s, uint64_t offset, uint64_t *ret_end)
{
    bool hit;

    pthread_mutex_lock(&s->status_lock);
    hit = offset >= s->data_start && offset < s->data_end &&
          s->data_seq == atomic_load_explicit(&s->shape_seq, memory_order_seq_cst);
    *ret_end = s->data_end;
    pthread_mutex_unlock(&s->status_lock);
    return hit;
}

static void cache_data(FileState *s, uint64_t start, uint64_t end, uint64_t seq)
{
    pthread_mutex_lock(&s->status_lock);
    s->data_start = start;
    s->data_end = end;
    s->data_seq = seq;
    pthread_mutex_unlock(&s->status_lock);
}

/* The answer for [offset, offset + bytes) in whole blocks of the node. */
static int answer(const Node *n, const Seek *k, uint64_t bytes, uint64_t *ret_bytes)
{
    uint64_t align = n->limits.request_alignment;
    uint64_t len = k->end - k->offset; /* nothing overflows: end >= offset */

    if (len >= bytes) {
        *ret_bytes = bytes;
        return k->hole ? STATUS_ZERO : STATUS_DATA;
    }
    if (k->hole && len < align) {
        *ret_bytes = MIN(align, bytes); /* a block that is data in part */
        return STATUS_DATA;
    }
    *ret_bytes = k->hole ? len - len % align : MIN(bytes, (len + align - 1) / align * align);
    return k->hole ? STATUS_ZERO : STATUS_DATA;
}

int coroutine_fn file_block_status(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                   unsigned flags, bool precise, uint64_t *ret_bytes,
                                   HostOffset *ret_map)
{
    FileState *s = n->state;
    Seek k = {.fd = s->fd, .offset = offset.v};
    int status = STATUS_DATA;

    (void)r;
    (void)flags;
    *ret_bytes = bytes;
    if (precise && !s->device) { /* devices do not tell what they hold */
        if (cached_data(s, offset.v, &k.end)) {
            status = answer(n, &k, bytes, ret_bytes);
        } else {
            bool control = loop_backend(loop_current()) == LOOP_CONTROL;
            uint64_t seq = atomic_load_explicit(&s->shape_seq, memory_order_seq_cst);

            /* A file system that cannot tell says: all data. */
            if (worker_run(control ? WORKERS_CONTROL : WORKERS_GUEST, seek_on_worker, &k) == 0) {
                status = answer(n, &k, bytes, ret_bytes);
                if (!k.hole) {
                    cache_data(s, offset.v, k.end, seq);
                }
            }
        }
    }
    if (ret_map) {
        *ret_map = host(offset.v);
    }
    return status | STATUS_ALLOCATED | STATUS_OFFSET_VALID;
}

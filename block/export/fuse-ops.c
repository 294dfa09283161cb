/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is done about each request of the kernel.  Coroutines of the reader's thread.
 *
 * The file is as long as the disk.  A read stops at its end; so does a write, unless the export is growable.  The owner, the permissions and the
 * times are kept in memory only.
 *
 * fallocate: a hole that is punched reads as zeroes, so it is a write of zeroes that may free space.  Space can be taken in advance only behind
 * the end, as there is no such thing as taking it where the disk has something.
 */
#include "fuse-internal.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ZERO_PIECE (UINT64_C(1) << 30) /* bytes */

/* Since Linux 6.0; older kernels ignore it. */
#ifndef FOPEN_PARALLEL_DIRECT_WRITES
#define FOPEN_PARALLEL_DIRECT_WRITES (1u << 6)
#endif

static FuseExport *export_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

static void fuse_init(void *opaque, struct fuse_conn_info *conn)
{
    (void)opaque;
    conn->max_write = FUSE_MAX_TRANSFER;
    conn->max_background = 128;
    conn->want &= ~(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
}

/* Ends a request, telling what storage did wrong. */
static int coroutine_fn end(FuseExport *e, Request *r, int ret)
{
    if (ret < 0) {
        export_io_failed(&e->base, r, r->kind != REQUEST_READ, ret);
    }
    request_end(r);
    return ret;
}

/* ---- attributes ---- */

static uint64_t size_now(FuseExport *e)
{
    uint64_t size;
    Request r;

    request_begin(&r, REQUEST_READ);
    size = edge_size(e->base.edge, &r);
    request_end(&r);
    return size;
}

static void fill(FuseExport *e, struct stat *st)
{
    uint64_t size = size_now(e), on_disk = atomic_load(&e->on_disk);

    fuse_look_at_disk(e);
    *st = (struct stat){
        .st_ino = FUSE_ROOT_ID,
        .st_nlink = 1,
        .st_size = size,
        .st_blksize = 65536,
        .st_blocks = (on_disk == UINT64_MAX ? size : on_disk) / 512,
    };
    pthread_mutex_lock(&e->lock);
    st->st_mode = e->mode;
    st->st_uid = e->uid;
    st->st_gid = e->gid;
    st->st_atim = e->atime;
    st->st_mtim = e->mtime;
    st->st_ctim = e->ctime;
    pthread_mutex_unlock(&e->lock);
}

static void reply_attributes(fuse_req_t req)
{
    struct stat st;

    fill(export_of(req), &st);
    fuse_reply_attr(req, &st, 0);
}

static void changed(FuseExport *e, bool data)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    pthread_mutex_lock(&e->lock);
    e->ctime = now;
    if (data) {
        e->mtime = now;
    }
    pthread_mutex_unlock(&e->lock);
}

static void fuse_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    (void)fi;
    reply_attributes(req);
}

static int check_attributes(const FuseExport *e, const struct stat *st, int which)
{
    if ((which & FUSE_SET_ATTR_MODE) && !e->base.writable && (st->st_mode & 0222)) {
        return EROFS;
    }
    /* Nobody else gets in: what promises otherwise is refused. */
    if (!e->allow_other && ((which & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)) ||
                            ((which & FUSE_SET_ATTR_MODE) && (st->st_mode & 077)))) {
        return EPERM;
    }
    if ((which & FUSE_SET_ATTR_SIZE) && !e->base.writable) {
        return EROFS;
    }
    return 0;
}

static void set_times(FuseExport *e, const struct stat *st, int which)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (which & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW)) {
        e->atime = which & FUSE_SET_ATTR_ATIME_NOW ? now : st->st_atim;
    }
    if (which & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW)) {
        e->mtime = which & FUSE_SET_ATTR_MTIME_NOW ? now : st->st_mtim;
    }
    e->ctime = which & FUSE_SET_ATTR_CTIME ? st->st_ctim : now;
}

static void coroutine_fn fuse_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int which,
                                      struct fuse_file_info *fi)
{
    FuseExport *e = export_of(req);
    int ret = check_attributes(e, st, which);

    (void)ino;
    (void)fi;
    if (ret == 0 && (which & FUSE_SET_ATTR_SIZE)) {
        co_mutex_lock(&e->size_lock);
        ret = -fuse_resize(e, st->st_size);
        co_mutex_unlock(&e->size_lock);
        if (ret == 0) {
            changed(e, true);
        }
    }
    if (ret) {
        fuse_reply_err(req, ret);
        return;
    }
    pthread_mutex_lock(&e->lock);
    if (which & FUSE_SET_ATTR_MODE) {
        e->mode = S_IFREG | (st->st_mode & 07777);
    }
    if (which & FUSE_SET_ATTR_UID) {
        e->uid = st->st_uid;
    }
    if (which & FUSE_SET_ATTR_GID) {
        e->gid = st->st_gid;
    }
    set_times(e, st, which);
    pthread_mutex_unlock(&e->lock);
    reply_attributes(req);
}

/* ---- open files ---- */

static void fuse_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    /* libfuse has no name for all of these yet. */
    struct fuse_open_out out = {.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES};

    (void)ino;
    (void)fi; /* O_TRUNC in it, too: a disk is not emptied by who means to write to it */
    fuse_reply_buf(req, (const char *)&out, sizeof(out));
}

static void coroutine_fn fuse_fsync(fuse_req_t req, fuse_ino_t ino, int data_only,
                                    struct fuse_file_info *fi)
{
    FuseExport *e = export_of(req);
    Request r;
    int ret = 0;

    (void)ino;
    (void)data_only;
    (void)fi;
    if (e->base.writable) {
        request_begin(&r, REQUEST_FLUSH);
        ret = end(e, &r, edge_flush(e->base.edge, &r));
    }
    fuse_reply_err(req, -ret);
}

/* A descriptor is closed. */
static void coroutine_fn fuse_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    fuse_fsync(req, ino, 1, fi);
}

/* ---- data ---- */

static void coroutine_fn fuse_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
                                   struct fuse_file_info *fi)
{
    FuseExport *e = export_of(req);
    void *buf = block_try_alloc(MAX(size, 1));
    Request r;
    uint64_t disk;
    int ret = buf ? 0 : -ENOMEM;

    (void)ino;
    (void)fi;
    request_begin(&r, REQUEST_READ);
    disk = edge_size(e->base.edge, &r);
    size = (uint64_t)offset >= disk ? 0 : MIN(size, disk - offset);
    if (ret == 0 && size > 0) {
        ret = edge_pread(e->base.edge, &r, guest(offset), buf, size, 0);
    }
    end(e, &r, ret);
    if (ret < 0) {
        fuse_reply_err(req, -ret);
    } else {
        fuse_reply_buf(req, buf, size);
    }
    free(buf);
}

/* Sees to it that the disk is at least `end` bytes long. */
static int coroutine_fn grow(FuseExport *e, uint64_t end)
{
    int ret = 0;

    co_mutex_lock(&e->size_lock);
    if (size_now(e) < end) {
        ret = fuse_resize(e, end);
    }
    co_mutex_unlock(&e->size_lock);
    return ret;
}

static void coroutine_fn fuse_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size,
                                    off_t offset, struct fuse_file_info *fi)
{
    FuseExport *e = export_of(req);
    uint64_t disk;
    bool behind;
    Request r;
    int ret = e->base.writable ? 0 : -EACCES;

    (void)ino;
    (void)fi;
    if (ret == 0 && e->growable && (uint64_t)offset + size > size_now(e)) {
        ret = grow(e, (uint64_t)offset + size);
    }
    if (ret < 0) {
        fuse_reply_err(req, -ret);
        return;
    }
    request_begin(&r, REQUEST_WRITE);
    disk = edge_size(e->base.edge, &r);
    behind = (uint64_t)offset >= disk && size > 0;
    size = (uint64_t)offset >= disk ? 0 : MIN(size, disk - offset);
    if (size > 0) {
        ret = edge_pwrite(e->base.edge, &r, guest(offset), buf, size,
                          e->base.writethrough ? REQ_FUA : 0);
    }
    end(e, &r, ret);
    if (ret < 0 || behind) {
        fuse_reply_err(req, behind ? EIO : -ret); /* what clients of QEMU get */
        return;
    }
    changed(e, true);
    fuse_reply_write(req, size);
}

/* ---- space ---- */

static int coroutine_fn write_zeroes(FuseExport *e, uint64_t from, uint64_t to, unsigned flags)
{
    int ret = 0;

    while (from < to && ret == 0) {
        uint64_t len;
        Request r;

        request_begin(&r, REQUEST_WRITE);
        to = MIN(to, edge_size(e->base.edge, &r));
        len = from < to ? MIN(to - from, ZERO_PIECE) : 0;
        if (len > 0) {
            ret = edge_pwrite_zeroes(e->base.edge, &r, guest(from), len,
                                     flags | (e->base.writethrough ? REQ_FUA : 0));
        }
        ret = end(e, &r, ret);
        from += len ? len : 1;
    }
    return ret;
}

static int coroutine_fn allocate(FuseExport *e, int mode, uint64_t from, uint64_t to)
{
    uint64_t end = size_now(e);
    int ret = 0;

    if (!e->base.writable) {
        return -EACCES;
    }
    if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)) {
        return write_zeroes(e, from, to, REQ_MAY_UNMAP);
    }
    if (mode != 0 && (mode & ~FALLOC_FL_KEEP_SIZE) != FALLOC_FL_ZERO_RANGE) {
        return -EOPNOTSUPP;
    }
    if (mode == 0 && from < end) {
        return -EOPNOTSUPP;
    }
    if (!(mode & FALLOC_FL_KEEP_SIZE) && to > end) {
        ret = grow(e, to);
    }
    return ret < 0 ? ret : write_zeroes(e, mode == 0 ? end : from, to, 0);
}

static void coroutine_fn fuse_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset,
                                        off_t length, struct fuse_file_info *fi)
{
    FuseExport *e = export_of(req);
    int ret = allocate(e, mode, offset, (uint64_t)offset + length);

    (void)ino;
    (void)fi;
    if (ret == 0) {
        changed(e, true);
        atomic_store(&e->looked_at, 0);
    }
    fuse_reply_err(req, -ret);
}

/* The first place from `at` on that is data, or a hole (the end is one); a negative errno. */
static int64_t coroutine_fn seek(FuseExport *e, uint64_t at, bool data)
{
    int64_t result = 0;
    uint64_t end;
    Request r;

    request_begin(&r, REQUEST_READ);
    end = edge_size(e->base.edge, &r);
    if (at >= end) {
        result = -ENXIO;
    }
    while (at < end) {
        uint64_t len;
        int ret = edge_block_status_above(e->base.edge, &r, guest(at), end - at, 0, &len, NULL);

        if (ret < 0) {
            result = ret;
            break;
        }
        result = at;
        if (data == !(ret & STATUS_ZERO)) {
            break;
        }
        at += len;
        result = at < end ? 0 : data ? -ENXIO : (int64_t)end;
    }
    request_end(&r);
    return result;
}

static void coroutine_fn fuse_lseek(fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
                                    struct fuse_file_info *fi)
{
    int64_t ret;

    (void)ino;
    (void)fi;
    if (whence != SEEK_DATA && whence != SEEK_HOLE) {
        fuse_reply_err(req, EINVAL); /* the kernel does the others */
        return;
    }
    ret = seek(export_of(req), offset, whence == SEEK_DATA);
    if (ret < 0) {
        fuse_reply_err(req, -ret);
    } else {
        fuse_reply_lseek(req, ret);
    }
}

const struct fuse_lowlevel_ops fuse_operations = {
    .init = fuse_init,
    .getattr = fuse_getattr,
    .setattr = fuse_setattr,
    .open = fuse_open,
    .read = fuse_read,
    .write = fuse_write,
    .flush = fuse_flush,
    .fsync = fuse_fsync,
    .fallocate = fuse_fallocate,
    .lseek = fuse_lseek,
};

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Exports through FUSE; private to block/export/.
 *
 *   fuse-server.c  the export, and the readers that take requests from the kernel
 *   fuse-mount.c   mounting and unmounting; what blocks
 *   fuse-ops.c     what is done about each request
 *   fuse-resize.c  other sizes
 *
 * Words
 *  session  libfuse's: the connection to the kernel, with the descriptor of /dev/fuse.
 *  reader   one for each of the export's I/O threads; all read from the session's descriptor, each request once.
 *  request  a coroutine on the reader's thread from the time it is read until it is answered.
 *
 * Nothing is cached by the kernel (attributes for no time, data not at all): a disk changes behind its back.
 *
 * No request needs the control thread, but those for another size: a command may be looking at the very file (stat(2) on a mount point) while it holds
 * the control thread.
 */
#ifndef BLOCK_EXPORT_FUSE_INTERNAL_H
#define BLOCK_EXPORT_FUSE_INTERNAL_H

#define FUSE_USE_VERSION 312

#include "block/export.h"
#include "block/io.h"
#include "util/co-lock.h"
#include <fuse_lowlevel.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>

#define FUSE_MAX_TRANSFER (1u << 20) /* bytes a request; what kernels permit at most */

typedef struct FuseExport FuseExport;

typedef struct FuseReader {
    FuseExport *exp;
    Loop *loop;
    int poll_fd; /* epoll: of the session's descriptor and stop_fd */
    int stop_fd; /* an eventfd; readable: no more requests are to be read */
    /* ---- the loop's thread ---- */
    unsigned running;  /* requests that are being carried out */
    Coroutine *waiter; /* the reader, while it waits for a request to end */
    GPtrArray *buffers;
} FuseReader;

struct FuseExport {
    Export base;
    struct fuse_session *session;
    bool growable;
    /* ---- control thread ---- */
    char *path; /* of the mount point, absolute */
    dev_t dev;  /* of what is mounted there; 0: not yet */
    bool allow_other;
    FuseReader *readers; /* niothreads */
    unsigned reading;    /* readers that have not ended */
    Coroutine *waiter;   /* for the last of them */
    /* ---- any thread ---- */
    _Atomic bool unmounted;    /* somebody else did */
    CoMutex size_lock;         /* one change of size at a time */
    _Atomic uint64_t on_disk;  /* bytes that its files have, as of looked_at */
    _Atomic int64_t looked_at; /* clock_ns() */
    pthread_mutex_t lock;      /* innermost; protects: */
    mode_t mode;
    uid_t uid;
    gid_t gid;
    struct timespec atime, mtime, ctime;
};

static inline FuseExport *fuse_export_of(Export *base)
{
    return (FuseExport *)base;
}

/* ---- fuse-ops.c ---- */
extern const struct fuse_lowlevel_ops fuse_operations;

/* ---- fuse-resize.c ---- */
/* Makes the disk `size` bytes long, rounded up to sectors; 0 or a negative errno.  Any I/O thread. */
int coroutine_fn fuse_resize(FuseExport *e, uint64_t size);
/* Sees to it that e->on_disk is no older than a second or so, soon. */
void fuse_look_at_disk(FuseExport *e);

/* ---- fuse-mount.c: these suspend ---- */
/* The absolute name of the mount point, which the caller frees; NULL with *errp. */
char *coroutine_fn fuse_find_mountpoint(const char *name, dev_t *ret_dev, Error **errp);
/* Makes and mounts e->session on e->path; allow_other: as wanted, or NULL-like "auto" (-1). */
bool coroutine_fn fuse_mount_session(FuseExport *e, int allow_other, Error **errp);
/* The kernel fails what it has not been told about, and the mount point is what it was.  No reader reads; requests may be running. */
void coroutine_fn fuse_unmount_session(FuseExport *e);

#endif

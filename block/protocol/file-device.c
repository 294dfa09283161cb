/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver `host_device`: a device of the host as a disk.  All that it shares with files is in the other parts of `file`; here is what a
 * device does otherwise.
 *
 * Size.  A device has the size it has.  It may get larger while it is in use (a logical volume), which nobody tells: it is asked again when
 * somebody needs more than there was (file_device_truncate), so an image that fills its device goes on once the device has been extended.
 * What has come to it is not zero.
 *
 * Zeroes and discards are done by whole sectors, in pieces: the kernel may have to write zeroes itself, and a call cannot be interrupted.
 * A block device takes fallocate(2) for zeroes (since Linux 4.9); a discard is BLKDISCARD, which promises nothing about what is read
 * afterwards.
 *
 * A device cannot tell what of it is in use: everything is data.
 */
#include "file-internal.h"
#include "file-open.h"
#include "util/worker.h"
#include <errno.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MAX_ZEROES  (UINT64_C(64) << 20) /* bytes a call */
#define MAX_DISCARD (UINT64_C(1) << 30)
#define MAX_SECTOR  65536u

int64_t file_length(const Node *n, int fd)
{
    struct stat st;
    uint64_t bytes;
    off_t end;

    if (fstat(fd, &st) < 0) {
        return -errno;
    }
    if (!file_state(n)->device) {
        return st.st_size;
    }
    if (S_ISBLK(st.st_mode)) {
        return ioctl(fd, BLKGETSIZE64, &bytes) < 0 ? -errno
               : bytes > INT64_MAX                 ? -EFBIG
                                                   : (int64_t)bytes;
    }
    end = lseek(fd, 0, SEEK_END);
    return end < 0 ? -errno : end;
}

bool file_device_writable(int fd)
{
    int read_only = 0;

    return ioctl(fd, BLKROGET, &read_only) < 0 ||
           !read_only; /* no block device: as its mode says */
}

void file_not_writable(const Node *n, Error **errp)
{
    error_set_errno(errp, EACCES, n->filename, "open", "The device is not writable");
}

/* Bytes of the unit in which the device gives up space; 0: unknown. */
static uint32_t discard_granularity(int fd)
{
    g_autofree char *path = NULL, *text = NULL;
    struct stat st;
    uint64_t v;

    if (fstat(fd, &st) < 0) {
        return 0;
    }
    path = g_strdup_printf("/sys/dev/block/%u:%u/queue/discard_granularity", major(st.st_rdev),
                           minor(st.st_rdev));
    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return 0; /* a partition has no queue of its own */
    }
    v = g_ascii_strtoull(text, NULL, 10);
    return v <= UINT32_MAX / 2 && (v & (v - 1)) == 0 ? v : 0;
}

NodeLimits file_limits(const Node *n, int fd, bool direct)
{
    NodeLimits l = {.request_alignment = 1, .memory_alignment = 1, .max_iov = IOV_MAX};
    int sector = 0;

    if (direct) {
        file_direct_alignment(fd, &l.request_alignment, &l.memory_alignment);
    }
    if (!file_state(n)->device) {
        return l;
    }
    if (ioctl(fd, BLKSSZGET, &sector) < 0 || sector < (int)FILE_SECTOR ||
        sector > (int)MAX_SECTOR || (sector & (sector - 1))) {
        sector = FILE_SECTOR;
    }
    if (direct) {
        l.request_alignment = MAX(l.request_alignment, (uint32_t)sector);
    }
    l.write_zeroes_alignment = sector;
    l.discard_alignment = MAX(discard_granularity(fd), (uint32_t)sector);
    l.max_write_zeroes = MAX_ZEROES;
    l.max_discard = MAX(MAX_DISCARD, l.discard_alignment);
    return l;
}

typedef struct DiscardJob {
    int fd;
    uint64_t range[2]; /* offset, bytes */
} DiscardJob;

static int discard_on_worker(void *opaque)
{
    DiscardJob *j = opaque;

    return ioctl(j->fd, BLKDISCARD, j->range) < 0 ? -errno : 0;
}

int coroutine_fn file_device_discard(Node *n, uint64_t offset, uint64_t bytes)
{
    FileState *s = n->state;
    DiscardJob j = {.fd = s->fd, .range = {offset, bytes}};
    bool control = loop_backend(loop_current()) == LOOP_CONTROL;
    int ret;

    if (atomic_load_explicit(&s->no_discard, memory_order_relaxed) ||
        ((offset | bytes) & (s->sector - 1))) {
        return -ENOTSUP;
    }
    ret = worker_run(control ? WORKERS_CONTROL : WORKERS_GUEST, discard_on_worker, &j);
    if (ret == -EOPNOTSUPP || ret == -ENOTTY || ret == -ENOSYS) {
        atomic_store_explicit(&s->no_discard, true, memory_order_relaxed);
        return -ENOTSUP;
    }
    return ret;
}

typedef struct LengthJob {
    const Node *node;
    int64_t length;
} LengthJob;

static int length_on_worker(void *opaque)
{
    LengthJob *j = opaque;

    j->length = file_length(j->node, file_state(j->node)->fd);
    return j->length < 0 ? (int)j->length : 0;
}

/* No more than looking how large it is by now. */
int coroutine_fn file_device_truncate(Node *n, Request *r, uint64_t size, bool exact)
{
    FileState *s = n->state;
    LengthJob j = {.node = n};
    bool control = loop_backend(loop_current()) == LOOP_CONTROL;
    int ret;

    (void)r;
    co_mutex_lock(&s->resize_lock);
    ret = worker_run(control ? WORKERS_CONTROL : WORKERS_GUEST, length_on_worker, &j);
    if (ret == 0 && (uint64_t)j.length > BLOCK_MAX_SIZE) {
        ret = -EFBIG;
    }
    if (ret == 0) {
        /* A device that has become smaller fails the requests that want what is gone. */
        if (file_node_size(j.length) > atomic_load_explicit(&n->size, memory_order_relaxed)) {
            atomic_store_explicit(&n->size, file_node_size(j.length), memory_order_release);
        }
        if (size > (uint64_t)j.length || (exact && size != (uint64_t)j.length)) {
            ret = -ENOTSUP;
        }
    }
    co_mutex_unlock(&s->resize_lock);
    return ret;
}

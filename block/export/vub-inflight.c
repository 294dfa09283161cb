/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The in-flight buffer: memory that the front end keeps while it has no back end.
 *
 *     region of queue 0 | ... | region of queue n-1 | VubKept
 *
 * It is a sealed memfd of ours, so it cannot get shorter; its contents are checked like everything that others can write to.  The regions'
 * layouts are the protocol's (see vub-internal.h); each has room for either kind of ring.
 */
#include "vub-internal.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEPT_MAGIC UINT64_C(0x316b2d6275766370) /* "pcvub-k1" */

static size_t region_size(unsigned queue_size)
{
    return (sizeof(VubRegionPacked) + queue_size * sizeof(VubDescPacked) + 63) & ~(size_t)63;
}

static size_t total_size(unsigned num_queues, unsigned queue_size)
{
    return (num_queues * region_size(queue_size) + sizeof(VubKept) + 4095) & ~(size_t)4095;
}

static bool check(const VubInflightInfo *info, Error **errp)
{
    if (info->num_queues == 0 || info->num_queues > VUB_MAX_QUEUES || info->queue_size == 0 ||
        info->queue_size > VUB_MAX_QUEUE_SIZE) {
        error_set(errp, ERROR_INVALID, NULL, "vhost-user", "an in-flight buffer for no queues");
        return false;
    }
    return true;
}

static VubInflight *wrap(const VubInflightInfo *info, int fd, Error **errp)
{
    size_t len = total_size(info->num_queues, info->queue_size);
    void *map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    VubInflight *f;

    if (map == MAP_FAILED) {
        error_set_errno(errp, errno, NULL, "vhost-user", "the in-flight buffer cannot be mapped");
        return NULL;
    }
    f = g_new0(VubInflight, 1);
    f->map = map;
    f->map_len = len;
    f->base = map;
    f->num_queues = info->num_queues;
    f->queue_size = info->queue_size;
    f->region_size = region_size(info->queue_size);
    f->kept = (VubKept *)(f->base + f->num_queues * f->region_size);
    return f;
}

VubInflight *vub_inflight_new(VubInflightInfo *info, int *ret_fd, Error **errp)
{
    VubInflight *f;
    size_t len;
    int fd;

    if (!check(info, errp)) {
        return NULL;
    }
    len = total_size(info->num_queues, info->queue_size);
    fd = memfd_create("cutpoint-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, len) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        error_set_errno(errp, errno, NULL, "vhost-user", "the in-flight buffer cannot be made");
        if (fd >= 0) {
            close(fd);
        }
        return NULL;
    }
    f = wrap(info, fd, errp);
    if (!f) {
        close(fd);
        return NULL;
    }
    f->kept->magic = KEPT_MAGIC;
    info->mmap_size = len;
    info->mmap_offset = 0;
    *ret_fd = fd;
    return f;
}

VubInflight *vub_inflight_open(const VubInflightInfo *info, int fd, Error **errp)
{
    VubInflight *f;
    struct stat st;
    int seals;

    if (!check(info, errp)) {
        return NULL;
    }
    seals = fcntl(fd, F_GET_SEALS);
    if (info->mmap_offset != 0 ||
        info->mmap_size != total_size(info->num_queues, info->queue_size) || seals < 0 ||
        !(seals & F_SEAL_SHRINK) || fstat(fd, &st) < 0 || (uint64_t)st.st_size < info->mmap_size) {
        error_set(errp, ERROR_INVALID, NULL, "vhost-user",
                  "the in-flight buffer was not made by this version of this program");
        return NULL;
    }
    f = wrap(info, fd, errp);
    if (f && f->kept->magic != KEPT_MAGIC) {
        error_set(errp, ERROR_INVALID, NULL, "vhost-user",
                  "the in-flight buffer was not made by this version of this program");
        g_clear_pointer(&f, vub_inflight_free);
    }
    return f;
}

void vub_inflight_free(VubInflight *f)
{
    if (f) {
        munmap(f->map, f->map_len);
        g_free(f);
    }
}

void *vub_inflight_region(const VubInflight *f, unsigned queue)
{
    return f && queue < f->num_queues ? f->base + queue * f->region_size : NULL;
}

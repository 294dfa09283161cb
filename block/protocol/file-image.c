/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Image files that a user asks for: blockdev-create with driver file.
 *
 * An existing file is emptied, if its image lock can be had: that is what was asked for.  A file that was made and then could not be given its
 * size is removed again.
 */
#include "block/file.h"
#include "file-lock.h"
#include "file-open.h"
#include "util/log.h"
#include "util/passed-fd.h"
#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define ZEROES (1024 * 1024)

static const FileLocks create_locks = {.used = PERM_WRITE | PERM_RESIZE, .unshared = PERM_RESIZE};

static int write_zeroes(int fd, uint64_t size)
{
    g_autofree char *zeroes = g_malloc0(ZEROES);

    for (uint64_t at = 0; at < size;) {
        ssize_t n = pwrite(fd, zeroes, MIN(size - at, ZEROES), at);

        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        at += n > 0 ? n : 0;
    }
    return 0;
}

/* Both are hints: the file systems that do not know them do without. */
static void give_hints(int fd, const char *path, const FileNew *how)
{
    struct fsxattr attr;
    int flags;

    if (how->nocow && (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 ||
                       (flags |= FS_NOCOW_FL, ioctl(fd, FS_IOC_SETFLAGS, &flags)) < 0)) {
        log_debug("%s: cannot switch copying on write off: %s", path, g_strerror(errno));
    }
    if (how->extent_size_hint == 0) {
        return;
    }
    if (ioctl(fd, FS_IOC_FSGETXATTR, &attr) == 0) {
        attr.fsx_xflags |= FS_XFLAG_EXTSIZE;
        attr.fsx_extsize = how->extent_size_hint;
        if (ioctl(fd, FS_IOC_FSSETXATTR, &attr) == 0) {
            return;
        }
    }
    log_debug("%s: cannot set the extent size hint: %s", path, g_strerror(errno));
}

static bool give_size(int fd, const char *path, uint64_t size, const FileNew *how, Error **errp)
{
    FileSpace space = how->space;
    int ret = size > INT64_MAX ? -EFBIG : ftruncate(fd, 0) < 0 ? -errno : 0;

    if (ret == 0) {
        give_hints(fd, path, how); /* they can be given to an empty file only */
    }
    if (ret == 0 && space != FILE_SPACE_FULL && ftruncate(fd, size) < 0) {
        ret = -errno;
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, path, "create", "Could not resize file");
        return false;
    }
    if (space == FILE_SPACE_RESERVED && size > 0) {
        ret = -posix_fallocate(fd, 0, size);
    } else if (space == FILE_SPACE_FULL) {
        ret = write_zeroes(fd, size);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, path, "create",
                        space == FILE_SPACE_FULL ? "Could not write zeros for preallocation"
                                                 : "Could not preallocate data for the new file");
        return false;
    }
    if (fsync(fd) < 0) {
        error_set_errno(errp, errno, path, "create", "Could not sync '%s'", path);
        return false;
    }
    return fdset_is_name(path) || file_sync_parent_dir(path, errp);
}

/* *ret_made: it came to exist here. */
static int open_image(const char *path, bool *ret_made)
{
    struct stat st;
    int fd;

    *ret_made = false;
    if (fdset_is_name(path)) {
        return file_open_regular(AT_FDCWD, path, O_RDWR, &st);
    }
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd >= 0 || errno != EEXIST) {
        *ret_made = fd >= 0;
        return fd < 0 ? -errno : fd;
    }
    fd = file_open_regular(AT_FDCWD, path, O_RDWR | O_CLOEXEC, &st);
    if (fd == -ENOENT) {
        /* A symbolic link that leads to nothing yet. */
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        fd = fd < 0 ? -errno : fd;
    }
    return fd;
}

bool file_image_create(const char *path, uint64_t size, const FileNew *how, Error **errp)
{
    bool made, locks, ok;
    int fd = open_image(path, &made);

    if (fd == FILE_NOT_REGULAR) {
        error_set(errp, ERROR_UNSUPPORTED, path, "create",
                  "Could not create '%s': it is not a regular file", path);
        return false;
    }
    if (fd < 0) {
        error_set_errno(errp, -fd, path, "create", "Could not create '%s'", path);
        return false;
    }
    locks = file_lock_supported(fd);
    ok = !locks || file_lock_get(fd, path, create_locks, errp);
    if (!ok) {
        made = false; /* somebody uses it already */
    }
    ok = ok && give_size(fd, path, size, how, errp);
    if (!ok && made) {
        unlink(path);
    }
    if (locks) {
        file_lock_drop(fd, path, create_locks); /* a passed descriptor is not the last one */
    }
    close(fd);
    return ok;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What tells a file from every other one.
 *
 * A device and inode number can be used again after a file was deleted; the time of birth, which nobody can set, cannot be had twice
 * with the same inode.  Where a file system does not tell it, the numbers must do, and callers that delete need more than them.
 */
#include "block/file.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

static int identity(int dirfd, const char *name, int flags, FileIdentity *ret)
{
    struct statx st;

    if (statx(dirfd, name, flags | AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &st) < 0) {
        return -errno;
    }
    *ret = (FileIdentity){
        .dev = makedev(st.stx_dev_major, st.stx_dev_minor),
        .ino = st.stx_ino,
        .birth = st.stx_mask & STATX_BTIME
                     ? st.stx_btime.tv_sec * INT64_C(1000000000) + st.stx_btime.tv_nsec
                     : 0,
    };
    return 0;
}

int file_identity(int fd, FileIdentity *ret)
{
    return identity(fd, "", AT_EMPTY_PATH, ret);
}

int file_identity_at(int dirfd, const char *name, FileIdentity *ret)
{
    return identity(dirfd, name, 0, ret);
}

bool file_identity_equal(const FileIdentity *a, const FileIdentity *b)
{
    /* Device numbers of some storage change with a restart of the machine; inode and birth together say enough. */
    return a->ino == b->ino && a->birth == b->birth && (a->birth != 0 || a->dev == b->dev);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Descriptors of image files; see file-open.h.
 *
 * A file is first opened with O_PATH, which has no effect on whatever it is, looked at, and then
 * opened through its entry in /proc/self/fd: that entry leads to the same file without looking the
 * name up again.  Names of sets of passed descriptors lead to util/passed-fd.c.
 */
#include "file-open.h"
#include "util/passed-fd.h"
#include <errno.h>
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define ALIGN_MAX 65536u

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Opens what fd is open on, st being its identity. */
static int open_through(int fd, int dir, const char *path, int flags, const struct stat *st)
{
    char proc[32];
    struct stat now;
    int ret;

    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
    ret = open(proc, (flags & ~O_NOFOLLOW) | O_CLOEXEC | O_NOCTTY);
    if (ret < 0 && errno == ENOENT && access(proc, F_OK) < 0) {
        ret = openat(dir, path, flags | O_CLOEXEC | O_NOCTTY);
    }
    if (ret < 0) {
        return -errno;
    }
    if (fstat(ret, &now) < 0 || !same_file(&now, st)) {
        close(ret);
        return -ESTALE;
    }
    return ret;
}

static bool is_kind(FileKind kind, const struct stat *st)
{
    return kind == FILE_KIND_REGULAR ? S_ISREG(st->st_mode)
                                     : S_ISBLK(st->st_mode) || S_ISCHR(st->st_mode);
}

/* What a client has passed: whatever it is was open already. */
static int open_passed(const char *path, int flags, FileKind kind, struct stat *ret_st)
{
    int fd = fdset_open(path, flags);

    if (fd >= 0 && (fstat(fd, ret_st) < 0 || !is_kind(kind, ret_st))) {
        close(fd);
        return FILE_NOT_REGULAR;
    }
    return fd;
}

int file_open_kind(int dir, const char *path, int flags, FileKind kind, struct stat *ret_st)
{
    int name, fd;

    if (fdset_is_name(path)) {
        return open_passed(path, flags, kind, ret_st);
    }
    name = openat(dir, path, O_PATH | O_CLOEXEC | (flags & O_NOFOLLOW));
    if (name < 0) {
        return -errno;
    }
    if (fstat(name, ret_st) < 0) {
        fd = -errno;
    } else if (!is_kind(kind, ret_st)) {
        fd = FILE_NOT_REGULAR;
    } else {
        /* What stands behind a character device may keep an open waiting. */
        fd = open_through(name, dir, path, flags | (S_ISCHR(ret_st->st_mode) ? O_NONBLOCK : 0),
                          ret_st);
    }
    close(name);
    return fd;
}

int file_open_regular(int dir, const char *path, int flags, struct stat *ret_st)
{
    return file_open_kind(dir, path, flags, FILE_KIND_REGULAR, ret_st);
}

int file_reopen(int fd, const char *path, int flags)
{
    struct stat st, passed;
    int ret;

    if (fstat(fd, &st) < 0) {
        return -errno;
    }
    if (fdset_is_name(path)) {
        ret = open_passed(path, flags, S_ISREG(st.st_mode) ? FILE_KIND_REGULAR : FILE_KIND_DEVICE,
                          &passed);
        if (ret >= 0 && same_file(&passed, &st)) {
            return ret;
        }
        if (ret >= 0) {
            close(ret); /* the set has changed; the file may still be had by itself */
        }
    }
    return open_through(fd, AT_FDCWD, path, flags, &st);
}

/* ---- O_DIRECT ---- */

static bool usable(uint32_t align)
{
    return align > 0 && align <= ALIGN_MAX && (align & (align - 1)) == 0;
}

static bool ask_statx(int fd, uint32_t *ret_request, uint32_t *ret_memory)
{
#ifdef STATX_DIOALIGN
    struct statx sx;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && (sx.stx_mask & STATX_DIOALIGN) &&
        usable(sx.stx_dio_offset_align) && usable(sx.stx_dio_mem_align)) {
        *ret_request = sx.stx_dio_offset_align;
        *ret_memory = sx.stx_dio_mem_align;
        return true;
    }
#else
    (void)fd;
    (void)ret_request;
    (void)ret_memory;
#endif
    return false;
}

/* The smallest alignment with which a read is accepted.  A file that is too short to tell, or a
 * file system that accepts everything because it ignores the flag, gives the largest that hardware
 * commonly wants. */
static uint32_t try_reads(int fd, uint8_t *buf, bool memory, uint32_t other)
{
    for (uint32_t align = 1; align <= ALIGN_MAX; align = align == 1 ? 512 : align * 2) {
        uint8_t *to = memory ? buf + align : buf;
        size_t len = memory ? other : align;

        if (pread(fd, to, len, 0) >= 0 || errno != EINVAL) {
            return align == 1 ? 4096 : align;
        }
    }
    return 4096;
}

void file_direct_alignment(int fd, uint32_t *ret_request, uint32_t *ret_memory)
{
    void *buf;

    if (ask_statx(fd, ret_request, ret_memory)) {
        return;
    }
    *ret_request = *ret_memory = 4096;
    if (posix_memalign(&buf, ALIGN_MAX, 2 * ALIGN_MAX) != 0) {
        return;
    }
    *ret_request = try_reads(fd, buf, false, 0);
    *ret_memory = try_reads(fd, buf, true, *ret_request);
    free(buf);
}

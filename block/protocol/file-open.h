/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Descriptors of image files; private to block/protocol.  All functions block.
 */
#ifndef BLOCK_PROTOCOL_FILE_OPEN_H
#define BLOCK_PROTOCOL_FILE_OPEN_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

/* There is something, but it is not a regular file, or not what was asked for. */
#define FILE_NOT_REGULAR (-4096)

typedef enum FileKind {
    FILE_KIND_REGULAR,
    FILE_KIND_DEVICE, /* block or character */
} FileKind;

/* Opens `path` seen from the directory dir (AT_FDCWD) with the open(2) flags, if it is of that kind;
 * what is not is never opened, since that can block (a FIFO) or do something (a device).
 * O_NOFOLLOW in flags concerns the last component; *ret_st is valid also for FILE_NOT_REGULAR.
 * Returns a descriptor, FILE_NOT_REGULAR or a negative errno. */
int file_open_kind(int dir, const char *path, int flags, FileKind kind, struct stat *ret_st);
/* The same for regular files. */
int file_open_regular(int dir, const char *path, int flags, struct stat *ret_st);

/* A new description of the very file that fd is open on, whatever its name is now.  path: the name
 * it was opened by, used where /proc is not mounted.  Returns a descriptor or a negative errno;
 * -ESTALE: the name leads to another file now. */
int file_reopen(int fd, const char *path, int flags);

/* What O_DIRECT demands of fd; powers of two, at most 64 KiB. */
void file_direct_alignment(int fd, uint32_t *ret_request, uint32_t *ret_memory);

#endif

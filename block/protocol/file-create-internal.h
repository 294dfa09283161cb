/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Shared by file-create.c and file-check.c; private to block/protocol.
 */
#ifndef BLOCK_PROTOCOL_FILE_CREATE_INTERNAL_H
#define BLOCK_PROTOCOL_FILE_CREATE_INTERNAL_H

#include "block/file.h"
#include "block/new-image.h"
#include "file-lock.h"

/* What QEMU's tools take while they create an image. */
extern const FileLocks file_create_locks;

/* What a node that is opened on a lent file begins with. */
typedef struct FileLent {
    int fd; /* a duplicate, open for writing, the taker's */
    uint64_t size;
    bool locking;    /* the file system has locks */
    FileLocks locks; /* held by the description; the taker's from now on */
} FileLent;

/* Once.  False: there is nothing to lend.  ret->fd may be a negative errno: no descriptor left.  Does not block. */
bool snapshot_file_lend(SnapshotFile *f, FileLent *ret);

const char *snapshot_file_path(const SnapshotFile *f);

/* Gives the empty file its size and contents; not durable yet.  0 or a negative errno.  Blocks. */
int file_fill(int fd, const NewImage *image);

#endif

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

const char *snapshot_file_path(const SnapshotFile *f);

/* Gives the empty file its size and contents; not durable yet.  0 or a negative errno.  Blocks. */
int file_fill(int fd, const NewImage *image);

#endif

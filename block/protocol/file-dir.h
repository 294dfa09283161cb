/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A file's place: its directory, held open, and its name in there; private to block/protocol.
 *
 * Names are looked up in the directory that was found once, so that renaming a directory above, or
 * a symbolic link that is pointed elsewhere meanwhile, cannot lead later steps to another place.
 * All functions block.
 */
#ifndef BLOCK_PROTOCOL_FILE_DIR_H
#define BLOCK_PROTOCOL_FILE_DIR_H

#include "util/error.h"
#include <sys/stat.h>

typedef struct FilePlace {
    int dir;       /* -1: none */
    bool can_sync; /* false: it may be used but not read; only its file system can be synced */
    char *name;    /* without slashes; need not exist; not a symbolic link when it was looked at */
} FilePlace;

/* Finds the place that `path` leads to when symbolic links, dangling ones included, are followed to
 * the end.  0 or a negative errno: -EISDIR for what cannot be a file's name ("/", "dir/", ".."). */
int file_place_find(const char *path, FilePlace *ret);
void file_place_clear(FilePlace *p);
/* Entries of the directory become durable. */
int file_place_sync(const FilePlace *p);
/* True if `name` in the directory is the file st tells of. */
bool file_place_is(const FilePlace *p, const char *name, const struct stat *st);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Locks on image files, as QEMU's tools take them; private to block/protocol.
 *
 * Words
 *  used        a permission that we have taken: we read, write, ... the image.
 *  unshared    a permission that we deny to everybody else.
 *
 * Each of the four permissions (bit k of Perm) has two bytes of the file: 100 + k says "used", 200
 * + k says "unshared". To have one is to hold an OFD *read* lock on its byte, so any number of
 * processes can say the same thing.  Who takes "used k" then looks whether anybody else has
 * "unshared k", and the other way round, by asking (F_OFD_GETLK) whether a write lock on the
 * opposite byte would be granted.  Both sides take first and look second: of two that race at least
 * one sees the other.
 *
 * The locks belong to the open file description: duplicates of a descriptor share them, they end
 * with the last duplicate, and a description never conflicts with itself.  Two descriptions of one
 * process do conflict.
 *
 * All functions: any thread; they block as long as the file system takes to answer (but for
 * file_lock_get() never for another holder).
 */
#ifndef BLOCK_PROTOCOL_FILE_LOCK_H
#define BLOCK_PROTOCOL_FILE_LOCK_H

#include "block/types.h"
#include "util/error.h"

/* Sets of Perm. */
typedef struct FileLocks {
    unsigned used, unshared;
} FileLocks;

static inline FileLocks file_locks_or(FileLocks a, FileLocks b)
{
    return (FileLocks){a.used | b.used, a.unshared | b.unshared};
}
static inline FileLocks file_locks_minus(FileLocks a, FileLocks b)
{
    return (FileLocks){a.used & ~b.used, a.unshared & ~b.unshared};
}
static inline bool file_locks_empty(FileLocks l)
{
    return (l.used | l.unshared) == 0;
}

/* True if the file system behind fd knows OFD locks. */
bool file_lock_supported(int fd);

/* Takes locks, without looking for conflicts.  fd is open for reading.  On failure none of `locks`
 * is held. Error: "Failed to lock byte <n>: <errno>". */
bool file_lock_take(int fd, const char *filename, FileLocks locks, Error **errp);
/* Gives locks up; what the system refuses stays, logged. */
void file_lock_drop(int fd, const char *filename, FileLocks locks);
/* Whether others leave us `locks`; those of fd's own description do not count.
 * Errors: "Failed to get "<perm>" lock", "Failed to get shared "<perm>" lock". */
bool file_lock_check(int fd, const char *filename, FileLocks locks, Error **errp);
/* Takes and checks: on failure none of `locks` is held.  While the process starts it waits for other holders: see
 * file_locks_wait_until(). Errors of both. */
bool file_lock_get(int fd, const char *filename, FileLocks locks, Error **errp);

#endif

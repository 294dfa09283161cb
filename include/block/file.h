/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Files that snapshots make, so that they can be unmade.
 *
 * A SnapshotFile takes a file name through the phases of a transaction.  Its life, each step named
 * by the function that does it:
 *
 *   snapshot_file_new       NEW      nothing has happened
 *   snapshot_file_set_image          (optional) what the file shall hold
 *   snapshot_file_prepare   MADE     a file of ours lies under the name, empty or with the image
 *     (the caller opens a `file` node by the same name)
 *   snapshot_file_finish    DURABLE  the content and the directory entry survive a power failure
 *   snapshot_file_commit    DONE     what the name meant before is gone for good
 *   snapshot_file_undo      DONE     (from MADE or DURABLE) what the name meant before is back, and
 *                                    nothing of ours remains
 *   snapshot_file_free               (from any state) leaves the files as they are
 *
 * What snapshot_file_prepare() finds under the name, after symbolic links, decides what it does:
 *
 *   nothing            creates the file (O_EXCL, mode 0644 & ~umask); undo unlinks it.  With a journal the
 *                      file is announced first and gets its name when the journal knows it (O_TMPFILE).
 *   an empty file      uses it, if the image lock can be had and it is still empty under that lock;
 *                      undo empties it again.
 *   a file with data   sets it aside, if its image lock can be had: a new, empty file of the same
 *                      owner, mode and extended attributes is put in its place in one step
 *                      (RENAME_EXCHANGE), so that at every instant either the old or the new file
 *                      has the name; the old one is then called "<name>.cutpoint-<uuid>.old", in
 *                      the same directory.  Its image lock is held until commit deletes it or undo
 *                      exchanges the two again.  Before the exchange the new file is called
 *                      "<name>.cutpoint-<uuid>.new".  After a crash, whatever lies there under such
 *                      a name is what the name says (if the crash comes between the two renames,
 *                      the old file is the one called ".new").
 *   anything else      is refused, as is a file with data on a file system without RENAME_EXCHANGE.
 *
 * The file under the name is *not* locked when prepare returns, since the locks that keep other
 * processes out would keep the caller's own node out too: that node's locks protect it.  Should
 * another process get in between, the caller's node cannot be opened, and undo takes back what is
 * still ours and empty of others' use.  Or the node is lent the descriptor with its locks
 * (snapshot_file_set_lend()): then nobody gets in between, and opening it does not touch storage.
 *
 * Undo and commit touch a name only if it still leads to the very file (device and inode, held open
 * so that the number is not used again) that it led to when prepare ended; what somebody else has
 * put there meanwhile stays, with a line in the log.
 *
 * All functions block: call them on a worker thread; one at a time for one SnapshotFile.
 */
#ifndef BLOCK_FILE_H
#define BLOCK_FILE_H

#include "block/new-image.h"
#include "util/coroutine.h"
#include "util/error.h"
#include <stdint.h>

typedef struct SnapshotFile SnapshotFile;

typedef enum SnapshotFileHow { FILE_CREATED, FILE_FILLED, FILE_REPLACED } SnapshotFileHow;

/* What tells a file from every other one, whatever its name is.  Times are ns since the epoch; 0: not known. */
typedef struct FileIdentity {
    uint64_t dev, ino;
    int64_t birth;
} FileIdentity;

/* A file that a snapshot makes, as the journal keeps it. */
typedef struct SnapshotFileInfo {
    SnapshotFileHow how;
    const char *path; /* absolute, links followed */
    FileIdentity id;
    uint64_t size;
    int64_t changed; /* ctime */
    /* FILE_REPLACED: names (in the same directory) that the former file has for a moment, and then until the end; and what it is */
    const char *first_name, *aside_name;
    FileIdentity aside;
} SnapshotFileInfo;

/* Identity of an open file, or of what has the name in dirfd (links are not followed).  0 or a negative errno.  Blocks. */
int file_identity(int fd, FileIdentity *ret);
int file_identity_at(int dirfd, const char *name, FileIdentity *ret);
bool file_identity_equal(const FileIdentity *a, const FileIdentity *b);

/* path: as the user gave it, relative to the current directory or absolute; copied. */
SnapshotFile *snapshot_file_new(const char *path);
/* NULL: nothing happens. */
void snapshot_file_free(SnapshotFile *f);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapshotFile, snapshot_file_free)

/* Called (by snapshot_file_prepare()) before the file gets the name: the caller makes durable what will be.  An error of its keeps the file
 * from being made. */
typedef bool SnapshotFileAnnounce(const SnapshotFileInfo *info, void *opaque, Error **errp);
void snapshot_file_set_announce(SnapshotFile *f, SnapshotFileAnnounce *fn, void *opaque);

/* image: lives until prepare returns. */
void snapshot_file_set_image(SnapshotFile *f, const NewImage *image);

/* Before prepare: if it creates the file, it shall keep it locked as a format that writes to it needs, for a `file` node without
 * cache.direct that can write and is opened by node_open_made() next. */
void snapshot_file_set_lend(SnapshotFile *f);

/* Whether snapshot_file_prepare() would find something in the way; does nothing.  Its errors. */
bool snapshot_file_check(SnapshotFile *f, Error **errp);

/* From MADE on: the file as it is now.  Strings belong to f.  Error: as finish. */
bool snapshot_file_info(SnapshotFile *f, SnapshotFileInfo *ret, Error **errp);

/* On failure all is as it was.  Errors: "Could not create '<path>': <reason>"; for a file in use
 * those of the image lock: "Failed to get "write" lock"; "Could not write the new image: <errno>". */
bool snapshot_file_prepare(SnapshotFile *f, Error **errp);

/* After the last write through the node.  On failure the state stays MADE: undo follows.  Error:
 * "Could not sync '<path>': <errno>" */
bool snapshot_file_finish(SnapshotFile *f, Error **errp);

/* The node must be closed: its locks would be in the way.  Cannot fail for the caller: what could
 * not be put back is logged, with the name under which it lies.  In NEW and DONE: does nothing. */
void snapshot_file_undo(SnapshotFile *f);

/* Deletes what was set aside.  In NEW and DONE: does nothing. */
void snapshot_file_commit(SnapshotFile *f);

/* The above for coroutines of the control thread: fn runs on a worker. */
typedef bool SnapshotFileStep(SnapshotFile *f, Error **errp);
typedef void SnapshotFileEnd(SnapshotFile *f);
bool coroutine_fn snapshot_file_step(SnapshotFileStep *fn, SnapshotFile *f, Error **errp);
void coroutine_fn snapshot_file_end(SnapshotFileEnd *fn, SnapshotFile *f);

/* True if `path` had a file with data that is set aside (from MADE on). */
bool snapshot_file_replaces(const SnapshotFile *f);

/* ---- after a crash: what was announced, and perhaps made ---- */

/* Takes back what was done for a group that is not committed.  Deletes or empties a file only if it is ours beyond doubt: it has the
 * identity, one name only, is not in use, and holds nothing but an untouched image of the group; and if size and time of
 * change were known (info->changed is not 0), they are the same.  What it leaves is told in *ret_message, which the caller
 * frees; NULL: nothing is left.  *ret_done: what was done; likewise.  Blocks. */
void snapshot_file_recover_undo(const SnapshotFileInfo *info, const char *group_uuid,
                                char **ret_done, char **ret_message);
/* Deletes what was set aside for a group that is committed. */
void snapshot_file_recover_commit(const SnapshotFileInfo *info, char **ret_message);

/* ---- image locks of a process that has just died ---- */

/* The kernel gives up the descriptors of a killed process some time after it is gone, since requests that it had under way end first; until
 * then its locks are there.  So a process that starts waits for locks: until `deadline` (clock_ns() value) what is in use is asked for
 * again every 20 ms; later, and at any time with 0 (as it is at first), it is an error at once.  Any thread. */
void file_locks_wait_until(int64_t deadline);
/* For what else such a process may still hold.  True: some time has passed, try again; false: it is an error.  Blocks. */
bool file_locks_wait(void);

/* How much of its space a new file gets at once. */
typedef enum FileSpace { FILE_SPACE_SPARSE, FILE_SPACE_RESERVED, FILE_SPACE_FULL } FileSpace;
/* The last two are hints to the file system, which may not know them: that is no error. */
typedef struct FileNew {
    FileSpace space;
    bool nocow;                /* do not copy what changes to another place */
    uint32_t extent_size_hint; /* bytes; 0: none */
} FileNew;
/* Makes a file of `size` zero bytes, or empties an existing one first; durable when it returns.  Blocks.  Errors: "Could not create '<path>':
 * <reason>", "Could not resize file: <errno>", those of the image lock. */
bool file_image_create(const char *path, uint64_t size, const FileNew *how, Error **errp);

/* Makes durable that `path` is in its directory.  Blocks.  Error: "Could not sync the directory of
 * '<path>': <errno>" */
bool file_sync_parent_dir(const char *path, Error **errp);

#endif

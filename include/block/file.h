/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Files that snapshots make, so that they can be unmade.
 *
 * A SnapshotFile takes a file name through the phases of a transaction.  Its life, each step named
 * by the function that does it:
 *
 *   snapshot_file_new       NEW      nothing has happened
 *   snapshot_file_prepare   MADE     an empty file of ours lies under the name
 *     (the caller opens a `file` node by the same name and writes the image through it)
 *   snapshot_file_finish    DURABLE  the content and the directory entry survive a power failure
 *   snapshot_file_commit    DONE     what the name meant before is gone for good
 *   snapshot_file_undo      DONE     (from MADE or DURABLE) what the name meant before is back, and
 *                                    nothing of ours remains
 *   snapshot_file_free               (from any state) leaves the files as they are
 *
 * What snapshot_file_prepare() finds under the name, after symbolic links, decides what it does:
 *
 *   nothing            creates the file (O_EXCL, mode 0644 & ~umask); undo unlinks it.
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
 * still ours and empty of others' use.
 *
 * Undo and commit touch a name only if it still leads to the very file (device and inode, held open
 * so that the number is not used again) that it led to when prepare ended; what somebody else has
 * put there meanwhile stays, with a line in the log.
 *
 * All functions block: call them on a worker thread; one at a time for one SnapshotFile.
 */
#ifndef BLOCK_FILE_H
#define BLOCK_FILE_H

#include "util/error.h"

typedef struct SnapshotFile SnapshotFile;

/* path: as the user gave it, relative to the current directory or absolute; copied. */
SnapshotFile *snapshot_file_new(const char *path);
/* NULL: nothing happens. */
void snapshot_file_free(SnapshotFile *f);

/* On failure all is as it was.  Errors: "Could not create '<path>': <reason>"; for a file in use
 * those of the image lock: "Failed to get "write" lock". */
bool snapshot_file_prepare(SnapshotFile *f, Error **errp);

/* After the last write through the node.  On failure the state stays MADE: undo follows.  Error:
 * "Could not sync '<path>': <errno>" */
bool snapshot_file_finish(SnapshotFile *f, Error **errp);

/* The node must be closed: its locks would be in the way.  Cannot fail for the caller: what could
 * not be put back is logged, with the name under which it lies.  In NEW and DONE: does nothing. */
void snapshot_file_undo(SnapshotFile *f);

/* Deletes what was set aside.  In NEW and DONE: does nothing. */
void snapshot_file_commit(SnapshotFile *f);

/* True if `path` had a file with data that is set aside (from MADE on). */
bool snapshot_file_replaces(const SnapshotFile *f);

/* Makes durable that `path` is in its directory.  Blocks.  Error: "Could not sync the directory of
 * '<path>': <errno>" */
bool file_sync_parent_dir(const char *path, Error **errp);

#endif

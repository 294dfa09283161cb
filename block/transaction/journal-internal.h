/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What transactions write to the journal; private to block/transaction/.  journal.c has the store, journal-group.c these.
 *
 * Without a journal all succeed and do nothing.
 */
#ifndef BLOCK_TRANSACTION_JOURNAL_INTERNAL_H
#define BLOCK_TRANSACTION_JOURNAL_INTERNAL_H

#include "block/file.h"
#include "block/journal.h"
#include "group.h"
#include "util/coroutine.h"
#include <sqlite3.h>

bool journal_active(void);

/* The group is about to be made: names of all its files.  Durable before the first file is made. */
bool coroutine_fn journal_intent(Group *g, Error **errp);
/* Member `index` is about to give a file its name.  Blocks: worker threads. */
bool journal_announce(const Group *g, unsigned index, const SnapshotFileInfo *info, Error **errp);
/* All files are complete (files: SnapshotFile * or NULL, by member). */
bool coroutine_fn journal_files(Group *g, GPtrArray *files, Error **errp);
/* The name of the backing file is about to be written into the header of the member's overlay, which the user opened. */
bool coroutine_fn journal_backing_name(const Group *g, const GroupMember *m, Error **errp);
/* The group is committed. */
bool coroutine_fn journal_record(Group *g, Error **errp);
/* It is not: its time passed after all (freeze.c); as after the intent. */
bool coroutine_fn journal_unrecord(Group *g, Error **errp);
/* A group that was kept is not committed any more, or never was; the files are about to be undone. */
void coroutine_fn journal_undoing(Group *g);
/* It is undone; its name is remembered, with its state. */
void coroutine_fn journal_undone(Group *g);
/* It never was. */
void coroutine_fn journal_forget(Group *g);
/* Internal snapshots, journal-internal-snapshot.c. */
struct sqlite3;
/* In the journal's thread. */
bool journal_write_internal(struct sqlite3 *db, const Group *g, unsigned index, Error **errp);
bool journal_read_internal(struct sqlite3 *db, Group *g, Error **errp);
/* Recovery: removes what the group left in the image; says what happened (NULL: nothing did), freed by the caller. */
char *coroutine_fn journal_undo_internal(const GroupMember *m, const FileIdentity *id,
                                         int64_t begun_ns);
/* Recovery of a recorded one: says what is wrong (NULL: nothing is). */
char *coroutine_fn journal_check_internal(const GroupMember *m);

/* JobRelink: a job merges chains.  Writes nothing if the journal knows nothing of `file`. */
bool coroutine_fn journal_relink(const char *file, const char *overlay, Error **errp);
/* The same row, for who is in the journal's thread. */
bool relink_write(sqlite3 *db, const char *file, const FileIdentity *id, const char *overlay,
                  int64_t at, Error **errp);
/* At the start, when all groups are known: pivots before relinks.  What was in doubt is decided. */
bool coroutine_fn journal_load_pivots(Error **errp);
extern const struct JobPivotJournal journal_pivot;
extern const struct PutAwayWatch journal_put_away;
bool coroutine_fn journal_load_relinks(Error **errp);
/* Does not wait. */
void journal_settled(Group *g);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The job `backup`, for transactions; private to block/.  Control thread.
 *
 *   backup_new       everything is made that can fail: the job, its filter (hidden, in nobody's way), what the bitmap needs
 *   backup_begin     at the instant, the filter being in place: the bitmap is taken; shown, not started
 *   backup_start     after it
 *   backup_settled   requests that did not come through the filter have ended
 *   backup_undo      instead of the last three
 */
#ifndef BLOCK_JOB_BACKUP_H
#define BLOCK_JOB_BACKUP_H

#include "block/bitmaps.h"
#include "block/job.h"

struct BackupCommon;
typedef struct BackupJob BackupJob;

/* What can be said of the arguments without looking at nodes; false: an error. */
bool backup_check_args(const struct BackupCommon *a, bool has_bitmap, Error **errp);
/* The same for a pair of nodes.  drive: it makes its target itself. */
bool backup_check_nodes(const struct BackupCommon *a, const Node *source, const Node *target,
                        Error **errp);
/* bitmap: the one that a->bitmap names; NULL: it names none.  `group` may be NULL. */
BackupJob *coroutine_fn backup_new(const struct BackupCommon *a, Node *source, Node *target,
                                   UserBitmap *bitmap, JobGroup *group, Error **errp);
Node *backup_filter(const BackupJob *b);
void backup_begin(BackupJob *b);
void backup_start(BackupJob *b);
void coroutine_fn backup_settled(BackupJob *b);
void coroutine_fn backup_undo(BackupJob *b);

#endif

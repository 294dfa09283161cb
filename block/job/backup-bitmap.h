/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The bitmap of a backup; private to block/job/.  Control thread.
 */
#ifndef BLOCK_JOB_BACKUP_BITMAP_H
#define BLOCK_JOB_BACKUP_BITMAP_H

#include "block/bitmaps.h"

typedef enum BackupSync { BACKUP_FULL, BACKUP_TOP, BACKUP_NONE, BACKUP_BITMAP } BackupSync;

typedef struct BackupBitmap BackupBitmap;

/* b, of node n, is busy from here on; mode: BitmapSyncMode.  Before the instant. */
BackupBitmap *coroutine_fn backup_bitmap_new(Node *n, UserBitmap *b, int mode, Error **errp);
/* At the instant. */
void backup_bitmap_begin(BackupBitmap *x);
/* What began before it has ended: the marks are complete. */
void coroutine_fn backup_bitmap_settled(BackupBitmap *x);
const DirtyBitmap *backup_bitmap_marks(const BackupBitmap *x);
/* The job's end; remaining: what was not copied.  Frees x. */
void coroutine_fn backup_bitmap_end(BackupBitmap *x, bool success, const DirtyBitmap *remaining);
/* Instead of begin. */
void coroutine_fn backup_bitmap_undo(BackupBitmap *x);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What both backup actions share; private to block/transaction/.
 */
#ifndef BLOCK_TRANSACTION_BACKUP_H
#define BLOCK_TRANSACTION_BACKUP_H

#include "../job/backup.h"
#include "action.h"

typedef struct BackupAction {
    Action base; /* first */
    struct BackupCommon *args;
    char *target_name;
    /* from plan on */
    PlannedNode *source, *target;
    UserBitmap *bitmap;
    bool holds_bitmap; /* it is busy because of us */
    /* from link on */
    BackupJob *job; /* until commit ours; then it lives by itself */
} BackupAction;

extern const ActionOps drive_backup_ops;

/* Plan: the source; then, when the target is known, the bitmap and the rest. */
bool backup_plan_source(BackupAction *x, PlannedGraph *g, Error **errp);
bool backup_plan_rest(BackupAction *x, Error **errp);
bool coroutine_fn backup_link_to(BackupAction *x, Node *target, Error **errp);
void backup_commit(Action *a);
void coroutine_fn backup_action_settled(Action *a);
void coroutine_fn backup_action_undo(Action *a);
void backup_action_clear(BackupAction *x);
/* a, if it is one of them; NULL: it is not. */
BackupAction *backup_of(Action *a);

#endif

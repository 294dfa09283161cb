/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * blockdev-backup and drive-backup: transactions of one action.
 */
#include "block/transaction.h"
#include "qapi-commands.h"

static bool coroutine_fn run(Transaction *t, Error **errp)
{
    bool ok = transaction_run(t, errp);

    transaction_free(t);
    return ok;
}

bool coroutine_fn qmp_blockdev_backup(const BlockdevBackup *arg, Error **errp)
{
    Transaction *t = transaction_new();

    transaction_add_backup(t, arg);
    return run(t, errp);
}

bool coroutine_fn qmp_drive_backup(const DriveBackup *arg, Error **errp)
{
    Transaction *t = transaction_new();

    transaction_add_drive_backup(t, arg);
    return run(t, errp);
}

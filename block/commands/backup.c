/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * blockdev-backup: a transaction of one action.
 */
#include "block/transaction.h"
#include "qapi-commands.h"

bool coroutine_fn qmp_blockdev_backup(const BlockdevBackup *arg, Error **errp)
{
    Transaction *t = transaction_new();
    bool ok;

    transaction_add_backup(t, arg);
    ok = transaction_run(t, errp);
    transaction_free(t);
    return ok;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Transactions: any number of actions, all or none, at one instant.
 *
 * A transaction is built (transaction_new, transaction_add_*), then run once.  Its life is plan, prepare, record, cut, settle; see
 * block/transaction/transaction.c.  Control thread; transaction_run() is a coroutine.
 */
#ifndef BLOCK_TRANSACTION_H
#define BLOCK_TRANSACTION_H

#include "block/node.h"

/* A transaction waits at most this long (ns) for another that has one of its nodes reserved. */
#define TRANSACTION_BUSY_TIMEOUT_NS (10 * INT64_C(1000000000))
/* And replies at most this long (ns) after the cut, whether or not everything has settled. */
#define TRANSACTION_SETTLE_TIMEOUT_NS (10 * INT64_C(1000000000))

typedef enum SnapshotMode { SNAPSHOT_ABSOLUTE_PATHS, SNAPSHOT_EXISTING } SnapshotMode;

/* Arguments of blockdev-snapshot-sync; NULL where absent; copied. */
typedef struct SnapshotSyncArgs {
    const char *device, *node_name;
    const char *snapshot_file;
    const char *snapshot_node_name;
    const char *format; /* NULL: qcow2 */
    SnapshotMode mode;
} SnapshotSyncArgs;

Transaction *transaction_new(void);
void transaction_free(Transaction *t);

void transaction_add_snapshot_sync(Transaction *t, const SnapshotSyncArgs *args);
/* blockdev-snapshot: `overlay` becomes the overlay of `node`; both are node names (node may be a device). */
void transaction_add_snapshot(Transaction *t, const char *node, const char *overlay);
/* Always fails: "Transaction aborted using Abort action". */
void transaction_add_abort(Transaction *t);

/* Success: the cut has happened and, within the settle timeout, all is settled.  Failure: nothing has changed; the error is that of the
 * first failing action in list order.  After it, the transaction must only be freed (settling may go on behind it). */
bool coroutine_fn transaction_run(Transaction *t, Error **errp);

/* Suspends until no transaction is running or clock_ns() passed the deadline (shutdown). */
bool coroutine_fn transaction_wait_all(int64_t deadline_ns);

#endif

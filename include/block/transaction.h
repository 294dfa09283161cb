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

struct SnapshotGroupInfoList;
struct TransactionCheckInfo;
struct TransactionInfo;
struct TransactionInfoList;

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
/* Name of the group (checked with transaction_group_check(); NULL: a UUID), and what identifies the same request again (NULL: nothing
 * does).  Copied. */
void transaction_set_group(Transaction *t, const char *id, const char *digest);
void transaction_set_settle_timeout(Transaction *t, int64_t ns);

void transaction_add_snapshot_sync(Transaction *t, const SnapshotSyncArgs *args);
/* blockdev-snapshot: `overlay` becomes the overlay of `node`; both are node names (node may be a device). */
void transaction_add_snapshot(Transaction *t, const char *node, const char *overlay);
/* blockdev-snapshot-internal-sync; device: or a node name. */
void transaction_add_snapshot_internal(Transaction *t, const char *device, const char *name);
/* Dirty bitmaps (block-dirty-bitmap-*). */
typedef enum BitmapVerb {
    BITMAP_ADD,
    BITMAP_REMOVE,
    BITMAP_CLEAR,
    BITMAP_ENABLE,
    BITMAP_DISABLE,
    BITMAP_MERGE,
} BitmapVerb;
typedef struct BitmapArgs {
    const char *node, *name;   /* merge: the target */
    bool has_granularity;      /* add; not given: as the node's clusters, 4 to 64 KiB */
    uint32_t granularity;      /* bytes */
    bool persistent, disabled; /* add */
    const struct BlockDirtyBitmapOrStrList *sources; /* merge */
} BitmapArgs;
/* Copies args. */
void transaction_add_bitmap(Transaction *t, BitmapVerb verb, const BitmapArgs *args);
/* As blockdev-backup (BlockdevBackup); copied. */
struct BlockdevBackup;
void transaction_add_backup(Transaction *t, const struct BlockdevBackup *args);
/* As drive-backup (DriveBackup); copied. */
struct DriveBackup;
void transaction_add_drive_backup(Transaction *t, const struct DriveBackup *args);
/* The jobs that its actions start end well together, or none does. */
void transaction_set_grouped(Transaction *t);
/* Always fails: "Transaction aborted using Abort action". */
void transaction_add_abort(Transaction *t);

/* Success: the cut has happened and, within the settle timeout, all is settled.  Failure: nothing has changed; the error is that of the
 * first failing action in list order.  After it, the transaction must only be freed (settling may go on behind it). */
bool coroutine_fn transaction_run(Transaction *t, Error **errp);

/* ---- prepared transactions ---- */

/* Is `id` a valid name, and what is it the name of?  False, with an error: it cannot be used, or not for what `digest` stands for.
 * *ret_done: the group of that name was committed, by just this request.  Waits (bounded) while such a transaction is being
 * prepared; *ret_kept: it is prepared now. */
bool coroutine_fn transaction_claim(const char *id, const char *digest, bool *ret_done,
                                    Transaction **ret_kept, Error **errp);
/* Prepares t and keeps it for timeout_ns; hold: as transaction_hold() too.  t then belongs to the register of prepared
 * transactions; on failure it is freed. */
bool coroutine_fn transaction_keep(Transaction *t, int64_t timeout_ns, bool hold, Error **errp);
/* Errors of these: there is none of that name; it is being decided; it was aborted or has expired. */
bool coroutine_fn transaction_hold(const char *id, int64_t timeout_ns,
                                   struct TransactionInfo **ret_info, Error **errp);
bool coroutine_fn transaction_commit(const char *id, Error **errp);
bool coroutine_fn transaction_abort(const char *id, Error **errp);
/* Shutdown: aborts all that are kept. */
void coroutine_fn transaction_abort_all(void);

struct TransactionInfo *transaction_info(const Transaction *t);
struct TransactionInfo *transaction_info_of_committed(const char *id);
struct TransactionInfoList *transaction_query(void);
struct SnapshotGroupInfoList *snapshot_group_query(const char *id);
/* Whether the event SNAPSHOT_GROUP_SETTLED is sent for groups that nobody gave a name to (default: yes). */
void snapshot_group_tell_unnamed(bool on);

/* ---- reservations of others ---- */

/* Who changes nodes without being a transaction reserves them: everybody else waits for it as for a running transaction. */
Transaction *reservation_new(void);
/* False: another has n. */
bool reservation_add(Transaction *t, Node *n);
/* Gives up all of them, and t. */
void reservation_end(Transaction *t);

/* ---- checking ---- */

/* Plans t, changes nothing.  t has only to be freed afterwards. */
struct TransactionCheckInfo *coroutine_fn transaction_check(Transaction *t);

/* Suspends until no transaction is running or clock_ns() passed the deadline (shutdown). */
bool coroutine_fn transaction_wait_all(int64_t deadline_ns);

#endif

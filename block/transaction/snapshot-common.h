/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What both external snapshot actions share; private to block/transaction/.
 */
#ifndef BLOCK_TRANSACTION_SNAPSHOT_COMMON_H
#define BLOCK_TRANSACTION_SNAPSHOT_COMMON_H

#include "action.h"
#include "util/co-lock.h"

/* One old node and its overlay, as far as an action has come with them. */
typedef struct Snapshot {
    PlannedNode *old, *overlay; /* planned; the transaction's */
    Node *old_node;             /* from prepare (a planned one: from link) on; reference */
    Node *overlay_node;         /* from link on; reference */
    Edge *backing;              /* overlay -> old, attached by link */
    bool ro_prepared;
    bool inactivated;          /* the overlay, as the old node is inactive */
    bool wrote_backing_string; /* into the overlay's header; taken out again by unlink */
} Snapshot;

/* Plan: may `old` get an overlay? */
bool snapshot_plan_old(PlannedGraph *g, const char *device, const char *node_name,
                       PlannedNode **ret_old, Error **errp);
/* Plan: may `overlay` be one for it? */
bool snapshot_plan_overlay(PlannedNode *old, PlannedNode *overlay, Error **errp);
/* Prepare: writes out and flushes the old node while I/O goes on, so that little is left for settle, and gets what makes it
 * read-only.  Runs beside the caller from begin until end, which must follow; end returns its result. */
typedef struct SnapshotQuiesce {
    Snapshot *s;
    CoGroup group;
    Error *err;
    bool ok;
} SnapshotQuiesce;
void coroutine_fn snapshot_quiesce_begin(SnapshotQuiesce *q, Snapshot *s);
bool coroutine_fn snapshot_quiesce_end(SnapshotQuiesce *q, Error **errp);
/* Link: checks the pair as it is now, attaches the backing edge, prepares read-only, adds the move to the change. */
bool coroutine_fn snapshot_link(Snapshot *s, Transaction *t, Error **errp);
void coroutine_fn snapshot_unlink(Snapshot *s);
/* Settled: the old node becomes read-only, permissions follow; tells the member how it went. */
void coroutine_fn snapshot_settled(Snapshot *s, const Action *a);
void snapshot_clear(Snapshot *s);

/* Link, for overlays that were there before: writes the true backing name into a header that has none (S15). */
bool coroutine_fn snapshot_complete_header(Snapshot *s, const Action *a, Error **errp);

/* For transaction-check: what to say if the overlay's header names another backing file than its true one; NULL: nothing. */
char *snapshot_backing_warning(Node *overlay, const PlannedNode *old);

/* The name that a header or a new overlay should have for `n`: absolute (S16); freed by the caller. */
char *snapshot_backing_name(const Node *n);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Internal snapshots: states of a disk that its image file keeps.
 *
 * What a driver provides, and what transactions do with it.  Control thread; coroutine_fn may suspend.
 *
 *   begin    with requests running: all that is slow.  From here on the image has a draft of the snapshot, one at a time
 *   catch_up no write-like request is in the node and none gets in (block/gate.c), for a moment: what is left of that work
 *   flip     the state of the disk now is the snapshot's.  No I/O, no errors; from here on writes may run again
 *   store    the snapshot gets into the file, durably
 *   end      keep: all is done.  Otherwise, at any time after begin: the draft, or the snapshot that was stored, is removed
 *
 * The node is reserved (transaction.h) meanwhile: nobody resizes, reopens or deletes it.
 */
#ifndef BLOCK_INTERNAL_SNAPSHOT_H
#define BLOCK_INTERNAL_SNAPSHOT_H

#include "block/node.h"

struct SnapshotInfo;
struct SnapshotInfoList;

#define INTERNAL_SNAPSHOT_NAME_MAX 255u /* bytes */

typedef struct InternalSnapshot InternalSnapshot; /* the driver's draft */

typedef struct InternalSnapshotOps {
    /* Can this image have some?  0 or a negative errno. */
    int (*check)(const Node *n);
    /* All of n's, in their order; from memory. */
    struct SnapshotInfoList *(*list)(const Node *n);
    /* Of one state as many as there are names (an array of char *).  0 or a negative errno.  The ids are the next free numbers. */
    int coroutine_fn (*begin)(Node *n, const GPtrArray *names, InternalSnapshot **ret);
    /* -ETIMEDOUT: clock_ns() passed the deadline; may be called again. */
    int coroutine_fn (*catch_up)(InternalSnapshot *s, int64_t deadline_ns);
    void (*flip)(InternalSnapshot *s);
    int coroutine_fn (*store)(InternalSnapshot *s);
    /* Frees s.  Removing cannot fail for the caller: what could not be given back is leaked, and said in the log. */
    void coroutine_fn (*end)(InternalSnapshot *s, bool keep);
    /* Removes the one with both this id and this name (NULL: any, not both NULL), the first such; -ENOENT: there is none.  *ret: what it was. */
    int coroutine_fn (*remove)(Node *n, const char *id, const char *name,
                               struct SnapshotInfo **ret);
} InternalSnapshotOps;

/* The node whose driver keeps n's snapshots: n, or what it passes everything on to; NULL: nobody can. */
Node *internal_snapshot_node(Node *n);

/* May snapshots of it be made or removed, as far as its other users go?  "Need a root block node", or that a job uses it. */
bool internal_snapshot_check_root(const Node *n, Error **errp);

#endif

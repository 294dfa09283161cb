/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The job `mirror`: what its files share; private to block/job/.
 *
 * Words
 *  source    the disk that guests use.
 *  target    the disk that gets all of it.
 *  replaced  whose users move to the target: the source, or a node below it that has the same data, or should have (a child of a quorum).
 *  through   a write of a guest that is carried to the target before the guest is told (copy mode write-blocking).
 *
 * Files: mirror.c (beginning and life), mirror-data.c (what is copied), mirror-through.c (write-blocking), mirror-pivot.c (the end).
 */
#ifndef BLOCK_JOB_MIRROR_H
#define BLOCK_JOB_MIRROR_H

#include "chain.h"
#include "converge.h"
#include "copy.h"

typedef enum MirrorWhat { MIRROR_TOP, MIRROR_FULL, MIRROR_NONE } MirrorWhat;

/* What the target has as its backing node when users move there. */
typedef enum MirrorBacking {
    MIRROR_BACKING_AS_IS,
    MIRROR_BACKING_OPENED,    /* what its header names */
    MIRROR_BACKING_OF_SOURCE, /* that of the source, or with MIRROR_NONE the source itself */
} MirrorBacking;

typedef struct MirrorJob {
    Job job;
    Node *source, *target, *replaced; /* references, until clean */
    Edge *source_edge, *target_edge;
    Node *filter; /* NULL: none */
    MirrorWhat what;
    MirrorBacking backing;
    Edge *backing_edge; /* MIRROR_BACKING_OF_SOURCE, when it is there */
    bool target_is_zero, unmap;
    bool
        hidden_later; /* what the target has not got will show what a backing node has: zeroes have to be written */
    uint32_t granularity; /* as asked for, 0: the default */
    int64_t buf_size;     /* bytes, 0: the default */
    int64_t max_delay;    /* ns */
    JobOnError on_target_error;
    Copy copy;
    bool copying, recording; /* what has to be taken back */
    bool completing, pivoted;
    Timer tick;
    /* ---- mirror-through.c ---- */
    WriteFollower follower;
    CoGroup carrying; /* writes that are being carried through */
    int64_t timeout;  /* ns for which a guest waits */
    /* Any thread: a write could not be carried in time.  Guests do not wait until all is copied again. */
    _Atomic bool suspended;
    _Atomic unsigned alone; /* writes that are being carried and that no guest waits for any more */
    /* Control thread: each write that ended is in the target; since: Copy.rounds when that could begin */
    bool synced, seen_suspended;
    unsigned since, failures;
} MirrorJob;

/* ---- mirror.c ---- */

/* What both commands that start one say. */
typedef struct MirrorSpec {
    JobArgs job; /* id NULL: the name of the device */
    const char *replaces, *filter_name;
    int sync; /* MirrorSyncMode */
    uint32_t granularity;
    bool has_buf_size;
    int64_t buf_size;
    JobOnError on_source_error, on_target_error;
    bool write_blocking, target_is_zero, unmap;
    MirrorBacking backing;
    int64_t max_delay, timeout; /* ns */
} MirrorSpec;

/* The disk that is called so, and may be mirrored. */
Node *coroutine_fn mirror_find_source(const char *device, Error **errp);
/* What does not depend on the target: the granularity and the source; then, the replaced node lies between in QEMU's order, the rest. */
bool mirror_check(const MirrorSpec *s, Node *source, Error **errp);
bool mirror_check_arguments(const MirrorSpec *s, Node *source, Error **errp);
/* The node that `replaces` says: the source if it is NULL. */
Node *mirror_find_replaced(const char *replaces, Node *source, Error **errp);
/* The first backing node below a node, seen through filters; NULL: none. */
Node *mirror_backing_of(Node *n);
/* True while users of the source may go on after a move from `replaced`. */
bool mirror_can_replace(const Node *source, const Node *replaced);
bool coroutine_fn mirror_start(const MirrorSpec *s, Node *source, Node *target, Error **errp);
/* Durable, by the policy about errors of the target.  False: m->copy.error, or cancelled. */
bool coroutine_fn mirror_flush_target(MirrorJob *m);

/* ---- mirror-data.c ---- */

bool coroutine_fn mirror_data_init(MirrorJob *m, Error **errp);

/* ---- mirror-through.c ---- */

void coroutine_fn mirror_through_begin(MirrorJob *m);
/* When it returns nothing is being carried through. */
void coroutine_fn mirror_through_end(MirrorJob *m);
void mirror_through_set(MirrorJob *m, bool active);
bool mirror_is_through(const MirrorJob *m);
/* Looks whether the target has caught up. */
void mirror_through_look(MirrorJob *m);

/* ---- mirror-pivot.c ---- */

/* Makes the target the same as the source at an instant, and moves users there if `move`; gives up at clock_ns() value give_up. */
bool coroutine_fn mirror_meet(MirrorJob *m, bool move, int64_t give_up, Error **errp);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The job `commit`: what its two files share; private to block/job/.
 */
#ifndef BLOCK_JOB_COMMIT_H
#define BLOCK_JOB_COMMIT_H

#include "chain.h"
#include "copy.h"

typedef struct CommitJob {
    Job job;
    bool active;
    /* Images.  References, until clean. */
    Node *device, *top, *base;
    /* Whose users move in the end, and where to: top and base, or filters above these.  References, until clean. */
    Node *from, *to;
    Node *last; /* the image above base */
    Edge *top_edge, *base_edge;
    Edge *to_edge; /* NULL: `to` is base */
    Node *filter;  /* NULL: none */
    bool base_was_read_only, to_was_read_only, lenient;
    char *backing_file; /* NULL: base's name */
    bool mask_protocol;
    Copy copy;
    bool copying; /* copy is initialised */
    /* active */
    bool once; /* up to the point where both are the same, and no pivot */
    bool recording, completing, pivoted;
    int64_t max_delay; /* ns by which a write may be slowed down */
    Timer tick;
} CommitJob;

/* Starts the job; the caller has the chain's lock.  once: unseen, *ret_job is a reference for the caller (NULL: nobody wants it). */
bool coroutine_fn commit_start(const struct BlockCommitArg *a, bool once, CommitJob **ret_job,
                               Error **errp);

/* The nodes whose users move: `from`, and those below it down to top.  n: c->from first, then what this returned; NULL: that was all. */
Node *commit_next_moved(const CommitJob *c, const Node *n);

/* ---- commit-once.c ---- */

/* Base has everything, durably: empties top where it can. */
bool coroutine_fn commit_once_end(CommitJob *c, Error **errp);

/* ---- commit-active.c ---- */

/* From the first copy to ready, and to the end that is asked for. */
bool coroutine_fn commit_active_run(CommitJob *c, Error **errp);
bool coroutine_fn commit_active_prepare(CommitJob *c, Error **errp);
bool commit_active_complete(Job *j, Error **errp);
bool commit_active_soft_cancel(Job *j);

#endif

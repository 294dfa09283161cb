/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the jobs that merge a backing chain share; private to block/job/.  Control thread.
 */
#ifndef BLOCK_JOB_CHAIN_H
#define BLOCK_JOB_CHAIN_H

#include "block/graph.h"
#include "block/job.h"

/* One at a time: looking at a chain in order to change it.  Innermost but for what changes of the graph take. */
void coroutine_fn chain_lock(void);
void chain_unlock(void);

/* An image is a node that is no filter.  What n, image or filter, shows data of: its backing node or its child, filters included; NULL: nothing. */
Node *chain_below(const Node *n);
/* The next image below the image that n is or stands for; NULL: none. */
Node *chain_backing(const Node *n);
/* Is n, image or filter, `top` or below it? */
bool chain_contains(const Node *top, const Node *n);
/* The image in the chain from `top` whose next image is the one that n is or stands for; NULL: none. */
Node *chain_overlay(Node *top, const Node *n);
/* The node, image or filter, right above n in the chain from `top`; NULL: none. */
Node *chain_above(Node *top, const Node *n);
/* The backing edges of other images that lead to n, itself or through filters (those of jobs excepted).  Free the array only. */
GPtrArray *chain_overlay_edges(const Node *n);
/* The backing image of some image from `top` on down whose file is `name`, as written in headers or in full; NULL: none. */
Node *chain_find_file(Node *top, const char *name);
/* The node of that name; filters that jobs have inserted stand for the node below them. */
Node *chain_named(const char *name, Error **errp);
/* The image that the node of that name is or stands for. */
Node *chain_lookup(const char *name, Error **errp);
/* Jobs work on active nodes.  what, above: what n would be to which node (NULL: one without a name of its own); prefix: what the text begins with.
 * Error: "Inactive '%s' can't be a %s child of active '%s'". */
bool chain_check_active(const Node *n, const char *what, const char *above, const char *prefix,
                        Error **errp);
/* Waits (bounded) until no transaction has a node, filters included, from `top` down to `bottom` (NULL: the end) reserved, then looks whether a job has
 * one. */
bool coroutine_fn chain_wait_free(Node *top, const Node *bottom, Error **errp);

/* A node of that name that is there while the job runs, above n: for those who look for the filters that others insert.  Name NULL:
 * nothing, *ret_filter is NULL. */
bool coroutine_fn chain_add_filter(Node *n, const char *name, const char *driver, Node **ret_filter,
                                   Error **errp);
void coroutine_fn chain_remove_filter(Node *filter);
bool chain_is_filter(const Node *n);

/* Backing edges from top down to base: what changes in base does not show in top.  Ends with false. */
void coroutine_fn chain_set_lenient(Node *top, const Node *base, bool lenient);

/* Makes the image of `backing` (NULL: none) what the header of n names, durably; n may be read-only.  file: what to write instead of its name; mask_protocol: a
 * protocol node's format is written as raw. */
bool coroutine_fn chain_write_backing(Node *n, const Node *backing, const char *file,
                                      bool mask_protocol, Error **errp);
/* Moves edges that nobody writes through to a node that reads the same, at one instant.  Edge * in `edges`; to NULL: their parents have no
 * backing any more. */
void coroutine_fn chain_move(GPtrArray *edges, Node *to);

/* The disk in `n` is from now on what `overlay` (NULL: nobody) is on top of: told to the snapshot journal, durably, before it is so. */
bool coroutine_fn chain_relink(const Node *n, const Node *overlay, Error **errp);

/* What a header shall call the disk in n, which has a filename: absolute.  Freed by the caller. */
char *chain_full_name(const Node *n);

/* The users of `from` are about to move to `to` (JobPivotJournal, job.h): with a journal `to` comes to rest and is made durable, and it is recorded.
 * *ret_recorded: one of the others has to follow.  False without an error: it took longer than until clock_ns() passes the deadline. */
bool coroutine_fn chain_pivot_begin(Node *from, Node *to, int64_t deadline_ns, bool *ret_recorded,
                                    Error **errp);
/* They have moved.  What goes wrong is logged. */
void coroutine_fn chain_pivot_done(Node *from, Node *to);
/* They have not; before anything is written to `to` again. */
bool coroutine_fn chain_pivot_give_up(Node *to, Error **errp);

/* The size of what is marked as a whole, for a disk of `size` bytes that is copied into n. */
uint32_t chain_granularity(const Node *n, uint64_t size);

#endif

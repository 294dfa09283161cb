/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of the filter `blkdebug` share.
 *
 * Words
 *  event      something that happens in the node, or in the format above it (include/block/debug.h).
 *  rule       what an event does: other rules (errors), another state, a breakpoint.
 *  state      a number, 1 at first; a rule may count in one state only.
 *  active     error rules whose event was met; each request is held against them, in the order of the rules.
 *
 * An event that has error rules in the present state makes these the active ones, in place of all others.
 */
#ifndef BLOCK_FILTER_BLKDEBUG_H
#define BLOCK_FILTER_BLKDEBUG_H

#include "block/debug.h"
#include "filter.h"
#include "qapi-types.h"

typedef struct BlkdebugState {
    /* ---- constant after open ---- */
    uint64_t zero_alignment, discard_alignment; /* smaller ones are not passed on */
    unsigned take, unshare;                     /* of Perm */
    /* ---- lock: a leaf, never held across a suspension ---- */
    pthread_mutex_t lock;
    uint64_t state;
    GPtrArray *rules;  /* Rule *, in their order */
    GPtrArray *active; /* Rule *, of `rules` */
    GQueue suspended;  /* Suspended * */
    bool abandoned;    /* nothing waits any more */
} BlkdebugState;

/* ---- blkdebug-rules.c ---- */

void blkdebug_rules_init(BlkdebugState *s);
void blkdebug_rules_destroy(BlkdebugState *s);
/* Adds rules; NULL lists: none. */
bool blkdebug_add_rules(const Node *n, BlkdebugState *s,
                        const BlkdebugInjectErrorOptionsList *inject,
                        const BlkdebugSetStateOptionsList *set, Error **errp);
void coroutine_fn blkdebug_event(Node *n, int event);
/* 0, or the error that a request is to fail with. */
int coroutine_fn blkdebug_check(Node *n, uint64_t offset, uint64_t bytes, BlkdebugIOType type);
/* Requests that wait go on, and none will wait. */
void blkdebug_abandon(Node *n);
extern const DebugOps blkdebug_ops;

/* ---- blkdebug-config.c ---- */

/* Adds the rules of a configuration file.  Errors: "Could not read blkdebug config file: …", what is wrong in it. */
bool coroutine_fn blkdebug_read_config(const Node *n, BlkdebugState *s, const char *filename,
                                       Error **errp);

#endif

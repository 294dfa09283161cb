/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A set of nodes that change together, from reserving them to the end; private to block/reopen/.  Who fills it says what each node will be:
 * blockdev-reopen by options (reopen.c), blockdev-set-active by a flag (activate.c).  set.c has the sequence.  Control thread.
 */
#ifndef BLOCK_REOPEN_SET_H
#define BLOCK_REOPEN_SET_H

#include "../node-internal.h"
#include "block/reopen.h"
#include "qapi-types.h"

typedef struct Item {
    Reopen r;               /* first */
    BlockdevOptions *given; /* NULL: options stay */
    NodeFlags flags;
    bool kept; /* options as they are: named by reference only */
    bool expanded;
    bool changed;                   /* there is something to do */
    Node *want_file, *want_backing; /* other targets; NULL: none of them */
    bool no_backing;                /* backing shall be detached */
    Edge *old_file, *old_backing;   /* leaving */
    bool prepared, closed;
} Item;

typedef struct Set {
    GPtrArray *items;  /* Item *: parents before the children that are defined in place in them */
    Transaction *hold; /* the reservation; NULL: not yet, or the caller has one */
    PermPlan *plan;
    bool planned; /* permissions are prepared */
} Set;

void set_init(Set *s);
/* Ends the reservation, too. */
void set_clear(Set *s);
/* NULL: it is not in the set. */
Item *set_find(const Set *s, const Node *n);
/* Takes a reference; the options (NULL: they stay as they are) are copied. */
Item *set_add(Set *s, Node *n, const BlockdevOptions *given);
/* Reserves all nodes concerned.  The node that somebody else has reserved (not referenced), then nothing is reserved after set_clear(); NULL: now
 * all are ours. */
Node *set_reserve(Set *s);
/* Plan, quiesce, load, switch, end.  On failure nothing has changed. */
bool coroutine_fn set_run(Set *s, Error **errp);

#endif

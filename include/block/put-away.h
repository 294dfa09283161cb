/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Images that are put away: closed, or read-only from now on.  What a driver writes into the file then (bitmaps, say) is no change of the disk, and who
 * tells by the file whether the disk has changed has to know.  Control thread.
 */
#ifndef BLOCK_PUT_AWAY_H
#define BLOCK_PUT_AWAY_H

#include "block/node.h"

typedef struct PutAwayWatch {
    /* The image in `file` is about to be put away; nobody writes to it any more.  NULL: it does not matter; else what end() gets. */
    void *(*begin)(const char *file);
    /* All that belongs to it is written.  Frees what begin() returned. */
    void coroutine_fn (*end)(void *token);
} PutAwayWatch;

/* NULL: nobody wants to know. */
extern const PutAwayWatch *put_away_watch;

/* Around what a driver does to put n away. */
void *put_away_begin(const Node *n);
void coroutine_fn put_away_end(void *token);

#endif

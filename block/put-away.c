/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Images that are put away; see the header.
 */
#include "block/put-away.h"
#include "block/driver.h"

const PutAwayWatch *put_away_watch;

void *put_away_begin(const Node *n)
{
    if (!put_away_watch || !n->file || atomic_load(&((Node *)n)->inactive)) {
        return NULL; /* what protocols and inactive nodes have is written */
    }
    while (n->file) {
        n = n->file->target;
    }
    return n->driver->is_protocol && n->filename ? put_away_watch->begin(n->filename) : NULL;
}

void coroutine_fn put_away_end(void *token)
{
    if (token) {
        put_away_watch->end(token);
    }
}

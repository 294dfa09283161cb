/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Debug events: what happens inside a node, told to a debugging filter right below it (driver->debug_event; blkdebug).
 *
 * Formats tell of their own steps through the edge to their file; block/io.c and block/flush.c tell of what is the same for all nodes.  While
 * there is no such filter an event costs one load.
 *
 * A listener may keep the request waiting, at a breakpoint, for as long as the user wants: no event is told with a pthread mutex held.
 * The functions for breakpoints are the control thread's; those for events belong to coroutines of any loop.
 */
#ifndef BLOCK_DEBUG_H
#define BLOCK_DEBUG_H

#include "block/io.h"
#include "qapi-types.h"

/* How many nodes listen. */
extern _Atomic unsigned debug_listeners;

/* What a driver with breakpoints provides; all return 0 or a negative errno, and none suspends. */
typedef struct DebugOps {
    /* The next request that meets the event waits, under this tag. */
    int (*set_break)(Node *n, BlkdebugEvent event, const char *tag);
    /* Breakpoints of that tag go, and requests that wait under it go on.  -ENOENT: there are none. */
    int (*remove_break)(Node *n, const char *tag);
    /* The first request that waits under the tag goes on.  -ENOENT: none does. */
    int (*resume)(Node *n, const char *tag);
    bool (*is_suspended)(Node *n, const char *tag);
} DebugOps;

/* Tells n itself. */
void coroutine_fn node_debug_event_now(Node *n, BlkdebugEvent event);
/* Tells the node that r goes to through e.  flags: those of the call that follows, which decides with this one. */
void coroutine_fn edge_debug_event_now(Edge *e, Request *r, unsigned flags, BlkdebugEvent event);

static inline bool debug_is_listened(void)
{
    return G_UNLIKELY(atomic_load_explicit(&debug_listeners, memory_order_relaxed) > 0);
}

static inline void coroutine_fn node_debug_event(Node *n, BlkdebugEvent event)
{
    if (debug_is_listened()) {
        node_debug_event_now(n, event);
    }
}

static inline void coroutine_fn edge_debug_event(Edge *e, Request *r, unsigned flags,
                                                 BlkdebugEvent event)
{
    if (debug_is_listened()) {
        edge_debug_event_now(e, r, flags, event);
    }
}

/* The first node from n down, by its files, whose driver has breakpoints; NULL: none. */
Node *node_debugged(Node *n);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Debug events on their way to a listener; see include/block/debug.h.
 */
#include "block/debug.h"
#include "io-internal.h"

_Atomic unsigned debug_listeners;

void coroutine_fn node_debug_event_now(Node *n, BlkdebugEvent event)
{
    if (n->driver->debug_event) {
        n->driver->debug_event(n, (int)event);
    }
}

void coroutine_fn edge_debug_event_now(Edge *e, Request *r, unsigned flags, BlkdebugEvent event)
{
    node_debug_event_now(edge_enter_flags(e, r, flags), event);
}

Node *node_debugged(Node *n)
{
    while (n && !n->driver->debug) {
        n = n->file ? n->file->target : NULL;
    }
    return n;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reopening: other options, and other children, for nodes that are in use.
 *
 * blockdev_reopen() takes any number of nodes from old to new, all or none.  What drivers do in it is below, in the order of the calls;
 * block/reopen/reopen.c has the whole sequence.  Control thread.
 */
#ifndef BLOCK_REOPEN_H
#define BLOCK_REOPEN_H

#include "block/node.h"

struct BlockdevOptions;
struct BlockdevOptionsList;

/* A node as it will be. */
typedef struct Reopen {
    Node *node; /* a reference */
    struct BlockdevOptions
        *options; /* for the driver: with what is inherited and defaults filled in */
    /* The flags of node.h by the same names. */
    bool
        read_only; /* what Node.read_only will be; the driver may set it in reopen_prepare() (auto-read-only) */
    bool auto_read_only, cache_direct, discard_unmap;
    Edge *file, *backing; /* the children that it will have; NULL: none */
    bool new_file, new_backing;
    bool inactive;       /* what Node.inactive will be; then read_only is set, too ... */
    bool rest_read_only; /* ... and this is what Node.rest_read_only will be */
    bool
        reload; /* it becomes active: nothing that was read from its children counts, another process may have changed it */
    /* For the driver to set in reopen_prepare(): */
    bool hold;   /* no request may run in the node when it switches */
    void *state; /* the driver's own */
} Reopen;

/* As blockdev-reopen.  On failure nothing has changed. */
bool coroutine_fn blockdev_reopen(const struct BlockdevOptionsList *options, Error **errp);

/* As blockdev-set-active; n: NULL: all nodes.  What is below n becomes inactive with it, unless an active node uses it, and active with it.  On failure
 * nothing has changed.  Errors: "Node has active parent node", "Failed to inactivate node: Operation not permitted", errors of locks and of reading
 * images.  A node that a transaction has reserved is waited for, bounded. */
bool coroutine_fn blockdev_set_active(Node *n, bool active, Error **errp);
/* The same, for who has reserved n and all below it. */
bool coroutine_fn blockdev_set_active_reserved(Node *n, bool active, Error **errp);
/* What an export without allow-inactive needs first.  No such node: true, somebody else tells. */
bool coroutine_fn blockdev_activate_for_export(const char *node_name, Error **errp);

/* As block_resize; size: bytes. */
bool coroutine_fn block_resize(const char *device, const char *node_name, int64_t size,
                               Error **errp);

static inline bool node_will_be_read_only(const Node *n)
{
    return n->reopening ? n->reopening->read_only
                        : atomic_load_explicit(&((Node *)n)->read_only, memory_order_relaxed);
}

static inline bool node_will_be_inactive(const Node *n)
{
    return n->reopening ? n->reopening->inactive
                        : atomic_load_explicit(&((Node *)n)->inactive, memory_order_relaxed);
}

#endif

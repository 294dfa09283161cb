/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Making an old node read-only, down to its file, without a pause.
 *
 * It concerns the node and those storage and filtered children that nobody else uses and that the user did not add himself to be
 * writable: a `file` node of blockdev-add keeps its own flag, and gives up the file by its permissions (dynamic
 * auto-read-only) when no parent writes any more.
 *
 * prepare may fail and runs beside I/O; commit runs when no write-like request is left and what was written is flushed.
 */
#include "block/graph.h"
#include "node-internal.h"

/* The child that becomes read-only together with n; NULL: none. */
static Node *follower(const Node *n)
{
    Node *child = n->file ? n->file->target : NULL;

    if (!child || child->monitor_owned || child->parents->len != 1 ||
        atomic_load(&child->read_only)) {
        return NULL;
    }
    return child;
}

static void coroutine_fn abort_until(Node *n, const Node *end)
{
    for (; n && n != end; n = follower(n)) {
        if (n->driver->ro_abort) {
            n->driver->ro_abort(n);
        }
    }
}

bool coroutine_fn node_ro_prepare(Node *top, Error **errp)
{
    for (Node *n = top; n; n = follower(n)) {
        if (n->driver->ro_prepare && !n->driver->ro_prepare(n, errp)) {
            abort_until(top, n);
            return false;
        }
    }
    return true;
}

void coroutine_fn node_ro_abort(Node *n)
{
    abort_until(n, NULL);
}

void coroutine_fn node_ro_commit(Node *top)
{
    Node *n = top;

    /* Top down: who writes into a file gives up before the file does. */
    while (n) {
        Node *next = follower(n);

        atomic_store_explicit(&n->read_only, true, memory_order_seq_cst);
        if (n->driver->ro_commit) {
            n->driver->ro_commit(n);
        }
        n = next;
    }
}

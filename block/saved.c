/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a crash of the process would lose; see the header.
 */
#include "block/saved.h"
#include "block/driver.h"

bool coroutine_fn edge_unsaved(Edge *e, Request *r)
{
    while (e) {
        Node *n = edge_enter(e, r);

        if (n->driver->unsaved && n->driver->unsaved(n)) {
            return true;
        }
        e = n->file;
    }
    return false;
}

bool node_file_identity(const Node *n, FileIdentity *ret)
{
    while (n->file) {
        n = atomic_load_explicit(&n->file->node, memory_order_acquire);
    }
    return n->driver->identity && n->driver->identity(n, ret);
}

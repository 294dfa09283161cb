/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Another size for a disk (block_resize).
 *
 * The command is a user of the disk for its time, one that needs to resize it: whoever does not permit that (permissions) or works on the node
 * (jobs, transactions) is in the way.  Growing goes on beside requests.  Before a disk gets smaller it is idle (gate.c): a request that was let
 * in never finds itself beyond the end.
 */
#include "block/bitmaps.h"
#include "block/graph.h"
#include "block/reopen.h"
#include "block/transaction.h"
#include "../gate.h"
#include "../io-internal.h"
#include "../node-internal.h"
#include <errno.h>

#define SHRINK_WAIT_NS (10 * INT64_C(1000000000))

static bool check(const Node *n, int64_t size, Error **errp)
{
    if (size < 0) {
        error_set(errp, ERROR_INVALID, n->name, "resize", "Parameter 'size' expects a >0 size");
        return false;
    }
    if (!node_check_no_job(n, errp)) {
        return false;
    }
    for (guint i = 0; i < n->parents->len; i++) {
        const Edge *e = g_ptr_array_index(n->parents, i);

        if (e->role == EDGE_COW && e->parent) {
            error_set(errp, ERROR_BUSY, n->name, "resize",
                      "Node '%s' is busy: node is used as backing hd of '%s'", n->name,
                      e->parent->name);
            return false;
        }
    }
    return true;
}

/* The nodes that a resize of n goes down through: filters and raw nodes pass it on. */
static Node *passes_on_to(const Node *n)
{
    return n->file && n->file->role == EDGE_FILTERED ? n->file->target : NULL;
}

/* A device, or what passes its size on. */
static bool is_device(const Node *n)
{
    while (passes_on_to(n)) {
        n = passes_on_to(n);
    }
    return n->driver->is_device;
}

static bool failed(const Node *n, int ret, Error **errp)
{
    const char *format = n->driver->name;

    if (ret == -ENOTSUP && is_device(n)) {
        error_set(errp, ERROR_UNSUPPORTED, n->name, "resize", "Cannot grow device files");
    } else if (ret == -ENOTSUP && n->driver->truncate) {
        error_set(errp, ERROR_UNSUPPORTED, n->name, "resize", "Cannot resize fixed-size %s disks",
                  format);
    } else if (ret == -ENOTSUP) {
        error_set(errp, ERROR_UNSUPPORTED, n->name, "resize",
                  "Image format driver does not support resize");
    } else if (ret == -EINVAL) {
        error_set(errp, ERROR_INVALID, n->name, "resize", "The new size must be a multiple of 512");
    } else if (ret == -EFBIG) {
        error_set(errp, ERROR_LIMIT, n->name, "resize", "The new size is too large for '%s'",
                  n->name);
    } else {
        error_set_errno(errp, -ret, n->name, "resize", "Failed to resize node '%s'", n->name);
    }
    return false;
}

static void open_gates(Node *top, const Node *end)
{
    for (Node *n = top; n != end; n = passes_on_to(n)) {
        gate_open(n);
    }
}

/* Parents first. */
static bool coroutine_fn close_gates(Node *top, Error **errp)
{
    int64_t deadline = clock_ns() + SHRINK_WAIT_NS;

    for (Node *n = top; n; n = passes_on_to(n)) {
        gate_close(n, deadline);
        if (!gate_wait_idle(n) || !gate_claim(n)) {
            open_gates(top, passes_on_to(n));
            error_set(errp, ERROR_TIMEOUT, n->name, "resize",
                      "Node '%s' is busy: its requests did not end in time", n->name);
            return false;
        }
    }
    return true;
}

static void coroutine_fn resize_bitmaps(Node *top, uint64_t at_least)
{
    for (Node *n = top; n; n = passes_on_to(n)) {
        node_bitmaps_resize(n, MAX(at_least, atomic_load(&n->size)));
    }
}

static bool coroutine_fn resize(Edge *e, uint64_t size, Error **errp)
{
    Node *n = e->target;
    bool shrinks = size < atomic_load(&n->size);
    Request r;
    int ret;

    if (shrinks && !close_gates(n, errp)) {
        return false;
    }
    resize_bitmaps(n, size);
    request_begin(&r, REQUEST_WRITE);
    r.passes_gates = true;
    ret = edge_truncate(e, &r, size, false);
    request_end(&r);
    resize_bitmaps(n, 0);
    if (shrinks) {
        open_gates(n, NULL);
    }
    if (ret < 0) {
        return failed(n, ret, errp);
    }
    node_resized(n);
    return true;
}

/* True: n and what it passes a resize on to are ours.  False: *ret_busy is somebody else's. */
static bool reserve(Transaction *hold, Node *top, Node **ret_busy)
{
    for (Node *n = top; n; n = passes_on_to(n)) {
        if (!reservation_add(hold, n)) {
            *ret_busy = n;
            return false;
        }
    }
    return true;
}

bool coroutine_fn block_resize(const char *device, const char *node_name, int64_t size,
                               Error **errp)
{
    Transaction *hold = NULL;
    Node *n, *busy = NULL;
    Edge *e;
    bool ok;

    for (;;) {
        n = node_lookup(device, node_name, errp);
        if (!n) {
            return false;
        }
        hold = reservation_new();
        if (reserve(hold, n, &busy)) {
            break;
        }
        reservation_end(hold);
        if (!node_wait_unreserved(busy, errp)) {
            return false;
        }
    }
    e = check(n, size, errp) ? edge_attach(n, NULL, &edge_owner_unnamed, NULL, "root", EDGE_ROOT,
                                           PERM_RESIZE, PERM_ALL, errp)
                             : NULL;
    ok = e && resize(e, size, errp);
    if (e) {
        edge_detach(e);
    }
    reservation_end(hold);
    return ok;
}

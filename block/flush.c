/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Flush: making completed writes durable (T5).
 *
 * A flush of a node covers all writes that had ended in it when the flush began.  Writes are counted when they end
 * (write_gen); a flush that finds that another one began after those and succeeded has nothing left to do.  One flush runs in
 * a node at a time (flush_lock); whoever waits for it finds its work done by the next.
 *
 * Old nodes.  After a cut, writes that a guest was told of may lie unflushed in the old node.  So a guest's flush goes down
 * the backing chain and first flushes every node that is "not known flushed" (unflushed_old); the flag stacks with the
 * chain, and settle clears it when the old requests have ended and the node is flushed.
 *
 * Failures.  When a protocol node's flush fails, what it should have written may be lost for good and a second try may wrongly
 * succeed.  The error is sticky: every later flush of that node fails until it is opened anew.
 */
#include "block/count.h"
#include "block/debug.h"
#include "block/graph.h"
#include "io-internal.h"
#include "stats-internal.h"
#include "util/log.h"
#include <string.h>

void node_flush_failed(Node *n, int err)
{
    log_warn("%s: flush failed: %s; it stays failed until the node is opened anew",
             n->filename ? n->filename : n->name, strerror(-err));
    atomic_store_explicit(&n->flush_error, err, memory_order_relaxed);
}

static int coroutine_fn flush_driver(Node *n, Request *r)
{
    const BlockDriver *drv = n->driver;
    int ret = 0;

    if (drv->is_protocol) {
        if (drv->flush && !n->cache_no_flush) {
            ret = drv->flush(n, r);
            if (ret < 0) {
                node_flush_failed(n, ret);
            }
        }
        return ret;
    }
    if (drv->flush) {
        ret = drv->flush(n, r);
    }
    if (ret == 0 && n->file) {
        /* As from above: below a filter there may be an overlay whose old node is not known flushed. */
        ret = edge_flush(n->file, r);
    }
    return ret;
}

/* All writes of the first `want` are durable.  A filter cannot tell: what was written below before it was put there belongs to its disk, too. */
static bool is_flushed(const Node *n, uint64_t want)
{
    return !n->driver->is_filter &&
           atomic_load_explicit(&((Node *)n)->flushed_gen, memory_order_acquire) >= want;
}

int coroutine_fn node_flush_self(Node *n, Request *r)
{
    uint64_t want = atomic_load_explicit(&n->write_gen, memory_order_acquire);
    uint64_t now;
    int ret = atomic_load_explicit(&n->flush_error, memory_order_relaxed);

    if (ret < 0) {
        return ret;
    }
    if (n->file) {
        edge_debug_event(n->file, r, 0, BLKDEBUG_EVENT_FLUSH_TO_OS);
    }
    if (is_flushed(n, want)) {
        return 0;
    }
    if (n->file) {
        edge_debug_event(n->file, r, 0, BLKDEBUG_EVENT_FLUSH_TO_DISK);
    }
    co_mutex_lock(&n->flush_lock);
    ret = atomic_load_explicit(&n->flush_error,
                               memory_order_relaxed); /* the one we waited for may have failed */
    if (ret == 0 && !is_flushed(n, want)) {
        now = atomic_load_explicit(&n->write_gen, memory_order_acquire);
        ret = flush_driver(n, r);
        if (ret == 0) {
            atomic_store_explicit(&n->flushed_gen, now, memory_order_release);
        }
    }
    co_mutex_unlock(&n->flush_lock);
    return ret;
}

/* The next layer of the chain that n is in, filters included. */
static Edge *below(Node *n)
{
    return n->driver->is_filter ? n->file : atomic_load_explicit(&n->backing, memory_order_acquire);
}

static int coroutine_fn by_edge_flush(Edge *e, Request *r)
{
    Node *top = edge_enter(e, r), *n = top;
    unsigned flags = 0;
    Edge *b;

    node_stat_flush(top, r);
    while ((b = below(n))) {
        flags |= b->role == EDGE_COW ? REQ_BELOW_COW : 0;
        n = edge_enter_flags(b, r, flags);
        if (atomic_load_explicit(&n->unflushed_old, memory_order_acquire)) {
            int ret = node_flush_self(n, r);

            if (ret < 0) {
                return ret;
            }
        }
    }
    return node_flush_self(top, r);
}

int coroutine_fn edge_flush(Edge *e, Request *r)
{
    int64_t begun;
    int ret;

    if (!e->stats) {
        return by_edge_flush(e, r);
    }
    begun = clock_ns();
    ret = by_edge_flush(e, r);
    edge_stat_end(e, r, STAT_FLUSH, 0, begun, ret);
    return ret;
}

static Node *storage_of(Node *n)
{
    while (n->file) {
        n = n->file->target;
    }
    return n;
}

/* Of all that stores what n has: a quorum has several children. */
static void coroutine_fn write_storage_out(Node *n)
{
    n = storage_of(n);
    for (guint i = 0; n->driver->replicates && i < n->children->len; i++) {
        Node *child = ((Edge *)g_ptr_array_index(n->children, i))->target;

        node_ref(child); /* it may be removed meanwhile */
        write_storage_out(child);
        node_unref(child);
    }
    if (n->driver->write_out) {
        n->driver->write_out(n);
    }
}

typedef int coroutine_fn FlushFn(Node *n, Request *r);

static bool coroutine_fn write_out(Node *n, FlushFn *flush, Error **errp)
{
    Request r;
    int ret;

    write_storage_out(n);
    request_begin(&r, REQUEST_FLUSH);
    ret = flush(n, &r);
    request_end(&r);
    if (ret < 0) {
        error_set_errno(errp, -ret, n->name, "flush", "Write to node '%s' failed", n->name);
        return false;
    }
    return true;
}

bool coroutine_fn node_write_out(Node *n, Error **errp)
{
    return write_out(n, node_flush_self, errp);
}

/* As node_flush_self(), but what the format wrote last need not be durable if it had its storage flushed before that. */
static int coroutine_fn flush_ahead(Node *n, Request *r)
{
    Node *storage = storage_of(n);
    uint64_t before = atomic_load_explicit(&storage->flushed_gen, memory_order_acquire);
    int ret = atomic_load_explicit(&n->flush_error, memory_order_relaxed);

    if (ret < 0 || n->driver->is_protocol) {
        return ret < 0 ? ret : node_flush_self(n, r);
    }
    co_mutex_lock(&n->flush_lock);
    if (n->driver->flush) {
        ret = n->driver->flush(n, r);
    }
    if (ret == 0 && n->file &&
        atomic_load_explicit(&storage->flushed_gen, memory_order_acquire) == before) {
        ret = edge_flush(n->file, r);
    }
    co_mutex_unlock(&n->flush_lock);
    return ret;
}

bool coroutine_fn node_flush_ahead(Node *n, Error **errp)
{
    return write_out(n, flush_ahead, errp);
}

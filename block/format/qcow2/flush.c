/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Write-back: bringing the file to what memory says, in an order that a power failure may interrupt anywhere.
 *
 * All dirty sectors are copied at one moment, under the lock; so what the copies say belongs together: every cluster that a copied
 * L2 or L1 entry refers to is counted in the copied refcounts.  Then, each step durable before the next:
 *
 *   refcount blocks | refcount table | header, if the table moved | L2 tables | L1 table
 *
 * The flush before the L2 tables also covers the data that their entries refer to: it was complete when the entry was set, which
 * was before the copies were taken (Q2).  Steps without anything to write need no flush.
 *
 * What was dropped until the copies were taken is durable at the end, and can be given back when its uses have ended (uses.c).
 *
 * The keeper is a coroutine that writes back when much is dirty, so that no request has to.
 */
#include "qcow2.h"
#include "table.h"
#include "util/log.h"
#include <errno.h>

typedef struct WriteBack {
    TableCopies blocks, reft, l2, l1;
    GArray *drops; /* taken with the copies */
    HostOffset reft_offset;
    uint32_t reft_clusters;
    bool reft_moved;
    uint64_t gen;
} WriteBack;

static void take_all(Qcow2 *q, WriteBack *w)
{
    copies_init(&w->blocks);
    copies_init(&w->reft);
    copies_init(&w->l2);
    copies_init(&w->l1);
    pthread_mutex_lock(&q->lock);
    for (guint i = 0; i < q->dirty_tables->len; i++) {
        Table *t = g_ptr_array_index(q->dirty_tables, i);

        t->queued = false;
        copies_take(q,
                    t->kind == TABLE_REFBLOCK ? &w->blocks
                    : t->kind == TABLE_REFT   ? &w->reft
                    : t->kind == TABLE_L1     ? &w->l1
                                              : &w->l2,
                    t);
    }
    g_ptr_array_set_size(q->dirty_tables, 0);
    atomic_store_explicit(&q->ndirty, 0, memory_order_relaxed);
    w->drops = q->drops;
    q->drops = g_array_new(false, false, sizeof(Drop));
    w->reft_moved = q->reft_moved;
    w->reft_offset = q->reft.offset;
    w->reft_clusters = q->reft.size >> q->cluster_bits;
    w->gen = atomic_load_explicit(&q->meta_gen, memory_order_relaxed);
    pthread_mutex_unlock(&q->lock);
}

/* Writes a group if there is anything, and says that a flush is due. */
static int coroutine_fn write_group(Qcow2 *q, Request *r, TableCopies *c, bool *flush_due)
{
    int ret;

    if (copies_empty(c)) {
        return 0;
    }
    if (*flush_due) {
        ret = edge_flush(q->node->file, r);
        if (ret < 0) {
            return ret;
        }
    }
    *flush_due = true;
    return copies_write(q, r, c);
}

static int coroutine_fn write_all(Qcow2 *q, Request *r, WriteBack *w)
{
    bool flush_due = false;
    int ret = write_group(q, r, &w->blocks, &flush_due);

    if (ret == 0) {
        ret = write_group(q, r, &w->reft, &flush_due);
    }
    if (ret == 0 && w->reft_moved) {
        ret = edge_flush(q->node->file, r);
        if (ret == 0) {
            Table l1 = {.offset = q->header.l1_offset};

            ret = header_write_tables(q, r, q->header.size, &l1, q->header.l1_size, w->reft_offset,
                                      w->reft_clusters);
        }
        flush_due = false;
        if (ret == 0) {
            pthread_mutex_lock(&q->lock);
            q->reft_moved = q->reft.offset.v != w->reft_offset.v;
            pthread_mutex_unlock(&q->lock);
        }
    }
    /* Data must be durable before an entry refers to it, even if no refcount had to be written. */
    flush_due |= !copies_empty(&w->l2);
    if (ret == 0) {
        ret = write_group(q, r, &w->l2, &flush_due);
    }
    if (ret == 0) {
        ret = write_group(q, r, &w->l1, &flush_due);
    }
    return ret == 0 && flush_due ? edge_flush(q->node->file, r) : ret;
}

static void finish(Qcow2 *q, WriteBack *w, bool ok)
{
    copies_end(q, &w->blocks, ok);
    copies_end(q, &w->reft, ok);
    copies_end(q, &w->l2, ok);
    copies_end(q, &w->l1, ok);
    pthread_mutex_lock(&q->lock);
    g_array_append_vals(ok ? q->durable : q->drops, w->drops->data, w->drops->len);
    pthread_mutex_unlock(&q->lock);
    g_array_free(w->drops, true);
    if (ok) {
        atomic_store_explicit(&q->meta_done, w->gen, memory_order_release);
    }
}

static bool anything_to_do(Qcow2 *q)
{
    bool any;

    pthread_mutex_lock(&q->lock);
    any = q->dirty_tables->len > 0 || q->drops->len > 0 || q->reft_moved ||
          atomic_load_explicit(&q->meta_gen, memory_order_relaxed) !=
              atomic_load_explicit(&q->meta_done, memory_order_relaxed);
    pthread_mutex_unlock(&q->lock);
    return any;
}

int coroutine_fn qcow2_write_back(Qcow2 *q, Request *r)
{
    int ret = 0;

    co_mutex_lock(&q->flush_lock);
    if (anything_to_do(q)) {
        WriteBack w;

        take_all(q, &w);
        ret = write_all(q, r, &w);
        finish(q, &w, ret == 0);
    }
    co_mutex_unlock(&q->flush_lock);
    if (ret == 0) {
        (void)drops_reap(q, r);
    }
    return ret;
}

int coroutine_fn qcow2_flush(Node *n, Request *r)
{
    Qcow2 *q = qcow2_of(n);

    if (atomic_load_explicit(&q->corrupt, memory_order_relaxed)) {
        return -EIO;
    }
    return qcow2_write_back(q, r);
}

int coroutine_fn qcow2_write_everything(Qcow2 *q, Request *r)
{
    int ret;

    /* Giving back what was dropped makes refcounts dirty once more; uses of readers end by themselves. */
    for (unsigned tries = 0;; tries++) {
        bool more;

        ret = qcow2_write_back(q, r);
        if (ret < 0) {
            return ret;
        }
        more = drops_reap(q, r);
        if (!more && !anything_to_do(q)) {
            return edge_flush(q->node->file, r);
        }
        if (more) {
            if (tries > 200) {
                return edge_flush(q->node->file,
                                  r); /* somebody reads on and on: a few clusters stay leaked */
            }
            co_sleep_ns(1000000);
        }
    }
}

/* ---- the keeper ---- */

static void coroutine_fn keeper_main(void *opaque)
{
    Qcow2 *q = opaque;
    Request r;
    int ret;

    request_begin(&r, REQUEST_WRITE);
    ret = qcow2_write_back(q, &r);
    request_end(&r);
    if (ret < 0) {
        log_warn_limited("%s: could not write tables back: %s", q->node->name, g_strerror(-ret));
    }
    pthread_mutex_lock(&q->lock);
    q->keeper_running = false;
    co_queue_wake_all(&q->keeper_waiters);
    pthread_mutex_unlock(&q->lock);
}

void keeper_kick(Qcow2 *q, bool writeback)
{
    bool start;

    pthread_mutex_lock(&q->lock);
    start = writeback && !q->keeper_running && !q->closing;
    q->keeper_running |= start;
    pthread_mutex_unlock(&q->lock);
    if (start) {
        co_spawn(loop_current(), keeper_main, q);
    }
}

void coroutine_fn keeper_stop(Qcow2 *q)
{
    pthread_mutex_lock(&q->lock);
    q->closing = true;
    while (q->keeper_running) {
        co_queue_wait(&q->keeper_waiters, &q->lock);
    }
    pthread_mutex_unlock(&q->lock);
}

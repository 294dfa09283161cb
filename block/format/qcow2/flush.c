/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Write-back: bringing the file to what memory says, so that it is consistent at every moment.
 *
 * Copies of what is dirty are taken first, each under the lock, in this order:
 *
 *     drops, L1, L2 tables, refcount table, refcount blocks
 *
 * and written in the opposite one, with flushes of the file between:
 *
 *     refcount blocks   | refcount table | (moved: header) |   data is durable too
 *     L2 tables         | L1 (moved: header) |                 drops are durable
 *
 * Because a later kind is copied after an earlier one, it contains at least what the earlier ones refer to: an L2 copy may have newer
 * entries than the L1 copy, but the block copies count all of them (Q1), and the data they refer to was written before the
 * entry was set (Q2).  A change made after its sector was copied makes it dirty again, for the next time.
 *
 * The last flush is the caller's where he makes one anyway (a flush of the node); without drops nothing here has to wait for it.
 *
 * Stages without anything to write, and their flushes, are left out.  If a stage fails, all that was not known to be in the file is
 * dirty again and the drops are put back; the next flush tries again.
 *
 * The housekeeping (keeper) is a coroutine of the control loop: it writes back when much is dirty, so that memory is bounded, and
 * gives dropped clusters back.
 */
#include "block/debug.h"
#include "table.h"
#include "util/log.h"
#include <errno.h>

typedef struct WriteBack {
    uint64_t gen; /* meta_gen that this brings into the file */
    GArray *drops;
    TableCopies l1, l2, reft, blocks;
    /* for the header, as they were when the copies were made */
    bool l1_moved, reft_moved;
    Table *l1_table;
    uint32_t l1_entries;
    HostOffset reft_offset;
    uint32_t reft_clusters;
} WriteBack;

/* Under lock.  Takes the tables of a kind off the list; they stay in memory until they are let go in copy_tables(). */
static GPtrArray *steal_dirty(Qcow2 *q, TableKind kind)
{
    GPtrArray *mine = g_ptr_array_new();
    guint left = 0;

    for (guint i = 0; i < q->dirty_tables->len; i++) {
        Table *t = g_ptr_array_index(q->dirty_tables, i);

        if (t->kind == kind) {
            t->queued = false;
            t->writing++;
            g_ptr_array_add(mine, t);
        } else {
            g_ptr_array_index(q->dirty_tables, left++) = t;
        }
    }
    g_ptr_array_set_size(q->dirty_tables, left);
    atomic_store_explicit(&q->ndirty, left, memory_order_relaxed);
    return mine;
}

static void copy_tables(Qcow2 *q, TableCopies *c, GPtrArray *tables)
{
    for (guint i = 0; i < tables->len; i++) {
        Table *t = g_ptr_array_index(tables, i);

        pthread_mutex_lock(&q->lock);
        copies_take(q, c, t);
        t->writing--;
        pthread_mutex_unlock(&q->lock);
    }
    g_ptr_array_free(tables, true);
}

static void copy_everything(Qcow2 *q, WriteBack *w)
{
    GPtrArray *l2s, *blocks;
    L1 *l1;

    copies_init(&w->l1);
    copies_init(&w->l2);
    copies_init(&w->reft);
    copies_init(&w->blocks);

    pthread_mutex_lock(&q->lock);
    w->gen = atomic_load_explicit(&q->meta_gen, memory_order_relaxed);
    w->drops = q->drops;
    q->drops = g_array_new(false, false, sizeof(Drop));
    l1 = l1_of(q); /* replaced under flush_lock only */
    copies_take(q, &w->l1, &l1->t);
    w->l1_table = &l1->t;
    w->l1_entries = l1->entries;
    w->l1_moved = q->l1_moved;
    l2s = steal_dirty(q, TABLE_L2);
    pthread_mutex_unlock(&q->lock);
    copy_tables(q, &w->l2, l2s);

    pthread_mutex_lock(&q->lock);
    copies_take(q, &w->reft, &q->reft);
    w->reft_moved = q->reft_moved;
    w->reft_offset = q->reft.offset;
    w->reft_clusters = q->reft.size >> q->cluster_bits;
    blocks = steal_dirty(q, TABLE_REFBLOCK);
    pthread_mutex_unlock(&q->lock);
    copy_tables(q, &w->blocks, blocks);
}

/* With the data that mappings refer to, wherever it is. */
static int coroutine_fn flush_file(Qcow2 *q, Request *r)
{
    int ret = q->external ? edge_flush(q->data, r) : 0;

    return ret < 0 ? ret : edge_flush(q->file, r);
}

/* What there is of a kind. */
static int coroutine_fn write_kind(Qcow2 *q, Request *r, TableCopies *c, BlkdebugEvent event)
{
    if (copies_empty(c)) {
        return 0;
    }
    edge_debug_event(q->file, r, 0, event);
    return copies_write(q, r, c);
}

/* The refcount table, after its blocks. */
static int coroutine_fn write_reft(Qcow2 *q, Request *r, WriteBack *w)
{
    Table l1_now = {.offset = q->header.l1_offset};
    int ret = flush_file(q, r);

    if (ret == 0) {
        ret = write_kind(q, r, &w->reft, BLKDEBUG_EVENT_REFTABLE_UPDATE);
    }
    if (ret == 0 && w->reft_moved) {
        ret = flush_file(q, r);
        if (ret == 0) {
            edge_debug_event(q->file, r, 0, BLKDEBUG_EVENT_REFBLOCK_ALLOC_SWITCH_TABLE);
            ret = header_write_tables(q, r, q->header.size, &l1_now, q->header.l1_size,
                                      w->reft_offset, w->reft_clusters);
        }
        if (ret == 0) {
            pthread_mutex_lock(&q->lock);
            q->reft_moved = q->reft.offset.v != w->reft_offset.v;
            pthread_mutex_unlock(&q->lock);
        }
    }
    return ret;
}

static int coroutine_fn write_l1(Qcow2 *q, Request *r, WriteBack *w)
{
    int ret = flush_file(q, r);

    if (ret == 0) {
        ret =
            write_kind(q, r, &w->l1,
                       w->l1_moved ? BLKDEBUG_EVENT_L1_GROW_WRITE_TABLE : BLKDEBUG_EVENT_L1_UPDATE);
    }
    if (ret == 0 && w->l1_moved) {
        ret = flush_file(q, r);
        if (ret == 0) {
            edge_debug_event(q->file, r, 0, BLKDEBUG_EVENT_L1_GROW_ACTIVATE_TABLE);
            ret = header_write_tables(q, r, q->disk_size, w->l1_table, w->l1_entries,
                                      q->header.reft_offset, q->header.reft_clusters);
        }
        if (ret == 0) {
            pthread_mutex_lock(&q->lock);
            q->l1_moved = false;
            pthread_mutex_unlock(&q->lock);
        }
    }
    return ret;
}

static int coroutine_fn write_stages(Qcow2 *q, Request *r, WriteBack *w, bool durable)
{
    int ret = write_kind(q, r, &w->blocks, BLKDEBUG_EVENT_REFBLOCK_UPDATE_PART);

    if (ret == 0 && !copies_empty(&w->reft)) {
        ret = write_reft(q, r, w);
    }
    if (ret == 0 && !(copies_empty(&w->l2) && copies_empty(&w->l1))) {
        ret = flush_file(q, r);
    }
    if (ret == 0) {
        ret = write_kind(q, r, &w->l2, BLKDEBUG_EVENT_L2_UPDATE);
    }
    if (ret == 0 && !copies_empty(&w->l1)) {
        ret = write_l1(q, r, w);
    }
    return ret < 0 || !durable ? ret : flush_file(q, r);
}

/* With flush_lock.  durable: with the last flush also where no drop needs it. */
static int coroutine_fn write_back(Qcow2 *q, Request *r, bool durable)
{
    WriteBack w;
    int ret;

    if (atomic_load_explicit(&q->corrupt, memory_order_relaxed)) {
        return -EIO;
    }
    copy_everything(q, &w);
    ret = write_stages(q, r, &w, durable || w.drops->len > 0);
    copies_end(q, &w.l1, ret == 0);
    copies_end(q, &w.l2, ret == 0);
    copies_end(q, &w.reft, ret == 0);
    copies_end(q, &w.blocks, ret == 0);

    pthread_mutex_lock(&q->lock);
    if (ret == 0) {
        g_array_append_vals(q->durable, w.drops->data, w.drops->len);
        atomic_store_explicit(&q->meta_done, w.gen, memory_order_release);
    } else {
        g_array_prepend_vals(q->drops, w.drops->data, w.drops->len);
    }
    pthread_mutex_unlock(&q->lock);
    g_array_free(w.drops, true);
    return ret;
}

int coroutine_fn write_back_locked(Qcow2 *q, Request *r)
{
    return write_back(q, r, true);
}

static bool drops_durable(Qcow2 *q)
{
    bool any;

    pthread_mutex_lock(&q->lock);
    any = q->durable->len > 0;
    pthread_mutex_unlock(&q->lock);
    return any;
}

static int coroutine_fn bring_into_file(Qcow2 *q, Request *r, bool durable)
{
    uint64_t want = atomic_load_explicit(&q->meta_gen, memory_order_acquire);
    int ret = 0;

    co_mutex_lock(&q->flush_lock);
    if (atomic_load_explicit(&q->meta_done, memory_order_acquire) < want) {
        ret = write_back(q, r, durable);
    }
    co_mutex_unlock(&q->flush_lock);
    if (ret == 0 && drops_durable(q)) {
        keeper_kick(q, false);
    }
    return ret;
}

int coroutine_fn qcow2_write_back(Qcow2 *q, Request *r)
{
    return bring_into_file(q, r, true);
}

int coroutine_fn qcow2_flush(Node *n, Request *r)
{
    Qcow2 *q = qcow2_of(n);
    int ret = 0;

    /* Nothing but data since the last time: the caller flushes the file. */
    if (atomic_load_explicit(&q->meta_done, memory_order_acquire) !=
        atomic_load_explicit(&q->meta_gen, memory_order_acquire)) {
        ret = bring_into_file(q, r, false);
    }
    return ret == 0 && q->external ? edge_flush(q->data, r) : ret;
}

bool qcow2_unsaved(Node *n)
{
    Qcow2 *q = qcow2_of(n);

    return atomic_load_explicit(&q->meta_done, memory_order_acquire) !=
           atomic_load_explicit(&q->meta_gen, memory_order_acquire);
}

/* ---- housekeeping ---- */

static void coroutine_fn keeper(void *opaque)
{
    static const int64_t shortest = 1000000, longest = 100000000; /* ns */
    Qcow2 *q = opaque;
    int64_t nap = shortest;
    bool more, done;

    for (;;) {
        bool writeback;
        Request r;

        pthread_mutex_lock(&q->lock);
        writeback = q->keeper_writeback;
        q->keeper_writeback = false;
        pthread_mutex_unlock(&q->lock);

        request_begin(&r, REQUEST_WRITE);
        if (writeback) {
            co_mutex_lock(&q->flush_lock);
            int ret = write_back_locked(q, &r);
            co_mutex_unlock(&q->flush_lock);
            if (ret < 0) {
                log_warn_limited("%s: writing metadata back failed: %s", q->node->name,
                                 g_strerror(-ret));
            }
        }
        more = drops_reap(q, &r);
        request_end(&r);

        pthread_mutex_lock(&q->lock);
        done = q->closing || (!q->keeper_writeback && !more);
        if (done) {
            q->keeper_running = false;
            co_queue_wake_all(&q->keeper_waiters);
        }
        pthread_mutex_unlock(&q->lock);
        if (done) {
            return;
        }
        if (more) {
            /* Some use takes its time. */
            co_sleep_ns(nap);
            nap = MIN(2 * nap, longest);
        }
    }
}

void keeper_kick(Qcow2 *q, bool writeback)
{
    bool start;

    pthread_mutex_lock(&q->lock);
    start = !q->keeper_running && !q->closing;
    q->keeper_writeback |= writeback;
    q->keeper_running |= start;
    pthread_mutex_unlock(&q->lock);
    if (start) {
        /* On the control loop: an I/O thread may end whenever its exports have. */
        co_spawn(loop_control(), keeper, q);
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

static bool all_written(Qcow2 *q)
{
    bool done;

    pthread_mutex_lock(&q->lock);
    done = q->dirty_tables->len == 0 && q->drops->len == 0 && q->durable->len == 0 &&
           q->waiting->len == 0;
    pthread_mutex_unlock(&q->lock);
    return done;
}

static bool at_rest(Qcow2 *q)
{
    bool idle;

    pthread_mutex_lock(&q->lock);
    idle = !q->keeper_running;
    pthread_mutex_unlock(&q->lock);
    return idle && all_written(q) && !qcow2_unsaved(q->node);
}

int coroutine_fn qcow2_come_to_rest(Node *n, Request *r, bool for_good, int64_t deadline_ns)
{
    Qcow2 *q = qcow2_of(n);

    /* By housekeeping, which may have begun: it has taken what it works on off the lists. */
    while (!at_rest(q)) {
        if (clock_ns() >= deadline_ns) {
            return -ETIMEDOUT;
        }
        keeper_kick(q, true);
        co_sleep_ns(200000);
    }
    if (for_good) {
        file_trim(q, r);
    }
    return 0;
}

int coroutine_fn qcow2_write_everything(Qcow2 *q, Request *r)
{
    int64_t deadline =
        clock_ns() + 1000000000; /* for readers of dropped clusters; then those are leaked */
    int ret = 0;

    while (ret == 0 && !all_written(q)) {
        co_mutex_lock(&q->flush_lock);
        ret = write_back_locked(q, r);
        co_mutex_unlock(&q->flush_lock);
        if (ret == 0 && drops_reap(q, r)) {
            if (clock_ns() > deadline) {
                break;
            }
            co_sleep_ns(1000000);
        }
    }
    if (ret == 0) {
        ret = flush_file(q, r);
    }
    if (ret == 0) {
        file_trim(q, r); /* need not be durable: a file that is too long is no worse */
    }
    return ret;
}

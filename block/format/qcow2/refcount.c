/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Refcounts: the refcount table, its blocks in memory, and what counts in them.
 *
 * Blocks are loaded when needed and given up when clean and too many.  They come and go under alloc_lock; their contents change under
 * `lock` (whoever takes clusters from the run needs no alloc_lock, because the run's block stays).
 *
 * Where the refcount table is full, everything behind what it covers is free.  A larger one is laid out right there, together with the
 * blocks that count it; nothing of this can fail once memory and space are there.  It moves when it is written back.
 */
#include "block/debug.h"
#include "qcow2.h"
#include <errno.h>
#include <inttypes.h>

/* ---- values ---- */

uint64_t refcount_get(const uint8_t *block, unsigned order, uint64_t index)
{
    const uint8_t *p = block + (index << order) / 8;
    uint64_t v = 0;

    if (order < 3) {
        unsigned bits = 1u << order;

        return *p >> (index % (8 / bits) * bits) & ((1u << bits) - 1);
    }
    for (unsigned i = 0; i < 1u << (order - 3); i++) {
        v = v << 8 | p[i];
    }
    return v;
}

void refcount_put(uint8_t *block, unsigned order, uint64_t index, uint64_t value)
{
    uint8_t *p = block + (index << order) / 8;

    if (order < 3) {
        unsigned bits = 1u << order, shift = index % (8 / bits) * bits,
                 mask = ((1u << bits) - 1) << shift;

        *p = (*p & ~mask) | (value << shift & mask);
        return;
    }
    for (unsigned i = 1u << (order - 3); i-- > 0; value >>= 8) {
        p[i] = value;
    }
}

uint64_t block_entries(const Qcow2 *q)
{
    return q->cluster_size * 8 >> q->refcount_order;
}

/* Under lock. */
static void set_refcount(Qcow2 *q, RefBlock *b, uint64_t i, uint64_t value)
{
    refcount_put(b->t.data, q->refcount_order, i, value);
    table_mark_dirty(q, &b->t, (i << q->refcount_order) / 8, MAX(1u << q->refcount_order, 8) / 8);
}

void refcount_take(Qcow2 *q, RefBlock *b, uint64_t from, uint64_t count)
{
    for (uint64_t i = from; i < from + count; i++) {
        set_refcount(q, b, i, 1);
    }
}

bool refcount_add(Qcow2 *q, RefBlock *b, uint64_t i)
{
    uint64_t bits = UINT64_C(1) << q->refcount_order, v;

    v = refcount_get(b->t.data, q->refcount_order, i);
    if (v == 0 || v == UINT64_MAX >> (64 - bits)) {
        return false;
    }
    set_refcount(q, b, i, v + 1);
    return true;
}

/* ---- blocks ---- */

bool coroutine_fn reft_open(Qcow2 *q, Request *r, Error **errp)
{
    uint32_t bytes = q->header.reft_clusters << q->cluster_bits;
    int ret;

    if (!table_init(&q->reft, TABLE_REFT, q->header.reft_offset, bytes)) {
        error_set_errno(errp, ENOMEM, q->node->name, "open", "Could not read refcount table");
        return false;
    }
    q->reft.kind = TABLE_REFT;
    q->reft_entries = bytes / 8;
    q->blocks = g_new0(RefBlock *, q->reft_entries);
    edge_debug_event(q->file, r, 0, BLKDEBUG_EVENT_REFTABLE_LOAD);
    ret = qcow2_read_start(q, r, q->reft.offset, q->reft.data, bytes);
    if (ret < 0) {
        error_set_errno(errp, -ret, q->node->name, "open",
                        "Could not initialize refcount handling");
        return false;
    }
    return true;
}

static void block_free(RefBlock *b)
{
    table_clear(&b->t);
    g_free(b);
}

void refcount_free_all(Qcow2 *q)
{
    for (uint64_t i = 0; i < q->reft_entries; i++) {
        if (q->blocks[i]) {
            block_free(q->blocks[i]);
        }
    }
    g_clear_pointer(&q->blocks, g_free);
    q->reft_entries = 0;
    table_clear(&q->reft);
}

static RefBlock *block_new(Qcow2 *q, HostOffset at)
{
    RefBlock *b = g_new0(RefBlock, 1);

    if (!table_init(&b->t, TABLE_REFBLOCK, at, q->cluster_size)) {
        g_free(b);
        return NULL;
    }
    b->t.kind = TABLE_REFBLOCK;
    b->recent = true;
    return b;
}

/* With alloc_lock. */
static void make_room(Qcow2 *q)
{
    static const unsigned rounds = 2;

    for (unsigned round = 0; round < rounds && q->nblocks >= q->refblock_limit; round++) {
        for (uint64_t i = 0; i < q->reft_entries && q->nblocks >= q->refblock_limit; i++) {
            RefBlock *b = q->blocks[i];
            bool busy;

            if (!b) {
                continue;
            }
            pthread_mutex_lock(&q->lock);
            busy = table_is_dirty(&b->t) || b == q->run_block || b->pinned;
            if (!busy && !b->recent) {
                q->blocks[i] = NULL;
            }
            pthread_mutex_unlock(&q->lock);
            if (busy) {
                continue;
            }
            if (b->recent) {
                b->recent = false;
            } else {
                block_free(b);
                q->nblocks--;
            }
        }
    }
}

static void insert_block(Qcow2 *q, uint64_t index, RefBlock *b)
{
    q->blocks[index] = b;
    q->nblocks++;
}

int coroutine_fn refblock_get(Qcow2 *q, Request *r, uint64_t index, RefBlock **ret)
{
    uint64_t entry;
    RefBlock *b;
    IoVector v;
    int err;

    *ret = NULL;
    if (index >= q->reft_entries) {
        return 0;
    }
    if (q->blocks[index]) {
        *ret = q->blocks[index];
        (*ret)->recent = true;
        return 0;
    }
    entry = table_entry(&q->reft, index);
    if (!entry) {
        return 0;
    }
    if (in_cluster(q, entry)) {
        return qcow2_corrupt(
            q, r, "Refblock offset %#" PRIx64 " unaligned (reftable index: %#" PRIx64 ")", entry,
            index);
    }
    if (entry >= QCOW2_MAX_HOST_OFFSET ||
        overlap_tables(q, cluster_of(host(entry), q->cluster_bits))) {
        return qcow2_corrupt(q, r,
                             "Refcount block offset 0x%" PRIx64
                             " is invalid (refcount table index %" PRIu64 ")",
                             entry, index);
    }
    make_room(q);
    b = block_new(q, host(entry));
    if (!b) {
        return -ENOMEM;
    }
    edge_debug_event(q->file, r, 0, BLKDEBUG_EVENT_REFBLOCK_LOAD);
    if (q->node->new_image) {
        err = qcow2_read_start(q, r, b->t.offset, b->t.data, b->t.size);
    } else {
        iov_init_buf(&v, b->t.data, b->t.size);
        err = host_preadv(q, r, b->t.offset, &v, 0);
    }
    if (err < 0) {
        block_free(b);
        return err;
    }
    pthread_mutex_lock(&q->lock);
    insert_block(q, index, b);
    pthread_mutex_unlock(&q->lock);
    *ret = b;
    return 0;
}

int coroutine_fn refblock_check_range(Qcow2 *q, Request *r, uint64_t index)
{
    uint64_t per_block = block_entries(q), first = index * per_block,
             end = MIN(first + per_block, q->tail);

    for (uint64_t c = MAX(first, 1); c < end; c++) {
        if (overlap_check(q, cluster_start((ClusterIndex){c}, q->cluster_bits), 1)) {
            return qcow2_overlap(q, r, cluster_start((ClusterIndex){c}, q->cluster_bits),
                                 q->cluster_size);
        }
    }
    return 0;
}

int coroutine_fn refblock_create(Qcow2 *q, Request *r, uint64_t index, ClusterIndex at,
                                 RefBlock **ret)
{
    RefBlock *b;
    int err = refblock_check_range(q, r, index);

    if (err < 0) {
        return err;
    }
    make_room(q);
    b = block_new(q, cluster_start(at, q->cluster_bits));
    if (!b) {
        return -ENOMEM;
    }
    pthread_mutex_lock(&q->lock);
    insert_block(q, index, b);
    table_mark_dirty(q, &b->t, 0, b->t.size);
    set_refcount(q, b, at.v % block_entries(q), 1);
    table_set_entry(q, &q->reft, index, b->t.offset.v);
    overlap_add(q, at);
    q->max_tail = MAX(q->max_tail, at.v + 1);
    pthread_mutex_unlock(&q->lock);
    *ret = b;
    return 0;
}

/* ---- growing the table ---- */

typedef struct ReftPlan {
    uint64_t start; /* first cluster: the new table, then the blocks */
    uint64_t table_clusters;
    uint64_t first_block, nblocks; /* indices of the blocks that count all this */
} ReftPlan;

static bool plan_growth(const Qcow2 *q, uint64_t start, ReftPlan *ret)
{
    uint64_t per_cluster = q->cluster_size / 8, per_block = block_entries(q);
    ReftPlan p = {.start = start, .first_block = start / per_block, .nblocks = 1};

    for (;;) {
        uint64_t end, need;

        p.table_clusters = MAX(2 * q->reft_entries, p.first_block + p.nblocks) / per_cluster + 1;
        if (p.table_clusters > QCOW2_MAX_REFT_BYTES / q->cluster_size) {
            p.table_clusters = QCOW2_MAX_REFT_BYTES / q->cluster_size;
        }
        end = start + p.table_clusters + p.nblocks;
        need = (end - 1) / per_block + 1 - p.first_block;
        if (need == p.nblocks) {
            break;
        }
        p.nblocks = need;
    }
    *ret = p;
    return p.table_clusters > 0 && p.first_block + p.nblocks <= p.table_clusters * per_cluster &&
           (start + p.table_clusters + p.nblocks) << q->cluster_bits <= QCOW2_MAX_HOST_OFFSET;
}

/* Under lock: from here on nothing can fail. */
static void install(Qcow2 *q, const ReftPlan *p, Table *table, RefBlock **blocks,
                    RefBlock **new_blocks)
{
    uint64_t per_block = block_entries(q), old_clusters = q->reft.size >> q->cluster_bits;
    RefBlock **old_blocks = q->blocks;
    HostOffset old = q->reft.offset;

    /* The Table object stays where it is: it may be queued. */
    memcpy(table->data, q->reft.data, q->reft.size);
    if (q->reft.queued) {
        g_ptr_array_remove_fast(q->dirty_tables, &q->reft);
    }
    table->writing = q->reft.writing;
    g_free(q->reft.dirty);
    free(q->reft.data);
    q->reft = *table;
    q->reft.kind = TABLE_REFT;
    memcpy(blocks, old_blocks, q->reft_entries * sizeof(*blocks));
    g_free(old_blocks);
    q->blocks = blocks;
    q->reft_entries = q->reft.size / 8;
    q->reft_moved = true;
    table_mark_dirty(q, &q->reft, 0, q->reft.size);
    for (uint64_t i = 0; i < p->table_clusters; i++) {
        overlap_add(q, (ClusterIndex){p->start + i});
    }
    for (uint64_t i = 0; i < p->nblocks; i++) {
        RefBlock *b = new_blocks[i];

        insert_block(q, p->first_block + i, b);
        table_mark_dirty(q, &b->t, 0, b->t.size);
        overlap_add(q, cluster_of(b->t.offset, q->cluster_bits));
        table_set_entry(q, &q->reft, p->first_block + i, b->t.offset.v);
    }
    for (uint64_t c = p->start; c < p->start + p->table_clusters + p->nblocks; c++) {
        set_refcount(q, q->blocks[c / per_block], c % per_block, 1);
    }
    drop_clusters(q, cluster_of(old, q->cluster_bits), old_clusters, DROP_OTHER);
    meta_changed(q);
}

int coroutine_fn reft_grow(Qcow2 *q, Request *r, ClusterIndex start)
{
    g_autofree RefBlock **new_blocks = NULL;
    RefBlock **blocks;
    Table table;
    ReftPlan p;
    uint64_t end;
    int ret;

    if (!plan_growth(q, start.v, &p)) {
        return -EFBIG;
    }
    end = p.start + p.table_clusters + p.nblocks;
    ret = file_grow(q, r, end << q->cluster_bits);
    if (ret < 0) {
        return ret;
    }
    if (!table_init(&table, TABLE_REFT, cluster_start(start, q->cluster_bits),
                    p.table_clusters << q->cluster_bits)) {
        return -ENOMEM;
    }
    new_blocks = g_new0(RefBlock *, p.nblocks);
    for (uint64_t i = 0; i < p.nblocks; i++) {
        ClusterIndex at = {p.start + p.table_clusters + i};

        new_blocks[i] = block_new(q, cluster_start(at, q->cluster_bits));
        if (!new_blocks[i]) {
            while (i-- > 0) {
                block_free(new_blocks[i]);
            }
            table_clear(&table);
            return -ENOMEM;
        }
    }
    blocks = g_new0(RefBlock *, table.size / 8);
    pthread_mutex_lock(&q->lock);
    install(q, &p, &table, blocks, new_blocks);
    q->max_tail = MAX(q->max_tail, end);
    pthread_mutex_unlock(&q->lock);
    q->tail = end;
    return 0;
}

/* ---- more or less references to what is in use ---- */

static uint64_t refcount_max(const Qcow2 *q)
{
    return q->refcount_order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << q->refcount_order)) - 1;
}

/* Under lock.  The block that counts c must be in memory. */
static int look_refcount(Qcow2 *q, uint64_t c, uint64_t *ret_value, uint64_t *ret_missing)
{
    uint64_t index = c / block_entries(q);

    if (index >= q->reft_entries || !table_entry(&q->reft, index)) {
        return -EIO;
    }
    if (!q->blocks[index]) {
        *ret_missing = index;
        return -EAGAIN;
    }
    *ret_value = refcount_get(q->blocks[index]->t.data, q->refcount_order, c % block_entries(q));
    return *ret_value ? 0 : -EIO;
}

int refcount_change(Qcow2 *q, ClusterIndex first, uint64_t count, int delta, uint64_t *ret_least,
                    uint64_t *ret_missing)
{
    uint64_t v, max = refcount_max(q), per_block = block_entries(q);

    for (uint64_t c = first.v; c < first.v + count; c++) {
        int ret = look_refcount(q, c, &v, ret_missing);

        if (ret < 0) {
            return ret;
        }
        if (delta > 0 && v == max) {
            return -EINVAL;
        }
    }
    *ret_least = UINT64_MAX;
    for (uint64_t c = first.v; c < first.v + count; c++) {
        RefBlock *b = q->blocks[c / per_block];

        v = refcount_get(b->t.data, q->refcount_order, c % per_block) + delta;
        *ret_least = MIN(*ret_least, v);
        if (delta) {
            set_refcount(q, b, c % per_block, v);
        }
        if (v == 0) {
            q->low_hint = MIN(q->low_hint, c);
        }
    }
    return 0;
}

int coroutine_fn refcount_pin(Qcow2 *q, Request *r, RefPins *pins, uint64_t index)
{
    RefBlock *b;
    int ret = refblock_get(q, r, index, &b);

    if (ret == 0 && !b) {
        return -EIO;
    }
    if (ret == 0 && !b->pinned) {
        b->pinned = true;
        g_ptr_array_add(pins->blocks, b);
    }
    return ret;
}

void refcount_pins_init(RefPins *pins)
{
    pins->blocks = g_ptr_array_new();
}

void refcount_unpin(RefPins *pins)
{
    for (guint i = 0; i < pins->blocks->len; i++) {
        ((RefBlock *)g_ptr_array_index(pins->blocks, i))->pinned = false;
    }
    g_ptr_array_free(pins->blocks, true);
}

/* ---- giving back ---- */

typedef int coroutine_fn BlockFn(Qcow2 *q, Request *r, RefBlock *b, uint64_t from, uint64_t count,
                                 uint64_t first, void *opaque);

/* Calls fn for the part of [first, first + count) in each block.  With alloc_lock. */
static int coroutine_fn each_block(Qcow2 *q, Request *r, ClusterIndex first, uint64_t count,
                                   BlockFn *fn, void *opaque)
{
    uint64_t per_block = block_entries(q), c = first.v, end = first.v + count;
    int ret = 0;

    while (c < end && ret == 0) {
        uint64_t len = MIN(end - c, per_block - c % per_block);
        RefBlock *b;

        ret = refblock_get(q, r, c / per_block, &b);
        if (ret == 0 && !b) {
            ret = qcow2_corrupt(q, r, "Cluster %" PRIu64 " is in use but has no refcount", c);
        }
        if (ret == 0) {
            ret = fn(q, r, b, c % per_block, len, c, opaque);
        }
        c += len;
    }
    return ret;
}

static int coroutine_fn decrement(Qcow2 *q, Request *r, RefBlock *b, uint64_t from, uint64_t count,
                                  uint64_t first, void *opaque)
{
    uint64_t bad = UINT64_MAX;

    (void)opaque;
    pthread_mutex_lock(&q->lock);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t v = refcount_get(b->t.data, q->refcount_order, from + i);

        if (v == 0) {
            bad = first + i;
            break;
        }
        set_refcount(q, b, from + i, v - 1);
        if (v == 1) {
            q->low_hint = MIN(q->low_hint, first + i);
            if (cluster_of(q->pack_next, q->cluster_bits).v == first + i) {
                q->pack_next = host(0); /* somebody else may get it */
            }
        }
    }
    pthread_mutex_unlock(&q->lock);
    return bad == UINT64_MAX
               ? 0
               : qcow2_corrupt(q, r, "Cluster %" PRIu64 " is freed but its refcount is 0", bad);
}

/* Notes the clusters that will be free. */
static int coroutine_fn collect_last(Qcow2 *q, Request *r, RefBlock *b, uint64_t from,
                                     uint64_t count, uint64_t first, void *opaque)
{
    GArray *list = opaque;

    (void)r;
    pthread_mutex_lock(&q->lock);
    for (uint64_t i = 0; i < count; i++) {
        Drop *last = list->len ? &g_array_index(list, Drop, list->len - 1) : NULL;
        Drop d = {.first = {first + i}, .count = 1};

        if (refcount_get(b->t.data, q->refcount_order, from + i) != 1) {
            continue;
        }
        if (last && last->first.v + last->count == d.first.v) {
            last->count++;
        } else {
            g_array_append_val(list, d);
        }
    }
    pthread_mutex_unlock(&q->lock);
    return 0;
}

static int coroutine_fn discard_free(Qcow2 *q, Request *r, ClusterIndex first, uint64_t count)
{
    g_autoptr(GArray) list = g_array_new(false, false, sizeof(Drop));
    int ret;

    co_mutex_lock(&q->alloc_lock);
    ret = each_block(q, r, first, count, collect_last, list);
    co_mutex_unlock(&q->alloc_lock);
    for (guint i = 0; i < list->len && ret == 0; i++) {
        Drop *d = &g_array_index(list, Drop, i);
        uint64_t from = d->first.v << q->cluster_bits, size = edge_size(q->file, r);

        /* Storage that cannot or will not is no error. */
        if (from < size) {
            (void)edge_pdiscard(q->file, r, host_to_child(host(from)),
                                MIN(d->count << q->cluster_bits, size - from));
        }
    }
    return ret;
}

int coroutine_fn refcount_release(Qcow2 *q, Request *r, ClusterIndex first, uint64_t count,
                                  bool discard)
{
    int ret;

    edge_debug_event(q->file, r, 0, BLKDEBUG_EVENT_CLUSTER_FREE);
    ret = discard ? discard_free(q, r, first, count) : 0;

    if (ret == 0) {
        co_mutex_lock(&q->alloc_lock);
        ret = each_block(q, r, first, count, decrement, NULL);
        co_mutex_unlock(&q->alloc_lock);
    }
    return ret;
}

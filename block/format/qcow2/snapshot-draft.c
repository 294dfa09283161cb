/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Drafts of internal snapshots: everything that a snapshot needs and that takes time, done while guests write.
 *
 * A snapshot refers to each cluster that the disk refers to; so each gets one reference more, and is not ours alone any more.  The draft does that
 * beforehand: it *counts* the clusters of the disk, table after table, and keeps up with what guests change meanwhile.
 *
 *   counted  (a bit for each entry)  the draft has a reference to what the entry refers to.  When the entry changes, that is dropped with it.
 *   ours     (likewise)              and the entry has the flag COPIED, in memory
 *   touched  (a bit for each table)  it has changed since it was looked at
 *
 * Until the flip, nobody shares anything: guests go on writing in place, so the flags stay in memory.  The file is told beforehand: there, a counted
 * entry is without the flag, and the reference is in its refcount (draft_mask()).  What is there after a crash is a leaked reference at
 * worst; flags and refcounts may disagree, which is harmless in this direction: COPIED is set for what has one user only.
 *
 * At the flip no write is in the node.  Then what changed last is counted, and the flags go from memory too: of the L1 table, and of the L2 tables
 * that are in memory; from here on writes find everything shared and copy it.  That is all that a hold has to wait for.
 *
 * Bits, and d itself as q->draft, are under q->lock.
 */
#include "qcow2.h"
#include <errno.h>
#include <stdlib.h>

#define CHUNK     512u /* entries at a time under the locks */
#define WORD_BITS (8 * sizeof(unsigned long))
#define PASSES    3u /* over tables that are touched again and again */

typedef struct TableBits {
    unsigned long *counted, *ours; /* one allocation */
} TableBits;

struct Draft {
    Qcow2 *q;
    uint32_t entries; /* of L1 that the disk needs */
    uint64_t per_table;
    TableBits *bits;        /* [entries]; NULL inside: nothing counted yet */
    unsigned long *tables;  /* bit: the L2 table itself is counted */
    unsigned long *touched; /* bit */
    uint64_t *l1;           /* after the flip: the snapshot's L1, as in the file */
};

static bool test_bit(const unsigned long *map, uint64_t i)
{
    return map[i / WORD_BITS] >> (i % WORD_BITS) & 1;
}

static void put_bit(unsigned long *map, uint64_t i, bool value)
{
    unsigned long bit = 1ul << (i % WORD_BITS);

    map[i / WORD_BITS] = value ? map[i / WORD_BITS] | bit : map[i / WORD_BITS] & ~bit;
}

static uint64_t words(uint64_t bits)
{
    return div_up(MAX(bits, 1), WORD_BITS);
}

Draft *draft_new(Qcow2 *q)
{
    Draft *d = g_new0(Draft, 1);

    d->q = q;
    d->entries = l1_of(q)->covered;
    d->per_table = UINT64_C(1) << q->l2_bits;
    d->bits = g_new0(TableBits, MAX(d->entries, 1));
    d->tables = g_new0(unsigned long, words(d->entries));
    d->touched = g_new0(unsigned long, words(d->entries));
    return d;
}

static void free_bits(Draft *d)
{
    for (uint32_t i = 0; d->bits && i < d->entries; i++) {
        g_free(d->bits[i].counted);
    }
    g_clear_pointer(&d->bits, g_free);
    g_clear_pointer(&d->tables, g_free);
    g_clear_pointer(&d->touched, g_free);
}

void draft_free(Draft *d)
{
    free_bits(d);
    g_free(d->l1);
    g_free(d);
}

const void *draft_l1(const Draft *d)
{
    return d->l1;
}

uint32_t draft_l1_entries(const Draft *d)
{
    return d->entries;
}

/* ---- what requests tell; under lock ---- */

void draft_entry_changes(Qcow2 *q, uint64_t guest_cluster, uint64_t old, bool gone)
{
    Draft *d = q->draft;
    uint64_t index = guest_cluster >> q->l2_bits,
             i = guest_cluster & ((UINT64_C(1) << q->l2_bits) - 1);
    TableBits *b;

    if (G_LIKELY(!d)) {
        return;
    }
    g_assert(index < d->entries);
    put_bit(d->touched, index, true);
    b = &d->bits[index];
    if (gone && b->counted && test_bit(b->counted, i)) {
        drop_entry(q, old, DROP_OTHER);
        put_bit(b->counted, i, false);
        put_bit(b->ours, i, false);
    }
}

void draft_table_replaced(Qcow2 *q, uint64_t index, HostOffset old)
{
    Draft *d = q->draft;

    if (G_LIKELY(!d)) {
        return;
    }
    put_bit(d->touched, index, true);
    if (old.v && test_bit(d->tables, index)) {
        drop_clusters(q, cluster_of(old, q->cluster_bits), 1, DROP_OTHER);
        put_bit(d->tables, index, false);
    }
}

void draft_table_loaded(Qcow2 *q, L2Table *l2)
{
    const Draft *d = q->draft;
    const TableBits *b;

    if (G_LIKELY(!d)) {
        return;
    }
    b = &d->bits[l2->index];
    for (uint64_t i = 0; b->ours && i < d->per_table; i++) {
        if (test_bit(b->ours, i)) {
            /* Nobody sees it yet, and the file stays as it is. */
            ((uint64_t *)l2->t.data)[i * entry_words(q)] |= htobe64(ENTRY_COPIED);
        }
    }
}

void draft_mask(Qcow2 *q, const Table *t, uint32_t from, uint32_t bytes, void *copy)
{
    const Draft *d = q->draft;
    const unsigned long *map;
    uint64_t *e = copy, first = from / sizeof(*e), limit;
    unsigned words_each = 1;

    if (t->kind == TABLE_L1) {
        map = d->tables;
        limit = d->entries;
    } else if (t->kind == TABLE_L2) {
        map = d->bits[((const L2Table *)t)->index].ours;
        limit = d->per_table;
        words_each = entry_words(q);
    } else {
        return;
    }
    for (uint64_t i = 0; map && i < bytes / sizeof(*e); i++) {
        uint64_t entry = (first + i) / words_each;

        if ((first + i) % words_each == 0 && entry < limit && test_bit(map, entry)) {
            e[i] &= ~htobe64(ENTRY_COPIED);
        }
    }
}

/* ---- counting ---- */

typedef struct Walk {
    Draft *d;
    Request *r;
    RefPins pins;
} Walk;

/* With alloc_lock, and lock, which is given up for a moment when a block has to be read: -EAGAIN then. */
static int coroutine_fn change_refs(Walk *w, ClusterIndex first, uint64_t count, int delta,
                                    uint64_t *ret_least)
{
    Qcow2 *q = w->d->q;
    uint64_t missing;
    int ret = refcount_change(q, first, count, delta, ret_least, &missing);

    if (ret == -EAGAIN) {
        pthread_mutex_unlock(&q->lock);
        ret = refcount_pin(q, w->r, &w->pins, missing);
        pthread_mutex_lock(&q->lock);
        ret = ret < 0 ? ret : -EAGAIN;
    }
    return ret;
}

/* Under lock: what the file says of an entry changes. */
static void mark_entry(const Draft *d, L2Table *l2, uint64_t i)
{
    uint32_t bytes = entry_words(d->q) * sizeof(uint64_t);

    table_mark_dirty(d->q, &l2->t, i * bytes, bytes);
}

/* Under lock.  -EAGAIN: look again.  *ret_own: the table has to be ours alone first. */
static int coroutine_fn count_entry(Walk *w, L2Table *l2, uint64_t i, bool own, bool *ret_own)
{
    Draft *d = w->d;
    TableBits *b = &d->bits[l2->index];
    uint64_t entry = l2_entry(d->q, &l2->t, i).v, least;
    ClusterIndex first = {0};
    uint64_t count = entry_clusters(d->q, entry, &first);
    int ret;

    if (count == 0 || test_bit(b->counted, i)) {
        return 0;
    }
    if (entry & ENTRY_COPIED && !own) {
        *ret_own = true; /* somebody forgot the L1 entry's flag */
        return -EAGAIN;
    }
    ret = change_refs(w, first, count, 1, &least);
    if (ret == 0) {
        put_bit(b->counted, i, true);
        if (entry & ENTRY_COPIED) {
            put_bit(b->ours, i, true);
            mark_entry(d, l2, i);
        }
    }
    return ret;
}

/* Under lock. */
static int coroutine_fn uncount_entry(Walk *w, L2Table *l2, uint64_t i)
{
    Draft *d = w->d;
    TableBits *b = &d->bits[l2->index];
    ClusterIndex first = {0};
    uint64_t count = entry_clusters(d->q, l2_entry(d->q, &l2->t, i).v, &first), least;
    int ret;

    if (!test_bit(b->counted, i)) {
        return 0;
    }
    ret = change_refs(w, first, count, -1, &least);
    if (ret == 0) {
        if (test_bit(b->ours, i)) {
            mark_entry(d, l2, i);
        }
        put_bit(b->counted, i, false);
        put_bit(b->ours, i, false);
    }
    return ret;
}

/* Entries of one table from *at on, as far as one turn goes; *ret_gone: there is no table, *ret_own as above. */
static int coroutine_fn walk_chunk(Walk *w, uint64_t index, int delta, uint64_t *at, bool *ret_gone,
                                   bool *ret_own)
{
    Qcow2 *q = w->d->q;
    uint64_t entry, stop = MIN(*at + CHUNK, w->d->per_table);
    L2Table *l2;
    int ret = 0;

    co_mutex_lock(&q->alloc_lock);
    refcount_pins_init(&w->pins);
    pthread_mutex_lock(&q->lock);
    while (*at < stop && ret == 0) {
        entry = table_entry(&l1_of(q)->t, index);
        *ret_gone = !(entry & ENTRY_OFFSET_MASK);
        l2 = l2_resident(q, index);
        if (*ret_gone || !l2) {
            break;
        }
        ret = delta > 0 ? count_entry(w, l2, *at, entry & ENTRY_COPIED, ret_own)
                        : uncount_entry(w, l2, *at);
        if (ret == 0) {
            (*at)++;
        } else if (ret == -EAGAIN && !*ret_own) {
            ret = 0;
        }
    }
    meta_changed(q);
    pthread_mutex_unlock(&q->lock);
    refcount_unpin(&w->pins);
    co_mutex_unlock(&q->alloc_lock);
    return ret == -EAGAIN ? 0 : ret;
}

static int coroutine_fn walk_table(Walk *w, uint64_t index, int delta)
{
    Draft *d = w->d;
    Qcow2 *q = d->q;
    uint64_t at = 0;

    if (!d->bits[index].counted) {
        uint64_t n = words(d->per_table);
        unsigned long *map = g_new0(unsigned long, 2 * n);

        pthread_mutex_lock(&q->lock);
        d->bits[index] = (TableBits){.counted = map, .ours = map + n};
        pthread_mutex_unlock(&q->lock);
    }
    while (at < d->per_table) {
        bool gone = false, own = false;
        int ret = l2_load(q, w->r, index, 0);

        if (ret == 0) {
            ret = walk_chunk(w, index, delta, &at, &gone, &own);
        }
        if (ret == 0 && own) {
            ret = l2_prepare(q, w->r, index);
        }
        if (ret < 0 || gone) {
            return ret;
        }
    }
    return 0;
}

/* The L2 tables from *at on, as far as one turn goes. */
static int coroutine_fn walk_l1(Walk *w, int delta, uint64_t *at)
{
    Draft *d = w->d;
    Qcow2 *q = d->q;
    uint64_t stop = MIN(*at + CHUNK, d->entries), least;
    int ret = 0;

    co_mutex_lock(&q->alloc_lock);
    refcount_pins_init(&w->pins);
    pthread_mutex_lock(&q->lock);
    while (*at < stop && ret == 0) {
        uint64_t entry = table_entry(&l1_of(q)->t, *at);
        HostOffset table = host(entry & ENTRY_OFFSET_MASK);

        if (table.v && test_bit(d->tables, *at) == (delta < 0)) {
            ret = change_refs(w, cluster_of(table, q->cluster_bits), 1, delta, &least);
            if (ret == 0) {
                put_bit(d->tables, *at, delta > 0);
                table_mark_dirty(q, &l1_of(q)->t, *at * sizeof(uint64_t), sizeof(uint64_t));
            }
        }
        if (ret == 0) {
            (*at)++;
        } else if (ret == -EAGAIN) {
            ret = 0;
        }
    }
    meta_changed(q);
    pthread_mutex_unlock(&q->lock);
    refcount_unpin(&w->pins);
    co_mutex_unlock(&q->alloc_lock);
    return ret;
}

static int coroutine_fn walk_tables(Walk *w, int delta)
{
    uint64_t at = 0;
    int ret = 0;

    while (at < w->d->entries && ret == 0) {
        ret = walk_l1(w, delta, &at);
    }
    return ret;
}

/* Under lock: has L1 entry `index` a table that has to be looked at?  Touched no more, then. */
static bool take_touched(Draft *d, uint64_t index, bool all)
{
    bool look = (all && table_entry(&l1_of(d->q)->t, index) & ENTRY_OFFSET_MASK) ||
                test_bit(d->touched, index);

    put_bit(d->touched, index, false);
    return look;
}

/* Every table, or those that were touched; *ret_any: there was one. */
static int coroutine_fn pass(Walk *w, bool all, int64_t deadline, bool *ret_any)
{
    Draft *d = w->d;
    int ret = 0;

    *ret_any = false;
    for (uint64_t i = 0; i < d->entries && ret == 0; i++) {
        bool look;

        pthread_mutex_lock(&d->q->lock);
        look = take_touched(d, i, all);
        pthread_mutex_unlock(&d->q->lock);
        if (!look) {
            continue;
        }
        *ret_any = true;
        if (deadline >= 0 && clock_ns() >= deadline) {
            ret = -ETIMEDOUT;
        } else if (deadline < 0) {
            ret = l2_throttle(d->q, w->r);
        }
        if (ret == 0) {
            ret = walk_table(w, i, 1);
        }
        if (ret < 0) {
            pthread_mutex_lock(&d->q->lock);
            put_bit(d->touched, i, true);
            pthread_mutex_unlock(&d->q->lock);
        }
    }
    return ret;
}

/* With requests running: counts all, and what guests change meanwhile; what the file is told of that gets there. */
int coroutine_fn draft_count(Draft *d, Request *r)
{
    Walk w = {.d = d, .r = r};
    bool any;
    int ret;

    pthread_mutex_lock(&d->q->lock);
    d->q->draft = d;
    pthread_mutex_unlock(&d->q->lock);
    ret = pass(&w, true, -1, &any);
    for (unsigned i = 0; ret == 0 && any && i < PASSES; i++) {
        ret = pass(&w, false, -1, &any);
    }
    if (ret == 0) {
        ret = walk_tables(&w, 1);
    }
    return ret < 0 ? ret : qcow2_write_back(d->q, r);
}

/* No write is in the node: what is left. */
int coroutine_fn draft_catch_up(Draft *d, Request *r, int64_t deadline_ns)
{
    Walk w = {.d = d, .r = r};
    bool any;
    int ret = pass(&w, false, deadline_ns, &any);

    return ret < 0 ? ret : walk_tables(&w, 1);
}

/* Under lock: the flags go from memory.  The file is, or will be, without them anyhow. */
static void share_entries(const Draft *d, L2Table *l2)
{
    const unsigned long *ours = d->bits[l2->index].ours;
    _Atomic uint64_t *entries = l2->t.data;

    for (uint64_t w = 0; ours && w < words(d->per_table); w++) {
        for (unsigned long left = ours[w]; left; left &= left - 1) {
            uint64_t i = (w * WORD_BITS + (unsigned)__builtin_ctzl(left)) * entry_words(d->q);

            atomic_store_explicit(&entries[i], entries[i] & ~htobe64(ENTRY_COPIED),
                                  memory_order_release);
        }
    }
}

/* After draft_catch_up(), and no write was let in since. */
void draft_flip(Draft *d)
{
    Qcow2 *q = d->q;
    L2Table *l2;
    L1 *l1;

    pthread_mutex_lock(&q->lock);
    l1 = l1_of(q);
    l2 = q->resident;
    for (uint32_t n = q->nresident; n > 0; n--, l2 = l2->next) {
        share_entries(d, l2);
    }
    d->l1 = g_new0(uint64_t, MAX(d->entries, 1));
    for (uint64_t i = 0; i < d->entries; i++) {
        uint64_t entry = table_entry(&l1->t, i);

        g_assert(!(entry & ENTRY_OFFSET_MASK) || test_bit(d->tables, i));
        if (entry & ENTRY_COPIED) {
            entry &= ~ENTRY_COPIED;
            table_set_entry(q, &l1->t, i, entry);
        }
        d->l1[i] = htobe64(entry);
    }
    meta_changed(q);
    q->draft = NULL;
    pthread_mutex_unlock(&q->lock);
    free_bits(d);
}

/* Instead of the flip: gives the references back.  Those that cannot be are leaked, in memory and in the file alike. */
void coroutine_fn draft_cancel(Draft *d, Request *r)
{
    Walk w = {.d = d, .r = r};

    for (uint64_t i = 0; i < d->entries; i++) {
        if (d->bits[i].counted) {
            (void)walk_table(&w, i, -1);
        }
    }
    (void)walk_tables(&w, -1);
    pthread_mutex_lock(&d->q->lock);
    d->q->draft = NULL;
    pthread_mutex_unlock(&d->q->lock);
}

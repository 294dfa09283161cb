/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Never writing data over metadata.
 *
 * Where a write goes is decided by entries that come from the file.  Before data is written, its clusters are looked up in a filter: a
 * bit for each (hashed) cluster number that holds metadata, set when the image is opened and when metadata is allocated, never
 * cleared.  A clear bit is the answer for nearly all writes.  A set bit may be a coincidence: then the tables are searched.
 */
#include "bitmap.h"

#define FILTER_MIN (UINT64_C(1) << 14) /* bits */
#define FILTER_MAX (UINT64_C(1) << 26)

static uint64_t filter_bit(const Qcow2 *q, uint64_t cluster)
{
    return (cluster * UINT64_C(0x9e3779b97f4a7c15) >> 24) & q->meta_mask;
}

void overlap_add(Qcow2 *q, ClusterIndex c)
{
    uint64_t bit = filter_bit(q, c.v);

    if (q->meta_filter) {
        atomic_fetch_or_explicit(&q->meta_filter[bit / 64], UINT64_C(1) << (bit % 64),
                                 memory_order_relaxed);
    }
}

static void add_table(Qcow2 *q, HostOffset at, uint64_t bytes)
{
    for (uint64_t c = at.v >> q->cluster_bits;
         c < (at.v + bytes + q->cluster_size - 1) >> q->cluster_bits; c++) {
        overlap_add(q, (ClusterIndex){c});
    }
}

bool overlap_open(Qcow2 *q, Error **errp)
{
    const L1 *l1 = l1_of(q);
    uint64_t expected = 64, bits = FILTER_MIN;

    for (uint32_t i = 0; i < l1->entries; i++) {
        expected += (table_entry(&l1->t, i) & ENTRY_OFFSET_MASK) != 0;
    }
    for (uint64_t i = 0; i < q->reft_entries; i++) {
        expected += table_entry(&q->reft, i) != 0;
    }
    while (bits < 64 * expected && bits < FILTER_MAX) {
        bits *= 2;
    }
    q->meta_filter = g_try_malloc0(bits / 8);
    if (!q->meta_filter) {
        error_set_errno(errp, ENOMEM, q->node->name, "open", "Could not allocate memory");
        return false;
    }
    q->meta_mask = bits - 1;

    overlap_add(q, (ClusterIndex){0});
    add_table(q, l1->t.offset, (uint64_t)l1->entries * 8);
    add_table(q, q->reft.offset, q->reft.size);
    for (guint i = 0; i < q->snapshot_ranges->len; i++) {
        const MetaRange *m = &g_array_index(q->snapshot_ranges, MetaRange, i);

        add_table(q, cluster_start((ClusterIndex){m->start}, q->cluster_bits),
                  (m->end - m->start) << q->cluster_bits);
    }
    bitmaps_note_ranges(q);
    for (uint32_t i = 0; i < l1->entries; i++) {
        uint64_t at = table_entry(&l1->t, i) & ENTRY_OFFSET_MASK;

        if (at) {
            overlap_add(q, cluster_of(host(at), q->cluster_bits));
        }
    }
    for (uint64_t i = 0; i < q->reft_entries; i++) {
        uint64_t at = table_entry(&q->reft, i);

        if (at) {
            overlap_add(q, cluster_of(host(at), q->cluster_bits));
        }
    }
    return true;
}

void overlap_close(Qcow2 *q)
{
    g_free((void *)q->meta_filter);
    q->meta_filter = NULL;
}

/* ---- exact answers: under lock ---- */

static bool inside(const Qcow2 *q, ClusterIndex c, HostOffset at, uint64_t bytes)
{
    uint64_t start = c.v << q->cluster_bits;

    return start + q->cluster_size > at.v && start < at.v + bytes;
}

static bool in_ranges(const GArray *ranges, ClusterIndex c)
{
    for (guint i = 0; i < ranges->len; i++) {
        const MetaRange *m = &g_array_index(ranges, MetaRange, i);

        if (c.v >= m->start && c.v < m->end) {
            return true;
        }
    }
    return false;
}

static bool in_tables(const Qcow2 *q, ClusterIndex c)
{
    const L1 *l1 = l1_of((Qcow2 *)q);

    if (c.v == 0 || inside(q, c, l1->t.offset, (uint64_t)l1->entries * 8) ||
        (q->reft.data && inside(q, c, q->reft.offset, q->reft.size))) {
        return true;
    }
    return in_ranges(q->snapshot_ranges, c) || in_ranges(q->bitmap_ranges, c);
}

static bool in_refblocks(const Qcow2 *q, ClusterIndex c)
{
    for (uint64_t i = 0; i < q->reft_entries; i++) {
        if (table_entry(&q->reft, i) == c.v << q->cluster_bits) {
            return true;
        }
    }
    return false;
}

static bool in_l2_tables(const Qcow2 *q, ClusterIndex c)
{
    const L1 *l1 = l1_of((Qcow2 *)q);

    for (uint32_t i = 0; i < l1->entries; i++) {
        if ((table_entry(&l1->t, i) & ENTRY_OFFSET_MASK) == c.v << q->cluster_bits) {
            return true;
        }
    }
    return false;
}

bool overlap_tables(Qcow2 *q, ClusterIndex c)
{
    bool hit;

    pthread_mutex_lock(&q->lock);
    hit = in_tables(q, c);
    pthread_mutex_unlock(&q->lock);
    return hit;
}

bool overlap_fixed(Qcow2 *q, ClusterIndex c)
{
    bool hit;

    pthread_mutex_lock(&q->lock);
    hit = in_tables(q, c) || in_refblocks(q, c);
    pthread_mutex_unlock(&q->lock);
    return hit;
}

bool overlap_check(Qcow2 *q, HostOffset at, uint64_t bytes)
{
    uint64_t last = (at.v + bytes - 1) >> q->cluster_bits;

    for (uint64_t c = at.v >> q->cluster_bits; c <= last; c++) {
        uint64_t bit = filter_bit(q, c);

        if (G_UNLIKELY(atomic_load_explicit(&q->meta_filter[bit / 64], memory_order_relaxed) >>
                           (bit % 64) &
                       1)) {
            ClusterIndex index = {c};
            bool hit;

            pthread_mutex_lock(&q->lock);
            hit = in_tables(q, index) || in_refblocks(q, index) || in_l2_tables(q, index);
            pthread_mutex_unlock(&q->lock);
            if (hit) {
                return true;
            }
        }
    }
    return false;
}

const char *overlap_kind(Qcow2 *q, ClusterIndex c)
{
    const char *kind = NULL;
    const L1 *l1;

    pthread_mutex_lock(&q->lock);
    l1 = l1_of(q);
    if (c.v == 0) {
        kind = "qcow2_header";
    } else if (inside(q, c, l1->t.offset, (uint64_t)l1->entries * 8)) {
        kind = "active L1 table";
    } else if (in_l2_tables(q, c)) {
        kind = "active L2 table";
    } else if (in_refblocks(q, c)) {
        kind = "refcount block";
    } else if (q->reft.data && inside(q, c, q->reft.offset, q->reft.size)) {
        kind = "refcount table";
    } else if (in_ranges(q->snapshot_ranges, c)) {
        kind = "snapshot table";
    } else if (in_ranges(q->bitmap_ranges, c)) {
        kind = "bitmap directory";
    }
    pthread_mutex_unlock(&q->lock);
    return kind;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Zeroes and discards: changes of the mapping alone, cluster by cluster.
 *
 * Only whole clusters are handled here; the block layer splits requests so, and writes zeroes for what is left.  Version 2 images
 * have no way to say "zero" over a backing file: there zeroes are written, and discards dropped.
 */
#include "qcow2.h"
#include <errno.h>

typedef enum Wish { WISH_ZERO, WISH_ZERO_UNMAP, WISH_DISCARD } Wish;

/* What an entry becomes; false: stays. */
static bool new_entry(const Qcow2 *q, bool has_backing, Wish wish, uint64_t old, uint64_t *ret)
{
    Mapping m;

    if (!entry_decode(q, old, &m)) {
        return false;
    }
    if (m.type == MAP_ZERO && (wish != WISH_DISCARD || has_backing)) {
        return false;
    }
    if (m.type == MAP_UNALLOCATED && !has_backing) {
        return false; /* reads as zeroes as it is */
    }
    if (m.type == MAP_ZERO_ALLOC && (wish == WISH_ZERO || q->opt.discard_no_unref)) {
        return false;
    }
    if (m.type == MAP_DATA && m.copied && q->version >= 3 &&
        (wish == WISH_ZERO || q->opt.discard_no_unref)) {
        *ret = old | ENTRY_ZERO;
        return true;
    }
    if (q->version >= 3) {
        *ret = ENTRY_ZERO;
        return true;
    }
    *ret = 0;
    return !has_backing;
}

/* Version 2: may the wish be granted by making clusters unallocated? */
static bool possible(const Qcow2 *q, bool has_backing)
{
    return q->version >= 3 || !has_backing;
}

/* All clusters of [offset, offset + bytes) within one L2 table. */
static int coroutine_fn change_table(Node *n, Request *r, uint64_t offset, uint64_t bytes,
                                     Wish wish)
{
    Qcow2 *q = qcow2_of(n);
    bool has_backing = atomic_load_explicit(&n->backing, memory_order_acquire);
    uint64_t table = offset >> (q->cluster_bits + q->l2_bits);
    uint64_t i = (offset >> q->cluster_bits) & ((UINT64_C(1) << q->l2_bits) - 1);
    uint64_t count = div_up(bytes, q->cluster_size);
    Mapping m;
    int ret = qcow2_lookup(n, r, offset, bytes, &m);

    if (ret < 0) {
        return ret;
    }
    if (m.bytes >= bytes && ((m.type == MAP_UNALLOCATED && !has_backing) ||
                             (m.type == MAP_ZERO && wish != WISH_DISCARD))) {
        return 0; /* nothing to do, and no table to make for it */
    }
    for (;;) {
        L2Table *l2;

        pthread_mutex_lock(&q->lock);
        l2 = l2_writable(q, table);
        if (l2) {
            for (uint64_t k = 0; k < count; k++) {
                uint64_t old = table_entry(&l2->t, i + k), entry;

                if (new_entry(q, has_backing, wish, old, &entry)) {
                    table_set_entry(q, &l2->t, i + k, entry);
                    if (!(entry & ENTRY_OFFSET_MASK)) {
                        drop_entry(q, old, DROP_REQUEST);
                    }
                    meta_changed(q);
                }
            }
            pthread_mutex_unlock(&q->lock);
            return 0;
        }
        pthread_mutex_unlock(&q->lock);
        ret = l2_prepare(q, r, table);
        if (ret < 0) {
            return ret;
        }
    }
}

static int coroutine_fn change_range(Node *n, Request *r, uint64_t offset, uint64_t bytes,
                                     Wish wish)
{
    Qcow2 *q = qcow2_of(n);
    uint64_t table_bytes = UINT64_C(1) << (q->cluster_bits + q->l2_bits);
    int ret = atomic_load_explicit(&q->corrupt, memory_order_relaxed) ? -EIO : l2_throttle(q, r);

    while (bytes > 0 && ret == 0) {
        uint64_t len = MIN(bytes, table_bytes - (offset & (table_bytes - 1)));
        unsigned phase = use_begin(q, r->slot);
        CoRange range;

        co_range_lock(&q->ranges, &range, offset, cluster_ceil(q, len), false);
        ret = change_table(n, r, offset, len, wish);
        co_range_unlock(&q->ranges, &range);
        use_end(q, r->slot, phase);
        offset += len;
        bytes -= len;
    }
    return ret;
}

/* Whole clusters; the last one may be cut short by the end of the disk. */
static bool whole_clusters(const Node *n, const Qcow2 *q, uint64_t offset, uint64_t bytes)
{
    uint64_t end = offset + bytes;

    return in_cluster(q, offset) == 0 &&
           (in_cluster(q, end) == 0 ||
            end == atomic_load_explicit(&((Node *)n)->size, memory_order_acquire));
}

/* Does a part of a cluster read as zeroes already? */
static int coroutine_fn is_zero(Node *n, Request *r, uint64_t offset, uint64_t bytes)
{
    Mapping m;
    int ret = qcow2_lookup(n, r, offset, bytes, &m);

    if (ret < 0) {
        return ret;
    }
    return m.bytes >= bytes && (m.type == MAP_ZERO || m.type == MAP_ZERO_ALLOC ||
                                (m.type == MAP_UNALLOCATED &&
                                 !atomic_load_explicit(&n->backing, memory_order_acquire)));
}

int coroutine_fn qcow2_pwrite_zeroes(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                     unsigned flags)
{
    Qcow2 *q = qcow2_of(n);

    if (!whole_clusters(n, q, offset.v, bytes)) {
        int ret = is_zero(n, r, offset.v, bytes);

        return ret == 1 ? 0 : ret < 0 ? ret : -ENOTSUP;
    }
    if (!possible(q, atomic_load_explicit(&n->backing, memory_order_acquire))) {
        return -ENOTSUP;
    }
    return change_range(n, r, offset.v, bytes,
                        flags & REQ_MAY_UNMAP || q->version < 3 ? WISH_ZERO_UNMAP : WISH_ZERO);
}

int coroutine_fn qcow2_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    Qcow2 *q = qcow2_of(n);

    if (!whole_clusters(n, q, offset.v, bytes) ||
        !possible(q, atomic_load_explicit(&n->backing, memory_order_acquire))) {
        return -ENOTSUP;
    }
    return change_range(n, r, offset.v, bytes, WISH_DISCARD);
}

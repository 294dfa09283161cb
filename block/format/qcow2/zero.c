/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Zero writes and discards: changes of the mapping without data.
 *
 * Both work on whole clusters, under the range lock of those clusters, and differ in what becomes of an entry:
 *
 *                        zero, keeping space   zero, may unmap     discard
 *   unallocated          zero                  zero                zero; stays if there is no backing file
 *   data, ours alone     same cluster + zero   zero, dropped       zero, dropped (discard-no-unref: cluster + zero)
 *   data, shared         zero, dropped         zero, dropped       zero, dropped
 *   compressed           zero, dropped         zero, dropped       zero, dropped
 *   zero with a cluster  stays                 zero, dropped       zero, dropped (discard-no-unref: stays)
 *
 * What a disk that gets smaller loses (cut) is discarded too, but nothing can show through there, so that what is unallocated stays so.  Emptying
 * makes every entry unallocated: the backing file has the same.
 *
 * Version 2 has no zero entries: there zeroes are written as data, and a discard makes entries empty where nothing shows through.
 */
#include "qcow2.h"
#include <errno.h>

/* Entries changed at once under the lock. */
#define CHUNK 4096u

typedef enum Wipe { WIPE_KEEP, WIPE_UNMAP, WIPE_DISCARD, WIPE_CUT, WIPE_EMPTY } Wipe;

/* Asked under the lock, with nothing before it that takes time: may the entries change?  fn NULL: yes. */
typedef struct Claim {
    bool (*fn)(void *opaque, uint64_t offset, uint64_t bytes);
    void *opaque;
} Claim;

/* The new value of an entry; *ret_drop: what the old one refers to is given up. */
static uint64_t wiped(const Qcow2 *q, uint64_t old, const Mapping *m, Wipe how, bool backing,
                      bool *ret_drop)
{
    uint64_t empty = q->version >= 3 && how != WIPE_EMPTY ? ENTRY_ZERO : 0;
    bool keep = how == WIPE_KEEP || (how == WIPE_DISCARD && q->opt.discard_no_unref);

    *ret_drop = false;
    switch (m->type) {
    case MAP_ZERO:
        return how == WIPE_EMPTY ? empty : old;
    case MAP_UNALLOCATED:
        return how == WIPE_CUT || how == WIPE_EMPTY || (how == WIPE_DISCARD && !backing) ? old
                                                                                         : empty;
    case MAP_ZERO_ALLOC:
    case MAP_DATA:
        if (keep && m->copied && q->version >= 3 && (m->host.v || !q->external)) {
            return old | ENTRY_ZERO;
        }
        break;
    case MAP_COMPRESSED:
        break;
    }
    *ret_drop = true;
    return empty;
}

/* The same for an extended entry: what is zero is said by bits. */
static L2Entry wiped_extended(const Qcow2 *q, L2Entry old, const Mapping *m, Wipe how, bool backing,
                              bool *ret_drop)
{
    bool keep = how == WIPE_KEEP || (how == WIPE_DISCARD && q->opt.discard_no_unref);
    bool place = m->type == MAP_DATA;

    *ret_drop = false;
    if (m->type == MAP_UNALLOCATED && old.bits == 0 &&
        (how == WIPE_CUT || (how == WIPE_DISCARD && !backing))) {
        return old;
    }
    if (m->type == MAP_UNALLOCATED || (keep && place && m->copied)) {
        return (L2Entry){old.v, SUB_ALL_ZERO};
    }
    *ret_drop = true;
    return (L2Entry){0, SUB_ALL_ZERO};
}

/* `count` clusters from guest cluster `first` on, all in one L2 table.  The range is locked. */
static int coroutine_fn wipe_chunk(Node *n, Request *r, uint64_t first, uint64_t count, Wipe how,
                                   Claim claim)
{
    Qcow2 *q = qcow2_of(n);
    uint64_t index = first >> q->l2_bits, at = first & ((UINT64_C(1) << q->l2_bits) - 1), bad = 0,
             bad_cluster = first;
    bool backing = atomic_load_explicit(&n->backing, memory_order_acquire), changed = false,
         ok = true;
    L2Table *l2;

    for (;;) {
        int ret = l2_prepare(q, r, index);

        if (ret < 0) {
            return ret;
        }
        pthread_mutex_lock(&q->lock);
        l2 = l2_writable(q, index);
        if (l2) {
            break;
        }
        pthread_mutex_unlock(&q->lock);
    }
    if (claim.fn && !claim.fn(claim.opaque, first << q->cluster_bits, count << q->cluster_bits)) {
        pthread_mutex_unlock(&q->lock);
        return -ECANCELED;
    }
    for (uint64_t i = 0; i < count; i++) {
        L2Entry old = l2_entry(q, &l2->t, at + i), value = {0};
        Mapping m;
        bool drop;

        if (!entry_decode(q, old.v, &m)) {
            bad = old.v;
            bad_cluster = first + i;
            ok = false;
            break;
        }
        if (q->extended) {
            value = wiped_extended(q, old, &m, how, backing, &drop);
        } else {
            value.v = wiped(q, old.v, &m, how, backing, &drop);
        }
        if (drop) {
            drop_entry(q, old.v, DROP_REQUEST);
        }
        if (value.v != old.v || value.bits != old.bits) {
            draft_entry_changes(q, first + i, old.v, drop);
            l2_set_entry(q, &l2->t, at + i, value);
            changed = true;
        }
    }
    if (changed) {
        meta_changed(q);
    }
    pthread_mutex_unlock(&q->lock);
    return ok ? 0 : qcow2_bad_entry(q, r, bad, bad_cluster);
}

int coroutine_fn qcow2_zero_clusters(Node *n, Request *r, uint64_t first, uint64_t count)
{
    return wipe_chunk(n, r, first, count, WIPE_KEEP, (Claim){0});
}

/* With discard-no-unref the storage may forget what the kept clusters hold; m: data, ours alone. */
static int coroutine_fn discard_kept(Qcow2 *q, Request *r, const Mapping *m)
{
    uint64_t size = edge_size(q->file, r);

    if (q->external || m->type != MAP_DATA || !m->copied || !q->opt.discard_request ||
        m->host.v >= size || overlap_check(q, m->host, m->bytes)) {
        return 0;
    }
    return edge_pdiscard(q->file, r, host_to_child(m->host), MIN(m->bytes, size - m->host.v));
}

/* Is there anything to do for a mapping? */
static bool done_already(const Node *n, const Mapping *m, Wipe how)
{
    return m->type == MAP_ZERO || (m->type == MAP_ZERO_ALLOC && how == WIPE_KEEP) ||
           (m->type == MAP_UNALLOCATED && how == WIPE_CUT) ||
           (m->type == MAP_UNALLOCATED && how == WIPE_DISCARD &&
            !atomic_load_explicit(&((Node *)n)->backing, memory_order_acquire));
}

/* Whole clusters [start, end). */
static int coroutine_fn wipe(Node *n, Request *r, uint64_t start, uint64_t end, Wipe how)
{
    Qcow2 *q = qcow2_of(n);
    uint64_t per_table = UINT64_C(1) << q->l2_bits;

    while (start < end) {
        uint64_t first = start >> q->cluster_bits, last;
        CoRange range;
        Mapping m;
        int ret = l2_throttle(q, r);

        if (ret == 0) {
            ret = qcow2_lookup(n, r, start, end - start, 0, &m);
        }
        if (ret < 0) {
            return ret;
        }
        if (m.bytes >= q->cluster_size && done_already(n, &m, how)) {
            start += cluster_floor(q, m.bytes);
            continue;
        }
        m.bytes = cluster_ceil(q, m.bytes);
        last = MIN(first + CHUNK, (first / per_table + 1) * per_table);
        last = MIN(last, (start + m.bytes) >> q->cluster_bits);
        co_range_lock(&q->ranges, &range, start, (last - first) << q->cluster_bits, false);
        if (how == WIPE_DISCARD && q->opt.discard_no_unref) {
            ret = qcow2_lookup(n, r, start, (last - first) << q->cluster_bits, 0, &m);
            m.bytes = cluster_ceil(q, m.bytes);
            last = MIN(last, first + (m.bytes >> q->cluster_bits));
        }
        if (ret == 0 && q->external) {
            ret = data_file_wipe(q, r, start, last << q->cluster_bits,
                                 how == WIPE_KEEP || how == WIPE_UNMAP, how != WIPE_KEEP);
        }
        if (ret == 0) {
            ret = wipe_chunk(n, r, first, last - first, how, (Claim){0});
        }
        if (ret == 0 && how == WIPE_DISCARD && q->opt.discard_no_unref) {
            ret = discard_kept(q, r, &m);
        }
        co_range_unlock(&q->ranges, &range);
        if (ret < 0) {
            return ret;
        }
        start = last << q->cluster_bits;
    }
    return 0;
}

/* True if nothing but zeroes can be read from the cluster at `start`, now and with any backing file. */
static int coroutine_fn reads_zero(Node *n, Request *r, uint64_t start)
{
    Mapping m;
    int ret = qcow2_lookup(n, r, start, 1, 0, &m);

    return ret < 0 ? ret : m.type == MAP_ZERO || m.type == MAP_ZERO_ALLOC;
}

/* [start, end), not in whole clusters. */
static int coroutine_fn zero_subclusters(Node *n, Request *r, uint64_t start, uint64_t end,
                                         unsigned flags)
{
    Qcow2 *q = qcow2_of(n);
    uint64_t size = atomic_load_explicit(&n->size, memory_order_acquire);
    Wipe how = flags & REQ_MAY_UNMAP ? WIPE_UNMAP : WIPE_KEEP;
    int ret = 0;

    if (end >= size) {
        end = (end + q->subcluster_size - 1) & ~(q->subcluster_size - 1);
    }
    if ((start | end) & (q->subcluster_size - 1)) {
        return -ENOTSUP;
    }
    while (start < end && ret == 0) {
        uint64_t stop = MIN(cluster_floor(q, start) + q->cluster_size, end);
        CoRange range;

        if (stop - start == q->cluster_size) {
            stop = cluster_floor(q, end);
            ret = wipe(n, r, start, stop, how);
        } else {
            ret = l2_throttle(q, r);
            if (ret == 0) {
                co_range_lock(&q->ranges, &range, cluster_floor(q, start), q->cluster_size, false);
                ret = sub_zero(n, r, start, stop - start);
                co_range_unlock(&q->ranges, &range);
            }
        }
        start = stop;
    }
    return ret;
}

static int coroutine_fn pwrite_zeroes(Node *n, Request *r, uint64_t start, uint64_t end,
                                      unsigned flags)
{
    Qcow2 *q = qcow2_of(n);
    uint64_t size = atomic_load_explicit(&n->size, memory_order_acquire);
    bool part = in_cluster(q, start) || (in_cluster(q, end) && end < size);

    if (q->version < 3) {
        return -ENOTSUP;
    }
    if (part) {
        int ret = 1;

        for (uint64_t c = start & ~(q->subcluster_size - 1); c < end && ret > 0;
             c += q->subcluster_size) {
            ret = reads_zero(n, r, c);
        }
        if (ret == 0 && q->extended) {
            return zero_subclusters(n, r, start, end, flags);
        }
        return ret < 0 ? ret : ret ? 0 : -ENOTSUP;
    }
    return wipe(n, r, start, cluster_ceil(q, end), flags & REQ_MAY_UNMAP ? WIPE_UNMAP : WIPE_KEEP);
}

static void drops_check(Qcow2 *q)
{
    bool many;

    pthread_mutex_lock(&q->lock);
    many = q->drops->len > 1024 || q->ndropped << q->cluster_bits > UINT64_C(1) << 30;
    pthread_mutex_unlock(&q->lock);
    if (many) {
        keeper_kick(q, true);
    }
}

int coroutine_fn qcow2_pwrite_zeroes(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                     unsigned flags)
{
    Qcow2 *q = qcow2_of(n);
    unsigned phase;
    int ret;

    if (atomic_load_explicit(&q->corrupt, memory_order_relaxed)) {
        return -EIO;
    }
    phase = use_begin(q, r->slot);
    ret = pwrite_zeroes(n, r, offset.v, offset.v + bytes, flags);
    use_end(q, r->slot, phase);
    drops_check(q);
    return ret;
}

int coroutine_fn qcow2_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    Qcow2 *q = qcow2_of(n);
    uint64_t size = atomic_load_explicit(&n->size, memory_order_acquire);
    uint64_t start = cluster_ceil(q, offset.v), end = offset.v + bytes;
    unsigned phase;
    int ret;

    if (atomic_load_explicit(&q->corrupt, memory_order_relaxed)) {
        return -EIO;
    }
    if (q->version < 3 && atomic_load_explicit(&n->backing, memory_order_acquire)) {
        return -ENOTSUP; /* what the backing file has would show */
    }
    end = end >= size ? cluster_ceil(q, size) : cluster_floor(q, end);
    if (start >= end) {
        return 0;
    }
    phase = use_begin(q, r->slot);
    ret = wipe(n, r, start, end, WIPE_DISCARD);
    use_end(q, r->slot, phase);
    drops_check(q);
    return ret;
}

int coroutine_fn qcow2_cut(Node *n, Request *r, uint64_t from, uint64_t to)
{
    Qcow2 *q = qcow2_of(n);
    unsigned phase = use_begin(q, r->slot);
    int ret = wipe(n, r, cluster_ceil(q, from), cluster_ceil(q, to), WIPE_CUT);

    use_end(q, r->slot, phase);
    drops_check(q);
    return ret;
}

uint64_t qcow2_empty_max(const Node *n, GuestOffset offset)
{
    const Qcow2 *q = qcow2_of(n);
    uint64_t per_table = UINT64_C(1) << q->l2_bits, first = offset.v >> q->cluster_bits;
    uint64_t last = MIN(first + CHUNK, (first / per_table + 1) * per_table);

    return (last << q->cluster_bits) - offset.v;
}

int coroutine_fn qcow2_make_empty(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                  bool (*claim)(void *opaque, uint64_t offset, uint64_t bytes),
                                  void *opaque)
{
    Qcow2 *q = qcow2_of(n);
    uint64_t size = atomic_load_explicit(&n->size, memory_order_acquire), end = offset.v + bytes;
    uint64_t first = cluster_ceil(q, offset.v) >> q->cluster_bits, last;
    unsigned phase;
    CoRange range;
    int ret;

    if (atomic_load_explicit(&q->corrupt, memory_order_relaxed)) {
        return -EIO;
    }
    if (q->external) {
        return -ENOTSUP; /* the data file would keep its data where nobody finds it */
    }
    last = (end >= size ? cluster_ceil(q, size) : cluster_floor(q, end)) >> q->cluster_bits;
    if (first >= last) {
        return 0;
    }
    phase = use_begin(q, r->slot);
    co_range_lock(&q->ranges, &range, first << q->cluster_bits, (last - first) << q->cluster_bits,
                  false);
    ret = wipe_chunk(n, r, first, last - first, WIPE_EMPTY, (Claim){claim, opaque});
    co_range_unlock(&q->ranges, &range);
    use_end(q, r->slot, phase);
    drops_check(q);
    return ret;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Another size for the virtual disk.
 *
 * The new space must read as zeroes, whatever the last cluster or a longer backing file has there; that is seen to first, while
 * nobody can look.  Then L1 gets longer where it has to: a new one, elsewhere in the file, which the header names in the same write
 * that tells the new size.
 *
 * Getting smaller: nobody looks behind the new end any more; what is there is given up, durably, before the header tells the new size, so
 * that nothing of it can come back when the disk grows again.  L1 keeps its length.
 */
#include "qcow2.h"
#include <errno.h>
#include <stdlib.h>

/* A longer L1 with the contents of the present one takes its place, in memory. */
static int coroutine_fn move_l1(Qcow2 *q, Request *r, uint64_t covered)
{
    uint64_t per_cluster = q->cluster_size / 8,
             entries = div_up(covered, per_cluster) * per_cluster;
    L1 *old = l1_of(q), *l1;
    ClusterIndex first;
    int ret;

    entries = MIN(entries, QCOW2_MAX_L1_BYTES / 8);
    ret = clusters_alloc_exact(q, r, div_up(entries, per_cluster), &first);
    if (ret < 0) {
        return ret;
    }
    l1 = l1_new(cluster_start(first, q->cluster_bits), entries, covered);
    if (!l1) {
        clusters_unalloc(q, r, first, div_up(entries, per_cluster));
        return -ENOMEM;
    }
    pthread_mutex_lock(&q->lock);
    /* An image may have more entries than its size needs, even with something in them: no part of the disk. */
    memcpy(l1->t.data, old->t.data, (size_t)old->covered * 8);
    memcpy(l1->l2, old->l2, old->covered * sizeof(l1->l2[0]));
    if (old->t.queued) {
        g_ptr_array_remove_fast(q->dirty_tables, &old->t);
    }
    table_mark_dirty(q, &l1->t, 0, l1->t.size);
    for (uint64_t i = 0; i < div_up(entries, per_cluster); i++) {
        overlap_add(q, (ClusterIndex){first.v + i});
    }
    if (old->entries > 0) {
        drop_clusters(q, cluster_of(old->t.offset, q->cluster_bits),
                      div_up(old->entries, per_cluster), DROP_OTHER);
    }
    q->l1_moved = true;
    meta_changed(q);
    atomic_store_explicit(&q->l1, l1, memory_order_release);
    pthread_mutex_unlock(&q->lock);
    co_rcu_synchronize();
    l1_free(old);
    return 0;
}

/* flush_lock is held. */
static int coroutine_fn tell_size(Qcow2 *q, Request *r, uint64_t size)
{
    Table now = {.offset = q->header.l1_offset};

    return q->header.size == size
               ? 0
               : header_write_tables(q, r, size, &now, q->header.l1_size, q->header.reft_offset,
                                     q->header.reft_clusters);
}

/* flush_lock is held. */
static int coroutine_fn grow_locked(Node *n, Request *r, uint64_t size)
{
    Qcow2 *q = qcow2_of(n);
    uint64_t covered = div_up(size, UINT64_C(1) << (q->cluster_bits + q->l2_bits)),
             before = q->disk_size;
    L1 *l1 = l1_of(q);
    int ret = 0;

    if (covered > QCOW2_MAX_L1_BYTES / 8) {
        return -EFBIG;
    }
    if (covered > l1->covered) {
        ret = move_l1(q, r, covered);
    }
    if (ret < 0) {
        return ret;
    }
    q->disk_size = size;
    if (q->l1_moved) {
        ret = write_back_locked(q, r);
    }
    if (ret == 0) {
        ret = tell_size(q, r, size);
    }
    if (ret < 0) {
        q->disk_size = before;
    }
    return ret;
}

static int coroutine_fn shrink(Node *n, Request *r, uint64_t now, uint64_t size)
{
    Qcow2 *q = qcow2_of(n);
    int ret;

    atomic_store_explicit(&n->size, size, memory_order_release);
    ret = qcow2_cut(n, r, size, now);
    if (ret == 0 && q->raw_data) {
        ret = edge_truncate(q->data, r, size, true);
    }
    co_mutex_lock(&q->flush_lock);
    if (ret == 0) {
        ret = write_back_locked(q, r);
    }
    if (ret == 0) {
        q->disk_size = size;
        ret = tell_size(q, r, size);
    }
    if (ret < 0) {
        q->disk_size = now;
        atomic_store_explicit(&n->size, now, memory_order_release);
    }
    co_mutex_unlock(&q->flush_lock);
    return ret;
}

/* Nobody can see it yet, but what is behind the end now must be zero when it is not. */
static int coroutine_fn zero_new_space(Node *n, Request *r, uint64_t from, uint64_t to)
{
    Qcow2 *q = qcow2_of(n);
    Edge *backing = atomic_load_explicit(&n->backing, memory_order_acquire);
    uint64_t rest = MIN(cluster_ceil(q, from), to) - from;
    Mapping m;
    int ret = 0;

    if (rest > 0) {
        ret = qcow2_lookup(n, r, from, rest, 0, &m);
        if (ret == 0 && (q->extended || (m.type != MAP_ZERO && m.type != MAP_ZERO_ALLOC &&
                                         (m.type != MAP_UNALLOCATED || backing)))) {
            void *zeroes = block_try_alloc(rest);
            IoVector v;

            if (!zeroes) {
                return -ENOMEM;
            }
            memset(zeroes, 0, rest);
            iov_init_buf(&v, zeroes, rest);
            ret = qcow2_pwritev(n, r, guest(from), &v, 0);
            free(zeroes);
        }
        from += rest;
    }
    if (ret == 0 && backing && from < to && edge_size(backing, r) > from) {
        ret = qcow2_pwrite_zeroes(n, r, guest(from),
                                  cluster_ceil(q, MIN(to, edge_size(backing, r))) - from, 0);
    }
    return ret;
}

/* A raw one must not show what it has behind the end so far. */
static int coroutine_fn grow_data_file(Node *n, Request *r, uint64_t from, uint64_t to)
{
    Qcow2 *q = qcow2_of(n);
    uint64_t have = MIN(edge_size(q->data, r), to);
    int ret = data_file_grow(q, r, to);

    if (!edge_grows_zero(q->data, r)) {
        have = to;
    }
    if (ret == 0 && q->raw_data && have > from) {
        ret = edge_pwrite_zeroes(q->data, r, guest(from), have - from, REQ_MAY_UNMAP);
    }
    return ret;
}

int coroutine_fn qcow2_truncate(Node *n, Request *r, uint64_t size, bool exact)
{
    Qcow2 *q = qcow2_of(n);
    uint64_t now;
    int ret;

    (void)exact;
    if (size % SECTOR) {
        return -EINVAL;
    }
    if (atomic_load(&q->corrupt)) {
        return -EIO;
    }
    if (q->draft) {
        return -EBUSY; /* nobody resizes what a transaction has reserved */
    }
    co_mutex_lock(&q->resize_lock);
    now = atomic_load(&n->size);
    if (size < now) {
        ret = shrink(n, r, now, size);
    } else if (size == now) {
        ret = 0;
    } else {
        ret = q->external ? grow_data_file(n, r, now, size) : 0;
        if (ret == 0) {
            co_mutex_lock(&q->flush_lock);
            ret = grow_locked(n, r, size);
            co_mutex_unlock(&q->flush_lock);
        }
        if (ret == 0) {
            ret = zero_new_space(n, r, now, size);
        }
        if (ret == 0) {
            atomic_store_explicit(&n->size, size, memory_order_release);
        }
    }
    co_mutex_unlock(&q->resize_lock);
    return ret;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Mapping: where the bytes of a guest range are.
 *
 * The way of every request: L1 -> resident L2 table -> entries, in one read section, taking values; no lock and no memory.  One answer
 * covers as many clusters as have the same one: data that is contiguous in the file, or the same kind of nothing.
 */
#include "qcow2.h"

bool entry_decode(const Qcow2 *q, uint64_t entry, Mapping *ret)
{
    uint64_t offset = entry & ENTRY_OFFSET_MASK;
    bool zero = entry & ENTRY_ZERO, there;

    if (entry & ENTRY_COMPRESSED) {
        if (q->external) {
            return false;
        }
        *ret = (Mapping){.type = MAP_COMPRESSED, .entry = entry};
        return true;
    }
    /* A zero flag does not exist before version 3. */
    if ((zero && (q->version < 3 || q->extended)) || in_cluster(q, offset)) {
        return false;
    }
    /* The first cluster of an external data file is one like any other. */
    there = offset || (q->external && !zero && entry & ENTRY_COPIED);
    *ret = (Mapping){
        .type = there ? (zero ? MAP_ZERO_ALLOC : MAP_DATA) : (zero ? MAP_ZERO : MAP_UNALLOCATED),
        .copied = there && (entry & ENTRY_COPIED),
        .host = host(offset),
    };
    return true;
}

/* Extends ret over the clusters that follow; entries are those of the table from `i` on. */
static void extend(const Qcow2 *q, const Table *t, uint64_t i, uint64_t bytes, Mapping *ret)
{
    uint64_t end = UINT64_C(1) << q->l2_bits, first = table_entry(t, i);
    uint64_t step = ret->type == MAP_DATA || ret->type == MAP_ZERO_ALLOC ? q->cluster_size : 0;

    if (ret->type == MAP_COMPRESSED) {
        return;
    }
    for (uint64_t k = 1; ret->bytes < bytes && i + k < end; k++) {
        if (table_entry(t, i + k) != first + k * step) {
            break;
        }
        ret->bytes += q->cluster_size;
    }
}

/* Bytes from `offset` to the end of what its L2 table describes. */
static uint64_t table_rest(const Qcow2 *q, uint64_t offset)
{
    uint64_t covers = UINT64_C(1) << (q->cluster_bits + q->l2_bits);

    return covers - (offset & (covers - 1));
}

/* In an external data file a guest cluster can be in one place only. */
static bool in_its_place(const Qcow2 *q, uint64_t offset, const Mapping *m)
{
    return G_LIKELY(!q->external) || (m->type != MAP_DATA && m->type != MAP_ZERO_ALLOC) ||
           cluster_floor(q, m->host.v) == cluster_floor(q, offset);
}

typedef enum Look { LOOK_FOUND, LOOK_ABSENT, LOOK_BAD } Look;

static Look look(Qcow2 *q, uint64_t offset, uint64_t bytes, Mapping *ret)
{
    uint64_t index = offset >> (q->cluster_bits + q->l2_bits);
    uint64_t i = (offset >> q->cluster_bits) & ((UINT64_C(1) << q->l2_bits) - 1);
    uint64_t into = in_cluster(q, offset);
    Look answer = LOOK_FOUND;
    L2Table *l2;
    L1 *l1;

    rcu_begin();
    l1 = l1_of(q);
    if (index >= l1->covered) {
        *ret = (Mapping){.type = MAP_UNALLOCATED, .bytes = bytes};
        rcu_end();
        return LOOK_FOUND;
    }
    l2 = atomic_load_explicit(&l1->l2[index], memory_order_acquire);
    if (G_LIKELY(l2)) {
        if (!atomic_load_explicit(&l2->recent, memory_order_relaxed)) {
            atomic_store_explicit(&l2->recent, true, memory_order_relaxed);
        }
        if (G_UNLIKELY(q->extended)) {
            /* Both words at once. */
            pthread_mutex_lock(&q->lock);
            answer = sub_look(q, &l2->t, i, offset, bytes, ret) && in_its_place(q, offset, ret)
                         ? LOOK_FOUND
                         : LOOK_BAD;
            pthread_mutex_unlock(&q->lock);
        } else if (entry_decode(q, table_entry(&l2->t, i), ret) && in_its_place(q, offset, ret)) {
            ret->bytes = q->cluster_size - into;
            extend(q, &l2->t, i, bytes, ret);
            ret->host = host_add(ret->host, into);
        } else {
            answer = LOOK_BAD;
        }
        if (answer == LOOK_BAD) {
            ret->entry = l2_entry(q, &l2->t, i).v;
        }
    } else if (!(table_entry(&l1->t, index) & ENTRY_OFFSET_MASK)) {
        *ret = (Mapping){.type = MAP_UNALLOCATED, .bytes = table_rest(q, offset)};
    } else {
        answer = LOOK_ABSENT;
    }
    rcu_end();
    return answer;
}

int coroutine_fn qcow2_lookup(Node *n, Request *r, uint64_t offset, uint64_t bytes, unsigned flags,
                              Mapping *ret)
{
    Qcow2 *q = qcow2_of(n);

    for (;;) {
        Look answer = look(q, offset, bytes, ret);
        int err;

        if (G_LIKELY(answer == LOOK_FOUND)) {
            ret->bytes = MIN(ret->bytes, bytes);
            return 0;
        }
        if (answer == LOOK_BAD) {
            return qcow2_bad_entry(q, r, ret->entry, offset >> q->cluster_bits);
        }
        err = l2_load(q, r, offset >> (q->cluster_bits + q->l2_bits), flags);
        if (err < 0) {
            return err;
        }
    }
}

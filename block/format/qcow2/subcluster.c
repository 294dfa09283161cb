/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Extended L2 entries: a cluster has 32 subclusters, each with a state of its own.
 *
 *   "has data"           it is in the host cluster that the entry's first word names
 *   "reads as zeroes"    whether or not there is a host cluster
 *   neither              it is the backing file's
 *
 * So a small write to a new cluster copies up no more than the rest of the subclusters that it touches.  Both words of an entry are read and changed under
 * `lock`; who changes them holds the range of the cluster, as everywhere.
 */
#include "block/debug.h"
#include "qcow2.h"
#include <errno.h>
#include <stdlib.h>

static unsigned sub_index(const Qcow2 *q, uint64_t offset)
{
    return in_cluster(q, offset) / q->subcluster_size;
}

/* ---- looking ---- */

static MapType type_of(const Qcow2 *q, L2Entry e, bool place, unsigned sub)
{
    (void)q;
    if (e.bits >> sub & 1) {
        return MAP_DATA;
    }
    if (e.bits >> (SUBCLUSTERS + sub) & 1) {
        return place ? MAP_ZERO_ALLOC : MAP_ZERO;
    }
    return MAP_UNALLOCATED;
}

/* *ret: of the cluster; false: the entry cannot be. */
static bool decode(const Qcow2 *q, L2Entry e, Mapping *ret)
{
    if (!entry_decode(q, e.v, ret)) {
        return false;
    }
    switch (ret->type) {
    case MAP_COMPRESSED:
        return e.bits == 0;
    case MAP_DATA:
        return !(e.bits & e.bits >> SUBCLUSTERS & SUB_ALL_ALLOCATED);
    default:
        return !(e.bits & SUB_ALL_ALLOCATED); /* data, but no place for it */
    }
}

/* How many subclusters from `sub` on are alike. */
static unsigned alike(const Qcow2 *q, L2Entry e, bool place, unsigned sub)
{
    MapType t = type_of(q, e, place, sub);
    unsigned n = 1;

    while (sub + n < SUBCLUSTERS && type_of(q, e, place, sub + n) == t) {
        n++;
    }
    return n;
}

bool sub_look(const Qcow2 *q, const Table *t, uint64_t i, uint64_t offset, uint64_t bytes,
              Mapping *ret)
{
    L2Entry e = l2_entry(q, t, i), next;
    unsigned sub = sub_index(q, offset), n;
    Mapping m, more;
    bool place;

    if (!decode(q, e, &m)) {
        return false;
    }
    if (m.type == MAP_COMPRESSED) {
        m.bytes = q->cluster_size - in_cluster(q, offset);
        *ret = m;
        return true;
    }
    place = m.type == MAP_DATA;
    m.type = type_of(q, e, place, sub);
    n = alike(q, e, place, sub);
    m.bytes = (sub + n) * q->subcluster_size - in_cluster(q, offset);
    while (sub + n == SUBCLUSTERS && m.bytes < bytes && ++i < UINT64_C(1) << q->l2_bits) {
        /* Goes on in the next cluster? */
        next = l2_entry(q, t, i);
        if (!decode(q, next, &more) || more.type == MAP_COMPRESSED ||
            next.v != e.v + (place ? q->cluster_size : 0) || type_of(q, next, place, 0) != m.type) {
            break;
        }
        e = next;
        sub = 0;
        n = alike(q, e, place, 0);
        m.bytes += n * q->subcluster_size;
    }
    m.host = host_add(m.host, in_cluster(q, offset));
    *ret = m;
    return true;
}

/* ---- changing ---- */

/* The entry of the cluster of `offset`, with a table that can be changed; locked on success. */
static int coroutine_fn lock_entry(Qcow2 *q, Request *r, uint64_t offset, L2Table **ret)
{
    uint64_t index = offset >> (q->cluster_bits + q->l2_bits);

    for (;;) {
        int err = l2_prepare(q, r, index);

        if (err < 0) {
            return err;
        }
        pthread_mutex_lock(&q->lock);
        *ret = l2_writable(q, index);
        if (*ret) {
            return 0;
        }
        pthread_mutex_unlock(&q->lock);
    }
}

static uint64_t entry_index(const Qcow2 *q, uint64_t offset)
{
    return (offset >> q->cluster_bits) & ((UINT64_C(1) << q->l2_bits) - 1);
}

static int coroutine_fn read_entry(Qcow2 *q, Request *r, uint64_t offset, L2Entry *ret_entry,
                                   Mapping *ret_map)
{
    L2Table *l2;
    int ret = lock_entry(q, r, offset, &l2);
    bool ok;

    if (ret < 0) {
        return ret;
    }
    *ret_entry = l2_entry(q, &l2->t, entry_index(q, offset));
    pthread_mutex_unlock(&q->lock);
    ok = decode(q, *ret_entry, ret_map);
    return ok ? 0 : qcow2_bad_entry(q, r, ret_entry->v, offset >> q->cluster_bits);
}

/* drop: what the entry referred to so far is given up. */
static int coroutine_fn set_entry(Qcow2 *q, Request *r, uint64_t offset, L2Entry value, bool drop)
{
    L2Table *l2;
    int ret = lock_entry(q, r, offset, &l2);
    uint64_t i = entry_index(q, offset);
    L2Entry old;

    if (ret < 0) {
        return ret;
    }
    old = l2_entry(q, &l2->t, i);
    if (drop) {
        drop_entry(q, old.v, DROP_OTHER);
    }
    draft_entry_changes(q, offset >> q->cluster_bits, old.v, drop);
    l2_set_entry(q, &l2->t, i, value);
    meta_changed(q);
    pthread_mutex_unlock(&q->lock);
    return 0;
}

int coroutine_fn sub_zero(Node *n, Request *r, uint64_t offset, uint64_t bytes)
{
    Qcow2 *q = qcow2_of(n);
    uint64_t mask = sub_mask(sub_index(q, offset), bytes / q->subcluster_size);
    L2Entry e;
    Mapping m;
    int ret = read_entry(q, r, offset, &e, &m);

    if (ret == 0 && m.type == MAP_COMPRESSED) {
        return -ENOTSUP;
    }
    if (ret == 0 && q->external) {
        ret = data_file_wipe(q, r, offset, offset + bytes, true, false);
    }
    if (ret == 0) {
        e.bits = (e.bits & ~mask) | mask << SUBCLUSTERS;
        ret = set_entry(q, r, offset, e, false);
    }
    return ret;
}

/* ---- writing ---- */

typedef struct SubWrite {
    Node *node;
    Qcow2 *q;
    Request *r;
    uint64_t cluster; /* guest offset of it */
    L2Entry old;
    Mapping m;        /* of the cluster as it is */
    uint8_t *buf;     /* what the cluster will be, as far as `wanted` says */
    uint64_t wanted;  /* subclusters that are written */
    HostOffset place; /* the cluster's */
} SubWrite;

/* What [from, to) of the cluster, inside one subcluster, reads as now. */
static int coroutine_fn fill(SubWrite *w, uint64_t from, uint64_t to)
{
    Qcow2 *q = w->q;
    IoVector v;

    if (from >= to) {
        return 0;
    }
    iov_init_buf(&v, w->buf + from, to - from);
    switch (w->m.type == MAP_COMPRESSED
                ? MAP_COMPRESSED
                : type_of(q, w->old, w->m.type == MAP_DATA, from / q->subcluster_size)) {
    case MAP_COMPRESSED:
        return qcow2_read_compressed(q, w->r, w->old.v, from, &v, 0);
    case MAP_DATA:
        return data_preadv(q, w->r, host_add(w->m.host, from), &v, 0);
    case MAP_UNALLOCATED:
        return backing_preadv(w->node, w->r, guest(w->cluster + from), &v, REQ_COPY);
    case MAP_ZERO:
    case MAP_ZERO_ALLOC:
        break;
    }
    memset(w->buf + from, 0, to - from);
    return 0;
}

/* What of the old place the new one needs: everything that has data. */
static int coroutine_fn fill_others(SubWrite *w, uint64_t mine)
{
    Qcow2 *q = w->q;
    uint64_t others =
        w->m.type == MAP_COMPRESSED ? SUB_ALL_ALLOCATED : w->old.bits & SUB_ALL_ALLOCATED;
    int ret = 0;

    others &= ~mine;
    for (unsigned i = 0; i < SUBCLUSTERS && ret == 0; i++) {
        if (others >> i & 1) {
            ret = fill(w, i * q->subcluster_size, (i + 1) * q->subcluster_size);
        }
    }
    w->wanted |= others;
    return ret;
}

static int coroutine_fn write_wanted(SubWrite *w)
{
    Qcow2 *q = w->q;
    uint64_t end_of_disk = atomic_load(&w->node->size);
    int ret = 0;

    for (unsigned i = 0, n; i < SUBCLUSTERS && ret == 0; i += n) {
        uint64_t at = i * q->subcluster_size, end;
        IoVector v;

        n = 1;
        if (!(w->wanted >> i & 1)) {
            continue;
        }
        while (i + n < SUBCLUSTERS && w->wanted >> (i + n) & 1) {
            n++;
        }
        end = (i + n) * q->subcluster_size;
        if (q->external) {
            /* It ends where the disk ends. */
            end = MIN(end, MAX(end_of_disk, w->cluster + at + SECTOR) - w->cluster);
            ret = data_file_grow(q, w->r, w->place.v + end);
        }
        if (ret == 0) {
            iov_init_buf(&v, w->buf + at, end - at);
            edge_debug_event(q->file, w->r, 0, BLKDEBUG_EVENT_WRITE_AIO);
            ret = edge_pwritev(q->data, w->r, host_to_child(host_add(w->place, at)), &v, 0);
        }
    }
    return ret;
}

/* Finds w->place; *ret_taken: it is a new one. */
static int coroutine_fn find_place(SubWrite *w, bool *ret_taken)
{
    Qcow2 *q = w->q;
    ClusterIndex first;
    uint64_t count;
    bool fresh;
    int ret;

    *ret_taken = false;
    if (q->external) {
        w->place = host(w->cluster);
        return 0;
    }
    if (w->m.type == MAP_DATA && w->m.copied) {
        w->place = w->m.host;
        if (overlap_check(q, w->place, q->cluster_size)) {
            return qcow2_overlap(q, w->r, w->place, q->cluster_size);
        }
        co_mutex_lock(&q->alloc_lock);
        ret = file_grow(q, w->r, w->place.v + q->cluster_size);
        co_mutex_unlock(&q->alloc_lock);
        return ret;
    }
    edge_debug_event(q->file, w->r, 0, BLKDEBUG_EVENT_CLUSTER_ALLOC);
    ret = clusters_alloc(q, w->r, 1, &first, &count, &fresh);
    if (ret == 0) {
        w->place = cluster_start(first, q->cluster_bits);
        *ret_taken = true;
    }
    return ret;
}

static int coroutine_fn write_cluster(SubWrite *w, uint64_t from, const IoVector *part)
{
    Qcow2 *q = w->q;
    uint64_t to = from + part->size;
    unsigned first = from / q->subcluster_size, last = (to - 1) / q->subcluster_size;
    bool moves = w->m.type == MAP_COMPRESSED || (w->m.type == MAP_DATA && !w->m.copied);
    uint64_t keep = w->m.type == MAP_COMPRESSED ? 0 : w->old.bits;
    bool taken;
    int ret;

    w->wanted = sub_mask(first, last - first + 1);
    ret = fill(w, first * q->subcluster_size, from);
    if (ret == 0) {
        ret = fill(w, to, (last + 1) * q->subcluster_size);
    }
    if (ret == 0 && moves) {
        ret = fill_others(w, w->wanted);
    }
    if (ret == 0) {
        ret = find_place(w, &taken);
    }
    if (ret < 0) {
        return ret;
    }
    iov_to_buf(part, 0, w->buf + from, part->size);
    ret = write_wanted(w);
    if (ret == 0) {
        L2Entry value = {w->place.v | ENTRY_COPIED,
                         (keep & ~(w->wanted << SUBCLUSTERS)) | w->wanted};

        ret = set_entry(q, w->r, w->cluster, value, moves && !q->external);
    }
    if (ret < 0 && taken) {
        clusters_unalloc(q, w->r, cluster_of(w->place, q->cluster_bits), 1);
    }
    return ret;
}

int coroutine_fn sub_write(Node *n, Request *r, uint64_t offset, const IoVector *part)
{
    Qcow2 *q = qcow2_of(n);
    SubWrite w = {.node = n, .q = q, .r = r, .cluster = cluster_floor(q, offset)};
    int ret = read_entry(q, r, offset, &w.old, &w.m);

    if (ret < 0) {
        return ret;
    }
    w.buf = block_try_alloc(q->cluster_size);
    ret = w.buf ? write_cluster(&w, in_cluster(q, offset), part) : -ENOMEM;
    free(w.buf);
    return ret;
}

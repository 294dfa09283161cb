/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Writing.
 *
 * In place: the cluster is ours alone (COPIED).  One look at the mapping, one write to the file; no lock.
 *
 * Everything else gets clusters first, under the range lock of the guest clusters concerned:
 *
 *   1. look again, since another write may have been first
 *   2. a table to put the result into, and host clusters
 *   3. what the guest does not write of its first and last cluster is read from where it was ("head" and "tail")
 *   4. head, data and tail are written in one piece; zeroes are left out where the cluster is fresh
 *   5. the entries are set; from here on others see it.  What they referred to before is dropped.
 *
 * A failure before 5 gives the clusters back and changes nothing else (Q6).
 */
#include "block/debug.h"
#include "batch.h"
#include "qcow2.h"
#include <errno.h>
#include <stdlib.h>

#define MAX_PIECES 16
/* Head and tail are read in one piece, over what the guest writes, when that is no longer than this. */
#define MERGE_READS (32 * 1024)

static bool in_place(const Mapping *m)
{
    return m->type == MAP_DATA && m->copied;
}

static int coroutine_fn write_in_place(Qcow2 *q, Request *r, HostOffset at, const IoVector *iov)
{
    edge_debug_event(q->file, r, 0, BLKDEBUG_EVENT_WRITE_AIO);
    if (G_UNLIKELY(q->external)) {
        int ret = data_file_grow(q, r, at.v + iov->size);

        return ret < 0 ? ret : edge_pwritev(q->data, r, host_to_child(at), iov, 0);
    }
    if (G_UNLIKELY(overlap_check(q, at, iov->size))) {
        return qcow2_overlap(q, r, at, iov->size);
    }
    if (G_UNLIKELY(at.v + iov->size > edge_size(q->file, r))) {
        /* The file ends inside the cluster, as images of others may. */
        int ret;

        co_mutex_lock(&q->alloc_lock);
        ret = file_grow(q, r, cluster_ceil(q, at.v + iov->size));
        co_mutex_unlock(&q->alloc_lock);
        if (ret < 0) {
            return ret;
        }
    }
    return edge_pwritev(q->file, r, host_to_child(at), iov, 0);
}

/* ---- clusters for a write ---- */

typedef struct Allocation {
    Node *node;
    Qcow2 *q;
    Request *r;
    uint64_t offset;    /* guest; first byte that is written */
    uint64_t bytes;     /* how many */
    Mapping old;        /* of `offset` */
    ClusterIndex first; /* new host clusters ... */
    uint64_t count;
    bool taken; /* ... allocated for this; otherwise they were there, as zeroes */
    bool fresh;
    size_t head, tail; /* bytes of the first cluster before, of the last one behind the data */
    uint8_t *buf;      /* memory of the copies */
    uint8_t *head_buf, *tail_buf; /* NULL: nothing to write */
} Allocation;

static HostOffset data_start(const Allocation *a)
{
    return host_add(cluster_start(a->first, a->q->cluster_bits), a->head);
}

/* What the clusters read as before the write, for `len` guest bytes from `offset` on, inside one cluster of the mapping. */
static int coroutine_fn read_old(Allocation *a, uint64_t offset, uint8_t *buf, size_t len)
{
    Qcow2 *q = a->q;
    IoVector v;

    iov_init_buf(&v, buf, len);
    switch (a->old.type) {
    case MAP_UNALLOCATED:
        return backing_preadv(a->node, a->r, guest(offset), &v, REQ_COPY);
    case MAP_DATA:
        return data_preadv(q, a->r, host(a->old.host.v + offset - a->offset), &v, 0);
    case MAP_COMPRESSED:
        return qcow2_read_compressed(q, a->r, a->old.entry, in_cluster(q, offset), &v, 0);
    case MAP_ZERO:
    case MAP_ZERO_ALLOC:
        break;
    }
    memset(buf, 0, len);
    return 0;
}

/* Nothing but zeroes can be in the old place, without looking. */
static bool old_is_zero(const Allocation *a)
{
    return a->old.type == MAP_ZERO || a->old.type == MAP_ZERO_ALLOC ||
           (a->old.type == MAP_UNALLOCATED &&
            !atomic_load_explicit(&a->node->backing, memory_order_acquire));
}

static int coroutine_fn prepare_copies(Allocation *a)
{
    uint64_t start = a->offset - a->head, end = a->offset + a->bytes;
    bool one_cluster = a->head + a->bytes + a->tail == a->q->cluster_size;
    bool merge = one_cluster && a->head && a->tail && a->bytes <= MERGE_READS;
    size_t len = a->head + a->tail + (merge ? a->bytes : 0);
    int ret = 0;

    if (len == 0 || (a->fresh && old_is_zero(a))) {
        return 0;
    }
    a->buf = block_try_alloc(len);
    if (!a->buf) {
        return -ENOMEM;
    }
    a->head_buf = a->head ? a->buf : NULL;
    a->tail_buf = a->tail ? a->buf + len - a->tail : NULL;
    if (old_is_zero(a)) {
        memset(a->buf, 0, len);
        return 0;
    }
    edge_debug_event(a->q->file, a->r, 0, BLKDEBUG_EVENT_COW_READ);
    if (merge || a->old.type == MAP_COMPRESSED) {
        if (!merge && a->head && a->tail) { /* decompress once */
            uint8_t *whole = block_try_alloc(a->q->cluster_size);

            ret = whole ? read_old(a, start, whole, a->q->cluster_size) : -ENOMEM;
            if (ret == 0) {
                memcpy(a->head_buf, whole, a->head);
                memcpy(a->tail_buf, whole + a->q->cluster_size - a->tail, a->tail);
            }
            free(whole);
        } else {
            ret = read_old(a, a->head ? start : end, a->buf, len);
        }
    } else {
        if (a->head) {
            ret = read_old(a, start, a->head_buf, a->head);
        }
        if (ret == 0 && a->tail) {
            ret = read_old(a, end, a->tail_buf, a->tail);
        }
    }
    if (ret == 0 && a->fresh) {
        /* Fresh clusters are zero already. */
        if (a->head_buf && buffer_is_zero(a->head_buf, a->head)) {
            a->head_buf = NULL;
        }
        if (a->tail_buf && buffer_is_zero(a->tail_buf, a->tail)) {
            a->tail_buf = NULL;
        }
    }
    return ret;
}

/* Head, data and tail in one write.  data: exactly a->bytes. */
static int coroutine_fn write_data(Allocation *a, const IoVector *data)
{
    HostOffset at = data_start(a);
    g_autofree struct iovec *heap = NULL;
    struct iovec local[8], *v = local;
    unsigned n = 0;
    IoVector all;

    if (a->head_buf || a->tail_buf) {
        edge_debug_event(a->q->file, a->r, 0, BLKDEBUG_EVENT_COW_WRITE);
    }
    edge_debug_event(a->q->file, a->r, 0, BLKDEBUG_EVENT_WRITE_AIO);
    if (!a->head_buf && !a->tail_buf) {
        return edge_pwritev(a->q->data, a->r, host_to_child(at), data, 0);
    }
    if (data->niov + 2 > G_N_ELEMENTS(local)) {
        v = heap = g_new(struct iovec, data->niov + 2);
    }
    if (a->head_buf) {
        v[n++] = (struct iovec){a->head_buf, a->head};
        at.v -= a->head;
    }
    memcpy(v + n, data->iov, data->niov * sizeof(*v));
    n += data->niov;
    if (a->tail_buf) {
        v[n++] = (struct iovec){a->tail_buf, a->tail};
    }
    iov_init_external(&all, v, n);
    return edge_pwritev(a->q->data, a->r, host_to_child(at), &all, 0);
}

/* Step 5. */
static int coroutine_fn link_clusters(Allocation *a)
{
    Qcow2 *q = a->q;
    uint64_t cluster = a->offset >> q->cluster_bits, mask = (UINT64_C(1) << q->l2_bits) - 1;
    L2Table *l2;

    for (;;) {
        int ret = l2_prepare(q, a->r, cluster >> q->l2_bits);

        if (ret < 0) {
            return ret;
        }
        pthread_mutex_lock(&q->lock);
        l2 = l2_writable(q, cluster >> q->l2_bits);
        if (l2) {
            break;
        }
        pthread_mutex_unlock(&q->lock);
    }
    for (uint64_t i = 0; i < a->count; i++) {
        uint64_t index = (cluster & mask) + i, old = table_entry(&l2->t, index);

        if (a->taken) {
            drop_entry(q, old, DROP_OTHER);
        }
        draft_entry_changes(q, cluster + i, old, a->taken);
        table_set_entry(q, &l2->t, index, (a->first.v + i) << q->cluster_bits | ENTRY_COPIED);
    }
    meta_changed(q);
    pthread_mutex_unlock(&q->lock);
    return 0;
}

/* Steps 2 to 5 for a prefix of what `a` has; a->bytes says how much was done.  The range is locked. */
static int coroutine_fn allocate_and_write(Allocation *a, const IoVector *iov, size_t from)
{
    Qcow2 *q = a->q;
    uint64_t want, end;
    int ret;

    a->head = in_cluster(q, a->offset);
    want = (a->head + a->bytes + q->cluster_size - 1) >> q->cluster_bits;
    ret = l2_prepare(q, a->r, a->offset >> (q->cluster_bits + q->l2_bits));
    if (ret < 0) {
        return ret;
    }
    if (q->external) {
        a->first = (ClusterIndex){a->offset >> q->cluster_bits};
        a->count = want;
    } else if (a->old.type == MAP_ZERO_ALLOC && a->old.copied) {
        a->first = cluster_of(a->old.host, q->cluster_bits);
        a->count = want;
        if (overlap_check(q, cluster_start(a->first, q->cluster_bits), want << q->cluster_bits)) {
            return qcow2_overlap(q, a->r, cluster_start(a->first, q->cluster_bits),
                                 want << q->cluster_bits);
        }
        co_mutex_lock(&q->alloc_lock);
        ret = file_grow(q, a->r, (a->first.v + want) << q->cluster_bits);
        co_mutex_unlock(&q->alloc_lock);
    } else {
        edge_debug_event(q->file, a->r, 0, BLKDEBUG_EVENT_CLUSTER_ALLOC);
        ret = clusters_alloc(q, a->r, want, &a->first, &a->count, &a->fresh);
        a->taken = ret == 0;
    }
    if (ret < 0) {
        return ret;
    }
    a->bytes = MIN(a->bytes, (a->count << q->cluster_bits) - a->head);
    end = a->offset + a->bytes;
    a->tail = cluster_ceil(q, end) - end;
    if (q->external) {
        /* It ends where the disk ends. */
        a->tail = MIN(end + a->tail, MAX(end, atomic_load(&a->node->size))) - end;
        ret = data_file_grow(q, a->r, end + a->tail);
    }
    ret = ret < 0 ? ret : prepare_copies(a);
    if (ret == 0) {
        g_auto(IoVector) part = {0};

        iov_init_slice(&part, iov, from, a->bytes);
        ret = write_data(a, &part);
    }
    if (ret == 0) {
        ret = link_clusters(a);
    }
    free(a->buf);
    if (ret < 0 && a->taken) {
        clusters_unalloc(q, a->r, a->first, a->count);
    }
    return ret;
}

/* A range that could not be written in place when it was looked at, within one L2 table. */
static int coroutine_fn write_allocating(Node *n, Request *r, uint64_t offset, const IoVector *iov,
                                         size_t from, size_t len)
{
    Qcow2 *q = qcow2_of(n);
    size_t done = 0;
    int ret = l2_throttle(q, r);

    while (done < len && ret == 0) {
        uint64_t at = offset + done, start = cluster_floor(q, at);
        Allocation a = {.node = n, .q = q, .r = r, .offset = at};
        CoRange range;

        co_range_lock(&q->ranges, &range, start, cluster_ceil(q, offset + len) - start, false);
        ret = qcow2_lookup(n, r, at, len - done, 0, &a.old);
        a.bytes = a.old.bytes;
        if (ret == 0 && q->extended && !in_place(&a.old)) {
            g_auto(IoVector) part = {0};

            a.bytes = MIN(a.bytes, start + q->cluster_size - at);
            iov_init_slice(&part, iov, from + done, a.bytes);
            ret = sub_write(n, r, at, &part);
            co_range_unlock(&q->ranges, &range);
        } else if (ret == 0 && !in_place(&a.old)) {
            ret = allocate_and_write(&a, iov, from + done);
            co_range_unlock(&q->ranges, &range);
        } else {
            co_range_unlock(&q->ranges, &range);
            if (ret == 0) {
                g_auto(IoVector) part = {0};

                iov_init_slice(&part, iov, from + done, a.bytes);
                ret = write_in_place(q, r, a.old.host, &part);
            }
        }
        done += a.bytes;
    }
    return ret;
}

/* ---- a request ---- */

typedef struct WritePiece {
    Node *node;
    Request *r;
    uint64_t offset;
    Mapping m;
    const IoVector *iov;
    size_t from;
} WritePiece;

static int coroutine_fn write_piece(void *opaque)
{
    WritePiece *p = opaque;
    g_auto(IoVector) part = {0};

    if (!in_place(&p->m)) {
        return write_allocating(p->node, p->r, p->offset, p->iov, p->from, p->m.bytes);
    }
    iov_init_slice(&part, p->iov, p->from, p->m.bytes);
    return write_in_place(qcow2_of(p->node), p->r, p->m.host, &part);
}

static int coroutine_fn write_pieces(Node *n, Request *r, uint64_t offset, const IoVector *iov,
                                     const Mapping *first)
{
    WritePiece p = {.node = n, .r = r, .offset = offset, .m = *first, .iov = iov};
    Batch b;
    int ret = 0, all;

    batch_init(&b, MAX_PIECES);
    while (p.from + p.m.bytes < iov->size && ret == 0) {
        batch_add(&b, write_piece, g_memdup2(&p, sizeof(p)));
        p.from += p.m.bytes;
        p.offset += p.m.bytes;
        ret = b.ret < 0 ? b.ret : qcow2_lookup(n, r, p.offset, iov->size - p.from, 0, &p.m);
    }
    if (ret == 0) {
        ret = write_piece(&p);
    }
    all = batch_wait(&b);
    return ret < 0 ? ret : all;
}

int coroutine_fn qcow2_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                               unsigned flags)
{
    Qcow2 *q = qcow2_of(n);
    unsigned phase;
    Mapping m;
    int ret;

    if (G_UNLIKELY(atomic_load_explicit(&q->corrupt, memory_order_relaxed))) {
        return -EIO;
    }
    if (G_UNLIKELY(flags & REQ_COMPRESSED)) {
        return qcow2_pwritev_compressed(n, r, offset, iov);
    }
    phase = use_begin(q, r->slot);
    ret = qcow2_lookup(n, r, offset.v, iov->size, 0, &m);
    if (ret == 0) {
        if (G_LIKELY(m.bytes == iov->size && in_place(&m))) {
            ret = write_in_place(q, r, m.host, iov);
        } else {
            ret = write_pieces(n, r, offset.v, iov, &m);
        }
    }
    use_end(q, r->slot, phase);
    return ret;
}

/* ---- copying up ---- */

/* Most that is copied up at a time: guests' writes to these clusters wait for it. */
#define COPY_UP_MAX (512u * 1024)

/* What is not allocated of [start, start + bytes), whole clusters; the range is locked.  buf: memory of COPY_UP_MAX or a cluster; *ret_done: how far. */
static int coroutine_fn copy_up_locked(Node *n, Request *r, uint64_t start, uint64_t bytes,
                                       bool zero, bool skip_zeroes, uint8_t *buf,
                                       uint64_t *ret_done)
{
    Qcow2 *q = qcow2_of(n);
    Allocation a = {.node = n, .q = q, .r = r, .offset = start};
    uint64_t size = atomic_load_explicit(&n->size, memory_order_acquire), len;
    IoVector v;
    int ret = qcow2_lookup(n, r, start, bytes, 0, &a.old);

    if (ret < 0) {
        return ret;
    }
    len = *ret_done = a.old.bytes;
    if (a.old.type != MAP_UNALLOCATED) {
        return 0;
    }
    if (!zero) {
        iov_init_buf(&v, buf, MIN(len, size - start));
        ret = backing_preadv(n, r, guest(start), &v, REQ_COPY);
        if (ret < 0) {
            return ret;
        }
        memset(buf + v.size, 0, len - v.size);
        zero = buffer_is_zero(buf, len);
    } else if (!skip_zeroes && q->version < 3) {
        memset(buf, 0, len);
    }
    if (zero && skip_zeroes) {
        return 0;
    }
    if (q->extended) {
        /* A cluster, or what of it is alike, at a time. */
        len = *ret_done = MIN(len, cluster_floor(q, start) + q->cluster_size - start);
        if (zero) {
            return sub_zero(n, r, start, len);
        }
        iov_init_buf(&v, buf, len);
        return sub_write(n, r, start, &v);
    }
    if (zero && q->version >= 3) {
        return qcow2_zero_clusters(n, r, start >> q->cluster_bits, len >> q->cluster_bits);
    }
    a.bytes = len;
    iov_init_buf(&v, buf, len);
    ret = allocate_and_write(&a, &v, 0);
    *ret_done = a.bytes;
    return ret;
}

int coroutine_fn qcow2_copy_up(Node *n, Request *r, GuestOffset offset, uint64_t bytes, bool zero,
                               bool skip_zeroes)
{
    Qcow2 *q = qcow2_of(n);
    uint64_t at = cluster_floor(q, offset.v), end = cluster_ceil(q, offset.v + bytes), done;
    uint64_t max = MAX(COPY_UP_MAX, q->cluster_size), zero_from, zero_to;
    uint8_t *buf = block_try_alloc(max);
    unsigned phase;
    int ret = 0;

    if (!buf) {
        return -ENOMEM;
    }
    /* Of the clusters at both ends only a part may be known to be zero: they are read. */
    zero_from = zero ? cluster_ceil(q, offset.v) : end;
    zero_to = offset.v + bytes >= atomic_load_explicit(&n->size, memory_order_acquire)
                  ? end
                  : cluster_floor(q, offset.v + bytes);
    phase = use_begin(q, r->slot);
    while (at < end && ret == 0) {
        bool known = at >= zero_from && at < zero_to;
        uint64_t stop = known ? zero_to : at < zero_from ? MIN(zero_from, end) : end;
        uint64_t len = MIN(stop - at, max);
        CoRange range;

        ret = atomic_load_explicit(&q->corrupt, memory_order_relaxed) ? -EIO : l2_throttle(q, r);
        if (ret == 0) {
            co_range_lock(&q->ranges, &range, at, len, false);
            ret = copy_up_locked(n, r, at, len, known, skip_zeroes, buf, &done);
            co_range_unlock(&q->ranges, &range);
            at += ret == 0 ? done : 0;
        }
    }
    use_end(q, r->slot, phase);
    free(buf);
    return ret;
}

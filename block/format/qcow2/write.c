/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Writing.
 *
 * In place: the clusters are allocated and ours alone; the request goes on to the file as it came, with no lock.
 *
 * Otherwise clusters are allocated, under a lock on the guest range (whole clusters): data goes there together with what the request does
 * not cover of its first and last cluster (the pads), which is copied from where it is now; when all that is in the file, the
 * L2 entries are set.  Pads that come from the backing chain are read with REQ_COPY: the copy must not miss an old write (T6).
 *
 * A failure before the entries are set gives the clusters back and changes nothing (Q6).
 */
#include "qcow2.h"
#include <errno.h>
#include <stdlib.h>

#define MAX_ALLOC (UINT64_C(16) << 20) /* bytes allocated in one step */

/* A step of an allocating write; the range is locked. */
typedef struct Step {
    Node *n;
    Qcow2 *q;
    Request *r;
    uint64_t offset, bytes; /* guest range: within one L2 table, one kind of mapping */
    uint64_t start;         /* of the first cluster */
    Mapping m;              /* of offset */
    ClusterIndex first;     /* where it goes */
    uint64_t count;
    bool fresh, reuse;    /* reuse: the host clusters are there already (ZERO_ALLOC) */
    uint8_t *head, *tail; /* pads; NULL: none, or left as they are because they read as zeroes */
    uint64_t head_len, tail_len;
} Step;

/* ---- pads ---- */

static int coroutine_fn read_pad(Step *s, uint64_t at, uint64_t len, const Mapping *m, uint8_t *buf)
{
    IoVector v;

    iov_init_buf(&v, buf, len);
    switch (m->type) {
    case MAP_UNALLOCATED:
        return backing_preadv(s->n, s->r, guest(at), &v, REQ_COPY);
    case MAP_DATA:
        return host_preadv(s->q, s->r,
                           host_add(m->host, in_cluster(s->q, at) - in_cluster(s->q, m->host.v)),
                           &v, 0);
    case MAP_COMPRESSED:
        return qcow2_read_compressed(s->q, s->r, m->entry, in_cluster(s->q, at), &v);
    default:
        memset(buf, 0, len);
        return 0;
    }
}

static bool pads_are_zero(const Step *s)
{
    return s->m.type == MAP_ZERO || s->m.type == MAP_ZERO_ALLOC ||
           (s->m.type == MAP_UNALLOCATED &&
            !atomic_load_explicit(&s->n->backing, memory_order_acquire));
}

static int coroutine_fn make_pads(Step *s)
{
    uint64_t end = s->offset + s->bytes,
             size = atomic_load_explicit(&s->n->size, memory_order_acquire);
    int ret = 0;

    s->head_len = s->offset - s->start;
    s->tail_len = cluster_ceil(s->q, end) - end;
    if ((s->head_len == 0 && s->tail_len == 0) || (s->fresh && pads_are_zero(s))) {
        return 0;
    }
    if (s->head_len) {
        s->head = block_try_alloc(s->head_len);
        ret = s->head ? read_pad(s, s->start, s->head_len, &s->m, s->head) : -ENOMEM;
    }
    if (s->tail_len && ret == 0) {
        Mapping m = s->m;
        uint64_t inside =
            end < size ? MIN(s->tail_len, size - end) : 0; /* the disk may end within the cluster */

        s->tail = block_try_alloc(s->tail_len);
        if (!s->tail) {
            return -ENOMEM;
        }
        memset(s->tail + inside, 0, s->tail_len - inside);
        if (inside && m.type == MAP_DATA) {
            m.host = host_add(m.host, end - 1 - s->offset); /* in the last cluster */
        }
        ret = inside ? read_pad(s, end, inside, &m, s->tail) : 0;
    }
    return ret;
}

/* ---- data ---- */

static int coroutine_fn write_data(Step *s, const IoVector *data)
{
    unsigned n = 0, total = data->niov + 2;
    g_autofree struct iovec *heap = total > 8 ? g_new(struct iovec, total) : NULL;
    struct iovec local[8], *iov = heap ? heap : local;
    HostOffset at = cluster_start(s->first, s->q->cluster_bits);
    IoVector all;

    if (s->head) {
        iov[n++] = (struct iovec){s->head, s->head_len};
    } else {
        at = host_add(at, s->head_len);
    }
    for (unsigned i = 0; i < data->niov; i++) {
        iov[n++] = data->iov[i];
    }
    if (s->tail) {
        iov[n++] = (struct iovec){s->tail, s->tail_len};
    }
    iov_init_external(&all, iov, n);
    return edge_pwritev(s->q->node->file, s->r, host_to_child(at), &all, 0);
}

/* Sets the entries; the table may have gone in between. */
static int coroutine_fn set_entries(Step *s)
{
    Qcow2 *q = s->q;
    uint64_t table = s->start >> (q->cluster_bits + q->l2_bits);
    uint64_t i = (s->start >> q->cluster_bits) & ((UINT64_C(1) << q->l2_bits) - 1);

    for (;;) {
        L2Table *l2;
        int ret;

        pthread_mutex_lock(&q->lock);
        l2 = l2_writable(q, table);
        if (l2) {
            for (uint64_t k = 0; k < s->count; k++) {
                uint64_t old = table_entry(&l2->t, i + k);

                table_set_entry(q, &l2->t, i + k,
                                ((s->first.v + k) << q->cluster_bits) | ENTRY_COPIED);
                if (!s->reuse) {
                    drop_entry(q, old, DROP_OTHER);
                }
            }
            meta_changed(q);
            pthread_mutex_unlock(&q->lock);
            return 0;
        }
        pthread_mutex_unlock(&q->lock);
        ret = l2_prepare(q, s->r, table);
        if (ret < 0) {
            return ret;
        }
    }
}

static int coroutine_fn run_step(Step *s, const IoVector *iov, size_t from)
{
    Qcow2 *q = s->q;
    g_auto(IoVector) data = {0};
    uint64_t want = (cluster_ceil(q, s->offset + s->bytes) - s->start) >> q->cluster_bits;
    int ret = l2_prepare(q, s->r, s->start >> (q->cluster_bits + q->l2_bits));

    if (ret < 0) {
        return ret;
    }
    s->reuse = s->m.type == MAP_ZERO_ALLOC && s->m.copied;
    if (s->reuse) {
        s->first = cluster_of(s->m.host, q->cluster_bits);
        s->count = want;
        if (overlap_check(q, cluster_start(s->first, q->cluster_bits), want << q->cluster_bits)) {
            return qcow2_corrupt(
                q, s->r, "Guest offset 0x%" G_GINT64_MODIFIER "x is mapped to metadata", s->offset);
        }
    } else {
        ret = clusters_alloc(q, s->r, want, &s->first, &s->count, &s->fresh);
        if (ret < 0) {
            return ret;
        }
        s->bytes = MIN(s->bytes, s->start + (s->count << q->cluster_bits) - s->offset);
    }
    ret = make_pads(s);
    if (ret == 0) {
        iov_init_slice(&data, iov, from, s->bytes);
        ret = write_data(s, &data);
    }
    if (ret == 0) {
        ret = set_entries(s);
    }
    if (ret < 0 && !s->reuse) {
        clusters_unalloc(q, s->r, s->first, s->count);
    }
    free(s->head);
    free(s->tail);
    return ret;
}

static bool in_place(const Mapping *m)
{
    return m->type == MAP_DATA && m->copied;
}

/* Writes a prefix of [offset, offset + bytes) into new clusters; *ret_done its length, 0: the mapping has changed, look again. */
static int coroutine_fn write_allocating(Node *n, Request *r, uint64_t offset, uint64_t bytes,
                                         const IoVector *iov, size_t from, uint64_t *ret_done)
{
    Qcow2 *q = qcow2_of(n);
    uint64_t table_bytes = UINT64_C(1) << (q->cluster_bits + q->l2_bits);
    Step s = {.n = n, .q = q, .r = r, .offset = offset, .start = cluster_floor(q, offset)};
    CoRange range;
    int ret;

    bytes = MIN(bytes, MAX_ALLOC);
    bytes = MIN(bytes, table_bytes - (offset & (table_bytes - 1)));
    co_range_lock(&q->ranges, &range, s.start, cluster_ceil(q, offset + bytes) - s.start, false);
    ret = qcow2_lookup(n, r, offset, bytes, &s.m);
    *ret_done = 0;
    if (ret == 0 && !in_place(&s.m)) {
        s.bytes = s.m.bytes;
        ret = run_step(&s, iov, from);
        *ret_done = s.bytes;
    }
    co_range_unlock(&q->ranges, &range);
    return ret;
}

static int coroutine_fn write_in_place(Node *n, Request *r, uint64_t offset, const Mapping *m,
                                       const IoVector *iov, size_t from)
{
    Qcow2 *q = qcow2_of(n);
    g_auto(IoVector) part = {0};

    if (G_UNLIKELY(overlap_check(q, m->host, m->bytes))) {
        return qcow2_corrupt(q, r, "Guest offset 0x%" G_GINT64_MODIFIER "x is mapped to metadata",
                             offset);
    }
    if (G_LIKELY(m->bytes == iov->size)) {
        return edge_pwritev(n->file, r, host_to_child(m->host), iov, 0);
    }
    iov_init_slice(&part, iov, from, m->bytes);
    return edge_pwritev(n->file, r, host_to_child(m->host), &part, 0);
}

int coroutine_fn qcow2_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                               unsigned flags)
{
    Qcow2 *q = qcow2_of(n);
    size_t done = 0;
    int ret = 0;

    (void)flags;
    while (done < iov->size && ret == 0) {
        uint64_t at = offset.v + done, step;
        unsigned phase;
        Mapping m;

        if (G_UNLIKELY(atomic_load_explicit(&q->corrupt, memory_order_relaxed))) {
            return -EIO;
        }
        phase = use_begin(q, r->slot);
        ret = qcow2_lookup(n, r, at, iov->size - done, &m);
        if (ret == 0 && in_place(&m)) {
            ret = write_in_place(n, r, at, &m, iov, done);
            done += m.bytes;
        } else if (ret == 0) {
            ret = l2_throttle(q, r);
            if (ret == 0) {
                ret = write_allocating(n, r, at, iov->size - done, iov, done, &step);
                done += step;
            }
        }
        use_end(q, r->slot, phase);
    }
    return ret;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Writing compressed clusters (REQ_COMPRESSED).
 *
 * A guest cluster that is written whole is compressed on a worker thread; if that makes it shorter its bytes are packed behind those
 * of the last one, else it is written as it is.  What of a request is not whole clusters is written as it is too,
 * and all of it where there is an external data file, which has guest clusters as they are.
 *
 *   packing   the host cluster that compressed data is being put into; pack_next is the first free byte of it.  Every compressed
 *             cluster counts once in the refcount of each host cluster that it touches; so the packing cluster lives by its
 *             contents, and when the last of them goes nothing more is put into it (refcount.c).
 *
 * One that does not fit goes on in the next host cluster if that one happens to follow, else begins there.  Where refcounts cannot count
 * another one the packing ends.  Order and failures are as for other writes (write.c): data, then the entry, then what was there before is dropped.
 */
#include "block/debug.h"
#include "batch.h"
#include "qcow2.h"
#include "util/worker.h"
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

/* Clusters of one request that are compressed side by side. */
#define MAX_PIECES 16
/* What every reader can inflate: a window of 4 KiB. */
#define ZLIB_WINDOW (-12)

typedef struct Deflate {
    Qcow2Compression type;
    const uint8_t *in;
    size_t in_len;
    uint8_t *out;
    size_t out_len; /* room; then how much of it was needed, 0: not enough */
} Deflate;

static int deflate_zlib(Deflate *w)
{
    z_stream z = {
        .next_in = (Bytef *)w->in,
        .avail_in = w->in_len,
        .next_out = w->out,
        .avail_out = w->out_len,
    };
    int ret;

    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, ZLIB_WINDOW, 9, Z_DEFAULT_STRATEGY) !=
        Z_OK) {
        return -ENOMEM;
    }
    ret = deflate(&z, Z_FINISH);
    w->out_len = ret == Z_STREAM_END ? z.total_out : 0;
    deflateEnd(&z);
    return 0;
}

static int deflate_work(void *opaque)
{
    Deflate *w = opaque;
    size_t len;

    if (w->type == QCOW2_ZLIB) {
        return deflate_zlib(w);
    }
    len = ZSTD_compress(w->out, w->out_len, w->in, w->in_len, ZSTD_CLEVEL_DEFAULT);
    w->out_len = ZSTD_isError(len) ? 0 : len;
    return 0;
}

/* ---- places ---- */

/* Host clusters in which one compressed cluster lies; each has been counted for it. */
typedef struct Place {
    HostOffset at;
    ClusterIndex first;
    uint64_t count; /* 1 or 2 */
} Place;

/* With pack_lock: only its end can come meanwhile.  *ret_room: bytes that are left there. */
static HostOffset pack_next(Qcow2 *q, uint64_t *ret_room)
{
    HostOffset next;

    pthread_mutex_lock(&q->lock);
    next = q->pack_next;
    pthread_mutex_unlock(&q->lock);
    *ret_room = next.v ? q->cluster_size - in_cluster(q, next.v) : 0;
    return next;
}

/* With pack_lock.  Puts up to `len` bytes where pack_next is, counted for them; 0: there is no packing cluster, or it can take no more. */
static int coroutine_fn pack_more(Qcow2 *q, Request *r, uint64_t len, bool whole,
                                  HostOffset *ret_at, uint64_t *ret_len)
{
    uint64_t per_block = block_entries(q), room;
    HostOffset next = pack_next(q, &room);
    uint64_t c = cluster_of(next, q->cluster_bits).v;
    RefBlock *b = NULL;
    int ret;

    *ret_len = 0;
    if (room == 0 || (whole && room < len)) {
        return 0;
    }
    co_mutex_lock(&q->alloc_lock);
    ret = refblock_get(q, r, c / per_block, &b);
    pthread_mutex_lock(&q->lock);
    if (ret == 0 && b && q->pack_next.v && refcount_add(q, b, c % per_block)) {
        *ret_at = next;
        *ret_len = MIN(len, room);
        q->pack_next = *ret_len == room ? host(0) : host_add(next, *ret_len);
    } else {
        q->pack_next = host(0);
    }
    pthread_mutex_unlock(&q->lock);
    co_mutex_unlock(&q->alloc_lock);
    return ret;
}

static int coroutine_fn find_place(Qcow2 *q, Request *r, uint64_t len, Place *p)
{
    uint64_t packed, room, n;
    HostOffset at = host(0), next;
    bool fresh;
    int ret;

    co_mutex_lock(&q->pack_lock);
    ret = pack_more(q, r, len, true, &at, &packed);
    if (ret < 0 || packed == len) {
        *p = (Place){at, cluster_of(at, q->cluster_bits), 1};
        co_mutex_unlock(&q->pack_lock);
        return ret;
    }
    ret = clusters_alloc(q, r, 1, &p->first, &n, &fresh);
    if (ret == 0) {
        HostOffset start = cluster_start(p->first, q->cluster_bits);

        p->at = start;
        p->count = 1;
        next = pack_next(q, &room);
        if (room > 0 && next.v + room == start.v) {
            ret = pack_more(q, r, len, false, &at, &packed);
        }
        if (ret == 0 && packed > 0) {
            p->at = at;
            p->first.v--;
            p->count = 2;
        }
        pthread_mutex_lock(&q->lock);
        q->pack_next = host_add(start, len - packed);
        pthread_mutex_unlock(&q->lock);
        if (ret < 0) {
            clusters_unalloc(q, r, p->first, 1);
        }
    }
    co_mutex_unlock(&q->pack_lock);
    return ret;
}

/* ---- one cluster ---- */

static int coroutine_fn link_compressed(Qcow2 *q, Request *r, uint64_t offset, uint64_t entry)
{
    uint64_t cluster = offset >> q->cluster_bits, mask = (UINT64_C(1) << q->l2_bits) - 1, old;
    L2Table *l2;

    for (;;) {
        int ret = l2_prepare(q, r, cluster >> q->l2_bits);

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
    old = l2_entry(q, &l2->t, cluster & mask).v;
    drop_entry(q, old, DROP_OTHER);
    draft_entry_changes(q, cluster, old, true);
    l2_set_entry(q, &l2->t, cluster & mask, (L2Entry){entry, 0});
    meta_changed(q);
    pthread_mutex_unlock(&q->lock);
    return 0;
}

/* data: a whole guest cluster, compressed.  The range is locked. */
static int coroutine_fn write_packed(Qcow2 *q, Request *r, uint64_t offset, const uint8_t *data,
                                     size_t len)
{
    Place p;
    int ret = l2_prepare(q, r, offset >> (q->cluster_bits + q->l2_bits));

    if (ret == 0) {
        edge_debug_event(q->file, r, 0, BLKDEBUG_EVENT_CLUSTER_ALLOC_BYTES);
        ret = find_place(q, r, len, &p);
    }
    if (ret < 0) {
        return ret;
    }
    if (overlap_check(q, p.at, len)) {
        ret = qcow2_corrupt(
            q, r,
            "A write of compressed data would overwrite metadata at 0x%" G_GINT64_MODIFIER "x",
            p.at.v);
    }
    if (ret == 0) {
        edge_debug_event(q->file, r, 0, BLKDEBUG_EVENT_WRITE_COMPRESSED);
        ret = edge_pwrite(q->file, r, host_to_child(p.at), data, len, 0);
    }
    if (ret == 0) {
        ret = link_compressed(q, r, offset, compressed_entry(p.at, len, q->cluster_bits));
    }
    if (ret < 0) {
        clusters_unalloc(q, r, p.first, p.count);
    }
    return ret;
}

typedef struct CompressPiece {
    Node *node;
    Request *r;
    uint64_t offset;
    const IoVector *iov;
    size_t from, len;
} CompressPiece;

static int coroutine_fn write_plain(const CompressPiece *p)
{
    g_auto(IoVector) part = {0};

    iov_init_slice(&part, p->iov, p->from, p->len);
    return qcow2_pwritev(p->node, p->r, guest(p->offset), &part, 0);
}

static int coroutine_fn write_piece(void *opaque)
{
    const CompressPiece *p = opaque;
    Qcow2 *q = qcow2_of(p->node);
    uint8_t *in = block_try_alloc(q->cluster_size), *out = block_try_alloc(q->cluster_size);
    Deflate w = {
        .type = q->compression,
        .in = in,
        .in_len = q->cluster_size,
        .out = out,
        .out_len = q->cluster_size - 1,
    };
    int ret = in && out ? 0 : -ENOMEM;

    if (ret == 0) {
        iov_to_buf(p->iov, p->from, in, p->len);
        memset(in + p->len, 0, q->cluster_size - p->len); /* behind the end of the disk */
        ret = worker_run(WORKERS_GUEST, deflate_work, &w);
    }
    if (ret == 0 && w.out_len > 0) {
        CoRange range;

        ret = l2_throttle(q, p->r);
        if (ret == 0) {
            co_range_lock(&q->ranges, &range, p->offset, q->cluster_size, false);
            ret = write_packed(q, p->r, p->offset, out, w.out_len);
            co_range_unlock(&q->ranges, &range);
        }
    } else if (ret == 0) {
        ret = write_plain(p);
    }
    free(in);
    free(out);
    return ret;
}

int coroutine_fn qcow2_pwritev_compressed(Node *n, Request *r, GuestOffset offset,
                                          const IoVector *iov)
{
    Qcow2 *q = qcow2_of(n);
    uint64_t size = atomic_load_explicit(&n->size, memory_order_acquire);
    CompressPiece p = {.node = n, .r = r, .offset = offset.v, .iov = iov};
    unsigned phase = use_begin(q, r->slot);
    int ret = 0, all;
    Batch b;

    batch_init(&b, MAX_PIECES);
    for (; p.from < iov->size && ret == 0; p.from += p.len, p.offset += p.len) {
        uint64_t left = iov->size - p.from;

        p.len = MIN(left, q->cluster_size - in_cluster(q, p.offset));
        if (q->external || in_cluster(q, p.offset) ||
            (p.len < q->cluster_size && p.offset + p.len < size)) {
            ret = write_plain(&p);
        } else {
            batch_add(&b, write_piece, g_memdup2(&p, sizeof(p)));
        }
    }
    all = batch_wait(&b);
    use_end(q, r->slot, phase);
    return ret < 0 ? ret : all;
}

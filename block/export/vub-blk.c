/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The device: virtio-blk requests and configuration space (virtio 1.2, 5.2).
 *
 * Data goes between guest memory and the block layer in place: a request's I/O vector points into the guest's memory.
 *
 * The write cache.  It is on unless the guest turns it off (or cannot flush, or the export is `writethrough`): so the guest is told
 * that it must flush, and does.  Turned off, every write is durable when it is answered.
 */
#include "vub-internal.h"
#include "util/rcu.h"
#include <endian.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <string.h>

#define SECTOR_SIZE       (1u << VUB_SECTOR_BITS)
#define SEG_MAX           126u /* with header and status: what the usual ring of 128 has room for */
#define MAX_RANGES        32u
#define MAX_RANGE_SECTORS (1u << (30 - VUB_SECTOR_BITS))

/* ---- header and status ---- */

static bool take_header(VubChain *c, void *buf, size_t len, unsigned *ret_used)
{
    uint8_t *to = buf;
    unsigned i = 0;

    while (len > 0 && i < c->nout) {
        size_t part = MIN(len, c->iov[i].iov_len);

        memcpy(to, c->iov[i].iov_base, part);
        to += part;
        len -= part;
        c->iov[i].iov_base = (uint8_t *)c->iov[i].iov_base + part;
        c->iov[i].iov_len -= part;
        i += c->iov[i].iov_len == 0;
    }
    *ret_used = i;
    return len == 0;
}

static uint64_t length_of(const struct iovec *iov, unsigned n)
{
    uint64_t len = 0;

    for (unsigned i = 0; i < n; i++) {
        len += iov[i].iov_len;
    }
    return len;
}

bool vub_request_prepare(VubRequest *r)
{
    VubChain *c = &r->chain;
    struct virtio_blk_outhdr h;
    unsigned used;
    struct iovec *last;

    if (!take_header(c, &h, sizeof(h), &used) || c->nin == 0) {
        return false;
    }
    r->type = le32toh(h.type);
    r->sector = le64toh(h.sector);
    r->in_len = length_of(c->iov + c->nout, c->nin);
    last = &c->iov[c->nout + c->nin - 1];
    r->status = (uint8_t *)last->iov_base + --last->iov_len;
    if (r->type & VIRTIO_BLK_T_OUT) {
        r->data = c->iov + used;
        r->ndata = c->nout - used;
    } else {
        r->data = c->iov + c->nout;
        r->ndata = c->nin - (last->iov_len == 0);
    }
    r->data_len = length_of(r->data, r->ndata);
    return r->in_len <= UINT32_MAX;
}

/* ---- requests ---- */

static int status_of(int ret)
{
    return ret == 0 ? VIRTIO_BLK_S_OK : ret == -ENOTSUP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

static bool in_disk(uint64_t sector, uint64_t bytes, uint64_t size)
{
    return sector <= size >> VUB_SECTOR_BITS && bytes <= size - (sector << VUB_SECTOR_BITS);
}

static bool writethrough(const VubSession *s)
{
    return s->exp->base.writethrough ||
           !atomic_load_explicit(&s->flush_negotiated, memory_order_relaxed) ||
           !atomic_load_explicit(&s->wce, memory_order_relaxed);
}

static int coroutine_fn transfer(VubRequest *r, Edge *e, Request *q, bool write, unsigned fua)
{
    IoVector v;

    if (r->data_len % SECTOR_SIZE || r->data_len > BLOCK_MAX_TRANSFER ||
        !in_disk(r->sector, r->data_len, edge_size(e, q))) {
        return -EINVAL;
    }
    iov_init_external(&v, r->data, r->ndata);
    return write ? edge_pwritev(e, q, guest(r->sector << VUB_SECTOR_BITS), &v, fua)
                 : edge_preadv(e, q, guest(r->sector << VUB_SECTOR_BITS), &v, 0);
}

static int coroutine_fn ranges(VubRequest *r, Edge *e, Request *q, unsigned fua)
{
    struct virtio_blk_discard_write_zeroes list[MAX_RANGES];
    bool zeroes = r->type == VIRTIO_BLK_T_WRITE_ZEROES;
    unsigned n = r->data_len / sizeof(*list);
    uint64_t size = edge_size(e, q);
    IoVector v;
    int ret = 0;

    if (n == 0 || n > MAX_RANGES || r->data_len % sizeof(*list)) {
        return -EINVAL;
    }
    iov_init_external(&v, r->data, r->ndata);
    iov_to_buf(&v, 0, list, n * sizeof(*list));
    for (unsigned i = 0; i < n; i++) {
        uint32_t flags = le32toh(list[i].flags), sectors = le32toh(list[i].num_sectors);

        if (flags & (zeroes ? ~(uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : UINT32_MAX)) {
            return -ENOTSUP;
        }
        if (sectors > MAX_RANGE_SECTORS ||
            !in_disk(le64toh(list[i].sector), (uint64_t)sectors << VUB_SECTOR_BITS, size)) {
            return -EINVAL;
        }
    }
    for (unsigned i = 0; i < n && ret == 0; i++) {
        uint64_t at = le64toh(list[i].sector) << VUB_SECTOR_BITS;
        uint64_t len = (uint64_t)le32toh(list[i].num_sectors) << VUB_SECTOR_BITS;
        bool unmap = le32toh(list[i].flags) & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

        ret = zeroes ? edge_pwrite_zeroes(e, q, guest(at), len, fua | (unmap ? REQ_MAY_UNMAP : 0))
                     : edge_pdiscard(e, q, guest(at), len);
    }
    return ret == 0 && !zeroes && fua ? edge_flush(e, q) : ret;
}

static int get_id(VubRequest *r)
{
    const char *serial = r->queue->exp->serial;
    char id[VIRTIO_BLK_ID_BYTES] = "";
    IoVector v;

    memcpy(id, serial, MIN(strlen(serial), sizeof(id)));
    iov_init_external(&v, r->data, r->ndata);
    iov_from_buf(&v, 0, id, MIN(v.size, sizeof(id)));
    return 0;
}

static int coroutine_fn run(VubRequest *r, Request *q)
{
    VubSession *s = r->queue->session;
    Edge *e = s->exp->base.edge;
    unsigned fua = writethrough(s) ? REQ_FUA : 0;
    int ret;

    switch (r->type) {
    case VIRTIO_BLK_T_IN:
        return transfer(r, e, q, false, 0);
    case VIRTIO_BLK_T_GET_ID:
        return get_id(r);
    case VIRTIO_BLK_T_FLUSH:
        return vub_kept_flush(s, q);
    case VIRTIO_BLK_T_OUT:
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        if (!s->exp->base.writable) {
            return -EROFS;
        }
        ret = r->type == VIRTIO_BLK_T_OUT ? transfer(r, e, q, true, fua) : ranges(r, e, q, fua);
        return ret == 0 ? vub_kept_written(s, q) : ret;
    default:
        return -ENOTSUP;
    }
}

static RequestKind kind_of(uint32_t type)
{
    switch (type) {
    case VIRTIO_BLK_T_IN:
    case VIRTIO_BLK_T_GET_ID:
        return REQUEST_READ;
    case VIRTIO_BLK_T_FLUSH:
        return REQUEST_FLUSH;
    default:
        return REQUEST_WRITE;
    }
}

void coroutine_fn vub_request_main(void *opaque)
{
    VubRequest *r = opaque;
    Request q;
    int ret;

    request_begin(&q, kind_of(r->type));
    ret = run(r, &q);
    if (ret < 0) {
        export_io_failed(&r->queue->exp->base, &q, kind_of(r->type) != REQUEST_READ, ret);
    }
    request_end(&q);
    *(volatile uint8_t *)r->status = status_of(ret);
    vub_queue_answer(r, r->in_len);
}

/* ---- configuration space ---- */

void vub_config_get(VubExport *e, const VubSession *s, uint8_t ret_config[VUB_CONFIG_SIZE])
{
    struct virtio_blk_config c = {0};
    Node *n;
    uint64_t size;

    rcu_begin();
    n = atomic_load_explicit(&e->base.edge->node, memory_order_acquire);
    size = atomic_load_explicit(&n->size, memory_order_acquire);
    rcu_end();
    c.capacity = htole64(size >> VUB_SECTOR_BITS);
    c.seg_max = htole32(SEG_MAX);
    c.blk_size = htole32(e->block_size);
    c.min_io_size = htole16(1);
    c.opt_io_size = htole32(1);
    c.wce = atomic_load_explicit(&s->wce, memory_order_relaxed);
    c.num_queues = htole16(e->num_queues);
    c.max_discard_sectors = htole32(MAX_RANGE_SECTORS);
    c.max_discard_seg = htole32(MAX_RANGES);
    c.discard_sector_alignment = htole32(e->block_size >> VUB_SECTOR_BITS);
    c.max_write_zeroes_sectors = htole32(MAX_RANGE_SECTORS);
    c.max_write_zeroes_seg = htole32(MAX_RANGES);
    c.write_zeroes_may_unmap = 1;
    memset(ret_config, 0, VUB_CONFIG_SIZE);
    memcpy(ret_config, &c, sizeof(c));
}

bool vub_config_set(VubSession *s, uint32_t offset, const uint8_t *data, uint32_t len, Error **errp)
{
    if (offset != offsetof(struct virtio_blk_config, wce) || len != 1 || data[0] > 1) {
        error_set(errp, ERROR_INVALID, NULL, "vhost-user",
                  "only the write cache can be changed in the configuration space");
        return false;
    }
    vub_kept_wce(s, data[0] && !s->exp->base.writethrough);
    return true;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reading.
 *
 * The common case is one mapping: the request goes on to the file or the backing node as it came, with no memory and no lock.
 * Otherwise it is cut into pieces that run beside each other.
 */
#include "block/debug.h"
#include "batch.h"
#include "block/io-internal.h"
#include "qcow2.h"
#include <errno.h>
#include <stdlib.h>

#define MAX_PIECES 16

uint64_t file_size(Qcow2 *q, Request *r, unsigned flags)
{
    Node *file = edge_enter_flags(q->file, r, flags);

    return atomic_load_explicit(&file->size, memory_order_acquire);
}

int coroutine_fn host_preadv(Qcow2 *q, Request *r, HostOffset at, const IoVector *iov,
                             unsigned flags)
{
    uint64_t size = file_size(q, r, flags);
    g_auto(IoVector) part = {0};
    int ret;

    if (G_LIKELY(at.v + iov->size <= size)) {
        return edge_preadv(q->file, r, host_to_child(at), iov, flags);
    }
    /* The file may end inside its last cluster; what is missing was never written.  A cluster that is missing
     * altogether has been lost. */
    if (cluster_floor(q, at.v + iov->size - 1) >= size) {
        return -EIO;
    }
    if (at.v >= size) {
        iov_memset(iov, 0, 0, iov->size);
        return 0;
    }
    iov_init_slice(&part, iov, 0, size - at.v);
    ret = edge_preadv(q->file, r, host_to_child(at), &part, flags);
    iov_memset(iov, part.size, 0, iov->size - part.size);
    return ret;
}

/* One mapping; iov is exactly m->bytes long. */
static int coroutine_fn read_mapped(Node *n, Request *r, uint64_t offset, const Mapping *m,
                                    const IoVector *iov, unsigned flags)
{
    Qcow2 *q = qcow2_of(n);

    switch (m->type) {
    case MAP_DATA:
        edge_debug_event(q->file, r, flags, BLKDEBUG_EVENT_READ_AIO);
        return data_preadv(q, r, m->host, iov, flags);
    case MAP_UNALLOCATED:
        edge_debug_event(q->file, r, flags, BLKDEBUG_EVENT_READ_BACKING_AIO);
        return backing_preadv(n, r, guest(offset), iov, flags);
    case MAP_COMPRESSED:
        edge_debug_event(q->file, r, flags, BLKDEBUG_EVENT_READ_COMPRESSED);
        return qcow2_read_compressed(q, r, m->entry, in_cluster(q, offset), iov, flags);
    case MAP_ZERO:
    case MAP_ZERO_ALLOC:
        break;
    }
    iov_memset(iov, 0, 0, iov->size);
    return 0;
}

typedef struct ReadPiece {
    Node *node;
    Request *r;
    uint64_t offset;
    Mapping m;
    const IoVector *iov;
    size_t from;
    unsigned flags;
} ReadPiece;

static int coroutine_fn read_piece(void *opaque)
{
    ReadPiece *p = opaque;
    g_auto(IoVector) part = {0};

    iov_init_slice(&part, p->iov, p->from, p->m.bytes);
    return read_mapped(p->node, p->r, p->offset, &p->m, &part, p->flags);
}

static int coroutine_fn read_pieces(Node *n, Request *r, uint64_t offset, const IoVector *iov,
                                    unsigned flags, const Mapping *first)
{
    ReadPiece p = {.node = n, .r = r, .offset = offset, .m = *first, .iov = iov, .flags = flags};
    Batch b;
    int ret = 0, all;

    batch_init(&b, MAX_PIECES);
    while (p.from + p.m.bytes < iov->size && ret == 0) {
        /* Zeroes are quicker filled in than given away. */
        if (p.m.type == MAP_ZERO || p.m.type == MAP_ZERO_ALLOC) {
            iov_memset(iov, p.from, 0, p.m.bytes);
        } else {
            batch_add(&b, read_piece, g_memdup2(&p, sizeof(p)));
        }
        p.from += p.m.bytes;
        p.offset += p.m.bytes;
        ret = b.ret < 0 ? b.ret : qcow2_lookup(n, r, p.offset, iov->size - p.from, flags, &p.m);
    }
    if (ret == 0) {
        ret = read_piece(&p);
    }
    all = batch_wait(&b);
    return ret < 0 ? ret : all;
}

int coroutine_fn qcow2_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                              unsigned flags)
{
    Qcow2 *q = qcow2_of(n);
    unsigned phase = use_begin(q, r->slot);
    Mapping m;
    int ret = qcow2_lookup(n, r, offset.v, iov->size, flags, &m);

    if (ret == 0) {
        ret = G_LIKELY(m.bytes == iov->size) ? read_mapped(n, r, offset.v, &m, iov, flags)
                                             : read_pieces(n, r, offset.v, iov, flags, &m);
    }
    use_end(q, r->slot, phase);
    return ret;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One NBD request: checks, the call into the block layer, the answer.
 *
 * Each has one Request of the block layer, so a cut finds it wholly on one side.
 *
 * Answers: a client that negotiated structured replies gets them for reads and block status, and for errors of these; everything
 * else gets simple replies, which are always permitted and shorter.  A structured answer to a read of nothing but zeroes says so instead of
 * sending them: looking costs next to nothing where there is data.
 */
#include "nbd-internal.h"
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CACHE_PIECE (1024u * 1024)

typedef struct __attribute__((packed)) SimpleReply {
    uint32_t magic, error;
    uint64_t cookie;
} SimpleReply;

static uint32_t error_of(int err)
{
    switch (-err) {
    case EPERM:
    case EROFS:
        return NBD_EPERM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOMEM:
        return NBD_ENOMEM;
    case ENOSPC:
    case EFBIG:
    case EDQUOT:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case ENOTSUP:
        return NBD_ENOTSUP;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

/* ---- answers ---- */

static void put_head(NbdRequest *q, const void *p, size_t len)
{
    memcpy(q->head + q->head_len, p, len);
    q->head_len += len;
}

static void simple_reply(NbdRequest *q, uint32_t error)
{
    SimpleReply r = {htobe32(NBD_SIMPLE_REPLY_MAGIC), htobe32(error), q->cookie};

    q->head_len = 0;
    put_head(q, &r, sizeof(r));
}

NbdChunkHeader nbd_chunk_header(const NbdRequest *q, bool done, uint16_t type, uint32_t length)
{
    return (NbdChunkHeader){htobe32(NBD_STRUCTURED_MAGIC), htobe16(done ? NBD_REPLY_FLAG_DONE : 0),
                            htobe16(type), q->cookie, htobe32(length)};
}

static bool wants_structured(const NbdRequest *q)
{
    return q->conn->structured && (q->type == NBD_CMD_READ || q->type == NBD_CMD_BLOCK_STATUS);
}

void nbd_request_fail(NbdRequest *q, uint32_t error)
{
    q->error = error;
    q->data_len = 0;
    q->head_len = 0;
    if (wants_structured(q)) {
        struct __attribute__((packed)) {
            uint32_t error;
            uint16_t message_length;
        } e = {htobe32(error), 0};
        NbdChunkHeader h = nbd_chunk_header(q, true, NBD_REPLY_TYPE_ERROR, sizeof(e));

        put_head(q, &h, sizeof(h));
        put_head(q, &e, sizeof(e));
    } else {
        simple_reply(q, error);
    }
}

/* ---- commands ---- */

static int coroutine_fn do_read(NbdRequest *q, Edge *e, Request *r)
{
    int ret = edge_pread(e, r, guest(q->offset), q->buf, q->length, 0);
    uint64_t offset = htobe64(q->offset);
    uint32_t length = htobe32(q->length);

    if (ret < 0) {
        return ret;
    }
    if (!q->conn->structured) {
        q->data_len = q->length;
        simple_reply(q, 0);
    } else if (q->length > 0 && buffer_is_zero(q->buf, q->length)) {
        NbdChunkHeader h =
            nbd_chunk_header(q, true, NBD_REPLY_TYPE_OFFSET_HOLE, sizeof(offset) + sizeof(length));

        put_head(q, &h, sizeof(h));
        put_head(q, &offset, sizeof(offset));
        put_head(q, &length, sizeof(length));
    } else if (q->length == 0) {
        NbdChunkHeader h = nbd_chunk_header(q, true, NBD_REPLY_TYPE_NONE, 0);

        put_head(q, &h, sizeof(h));
    } else {
        NbdChunkHeader h =
            nbd_chunk_header(q, true, NBD_REPLY_TYPE_OFFSET_DATA, sizeof(offset) + q->length);

        q->data_len = q->length;
        put_head(q, &h, sizeof(h));
        put_head(q, &offset, sizeof(offset));
    }
    return 0;
}

static int coroutine_fn do_write_zeroes(NbdRequest *q, Edge *e, Request *r, unsigned fua)
{
    unsigned flags = fua | (q->flags & NBD_CMD_FLAG_NO_HOLE ? 0 : REQ_MAY_UNMAP) |
                     (q->flags & NBD_CMD_FLAG_FAST_ZERO ? REQ_NO_FALLBACK : 0);

    return edge_pwrite_zeroes(e, r, guest(q->offset), q->length, flags);
}

/* Reads what is to be cached, into nowhere. */
static int coroutine_fn do_cache(NbdRequest *q, Edge *e, Request *r)
{
    uint64_t done = 0;
    void *buf = block_try_alloc(MIN(q->length, CACHE_PIECE));
    int ret = buf ? 0 : -ENOMEM;

    while (ret == 0 && done < q->length) {
        size_t len = MIN(q->length - done, CACHE_PIECE);

        ret = edge_pread(e, r, guest(q->offset + done), buf, len, REQ_PREFETCH);
        done += len;
    }
    free(buf);
    return ret;
}

static uint16_t allowed_flags(const NbdRequest *q)
{
    switch (q->type) {
    case NBD_CMD_READ:
        return NBD_CMD_FLAG_FUA | (q->conn->structured ? NBD_CMD_FLAG_DF : 0);
    case NBD_CMD_WRITE_ZEROES:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    case NBD_CMD_BLOCK_STATUS:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE;
    default:
        return NBD_CMD_FLAG_FUA;
    }
}

static bool is_write(const NbdRequest *q)
{
    return q->type == NBD_CMD_WRITE || q->type == NBD_CMD_TRIM || q->type == NBD_CMD_WRITE_ZEROES;
}

/* 0, or the protocol's error for a request that makes no sense. */
static uint32_t check(const NbdRequest *q, uint64_t size)
{
    if (q->type > NBD_CMD_BLOCK_STATUS || (q->flags & ~allowed_flags(q))) {
        return NBD_EINVAL;
    }
    if (is_write(q) && !q->conn->exp->base.writable) {
        return NBD_EPERM;
    }
    if (q->type != NBD_CMD_FLUSH && (q->offset > size || q->length > size - q->offset)) {
        return q->type == NBD_CMD_WRITE || q->type == NBD_CMD_WRITE_ZEROES ? NBD_ENOSPC
                                                                           : NBD_EINVAL;
    }
    return 0;
}

static int coroutine_fn run(NbdRequest *q, Edge *e, Request *r)
{
    const Export *x = &q->conn->exp->base;
    bool durable = (q->flags & NBD_CMD_FLAG_FUA) || x->writethrough;
    unsigned fua = durable ? REQ_FUA : 0;
    int ret;

    switch (q->type) {
    case NBD_CMD_READ:
        return do_read(q, e, r);
    case NBD_CMD_WRITE:
        return edge_pwrite(e, r, guest(q->offset), q->buf, q->length, fua);
    case NBD_CMD_WRITE_ZEROES:
        return do_write_zeroes(q, e, r, fua);
    case NBD_CMD_TRIM:
        ret = edge_pdiscard(e, r, guest(q->offset), q->length);
        return ret == 0 && durable ? edge_flush(e, r) : ret;
    case NBD_CMD_FLUSH:
        return edge_flush(e, r);
    case NBD_CMD_CACHE:
        return do_cache(q, e, r);
    default:
        return nbd_block_status_run(q, e, r);
    }
}

void coroutine_fn nbd_request_run(NbdRequest *q)
{
    Edge *e = q->conn->exp->base.edge;
    Request r;
    uint32_t error;
    int ret;

    request_begin(&r, is_write(q)                ? REQUEST_WRITE
                      : q->type == NBD_CMD_FLUSH ? REQUEST_FLUSH
                                                 : REQUEST_READ);
    error = check(q, edge_size(e, &r));
    if (!error) {
        ret = run(q, e, &r);
        error = ret < 0 ? error_of(ret) : 0;
        if (ret < 0) {
            export_io_failed(&q->conn->exp->base, &r, is_write(q) || q->type == NBD_CMD_FLUSH, ret);
        }
    }
    request_end(&r);
    if (error) {
        nbd_request_fail(q, error);
    } else if (q->head_len == 0 && !q->chunks) {
        simple_reply(q, 0);
    }
}

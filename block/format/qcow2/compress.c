/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reading compressed clusters.
 *
 * The compressed data lies anywhere in the file, in whole sectors of which the last may belong to the next cluster too: decompression
 * ends when it has a cluster's worth of output.  It runs on a worker thread, since it takes longer than most requests.
 */
#include "qcow2.h"
#include "util/worker.h"
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

typedef struct Inflate {
    Qcow2Compression type;
    const uint8_t *in;
    size_t in_len;
    uint8_t *out;
    size_t out_len;
} Inflate;

/* A raw deflate stream, without header or checksum. */
static int inflate_zlib(const Inflate *w)
{
    z_stream z = {
        .next_in = (Bytef *)w->in,
        .avail_in = w->in_len,
        .next_out = w->out,
        .avail_out = w->out_len,
    };
    int ret;

    if (inflateInit2(&z, -MAX_WBITS) != Z_OK) {
        return -ENOMEM;
    }
    ret = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    /* Z_BUF_ERROR: the output is full before the end of the stream was seen. */
    return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && z.avail_out == 0 ? 0 : -EIO;
}

static int inflate_zstd(const Inflate *w)
{
    ZSTD_inBuffer in = {.src = w->in, .size = w->in_len};
    ZSTD_outBuffer out = {.dst = w->out, .size = w->out_len};
    ZSTD_DCtx *ctx = ZSTD_createDCtx();
    int ret = 0;

    if (!ctx) {
        return -ENOMEM;
    }
    while (out.pos < out.size) {
        size_t before_in = in.pos, before_out = out.pos;
        size_t z = ZSTD_decompressStream(ctx, &out, &in);

        if (ZSTD_isError(z) || (in.pos == before_in && out.pos == before_out)) {
            ret = -EIO;
            break;
        }
    }
    ZSTD_freeDCtx(ctx);
    return ret;
}

static int inflate_work(void *opaque)
{
    const Inflate *w = opaque;

    return w->type == QCOW2_ZSTD ? inflate_zstd(w) : inflate_zlib(w);
}

int coroutine_fn qcow2_read_compressed(Qcow2 *q, Request *r, uint64_t entry, uint64_t from,
                                       const IoVector *iov, unsigned flags)
{
    HostOffset at = compressed_offset(entry, q->cluster_bits);
    uint64_t bytes = compressed_bytes(entry, q->cluster_bits), size = file_size(q, r, flags);
    uint8_t *in = NULL, *out = NULL;
    Inflate work;
    int ret;

    if (at.v >= size) {
        return -EIO;
    }
    bytes = MIN(bytes, size - at.v);
    in = block_try_alloc(bytes);
    out = block_try_alloc(q->cluster_size);
    ret = in && out ? edge_pread(q->file, r, host_to_child(at), in, bytes, flags) : -ENOMEM;
    if (ret == 0) {
        work = (Inflate){
            .type = q->compression,
            .in = in,
            .in_len = bytes,
            .out = out,
            .out_len = q->cluster_size,
        };
        ret = worker_run(WORKERS_GUEST, inflate_work, &work);
    }
    if (ret == 0) {
        iov_from_buf(iov, 0, out + from, iov->size);
    }
    free(in);
    free(out);
    return ret;
}

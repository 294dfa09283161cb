/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a mirror job copies, and how.
 *
 * Holes stay holes: where the source reads as zeroes nothing is written if the target is known to read as zeroes too, else zeroes are written
 * without data.
 *
 * Whole clusters.  A target that has no backing node yet, but will have one when users move there, must not get a part of a cluster only: the rest of it
 * would hide what the backing node has.  So what is copied at a time is a multiple of the target's clusters then, and comes out of the whole
 * chain of the source.
 */
#include "block/io.h"
#include "mirror.h"
#include <errno.h>

#define GRANULARITY_MIN 4096u
#define GRANULARITY_MAX 65536u
/* At most 32 MiB of marks. */
#define MARKS_MAX (UINT64_C(1) << 28)
/* At most so much in one request, bytes. */
#define REQUEST_MAX (UINT64_C(1) << 20)

/* ---- looking what there is ---- */

static bool coroutine_fn target_reads_zero(MirrorJob *m, uint64_t offset, uint64_t *len)
{
    uint64_t same;
    Request r;
    int ret;

    if (m->target_is_zero || m->hidden_later) {
        return m->target_is_zero;
    }
    request_begin(&r, REQUEST_READ);
    ret = edge_block_status_above(m->target_edge, &r, guest(offset), *len, 0, &same, NULL);
    request_end(&r);
    if (ret < 0) {
        return false; /* writing tells */
    }
    *len = same;
    return ret & STATUS_ZERO;
}

static int coroutine_fn scan(void *opaque, uint64_t offset, uint64_t bytes, uint64_t *ret_bytes)
{
    MirrorJob *m = opaque;
    Request r;
    int ret;

    request_begin(&r, REQUEST_READ);
    if (m->what == MIRROR_TOP) {
        ret = edge_block_status_until(m->source_edge, &r, m->source, guest(offset), bytes, REQ_COPY,
                                      ret_bytes);
    } else {
        ret = edge_block_status_above(m->source_edge, &r, guest(offset), bytes, REQ_COPY, ret_bytes,
                                      NULL);
    }
    request_end(&r);
    if (ret < 0) {
        return ret;
    }
    if (m->what == MIRROR_TOP) {
        return (ret & STATUS_ALLOCATED) != 0;
    }
    return !(ret & STATUS_ZERO) || !target_reads_zero(m, offset, ret_bytes);
}

/* ---- copying ---- */

static int coroutine_fn write_target(MirrorJob *m, uint64_t offset, const void *buf, uint64_t bytes,
                                     bool zero)
{
    Request r;
    int ret;

    request_begin(&r, REQUEST_WRITE);
    ret = zero ? edge_pwrite_zeroes(m->target_edge, &r, guest(offset), bytes,
                                    m->unmap ? REQ_MAY_UNMAP : 0)
               : edge_pwrite(m->target_edge, &r, guest(offset), buf, bytes, 0);
    request_end(&r);
    return ret;
}

static int coroutine_fn copy(void *opaque, uint64_t offset, uint64_t bytes, uint8_t *buf,
                             bool *ret_reading)
{
    MirrorJob *m = opaque;
    uint64_t end = offset + bytes, len;
    int ret = 0, status;

    for (; offset < end && ret == 0; offset += len) {
        Request r;

        *ret_reading = true;
        request_begin(&r, REQUEST_READ);
        ret = status = edge_block_status_above(m->source_edge, &r, guest(offset), end - offset,
                                               REQ_COPY, &len, NULL);
        if (ret >= 0) {
            len = status & STATUS_ZERO ? len : MIN(len, REQUEST_MAX);
            ret = status & STATUS_ZERO
                      ? 0
                      : edge_pread(m->source_edge, &r, guest(offset), buf, len, REQ_COPY);
        }
        request_end(&r);
        if (ret == 0) {
            *ret_reading = false;
            ret = write_target(m, offset, buf, len,
                               (status & STATUS_ZERO) || buffer_is_zero(buf, len));
        }
    }
    return ret;
}

/* ---- the beginning ---- */

static uint32_t granularity(const MirrorJob *m, const ImageFacts *f, uint64_t size)
{
    uint64_t g = m->granularity;

    if (g == 0 && mirror_is_through(m)) {
        g = GRANULARITY_MIN; /* guests wait for it */
    } else if (g == 0) {
        g = f->cluster_size ? CLAMP(f->cluster_size, GRANULARITY_MIN, GRANULARITY_MAX)
                            : GRANULARITY_MAX;
    }
    if (m->hidden_later) {
        g = MAX(g, f->cluster_size);
    }
    while (g < UINT32_C(1) << 30 && size / g > MARKS_MAX) {
        g *= 2;
    }
    return g;
}

bool coroutine_fn mirror_data_init(MirrorJob *m, Error **errp)
{
    uint64_t size = atomic_load(&m->source->size);
    g_auto(ImageFacts) f = {0};
    g_autoptr(Error) err = NULL;
    uint32_t g;

    if (size != atomic_load(&m->target->size)) {
        error_set(errp, ERROR_INVALID, m->target->name, "mirror",
                  "Source and target image have different sizes");
        return false;
    }
    if (m->target->driver->facts) {
        (void)m->target->driver->facts(m->target, &f, &err); /* unknown: nothing special */
    }
    m->hidden_later = !chain_backing(m->target) && (m->what != MIRROR_FULL || f.backing_file);
    g = granularity(m, &f, size);
    m->copy.scan = scan;
    m->copy.copy = copy;
    m->copy.opaque = m;
    m->copy.size = size;
    m->copy.target = m->target_edge;
    if (m->buf_size > 0) {
        m->copy.workers = CLAMP(m->buf_size / MAX(g, GRANULARITY_MAX), 1, COPY_WORKERS);
        m->copy.piece_max =
            CLAMP((uint64_t)m->buf_size / m->copy.workers / g, 1, MAX(COPY_PIECE_MAX / g, 1)) * g;
    }
    return copy_init(&m->copy, g, errp);
}

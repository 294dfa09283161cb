/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block status: what a client's meta contexts say about a range.
 *
 *   base:allocation             holes and zeroes, through the whole chain
 *   qemu:allocation-depth       in which layer of the chain it is: 0 in none, 1 in the top one, ...
 *   qemu:dirty-bitmap:NAME      1: the bitmap marks it (nbd-bitmaps.c)
 *
 * Each context has its own extents, a chunk of the answer.  What is left out at the end of a range the client asks for again.
 */
#include "nbd-internal.h"
#include <endian.h>
#include <errno.h>

#define MAX_EXTENTS 2048

typedef struct Extents {
    struct {
        uint32_t length, flags;
    } list[MAX_EXTENTS];
    unsigned n, max;
    uint64_t covered;
} Extents;

/* False: the client must ask for the rest again. */
static bool add_extent(Extents *x, uint64_t length, uint32_t flags)
{
    if (x->n > 0 && x->list[x->n - 1].flags == flags &&
        length <= UINT32_MAX - x->list[x->n - 1].length) {
        x->list[x->n - 1].length += length;
    } else if (x->n == x->max) {
        return false;
    } else {
        x->list[x->n].length = length;
        x->list[x->n++].flags = flags;
    }
    x->covered += length;
    return true;
}

static int coroutine_fn get_status(const NbdRequest *q, Edge *e, Request *r, bool depth_wanted,
                                   Extents *x)
{
    while (x->covered < q->length) {
        uint64_t len;
        int depth, ret = edge_block_status_above(e, r, guest(q->offset + x->covered),
                                                 q->length - x->covered, 0, &len, &depth);

        if (ret < 0) {
            return ret;
        }
        if (!add_extent(x, len,
                        depth_wanted ? (uint32_t)depth
                                     : (ret & STATUS_DATA ? 0u : NBD_STATE_HOLE) |
                                           (ret & STATUS_ZERO ? NBD_STATE_ZERO : 0u))) {
            break;
        }
    }
    return 0;
}

static void get_marks(const NbdRequest *q, unsigned bitmap, Extents *x)
{
    while (x->covered < q->length) {
        uint64_t len;
        bool marked = nbd_bitmaps_next(q->conn->exp->bitmaps, bitmap, q->offset + x->covered,
                                       q->length - x->covered, &len);

        if (!add_extent(x, len, marked ? NBD_STATE_DIRTY : 0)) {
            break;
        }
    }
}

static void append_extents(NbdRequest *q, uint32_t context, const Extents *x, bool done)
{
    uint32_t be = htobe32(context);
    NbdChunkHeader h =
        nbd_chunk_header(q, done, NBD_REPLY_TYPE_BLOCK_STATUS, sizeof(be) + x->n * 8);

    g_byte_array_append(q->chunks, (guint8 *)&h, sizeof(h));
    g_byte_array_append(q->chunks, (guint8 *)&be, sizeof(be));
    for (unsigned i = 0; i < x->n; i++) {
        uint32_t pair[2] = {htobe32(x->list[i].length), htobe32(x->list[i].flags)};

        g_byte_array_append(q->chunks, (guint8 *)pair, sizeof(pair));
    }
}

int coroutine_fn nbd_block_status_run(NbdRequest *q, Edge *e, Request *r)
{
    const GArray *contexts = q->conn->contexts;
    g_autofree Extents *x = NULL;
    int ret = 0;

    if (!contexts || contexts->len == 0 || q->length == 0) {
        return -EINVAL;
    }
    x = g_new(Extents, 1);
    x->max = q->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : MAX_EXTENTS;
    q->chunks = g_byte_array_new();
    for (guint i = 0; i < contexts->len && ret == 0; i++) {
        uint32_t context = g_array_index(contexts, uint32_t, i);

        x->n = x->covered = 0;
        if (context < NBD_CONTEXT_BITMAPS) {
            ret = get_status(q, e, r, context == NBD_CONTEXT_DEPTH, x);
        } else {
            get_marks(q, context - NBD_CONTEXT_BITMAPS, x);
        }
        append_extents(q, context, x, i == contexts->len - 1);
    }
    if (ret < 0) {
        g_clear_pointer(&q->chunks, g_byte_array_unref);
    }
    return ret;
}

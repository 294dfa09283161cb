/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The filter `copy-on-read`: what is read from the backing chain is copied up into the image below the filter, so that it is read there the next time.
 *
 *   image    the first node below that is not a filter; it gets the copies
 *   bottom   the last layer from which copies are made (an option); what lies deeper is read only.  Without it all layers count.
 *
 * Copying up is an operation of the image's driver (copy_up), exact beside guests' writes, and no write to anybody who watches writes.  It is
 * a request of its own: a write, where the reader's is a read.  If it fails the read goes on without it; a read has no business with
 * the space of an image.  Nothing is copied into an image that is read-only.
 *
 * bottom is held by an edge, so it stays while the filter is open.
 */
#include "block/copy-on-read.h"
#include "block/debug.h"
#include "filter.h"
#include "qapi-types.h"
#include <errno.h>

typedef struct CorState {
    Edge *bottom; /* NULL: all layers; constant after open */
} CorState;

static Node *below_filters(Node *n)
{
    while (n && n->driver->is_filter) {
        n = n->file ? n->file->target : NULL;
    }
    return n;
}

static bool find_bottom(Node *n, const char *name, Node **ret_bottom, Error **errp)
{
    Node *bottom = node_find(name);
    Edge *e;

    *ret_bottom = bottom;
    if (!bottom) {
        error_set(errp, ERROR_NOT_FOUND, n->name, "open", "Bottom node '%s' not found", name);
        return false;
    }
    if (!bottom->driver || bottom->driver->is_filter) {
        error_set(errp, ERROR_INVALID, n->name, "open", "Bottom node '%s' is a filter", name);
        return false;
    }
    for (Node *p = below_filters(n->file->target); p && p != bottom;) {
        e = atomic_load(&p->backing);
        p = e ? below_filters(e->target) : NULL;
        if (!p) {
            error_set(errp, ERROR_INVALID, n->name, "open",
                      "Bottom node '%s' is not in the backing chain of '%s'", name,
                      n->file->target->name);
            return false;
        }
    }
    return true;
}

static bool coroutine_fn cor_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    const BlockdevOptionsCor *o = &options->u.copy_on_read;
    CorState *s = n->state;
    Node *bottom;

    if (!filter_open_file(n, o->file, errp)) {
        return false;
    }
    if (o->bottom) {
        if (!find_bottom(n, o->bottom, &bottom, errp)) {
            return false;
        }
        /* Nothing is read through it: it keeps the layer, and follows when a job puts another in its place. */
        s->bottom =
            edge_attach(bottom, n, NULL, NULL, "bottom", EDGE_COW, PERM_NONE, PERM_ALL, errp);
        return s->bottom;
    }
    return true;
}

static void cor_child_perm(const Node *n, EdgeRole role, unsigned parent_perm,
                           unsigned parent_shared, unsigned *perm, unsigned *shared)
{
    if (role == EDGE_COW) {
        *perm = PERM_NONE;
        *shared = PERM_ALL;
        return;
    }
    filter_child_perm(n, role, parent_perm, parent_shared, perm, shared);
    if (!node_will_be_read_only(n)) {
        *perm |= PERM_WRITE_UNCHANGED;
    }
}

/* The next piece of a range: must it be copied up? */
static int coroutine_fn look(Edge *e, const Edge *last, Request *r, GuestOffset offset,
                             uint64_t bytes, uint64_t *ret_len, bool *ret_copy, bool *ret_zero)
{
    Node *image = edge_enter(e, r);
    int ret;

    while (image->driver->is_filter && image->file) {
        image = edge_enter(image->file, r);
    }
    *ret_copy = *ret_zero = false;
    ret = edge_block_status_until(e, r, image, offset, bytes, REQ_COPY, ret_len);
    if (ret < 0 || (ret & STATUS_ALLOCATED)) {
        return ret;
    }
    bytes = *ret_len;
    if (last) {
        const Node *bottom =
            atomic_load_explicit((_Atomic(Node *) *)&last->node, memory_order_acquire);

        ret = edge_block_status_until(e, r, bottom, offset, bytes, REQ_COPY, ret_len);
        *ret_copy = ret >= 0 && (ret & STATUS_ALLOCATED);
    } else {
        ret = edge_block_status_above(e, r, offset, bytes, REQ_COPY, ret_len, NULL);
        *ret_copy = ret >= 0;
    }
    *ret_zero = ret >= 0 && (ret & STATUS_ZERO);
    return ret;
}

void coroutine_fn edge_copy_range_up(Edge *e, const Edge *bottom, GuestOffset offset,
                                     uint64_t bytes, bool passes_holds)
{
    uint64_t end = MIN(offset.v + bytes, atomic_load(&e->target->size));
    int ret = 0;

    for (uint64_t at = offset.v, len; at < end && ret >= 0; at += len) {
        bool copy, zero;
        Request r;

        request_begin(&r, REQUEST_WRITE);
        r.passes_holds = passes_holds;
        ret = look(e, bottom, &r, guest(at), end - at, &len, &copy, &zero);
        if (ret >= 0 && copy) {
            edge_debug_event(e, &r, 0, BLKDEBUG_EVENT_COR_WRITE);
            ret = edge_copy_up(e, &r, guest(at), len, zero, false);
        }
        request_end(&r);
    }
}

static int coroutine_fn cor_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                   unsigned flags)
{
    if (!atomic_load_explicit(&n->read_only, memory_order_relaxed)) {
        edge_copy_range_up(n->file, ((const CorState *)n->state)->bottom, offset, iov->size, true);
    }
    return filter_preadv(n, r, offset, iov, flags);
}

const BlockDriver driver_copy_on_read = {
    .name = "copy-on-read",
    .is_filter = true,
    .state_size = sizeof(CorState),
    .open = cor_open,
    .reopen_prepare = filter_reopen_prepare,
    .reopen_switch = filter_reopen_switch,
    .reopen_end = filter_reopen_end,
    .child_perm = cor_child_perm,
    .child_resized = filter_child_resized,
    .preadv = cor_preadv,
    .pwritev = filter_pwritev,
    .compresses = true,
    .has_fua = true, /* passed on */
    .pwrite_zeroes = filter_pwrite_zeroes,
    .copy_up = filter_copy_up,
    .pdiscard = filter_pdiscard,
    .truncate = filter_truncate,
};

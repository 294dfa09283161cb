/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The filter `copy-before-write`: what is written to its disk is kept in the target before, so that the disk as it was stays readable (cbw.h).
 *
 *   file    the disk; requests pass to it
 *   target  where clusters are kept; others may write there too (a job that copies the rest), not resize it
 *
 * A user opens one, with the state of the disk at that moment, or a job makes one, which a change puts in place: then the instant is the change's
 * cut (change_add_filter), and requests that did not come through the filter are waited for by copies.
 */
#include "../node-internal.h"
#include "block/bitmaps.h"
#include "block/change.h"
#include "block/graph.h"
#include "cbw.h"
#include "filter.h"
#include "qapi-types.h"
#include <errno.h>
#include <string.h>

typedef struct CbwState {
    Cbw *c;
    Edge *target;
    bool discard_source;
} CbwState;

Cbw *cbw_of(const Node *filter)
{
    return ((const CbwState *)filter->state)->c;
}

/* ---- opening ---- */

static const DirtyBitmap *find_bitmap(Node *n, const BlockDirtyBitmap *o, Error **errp)
{
    Node *at = node_lookup(o->node, o->node, errp);
    UserBitmap *b = at ? node_bitmap_find(at, o->name) : NULL;

    if (at && !b) {
        error_set(errp, ERROR_NOT_FOUND, o->name, "open", "Dirty bitmap '%s' not found", o->name);
    }
    if (!b || !user_bitmap_check(b, at, BITMAP_ALLOW_READ_ONLY, errp)) {
        return NULL;
    }
    if (dirty_bitmap_size(b->map) != atomic_load(&n->size)) {
        error_set(errp, ERROR_INVALID, o->name, "open",
                  "Bitmap '%s' and node '%s' are of different sizes", o->name, n->name);
        return NULL;
    }
    return b->map;
}

static CbwOptions options_of(const BlockdevOptionsCbw *o)
{
    bool says = o->has_on_cbw_error;
    bool snapshot = says && o->on_cbw_error == ON_CBW_ERROR_BREAK_SNAPSHOT;

    return (CbwOptions){
        .break_snapshot = snapshot,
        /* A bound that nobody asked for does not fail a guest's write. */
        .timeout_breaks_snapshot = snapshot || (!says && !o->has_cbw_timeout),
        .timeout_ns = o->has_cbw_timeout ? o->cbw_timeout * INT64_C(1000000000) : CBW_TIMEOUT_NS,
        .min_cluster = o->has_min_cluster_size ? o->min_cluster_size : 0,
    };
}

static bool check_target(const Node *n, const Node *target, Error **errp)
{
    if (target == n->file->target) {
        error_set(errp, ERROR_INVALID, target->name, "open",
                  "Source and target cannot be the same");
        return false;
    }
    if (atomic_load(&((Node *)target)->size) < atomic_load(&((Node *)n)->size)) {
        error_set(errp, ERROR_INVALID, target->name, "open",
                  "Target '%s' is smaller than node '%s'", target->name, n->file->target->name);
        return false;
    }
    return true;
}

static void take_limits(Node *n)
{
    const Node *file = n->file->target;

    n->limits = file->limits;
    n->discard_unmap = true; /* the file decides */
    atomic_store(&n->size, atomic_load(&file->size));
}

static bool coroutine_fn cbw_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    const BlockdevOptionsCbw *o = &options->u.copy_before_write;
    CbwOptions co = options_of(o);
    CbwState *s = n->state;
    const DirtyBitmap *only = NULL;
    Node *source;

    if (!node_open_child(n, o->file, "file", EDGE_FILTERED, errp)) {
        return false;
    }
    take_limits(n);
    source = n->file->target;
    if (o->target->type == QAPI_KIND_STRING && node_find(o->target->u.reference)) {
        cbw_guard_share(source, node_find(o->target->u.reference), true);
    }
    if (!node_open_child(n, o->target, "target", EDGE_STORAGE, errp)) {
        return false;
    }
    s->target = g_ptr_array_index(n->children, n->children->len - 1);
    if (!check_target(n, s->target->target, errp) ||
        (o->bitmap && !(only = find_bitmap(n, o->bitmap, errp)))) {
        return false;
    }
    s->c = cbw_new(n, s->target, &co, only, errp);
    if (s->c) {
        cbw_guard(s->c, source, n->file, s->target->target);
    }
    return s->c;
}

static void coroutine_fn cbw_close(Node *n)
{
    CbwState *s = n->state;

    if (s->c) {
        cbw_unguard(s->c);
        cbw_wait_idle(s->c);
        cbw_free(s->c);
        s->c = NULL;
    }
}

/* Will anybody use it when what is being planned is done? */
static bool is_used(const Node *n)
{
    for (guint i = 0; i < n->parents->len; i++) {
        if (!((const Edge *)g_ptr_array_index(n->parents, i))->leaving) {
            return true;
        }
    }
    return false;
}

static void cbw_child_perm(const Node *n, EdgeRole role, unsigned parent_perm,
                           unsigned parent_shared, unsigned *perm, unsigned *shared)
{
    const CbwState *s = n->state;

    if (role == EDGE_STORAGE) {
        *perm = PERM_WRITE;
        *shared = PERM_ALL & ~PERM_RESIZE;
        return;
    }
    filter_child_perm(n, role, parent_perm, parent_shared, perm, shared);
    if (is_used(n)) {
        /* Writes that do not come through here would not be kept. */
        *perm |= *perm & PERM_WRITE ? PERM_CONSISTENT_READ : 0;
        *shared &= ~(PERM_WRITE | PERM_RESIZE);
    }
    if (s->discard_source) {
        *perm |= PERM_WRITE;
    }
}

/* ---- requests ---- */

static int coroutine_fn cbw_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                    unsigned flags)
{
    int ret = cbw_before_write(cbw_of(n), offset.v, iov->size);

    return ret < 0 ? ret : filter_pwritev(n, r, offset, iov, flags);
}

static int coroutine_fn cbw_pwrite_zeroes(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                          unsigned flags)
{
    int ret = cbw_before_write(cbw_of(n), offset.v, bytes);

    return ret < 0 ? ret : filter_pwrite_zeroes(n, r, offset, bytes, flags);
}

static int coroutine_fn cbw_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    int ret = cbw_before_write(cbw_of(n), offset.v, bytes);

    return ret < 0 ? ret : filter_pdiscard(n, r, offset, bytes);
}

static int coroutine_fn snapshot_preadv(Node *n, Request *r, GuestOffset offset,
                                        const IoVector *iov, unsigned flags)
{
    return cbw_snapshot_preadv(cbw_of(n), r, offset, iov, flags);
}

static int coroutine_fn snapshot_block_status(Node *n, Request *r, GuestOffset offset,
                                              uint64_t bytes, unsigned flags, uint64_t *ret_bytes)
{
    return cbw_snapshot_status(cbw_of(n), r, offset, bytes, flags, ret_bytes);
}

static int coroutine_fn snapshot_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    return cbw_snapshot_discard(cbw_of(n), r, offset, bytes);
}

const BlockDriver driver_copy_before_write = {
    .name = "copy-before-write",
    .is_filter = true,
    .state_size = sizeof(CbwState),
    .open = cbw_open,
    .close = cbw_close,
    .child_perm = cbw_child_perm,
    .child_resized = filter_child_resized,
    .preadv = filter_preadv,
    .pwritev = cbw_pwritev,
    .has_fua = true, /* passed on */
    .pwrite_zeroes = cbw_pwrite_zeroes,
    .pdiscard = cbw_pdiscard,
    .snapshot_preadv = snapshot_preadv,
    .snapshot_block_status = snapshot_block_status,
    .snapshot_pdiscard = snapshot_pdiscard,
};

/* ---- the filter of a job ---- */

static Node *alloc_filter(Node *source, const char *name, Error **errp)
{
    g_autofree char *generated = name ? NULL : node_generate_name();
    Node *n;

    if (name && (!node_name_check(name, errp) || !node_name_reserve(name, source, errp))) {
        return NULL;
    }
    n = node_alloc(&driver_copy_before_write, name ? name : generated);
    if (name) {
        node_name_release(name, source);
    }
    n->auto_name = !name;
    n->implicit = !name;
    n->hidden = true;
    n->filename = g_strdup(source->filename);
    atomic_store(&n->read_only, atomic_load(&source->read_only));
    node_register(n);
    return n;
}

Node *coroutine_fn cbw_filter_new(Node *source, Node *target, const char *name,
                                  const CbwOptions *options, Error **errp)
{
    Node *n = alloc_filter(source, name, errp);
    unsigned perm = PERM_CONSISTENT_READ | (options->discard_source ? PERM_WRITE : 0);
    CbwState *s;

    if (!n) {
        return NULL;
    }
    s = n->state;
    s->discard_source = options->discard_source;
    n->file = edge_attach(source, n, NULL, NULL, "file", EDGE_FILTERED, perm | PERM_CONSISTENT_READ,
                          PERM_ALL, errp);
    if (!n->file) {
        node_unref(n);
        return NULL;
    }
    n->file->unsettled = true;
    take_limits(n);
    cbw_guard_share(source, target, true);
    s->target = edge_attach(target, n, NULL, NULL, "target", EDGE_STORAGE, PERM_WRITE,
                            PERM_ALL & ~PERM_RESIZE, errp);
    s->c = s->target ? cbw_new(n, s->target, options, NULL, errp) : NULL;
    if (!s->c || !perm_check_filter(source, n, n->file, errp)) {
        cbw_guard_share(source, target, false);
        node_unref(n);
        return NULL;
    }
    cbw_guard(s->c, source, n->file, target);
    return n;
}

void cbw_filter_in_place(Node *n)
{
    n->hidden = false;
    for (guint i = 0; i < n->parents->len; i++) {
        n->file->perm |= ((Edge *)g_ptr_array_index(n->parents, i))->perm;
    }
}

void coroutine_fn cbw_filter_settled(Node *n)
{
    n->file->unsettled = false;
    perm_lower(n);
}

/* Users of the filter are users of what is below it, at an instant. */
static void coroutine_fn take_out(Node *n)
{
    Change *change = change_new();

    n->file->unsettled = true; /* its users come beside it */
    n->file->shared = PERM_ALL;
    change_add(change, n, n->file->target, NULL);
    change_arm(change);
    change_cut(change); /* not held: cannot fail */
    change_abandon_old(change);
    change_fold(change);
    change_free(change);
}

bool coroutine_fn cbw_filter_take_out(Node *n)
{
    bool users = false;

    for (guint i = 0; i < n->parents->len; i++) {
        users |= !edge_is_job(g_ptr_array_index(n->parents, i));
    }
    /* A transaction may be about to put something between the filter and the disk. */
    if (users && (n->reserved_by || n->file->target->reserved_by)) {
        return false;
    }
    if (users) {
        take_out(n);
    }
    return true;
}

void coroutine_fn cbw_filter_drop(Node *n)
{
    CbwState *s = n->state;

    /* Here, not while it is closed: others wait for nodes that are being closed. */
    cbw_unguard(s->c);
    cbw_wait_idle(s->c);
    node_unref(n);
}

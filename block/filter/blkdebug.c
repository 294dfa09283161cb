/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The filter `blkdebug`: makes requests fail, or wait, where a test wants it, and takes only requests of the shape that it wants.
 *
 * Rules are in blkdebug-rules.c.  Requests are those of the filter's own limits: what its child cannot have in that shape (a last block that the
 * child has in part) is left out and reads as zeroes.
 */
#include "blkdebug.h"
#include "block/graph.h"
#include <errno.h>
#include <string.h>

/* ---- opening ---- */

static bool is_power_of_2(int64_t v)
{
    return v > 0 && (v & (v - 1)) == 0;
}

static bool check_limit(const Node *n, const char *name, int64_t v, int64_t unit, Error **errp)
{
    if (v < 0 || v >= INT32_MAX || v % unit) {
        error_set(errp, ERROR_INVALID, n->name, "open",
                  "Cannot meet constraints with %s %" G_GINT64_FORMAT, name, v);
        return false;
    }
    return true;
}

static bool set_limits(Node *n, BlkdebugState *s, const BlockdevOptionsBlkdebug *o, Error **errp)
{
    int64_t align = o->has_align && o->align ? o->align : 1;
    int64_t transfer = o->has_max_transfer ? o->max_transfer : 0;
    int64_t opt_zero = o->has_opt_write_zero ? o->opt_write_zero : 0;
    int64_t max_zero = o->has_max_write_zero ? o->max_write_zero : 0;
    int64_t opt_discard = o->has_opt_discard ? o->opt_discard : 0;
    int64_t max_discard = o->has_max_discard ? o->max_discard : 0;

    if (!check_limit(n, "align", align, 1, errp)) {
        return false;
    }
    if (!is_power_of_2(align)) {
        error_set(errp, ERROR_INVALID, n->name, "open",
                  "Cannot meet constraints with align %" G_GINT64_FORMAT, align);
        return false;
    }
    if (!check_limit(n, "max-transfer", transfer, align, errp) ||
        !check_limit(n, "opt-write-zero", opt_zero, align, errp) ||
        !check_limit(n, "max-write-zero", max_zero, MAX(opt_zero, align), errp) ||
        !check_limit(n, "opt-discard", opt_discard, align, errp) ||
        !check_limit(n, "max-discard", max_discard, MAX(opt_discard, align), errp)) {
        return false;
    }
    n->limits.request_alignment = (uint32_t)align;
    n->limits.max_transfer = (uint32_t)transfer;
    n->limits.write_zeroes_alignment = (uint32_t)opt_zero;
    n->limits.max_write_zeroes = (uint64_t)max_zero;
    n->limits.discard_alignment = (uint32_t)opt_discard;
    n->limits.max_discard = (uint64_t)max_discard;
    s->zero_alignment = MAX(opt_zero, align);
    s->discard_alignment = MAX(opt_discard, align);
    return true;
}

static unsigned perms_of(const BlockPermissionList *l)
{
    static const unsigned perms[BLOCK_PERMISSION__MAX] = {
        [BLOCK_PERMISSION_CONSISTENT_READ] = PERM_CONSISTENT_READ,
        [BLOCK_PERMISSION_WRITE] = PERM_WRITE,
        [BLOCK_PERMISSION_WRITE_UNCHANGED] = PERM_WRITE_UNCHANGED,
        [BLOCK_PERMISSION_RESIZE] = PERM_RESIZE,
    };
    unsigned perm = 0;

    for (; l; l = l->next) {
        perm |= perms[l->value];
    }
    return perm;
}

static bool coroutine_fn open_all(Node *n, BlkdebugState *s, const BlockdevOptionsBlkdebug *o,
                                  Error **errp)
{
    if (o->config && o->config[0] && !blkdebug_read_config(n, s, o->config, errp)) {
        return false;
    }
    if (!blkdebug_add_rules(n, s, o->inject_error, o->set_state, errp)) {
        return false;
    }
    s->take = perms_of(o->take_child_perms);
    s->unshare = perms_of(o->unshare_child_perms);
    if (!node_open_child(n, o->image, "image", EDGE_FILTERED, errp)) {
        return false;
    }
    filter_child_resized(n);
    if (n->auto_read_only && atomic_load(&n->file->target->read_only)) {
        atomic_store(&n->read_only, true);
    }
    return set_limits(n, s, o, errp);
}

static bool coroutine_fn blkdebug_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    BlkdebugState *s = n->state;

    blkdebug_rules_init(s);
    if (!open_all(n, s, &options->u.blkdebug, errp)) {
        blkdebug_rules_destroy(s);
        return false;
    }
    blkdebug_event(n, BLKDEBUG_EVENT_NONE);
    atomic_fetch_add(&debug_listeners, 1);
    return true;
}

static void coroutine_fn blkdebug_close(Node *n)
{
    atomic_fetch_sub(&debug_listeners, 1);
    blkdebug_rules_destroy(n->state);
}

static void blkdebug_child_perm(const Node *n, EdgeRole role, unsigned parent_perm,
                                unsigned parent_shared, unsigned *perm, unsigned *shared)
{
    const BlkdebugState *s = n->state;

    filter_child_perm(n, role, parent_perm, parent_shared, perm, shared);
    *perm |= s->take;
    *shared &= ~s->unshare;
}

/* Rules are those of one disk: it cannot become another's. */
static bool coroutine_fn blkdebug_reopen_prepare(Node *n, Reopen *r, Error **errp)
{
    if (r->file->target != n->file->target) {
        error_set(errp, ERROR_UNSUPPORTED, n->name, "reopen", "Cannot change the option 'image'");
        return false;
    }
    return filter_reopen_prepare(n, r, errp);
}

/* "blkdebug:CONFIG:IMAGE" */
static struct json_object *blkdebug_parse_name(const char *name, Error **errp)
{
    const char *config = name + strlen("blkdebug:"), *colon = strchr(config, ':');
    g_autofree char *file = NULL;
    struct json_object *o, *image;

    if (!colon) {
        error_set(errp, ERROR_INVALID, name, "open",
                  "blkdebug requires both config file and image path");
        return NULL;
    }
    image = filename_options(colon + 1, errp);
    if (!image) {
        return NULL;
    }
    o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string("blkdebug"));
    if (colon > config) {
        file = g_strndup(config, (size_t)(colon - config));
        json_object_object_add(o, "config", json_object_new_string(file));
    }
    json_object_object_add(o, "image", image);
    return o;
}

/* ---- requests ---- */

/* How much of a request the child has: its size need not be a multiple of our alignment. */
static size_t inside(const Node *n, Request *r, GuestOffset offset, size_t bytes)
{
    uint64_t size = edge_size(n->file, r);

    return offset.v >= size ? 0 : MIN(bytes, size - offset.v);
}

static int coroutine_fn blkdebug_preadv(Node *n, Request *r, GuestOffset offset,
                                        const IoVector *iov, unsigned flags)
{
    int ret = blkdebug_check(n, offset.v, iov->size, BLKDEBUG_IO_TYPE_READ);
    size_t len = inside(n, r, offset, iov->size);
    g_auto(IoVector) part = {0};

    if (ret < 0) {
        return ret;
    }
    if (G_LIKELY(len == iov->size)) {
        return edge_preadv(n->file, r, offset, iov, flags);
    }
    iov_memset(iov, len, 0, iov->size - len);
    iov_init_slice(&part, iov, 0, len);
    return len > 0 ? edge_preadv(n->file, r, offset, &part, flags) : 0;
}

static int coroutine_fn blkdebug_pwritev(Node *n, Request *r, GuestOffset offset,
                                         const IoVector *iov, unsigned flags)
{
    int ret = blkdebug_check(n, offset.v, iov->size, BLKDEBUG_IO_TYPE_WRITE);
    size_t len = inside(n, r, offset, iov->size);
    g_auto(IoVector) part = {0};

    if (ret < 0) {
        return ret;
    }
    if (G_LIKELY(len == iov->size)) {
        return edge_pwritev(n->file, r, offset, iov, flags);
    }
    iov_init_slice(&part, iov, 0, len);
    return len > 0 ? edge_pwritev(n->file, r, offset, &part, flags) : 0;
}

static int coroutine_fn blkdebug_pwrite_zeroes(Node *n, Request *r, GuestOffset offset,
                                               uint64_t bytes, unsigned flags)
{
    const BlkdebugState *s = n->state;
    int ret;

    if (bytes < s->zero_alignment) {
        return -ENOTSUP;
    }
    ret = blkdebug_check(n, offset.v, bytes, BLKDEBUG_IO_TYPE_WRITE_ZEROES);
    return ret < 0 ? ret : filter_pwrite_zeroes(n, r, offset, inside(n, r, offset, bytes), flags);
}

static int coroutine_fn blkdebug_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    const BlkdebugState *s = n->state;
    int ret;

    if (bytes < s->discard_alignment) {
        return -ENOTSUP;
    }
    ret = blkdebug_check(n, offset.v, bytes, BLKDEBUG_IO_TYPE_DISCARD);
    return ret < 0 ? ret : filter_pdiscard(n, r, offset, inside(n, r, offset, bytes));
}

static int coroutine_fn blkdebug_flush(Node *n, Request *r)
{
    (void)r;
    return blkdebug_check(n, 0, 0, BLKDEBUG_IO_TYPE_FLUSH);
}

static int coroutine_fn blkdebug_check_status(Node *n, GuestOffset offset, uint64_t bytes)
{
    return blkdebug_check(n, offset.v, bytes, BLKDEBUG_IO_TYPE_BLOCK_STATUS);
}

static const char *const protocols[] = {"blkdebug", NULL};

const BlockDriver driver_blkdebug = {
    .name = "blkdebug",
    .is_filter = true,
    .protocols = protocols,
    .parse_name = blkdebug_parse_name,
    .state_size = sizeof(BlkdebugState),
    .open = blkdebug_open,
    .close = blkdebug_close,
    .reopen_prepare = blkdebug_reopen_prepare,
    .reopen_switch = filter_reopen_switch,
    .reopen_end = filter_reopen_end,
    .child_perm = blkdebug_child_perm,
    .child_resized = filter_child_resized,
    .abandon = blkdebug_abandon,
    .preadv = blkdebug_preadv,
    .pwritev = blkdebug_pwritev,
    .compresses = true, /* passed on */
    .has_fua = true,    /* the same */
    .pwrite_zeroes = blkdebug_pwrite_zeroes,
    .copy_up = filter_copy_up,
    .pdiscard = blkdebug_pdiscard,
    .flush = blkdebug_flush,
    .truncate = filter_truncate,
    .check_status = blkdebug_check_status,
    .debug_event = blkdebug_event,
    .debug = &blkdebug_ops,
};

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * block-dirty-bitmap-*: transactions of one action.
 */
#include "block/bitmaps.h"
#include "block/graph.h"
#include "block/transaction.h"
#include "qapi-commands.h"

static bool coroutine_fn run(BitmapVerb verb, const BitmapArgs *args, Error **errp)
{
    Transaction *t = transaction_new();
    bool ok;

    transaction_add_bitmap(t, verb, args);
    ok = transaction_run(t, errp);
    transaction_free(t);
    return ok;
}

bool coroutine_fn qmp_block_dirty_bitmap_add(const BlockDirtyBitmapAdd *arg, Error **errp)
{
    return run(BITMAP_ADD,
               &(BitmapArgs){.node = arg->node,
                             .name = arg->name,
                             .has_granularity = arg->has_granularity,
                             .granularity = arg->granularity,
                             .persistent = arg->has_persistent && arg->persistent,
                             .disabled = arg->has_disabled && arg->disabled},
               errp);
}

bool coroutine_fn qmp_block_dirty_bitmap_merge(const BlockDirtyBitmapMerge *arg, Error **errp)
{
    return run(BITMAP_MERGE,
               &(BitmapArgs){.node = arg->node, .name = arg->target, .sources = arg->bitmaps},
               errp);
}

bool coroutine_fn qmp_block_dirty_bitmap_remove(const BlockDirtyBitmap *arg, Error **errp)
{
    return run(BITMAP_REMOVE, &(BitmapArgs){.node = arg->node, .name = arg->name}, errp);
}

bool coroutine_fn qmp_block_dirty_bitmap_clear(const BlockDirtyBitmap *arg, Error **errp)
{
    return run(BITMAP_CLEAR, &(BitmapArgs){.node = arg->node, .name = arg->name}, errp);
}

bool coroutine_fn qmp_block_dirty_bitmap_enable(const BlockDirtyBitmap *arg, Error **errp)
{
    return run(BITMAP_ENABLE, &(BitmapArgs){.node = arg->node, .name = arg->name}, errp);
}

bool coroutine_fn qmp_block_dirty_bitmap_disable(const BlockDirtyBitmap *arg, Error **errp)
{
    return run(BITMAP_DISABLE, &(BitmapArgs){.node = arg->node, .name = arg->name}, errp);
}

bool coroutine_fn qmp_x_debug_block_dirty_bitmap_sha256(const BlockDirtyBitmap *arg,
                                                        BlockDirtyBitmapSha256 **ret_out,
                                                        Error **errp)
{
    enum { PIECE = 65536 };
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    g_autofree uint8_t *piece = g_malloc(PIECE);
    const UserBitmap *b;
    uint64_t len;
    g_autoptr(Error) err = NULL;
    const Node *n = node_lookup(arg->node, arg->node, &err);

    if (!n && err->kind == ERROR_NOT_FOUND) {
        error_set(errp, ERROR_NOT_FOUND, arg->node, "bitmap", "Node '%s' not found", arg->node);
        return false;
    }
    if (!n) {
        error_move(errp, &err);
        return false;
    }
    b = node_bitmap_find(n, arg->name);
    if (!b) {
        error_set(errp, ERROR_NOT_FOUND, arg->name, "bitmap", "Dirty bitmap '%s' not found",
                  arg->name);
        return false;
    }
    len = (dirty_bitmap_bytes(b->map) + 7) & ~UINT64_C(7);
    for (uint64_t at = 0; at < len; at += PIECE) {
        size_t n_bytes = MIN(len - at, PIECE);

        dirty_bitmap_get_bytes(b->map, at, piece, n_bytes);
        g_checksum_update(sum, piece, n_bytes);
    }
    *ret_out = g_new0(BlockDirtyBitmapSha256, 1);
    (*ret_out)->sha256 = g_strdup(g_checksum_get_string(sum));
    return true;
}

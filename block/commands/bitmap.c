/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * block-dirty-bitmap-*: transactions of one action.
 */
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

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What changes nodes that are in use: blockdev-reopen, block_resize.
 */
#include "block/reopen.h"
#include "qapi-commands.h"

bool coroutine_fn qmp_blockdev_reopen(const BlockdevReopenArg *arg, Error **errp)
{
    return blockdev_reopen(arg->options, errp);
}

bool coroutine_fn qmp_block_resize(const BlockResizeArg *arg, Error **errp)
{
    return block_resize(arg->device, arg->node_name, arg->size, errp);
}

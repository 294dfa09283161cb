/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What changes nodes that are in use: blockdev-reopen, blockdev-set-active, block_resize, x-blockdev-set-iothread.
 */
#include "block/reopen.h"
#include "block/iothread-objects.h"
#include "qapi-commands.h"

bool coroutine_fn qmp_blockdev_reopen(const BlockdevReopenArg *arg, Error **errp)
{
    return blockdev_reopen(arg->options, errp);
}

bool coroutine_fn qmp_blockdev_set_active(const BlockdevSetActiveArg *arg, Error **errp)
{
    Node *n = NULL;

    if (arg->node_name) {
        n = node_find(arg->node_name);
        if (!n) {
            error_set(errp, ERROR_NOT_FOUND, arg->node_name, "set-active",
                      "Failed to find node with node-name='%s'", arg->node_name);
            return false;
        }
    }
    return blockdev_set_active(n, arg->active, errp);
}

bool coroutine_fn qmp_block_resize(const BlockResizeArg *arg, Error **errp)
{
    return block_resize(arg->device, arg->node_name, arg->size, errp);
}

bool coroutine_fn qmp_x_blockdev_set_iothread(const XBlockdevSetIothreadArg *arg, Error **errp)
{
    if (!node_find(arg->node_name)) {
        error_set(errp, ERROR_NOT_FOUND, arg->node_name, "set-iothread",
                  "Failed to find node with node-name='%s'", arg->node_name);
        return false;
    }
    if (arg->iothread->type == QAPI_KIND_STRING && !iothread_find(arg->iothread->u.s)) {
        error_set(errp, ERROR_NOT_FOUND, arg->iothread->u.s, "set-iothread",
                  "Cannot find iothread object '%s'", arg->iothread->u.s);
        return false;
    }
    return true; /* nodes are used from any thread */
}

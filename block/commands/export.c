/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * block-export-add, block-export-del, query-block-exports.
 */
#include "block/export.h"
#include "block/reopen.h"
#include "qapi-commands.h"

bool coroutine_fn qmp_block_export_add(const BlockExportOptions *arg, Error **errp)
{
    export_set_resize(block_resize);
    if (!(arg->has_allow_inactive && arg->allow_inactive) && !export_find(arg->id) &&
        !blockdev_activate_for_export(arg->node_name, errp)) {
        return false;
    }
    return export_add(arg, errp);
}

bool coroutine_fn qmp_block_export_del(const BlockExportDelArg *arg, Error **errp)
{
    return export_del(arg->id, arg->has_mode && arg->mode == BLOCK_EXPORT_REMOVE_MODE_HARD, errp);
}

bool coroutine_fn qmp_query_block_exports(BlockExportInfoList **ret_out, Error **errp)
{
    (void)errp;
    *ret_out = export_query();
    return true;
}

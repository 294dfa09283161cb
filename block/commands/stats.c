/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Statistics and write thresholds.
 */
#include "block/stats.h"
#include "qapi-commands.h"

bool coroutine_fn qmp_query_blockstats(const QueryBlockstatsArg *arg, BlockStatsList **ret_out,
                                       Error **errp)
{
    (void)errp;
    *ret_out = stats_query(arg->has_query_nodes && arg->query_nodes);
    return true;
}

bool coroutine_fn qmp_block_set_write_threshold(const BlockSetWriteThresholdArg *arg, Error **errp)
{
    Node *n = node_find(arg->node_name);

    if (!n) {
        error_set(errp, ERROR_NOT_FOUND, arg->node_name, "write-threshold", "Device '%s' not found",
                  arg->node_name);
        return false;
    }
    node_set_write_threshold(n, arg->write_threshold);
    return true;
}

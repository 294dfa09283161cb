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

/* The kind's own boundaries, or those of all; a list of uint64_t. */
static bool coroutine_fn set_histogram(Edge *e, StatKind kind, const uint64List *own,
                                       const uint64List *all)
{
    g_autoptr(GArray) bounds = g_array_new(false, false, sizeof(uint64_t));

    for (const uint64List *l = own ? own : all; l; l = l->next) {
        g_array_append_val(bounds, l->value);
    }
    return edge_set_histogram(e, kind, (const uint64_t *)(const void *)bounds->data, bounds->len);
}

bool coroutine_fn qmp_block_latency_histogram_set(const BlockLatencyHistogramSetArg *arg,
                                                  Error **errp)
{
    const struct {
        StatKind kind;
        const uint64List *own;
        const char *name;
    } kinds[] = {
        {STAT_READ, arg->boundaries_read, "read"},
        {STAT_WRITE, arg->boundaries_write, "write"},
        {STAT_FLUSH, arg->boundaries_flush, "flush"},
    };
    bool any = arg->boundaries;

    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        any |= kinds[i].own != NULL;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        Edge *e = stats_find_user(arg->id); /* again each time: setting one suspends */

        if (!e) {
            error_set(errp, ERROR_NOT_FOUND, arg->id, "histogram", "Device '%s' not found",
                      arg->id);
            return false;
        }
        if ((!any || arg->boundaries || kinds[i].own) &&
            !set_histogram(e, kinds[i].kind, kinds[i].own, arg->boundaries)) {
            error_set(errp, ERROR_INVALID, arg->id, "histogram",
                      "Device '%s' set %s boundaries fail", arg->id, kinds[i].name);
            return false;
        }
    }
    return true;
}

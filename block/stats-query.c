/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * query-blockstats: statistics of users of disks (devices, then exports), or of nodes, with those of the nodes below.
 */
#include "block/stats.h"
#include "block/backend.h"
#include "node-internal.h"
#include "qapi-types.h"
#include "stats-internal.h"
#include "util/virtual-clock.h"
#include <string.h>

static BlockDeviceStats *stats_info(const Stats *s)
{
    BlockDeviceStats *i = g_new0(BlockDeviceStats, 1);

    i->rd_bytes = s->bytes[STAT_READ];
    i->wr_bytes = s->bytes[STAT_WRITE];
    i->unmap_bytes = s->bytes[STAT_UNMAP];
    i->rd_operations = s->ops[STAT_READ];
    i->wr_operations = s->ops[STAT_WRITE];
    i->flush_operations = s->ops[STAT_FLUSH];
    i->unmap_operations = s->ops[STAT_UNMAP];
    i->rd_total_time_ns = s->time_ns[STAT_READ];
    i->wr_total_time_ns = s->time_ns[STAT_WRITE];
    i->flush_total_time_ns = s->time_ns[STAT_FLUSH];
    i->unmap_total_time_ns = s->time_ns[STAT_UNMAP];
    i->failed_rd_operations = s->failed[STAT_READ];
    i->failed_wr_operations = s->failed[STAT_WRITE];
    i->invalid_rd_operations = s->invalid[STAT_READ];
    i->invalid_wr_operations = s->invalid[STAT_WRITE];
    i->invalid_flush_operations = s->invalid[STAT_FLUSH];
    i->invalid_unmap_operations = s->invalid[STAT_UNMAP];
    i->failed_flush_operations = s->failed[STAT_FLUSH];
    i->failed_unmap_operations = s->failed[STAT_UNMAP];
    i->wr_highest_offset = s->highest_write;
    i->has_idle_time_ns = s->last_ns != 0;
    i->idle_time_ns = s->last_ns ? MAX(virtual_clock_ns() - s->last_ns, 0) : 0;
    return i;
}

static BlockLatencyHistogramInfo *histogram_info(const Edge *e, StatKind kind)
{
    const Histogram *h = edge_histogram(e, kind);
    BlockLatencyHistogramInfo *i;

    if (!h) {
        return NULL;
    }
    i = g_new0(BlockLatencyHistogramInfo, 1);
    for (unsigned k = h->n + 1; k-- > 0;) {
        uint64List *bin = g_new0(uint64List, 1);

        bin->value = atomic_load_explicit(&h->bins[k], memory_order_relaxed);
        bin->next = i->bins;
        i->bins = bin;
        if (k < h->n) {
            uint64List *bound = g_new0(uint64List, 1);

            bound->value = h->bounds[k];
            bound->next = i->boundaries;
            i->boundaries = bound;
        }
    }
    return i;
}

/* Those of a node, below it its file and, for a user's disk, its backing image. */
static BlockStats *node_info(const Node *n, bool backing)
{
    BlockStats *i = g_new0(BlockStats, 1);
    Edge *b = atomic_load_explicit(&((Node *)n)->backing, memory_order_acquire);
    Stats s = node_stats(n);

    i->node_name = g_strdup(n->name);
    i->stats = stats_info(&s);
    i->driver_specific = n->driver->stats ? n->driver->stats(n) : NULL;
    i->parent = n->file ? node_info(n->file->target, backing) : NULL;
    i->backing = b && backing ? node_info(b->target, true) : NULL;
    return i;
}

static BlockStats *edge_info(const Edge *e)
{
    BlockStats *i = node_info(e->target, true);
    Stats s = edge_stats(e);

    i->device = e->owner->name ? e->owner->name(e->owner_opaque) : g_strdup("");
    i->qdev = e->owner->id ? e->owner->id(e->owner_opaque) : NULL;
    qapi_free_BlockDeviceStats(i->stats);
    i->stats = stats_info(&s);
    i->stats->account_invalid = edge_stats_config(e)->account_invalid;
    i->stats->account_failed = edge_stats_config(e)->account_failed;
    i->stats->timed_stats = stat_intervals_info(edge_stat_intervals(e), virtual_clock_ns());
    i->stats->rd_latency_histogram = histogram_info(e, STAT_READ);
    i->stats->wr_latency_histogram = histogram_info(e, STAT_WRITE);
    i->stats->flush_latency_histogram = histogram_info(e, STAT_FLUSH);
    return i;
}

/* A device without a medium. */
static BlockStats *empty_info(const Backend *b)
{
    BlockStats *i = g_new0(BlockStats, 1);
    Stats none = {0};

    i->device = g_strdup(backend_name(b));
    i->qdev = backend_device(b) ? g_strdup(backend_device(b)->qdev) : NULL;
    i->stats = stats_info(&none);
    i->stats->account_invalid = i->stats->account_failed = true;
    return i;
}

static bool is_called(const Edge *e, const char *id)
{
    g_autofree char *own = e->owner->id ? e->owner->id(e->owner_opaque) : NULL,
                    *name = e->owner->name ? e->owner->name(e->owner_opaque) : NULL;

    return g_strcmp0(own, id) == 0 || (name && *name && strcmp(name, id) == 0);
}

Edge *stats_find_user(const char *id)
{
    g_autoptr(GPtrArray) nodes = node_list();

    for (guint i = 0; i < nodes->len; i++) {
        const Node *n = g_ptr_array_index(nodes, i);

        for (guint j = 0; j < n->parents->len; j++) {
            Edge *e = g_ptr_array_index(n->parents, j);

            if (e->stats && is_called(e, id)) {
                return e;
            }
        }
    }
    return NULL;
}

static BlockStatsList **append(BlockStatsList **tail, BlockStats *i)
{
    *tail = g_new0(BlockStatsList, 1);
    (*tail)->value = i;
    return &(*tail)->next;
}

BlockStatsList *stats_query(bool of_nodes)
{
    g_autoptr(GPtrArray) nodes = node_list(), devices = backend_list();
    BlockStatsList *list = NULL, **tail = &list;

    for (guint i = 0; !of_nodes && i < devices->len; i++) {
        const Backend *b = g_ptr_array_index(devices, i);

        if (backend_name(b)[0] || backend_device(b)) {
            tail = append(tail, backend_edge(b) ? edge_info(backend_edge(b)) : empty_info(b));
        }
    }
    for (guint i = 0; i < nodes->len; i++) {
        const Node *n = g_ptr_array_index(nodes, i);

        if (of_nodes) {
            tail = append(tail, node_info(n, false));
        }
        for (guint j = 0; !of_nodes && j < n->parents->len; j++) {
            const Edge *e = g_ptr_array_index(n->parents, j);

            if (e->stats && !backend_owns(e)) {
                tail = append(tail, edge_info(e));
            }
        }
    }
    return list;
}

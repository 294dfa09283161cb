/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What requests do for statistics; private to block/.  See include/block/stats.h.
 */
#ifndef BLOCK_STATS_INTERNAL_H
#define BLOCK_STATS_INTERNAL_H

#include "block/io.h"
#include "block/stats.h"

typedef struct StatIntervals StatIntervals;

/* Only the thread of the slot writes: no read-modify-write operation is needed. */
static inline void stat_add(_Atomic uint64_t *v, uint64_t n)
{
    atomic_store_explicit(v, atomic_load_explicit(v, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static inline void node_stat_read(Node *n, const Request *r, uint64_t bytes)
{
    stat_add(&n->count[r->slot].read_ops, 1);
    stat_add(&n->count[r->slot].read_bytes, bytes);
}

/* Tells that a write went behind the threshold, which ends with that. */
void node_threshold_exceeded(Node *n, uint64_t end);

/* Before a write, zeroes included. */
static inline void node_stat_write(Node *n, const Request *r, uint64_t offset, uint64_t bytes)
{
    uint64_t end = offset + bytes, threshold;

    stat_add(&n->count[r->slot].write_ops, 1);
    stat_add(&n->count[r->slot].write_bytes, bytes);
    if (G_UNLIKELY(end > atomic_load_explicit(&n->highest_write, memory_order_relaxed))) {
        uint64_t was = atomic_load_explicit(&n->highest_write, memory_order_relaxed);

        while (end > was && !atomic_compare_exchange_weak(&n->highest_write, &was, end)) {
        }
    }
    threshold = atomic_load_explicit(&n->write_threshold, memory_order_relaxed);
    if (G_UNLIKELY(threshold && end > threshold)) {
        node_threshold_exceeded(n, end);
    }
}

static inline void node_stat_unmap(Node *n, const Request *r, uint64_t bytes)
{
    _Atomic uint32_t *ops = &n->count[r->slot].unmap_ops;

    atomic_store_explicit(ops, atomic_load_explicit(ops, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    stat_add(&n->count[r->slot].unmap_bytes, bytes);
}

static inline void node_stat_flush(Node *n, const Request *r)
{
    stat_add(&n->count[r->slot].flush_ops, 1);
}

/* Times of the last seconds (stats-interval.c).  Times now: virtual_clock_ns().  Any thread. */
struct BlockDeviceTimedStatsList;
StatIntervals *stat_intervals_new(const StatsConfig *config, int64_t now);
void stat_intervals_free(StatIntervals *s); /* NULL: nothing */
void stat_intervals_add(StatIntervals *s, StatKind kind, int64_t now, uint64_t took_ns);
/* s NULL: none. */
struct BlockDeviceTimedStatsList *stat_intervals_info(StatIntervals *s, int64_t now);
/* NULL: e has none. */
StatIntervals *edge_stat_intervals(const Edge *e);
const StatsConfig *edge_stats_config(const Edge *e);

/* A request by an edge with statistics ends. */
void edge_stat_end(Edge *e, const Request *r, StatKind kind, uint64_t bytes, int64_t begun_ns,
                   int ret);

#endif

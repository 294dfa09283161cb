/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Statistics; see stats.h.
 */
#include "block/stats.h"
#include "stats-internal.h"
#include <stdlib.h>
#include <string.h>

/* What one thread has counted. */
typedef struct StatSlot {
    _Alignas(64) _Atomic uint64_t ops[STAT_KINDS];
    _Atomic uint64_t bytes[STAT_KINDS], failed[STAT_KINDS], time_ns[STAT_KINDS];
    _Atomic int64_t last_ns;
} StatSlot;

struct EdgeStats {
    StatSlot slot[LOOP_SLOTS];
};

void edge_keep_stats(Edge *e)
{
    g_assert(!e->stats);
    e->stats = aligned_alloc(64, sizeof(*e->stats));
    g_assert(e->stats);
    memset(e->stats, 0, sizeof(*e->stats));
}

void edge_stat_end(Edge *e, const Request *r, StatKind kind, uint64_t bytes, int64_t begun_ns,
                   int ret)
{
    StatSlot *s = &e->stats->slot[r->slot];
    int64_t now = clock_ns();

    if (ret < 0) {
        stat_add(&s->failed[kind], 1);
    } else {
        stat_add(&s->ops[kind], 1);
        stat_add(&s->bytes[kind], bytes);
    }
    stat_add(&s->time_ns[kind], now - begun_ns);
    atomic_store_explicit(&s->last_ns, now, memory_order_relaxed);
}

static uint64_t get(const _Atomic uint64_t *v)
{
    return atomic_load_explicit((_Atomic uint64_t *)v, memory_order_relaxed);
}

Stats edge_stats(const Edge *e)
{
    Stats sum = {.highest_write = get(&e->target->highest_write)};

    for (unsigned i = 0; i < LOOP_SLOTS; i++) {
        StatSlot *s = &e->stats->slot[i];

        for (unsigned k = 0; k < STAT_KINDS; k++) {
            sum.ops[k] += get(&s->ops[k]);
            sum.bytes[k] += get(&s->bytes[k]);
            sum.failed[k] += get(&s->failed[k]);
            sum.time_ns[k] += get(&s->time_ns[k]);
        }
        sum.last_ns = MAX(sum.last_ns, atomic_load_explicit(&s->last_ns, memory_order_relaxed));
    }
    return sum;
}

Stats node_stats(const Node *n)
{
    Stats sum = {.highest_write = get(&n->highest_write)};

    for (unsigned i = 0; i < LOOP_SLOTS; i++) {
        const NodeCount *c = &n->count[i];

        sum.ops[STAT_READ] += get(&c->read_ops);
        sum.bytes[STAT_READ] += get(&c->read_bytes);
        sum.ops[STAT_WRITE] += get(&c->write_ops);
        sum.bytes[STAT_WRITE] += get(&c->write_bytes);
        sum.ops[STAT_FLUSH] += get(&c->flush_ops);
        sum.ops[STAT_UNMAP] +=
            atomic_load_explicit((_Atomic uint32_t *)&c->unmap_ops, memory_order_relaxed);
        sum.bytes[STAT_UNMAP] += get(&c->unmap_bytes);
    }
    return sum;
}

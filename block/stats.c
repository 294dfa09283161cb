/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Statistics; see stats.h.
 */
#include "block/stats.h"
#include "stats-internal.h"
#include "util/rcu.h"
#include "util/virtual-clock.h"
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
    _Atomic(Histogram *) histogram[STAT_KINDS]; /* freed a grace period after they were replaced */
    _Atomic uint64_t invalid[STAT_KINDS];
    _Atomic int64_t last_invalid_ns;
    StatsConfig config;
    StatIntervals *intervals; /* NULL: none */
};

void edge_keep_stats(Edge *e, const StatsConfig *config)
{
    g_assert(!e->stats);
    e->stats = aligned_alloc(64, sizeof(*e->stats));
    g_assert(e->stats);
    memset(e->stats, 0, sizeof(*e->stats));
    e->stats->config = *config;
    if (config->n_intervals) {
        e->stats->intervals = stat_intervals_new(config, virtual_clock_ns());
    }
}

const StatsConfig *edge_stats_config(const Edge *e)
{
    return &e->stats->config;
}

StatIntervals *edge_stat_intervals(const Edge *e)
{
    return e->stats->intervals;
}

static void count_time(Edge *e, StatKind kind, uint64_t ns)
{
    const Histogram *h;

    rcu_begin();
    h = atomic_load_explicit(&e->stats->histogram[kind], memory_order_acquire);
    if (h) {
        unsigned low = 0, high = h->n;

        while (low < high) { /* the number of bounds that are not above it */
            unsigned mid = (low + high) / 2;

            if (h->bounds[mid] <= ns) {
                low = mid + 1;
            } else {
                high = mid;
            }
        }
        atomic_fetch_add_explicit(&h->bins[low], 1, memory_order_relaxed);
    }
    rcu_end();
}

static void count(Edge *e, unsigned slot, StatKind kind, uint64_t bytes, int64_t begun_ns, int ret)
{
    StatSlot *s = &e->stats->slot[slot];
    bool still = virtual_clock_stands();
    int64_t now = still ? virtual_clock_ns() : clock_ns(),
            took = still ? VIRTUAL_LATENCY_NS : now - begun_ns;

    if (ret < 0) {
        stat_add(&s->failed[kind], 1);
        if (!e->stats->config.account_failed) {
            return;
        }
    } else {
        stat_add(&s->ops[kind], 1);
        stat_add(&s->bytes[kind], bytes);
    }
    stat_add(&s->time_ns[kind], took);
    if (G_UNLIKELY(atomic_load_explicit(&e->stats->histogram[kind], memory_order_relaxed))) {
        count_time(e, kind, took);
    }
    if (G_UNLIKELY(e->stats->intervals)) {
        stat_intervals_add(e->stats->intervals, kind, now, took);
    }
    atomic_store_explicit(&s->last_ns, MAX(now, 1), memory_order_relaxed);
}

void edge_stat_end(Edge *e, const Request *r, StatKind kind, uint64_t bytes, int64_t begun_ns,
                   int ret)
{
    count(e, r->slot, kind, bytes, begun_ns, ret);
}

void edge_stat_waited(Edge *e, int64_t begun_ns)
{
    count(e, loop_slot_self(), STAT_FLUSH, 0, begun_ns, 0);
}

void edge_stat_invalid(Edge *e, StatKind kind)
{
    atomic_fetch_add_explicit(&e->stats->invalid[kind], 1, memory_order_relaxed);
    if (e->stats->config.account_invalid) {
        atomic_store_explicit(&e->stats->last_invalid_ns, MAX(virtual_clock_ns(), 1),
                              memory_order_relaxed);
    }
}

static void histogram_free(Histogram *h)
{
    if (h) {
        g_free(h->bounds);
        g_free((void *)h->bins);
        g_free(h);
    }
}

bool coroutine_fn edge_set_histogram(Edge *e, StatKind kind, const uint64_t *bounds, unsigned n)
{
    Histogram *h = NULL, *old;

    for (unsigned i = 0; i < n; i++) {
        if (bounds[i] <= (i ? bounds[i - 1] : 0)) {
            return false;
        }
    }
    if (n > 0) {
        h = g_new0(Histogram, 1);
        h->n = n;
        h->bounds = g_memdup2(bounds, n * sizeof(*bounds));
        h->bins = g_new0(_Atomic uint64_t, n + 1);
    }
    old = atomic_exchange_explicit(&e->stats->histogram[kind], h, memory_order_acq_rel);
    if (old) {
        co_rcu_synchronize();
        histogram_free(old);
    }
    return true;
}

const Histogram *edge_histogram(const Edge *e, StatKind kind)
{
    return atomic_load_explicit(&e->stats->histogram[kind], memory_order_acquire);
}

void edge_stats_free(Edge *e)
{
    for (unsigned k = 0; e->stats && k < STAT_KINDS; k++) {
        histogram_free(atomic_load(&e->stats->histogram[k]));
    }
    if (e->stats) {
        stat_intervals_free(e->stats->intervals);
    }
    free(e->stats);
    e->stats = NULL;
}

static uint64_t get(const _Atomic uint64_t *v)
{
    return atomic_load_explicit((_Atomic uint64_t *)v, memory_order_relaxed);
}

Stats edge_stats(const Edge *e)
{
    Stats sum = {.highest_write = get(&e->target->highest_write),
                 .last_ns = atomic_load(&e->stats->last_invalid_ns)};

    for (unsigned k = 0; k < STAT_KINDS; k++) {
        sum.invalid[k] = get(&e->stats->invalid[k]);
    }
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

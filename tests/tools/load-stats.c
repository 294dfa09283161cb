/* SPDX-License-Identifier: BSD-3-Clause */
#include "load-stats.h"

/* Values below 64 have a bucket each; above, the 6 bits behind the leading one choose among 64. */
static unsigned bucket_of(uint64_t v)
{
    unsigned shift;

    if (v < (1u << STATS_SUB_BITS)) {
        return (unsigned)v;
    }
    shift = 63 - (unsigned)__builtin_clzll(v) - STATS_SUB_BITS;
    return ((shift + 1) << STATS_SUB_BITS) +
           (unsigned)((v >> shift) & ((1u << STATS_SUB_BITS) - 1));
}

static uint64_t bucket_end(unsigned b)
{
    unsigned shift;

    if (b < (1u << STATS_SUB_BITS)) {
        return b;
    }
    shift = (b >> STATS_SUB_BITS) - 1;
    return ((((uint64_t)1 << STATS_SUB_BITS) + (b & ((1u << STATS_SUB_BITS) - 1)) + 1) << shift) -
           1;
}

void stats_add(Stats *s, uint64_t sent_ns, uint64_t latency_ns, unsigned disk)
{
    s->count++;
    s->sum_ns += latency_ns;
    s->bucket[bucket_of(latency_ns)]++;
    if (latency_ns > s->max_ns) {
        s->max_ns = latency_ns;
        s->max_at_ns = sent_ns;
        s->max_disk = disk;
    }
}

void stats_merge(Stats *into, const Stats *from)
{
    into->count += from->count;
    into->sum_ns += from->sum_ns;
    for (unsigned i = 0; i < STATS_BUCKETS; i++) {
        into->bucket[i] += from->bucket[i];
    }
    if (from->max_ns > into->max_ns) {
        into->max_ns = from->max_ns;
        into->max_at_ns = from->max_at_ns;
        into->max_disk = from->max_disk;
    }
}

uint64_t stats_percentile(const Stats *s, double share)
{
    uint64_t need = (uint64_t)(share * (double)s->count + 0.5), seen = 0;

    for (unsigned i = 0; i < STATS_BUCKETS; i++) {
        seen += s->bucket[i];
        if (seen >= need && seen > 0) {
            return bucket_end(i) < s->max_ns ? bucket_end(i) : s->max_ns;
        }
    }
    return s->max_ns;
}

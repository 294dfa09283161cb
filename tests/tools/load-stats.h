/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Latencies of a load, kept exactly enough: a histogram whose buckets are 1.6 % wide, and the exact maximum.
 */
#ifndef TESTS_TOOLS_LOAD_STATS_H
#define TESTS_TOOLS_LOAD_STATS_H

#include <stdint.h>
#include <time.h>

enum {
    STATS_SUB_BITS = 6, /* 64 buckets for each power of two */
    STATS_BUCKETS = (64 - STATS_SUB_BITS) << STATS_SUB_BITS,
};

typedef struct Stats {
    uint64_t count;
    uint64_t max_ns;
    uint64_t max_at_ns; /* when that request was sent, on the clock of load_now() */
    unsigned max_disk;  /* to which disk */
    uint64_t sum_ns;
    uint64_t bucket[STATS_BUCKETS];
} Stats;

/* Monotonic clock, ns. */
static inline uint64_t load_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void stats_add(Stats *s, uint64_t sent_ns, uint64_t latency_ns, unsigned disk);
void stats_merge(Stats *into, const Stats *from);

/* The latency below which a share (0..1) of all requests stayed: upper end of its bucket, never above the maximum. */
uint64_t stats_percentile(const Stats *s, double share);

#endif

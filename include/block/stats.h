/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Statistics: how much has been read and written.
 *
 *  - of a node: operations and bytes of every request into it, whoever sent it, so a format's metadata counts at its file.  Every thread counts
 *    for itself, beside the counts by which requests are waited for anyway.
 *  - of a root edge, for owners that want it: what one user of the disk asked for, with times.
 *
 *    Its times can be kept as histograms, too.
 *
 * Sums are taken while others count: a moment's requests may be missing in them.
 */
#ifndef BLOCK_STATS_H
#define BLOCK_STATS_H

#include "block/node.h"

typedef enum StatKind { STAT_READ, STAT_WRITE, STAT_FLUSH, STAT_UNMAP, STAT_KINDS } StatKind;

/* Sums. */
typedef struct Stats {
    uint64_t ops[STAT_KINDS], bytes[STAT_KINDS];      /* that succeeded */
    uint64_t failed[STAT_KINDS], invalid[STAT_KINDS]; /* operations */
    uint64_t time_ns[STAT_KINDS]; /* of operations, failed ones too if account_failed */
    int64_t last_ns;              /* virtual_clock_ns() of the last end; 0: there was none */
    uint64_t highest_write;       /* end of the highest write, bytes */
} Stats;

#define STATS_INTERVALS_MAX        16
#define STATS_INTERVAL_SECONDS_MAX 1000000

/* What is counted how. */
typedef struct StatsConfig {
    bool account_invalid; /* malformed requests count for the time of the last request */
    bool account_failed;  /* failed ones do, and their times */
    unsigned n_intervals; /* over which times are told; see BlockDeviceTimedStats */
    uint32_t interval[STATS_INTERVALS_MAX]; /* seconds, 1 to STATS_INTERVAL_SECONDS_MAX */
} StatsConfig;
#define STATS_CONFIG_DEFAULT ((StatsConfig){.account_invalid = true, .account_failed = true})

/* From now on requests by the edge are counted; before it is used for the first one. */
void edge_keep_stats(Edge *e, const StatsConfig *config);
/* Counts an operation that is no request: waiting for all of them, begun then, counts as a flush.  e has statistics.  A thread with a loop. */
void edge_stat_waited(Edge *e, int64_t begun_ns);
/* A request that was refused before it was one; e has statistics.  Any thread. */
void edge_stat_invalid(Edge *e, StatKind kind);
Stats edge_stats(const Edge *e); /* has them */
Stats node_stats(const Node *n);

/* How long requests of a kind took: bins[i] is the number of those of at least bounds[i - 1] and less than bounds[i] (ns). */
typedef struct Histogram {
    unsigned n;       /* of bounds; one bin more */
    uint64_t *bounds; /* rising, not 0 */
    _Atomic uint64_t *bins;
} Histogram;
/* Begins a new one; n: 0: none any more.  False: the bounds are not as they should be.  Control thread. */
bool coroutine_fn edge_set_histogram(Edge *e, StatKind kind, const uint64_t *bounds, unsigned n);
/* Control thread; NULL: there is none. */
const Histogram *edge_histogram(const Edge *e, StatKind kind);
/* Nobody uses the edge any more. */
void edge_stats_free(Edge *e);
/* The user with statistics of that name or id; NULL: none. */
Edge *stats_find_user(const char *id);

struct BlockStatsList;
/* As query-blockstats. */
struct BlockStatsList *stats_query(bool nodes);

/* The first write that ends behind `offset` is told by an event (BLOCK_WRITE_THRESHOLD), once; 0: none. */
void node_set_write_threshold(Node *n, uint64_t offset);

#endif

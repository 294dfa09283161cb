/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Statistics of the last seconds: how long requests took, and how many were under way.
 *
 * An interval is kept in PARTS parts; the oldest one is used again when a new one begins.  So what is told is of the last interval, less at most
 * one part of it.  The mean number of requests under way is the time that all of them took, divided by the time that has passed (Little's law).
 *
 * Lock: StatIntervals.lock, innermost.
 */
#include "block/stats.h"
#include "qapi-types.h"
#include "stats-internal.h"
#include <pthread.h>

#define PARTS  10
#define SECOND INT64_C(1000000000)

typedef struct Sum {
    uint64_t n, total_ns, min_ns, max_ns;
} Sum;

typedef struct Part {
    int64_t number; /* of the part since time 0; -1: unused */
    Sum sum[STAT_KINDS];
} Part;

typedef struct Interval {
    uint32_t seconds;
    Part part[PARTS];
} Interval;

struct StatIntervals {
    pthread_mutex_t lock;
    int64_t since; /* ns */
    unsigned n;
    Interval interval[];
};

StatIntervals *stat_intervals_new(const StatsConfig *config, int64_t now)
{
    StatIntervals *s = g_malloc0(sizeof(*s) + config->n_intervals * sizeof(s->interval[0]));

    pthread_mutex_init(&s->lock, NULL);
    s->since = now;
    s->n = config->n_intervals;
    for (unsigned i = 0; i < s->n; i++) {
        s->interval[i].seconds = config->interval[i];
        for (unsigned k = 0; k < PARTS; k++) {
            s->interval[i].part[k].number = -1;
        }
    }
    return s;
}

void stat_intervals_free(StatIntervals *s)
{
    if (s) {
        pthread_mutex_destroy(&s->lock);
        g_free(s);
    }
}

static int64_t part_ns(const Interval *i)
{
    return i->seconds * SECOND / PARTS;
}

static void merge(Sum *to, const Sum *s)
{
    if (s->n) {
        to->min_ns = to->n ? MIN(to->min_ns, s->min_ns) : s->min_ns;
        to->max_ns = MAX(to->max_ns, s->max_ns);
        to->n += s->n;
        to->total_ns += s->total_ns;
    }
}

void stat_intervals_add(StatIntervals *s, StatKind kind, int64_t now, uint64_t took_ns)
{
    Sum one = {1, took_ns, took_ns, took_ns};

    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < s->n; i++) {
        int64_t number = now / part_ns(&s->interval[i]);
        Part *p = &s->interval[i].part[number % PARTS];

        if (p->number < number) {
            *p = (Part){.number = number};
        }
        merge(&p->sum[kind], &one);
    }
    pthread_mutex_unlock(&s->lock);
}

static BlockDeviceTimedStats *info(const Interval *i, int64_t since, int64_t now)
{
    BlockDeviceTimedStats *t = g_new0(BlockDeviceTimedStats, 1);
    int64_t number = now / part_ns(i), begin = MAX((number - PARTS + 1) * part_ns(i), since);
    double passed = MAX(now - begin, 1);
    Sum sum[STAT_KINDS] = {0};

    for (unsigned k = 0; k < PARTS; k++) {
        for (unsigned kind = 0; i->part[k].number > number - PARTS && kind < STAT_KINDS; kind++) {
            merge(&sum[kind], &i->part[k].sum[kind]);
        }
    }
    t->interval_length = i->seconds;

#define TELL(kind, name)                                                                           \
    t->min_##name##_latency_ns = sum[kind].min_ns;                                                 \
    t->max_##name##_latency_ns = sum[kind].max_ns;                                                 \
    t->avg_##name##_latency_ns = sum[kind].n ? sum[kind].total_ns / sum[kind].n : 0

    TELL(STAT_READ, rd);
    TELL(STAT_WRITE, wr);
    TELL(STAT_FLUSH, flush);
#undef TELL
    t->avg_rd_queue_depth = sum[STAT_READ].total_ns / passed;
    t->avg_wr_queue_depth = sum[STAT_WRITE].total_ns / passed;
    return t;
}

BlockDeviceTimedStatsList *stat_intervals_info(StatIntervals *s, int64_t now)
{
    BlockDeviceTimedStatsList *list = NULL, **tail = &list;

    if (!s) {
        return NULL;
    }
    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < s->n; i++) {
        *tail = g_new0(BlockDeviceTimedStatsList, 1);
        (*tail)->value = info(&s->interval[i], s->since, now);
        tail = &(*tail)->next;
    }
    pthread_mutex_unlock(&s->lock);
    return list;
}

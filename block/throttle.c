/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Limits on speed; see block/throttle.h.
 *
 * Lock: ThrottleGroup.lock, innermost.
 */
#include "block/throttle.h"
#include <glib.h>
#include <pthread.h>
#include <stdatomic.h>

#define RATE_MAX UINT64_C(1000000000000000)
#define SECOND   1e9

struct ThrottleGroup {
    pthread_mutex_t lock;
    ThrottleConfig config;
    double level[THROTTLE_KINDS];       /* what is in the buckets, at `emptied` */
    double burst_level[THROTTLE_KINDS]; /* in those that hold a long burst to its rate */
    int64_t emptied;
    atomic_uint generation, refs;
};

void throttle_config_init(ThrottleConfig *ret_config)
{
    *ret_config = (ThrottleConfig){0};
    for (int k = 0; k < THROTTLE_KINDS; k++) {
        ret_config->limit[k].length = 1;
    }
}

static bool excluded(const ThrottleConfig *c, ThrottleKind total)
{
    bool any = c->limit[total].rate, any_burst = c->limit[total].burst;

    return (any && (c->limit[total + 1].rate || c->limit[total + 2].rate)) ||
           (any_burst && (c->limit[total + 1].burst || c->limit[total + 2].burst));
}

static const char *find_fault(const ThrottleConfig *c)
{
    if (excluded(c, THROTTLE_IOPS_TOTAL) || excluded(c, THROTTLE_BPS_TOTAL)) {
        return "bps/iops/max total values and read/write values cannot be used at the same time";
    }
    if (c->iops_size && !c->limit[THROTTLE_IOPS_TOTAL].rate && !c->limit[THROTTLE_IOPS_READ].rate &&
        !c->limit[THROTTLE_IOPS_WRITE].rate) {
        return "iops size requires an iops value to be set";
    }
    for (int k = 0; k < THROTTLE_KINDS; k++) {
        uint64_t rate = c->limit[k].rate, burst = c->limit[k].burst, length = c->limit[k].length;

        if (rate > RATE_MAX || burst > RATE_MAX) {
            return "bps/iops/max values must be within [0, 1000000000000000]";
        }
        if (length == 0) {
            return "the burst length cannot be 0";
        }
        if (length > 1 && !burst) {
            return "burst length set without burst rate";
        }
        if (burst && length > RATE_MAX / burst) {
            return "burst length too high for this burst rate";
        }
        if (burst && !rate) {
            return "bps_max/iops_max require corresponding bps/iops values";
        }
        if (burst && burst < rate) {
            return "bps_max/iops_max cannot be lower than bps/iops";
        }
    }
    return NULL;
}

bool throttle_config_check(const ThrottleConfig *config, Error **errp)
{
    const char *fault = find_fault(config);

    if (fault) {
        error_set(errp, ERROR_INVALID, NULL, "throttle", "%s", fault);
    }
    return !fault;
}

ThrottleGroup *throttle_group_new(void)
{
    ThrottleGroup *g = g_new0(ThrottleGroup, 1);

    pthread_mutex_init(&g->lock, NULL);
    atomic_init(&g->refs, 1);
    throttle_config_init(&g->config);
    return g;
}

ThrottleGroup *throttle_group_ref(ThrottleGroup *g)
{
    atomic_fetch_add(&g->refs, 1);
    return g;
}

void throttle_group_unref(ThrottleGroup *g)
{
    if (atomic_fetch_sub(&g->refs, 1) == 1) {
        pthread_mutex_destroy(&g->lock);
        g_free(g);
    }
}

void throttle_group_get(ThrottleGroup *g, ThrottleConfig *ret_config)
{
    pthread_mutex_lock(&g->lock);
    *ret_config = g->config;
    pthread_mutex_unlock(&g->lock);
}

void throttle_group_set(ThrottleGroup *g, const ThrottleConfig *config)
{
    pthread_mutex_lock(&g->lock);
    g->config = *config;
    for (int k = 0; k < THROTTLE_KINDS; k++) {
        g->level[k] = g->burst_level[k] = 0; /* those that wait are accounted anew */
    }
    pthread_mutex_unlock(&g->lock);
    atomic_fetch_add(&g->generation, 1);
}

unsigned throttle_group_generation(ThrottleGroup *g)
{
    return atomic_load(&g->generation);
}

static void empty(ThrottleGroup *g, int64_t now)
{
    double seconds = (now - g->emptied) / SECOND;

    for (int k = 0; k < THROTTLE_KINDS && seconds > 0; k++) {
        g->level[k] = MAX(0, g->level[k] - seconds * g->config.limit[k].rate);
        g->burst_level[k] = MAX(0, g->burst_level[k] - seconds * g->config.limit[k].burst);
    }
    g->emptied = MAX(now, g->emptied);
}

/* What the request adds to a bucket. */
static double units(const ThrottleConfig *c, int kind, uint64_t bytes)
{
    if (kind >= THROTTLE_BPS_TOTAL) {
        return bytes;
    }
    return c->iops_size && bytes > c->iops_size ? (double)bytes / c->iops_size : 1;
}

int64_t throttle_group_account(ThrottleGroup *g, bool is_write, uint64_t bytes, int64_t now)
{
    double wait = 0;

    pthread_mutex_lock(&g->lock);
    empty(g, now);
    for (int k = 0; k < THROTTLE_KINDS; k++) {
        uint64_t rate = g->config.limit[k].rate, burst = g->config.limit[k].burst;
        bool concerns = k % 3 == 0 || (k % 3 == 2) == is_write;
        double holds = burst ? (double)burst * g->config.limit[k].length : rate / 10.0;

        if (rate && concerns) {
            double added = units(&g->config, k, bytes);

            wait = MAX(wait, (g->level[k] - holds) / rate);
            g->level[k] += added;
            if (g->config.limit[k].length > 1) {
                wait = MAX(wait, (g->burst_level[k] - burst / 10.0) / burst);
                g->burst_level[k] += added;
            }
        }
    }
    pthread_mutex_unlock(&g->lock);
    return wait > 0 ? (int64_t)(wait * SECOND) : 0;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Limits on speed that several users share.
 *
 * Each limit is a bucket that requests fill and time empties, at the rate of the limit.  A request may begin when what is in the bucket is no
 * more than it holds: a tenth of a second's worth, or the burst.  A burst that may last more than a second has a bucket of its own besides, which
 * holds it to its rate.  A request is accounted when it is asked about, so those that
 * wait go in the order in which they came.
 */
#ifndef BLOCK_THROTTLE_H
#define BLOCK_THROTTLE_H

#include "util/error.h"
#include <stdint.h>

typedef enum ThrottleKind {
    THROTTLE_IOPS_TOTAL,
    THROTTLE_IOPS_READ,
    THROTTLE_IOPS_WRITE,
    THROTTLE_BPS_TOTAL,
    THROTTLE_BPS_READ,
    THROTTLE_BPS_WRITE,
    THROTTLE_KINDS,
} ThrottleKind;

typedef struct ThrottleConfig {
    struct {
        uint64_t rate;   /* a second; 0: no limit */
        uint64_t burst;  /* a second in a burst; 0: no burst */
        uint64_t length; /* seconds that a burst may last; >= 1 */
    } limit[THROTTLE_KINDS];
    uint64_t iops_size; /* bytes that count as one request; 0: each counts as one */
} ThrottleConfig;

typedef struct ThrottleGroup ThrottleGroup;

void throttle_config_init(ThrottleConfig *ret_config); /* no limits */
bool throttle_config_check(const ThrottleConfig *config, Error **errp);

ThrottleGroup *throttle_group_new(void);
/* Any thread. */
ThrottleGroup *throttle_group_ref(ThrottleGroup *g);
void throttle_group_unref(ThrottleGroup *g);
void throttle_group_get(ThrottleGroup *g, ThrottleConfig *ret_config);
/* Takes effect at once, also for those that wait.  config has been checked. */
void throttle_group_set(ThrottleGroup *g, const ThrottleConfig *config);
/* Accounts a request at time now (ns, of one clock for all users of the group).  Returns how many nanoseconds it must wait; 0: none.  Any thread. */
int64_t throttle_group_account(ThrottleGroup *g, bool is_write, uint64_t bytes, int64_t now);
/* Changes whenever limits are set: who waits looks again. */
unsigned throttle_group_generation(ThrottleGroup *g);

#endif

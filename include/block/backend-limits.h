/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Limits on the speed of backends (drives).
 *
 * A backend with limits is a member of a throttle group, by default one of its own name.  Groups are shared by name: with other backends, with
 * throttle-group objects, and with nodes of driver throttle.  Limits stay with the backend when its medium is changed or snapshotted.
 *
 * A request waits before it enters the medium's edge, so it is not counted there: nothing that waits for requests waits for a limit.
 * Time is that of util/virtual-clock.h.  All functions: control thread.
 */
#ifndef BLOCK_BACKEND_LIMITS_H
#define BLOCK_BACKEND_LIMITS_H

#include "block/backend.h"
#include "block/throttle.h"
#include "util/coroutine.h"

struct BlockDeviceInfo;

/* What a backend has of this file; zeroes: no limits. */
typedef struct BackendLimits {
    char *name;           /* of the group; NULL: no limits */
    ThrottleGroup *group; /* referenced */
} BackendLimits;

/* Sets the limits of the group that is called `group` (NULL: that of b's, or one of the name `fallback`) and makes b a member; a config without
 * any limit: b leaves its group, and requests that wait go at once.  Returns when those have ended, after a second at the latest.  Error: config
 * is not as throttle_config_check() wants it. */
bool coroutine_fn backend_set_limits(Backend *b, const ThrottleConfig *config, const char *group,
                                     const char *fallback, Error **errp);
/* The group that backends have by that name, with a reference; NULL: none. */
ThrottleGroup *backend_group_lookup(const char *name);
/* Fills in what query-block tells of limits. */
void backend_limits_info(const Backend *b, struct BlockDeviceInfo *info);
/* b is freed: no limits any more. */
void backend_limits_clear(BackendLimits *l);

/* Around each read or write-like request of a pinned medium: waits for its turn. */
void coroutine_fn medium_throttle_begin(Medium *m, bool is_write, uint64_t bytes);
void medium_throttle_end(void);
/* Requests that wait look at the time again.  Waits until those whose turn has come have ended, a second at the most. */
void coroutine_fn backend_limits_advance(void);

#endif

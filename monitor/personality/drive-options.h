/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From the flat options of a drive to a definition of nodes; private to monitor/personality/.
 */
#ifndef MONITOR_DRIVE_OPTIONS_H
#define MONITOR_DRIVE_OPTIONS_H

#include "block/backend.h"
#include "block/throttle.h"
#include "util/coroutine.h"
#include "util/error.h"
#include <json-c/json.h>

struct BlockdevOptions;

/* What a drive's options say about its nodes, beside what is left in the object of options. */
typedef struct DriveNodes {
    char *file;   /* file=; NULL: not given */
    char *driver; /* format= or driver=; NULL: to be probed */
    char *aio;    /* aio=: how the file is accessed; NULL: not given */
    bool read_only;
} DriveNodes;

/* `nested`: the options that are left, changed here.  *ret_options: NULL if they describe no medium. */
bool coroutine_fn drive_options_complete(const DriveNodes *d, struct json_object *nested,
                                         struct BlockdevOptions **ret_options, Error **errp);

/* Makes numbers of sizes with suffixes, and tells of options that there are not, or that are missing, in the words that drives have for it; below
 * too.  What is wrong otherwise is left to the parser. */
bool drive_options_check(struct json_object *o, Error **errp);
/* What a drive without a medium says of its first one. */
void drive_options_defaults(const DriveNodes *d, struct json_object *nested, MediumDefaults *ret);

/* ---- options of the drive itself; taken out of o, which is flat ---- */

/* An option that has two names gets the second one.  Error: both are given. */
bool drive_take_alias(struct json_object *o, const char *alias, const char *name, Error **errp);
bool drive_on_off(const char *key, const char *value, bool *ret, Error **errp);
/* limits.c: *ret_group is NULL if none is named; freed by the caller. */
bool drive_take_limits(struct json_object *o, ThrottleConfig *ret, char **ret_group, Error **errp);
bool drive_take_stats(struct json_object *o, StatsConfig *ret, Error **errp);

#endif

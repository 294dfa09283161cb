/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From the flat options of a drive to a definition of nodes; private to monitor/personality/.
 */
#ifndef MONITOR_DRIVE_OPTIONS_H
#define MONITOR_DRIVE_OPTIONS_H

#include "block/backend.h"
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

#endif

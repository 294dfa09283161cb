/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Option arguments: "file,node-name=x,cache.direct=on" or JSON.  Any thread.
 */
#ifndef MONITOR_KEYVAL_H
#define MONITOR_KEYVAL_H

#include "util/error.h"
#include <json-c/json.h>

/* A JSON object whose scalars are strings; dots in keys nest.  `implied`: the key of a first element without "=", NULL: there must be
 * none.  Commas in values are doubled; an implied value has none.  NULL with *errp on bad input.  Owned by the caller. */
struct json_object *keyval_parse(const char *text, const char *implied, Error **errp);

/* The same, or JSON if the text begins with '{'; *ret_keyval tells how scalars are to be read (qapi_parse()). */
struct json_object *option_parse(const char *text, const char *implied, bool *ret_keyval,
                                 Error **errp);

/* Text up to a single comma, with doubled ones made single; *pos ends behind the comma.  Owned by the caller. */
char *keyval_take_value(const char **pos);

#endif

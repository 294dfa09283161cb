/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * JSON as QMP prints it: ASCII only, ", " and ": " as separators, members in the order of QEMU's dictionaries.
 */
#ifndef QAPI_JSON_WRITER_H
#define QAPI_JSON_WRITER_H

#include <json-c/json.h>
#include <stdbool.h>

/* Freed with g_free().  pretty: 4 blanks a level.  Any thread. */
char *qapi_json_print(struct json_object *o, bool pretty);

#endif

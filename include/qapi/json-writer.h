/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * JSON as QMP prints it: ASCII only, ", " and ": " as separators, members in the order of QEMU's
 * dictionaries.
 *
 * Member order is part of what clients are used to: existing expectations compare text.  Members
 * come by ascending bucket of a hash of their name, within a bucket the last inserted first;
 * insertion order is the schema's.
 */
#ifndef QAPI_JSON_WRITER_H
#define QAPI_JSON_WRITER_H

#include <json-c/json.h>
#include <stdbool.h>

typedef struct QapiJsonMember {
    const char *key;           /* the object's */
    struct json_object *value; /* likewise; NULL: JSON null */
    unsigned bucket, index;
} QapiJsonMember;

/* The members of an object in that order; as many as json_object_object_length(o), at least room
 * for one.  Freed with g_free().  Any thread that may read o. */
QapiJsonMember *qapi_json_members(struct json_object *o);

/* The text of o (NULL: null), without a line end.  pretty: 4 blanks a level.  Strings are UTF-8,
 * a zero byte included; what is not UTF-8 prints as U+FFFD.  Freed with g_free().  Any thread
 * that may read o. */
char *qapi_json_print(struct json_object *o, bool pretty);

/* Remembers how an array prints (not pretty), for one that is printed often and changes no more.  Before others see it. */
void qapi_json_freeze(struct json_object *array);

#endif

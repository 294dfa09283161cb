/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * JSON values from a stream of bytes without any framing.
 *
 * Bytes are fed as they come; for each complete value, and for each error, the callback is called once.  After an error the stream goes on
 * with the next byte.  Limits: 64 MiB of text and 2 Mi tokens a value, 1024 levels.  Texts of errors are QEMU's.
 *
 * One thread at a time; not in a coroutine (the parser recurses).
 */
#ifndef MONITOR_JSON_STREAM_H
#define MONITOR_JSON_STREAM_H

#include "util/error.h"
#include <json-c/json.h>

typedef struct JsonStream JsonStream;

/* Either err is NULL and value is the callee's (NULL stands for a JSON null), or err is the caller's. */
typedef void JsonStreamFn(void *opaque, struct json_object *value, const Error *err);

JsonStream *json_stream_new(JsonStreamFn *fn, void *opaque);
void json_stream_free(JsonStream *s);
void json_stream_feed(JsonStream *s, const char *data, size_t len);
/* The input has ended: an unfinished value is an error. */
void json_stream_end(JsonStream *s);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(JsonStream, json_stream_free)

/* One value in a string, nothing behind it.  True with *ret_value (NULL: a JSON null), or false with *errp. */
bool json_parse_text(const char *text, struct json_object **ret_value, Error **errp);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Events: generated functions build them, whoever serves monitors sends them.  Control thread.
 */
#ifndef QAPI_EVENT_H
#define QAPI_EVENT_H

#include <json-c/json.h>

/* `event` is the whole message; the emitter takes its own reference if it keeps it. */
typedef void QapiEventEmitter(int id, struct json_object *event);
void qapi_event_set_emitter(QapiEventEmitter *emit);

/* For generated code; consumes data (NULL: none). */
void qapi_event_emit(int id, const char *name, struct json_object *data);

#endif

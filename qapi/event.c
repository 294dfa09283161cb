/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Events: the envelope.
 */
#include "qapi/event.h"
#include <glib.h>

static QapiEventEmitter *emitter;

void qapi_event_set_emitter(QapiEventEmitter *emit)
{
    emitter = emit;
}

void qapi_event_emit(int id, const char *name, struct json_object *data)
{
    gint64 now = g_get_real_time();
    struct json_object *event, *timestamp;

    if (!emitter) {
        json_object_put(data);
        return;
    }
    timestamp = json_object_new_object();
    json_object_object_add(timestamp, "seconds", json_object_new_int64(now / G_USEC_PER_SEC));
    json_object_object_add(timestamp, "microseconds", json_object_new_int64(now % G_USEC_PER_SEC));
    event = json_object_new_object();
    json_object_object_add(event, "event", json_object_new_string(name));
    if (data) {
        json_object_object_add(event, "data", data);
    }
    json_object_object_add(event, "timestamp", timestamp);
    emitter(id, event);
    json_object_put(event);
}

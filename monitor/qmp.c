/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * QMP sessions.
 *
 * Bytes of a client become requests (json-stream.c); requests wait in a queue; one at a time is carried out in a coroutine of the
 * control thread, so a slow command holds up its own session and no other.  While requests wait, nothing is read: the queue is
 * bounded by one read.
 *
 * All sessions write from the control thread: replies and events leave in the order in which they were made.  A client that does not
 * read is cut off when OUTPUT_MAX bytes wait for it.
 *
 * A client that goes away while its command runs: the command goes on, its reply is dropped.  `epoch` tells clients of one
 * device apart.
 */
#include "monitor/qmp.h"
#include "monitor/json-stream.h"
#include "qapi-commands.h"
#include "qapi/event.h"
#include "qapi/json-writer.h"
#include "qmp-session.h"
#include "util/coroutine.h"
#include "util/log.h"
#include "util/loop.h"
#include <string.h>

#define OUTPUT_MAX (64u << 20)

struct QmpSession {
    Chardev *chardev;
    JsonStream *stream;
    GQueue requests; /* Request *: in order */
    Coroutine *running;
    struct json_object *current; /* the running request */
    unsigned epoch;
    bool connected, negotiated, pretty;
    void (*after_reply)(void);
};

/* What the stream delivered: a value or an error. */
typedef struct QueuedRequest {
    struct json_object *value;
    Error *err;
} QueuedRequest;

static GPtrArray *sessions;

static void send_json(QmpSession *s, struct json_object *o)
{
    g_autofree char *text = qapi_json_print(o, s->pretty), *line = g_strconcat(text, "\r\n", NULL);

    chardev_write(s->chardev, line, strlen(line));
    if (chardev_queued(s->chardev) > OUTPUT_MAX) {
        log_warn("a QMP client does not read its replies: disconnected");
        chardev_disconnect(s->chardev);
    }
}

static void send_greeting(QmpSession *s)
{
    struct json_object *greeting = json_object_new_object(), *qmp = json_object_new_object();
    VersionInfo *version = NULL;
    g_autoptr(Error) err = NULL;

    if (qmp_query_version(&version, &err)) {
        json_object_object_add(qmp, "version", qapi_serialise_VersionInfo(version));
        qapi_free_VersionInfo(version);
    }
    json_object_object_add(qmp, "capabilities", json_object_new_array());
    json_object_object_add(greeting, "QMP", qmp);
    send_json(s, greeting);
    json_object_put(greeting);
}

/* ---- carrying out ---- */

static bool allowed(void *opaque, const char *name, Error **errp)
{
    const QmpSession *s = opaque;
    bool negotiation = strcmp(name, "qmp_capabilities") == 0;

    if (!s->negotiated && !negotiation) {
        error_set_class(errp, ERROR_CLASS_COMMAND_NOT_FOUND, ERROR_INVALID, name, "dispatch",
                        "Expecting capabilities negotiation with 'qmp_capabilities'");
        return false;
    }
    return true;
}

static void request_free(QueuedRequest *q)
{
    json_object_put(q->value);
    error_free(q->err);
    g_free(q);
}

typedef struct Execution {
    QmpSession *session;
    QueuedRequest *request;
    unsigned epoch;
} Execution;

static void run_next(QmpSession *s);

static void coroutine_fn execute(void *opaque)
{
    Execution x = *(Execution *)opaque;
    QmpSession *s = x.session;
    struct json_object *reply;
    void (*after)(void);

    g_free(opaque);
    s->running = co_self();
    if (x.request->err) {
        reply = qapi_error_reply(x.request->err, NULL);
    } else {
        reply = qapi_dispatch(qapi_commands, qapi_commands_count, x.request->value, allowed, s);
    }
    s->running = NULL;
    after = s->after_reply;
    s->after_reply = NULL;
    if (reply && s->connected && s->epoch == x.epoch) {
        send_json(s, reply);
    }
    json_object_put(reply);
    request_free(x.request);
    if (after) {
        after();
    }
    run_next(s);
}

/* Starts the next request, or reading again when there is none. */
static void run_next(QmpSession *s)
{
    Execution *x;

    if (s->running || !s->connected) {
        return;
    }
    if (g_queue_is_empty(&s->requests)) {
        chardev_set_reading(s->chardev, true);
        return;
    }
    chardev_set_reading(s->chardev, false);
    x = g_new(Execution, 1);
    *x = (Execution){.session = s, .request = g_queue_pop_head(&s->requests), .epoch = s->epoch};
    co_spawn(loop_control(), execute, x);
    s->running = (Coroutine *)s; /* until it really runs */
}

QmpSession *qmp_session_current(void)
{
    Coroutine *co = co_self();

    for (guint i = 0; sessions && co && i < sessions->len; i++) {
        QmpSession *s = g_ptr_array_index(sessions, i);

        if (s->running == co) {
            return s;
        }
    }
    return NULL;
}

bool qmp_session_is_negotiated(const QmpSession *s)
{
    return s->negotiated;
}

void qmp_session_set_negotiated(QmpSession *s)
{
    s->negotiated = true;
}

void qmp_after_reply(void (*fn)(void))
{
    QmpSession *s = qmp_session_current();

    if (s) {
        s->after_reply = fn;
    } else {
        fn();
    }
}

/* ---- the device ---- */

static void on_value(void *opaque, struct json_object *value, const Error *err)
{
    QmpSession *s = opaque;
    QueuedRequest *q = g_new0(QueuedRequest, 1);

    q->value = value;
    q->err = err ? error_copy(err) : NULL;
    g_queue_push_tail(&s->requests, q);
}

static void on_opened(void *opaque)
{
    QmpSession *s = opaque;

    s->epoch++;
    s->connected = true;
    s->negotiated = false;
    s->stream = json_stream_new(on_value, s);
    send_greeting(s);
}

static void on_received(void *opaque, const char *data, size_t len)
{
    QmpSession *s = opaque;

    json_stream_feed(s->stream, data, len);
    run_next(s);
}

static void on_closed(void *opaque)
{
    QmpSession *s = opaque;
    QueuedRequest *q;

    s->connected = false;
    s->negotiated = false;
    json_stream_free(s->stream);
    s->stream = NULL;
    while ((q = g_queue_pop_head(&s->requests))) {
        request_free(q);
    }
}

static const ChardevUser user = {
    .opened = on_opened,
    .received = on_received,
    .closed = on_closed,
};

/* ---- events ---- */

static void emit(int id, struct json_object *event)
{
    (void)id; /* rate limits by event come with the events that need them */
    for (guint i = 0; i < sessions->len; i++) {
        QmpSession *s = g_ptr_array_index(sessions, i);

        if (s->connected && s->negotiated) {
            send_json(s, event);
        }
    }
}

bool qmp_monitor_new(Chardev *c, bool pretty, Error **errp)
{
    QmpSession *s = g_new0(QmpSession, 1);

    if (!sessions) {
        sessions = g_ptr_array_new();
        qapi_event_set_emitter(emit);
    }
    s->chardev = c;
    s->pretty = pretty;
    g_queue_init(&s->requests);
    g_ptr_array_add(sessions, s);
    if (!chardev_attach(c, &user, s, errp)) {
        g_ptr_array_remove(sessions, s);
        g_free(s);
        return false;
    }
    return true;
}

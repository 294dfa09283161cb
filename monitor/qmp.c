/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * QMP sessions.
 *
 * Bytes of a client become requests (json-stream.c).  Requests wait in one of two lanes, each of which carries out one at a time, in a
 * coroutine of the control thread: those in band in order, and, once the client has negotiated it, those out of band beside
 * them.  So a slow command holds up its own lane and nothing else.
 *
 * Flow control: `input` holds what has been received and not been parsed.  It is parsed in pieces, and only while no lane is full; while
 * there is any, nothing is read.  A lane is full when it has LANE_MAX requests (in band without out of band: one, the one that runs).
 *
 * A client that does not read its replies is not served on: a lane begins nothing while REPLIES_MAX bytes wait.  Events it gets all the
 * same, until OUTPUT_MAX.
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
#include "event-rate.h"
#include "qmp-session.h"
#include "received-fds.h"
#include "util/coroutine.h"
#include "util/log.h"
#include "util/loop.h"
#include "util/passed-fd.h"
#include <string.h>

/* Bytes of output that wait: no command is begun beyond the first, the client is cut off beyond the second. */
#define REPLIES_MAX (1u << 20)
#define OUTPUT_MAX  (64u << 20)
/* Requests that wait in a lane. */
#define LANE_MAX 8u
/* Bytes parsed between two looks at the lanes: as many requests can they hold at most. */
#define PIECE_MAX 256u

typedef struct Lane {
    QmpSession *session;
    GQueue requests; /* QueuedRequest *: in order */
    Coroutine *running;
    bool busy;    /* one runs, or will in a moment */
    unsigned fds; /* batch of descriptors of the running one */
    void (*after_reply)(void);
} Lane;

struct QmpSession {
    Chardev *chardev;
    JsonStream *stream;
    GByteArray *input;
    guint parsed; /* bytes of input that are done */
    Lane in_band, out_of_band;
    ReceivedFds fds;
    unsigned epoch;
    bool connected, negotiated, oob, pretty;
};

/* What the stream delivered: a value or an error. */
typedef struct QueuedRequest {
    struct json_object *value;
    Error *err;
    unsigned fds; /* newest batch of descriptors at the time */
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
    struct json_object *greeting = json_object_new_object(), *qmp = json_object_new_object(),
                       *capabilities;
    VersionInfo *version = NULL;
    g_autoptr(Error) err = NULL;

    if (qmp_query_version(&version, &err)) {
        json_object_object_add(qmp, "version", qapi_serialise_VersionInfo(version));
        qapi_free_VersionInfo(version);
    }
    capabilities = json_object_new_array();
    if (qmp_session_offers_oob(s)) {
        json_object_array_add(capabilities, json_object_new_string("oob"));
    }
    json_object_object_add(qmp, "capabilities", capabilities);
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
    Lane *lane;
    QueuedRequest *request;
    unsigned epoch;
} Execution;

static void advance(QmpSession *s);

static void coroutine_fn execute(void *opaque)
{
    Execution x = *(Execution *)opaque;
    Lane *lane = x.lane;
    QmpSession *s = lane->session;
    struct json_object *reply;
    void (*after)(void);

    g_free(opaque);
    lane->running = co_self();
    co_set_purpose(lane);
    lane->fds = x.request->fds;
    if (x.request->err) {
        reply = qapi_error_reply(x.request->err, NULL);
    } else if (s->oob) {
        reply = qapi_dispatch_oob(qapi_commands, qapi_commands_count, x.request->value, allowed, s);
    } else {
        reply = qapi_dispatch(qapi_commands, qapi_commands_count, x.request->value, allowed, s);
    }
    lane->running = NULL;
    lane->busy = false;
    after = g_steal_pointer(&lane->after_reply);
    if (reply && s->connected && s->epoch == x.epoch) {
        send_json(s, reply);
    }
    json_object_put(reply);
    request_free(x.request);
    if (after) {
        after();
    }
    advance(s);
}

static void start_next(Lane *lane)
{
    Execution *x;

    if (lane->busy || g_queue_is_empty(&lane->requests) ||
        chardev_queued(lane->session->chardev) > REPLIES_MAX) {
        return;
    }
    lane->busy = true;
    x = g_new(Execution, 1);
    *x = (Execution){
        .lane = lane, .request = g_queue_pop_head(&lane->requests), .epoch = lane->session->epoch};
    co_spawn(loop_control(), execute, x);
}

static bool is_full(const QmpSession *s)
{
    if (!s->oob) {
        return s->in_band.busy || !g_queue_is_empty((GQueue *)&s->in_band.requests);
    }
    return g_queue_get_length((GQueue *)&s->in_band.requests) >= LANE_MAX ||
           g_queue_get_length((GQueue *)&s->out_of_band.requests) >= LANE_MAX;
}

/* A request ends with a bracket: nothing behind it is parsed before the lanes have been looked at. */
static guint piece(const guint8 *p, guint len)
{
    for (guint i = 0; i < len && i < PIECE_MAX; i++) {
        if (p[i] == '}' || p[i] == ']') {
            return i + 1;
        }
    }
    return MIN(len, PIECE_MAX);
}

/* Parses what may be parsed, starts what may be started, reads on if everything has been parsed. */
static void advance(QmpSession *s)
{
    while (s->connected) {
        guint left = s->input->len - s->parsed, n;

        start_next(&s->in_band);
        start_next(&s->out_of_band);
        if (left == 0 || is_full(s)) {
            break;
        }
        n = piece(s->input->data + s->parsed, left);
        s->parsed += n;
        json_stream_feed(s->stream, (const char *)s->input->data + s->parsed - n, n);
    }
    if (s->connected) {
        bool done = s->parsed == s->input->len;

        if (done) {
            g_byte_array_set_size(s->input, 0);
            s->parsed = 0;
        }
        chardev_set_reading(s->chardev, done && !is_full(s));
    }
}

static Lane *current_lane(void)
{
    const void *purpose = co_purpose();

    for (guint i = 0; sessions && purpose && i < sessions->len; i++) {
        QmpSession *s = g_ptr_array_index(sessions, i);

        if (purpose == &s->in_band && s->in_band.running) {
            return &s->in_band;
        }
        if (purpose == &s->out_of_band && s->out_of_band.running) {
            return &s->out_of_band;
        }
    }
    return NULL;
}

QmpSession *qmp_session_current(void)
{
    Lane *lane = current_lane();

    return lane ? lane->session : NULL;
}

bool qmp_session_is_negotiated(const QmpSession *s)
{
    return s->negotiated;
}

void qmp_session_set_negotiated(QmpSession *s, bool oob)
{
    s->negotiated = true;
    s->oob = oob;
}

bool qmp_session_offers_oob(const QmpSession *s)
{
    return chardev_offers_oob(s->chardev);
}

int qmp_session_take_fd(QmpSession *s)
{
    Lane *lane = current_lane();

    return lane && lane->session == s ? received_fds_take(&s->fds, lane->fds) : -1;
}

void qmp_after_reply(void (*fn)(void))
{
    Lane *lane = current_lane();

    if (lane) {
        lane->after_reply = fn;
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
    q->fds = s->fds.newest;
    g_queue_push_tail(s->oob && !err && qapi_request_is_oob(value) ? &s->out_of_band.requests
                                                                   : &s->in_band.requests,
                      q);
}

static void on_opened(void *opaque)
{
    QmpSession *s = opaque;

    s->epoch++;
    s->connected = true;
    s->negotiated = s->oob = false;
    s->stream = json_stream_new(on_value, s);
    send_greeting(s);
}

static void on_descriptors(void *opaque, const int *fds, unsigned n)
{
    QmpSession *s = opaque;

    received_fds_add(&s->fds, fds, n);
}

static void on_received(void *opaque, const char *data, size_t len)
{
    QmpSession *s = opaque;

    g_byte_array_append(s->input, (const guint8 *)data, len);
    advance(s);
}

static void on_drained(void *opaque)
{
    advance(opaque);
}

static void drop_requests(Lane *lane)
{
    QueuedRequest *q;

    while ((q = g_queue_pop_head(&lane->requests))) {
        request_free(q);
    }
}

static void on_closed(void *opaque)
{
    QmpSession *s = opaque;

    s->connected = false;
    s->negotiated = s->oob = false;
    g_clear_pointer(&s->stream, json_stream_free);
    g_byte_array_unref(s->input);
    s->input = g_byte_array_new();
    s->parsed = 0;
    drop_requests(&s->in_band);
    drop_requests(&s->out_of_band);
    received_fds_clear(&s->fds);
}

static const ChardevUser user = {
    .opened = on_opened,
    .descriptors = on_descriptors,
    .received = on_received,
    .drained = on_drained,
    .closed = on_closed,
};

/* ---- events ---- */

static void send_event(struct json_object *event)
{
    for (guint i = 0; i < sessions->len; i++) {
        QmpSession *s = g_ptr_array_index(sessions, i);

        if (s->connected && s->negotiated) {
            send_json(s, event);
        }
    }
}

static void emit(int id, struct json_object *event)
{
    (void)id;
    event_rate_send(event, send_event);
}

static const void *names_owner(void)
{
    return qmp_session_current();
}

static void lane_init(Lane *lane, QmpSession *s)
{
    lane->session = s;
    g_queue_init(&lane->requests);
}

bool qmp_monitor_new(Chardev *c, bool pretty, Error **errp)
{
    QmpSession *s = g_new0(QmpSession, 1);

    if (!sessions) {
        sessions = g_ptr_array_new();
        qapi_event_set_emitter(emit);
        named_fd_set_owner(names_owner);
    }
    s->chardev = c;
    s->pretty = pretty;
    s->input = g_byte_array_new();
    lane_init(&s->in_band, s);
    lane_init(&s->out_of_band, s);
    g_ptr_array_add(sessions, s);
    if (!chardev_attach(c, &user, s, errp)) {
        g_ptr_array_remove(sessions, s);
        g_byte_array_unref(s->input);
        g_free(s);
        return false;
    }
    return true;
}

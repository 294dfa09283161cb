/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Carrying out one request: checks in the order and with the texts that clients know, then the
 * command.
 *
 * Order: shape of the request (members in dictionary order), whether the session allows the
 * command, whether it exists, whether it may run out of band, its arguments, the command.
 */
#include "qapi/dispatch.h"
#include "qapi/json-writer.h"
#include <string.h>

typedef struct Request {
    const char *name;         /* the command's; in the JSON value, as all here */
    struct json_object *args; /* NULL: none given */
    bool oob;
} Request;

static GHashTable *raw_commands, *open_commands, *hidden;

void qapi_set_raw_command(const char *name, QapiRawCommand *fn)
{
    if (!raw_commands) {
        raw_commands = g_hash_table_new(g_str_hash, g_str_equal);
    }
    g_hash_table_insert(raw_commands, (void *)name, (void *)fn);
}

void qapi_set_open_command(const char *name, QapiRawCommand *fn)
{
    qapi_set_raw_command(name, fn);
    if (!open_commands) {
        open_commands = g_hash_table_new(g_str_hash, g_str_equal);
    }
    g_hash_table_add(open_commands, (void *)name);
}

void qapi_hide(const char *name)
{
    if (!hidden) {
        hidden = g_hash_table_new(g_str_hash, g_str_equal);
    }
    g_hash_table_add(hidden, (void *)name);
}

bool qapi_is_hidden(const char *name)
{
    return hidden && g_hash_table_contains(hidden, name);
}

static bool bad_member(Error **errp, const char *member, const char *what)
{
    error_set(errp, ERROR_INVALID, member, "request", "QMP input member '%s' %s", member, what);
    return false;
}

static bool take_execute(Request *r, const char *key, struct json_object *value, Error **errp)
{
    if (!json_object_is_type(value, json_type_string)) {
        return bad_member(errp, key, "must be a string");
    }
    if (r->name) {
        error_set(errp, ERROR_INVALID, key, "request", "QMP input member '%s' clashes with '%s'",
                  key, r->oob ? "exec-oob" : "execute");
        return false;
    }
    r->name = json_object_get_string(value);
    r->oob = strcmp(key, "exec-oob") == 0;
    return true;
}

static bool check_request(struct json_object *request, bool oob, Request *r, Error **errp)
{
    g_autofree QapiJsonMember *members = NULL;
    int n;

    if (!json_object_is_type(request, json_type_object)) {
        error_set(errp, ERROR_INVALID, NULL, "request", "QMP input must be a JSON object");
        return false;
    }
    members = qapi_json_members(request);
    n = json_object_object_length(request);
    for (int i = 0; i < n; i++) {
        const char *key = members[i].key;

        if (strcmp(key, "execute") == 0 || (oob && strcmp(key, "exec-oob") == 0)) {
            if (!take_execute(r, key, members[i].value, errp)) {
                return false;
            }
        } else if (strcmp(key, "arguments") == 0) {
            if (!json_object_is_type(members[i].value, json_type_object)) {
                return bad_member(errp, key, "must be an object");
            }
            r->args = members[i].value;
        } else if (strcmp(key, "id") != 0) {
            return bad_member(errp, key, "is unexpected");
        }
    }
    if (!r->name) {
        error_set(errp, ERROR_INVALID, NULL, "request", "QMP input lacks member 'execute'");
        return false;
    }
    return true;
}

static const QapiCommand *find(const QapiCommand *table, unsigned count, const Request *r,
                               Error **errp)
{
    for (unsigned i = 0; i < count; i++) {
        const QapiCommand *c = &table[i];

        if (strcmp(c->name, r->name) != 0 || qapi_is_hidden(c->name)) {
            continue;
        }
        if (r->oob && !(c->flags & QAPI_COMMAND_OOB)) {
            error_set(errp, ERROR_UNSUPPORTED, r->name, "dispatch",
                      "The command %s does not support OOB", r->name);
            return NULL;
        }
        return c;
    }
    error_set_class(errp, ERROR_CLASS_COMMAND_NOT_FOUND, ERROR_NOT_FOUND, r->name, "dispatch",
                    "The command %s has not been found", r->name);
    return NULL;
}

static bool coroutine_fn run_raw(const QapiCommand *c, struct json_object *args,
                                 struct json_object **ret_out, Error **errp)
{
    QapiRawCommand *fn =
        raw_commands ? (QapiRawCommand *)g_hash_table_lookup(raw_commands, c->name) : NULL;

    if (!fn) {
        error_set_class(errp, ERROR_CLASS_COMMAND_NOT_FOUND, ERROR_UNSUPPORTED, c->name, "dispatch",
                        "Command %s has been disabled", c->name);
        return false;
    }
    *ret_out = fn(args, errp);
    return *ret_out;
}

/* The type of arguments of a command that has none. */
static const QapiType no_arguments = {.name = "q_empty", .meta = QAPI_META_OBJECT, .size = 1};

static bool coroutine_fn run(const QapiCommand *c, struct json_object *args,
                             struct json_object **ret_out, Error **errp)
{
    const QapiType *type = c->arg ? c->arg : &no_arguments;
    g_autoptr(JsonObject) none = json_object_new_object();
    union {
        void *pointer;
        int64_t integer;
        double number;
    } ret = {0};
    void *arg = NULL;
    bool ok;

    if (open_commands && g_hash_table_contains(open_commands, c->name)) {
        return run_raw(c, args ? args : none, ret_out, errp);
    }
    if (!qapi_parse(type, args ? args : none, false, &arg, errp)) {
        return false;
    }
    if (!c->marshal) {
        ok = run_raw(c, args ? args : none, ret_out, errp);
    } else {
        ok = c->marshal(arg, &ret, errp);
        if (ok) {
            *ret_out = c->ret ? qapi_serialise_at(c->ret, &ret) : json_object_new_object();
        }
        if (ok && c->ret) {
            qapi_clear_at(c->ret, &ret);
        }
    }
    qapi_free(type, arg);
    return ok;
}

struct json_object *qapi_error_reply(const Error *err, struct json_object *id)
{
    struct json_object *reply = json_object_new_object(), *e = json_object_new_object();

    json_object_object_add(e, "class", json_object_new_string(error_class_name(err->cls)));
    json_object_object_add(e, "desc", json_object_new_string(err->message));
    json_object_object_add(reply, "error", e);
    if (id) {
        json_object_object_add(reply, "id", json_object_get(id));
    }
    return reply;
}

static struct json_object *coroutine_fn dispatch(const QapiCommand *table, unsigned count,
                                                 struct json_object *request, bool oob,
                                                 QapiAllowed *allowed, void *opaque)
{
    struct json_object *id = NULL, *ret = NULL, *reply;
    g_autoptr(Error) err = NULL;
    const QapiCommand *c = NULL;
    Request r = {0};
    bool has_id = json_object_is_type(request, json_type_object) &&
                  json_object_object_get_ex(request, "id", &id);

    if (check_request(request, oob, &r, &err) && (!allowed || allowed(opaque, r.name, &err))) {
        c = find(table, count, &r, &err);
    }
    if (c && run(c, r.args, &ret, &err)) {
        reply = json_object_new_object();
        json_object_object_add(reply, "return", ret);
    } else {
        reply = qapi_error_reply(err, NULL);
    }
    if (has_id) {
        json_object_object_add(reply, "id", json_object_get(id));
    }
    if (!err && c->flags & QAPI_COMMAND_NO_RESPONSE) {
        json_object_put(reply);
        return NULL;
    }
    return reply;
}

struct json_object *coroutine_fn qapi_dispatch(const QapiCommand *table, unsigned count,
                                               struct json_object *request, QapiAllowed *allowed,
                                               void *opaque)
{
    return dispatch(table, count, request, false, allowed, opaque);
}

struct json_object *coroutine_fn qapi_dispatch_oob(const QapiCommand *table, unsigned count,
                                                   struct json_object *request,
                                                   QapiAllowed *allowed, void *opaque)
{
    return dispatch(table, count, request, true, allowed, opaque);
}

bool qapi_request_is_oob(struct json_object *request)
{
    return json_object_is_type(request, json_type_object) &&
           json_object_object_get_ex(request, "exec-oob", NULL) &&
           !json_object_object_get_ex(request, "execute", NULL);
}

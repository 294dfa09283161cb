/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Carrying out one request: checks in the order and with the texts that clients know, then the command.
 */
#include "qapi/dispatch.h"
#include <string.h>

static GHashTable *raw_commands;

void qapi_set_raw_command(const char *name, QapiRawCommand *fn)
{
    if (!raw_commands) {
        raw_commands = g_hash_table_new(g_str_hash, g_str_equal);
    }
    g_hash_table_insert(raw_commands, (void *)name, (void *)fn);
}

static bool bad(Error **errp, const char *fmt, const char *member)
{
    const char *hole = strstr(fmt, "%s");

    error_set(errp, ERROR_INVALID, NULL, "request", "%.*s%s%s", hole ? (int)(hole - fmt) : (int)strlen(fmt), fmt,
              hole ? member : "", hole ? hole + 2 : "");
    return false;
}

/* The request's shape; *ret_name and *ret_args point into it. */
static bool check_request(struct json_object *request, const char **ret_name, struct json_object **ret_args, Error **errp)
{
    const char *name = NULL;
    struct json_object *args = NULL;

    if (!json_object_is_type(request, json_type_object)) {
        return bad(errp, "QMP input must be a JSON object", NULL);
    }
    json_object_object_foreach(request, key, value) {
        if (strcmp(key, "execute") == 0) {
            if (!json_object_is_type(value, json_type_string)) {
                return bad(errp, "QMP input member '%s' must be a string", key);
            }
            name = json_object_get_string(value);
        } else if (strcmp(key, "arguments") == 0) {
            if (!json_object_is_type(value, json_type_object)) {
                return bad(errp, "QMP input member '%s' must be an object", key);
            }
            args = value;
        } else if (strcmp(key, "id") != 0) {
            return bad(errp, "QMP input member '%s' is unexpected", key);
        }
    }
    if (!name) {
        return bad(errp, "QMP input lacks member 'execute'", NULL);
    }
    *ret_name = name;
    *ret_args = args;
    return true;
}

static const QapiCommand *find(const QapiCommand *table, unsigned count, const char *name)
{
    for (unsigned i = 0; i < count; i++) {
        if (strcmp(table[i].name, name) == 0) {
            return &table[i];
        }
    }
    return NULL;
}

static bool coroutine_fn run(const QapiCommand *c, struct json_object *args, struct json_object **ret_out, Error **errp)
{
    g_autoptr(JsonObject) none = json_object_new_object();
    void *arg = NULL, *ret = NULL;
    bool ok;

    args = args ? args : none;
    if (!c->marshal) {
        QapiRawCommand *fn = (QapiRawCommand *)g_hash_table_lookup(raw_commands, c->name);

        *ret_out = fn(errp);
        return *ret_out;
    }
    if (c->arg) {
        if (!qapi_parse(c->arg, args, false, &arg, errp)) {
            return false;
        }
    } else {
        json_object_object_foreach(args, key, value) {
            (void)value;
            return bad(errp, "Parameter '%s' is unexpected", key);
        }
    }
    ok = c->marshal(arg, &ret, errp);
    if (c->arg) {
        qapi_free(c->arg, arg);
    }
    if (!ok) {
        return false;
    }
    *ret_out = c->ret ? qapi_serialise(c->ret, ret) : json_object_new_object();
    if (c->ret) {
        qapi_free(c->ret, ret);
    }
    return true;
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

struct json_object *coroutine_fn qapi_dispatch(const QapiCommand *table, unsigned count, struct json_object *request,
                                               bool (*allowed)(void *opaque, const char *name, Error **errp),
                                               void *opaque)
{
    g_autoptr(Error) err = NULL;
    struct json_object *id = NULL, *args = NULL, *ret = NULL, *reply;
    const QapiCommand *c;
    const char *name = NULL;
    bool has_id = json_object_is_type(request, json_type_object) && json_object_object_get_ex(request, "id", &id);

    if (!check_request(request, &name, &args, &err) || (allowed && !allowed(opaque, name, &err))) {
        return qapi_error_reply(err, id);
    }
    c = find(table, count, name);
    if (!c) {
        error_set_class(&err, ERROR_CLASS_COMMAND_NOT_FOUND, ERROR_NOT_FOUND, name, "dispatch",
                        "The command %s has not been found", name);
        return qapi_error_reply(err, id);
    }
    if (!run(c, args, &ret, &err)) {
        return qapi_error_reply(err, id);
    }
    reply = json_object_new_object();
    json_object_object_add(reply, "return", ret);
    if (has_id) {
        json_object_object_add(reply, "id", json_object_get(id));
    }
    return reply;
}

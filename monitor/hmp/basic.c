/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Console commands about the console itself, objects, devices and the machine.
 */
#include "hmp-table.h"
#include "monitor/keyval.h"
#include "monitor/personality/emulator.h"
#include "qapi-commands.h"
#include "qapi/json-writer.h"
#include <string.h>

const char *hmp_get_string(struct json_object *o, const char *name)
{
    struct json_object *v = hmp_get(o, name);

    return v ? json_object_get_string(v) : "";
}

int64_t hmp_get_int(struct json_object *o, const char *name)
{
    struct json_object *v = hmp_get(o, name);

    return v ? json_object_get_int64(v) : 0;
}

bool hmp_get_bool(struct json_object *o, const char *name)
{
    struct json_object *v = hmp_get(o, name);

    return v && json_object_get_boolean(v);
}

struct json_object *hmp_get(struct json_object *o, const char *name)
{
    struct json_object *v;

    return json_object_object_get_ex(o, name, &v) ? v : NULL;
}

struct json_object *hmp_object(const char *name, ...)
{
    struct json_object *o = json_object_new_object();
    va_list ap;

    va_start(ap, name);
    for (const char *n = name; n; n = va_arg(ap, const char *)) {
        const char *value = va_arg(ap, const char *);

        if (value) {
            json_object_object_add(o, n, json_object_new_string(value));
        }
    }
    va_end(ap);
    return o;
}

/* ---- help ---- */

static void print_help(Hmp *h, const HmpCommand *c, const char *prefix)
{
    hmp_print(h, "%s%s %s -- %s\n", prefix, c->name, c->params, c->help);
}

static void print_all(Hmp *h, const HmpCommand *table, const char *prefix)
{
    for (; table->name; table++) {
        if (hmp_available(table)) {
            print_help(h, table, prefix);
        }
    }
}

bool coroutine_fn hmp_help(Hmp *h, struct json_object *args, Error **errp)
{
    const char *name = hmp_string(args, "name");
    const HmpCommand *c;

    (void)errp;
    if (!name) {
        print_all(h, hmp_commands, "");
    } else if (strcmp(name, "info") == 0) {
        print_all(h, hmp_info_commands, "info ");
    } else if (g_str_has_prefix(name, "info ") && (c = hmp_find(hmp_info_commands, name + 5))) {
        print_help(h, c, "info ");
    } else if ((c = hmp_find(hmp_commands, name))) {
        print_help(h, c, "");
    } else {
        hmp_print(h, "unknown command: '%s'\n", name);
    }
    return true;
}

bool coroutine_fn hmp_info(Hmp *h, struct json_object *args, Error **errp)
{
    (void)args;
    (void)errp;
    print_all(h, hmp_info_commands, "info ");
    return true;
}

bool coroutine_fn hmp_quit(Hmp *h, struct json_object *args, Error **errp)
{
    (void)args;
    h->leaves = true;
    return hmp_qmp("quit", NULL, NULL, errp);
}

/* ---- objects and devices ---- */

bool coroutine_fn hmp_object_add(Hmp *h, struct json_object *args, Error **errp)
{
    g_autoptr(JsonObject) o = NULL;
    g_autoptr(ObjectOptions) options = NULL;

    (void)h;
    o = keyval_parse(hmp_string(args, "object"), "qom-type", errp);
    return o && qapi_parse(&qapi_type_ObjectOptions, o, true, (void **)&options, errp) &&
           qmp_object_add(options, errp);
}

bool coroutine_fn hmp_object_del(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    return hmp_qmp("object-del", hmp_object("id", hmp_string(args, "id"), NULL), NULL, errp);
}

bool coroutine_fn hmp_device_add(Hmp *h, struct json_object *args, Error **errp)
{
    g_autoptr(JsonObject) o = legacy_opts_parse(hmp_string(args, "device"), "driver", errp);

    (void)h;
    return o && device_new(o, errp);
}

bool coroutine_fn hmp_device_del(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    return device_del(hmp_string(args, "id"), errp);
}

bool coroutine_fn hmp_qom_list(Hmp *h, struct json_object *args, Error **errp)
{
    const char *path = hmp_string(args, "path");
    g_autoptr(JsonObject) list = NULL;

    if (!hmp_qmp("qom-list", hmp_object("path", path ? path : "/", NULL), &list, errp)) {
        return false;
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *p = json_object_array_get_idx(list, i);

        hmp_print(h, "%s (%s)\n", hmp_get_string(p, "name"), hmp_get_string(p, "type"));
    }
    return true;
}

bool coroutine_fn hmp_qom_get(Hmp *h, struct json_object *args, Error **errp)
{
    g_autoptr(JsonObject) value = NULL;
    g_autofree char *text = NULL;

    if (!hmp_qmp("qom-get",
                 hmp_object("path", hmp_string(args, "path"), "property",
                            hmp_string(args, "property"), NULL),
                 &value, errp)) {
        return false;
    }
    text = qapi_json_print(value, true);
    hmp_print(h, "%s\n", text);
    return true;
}

bool coroutine_fn hmp_info_iothreads(Hmp *h, struct json_object *args, Error **errp)
{
    static const char *const shown[] = {"poll-max-ns", "poll-grow", "poll-shrink", "aio-max-batch"};
    g_autoptr(JsonObject) list = NULL;

    (void)args;
    if (!hmp_qmp("query-iothreads", NULL, &list, errp)) {
        return false;
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *t = json_object_array_get_idx(list, i);

        hmp_print(h, "%s:\n  thread_id=%" G_GINT64_FORMAT "\n", hmp_get_string(t, "id"),
                  hmp_get_int(t, "thread-id"));
        for (unsigned k = 0; k < G_N_ELEMENTS(shown); k++) {
            hmp_print(h, "  %s=%" G_GINT64_FORMAT "\n", shown[k], hmp_get_int(t, shown[k]));
        }
    }
    return true;
}

/* ---- the machine ---- */

bool coroutine_fn hmp_stop(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    (void)args;
    return hmp_qmp("stop", NULL, NULL, errp);
}

bool coroutine_fn hmp_cont(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    (void)args;
    return hmp_qmp("cont", NULL, NULL, errp);
}

bool coroutine_fn hmp_system_reset(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    (void)args;
    return hmp_qmp("system_reset", NULL, NULL, errp);
}

bool coroutine_fn hmp_info_version(Hmp *h, struct json_object *args, Error **errp)
{
    g_autoptr(JsonObject) v = NULL;
    struct json_object *q;

    (void)args;
    if (!hmp_qmp("query-version", NULL, &v, errp)) {
        return false;
    }
    q = hmp_get(v, "qemu");
    hmp_print(h, "%d.%d.%d%s\n", (int)hmp_get_int(q, "major"), (int)hmp_get_int(q, "minor"),
              (int)hmp_get_int(q, "micro"), hmp_get_string(v, "package"));
    return true;
}

bool coroutine_fn hmp_info_status(Hmp *h, struct json_object *args, Error **errp)
{
    g_autoptr(JsonObject) v = NULL;

    (void)args;
    if (!hmp_qmp("query-status", NULL, &v, errp)) {
        return false;
    }
    hmp_print(h, "VM status: %s", hmp_get_bool(v, "running") ? "running" : "paused");
    if (strcmp(hmp_get_string(v, "status"), "prelaunch") == 0) {
        hmp_print(h, " (prelaunch)");
    }
    hmp_print(h, "\n");
    return true;
}

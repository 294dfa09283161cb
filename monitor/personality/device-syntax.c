/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Character devices as -qmp, -monitor and -qtest name them: "stdio", "unix:PATH,server=on", "tcp:HOST:PORT", ...
 */
#include "emulator.h"
#include "monitor/chardev.h"
#include "qapi/visit.h"
#include <string.h>

static void set(struct json_object *o, const char *key, const char *value)
{
    json_object_object_add(o, key, json_object_new_string(value));
}

/* Options behind the address: "server", "nowait", "server=on", ... */
static bool add_options(struct json_object *o, const char *text, Error **errp)
{
    g_autoptr(JsonObject) more = legacy_opts_parse(text, NULL, errp);

    if (!more) {
        return false;
    }
    json_object_object_foreach(more, key, value)
    {
        json_object_object_add(o, key, json_object_get(value));
    }
    return true;
}

/* "host:port" or "[v6]:port". */
static bool add_inet(struct json_object *o, const char *address, Error **errp)
{
    const char *colon = strrchr(address, ':');
    g_autofree char *host = NULL;

    if (!colon || colon[1] == '\0') {
        error_set(errp, ERROR_INVALID, address, "chardev", "address '%s' has no port", address);
        return false;
    }
    host = g_strndup(address, colon - address);
    if (host[0] == '[' && g_str_has_suffix(host, "]")) {
        host[strlen(host) - 1] = '\0';
        memmove(host, host + 1, strlen(host));
    }
    set(o, "host", host);
    set(o, "port", colon + 1);
    return true;
}

static bool add_address(struct json_object *o, const char *text, Error **errp)
{
    const char *colon = strchr(text, ':'), *comma = strchr(text, ',');
    g_autofree char *kind = g_strndup(text, colon ? (size_t)(colon - text) : strcspn(text, ","));
    g_autofree char *rest =
        colon ? (comma ? g_strndup(colon + 1, comma - colon - 1) : g_strdup(colon + 1)) : NULL;

    if (strcmp(kind, "unix") == 0 && rest) {
        set(o, "backend", "socket");
        set(o, "path", rest);
    } else if ((strcmp(kind, "tcp") == 0 || strcmp(kind, "telnet") == 0) && rest) {
        set(o, "backend", "socket");
        if (!add_inet(o, rest, errp)) {
            return false;
        }
        if (kind[1] == 'e') {
            set(o, "telnet", "on");
        }
    } else if ((strcmp(kind, "file") == 0 || strcmp(kind, "pipe") == 0) && rest) {
        set(o, "backend", kind);
        set(o, "path", rest);
    } else if ((strcmp(kind, "stdio") == 0 || strcmp(kind, "null") == 0 ||
                strcmp(kind, "pty") == 0) &&
               !rest) {
        set(o, "backend", kind);
    } else if (strcmp(kind, "vc") == 0) {
        set(o, "backend", "null"); /* there are no screens */
        return true;
    } else {
        error_set(errp, ERROR_INVALID, text, "chardev", "'%s' is not a valid char driver", text);
        return false;
    }
    return !comma || add_options(o, comma + 1, errp);
}

bool coroutine_fn device_syntax_chardev(const char *text, const char *name, char **ret_id,
                                        Error **errp)
{
    g_autoptr(JsonObject) o = json_object_new_object();

    if (strcmp(text, "none") == 0) {
        *ret_id = NULL;
        return true;
    }
    if (g_str_has_prefix(text, "chardev:")) {
        const char *id = text + strlen("chardev:");

        if (!chardev_find(id)) {
            error_set(errp, ERROR_NOT_FOUND, id, "chardev", "chardev \"%s\" not found", id);
            return false;
        }
        *ret_id = g_strdup(id);
        return true;
    }
    if (g_str_has_prefix(text, "mon:")) {
        text += strlen("mon:"); /* only the monitor is there to share it */
    }
    set(o, "id", name);
    if (!add_address(o, text, errp) || !chardev_new(o, errp)) {
        return false;
    }
    *ret_id = g_strdup(name);
    return true;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Console commands about character devices.
 */
#include "hmp-table.h"
#include "monitor/chardev-internal.h"
#include "monitor/chardev.h"
#include "monitor/personality/emulator.h"
#include "qapi-types.h"
#include <string.h>

bool coroutine_fn hmp_chardev_add(Hmp *h, struct json_object *args, Error **errp)
{
    g_autoptr(JsonObject) o = legacy_opts_parse(hmp_string(args, "args"), "backend", errp);

    (void)h;
    return o && chardev_new(o, errp);
}

bool coroutine_fn hmp_chardev_change(Hmp *h, struct json_object *args, Error **errp)
{
    const char *id = hmp_string(args, "id");
    g_autoptr(JsonObject) o = legacy_opts_parse(hmp_string(args, "args"), "backend", errp);
    g_autoptr(ChardevBackend) b = NULL;
    bool mux;

    (void)h;
    if (o) {
        b = chardev_parse(o, &mux, errp);
    }
    if (b && mux) {
        error_set(errp, ERROR_UNSUPPORTED, id, "chardev-change", "mux= is not for chardev-change");
        return false;
    }
    return b && chardev_change(id, b, errp);
}

bool coroutine_fn hmp_chardev_remove(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    return hmp_qmp("chardev-remove", hmp_object("id", hmp_string(args, "id"), NULL), NULL, errp);
}

bool coroutine_fn hmp_chardev_send_break(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    return hmp_qmp("chardev-send-break", hmp_object("id", hmp_string(args, "id"), NULL), NULL,
                   errp);
}

bool coroutine_fn hmp_ringbuf_write(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    return hmp_qmp(
        "ringbuf-write",
        hmp_object("device", hmp_string(args, "device"), "data", hmp_string(args, "data"), NULL),
        NULL, errp);
}

bool coroutine_fn hmp_ringbuf_read(Hmp *h, struct json_object *args, Error **errp)
{
    struct json_object *o = hmp_object("device", hmp_string(args, "device"), NULL), *size;
    g_autoptr(JsonObject) data = NULL;
    const char *text;

    if (json_object_object_get_ex(args, "size", &size)) {
        json_object_object_add(o, "size", json_object_get(size));
    }
    if (!hmp_qmp("ringbuf-read", o, &data, errp)) {
        return false;
    }
    text = json_object_get_string(data);
    for (const char *p = text; *p; p++) {
        unsigned char c = *p;

        if (c == '\\') {
            hmp_print(h, "\\\\");
        } else if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
            hmp_print(h, "\\u%04X", c);
        } else {
            g_string_append_c(h->out, *p);
        }
    }
    hmp_print(h, "\n");
    return true;
}

bool coroutine_fn hmp_info_chardev(Hmp *h, struct json_object *args, Error **errp)
{
    g_autoptr(JsonObject) list = NULL;

    (void)args;
    if (!hmp_qmp("query-chardev", NULL, &list, errp)) {
        return false;
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *c = json_object_array_get_idx(list, i);

        hmp_print(h, "%s: filename=%s\n", hmp_get_string(c, "label"),
                  hmp_get_string(c, "filename"));
    }
    return true;
}

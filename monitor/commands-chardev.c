/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commands about character devices.
 */
#include "monitor/chardev.h"
#include "monitor/ringbuf.h"
#include "qapi-commands.h"
#include <string.h>

bool coroutine_fn qmp_chardev_add(const ChardevAddArg *arg, ChardevReturn **ret_out, Error **errp)
{
    if (!chardev_add(arg->id, arg->backend, errp)) {
        return false;
    }
    *ret_out = g_new0(ChardevReturn, 1);
    return true;
}

bool coroutine_fn qmp_chardev_change(const ChardevChangeArg *arg, ChardevReturn **ret_out,
                                     Error **errp)
{
    if (!chardev_change(arg->id, arg->backend, errp)) {
        return false;
    }
    *ret_out = g_new0(ChardevReturn, 1);
    return true;
}

bool coroutine_fn qmp_chardev_remove(const ChardevRemoveArg *arg, Error **errp)
{
    return chardev_remove(arg->id, errp);
}

bool coroutine_fn qmp_chardev_send_break(const ChardevSendBreakArg *arg, Error **errp)
{
    if (!chardev_find(arg->id)) {
        error_set(errp, ERROR_NOT_FOUND, arg->id, "chardev-send-break", "Chardev '%s' not found",
                  arg->id);
        return false;
    }
    return true;
}

static void add_info(void *opaque, const char *id, const char *what, bool used)
{
    ChardevInfoList ***tail = opaque, *item = g_new0(ChardevInfoList, 1);

    item->value = g_new0(ChardevInfo, 1);
    item->value->label = g_strdup(id);
    item->value->filename = g_strdup(what);
    item->value->frontend_open = used;
    **tail = item;
    *tail = &item->next;
}

bool coroutine_fn qmp_query_chardev(ChardevInfoList **ret_out, Error **errp)
{
    ChardevInfoList *list = NULL, **tail = &list;

    (void)errp;
    chardev_foreach(add_info, &tail);
    *ret_out = list;
    return true;
}

bool coroutine_fn qmp_query_chardev_backends(ChardevBackendInfoList **ret_out, Error **errp)
{
    ChardevBackendInfoList *list = NULL, **tail = &list;

    (void)errp;
    for (size_t i = 0; i < qapi_type_ChardevBackendKind.enum_count; i++) {
        ChardevBackendInfoList *item = g_new0(ChardevBackendInfoList, 1);

        item->value = g_new0(ChardevBackendInfo, 1);
        item->value->name = g_strdup(qapi_enum_ChardevBackendKind(i));
        *tail = item;
        tail = &item->next;
    }
    *ret_out = list;
    return true;
}

bool coroutine_fn qmp_ringbuf_write(const RingbufWriteArg *arg, Error **errp)
{
    Chardev *c = ringbuf_find(arg->device, errp);

    if (!c) {
        return false;
    }
    if (arg->has_format && arg->format == DATA_FORMAT_BASE64) {
        g_autofree guchar *data = NULL;
        gsize len;

        if (strspn(arg->data,
                   "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=") !=
            strlen(arg->data)) {
            error_set(errp, ERROR_INVALID, "data", "ringbuf-write",
                      "Base64 data contains invalid characters");
            return false;
        }
        data = g_base64_decode(arg->data, &len);
        ringbuf_write(c, data, len);
    } else {
        ringbuf_write(c, arg->data, strlen(arg->data));
    }
    return true;
}

bool coroutine_fn qmp_ringbuf_read(const RingbufReadArg *arg, char **ret_out, Error **errp)
{
    Chardev *c = ringbuf_find(arg->device, errp);
    GByteArray *data;

    if (!c) {
        return false;
    }
    if (arg->size <= 0) {
        error_set(errp, ERROR_INVALID, "size", "ringbuf-read", "size must be greater than zero");
        return false;
    }
    data = ringbuf_read(c, arg->size);
    *ret_out = arg->has_format && arg->format == DATA_FORMAT_BASE64
                   ? g_base64_encode(data->data, data->len)
               : data->len == 0 ? g_strdup("")
                                : g_utf8_make_valid((const char *)data->data, data->len);
    g_byte_array_unref(data);
    return true;
}

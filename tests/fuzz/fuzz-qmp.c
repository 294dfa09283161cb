/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The QMP dispatcher with the daemon's own commands: any bytes, as a monitor would read them, one command after another.
 *
 * Every request has one reply, of the right shape and with its id; at the end everything that was made can be taken down, and nothing is
 * left.
 *
 * Commands act on files of a directory of the fuzzer's own, which is the working directory: requests with a string that could lead out of it
 * (a slash, a backslash), or to the network or to a descriptor, are not carried out.
 */
#include "fuzz-daemon.h"
#include "monitor/json-stream.h"
#include "monitor/qmp.h"
#include "qapi-commands.h"
#include "qapi/dispatch.h"
#include "qapi/json-writer.h"
#include <string.h>

#define MAX_COMMANDS 32

static bool harmless_string(const char *s)
{
    static const char *const forbidden[] = {"inet", "vsock", "fd", "tcp", "socket", "pty", "udp"};

    for (unsigned i = 0; i < G_N_ELEMENTS(forbidden); i++) {
        if (strcmp(s, forbidden[i]) == 0) {
            return false;
        }
    }
    return !strpbrk(s, "/\\") && !strstr(s, "..");
}

static bool harmless(struct json_object *o)
{
    switch (json_object_get_type(o)) {
    case json_type_string:
        return harmless_string(json_object_get_string(o));
    case json_type_array:
        for (size_t i = 0; i < json_object_array_length(o); i++) {
            if (!harmless(json_object_array_get_idx(o, i))) {
                return false;
            }
        }
        return true;
    case json_type_object: {
        json_object_object_foreach(o, key, value)
        {
            if (!harmless_string(key) || !harmless(value)) {
                return false;
            }
        }
        return true;
    }
    default:
        return true;
    }
}

static void check_reply(struct json_object *request, struct json_object *reply)
{
    struct json_object *ret = NULL, *error = NULL, *id = NULL, *id_back = NULL, *v;
    g_autofree char *text = NULL;

    if (!reply) { /* success of a command that has none */
        return;
    }
    g_assert_true(json_object_is_type(reply, json_type_object));
    json_object_object_get_ex(reply, "return", &ret);
    json_object_object_get_ex(reply, "error", &error);
    g_assert_true(!ret != !error);
    if (error) {
        g_assert_true(json_object_object_get_ex(error, "class", &v));
        g_assert_true(json_object_object_get_ex(error, "desc", &v));
        g_assert_true(g_utf8_validate(json_object_get_string(v), -1, NULL));
        g_assert_cmpint(json_object_get_string_len(v), >, 0);
    }
    if (json_object_is_type(request, json_type_object) &&
        json_object_object_get_ex(request, "id", &id)) {
        g_assert_true(json_object_object_get_ex(reply, "id", &id_back));
        g_assert_true(json_object_equal(id, id_back));
    }
    text = qapi_json_print(reply, false);
    g_assert_cmpint(strlen(text), >, 0);
}

static void collect(void *opaque, struct json_object *value, const Error *err)
{
    if (!err) {
        g_ptr_array_add(opaque, value);
    }
}

static bool allowed(void *opaque, const char *name, Error **errp)
{
    (void)opaque;
    if (strcmp(name, "quit") == 0) {
        error_set(errp, ERROR_INVALID, name, "dispatch", "not here");
        return false;
    }
    return true;
}

static void coroutine_fn body(void *opaque)
{
    GPtrArray *requests = opaque;

    for (guint i = 0; i < requests->len && i < MAX_COMMANDS; i++) {
        struct json_object *request = g_ptr_array_index(requests, i);

        if (harmless(request)) {
            g_autoptr(JsonObject) reply =
                qapi_dispatch(qapi_commands, qapi_commands_count, request, allowed, NULL);

            check_reply(request, reply);
        }
    }
    fuzz_daemon_take_down();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_daemon_init();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GPtrArray) requests = g_ptr_array_new_with_free_func((GDestroyNotify)json_object_put);
    JsonStream *s = json_stream_new(collect, requests);

    json_stream_feed(s, (const char *)data, size);
    json_stream_end(s);
    json_stream_free(s);
    if (requests->len > 0) {
        fuzz_run(body, requests);
    }
    return 0;
}

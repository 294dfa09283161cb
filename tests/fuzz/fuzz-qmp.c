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
#include "block/export.h"
#include "block/graph.h"
#include "block/iothread-objects.h"
#include "block/object.h"
#include "block/job.h"
#include "block/nbd-server.h"
#include "block/transaction.h"
#include "fuzz-util.h"
#include "monitor/json-stream.h"
#include "monitor/qmp.h"
#include "qapi-commands.h"
#include "qapi/dispatch.h"
#include "qapi/json-writer.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_COMMANDS 32

static char *directory;

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

static void remove_files(void)
{
    GDir *d = g_dir_open(directory, 0, NULL);
    const char *name;

    while (d && (name = g_dir_read_name(d))) {
        unlink(name);
    }
    if (d) {
        g_dir_close(d);
    }
}

static void coroutine_fn take_down(void)
{
    int64_t deadline = clock_ns() + 20 * INT64_C(1000000000);
    GPtrArray *left;

    transaction_abort_all();
    g_assert_true(transaction_wait_all(deadline));
    g_assert_true(job_cancel_all(deadline));
    export_shutdown_all();
    g_assert_true(graph_close_all(deadline));
    left = node_list();
    g_assert_cmpuint(left->len, ==, 0);
    g_ptr_array_free(left, true);
    object_free_all();
    iothread_free_own();
    remove_files();
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
    take_down();
}

static void leave(void)
{
    remove_files();
    rmdir(directory);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_init();
    directory = g_strdup("/dev/shm/cutpoint-fuzz-XXXXXX"); /* files are synced a lot */
    if (!g_mkdtemp(directory) || chdir(directory) < 0) {
        FUZZ_FAIL("cannot make a directory");
    }
    atexit(leave);
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

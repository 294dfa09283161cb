/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rate limits of events.
 */
#include "../../monitor/event-rate.h"
#include <glib.h>
#include <stdbool.h>
#include <string.h>

static GString *sent;

static void send(struct json_object *event)
{
    struct json_object *data = json_object_object_get(event, "data");

    g_string_append_printf(sent, "%s%d ",
                           json_object_get_string(json_object_object_get(data, "reference")),
                           json_object_get_int(json_object_object_get(data, "n")));
}

static void emit(const char *name, const char *subject, int n)
{
    struct json_object *event = json_object_new_object(), *data = json_object_new_object();

    json_object_object_add(data, "reference", json_object_new_string(subject));
    json_object_object_add(data, "n", json_object_new_int(n));
    json_object_object_add(event, "event", json_object_new_string(name));
    json_object_object_add(event, "data", data);
    event_rate_send(event, send);
    json_object_put(event);
}

static gboolean leave(gpointer loop)
{
    g_main_loop_quit(loop);
    return G_SOURCE_REMOVE;
}

static void wait_ms(unsigned ms)
{
    g_autoptr(GMainLoop) loop = g_main_loop_new(NULL, false);

    g_timeout_add(ms, leave, loop);
    g_main_loop_run(loop);
}

static void test_limited(void)
{
    g_autoptr(GString) s = sent = g_string_new(NULL);

    for (int i = 0; i < 5; i++) {
        emit("QUORUM_FAILURE", "a", i);
        emit("QUORUM_FAILURE", "b", i);
        emit("JOB_STATUS_CHANGE", "j", i);
    }
    g_assert_cmpstr(s->str, ==, "a0 b0 j0 j1 j2 j3 j4 ");
    g_string_truncate(s, 0);
    while (s->len < strlen("a4 b4 ")) {
        g_main_context_iteration(NULL, true);
    }
    g_assert_cmpstr(s->str, ==, "a4 b4 "); /* the last ones, which begin another second */
    emit("QUORUM_FAILURE", "a", 5);
    g_assert_cmpstr(s->str, ==, "a4 b4 ");
    wait_ms(2500);
    g_assert_cmpstr(s->str, ==, "a4 b4 a5 ");
    emit("QUORUM_FAILURE", "a", 6);
    g_assert_cmpstr(s->str, ==, "a4 b4 a5 a6 ");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/event-rate/limited", test_limited);
    return g_test_run();
}

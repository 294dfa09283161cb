/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rate limits of events.
 *
 * `windows` has an entry for each kind and subject of which an event was sent within the last second; what came since is in `waiting`.  A
 * window ends with its timer, which sends what waits and begins another one, or removes the entry.
 */
#include "event-rate.h"
#include <glib.h>

#define WINDOW_MS 1000

typedef struct Window {
    char *key;
    struct json_object *waiting; /* NULL: nothing came */
    void (*send)(struct json_object *event);
} Window;

/* Which member of the data tells the subject. */
static const struct {
    const char *event, *subject;
} limited[] = {
    {"BLOCK_IO_ERROR", "qom-path"},
    {"QUORUM_FAILURE", "reference"},
    {"QUORUM_REPORT_BAD", "node-name"},
    {"VSERPORT_CHANGE", "id"},
};

static GHashTable *windows; /* key -> Window */

static const char *member(struct json_object *o, const char *key)
{
    struct json_object *v;

    return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : "";
}

static char *key_of(struct json_object *event)
{
    const char *name = member(event, "event");

    for (unsigned i = 0; i < G_N_ELEMENTS(limited); i++) {
        if (g_str_equal(name, limited[i].event)) {
            return g_strdup_printf(
                "%s %s", name, member(json_object_object_get(event, "data"), limited[i].subject));
        }
    }
    return NULL;
}

static gboolean window_ends(gpointer opaque)
{
    Window *w = opaque;
    struct json_object *event = g_steal_pointer(&w->waiting);

    if (!event) {
        g_hash_table_remove(windows, w->key);
        return G_SOURCE_REMOVE;
    }
    w->send(event);
    json_object_put(event);
    return G_SOURCE_CONTINUE;
}

static void window_free(gpointer opaque)
{
    Window *w = opaque;

    g_free(w->key);
    g_free(w);
}

void event_rate_send(struct json_object *event, void (*send)(struct json_object *event))
{
    g_autofree char *key = key_of(event);
    Window *w;

    if (!key) {
        send(event);
        return;
    }
    if (!windows) {
        windows = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, window_free);
    }
    w = g_hash_table_lookup(windows, key);
    if (w) {
        json_object_put(w->waiting);
        w->waiting = json_object_get(event);
        return;
    }
    w = g_new0(Window, 1);
    w->key = g_steal_pointer(&key);
    w->send = send;
    g_hash_table_insert(windows, w->key, w);
    g_timeout_add(WINDOW_MS, window_ends, w);
    send(event);
}

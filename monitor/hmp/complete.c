/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What Tab completes on a console: by the place of the word in the line.
 *
 * The first word is a command; what follows is known by the codes of commands.txt (B is a disk, F a file) or by the tables here.  Names come from
 * the queries that QMP has, so they are those that commands take.  Directories are read by a worker.
 */
#include "block/backend.h"
#include "block/driver.h"
#include "internal.h"
#include "monitor/personality/emulator.h"
#include "qapi-types.h"
#include "util/worker.h"
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define FILES_MAX 1000

static void add(GPtrArray *words, const char *name, const char *word)
{
    if (name && g_str_has_prefix(name, word)) {
        g_ptr_array_add(words, g_strdup(name));
    }
}

/* ---- sources ---- */

typedef void coroutine_fn Source(GPtrArray *words, const char *word);

static void add_names(GPtrArray *words, const HmpCommand *table, const char *word)
{
    for (; table->name; table++) {
        g_auto(GStrv) names = g_strsplit(table->name, "|", -1);

        for (unsigned i = 0; names[i]; i++) {
            if (hmp_available(table)) {
                add(words, names[i], word);
            }
        }
    }
}

static void coroutine_fn add_commands(GPtrArray *words, const char *word)
{
    add_names(words, hmp_commands, word);
}

static void coroutine_fn add_items(GPtrArray *words, const char *word)
{
    add_names(words, hmp_info_commands, word);
}

static void coroutine_fn add_disks(GPtrArray *words, const char *word)
{
    g_autoptr(GPtrArray) backends = backend_list(), nodes = node_list();

    for (guint i = 0; i < backends->len; i++) {
        const char *name = backend_name(g_ptr_array_index(backends, i));

        if (name[0]) {
            add(words, name, word);
        }
    }
    for (guint i = 0; i < nodes->len; i++) {
        const Node *n = g_ptr_array_index(nodes, i);

        if (!n->auto_name) {
            add(words, n->name, word);
        }
    }
}

/* Members of the entries of a query's reply. */
static void coroutine_fn add_reply(GPtrArray *words, const char *word, const char *query,
                                   struct json_object *args, const char *member)
{
    g_autoptr(JsonObject) list = NULL;
    g_autoptr(Error) ignored = NULL;

    if (!hmp_qmp(query, args, &list, &ignored)) {
        return;
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        const char *name = hmp_get_string(json_object_array_get_idx(list, i), member);

        if (strcmp(name, "type") != 0 || strcmp(query, "qom-list") != 0) {
            add(words, name, word);
        }
    }
}

static void coroutine_fn add_jobs(GPtrArray *words, const char *word)
{
    add_reply(words, word, "query-block-jobs", NULL, "device");
}

static void coroutine_fn add_exports(GPtrArray *words, const char *word)
{
    add_reply(words, word, "query-block-exports", NULL, "id");
}

static void coroutine_fn add_objects(GPtrArray *words, const char *word)
{
    add_reply(words, word, "qom-list", hmp_object("path", "/objects", NULL), "name");
}

static void coroutine_fn add_chardevs(GPtrArray *words, const char *word)
{
    add_reply(words, word, "query-chardev", NULL, "label");
}

static void coroutine_fn add_devices(GPtrArray *words, const char *word)
{
    g_auto(GStrv) names = device_names();

    for (unsigned i = 0; names[i]; i++) {
        add(words, names[i], word);
    }
}

static void coroutine_fn add_device_types(GPtrArray *words, const char *word)
{
    for (unsigned i = 0; device_type_name(i); i++) {
        add(words, device_type_name(i), word);
    }
}

static void add_values(GPtrArray *words, const QapiType *t, const char *word)
{
    for (size_t i = 0; i < t->enum_count; i++) {
        add(words, t->enum_names[i], word);
    }
}

static void coroutine_fn add_object_types(GPtrArray *words, const char *word)
{
    add_values(words, &qapi_type_ObjectType, word);
}

static void coroutine_fn add_read_only_modes(GPtrArray *words, const char *word)
{
    add_values(words, &qapi_type_BlockdevChangeReadOnlyMode, word);
}

static void coroutine_fn add_formats(GPtrArray *words, const char *word)
{
    g_autoptr(GPtrArray) names = driver_names();

    for (guint i = 0; i < names->len; i++) {
        const BlockDriver *drv = driver_find(g_ptr_array_index(names, i));

        if (!drv->is_protocol && drv->probe) {
            add(words, drv->name, word);
        }
    }
    add(words, "raw", word);
}

/* ---- files ---- */

typedef struct Listing {
    const char *directory, *beginning; /* "" is the working directory */
    GPtrArray *names;                  /* complete words */
} Listing;

static int list_directory(void *opaque)
{
    Listing *l = opaque;
    DIR *d = opendir(l->directory[0] ? l->directory : ".");
    struct dirent *entry;

    if (!d) {
        return -errno;
    }
    while (l->names->len < FILES_MAX && (entry = readdir(d))) {
        const char *name = entry->d_name;
        struct stat st;
        bool is_directory;

        if (!g_str_has_prefix(name, l->beginning) || (name[0] == '.' && l->beginning[0] != '.') ||
            strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || !g_utf8_validate(name, -1, NULL) ||
            strpbrk(name, " \t\"\\\r\n")) {
            continue;
        }
        is_directory = entry->d_type == DT_DIR ||
                       (entry->d_type != DT_REG && fstatat(dirfd(d), name, &st, 0) == 0 &&
                        S_ISDIR(st.st_mode));
        g_ptr_array_add(l->names, g_strconcat(l->directory, name, is_directory ? "/" : "", NULL));
    }
    closedir(d);
    return 0;
}

static void coroutine_fn add_files(GPtrArray *words, const char *word)
{
    const char *slash = strrchr(word, '/');
    g_autofree char *directory = slash ? g_strndup(word, slash + 1 - word) : g_strdup("");
    Listing l = {directory, slash ? slash + 1 : word, words};

    (void)worker_run(WORKERS_CONTROL, list_directory, &l);
}

/* ---- places ---- */

/* Arguments whose code does not say what they are. */
static const struct {
    const char *command, *argument;
    Source *source;
} arguments[] = {
    {"block_stream", "base", add_disks},
    {"change", "format", add_formats},
    {"change", "read-only-mode", add_read_only_modes},
    {"chardev-change", "id", add_chardevs},
    {"chardev-remove", "id", add_chardevs},
    {"chardev-send-break", "id", add_chardevs},
    {"device_add", "device", add_device_types},
    {"device_del", "id", add_devices},
    {"help", "name", add_commands},
    {"info", "item", add_items},
    {"nbd_server_remove", "name", add_exports},
    {"object_add", "object", add_object_types},
    {"object_del", "id", add_objects},
    {"ringbuf_read", "device", add_chardevs},
    {"ringbuf_write", "device", add_chardevs},
    {"snapshot_blkdev", "format", add_formats},
    {"snapshot_blkdev", "snapshot-file", add_files},
};

static void coroutine_fn add_flags(GPtrArray *words, char **specs, const char *word)
{
    for (unsigned i = 0; specs[i]; i++) {
        const char *colon = strchr(specs[i], ':');

        if (colon && colon[1] == '-') {
            const char flag[] = {'-', colon[2], '\0'};

            add(words, flag, word);
        }
    }
}

/* DISK=FILE */
static void coroutine_fn add_pair(GPtrArray *words, const char *word)
{
    const char *equals = strchr(word, '=');
    g_autoptr(GPtrArray) found = g_ptr_array_new_with_free_func(g_free);

    if (equals) {
        add_files(found, equals + 1);
    } else {
        add_disks(found, word);
    }
    for (guint i = 0; i < found->len; i++) {
        const char *f = g_ptr_array_index(found, i);

        g_ptr_array_add(words, equals ? g_strdup_printf("%.*s%s", (int)(equals + 1 - word), word, f)
                                      : g_strconcat(f, "=", NULL));
    }
}

static void coroutine_fn add_argument(GPtrArray *words, const HmpCommand *c, const char *spec,
                                      const char *word)
{
    const char *colon = strchr(spec, ':');
    g_autofree char *argument = g_strndup(spec, colon - spec);
    g_autofree char *command = g_strndup(c->name, strcspn(c->name, "|"));

    for (unsigned i = 0; i < G_N_ELEMENTS(arguments); i++) {
        if (strcmp(arguments[i].command, command) == 0 &&
            strcmp(arguments[i].argument, argument) == 0) {
            arguments[i].source(words, word);
            return;
        }
    }
    if (strcmp(command, "snapshot_group") == 0) {
        add_pair(words, word);
    } else if (colon[1] == 'B') {
        add_disks(words, word);
        if (g_str_has_prefix(command, "block_job")) {
            add_jobs(words, word);
        }
    } else if (colon[1] == 'F') {
        add_files(words, word);
    }
}

/* before: the complete words between the command and the one that is completed. */
static void coroutine_fn complete_argument(GPtrArray *words, const HmpCommand *c, char **before,
                                           const char *word)
{
    g_auto(GStrv) specs = g_strsplit(c->args, ",", -1);
    unsigned given = 0, place = 0;

    for (unsigned i = 0; before[i]; i++) {
        given += before[i][0] && before[i][0] != '-';
    }
    if (word[0] == '-') {
        add_flags(words, specs, word);
        return;
    }
    for (unsigned i = 0; specs[i]; i++) {
        const char *colon = strchr(specs[i], ':');

        if (!colon || colon[1] == '-') {
            continue;
        }
        if (place == given || colon[1] == 'S') { /* the rest of the line */
            if (place == given || strcmp(c->name, "snapshot_group") == 0) {
                add_argument(words, c, specs[i], word);
            }
            return;
        }
        place++;
    }
}

static gint by_name(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

GPtrArray *coroutine_fn hmp_complete(const char *text)
{
    GPtrArray *words = g_ptr_array_new_with_free_func(g_free);
    g_auto(GStrv) parts = g_strsplit(text, " ", -1);
    unsigned last = g_strv_length(parts), first = 0;
    g_autofree char *word = NULL;
    const HmpCommand *c;

    if (last == 0) {
        add_commands(words, "");
        return words;
    }
    word = parts[--last];
    parts[last] = NULL;
    while (parts[first] && !parts[first][0]) {
        first++;
    }
    if (!parts[first]) {
        add_commands(words, word);
    } else {
        c = hmp_find(hmp_commands, parts[first++]);
        if (c && strcmp(c->name, "info") == 0 && parts[first]) {
            c = hmp_find(hmp_info_commands, parts[first++]);
        }
        if (c) {
            complete_argument(words, c, parts + first, word);
        }
    }
    g_ptr_array_sort(words, by_name);
    for (guint i = words->len; i-- > 1;) { /* a job has its device's name */
        if (strcmp(g_ptr_array_index(words, i), g_ptr_array_index(words, i - 1)) == 0) {
            g_ptr_array_remove_index(words, i);
        }
    }
    return words;
}

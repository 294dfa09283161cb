/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Console commands that change disks: snapshots, sizes, jobs, drives, the NBD server.
 */
#include "block/backend.h"
#include "block/driver.h"
#include "block/export.h"
#include "block/graph.h"
#include "block/job.h"
#include "hmp-table.h"
#include "monitor/personality/drive-options.h"
#include "monitor/personality/emulator.h"
#include "qapi-types.h"
#include <errno.h>
#include <string.h>

static void add_int(struct json_object *o, const char *name, struct json_object *args,
                    const char *from)
{
    struct json_object *v;

    if (json_object_object_get_ex(args, from, &v)) {
        json_object_object_add(o, name, json_object_get(v));
    }
}

static void add_bool(struct json_object *o, const char *name, bool value)
{
    json_object_object_add(o, name, json_object_new_boolean(value));
}

/* ---- snapshots ---- */

bool coroutine_fn hmp_snapshot_blkdev(Hmp *h, struct json_object *args, Error **errp)
{
    const char *file = hmp_string(args, "snapshot-file");

    (void)h;
    if (!file) {
        error_set(errp, ERROR_INVALID, "snapshot-file", "console",
                  "Parameter 'snapshot-file' is missing");
        return false;
    }
    return hmp_qmp("blockdev-snapshot-sync",
                   hmp_object("device", hmp_string(args, "device"), "snapshot-file", file, "format",
                              hmp_string(args, "format"), "mode",
                              hmp_flag(args, "reuse") ? "existing" : "absolute-paths", NULL),
                   NULL, errp);
}

/* A name for the overlay of a node that no device has. */
static char *overlay_name(const char *node)
{
    g_autofree char *stem = g_strndup(node, 20);
    char *name = g_strdup_printf("%s-snapshot", stem);

    for (unsigned i = 2; node_find(name); i++) {
        g_free(name);
        name = g_strdup_printf("%s-snap%u", stem, i);
    }
    return name;
}

static bool add_action(struct json_object *actions, const char *word, Error **errp)
{
    const char *equals = strchr(word, '=');
    struct json_object *action, *data;
    g_autofree char *disk = NULL, *overlay = NULL;

    if (!equals || equals == word || !equals[1]) {
        error_set(errp, ERROR_INVALID, word, "console", "'%s' is not of the form DISK=FILE", word);
        return false;
    }
    disk = g_strndup(word, equals - word);
    data = hmp_object("snapshot-file", equals + 1, NULL);
    if (backend_find(disk)) {
        json_object_object_add(data, "device", json_object_new_string(disk));
    } else {
        overlay = overlay_name(disk);
        json_object_object_add(data, "node-name", json_object_new_string(disk));
        json_object_object_add(data, "snapshot-node-name", json_object_new_string(overlay));
    }
    action = hmp_object("type", "blockdev-snapshot-sync", NULL);
    json_object_object_add(action, "data", data);
    json_object_array_add(actions, action);
    return true;
}

static void print_group(Hmp *h, struct json_object *g)
{
    struct json_object *members = hmp_get(g, "members");

    hmp_print(h, "group %s: %s\n", hmp_get_string(g, "id"), hmp_get_string(g, "state"));
    for (size_t i = 0; members && i < json_object_array_length(members); i++) {
        struct json_object *m = json_object_array_get_idx(members, i);

        if (hmp_get(m, "snapshot")) {
            hmp_print(h, "    %s: kept as snapshot %s\n", hmp_get_string(m, "node"),
                      hmp_get_string(m, "snapshot"));
        } else {
            hmp_print(h, "    %s: writes go to %s (%s)\n", hmp_get_string(m, "node"),
                      hmp_get_string(m, "overlay"), hmp_get_string(m, "overlay-file"));
        }
    }
}

static bool coroutine_fn print_groups(Hmp *h, const char *id, Error **errp)
{
    g_autoptr(JsonObject) groups = NULL;

    if (!hmp_qmp("query-snapshot-groups", hmp_object("id", id, NULL), &groups, errp)) {
        return false;
    }
    if (json_object_array_length(groups) == 0) {
        hmp_print(h, "No snapshot groups\n");
    }
    for (size_t i = 0; i < json_object_array_length(groups); i++) {
        print_group(h, json_object_array_get_idx(groups, i));
    }
    return true;
}

bool coroutine_fn hmp_info_snapshot_groups(Hmp *h, struct json_object *args, Error **errp)
{
    (void)args;
    return print_groups(h, NULL, errp);
}

bool coroutine_fn hmp_snapshot_group(Hmp *h, struct json_object *args, Error **errp)
{
    const char *p = hmp_string(args, "disks");
    g_autofree char *id = NULL;
    struct json_object *actions = json_object_new_array(), *o = json_object_new_object(),
                       *properties;
    bool bad = false, ok = true;
    char *word;

    if (hmp_flag(args, "group")) {
        id = hmp_take_word(&p, &bad);
    }
    if (!id) {
        g_autofree char *uuid = g_uuid_string_random();

        id = g_strconcat("console-", uuid, NULL);
    }
    while (ok && !bad && (word = hmp_take_word(&p, &bad))) {
        ok = add_action(actions, word, errp);
        g_free(word);
    }
    if (ok && (bad || json_object_array_length(actions) == 0)) {
        error_set(errp, ERROR_INVALID, NULL, "console",
                  bad ? "a quotation does not end" : "no disk was named");
        ok = false;
    }
    properties = hmp_object("group", id, NULL);
    json_object_object_add(o, "actions", actions);
    json_object_object_add(o, "properties", properties);
    if (!ok) {
        json_object_put(o);
        return false;
    }
    return hmp_qmp("transaction", o, NULL, errp) && print_groups(h, id, errp);
}

/* ---- sizes and jobs ---- */

bool coroutine_fn hmp_block_resize(Hmp *h, struct json_object *args, Error **errp)
{
    struct json_object *o = json_object_new_object();
    const char *name = hmp_string(args, "device");

    (void)h;
    json_object_object_add(o, backend_find(name) ? "device" : "node-name",
                           json_object_new_string(name));
    add_int(o, "size", args, "size");
    return hmp_qmp("block_resize", o, NULL, errp);
}

/* ---- commit ---- */

/* Seen through filters. */
static Node *disk_of(Node *n)
{
    while (n->driver->is_filter && n->file && !atomic_load(&n->backing)) {
        n = n->file->target;
    }
    return n;
}

static bool coroutine_fn commit_one(Hmp *h, const char *name, Node *n)
{
    g_autoptr(Error) err = NULL;
    g_autoptr(Node) held = node_ref(n);

    if (job_commit_once(held, &err)) {
        return true;
    }
    hmp_print(h, "'commit' error for '%s': %s\n", name,
              err->kind == ERROR_BUSY ? strerror(EBUSY) : err->message);
    return false;
}

static void coroutine_fn commit_all(Hmp *h)
{
    g_autoptr(GPtrArray) backends = backend_list(),
                         nodes = g_ptr_array_new_with_free_func((GDestroyNotify)node_unref);

    for (guint i = 0; i < backends->len; i++) {
        Edge *e = backend_edge(g_ptr_array_index(backends, i));

        if (e && atomic_load(&disk_of(e->target)->backing)) {
            g_ptr_array_add(nodes, node_ref(disk_of(e->target)));
        }
    }
    for (guint i = 0; i < nodes->len; i++) {
        if (!commit_one(h, "all", g_ptr_array_index(nodes, i))) {
            return;
        }
    }
}

bool coroutine_fn hmp_commit(Hmp *h, struct json_object *args, Error **errp)
{
    const char *device = hmp_string(args, "device");
    const Backend *b = backend_find(device);
    Node *n = b ? NULL : node_find(device);

    (void)errp;
    if (strcmp(device, "all") == 0 && !b && !n) {
        commit_all(h);
    } else if (!b && !n) {
        hmp_print(h, "Device '%s' not found\n", device);
    } else if (b && !backend_edge(b)) {
        hmp_print(h, "Device '%s' has no medium\n", device);
    } else {
        n = disk_of(n ? n : backend_edge(b)->target);
        if (!atomic_load(&n->backing)) {
            hmp_print(h, "'commit' error for '%s': %s\n", device, strerror(ENOTSUP));
        } else {
            commit_one(h, device, n);
        }
    }
    return true;
}

bool coroutine_fn hmp_block_stream(Hmp *h, struct json_object *args, Error **errp)
{
    const char *device = hmp_string(args, "device");
    struct json_object *o = hmp_object("device", device, "job-id", device, "base",
                                       hmp_string(args, "base"), "on-error", "report", NULL);

    (void)h;
    add_int(o, "speed", args, "speed");
    return hmp_qmp("block-stream", o, NULL, errp);
}

bool coroutine_fn hmp_drive_backup(Hmp *h, struct json_object *args, Error **errp)
{
    struct json_object *o = hmp_object(
        "device", hmp_string(args, "device"), "target", hmp_string(args, "target"), "format",
        hmp_string(args, "format"), "sync", hmp_flag(args, "full") ? "full" : "top", "mode",
        hmp_flag(args, "reuse") ? "existing" : "absolute-paths", NULL);

    (void)h;
    if (hmp_flag(args, "compress")) {
        json_object_object_add(o, "compress", json_object_new_boolean(true));
    }
    return hmp_qmp("drive-backup", o, NULL, errp);
}

bool coroutine_fn hmp_drive_mirror(Hmp *h, struct json_object *args, Error **errp)
{
    struct json_object *o = hmp_object(
        "device", hmp_string(args, "device"), "target", hmp_string(args, "target"), "format",
        hmp_string(args, "format"), "sync", hmp_flag(args, "full") ? "full" : "top", "mode",
        hmp_flag(args, "reuse") ? "existing" : "absolute-paths", NULL);

    (void)h;
    return hmp_qmp("drive-mirror", o, NULL, errp);
}

static bool coroutine_fn job_command(const char *command, struct json_object *args, Error **errp)
{
    struct json_object *o = hmp_object("device", hmp_string(args, "device"), NULL);

    if (hmp_flag(args, "force")) {
        add_bool(o, "force", true);
    }
    add_int(o, "speed", args, "speed");
    return hmp_qmp(command, o, NULL, errp);
}

bool coroutine_fn hmp_block_job_set_speed(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    return job_command("block-job-set-speed", args, errp);
}

bool coroutine_fn hmp_block_job_cancel(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    return job_command("block-job-cancel", args, errp);
}

bool coroutine_fn hmp_block_job_complete(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    return job_command("block-job-complete", args, errp);
}

bool coroutine_fn hmp_block_job_pause(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    return job_command("block-job-pause", args, errp);
}

bool coroutine_fn hmp_block_job_resume(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    return job_command("block-job-resume", args, errp);
}

/* ---- NBD ---- */

static struct json_object *nbd_address(const char *uri, Error **errp)
{
    struct json_object *addr, *data;

    if (g_str_has_prefix(uri, "unix:")) {
        data = hmp_object("path", uri + strlen("unix:"), NULL);
        addr = hmp_object("type", "unix", NULL);
    } else {
        const char *colon = strrchr(uri, ':');
        g_autofree char *host = colon ? g_strndup(uri, colon - uri) : NULL;

        if (!colon || !colon[1]) {
            error_set(errp, ERROR_INVALID, uri, "console", "error parsing address '%s'", uri);
            return NULL;
        }
        if (host[0] == '[' && g_str_has_suffix(host, "]")) {
            host[strlen(host) - 1] = '\0';
            memmove(host, host + 1, strlen(host));
        }
        data = hmp_object("host", host, "port", colon + 1, NULL);
        addr = hmp_object("type", "inet", NULL);
    }
    json_object_object_add(addr, "data", data);
    return addr;
}

static bool coroutine_fn nbd_add(const char *device, const char *name, bool writable, Error **errp)
{
    struct json_object *o = hmp_object("device", device, "name", name, NULL);

    add_bool(o, "writable", writable);
    return hmp_qmp("nbd-server-add", o, NULL, errp);
}

static GPtrArray *names_of_full_drives(void)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GPtrArray) backends = backend_list();

    for (guint i = 0; i < backends->len; i++) {
        const Backend *b = g_ptr_array_index(backends, i);

        if (backend_name(b)[0] && backend_edge(b)) {
            g_ptr_array_add(names, g_strdup(backend_name(b)));
        }
    }
    return names;
}

bool coroutine_fn hmp_nbd_server_start(Hmp *h, struct json_object *args, Error **errp)
{
    bool all = hmp_flag(args, "all"), writable = hmp_flag(args, "writable");
    g_autoptr(GPtrArray) names = names_of_full_drives(); /* as it is now: the rest suspends */
    struct json_object *addr, *o;

    (void)h;
    if (writable && !all) {
        error_set(errp, ERROR_INVALID, NULL, "console", "-w only valid together with -a");
        return false;
    }
    addr = nbd_address(hmp_string(args, "uri"), errp);
    if (!addr) {
        return false;
    }
    o = json_object_new_object();
    json_object_object_add(o, "addr", addr);
    if (!hmp_qmp("nbd-server-start", o, NULL, errp)) {
        return false;
    }
    for (guint i = 0; all && i < names->len; i++) {
        if (!nbd_add(g_ptr_array_index(names, i), NULL, writable, errp)) {
            g_autoptr(Error) ignored = NULL;

            (void)hmp_qmp("nbd-server-stop", NULL, NULL, &ignored);
            return false;
        }
    }
    return true;
}

bool coroutine_fn hmp_nbd_server_add(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    return nbd_add(hmp_string(args, "device"), hmp_string(args, "name"), hmp_flag(args, "writable"),
                   errp);
}

bool coroutine_fn hmp_nbd_server_remove(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    return hmp_qmp("nbd-server-remove",
                   hmp_object("name", hmp_string(args, "name"), "mode",
                              hmp_flag(args, "force") ? "hard" : "safe", NULL),
                   NULL, errp);
}

bool coroutine_fn hmp_nbd_server_stop(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    (void)args;
    return hmp_qmp("nbd-server-stop", NULL, NULL, errp);
}

/* ---- limits ---- */

bool coroutine_fn hmp_block_set_io_throttle(Hmp *h, struct json_object *args, Error **errp)
{
    static const char *const names[] = {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"};
    const char *device = hmp_string(args, "device");
    struct json_object *o = hmp_object(backend_find(device) ? "device" : "id", device, NULL);

    (void)h;
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        add_int(o, names[i], args, names[i]);
    }
    return hmp_qmp("block_set_io_throttle", o, NULL, errp);
}

/* ---- media ---- */

bool coroutine_fn hmp_eject(Hmp *h, struct json_object *args, Error **errp)
{
    struct json_object *o = hmp_object("device", hmp_string(args, "device"), NULL);

    (void)h;
    add_bool(o, "force", hmp_flag(args, "force"));
    return hmp_qmp("eject", o, NULL, errp);
}

bool coroutine_fn hmp_change(Hmp *h, struct json_object *args, Error **errp)
{
    struct json_object *o = hmp_object(
        "device", hmp_string(args, "device"), "filename", hmp_string(args, "target"), "format",
        hmp_string(args, "format"), "read-only-mode", hmp_string(args, "read-only-mode"), NULL);

    (void)h;
    add_bool(o, "force", hmp_flag(args, "force"));
    return hmp_qmp("blockdev-change-medium", o, NULL, errp);
}

/* ---- drives ---- */

static bool coroutine_fn add_node(const char *options, Error **errp)
{
    g_autoptr(JsonObject) o = legacy_opts_parse(options, NULL, errp), nested = NULL;
    g_autofree char *format = NULL, *file = NULL;
    g_autoptr(BlockdevOptions) node = NULL;
    DriveNodes d = {0};
    Node *n;

    if (!o) {
        return false;
    }
    if (!hmp_string(o, "node-name")) {
        error_set(errp, ERROR_INVALID, "node-name", "console", "'node-name' needs to be specified");
        return false;
    }
    g_free(legacy_opts_take(o, "if"));
    format = legacy_opts_take(o, "format");
    file = legacy_opts_take(o, "file");
    d.driver = format;
    d.file = file;
    nested = legacy_opts_nest(o, errp);
    if (!nested || !drive_options_complete(&d, nested, &node, errp)) {
        return false;
    }
    if (!node) {
        error_set(errp, ERROR_INVALID, "driver", "console", "Parameter 'driver' is missing");
        return false;
    }
    n = node_open(node, 0, NULL, errp);
    if (n) {
        n->monitor_owned = true;
    }
    return n;
}

bool coroutine_fn hmp_drive_add(Hmp *h, struct json_object *args, Error **errp)
{
    const char *options = hmp_string(args, "options");
    const Drive *d;

    if (hmp_flag(args, "node")) {
        return add_node(options, errp);
    }
    if (!drive_new(options, &d, errp)) {
        return false;
    }
    if (d->interface != DRIVE_NONE) {
        int interface = d->interface;

        backend_free(backend_find(d->id));
        drive_forget(d->id);
        error_set(errp, ERROR_UNSUPPORTED, NULL, "console", "Can't hot-add drive to type %d",
                  interface);
        return false;
    }
    hmp_print(h, "OK\n");
    return true;
}

static bool device_not_found(const char *id, Error **errp)
{
    error_set_class(errp, ERROR_CLASS_DEVICE_NOT_FOUND, ERROR_NOT_FOUND, id, "console",
                    "Device '%s' not found", id);
    return false;
}

bool coroutine_fn hmp_drive_del(Hmp *h, struct json_object *args, Error **errp)
{
    const char *id = hmp_string(args, "id");
    Backend *b = backend_find(id);
    g_autoptr(Backend) hold = NULL;

    (void)h;
    if (!b && node_find(id)) {
        return hmp_qmp("blockdev-del", hmp_object("node-name", id, NULL), NULL, errp);
    }
    if (!b) {
        return device_not_found(id, errp);
    }
    hold = backend_ref(b);
    if (backend_edge(b) && (!node_check_no_job(backend_edge(b)->target, errp) ||
                            !node_wait_unreserved(backend_edge(b)->target, errp))) {
        return false;
    }
    if (backend_find(id) != b) { /* another console was faster */
        return device_not_found(id, errp);
    }
    drive_forget(id);
    if (backend_device(b)) {
        backend_forget_name(b); /* the device keeps it, and takes it along if it goes */
        backend_eject(b);
    } else {
        backend_free(b);
    }
    export_device_ejected(id);
    node_wait_all_closed();
    return true;
}

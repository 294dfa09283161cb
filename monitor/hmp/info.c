/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Console commands that show things: from the replies of the QMP queries.
 */
#include "hmp-table.h"
#include "qapi-types.h"
#include <string.h>

/* 67108864 -> "64 MiB": three significant digits, as tools of the field print sizes. */
char *hmp_human_size(int64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = bytes;
    unsigned i = 0;

    while (v >= 1000 && i + 1 < G_N_ELEMENTS(units)) { /* three digits at most before the unit */
        v /= 1024;
        i++;
    }
    return g_strdup_printf("%0.3g %s", v, units[i]);
}

/* ---- info block ---- */

static void print_value(Hmp *h, struct json_object *value, unsigned indent);

/* One member, or one element of a list. */
static void print_item(Hmp *h, const char *name, struct json_object *value, unsigned indent)
{
    bool nested =
        json_object_is_type(value, json_type_object) || json_object_is_type(value, json_type_array);

    hmp_print(h, "%*s%s:%s", (int)indent * 4, "", name, nested ? "\n" : " ");
    print_value(h, value, indent + 1);
}

/* A tree of values, as tools of the field show it: four columns a level, blanks for the dashes of names. */
static void print_value(Hmp *h, struct json_object *value, unsigned indent)
{
    if (json_object_is_type(value, json_type_object)) {
        json_object_object_foreach(value, key, member)
        {
            g_autofree char *name = g_strdelimit(g_strdup(key), "-", ' ');

            print_item(h, name, member, indent);
        }
    } else if (json_object_is_type(value, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(value); i++) {
            g_autofree char *name = g_strdup_printf("[%zu]", i);

            print_item(h, name, json_object_array_get_idx(value, i), indent);
        }
    } else {
        hmp_print(h, "%s\n", json_object_get_string(value));
    }
}

static void print_limits(Hmp *h, struct json_object *ins)
{
    static const char *const names[] = {
        "bps",     "bps_rd",  "bps_wr",   "bps_max",     "bps_rd_max",  "bps_wr_max", "iops",
        "iops_rd", "iops_wr", "iops_max", "iops_rd_max", "iops_wr_max", "iops_size"};

    if (!hmp_get(ins, "group")) {
        return;
    }
    hmp_print(h, "    I/O throttling:  ");
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        hmp_print(h, " %s=%" G_GINT64_FORMAT, names[i], hmp_get_int(ins, names[i]));
    }
    hmp_print(h, " group=%s\n", hmp_get_string(ins, "group"));
}

static void print_snapshots(Hmp *h, struct json_object *list)
{
    g_autoptr(SnapshotInfoList) snapshots = NULL;
    g_autoptr(Error) ignored = NULL;

    /* It is our own reply. */
    if (list && qapi_parse_SnapshotInfoList(list, &snapshots, &ignored) && snapshots) {
        hmp_print(h, "Snapshot list:\n");
        hmp_print_snapshots(h, snapshots);
    }
}

static void print_image(Hmp *h, struct json_object *i)
{
    g_autofree char *size = hmp_human_size(hmp_get_int(i, "virtual-size"));
    struct json_object *specific = hmp_get(i, "format-specific");

    hmp_print(h, "image: %s\nfile format: %s\nvirtual size: %s (%" G_GINT64_FORMAT " bytes)\n",
              hmp_get_string(i, "filename"), hmp_get_string(i, "format"), size,
              hmp_get_int(i, "virtual-size"));
    if (hmp_get(i, "actual-size")) {
        g_autofree char *used = hmp_human_size(hmp_get_int(i, "actual-size"));

        hmp_print(h, "disk size: %s\n", used);
    } else {
        hmp_print(h, "disk size: unavailable\n");
    }
    if (hmp_get_bool(i, "encrypted")) {
        hmp_print(h, "encrypted: yes\n");
    }
    if (hmp_get(i, "cluster-size")) {
        hmp_print(h, "cluster_size: %" G_GINT64_FORMAT "\n", hmp_get_int(i, "cluster-size"));
    }
    if (hmp_get_bool(i, "dirty-flag")) {
        hmp_print(h, "cleanly shut down: no\n");
    }
    if (hmp_get(i, "backing-filename")) {
        const char *full = hmp_get_string(i, "full-backing-filename"),
                   *name = hmp_get_string(i, "backing-filename");

        hmp_print(h, "backing file: %s", name);
        if (!full[0]) {
            hmp_print(h, " (cannot determine actual path)");
        } else if (strcmp(full, name) != 0) {
            hmp_print(h, " (actual path: %s)", full);
        }
        hmp_print(h, "\n");
        if (hmp_get(i, "backing-filename-format")) {
            hmp_print(h, "backing file format: %s\n", hmp_get_string(i, "backing-filename-format"));
        }
    }
    if (hmp_get(i, "limits")) {
        hmp_print(h, "Block limits:\n");
        print_value(h, hmp_get(i, "limits"), 1);
    }
    print_snapshots(h, hmp_get(i, "snapshots"));
    if (specific && hmp_get(specific, "data")) {
        hmp_print(h, "Format specific information:\n");
        print_value(h, hmp_get(specific, "data"), 1);
    }
}

/* What is inserted: after the heading's name. */
static void print_inserted(Hmp *h, struct json_object *b, struct json_object *ins, bool verbose)
{
    struct json_object *cache = hmp_get(ins, "cache");

    if (b && hmp_get(b, "qdev")) {
        hmp_print(h, "    Attached to:      %s\n", hmp_get_string(b, "qdev"));
    }
    if (b && hmp_get(b, "io-status") && strcmp(hmp_get_string(b, "io-status"), "ok") != 0) {
        hmp_print(h, "    I/O status:       %s\n", hmp_get_string(b, "io-status"));
    }
    if (b && hmp_get_bool(b, "removable")) {
        hmp_print(h, "    Removable device: %slocked, tray %s\n",
                  hmp_get_bool(b, "locked") ? "" : "not ",
                  hmp_get_bool(b, "tray_open") ? "open" : "closed");
    }
    if (!ins) {
        return;
    }
    hmp_print(h, "    Cache mode:       %s%s%s\n",
              hmp_get_bool(cache, "writeback") ? "writeback" : "writethrough",
              hmp_get_bool(cache, "direct") ? ", direct" : "",
              hmp_get_bool(cache, "no-flush") ? ", ignore flushes" : "");
    if (hmp_get(ins, "backing_file")) {
        hmp_print(h, "    Backing file:     %s (chain depth: %" G_GINT64_FORMAT ")\n",
                  hmp_get_string(ins, "backing_file"), hmp_get_int(ins, "backing_file_depth"));
    }
    if (strcmp(hmp_get_string(ins, "detect_zeroes"), "off") != 0) {
        hmp_print(h, "    Detect zeroes:    %s\n", hmp_get_string(ins, "detect_zeroes"));
    }
    print_limits(h, ins);
    if (verbose) {
        struct json_object *i = hmp_get(ins, "image");

        hmp_print(h, "\nImages:\n");
        for (; i; i = hmp_get(i, "backing-image")) {
            print_image(h, i);
            if (hmp_get(i, "backing-image")) {
                hmp_print(h, "\n");
            }
        }
    }
}

static void print_disk(Hmp *h, struct json_object *b, struct json_object *ins, bool verbose)
{
    const char *node = ins ? hmp_get_string(ins, "node-name") : "",
               *device = b ? hmp_get_string(b, "device") : "";

    if (device[0]) {
        hmp_print(h, "%s", device);
        if (ins && node[0]) {
            hmp_print(h, " (%s)", node);
        }
    } else if (node[0]) {
        hmp_print(h, "%s", node);
    } else {
        hmp_print(h, "%s", b && hmp_get(b, "qdev") ? hmp_get_string(b, "qdev") : "<anonymous>");
    }
    if (ins) {
        hmp_print(h, ": %s (%s%s%s%s)\n", hmp_get_string(ins, "file"), hmp_get_string(ins, "drv"),
                  hmp_get_bool(ins, "ro") ? ", read-only" : "",
                  hmp_get_bool(ins, "encrypted") ? ", encrypted" : "",
                  hmp_get_bool(ins, "active") ? "" : ", inactive");
    } else {
        hmp_print(h, ": [not inserted]\n");
    }
    print_inserted(h, b, ins, verbose);
}

bool coroutine_fn hmp_info_block(Hmp *h, struct json_object *args, Error **errp)
{
    const char *device = hmp_string(args, "device");
    bool verbose = hmp_flag(args, "verbose"), found = false;
    g_autoptr(JsonObject) disks = NULL, nodes = NULL;

    if (!hmp_flag(args, "nodes")) {
        if (!hmp_qmp("query-block", NULL, &disks, errp)) {
            return false;
        }
        for (size_t i = 0; i < json_object_array_length(disks); i++) {
            struct json_object *b = json_object_array_get_idx(disks, i);

            if (device && strcmp(device, hmp_get_string(b, "device")) != 0) {
                continue;
            }
            if (i > 0) {
                hmp_print(h, "\n");
            }
            print_disk(h, b, hmp_get(b, "inserted"), verbose);
            found = true;
        }
        if (!device || found) {
            return true;
        }
    }
    if (!hmp_qmp("query-named-block-nodes", NULL, &nodes, errp)) {
        return false;
    }
    for (size_t i = 0; i < json_object_array_length(nodes); i++) {
        struct json_object *n = json_object_array_get_idx(nodes, i);

        if (device && strcmp(device, hmp_get_string(n, "node-name")) != 0) {
            continue;
        }
        if (i > 0) {
            hmp_print(h, "\n");
        }
        print_disk(h, NULL, n, verbose);
    }
    return true;
}

/* ---- statistics and jobs ---- */

bool coroutine_fn hmp_info_blockstats(Hmp *h, struct json_object *args, Error **errp)
{
    static const char *const names[] = {
        "rd_bytes",         "wr_bytes",         "rd_operations",    "wr_operations",
        "flush_operations", "wr_total_time_ns", "rd_total_time_ns", "flush_total_time_ns",
        "rd_merged",        "wr_merged",        "idle_time_ns",
    };
    g_autoptr(JsonObject) list = NULL;

    (void)args;
    if (!hmp_qmp("query-blockstats", NULL, &list, errp)) {
        return false;
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *b = json_object_array_get_idx(list, i), *s = hmp_get(b, "stats");

        if (!s) {
            continue;
        }
        hmp_print(h, "%s:", hmp_get_string(b, "device"));
        for (unsigned n = 0; n < G_N_ELEMENTS(names); n++) {
            hmp_print(h, " %s=%" G_GINT64_FORMAT, names[n], hmp_get_int(s, names[n]));
        }
        hmp_print(h, "\n");
    }
    return true;
}

bool coroutine_fn hmp_info_block_jobs(Hmp *h, struct json_object *args, Error **errp)
{
    g_autoptr(JsonObject) list = NULL;

    (void)args;
    if (!hmp_qmp("query-block-jobs", NULL, &list, errp)) {
        return false;
    }
    if (json_object_array_length(list) == 0) {
        hmp_print(h, "No active jobs\n");
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *j = json_object_array_get_idx(list, i);

        if (strcmp(hmp_get_string(j, "type"), "stream") == 0) {
            hmp_print(h, "Streaming device %s:", hmp_get_string(j, "device"));
        } else {
            hmp_print(h, "Type %s, device %s:", hmp_get_string(j, "type"),
                      hmp_get_string(j, "device"));
        }
        hmp_print(h,
                  " Completed %" G_GINT64_FORMAT " of %" G_GINT64_FORMAT
                  " bytes, speed limit %" G_GINT64_FORMAT " bytes/s\n",
                  hmp_get_int(j, "offset"), hmp_get_int(j, "len"), hmp_get_int(j, "speed"));
    }
    return true;
}

bool coroutine_fn hmp_info_jobs(Hmp *h, struct json_object *args, Error **errp)
{
    g_autoptr(JsonObject) list = NULL;

    (void)args;
    if (!hmp_qmp("query-jobs", NULL, &list, errp)) {
        return false;
    }
    if (json_object_array_length(list) == 0) {
        hmp_print(h, "No jobs\n");
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *j = json_object_array_get_idx(list, i);

        hmp_print(h, "%s: %s, %s, %" G_GINT64_FORMAT " of %" G_GINT64_FORMAT "%s%s\n",
                  hmp_get_string(j, "id"), hmp_get_string(j, "type"), hmp_get_string(j, "status"),
                  hmp_get_int(j, "current-progress"), hmp_get_int(j, "total-progress"),
                  hmp_get(j, "error") ? ", error: " : "", hmp_get_string(j, "error"));
    }
    return true;
}

bool coroutine_fn hmp_info_transactions(Hmp *h, struct json_object *args, Error **errp)
{
    g_autoptr(JsonObject) list = NULL;

    (void)args;
    if (!hmp_qmp("query-transactions", NULL, &list, errp)) {
        return false;
    }
    if (json_object_array_length(list) == 0) {
        hmp_print(h, "No prepared transactions\n");
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *t = json_object_array_get_idx(list, i);

        hmp_print(h, "%s: %s, %" G_GINT64_FORMAT " actions, %" G_GINT64_FORMAT " ms left\n",
                  hmp_get_string(t, "id"), hmp_get_string(t, "state"), hmp_get_int(t, "actions"),
                  hmp_get_int(t, "remaining"));
    }
    return true;
}

bool coroutine_fn hmp_info_exports(Hmp *h, struct json_object *args, Error **errp)
{
    g_autoptr(JsonObject) list = NULL;

    (void)args;
    if (!hmp_qmp("query-block-exports", NULL, &list, errp)) {
        return false;
    }
    if (json_object_array_length(list) == 0) {
        hmp_print(h, "No exports\n");
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *e = json_object_array_get_idx(list, i);

        hmp_print(h, "%s: %s of node %s%s\n", hmp_get_string(e, "id"), hmp_get_string(e, "type"),
                  hmp_get_string(e, "node-name"),
                  hmp_get_bool(e, "shutting-down") ? ", shutting down" : "");
    }
    return true;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Drives: the option -drive, and drive_add.
 *
 * A drive is a backend with a place on a bus.  Its options are of three kinds: those of the drive itself (if, index, id, ...), those that are
 * short for options of nodes (cache, aio, discard, ...), and options of nodes, which drive-options.c completes.
 *
 * Names: a drive without id is named after its place, as the emulator does it: virtio0, none0, ide0-hd1, ide1-cd0, floppy0, scsi0-hd0.
 */
#include "block/backend-limits.h"
#include "block/graph.h"
#include "block/superseded.h"
#include "drive-options.h"
#include "emulator.h"
#include "qapi-types.h"
#include "util/log.h"
#include <stdlib.h>
#include <string.h>

static GPtrArray *drives; /* Drive * */
static bool all_temporary;

static const struct {
    const char *name;
    int units; /* of a bus; 0: it has no buses */
} interfaces[] = {
    [DRIVE_NONE] = {"none", 0},     [DRIVE_IDE] = {"ide", 2},       [DRIVE_SCSI] = {"scsi", 7},
    [DRIVE_FLOPPY] = {"floppy", 0}, [DRIVE_PFLASH] = {"pflash", 0}, [DRIVE_MTD] = {"mtd", 0},
    [DRIVE_SD] = {"sd", 0},         [DRIVE_VIRTIO] = {"virtio", 0}, [DRIVE_XEN] = {"xen", 0},
};

void drive_set_all_temporary(void)
{
    all_temporary = true;
}

const Drive *drive_find(const char *id)
{
    for (guint i = 0; drives && i < drives->len; i++) {
        const Drive *d = g_ptr_array_index(drives, i);

        if (strcmp(d->id, id) == 0) {
            return d;
        }
    }
    return NULL;
}

static void drive_free(gpointer p)
{
    Drive *d = p;

    g_free(d->id);
    g_free(d);
}

void drive_forget(const char *id)
{
    const Drive *d = drive_find(id);

    if (d) {
        g_ptr_array_remove(drives, (gpointer)d);
    }
}

void drive_forget_all(void)
{
    g_clear_pointer(&drives, g_ptr_array_unref);
}

GPtrArray *drive_list(void)
{
    GPtrArray *list = g_ptr_array_new();

    for (guint i = 0; drives && i < drives->len; i++) {
        g_ptr_array_add(list, g_ptr_array_index(drives, i));
    }
    return list;
}

static bool place_taken(DriveInterface interface, int bus, int unit)
{
    for (guint i = 0; drives && i < drives->len; i++) {
        const Drive *d = g_ptr_array_index(drives, i);

        if (d->interface == interface && d->bus == bus && d->unit == unit) {
            return true;
        }
    }
    return false;
}

/* ---- options of the drive itself ---- */

static bool take_number(struct json_object *o, const char *name, int fallback, int *ret,
                        Error **errp)
{
    g_autofree char *text = legacy_opts_take(o, name);
    char *end;
    long v;

    *ret = fallback;
    if (!text) {
        return true;
    }
    v = strtol(text, &end, 0);
    if (*end || end == text || v < 0 || v > 65535) {
        error_set(errp, ERROR_INVALID, name, "drive", "Parameter '%s' expects a number", name);
        return false;
    }
    *ret = v;
    return true;
}

static bool take_interface(struct json_object *o, Drive *d, Error **errp)
{
    g_autofree char *name = legacy_opts_take(o, "if");

    d->interface = DRIVE_IDE;
    for (unsigned i = 0; name && i < G_N_ELEMENTS(interfaces); i++) {
        if (strcmp(interfaces[i].name, name) == 0) {
            d->interface = i;
            return true;
        }
    }
    if (name) {
        error_set(errp, ERROR_INVALID, name, "drive", "unsupported bus type '%s'", name);
    }
    return !name;
}

static bool take_place(struct json_object *o, Drive *d, Error **errp)
{
    int units = interfaces[d->interface].units, index;

    if (!take_number(o, "index", -1, &index, errp) || !take_number(o, "bus", 0, &d->bus, errp) ||
        !take_number(o, "unit", -1, &d->unit, errp)) {
        return false;
    }
    if (index >= 0) {
        if (d->bus != 0 || d->unit >= 0) {
            error_set(errp, ERROR_INVALID, "index", "drive",
                      "index cannot be used with bus and unit");
            return false;
        }
        d->bus = units ? index / units : 0;
        d->unit = units ? index % units : index;
    }
    if (units && d->unit >= units) {
        error_set(errp, ERROR_INVALID, "unit", "drive", "unit %d too big (max is %d)", d->unit,
                  units - 1);
        return false;
    }
    if (d->unit < 0) {
        for (d->unit = 0; place_taken(d->interface, d->bus, d->unit);) {
            d->unit++;
            if (units && d->unit >= units) {
                d->unit = 0;
                d->bus++;
            }
        }
    }
    if (place_taken(d->interface, d->bus, d->unit)) {
        error_set(errp, ERROR_EXISTS, NULL, "drive", "drive with bus=%d, unit=%d (index=%d) exists",
                  d->bus, d->unit, units ? d->bus * units + d->unit : d->unit);
        return false;
    }
    return true;
}

static bool take_media(struct json_object *o, Drive *d, Error **errp)
{
    g_autofree char *media = legacy_opts_take(o, "media");

    if (media && strcmp(media, "cdrom") != 0 && strcmp(media, "disk") != 0) {
        error_set(errp, ERROR_INVALID, "media", "drive", "'%s' invalid media", media);
        return false;
    }
    d->cdrom = media && strcmp(media, "cdrom") == 0;
    return true;
}

static void choose_id(struct json_object *o, Drive *d)
{
    const char *name = interfaces[d->interface].name;

    d->id = legacy_opts_take(o, "id");
    if (d->id) {
        return;
    }
    if (interfaces[d->interface].units) {
        d->id = g_strdup_printf("%s%d-%s%d", name, d->bus, d->cdrom ? "cd" : "hd", d->unit);
    } else {
        d->id = g_strdup_printf("%s%d", name, d->unit);
    }
}

/* ---- what is short for options of nodes ---- */

static void set_default(struct json_object *o, const char *key, const char *value)
{
    if (!json_object_object_get_ex(o, key, NULL)) {
        json_object_object_add(o, key, json_object_new_string(value));
    }
}

static bool take_cache(struct json_object *o, bool *ret_writethrough, Error **errp)
{
    static const struct {
        const char *name;
        bool direct, no_flush, writethrough;
    } modes[] = {
        {"none", true, false, false},       {"off", true, false, false},
        {"writeback", false, false, false}, {"writethrough", false, false, true},
        {"directsync", true, false, true},  {"unsafe", false, true, false},
    };
    g_autofree char *mode = legacy_opts_take(o, "cache");
    g_autofree char *writeback = NULL;

    for (unsigned i = 0; mode && i < G_N_ELEMENTS(modes); i++) {
        if (strcmp(modes[i].name, mode) == 0) {
            set_default(o, "cache.direct", modes[i].direct ? "on" : "off");
            set_default(o, "cache.no-flush", modes[i].no_flush ? "on" : "off");
            *ret_writethrough = modes[i].writethrough;
            g_clear_pointer(&mode, g_free);
        }
    }
    if (mode) {
        error_set(errp, ERROR_INVALID, "cache", "drive", "invalid cache option");
        return false;
    }
    writeback = legacy_opts_take(o, "cache.writeback");
    if (writeback) {
        *ret_writethrough = strcmp(writeback, "off") == 0;
    }
    return true;
}

bool drive_take_alias(struct json_object *o, const char *alias, const char *name, Error **errp)
{
    g_autofree char *value = NULL;

    if (json_object_object_get_ex(o, alias, NULL) && json_object_object_get_ex(o, name, NULL)) {
        error_set(errp, ERROR_INVALID, name, "drive",
                  "'%s' and its alias '%s' can't be used at the same time", name, alias);
        return false;
    }
    value = legacy_opts_take(o, alias);
    if (value) {
        set_default(o, name, value);
    }
    return true;
}

bool drive_on_off(const char *key, const char *value, bool *ret, Error **errp)
{
    if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0) {
        error_set(errp, ERROR_INVALID, key, "drive", "Parameter '%s' expects 'on' or 'off'", key);
        return false;
    }
    *ret = strcmp(value, "on") == 0;
    return true;
}

/* What a drive is, beside its nodes. */
typedef struct DriveSettings {
    bool temporary, writethrough, copy_on_read;
    MediumDefaults defaults;
    ThrottleConfig limits;
    char *group; /* of the limits; NULL: called like the drive */
    StatsConfig stats;
} DriveSettings;

static bool is_on(struct json_object *o, const char *name)
{
    return g_strcmp0(json_object_get_string(json_object_object_get(o, name)), "on") == 0;
}

static bool take_flags(struct json_object *o, bool read_only, DriveSettings *s, Error **errp)
{
    g_autofree char *discard = NULL, *snapshot = legacy_opts_take(o, "snapshot"),
                    *copy_on_read = legacy_opts_take(o, "copy-on-read");

    s->temporary = all_temporary;
    if ((snapshot && !drive_on_off("snapshot", snapshot, &s->temporary, errp)) ||
        (copy_on_read && !drive_on_off("copy-on-read", copy_on_read, &s->copy_on_read, errp))) {
        return false;
    }
    if (s->copy_on_read && (read_only || is_on(o, "read-only"))) {
        log_warn("disabling copy-on-read on read-only drive");
        s->copy_on_read = false;
    }
    discard = legacy_opts_take(o, "discard");
    if (discard) {
        if (strcmp(discard, "on") == 0 || strcmp(discard, "unmap") == 0) {
            set_default(o, "discard", "unmap");
        } else if (strcmp(discard, "off") == 0 || strcmp(discard, "ignore") == 0) {
            set_default(o, "discard", "ignore");
        } else {
            error_set(errp, ERROR_INVALID, "discard", "drive", "Invalid discard option");
            return false;
        }
    }
    return true;
}

static bool take_error_actions(struct json_object *o, Error **errp)
{
    static const char *const known[] = {"ignore", "stop", "report", "auto", "enospc", NULL};
    static const char *const names[] = {"werror", "rerror"};

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *value = legacy_opts_take(o, names[i]);

        if (value && (!g_strv_contains(known, value) || (i && strcmp(value, "enospc") == 0))) {
            error_set(errp, ERROR_INVALID, names[i], "drive", "'%s' invalid %s error action", value,
                      i ? "read" : "write");
            return false;
        }
    }
    return true;
}

static bool take_driver(struct json_object *o, DriveNodes *n, Error **errp)
{
    g_autofree char *format = legacy_opts_take(o, "format");

    n->driver = legacy_opts_take(o, "driver");
    if (format && n->driver) {
        error_set(errp, ERROR_INVALID, "driver", "drive",
                  "Cannot specify both 'driver' and 'format'");
        return false;
    }
    if (format) {
        n->driver = g_steal_pointer(&format);
    }
    return true;
}

/* ---- making ---- */

Node *coroutine_fn drive_open(BlockdevOptions *options, Error **errp)
{
    g_autoptr(BlockdevOptions) instead = NULL, asked = qapi_copy_BlockdevOptions(options);
    Node *n;

    /* A drive's default: it is opened for writing if that can be. */
    asked->has_auto_read_only = false;
    if (!superseded_check(asked, &instead, errp)) {
        return NULL;
    }
    n = node_open(instead ? instead : options, 0, NULL, errp);
    if (!n) {
        node_wait_all_closed();
    }
    return n;
}

static bool coroutine_fn insert(Backend *b, BlockdevOptions *options, bool temporary, Error **errp)
{
    g_autoptr(BlockdevOptions) overlay = NULL;
    g_autoptr(Node) n = NULL;
    char *path = NULL;

    if (temporary) {
        overlay = temporary_overlay(options, &path, errp);
        if (!overlay) {
            return false;
        }
    }
    n = drive_open(overlay ? overlay : options, errp);
    temporary_forget(path);
    return n && backend_insert(b, n, errp);
}

/* The nodes: *ret_options NULL if there is no medium.  o: what is left of the options. */
static bool coroutine_fn build_nodes(struct json_object *o, bool cdrom,
                                     BlockdevOptions **ret_options, DriveSettings *s, Error **errp)
{
    DriveNodes n = {.read_only = cdrom};
    struct json_object *nested = NULL;
    bool ok;

    ok = take_driver(o, &n, errp) && drive_take_alias(o, "readonly", "read-only", errp) &&
         take_error_actions(o, errp) && drive_take_limits(o, &s->limits, &s->group, errp) &&
         drive_take_stats(o, &s->stats, errp) && take_flags(o, cdrom, s, errp) &&
         take_cache(o, &s->writethrough, errp);
    n.file = legacy_opts_take(o, "file");
    n.aio = legacy_opts_take(o, "aio");
    if (ok) {
        nested = legacy_opts_nest(o, errp);
        ok = nested != NULL;
    }
    if (ok) {
        drive_options_defaults(&n, nested, &s->defaults);
    }
    ok = ok && drive_options_complete(&n, nested, ret_options, errp);
    json_object_put(nested);
    g_free(n.file);
    g_free(n.driver);
    g_free(n.aio);
    return ok;
}

bool coroutine_fn drive_new(const char *options, const Drive **ret_drive, Error **errp)
{
    g_autoptr(JsonObject) o = legacy_opts_parse(options, "file", errp);
    g_autoptr(BlockdevOptions) nodes = NULL;
    Drive *d = g_new0(Drive, 1);
    DriveSettings s = {0};
    Backend *b = NULL;
    bool ok;

    if (o && take_interface(o, d, errp) && take_media(o, d, errp) && take_place(o, d, errp)) {
        choose_id(o, d);
        b = backend_new(d->id, errp);
    }
    if (!b) {
        drive_free(d);
        return false;
    }
    backend_ref(b); /* opening suspends */
    ok = build_nodes(o, d->cdrom, &nodes, &s, errp);
    if (ok) {
        backend_set_stats(b, &s.stats);
        ok = backend_set_limits(b, &s.limits, s.group, d->id, errp) &&
             (!nodes || insert(b, nodes, s.temporary, errp));
    }
    g_free(s.group);
    if (!ok) {
        if (!backend_is_gone(b)) {
            backend_free(b);
        }
        backend_unref(b);
        drive_free(d);
        return false;
    }
    backend_set_writethrough(b, s.writethrough);
    backend_set_copy_on_read(b, s.copy_on_read);
    backend_set_defaults(b, &s.defaults);
    backend_unref(b); /* there it is, or insert() would have failed */
    if (!drives) {
        drives = g_ptr_array_new_with_free_func(drive_free);
    }
    g_ptr_array_add(drives, d);
    *ret_drive = d;
    return true;
}

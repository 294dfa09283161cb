/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Devices: what of a guest's device concerns its disk.
 *
 * A device here uses a backend as the real one does: it has the same permissions on the disk, the same name in queries, can be added and
 * removed; and it never sends a request.  Controllers are names that disks can be plugged into.
 *
 * drive= names a backend, or a node; then the device makes an anonymous backend of its own.
 */
#include "block/graph.h"
#include "block/iothread-objects.h"
#include "block/job.h"
#include "emulator.h"
#include "qapi-events.h"
#include "util/iothread.h"
#include <stdio.h>
#include <string.h>

typedef enum DeviceKind { DEVICE_CONTROLLER, DEVICE_DISK, DEVICE_REMOVABLE } DeviceKind;

typedef struct DeviceType {
    const char *name, *alias;
    const char *bus;      /* what it is plugged into */
    const char *provides; /* what can be plugged into it */
    const char *desc;
    DeviceKind kind;
    bool has_tray;         /* that opens and closes */
    bool may_be_read_only; /* a disk that guests may only read is accepted */
    const char *holder;    /* the part that has the drive, in paths and messages */
} DeviceType;

static const DeviceType types[] = {
    {"floppy", NULL, "floppy-bus", NULL, "virtual floppy drive", DEVICE_REMOVABLE, false, true,
     NULL},
    {"ide-cd", NULL, "IDE", NULL, "virtual IDE CD-ROM", DEVICE_REMOVABLE, true, true, NULL},
    {"ide-hd", NULL, "IDE", NULL, "virtual IDE disk", DEVICE_DISK, false, false, NULL},
    {"lsi53c895a", "lsi", "PCI", "SCSI", NULL, DEVICE_CONTROLLER, false, false, NULL},
    {"scsi-cd", NULL, "SCSI", NULL, "virtual SCSI CD-ROM", DEVICE_REMOVABLE, true, true, NULL},
    {"scsi-hd", NULL, "SCSI", NULL, "virtual SCSI disk", DEVICE_DISK, false, true, NULL},
    {"virtio-blk-device", NULL, "virtio-bus", NULL, NULL, DEVICE_DISK, false, true, NULL},
    {"virtio-blk-pci", "virtio-blk", "PCI", NULL, NULL, DEVICE_DISK, false, true, "virtio-backend"},
    {"virtio-scsi-device", NULL, "virtio-bus", "SCSI", NULL, DEVICE_CONTROLLER, false, false, NULL},
    {"virtio-scsi-pci", "virtio-scsi", "PCI", "SCSI", NULL, DEVICE_CONTROLLER, false, false, NULL},
    {"pcie-root-port", NULL, "PCI", "PCIE", "PCI Express Root Port", DEVICE_CONTROLLER, false,
     false, NULL},
};

typedef struct Device {
    const DeviceType *type;
    char *id;   /* NULL: anonymous */
    char *path; /* in the object tree */
    char *shown;
    Backend *backend; /* NULL: a controller; referenced */
    bool own_backend;
    bool share_rw;
    BackendDevice info;
    IOThread *iothread;
} Device;

static GPtrArray *devices; /* Device *, oldest first */
/* Names of those without one: what the machine comes with is not among the peripherals. */
typedef enum DevicePlace { DEVICE_ANONYMOUS, DEVICE_OF_MACHINE } DevicePlace;
static const char *const containers[] = {
    [DEVICE_ANONYMOUS] = "peripheral-anon", [DEVICE_OF_MACHINE] = "unattached"};
static unsigned unnamed[G_N_ELEMENTS(containers)];

void device_print_help(void)
{
    static const struct {
        const char *title;
        bool controllers;
    } groups[] = {{"Controller/Bridge/Hub devices", true}, {"Storage devices", false}};

    for (unsigned g = 0; g < G_N_ELEMENTS(groups); g++) {
        printf("%s%s:\n", g ? "\n" : "", groups[g].title);
        for (unsigned i = 0; i < G_N_ELEMENTS(types); i++) {
            const DeviceType *t = &types[i];

            if ((t->kind == DEVICE_CONTROLLER && !t->provides) ||
                (t->kind == DEVICE_CONTROLLER && strcmp(t->provides, "PCIE") == 0) !=
                    groups[g].controllers) {
                continue;
            }
            printf("name \"%s\", bus %s", t->name, t->bus);
            if (t->alias) {
                printf(", alias \"%s\"", t->alias);
            }
            if (t->desc) {
                printf(", desc \"%s\"", t->desc);
            }
            printf("\n");
        }
    }
}

const char *device_type_name(unsigned i)
{
    return i < G_N_ELEMENTS(types) ? types[i].name : NULL;
}

static const DeviceType *find_type(const char *name, Error **errp)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++) {
        if (strcmp(types[i].name, name) == 0 || g_strcmp0(types[i].alias, name) == 0) {
            return &types[i];
        }
    }
    error_set(errp, ERROR_NOT_FOUND, name, "device", "'%s' is not a valid device model name", name);
    return NULL;
}

static Device *find(const char *id)
{
    for (guint i = 0; devices && i < devices->len; i++) {
        Device *d = g_ptr_array_index(devices, i);

        if (g_strcmp0(d->id, id) == 0) {
            return d;
        }
    }
    return NULL;
}

/* ---- options ---- */

/* What guests would see of a disk or a controller: accepted, without meaning here. */
static const char *const properties[] = {"driver",
                                         "id",
                                         "bus",
                                         "drive",
                                         "iothread",
                                         "share-rw",
                                         "write-cache",
                                         "serial",
                                         "bootindex",
                                         "logical_block_size",
                                         "physical_block_size",
                                         "min_io_size",
                                         "opt_io_size",
                                         "discard_granularity",
                                         "num-queues",
                                         "num_queues",
                                         "queue-size",
                                         "scsi-id",
                                         "lun",
                                         "channel",
                                         "unit",
                                         "addr",
                                         "wwn",
                                         "ver",
                                         "product",
                                         "vendor",
                                         "device_id",
                                         "rerror",
                                         "werror",
                                         "account-invalid",
                                         "account-failed",
                                         "chassis",
                                         "port",
                                         "slot",
                                         "config-wce",
                                         "discard",
                                         "write-zeroes",
                                         "multifunction",
                                         "removable",
                                         "drive-type",
                                         "fallback",
                                         "packed",
                                         "rotation_rate",
                                         "disable-legacy",
                                         "disable-modern",
                                         "max-discard-sectors",
                                         "virtqueue_size",
                                         "event_idx",
                                         NULL};

static const char *option(struct json_object *o, const char *name)
{
    struct json_object *v;

    if (!json_object_object_get_ex(o, name, &v) || !v) {
        return NULL;
    }
    if (json_object_is_type(v, json_type_boolean)) {
        return json_object_get_boolean(v) ? "on" : "off";
    }
    return json_object_get_string(v);
}

static bool check_properties(const DeviceType *t, struct json_object *o, Error **errp)
{
    json_object_object_foreach(o, key, value)
    {
        if (!g_strv_contains(properties, key) && !g_str_has_prefix(key, "stats-intervals")) {
            error_set(errp, ERROR_INVALID, key, "device", "Property '%s.%s' not found", t->name,
                      key);
            return false;
        }
        if (json_object_is_type(value, json_type_object) ||
            json_object_is_type(value, json_type_array)) {
            error_set(errp, ERROR_INVALID, key, "device",
                      "Invalid parameter type for '%s', expected: string", key);
            return false;
        }
    }
    return true;
}

static bool flag(const DeviceType *t, struct json_object *o, const char *name, bool fallback,
                 bool *ret, Error **errp)
{
    const char *v = option(o, name);

    *ret = fallback;
    if (!v || strcmp(v, "auto") == 0) {
        return true;
    }
    if (strcmp(v, "on") == 0 || strcmp(v, "true") == 0 || strcmp(v, "yes") == 0) {
        *ret = true;
    } else if (strcmp(v, "off") == 0 || strcmp(v, "false") == 0 || strcmp(v, "no") == 0) {
        *ret = false;
    } else {
        error_set(errp, ERROR_INVALID, name, "device", "Parameter '%s.%s' expects 'on' or 'off'",
                  t->name, name);
        return false;
    }
    return true;
}

/* bus=: "scsi0.0" or "scsi0" of a controller; without it any that fits. */
static bool check_bus(const DeviceType *t, const char *bus, Error **errp)
{
    if (strcmp(t->bus, "SCSI") != 0) {
        return true; /* the machine has it */
    }
    for (guint i = 0; devices && i < devices->len; i++) {
        const Device *d = g_ptr_array_index(devices, i);
        size_t len = d->id ? strlen(d->id) : 0;

        if (g_strcmp0(d->type->provides, "SCSI") == 0 &&
            (!bus || (d->id && strncmp(bus, d->id, len) == 0 &&
                      (bus[len] == '\0' || strcmp(bus + len, ".0") == 0)))) {
            return true;
        }
    }
    if (bus) {
        error_set(errp, ERROR_NOT_FOUND, bus, "device", "Bus '%s' not found", bus);
    } else {
        error_set(errp, ERROR_NOT_FOUND, t->bus, "device", "No '%s' bus found for device '%s'",
                  t->bus, t->name);
    }
    return false;
}

/* ---- the disk ---- */

static bool take_iothread(Device *d, const char *name, Error **errp)
{
    IOThread *t;

    name = name && name[0] ? name : NULL; /* an empty one is none */
    t = name ? iothread_find(name) : NULL;

    if (name && !t) {
        error_set(errp, ERROR_NOT_FOUND, name, "device", "Device '%s' not found", name);
        return false;
    }
    d->iothread = t ? iothread_ref(t) : NULL;
    return true;
}

static bool coroutine_fn find_disk(Device *d, const char *drive, Error **errp)
{
    Backend *b = drive ? backend_find(drive) : NULL;
    Node *n = !b && drive ? node_find(drive) : NULL;

    if (drive && !b && !n) {
        error_set(errp, ERROR_NOT_FOUND, drive, "device",
                  "Property '%s.drive' can't find value '%s'", d->type->name, drive);
        return false;
    }
    if (b && backend_device(b)) {
        error_set(errp, ERROR_BUSY, drive, "device",
                  "Drive '%s' is already in use by another block device", drive);
        return false;
    }
    if (!drive && d->type->kind == DEVICE_DISK) {
        error_set(errp, ERROR_INVALID, d->type->name, "device", "drive property not set");
        return false;
    }
    if (b && !backend_edge(b) && d->type->kind == DEVICE_DISK) {
        error_set(errp, ERROR_INVALID, d->type->name, "device",
                  "Device needs media, but drive is empty");
        return false;
    }
    if (b) {
        d->backend = backend_ref(b);
    } else {
        d->own_backend = true;
        d->backend = backend_ref(backend_new(NULL, errp)); /* without a name it cannot fail */
        if (n && (!node_wait_unreserved(n, errp) || !backend_insert(d->backend, n, errp))) {
            return false;
        }
    }
    return true;
}

/* What the device takes of its medium, if it has one, and of the next one.  With its tray open: nothing. */
static bool coroutine_fn take_perm(Backend *b, const DeviceType *t, bool share_rw, bool loaded,
                                   Error **errp)
{
    unsigned perm = PERM_CONSISTENT_READ,
             shared = PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED | PERM_RESIZE;
    const Edge *e = backend_edge(b);

    if (!loaded || machine_is_incoming()) {
        return backend_set_perm(b, PERM_NONE, PERM_ALL, errp);
    }
    if (!t->has_tray && e && !node_is_read_only(e->target)) {
        perm |= PERM_WRITE;
    }
    return backend_set_perm(b, perm, share_rw ? shared | PERM_WRITE : shared, errp);
}

static bool coroutine_fn take_disk(Device *d, struct json_object *o, Error **errp)
{
    bool write_cache;
    Edge *e;

    if (!flag(d->type, o, "share-rw", false, &d->share_rw, errp) ||
        !find_disk(d, option(o, "drive"), errp) ||
        !flag(d->type, o, "write-cache", !backend_writethrough(d->backend), &write_cache, errp)) {
        return false;
    }
    e = backend_edge(d->backend);
    if (e && node_is_read_only(e->target) && !d->type->may_be_read_only) {
        error_set(errp, ERROR_PERMISSION, e->target->name, "device", "Block node is read-only");
        return false;
    }
    if (!take_perm(d->backend, d->type, d->share_rw, e || d->type->has_tray, errp)) {
        return false;
    }
    if (backend_is_gone(d->backend) || backend_device(d->backend)) { /* meanwhile */
        error_set(errp, ERROR_BUSY, option(o, "drive"), "device",
                  "Drive '%s' is already in use by another block device", option(o, "drive"));
        return false;
    }
    backend_set_writethrough(d->backend, !write_cache);
    d->info.qdev = d->shown;
    d->info.removable = d->type->kind == DEVICE_REMOVABLE;
    d->info.has_tray = d->type->has_tray;
    backend_set_device(d->backend, &d->info);
    return true;
}

static void coroutine_fn device_free(Device *d)
{
    g_autoptr(Error) ignored = NULL;

    if (d->backend && backend_device(d->backend) == &d->info) {
        backend_set_device(d->backend, NULL);
        (void)backend_set_perm(d->backend, 0, PERM_ALL, &ignored); /* taking less cannot fail */
    }
    if (d->backend && (d->own_backend || !backend_name(d->backend)[0]) &&
        !backend_is_gone(d->backend)) {
        backend_free(d->backend);
    }
    if (d->backend) {
        backend_unref(d->backend);
    }
    if (d->iothread) {
        iothread_unref(d->iothread);
    }
    g_free(d->id);
    g_free(d->path);
    g_free(d->shown);
    g_free(d);
}

static bool coroutine_fn make(const DeviceType *t, struct json_object *o, DevicePlace place,
                              Error **errp)
{
    const char *id = option(o, "id");
    Device *d = g_new0(Device, 1);

    d->type = t;
    d->id = g_strdup(id);
    d->path = id ? g_strdup_printf("/machine/peripheral/%s", id)
                 : g_strdup_printf("/machine/%s/device[%u]", containers[place], unnamed[place]);
    if (t->holder) {
        d->shown = g_strdup_printf("%s/%s", d->path, t->holder);
    } else {
        d->shown = g_strdup(id ? id : d->path);
    }
    if (!take_iothread(d, option(o, "iothread"), errp) ||
        (t->kind != DEVICE_CONTROLLER && !take_disk(d, o, errp))) {
        device_free(d);
        return false;
    }
    if (!devices) {
        devices = g_ptr_array_new();
    }
    g_ptr_array_add(devices, d);
    unnamed[place] += !id;
    return true;
}

bool coroutine_fn device_new(struct json_object *options, Error **errp)
{
    const char *driver, *id;
    const DeviceType *t;

    if (!json_object_is_type(options, json_type_object) || !(driver = option(options, "driver"))) {
        error_set(errp, ERROR_INVALID, "driver", "device", "Parameter 'driver' is missing");
        return false;
    }
    id = option(options, "id");
    t = find_type(driver, errp);
    if (!t) {
        return false;
    }
    if (id && (!g_ascii_isalpha(id[0]) ||
               strspn(id, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "-._") != strlen(id))) {
        error_set(errp, ERROR_INVALID, id, "device", "Parameter 'id' expects an identifier");
        error_hint(
            errp, "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.");
        return false;
    }
    if (id && find(id)) {
        error_set(errp, ERROR_EXISTS, id, "device", "Duplicate device ID '%s'", id);
        return false;
    }
    return check_properties(t, options, errp) && check_bus(t, option(options, "bus"), errp) &&
           make(t, options, DEVICE_ANONYMOUS, errp);
}

bool coroutine_fn device_new_for_drive(const Drive *d, Error **errp)
{
    static const char *const of_interface[] = {
        [DRIVE_IDE] = "ide-hd", [DRIVE_FLOPPY] = "floppy", [DRIVE_VIRTIO] = "virtio-blk-pci"};
    const char *driver =
        d->interface < (int)G_N_ELEMENTS(of_interface) ? of_interface[d->interface] : NULL;
    g_autoptr(JsonObject) o = json_object_new_object();
    Backend *b = backend_find(d->id);

    if (d->interface == DRIVE_IDE && d->cdrom) {
        driver = "ide-cd";
    }
    if (!driver || !b || backend_device(b)) {
        return true; /* nothing is plugged in by itself */
    }
    json_object_object_add(o, "driver", json_object_new_string(driver));
    json_object_object_add(o, "drive", json_object_new_string(d->id));
    /* What the machine comes with, and what the user could have added. */
    return make(find_type(driver, errp), o,
                d->interface == DRIVE_VIRTIO ? DEVICE_ANONYMOUS : DEVICE_OF_MACHINE, errp);
}

bool coroutine_fn device_del(const char *id, Error **errp)
{
    Device *d = find(id);
    g_autofree char *name = NULL, *path = NULL;

    if (!d) {
        error_set_class(errp, ERROR_CLASS_DEVICE_NOT_FOUND, ERROR_NOT_FOUND, id, "device",
                        "Device '%s' not found", id);
        return false;
    }
    name = g_strdup(d->id);
    path = g_strdup(d->path);
    g_ptr_array_remove(devices, d);
    if (d->backend && drive_find(backend_name(d->backend)) && backend_edge(d->backend)) {
        job_cancel_of_disk(
            backend_edge(d->backend)->target); /* a drive's jobs go with its device */
    }
    if (d->type->holder) {
        g_autofree char *part = g_strdup(d->shown);

        device_free(d);
        node_wait_all_closed(); /* its image is closed, and what that used is free, when anybody is told */
        qapi_event_send_device_deleted(NULL, part);
    } else {
        device_free(d);
        node_wait_all_closed();
    }
    qapi_event_send_device_deleted(name, path);
    return true;
}

char **device_names(void)
{
    g_autoptr(GStrvBuilder) names = g_strv_builder_new();

    for (guint i = 0; devices && i < devices->len; i++) {
        const Device *d = g_ptr_array_index(devices, i);

        if (d->id) {
            g_strv_builder_add(names, d->id);
        }
    }
    return g_strv_builder_end(names);
}

/* By its name, or its path. */
static Device *find_by_path(const char *path)
{
    for (guint i = 0; devices && i < devices->len; i++) {
        Device *d = g_ptr_array_index(devices, i);

        if (strcmp(d->path, path) == 0 || strcmp(d->shown, path) == 0) {
            return d;
        }
    }
    return NULL;
}

Backend *device_backend(const char *id, Error **errp)
{
    Device *d = id[0] == '/' ? find_by_path(id) : find(id);

    if (!d) {
        error_set_class(errp, ERROR_CLASS_DEVICE_NOT_FOUND, ERROR_NOT_FOUND, id, "device",
                        "Device '%s' not found", id);
        return NULL;
    }
    if (!d->backend) {
        error_set(errp, ERROR_INVALID, id, "device", "Device does not have a block device backend");
        return NULL;
    }
    return d->backend;
}

/* The device that uses b; NULL: none. */
static Device *device_of(const Backend *b)
{
    for (guint i = 0; devices && i < devices->len; i++) {
        Device *d = g_ptr_array_index(devices, i);

        if (d->backend == b) {
            return d;
        }
    }
    return NULL;
}

bool coroutine_fn device_load(Backend *b, bool load, Error **errp)
{
    Device *d = device_of(b);

    if (!d) {
        return true;
    }
    if (!take_perm(b, d->type, d->share_rw, load, errp)) {
        return false;
    }
    d = device_of(b);
    if (!d) { /* it was removed meanwhile, and gave up what it had before we took more */
        return backend_set_perm(b, PERM_NONE, PERM_ALL, errp);
    }
    if (d->type->has_tray && d->info.tray_open == load) {
        d->info.tray_open = !load;
        qapi_event_send_device_tray_moved(backend_name(b), d->shown, !load);
    }
    return true;
}

bool coroutine_fn device_take_all(Error **errp)
{
    for (guint i = 0; devices && i < devices->len; i++) {
        Device *d = g_ptr_array_index(devices, i);
        bool loaded = d->backend && (backend_edge(d->backend) || d->type->has_tray);

        if (loaded && !(d->type->has_tray && d->info.tray_open) &&
            !take_perm(d->backend, d->type, d->share_rw, true, errp)) {
            return false;
        }
    }
    return true;
}

void coroutine_fn device_free_all(void)
{
    while (devices && devices->len > 0) {
        Device *d = g_ptr_array_index(devices, devices->len - 1);

        g_ptr_array_remove(devices, d);
        device_free(d);
    }
}

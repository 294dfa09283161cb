/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Removable media: the commands that change what is in a device.
 *
 * A medium is the node in a backend.  A device with a tray is changed while the tray is open; one without (a floppy drive) takes its new medium,
 * or gives the old one up, with the change itself; a backend that no device uses can be changed at any time.
 *
 * Opening a medium, waiting for a transaction, and permissions suspend.  Others may change the device or remove it meanwhile, so what a step
 * relies on is looked at again after each wait, and the backend is referenced.
 */
#include "block/export.h"
#include "block/graph.h"
#include "drive-options.h"
#include "emulator.h"
#include "qapi-commands.h"
#include "qapi/dispatch.h"
#include <string.h>

void media_hide_commands(void)
{
    static const char *const names[] = {
        "eject",
        "blockdev-open-tray",
        "blockdev-close-tray",
        "blockdev-remove-medium",
        "blockdev-insert-medium",
        "blockdev-change-medium",
        "DEVICE_TRAY_MOVED",
        "block_set_io_throttle",
        "yank",
        "query-yank",
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        qapi_hide(names[i]);
    }
}

Backend *media_find_backend(const char *device, const char *id, Error **errp)
{
    Backend *b;

    if (!device == !id) {
        error_set(errp, ERROR_INVALID, id, "media", "Need exactly one of 'device' and 'id'");
        return NULL;
    }
    if (id) {
        b = device_backend(id, errp);
    } else {
        b = backend_find(device);
        if (!b) {
            error_set_class(errp, ERROR_CLASS_DEVICE_NOT_FOUND, ERROR_NOT_FOUND, device, "media",
                            "Device '%s' not found", device);
        }
    }
    return b ? backend_ref(b) : NULL;
}

/* Its medium can be changed; with no device it is a place that can be filled. */
static bool check_removable(const Backend *b, const char *name, Error **errp)
{
    const BackendDevice *d = backend_device(b);

    if (d && !d->removable) {
        error_set(errp, ERROR_UNSUPPORTED, name, "media", "Device '%s' is not removable", name);
        return false;
    }
    return true;
}

static bool has_tray(const Backend *b)
{
    return backend_device(b) && backend_device(b)->has_tray;
}

static bool tray_is_open(const Backend *b)
{
    return has_tray(b) && backend_device(b)->tray_open;
}

static bool coroutine_fn open_tray(Backend *b, const char *name, Error **errp)
{
    return check_removable(b, name, errp) &&
           (!has_tray(b) || tray_is_open(b) || device_load(b, false, errp));
}

static bool coroutine_fn close_tray(Backend *b, const char *name, Error **errp)
{
    return check_removable(b, name, errp) && (!tray_is_open(b) || device_load(b, true, errp));
}

static bool check_out(const Backend *b, const char *name, Error **errp)
{
    if (!check_removable(b, name, errp)) {
        return false;
    }
    if (has_tray(b) && !tray_is_open(b)) {
        error_set(errp, ERROR_BUSY, name, "media", "Tray of device '%s' is not open", name);
        return false;
    }
    return true;
}

/* Nothing but backends has the medium; waits for a transaction that runs. */
static bool coroutine_fn check_idle(const Backend *b, Error **errp)
{
    const Edge *e;
    Node *n;

    do {
        e = backend_edge(b);
        if (!e) {
            return true;
        }
        n = e->target;
        if (!node_wait_unreserved(n, errp)) {
            return false;
        }
    } while (backend_edge(b) != e || e->target != n); /* it was another one's turn meanwhile */
    for (guint i = n->parents->len; i-- > 0;) {
        const Edge *other = g_ptr_array_index(n->parents, i);

        if (other->parent && other->role == EDGE_COW) {
            error_set(errp, ERROR_BUSY, n->name, "media",
                      "Node '%s' is busy: node is used as backing hd of '%s'", n->name,
                      other->parent->name);
            return false;
        }
    }
    return node_check_no_job(n, errp);
}

/* The medium stays open while *ret_old, which may be NULL, has a reference. */
static bool coroutine_fn take_out(Backend *b, const char *name, Node **ret_old, Error **errp)
{
    if (!check_out(b, name, errp) || !check_idle(b, errp) || !check_out(b, name, errp)) {
        return false;
    }
    *ret_old = backend_edge(b) ? node_ref(backend_edge(b)->target) : NULL;
    backend_eject(b);
    export_device_ejected(backend_name(b));
    return has_tray(b) || device_load(b, false, errp);
}

/* Who takes a medium out may use its file next: the reply means that it is closed. */
static void coroutine_fn let_go(Node *n)
{
    if (n) {
        node_unref(n);
        node_wait_all_closed();
    }
}

static bool coroutine_fn remove_medium(Backend *b, const char *name, Error **errp)
{
    Node *old = NULL;
    bool ok = take_out(b, name, &old, errp);

    let_go(old);
    return ok;
}

static bool coroutine_fn put_in(Backend *b, Node *n, Error **errp)
{
    const BackendDevice *d = backend_device(b);

    if (d && !d->removable) {
        error_set(errp, ERROR_UNSUPPORTED, NULL, "media", "Device is not removable");
        return false;
    }
    if (has_tray(b) && !tray_is_open(b)) {
        error_set(errp, ERROR_BUSY, NULL, "media", "Tray of the device is not open");
        return false;
    }
    if (!backend_insert(b, n, errp)) {
        return false;
    }
    if (!has_tray(b) && !device_load(b, true, errp)) {
        backend_eject(b);
        return false;
    }
    return true;
}

/* ---- commands ---- */

bool coroutine_fn qmp_eject(const EjectArg *arg, Error **errp)
{
    const char *name = arg->device ? arg->device : arg->id;
    g_autoptr(Backend) b = media_find_backend(arg->device, arg->id, errp);

    return b && open_tray(b, name, errp) && remove_medium(b, name, errp);
}

bool coroutine_fn qmp_blockdev_open_tray(const BlockdevOpenTrayArg *arg, Error **errp)
{
    g_autoptr(Backend) b = media_find_backend(arg->device, arg->id, errp);

    return b && open_tray(b, arg->device ? arg->device : arg->id, errp);
}

bool coroutine_fn qmp_blockdev_close_tray(const BlockdevCloseTrayArg *arg, Error **errp)
{
    g_autoptr(Backend) b = media_find_backend(arg->device, arg->id, errp);

    return b && close_tray(b, arg->device ? arg->device : arg->id, errp);
}

bool coroutine_fn qmp_blockdev_remove_medium(const BlockdevRemoveMediumArg *arg, Error **errp)
{
    g_autoptr(Backend) b = media_find_backend(NULL, arg->id, errp);

    return b && remove_medium(b, arg->id, errp);
}

bool coroutine_fn qmp_blockdev_insert_medium(const BlockdevInsertMediumArg *arg, Error **errp)
{
    g_autoptr(Backend) b = media_find_backend(NULL, arg->id, errp);
    g_autoptr(Node) n = NULL;

    if (!b) {
        return false;
    }
    n = node_find(arg->node_name);
    if (!n) {
        error_set(errp, ERROR_NOT_FOUND, arg->node_name, "media", "Node '%s' not found",
                  arg->node_name);
        return false;
    }
    node_ref(n);
    if (!node_wait_unreserved(n, errp)) {
        return false;
    }
    for (guint i = 0; i < n->parents->len; i++) {
        if (!((Edge *)g_ptr_array_index(n->parents, i))->parent) {
            error_set(errp, ERROR_BUSY, n->name, "media", "Node '%s' is already in use", n->name);
            return false;
        }
    }
    return put_in(b, n, errp);
}

/* Complete options of the image that is to be the next medium; NULL with *errp. */
static BlockdevOptions *coroutine_fn describe_medium(const Backend *b,
                                                     const BlockdevChangeMediumArg *arg,
                                                     Error **errp)
{
    static const char *const detect[] = {
        [DETECT_ZEROES_OFF] = "off", [DETECT_ZEROES_ON] = "on", [DETECT_ZEROES_UNMAP] = "unmap"};
    MediumDefaults defaults = backend_defaults(b);
    DriveNodes nodes = {.file = arg->filename, .driver = arg->format};
    g_autoptr(JsonObject) o = json_object_new_object();
    struct json_object *cache = json_object_new_object();
    BlockdevOptions *options = NULL;

    nodes.read_only = defaults.read_only;
    if (arg->has_read_only_mode && arg->read_only_mode != BLOCKDEV_CHANGE_READ_ONLY_MODE_RETAIN) {
        nodes.read_only = arg->read_only_mode == BLOCKDEV_CHANGE_READ_ONLY_MODE_READ_ONLY;
    }
    json_object_object_add(cache, "direct",
                           json_object_new_string(defaults.cache_direct ? "on" : "off"));
    json_object_object_add(cache, "no-flush",
                           json_object_new_string(defaults.cache_no_flush ? "on" : "off"));
    json_object_object_add(o, "cache", cache);
    json_object_object_add(o, "discard",
                           json_object_new_string(defaults.discard_unmap ? "unmap" : "ignore"));
    json_object_object_add(o, "detect-zeroes",
                           json_object_new_string(detect[defaults.detect_zeroes]));
    /* What is asked for is what is got, or an error. */
    json_object_object_add(o, "auto-read-only", json_object_new_string("off"));
    if (drive_options_complete(&nodes, o, &options, errp) && !options) {
        error_set(errp, ERROR_INVALID, arg->filename, "media",
                  "Parameter 'filename' names no image");
    }
    return options;
}

/* The old medium comes back if the new one cannot be put in. */
static bool coroutine_fn exchange(Backend *b, const char *name, Node *n, Error **errp)
{
    Node *old = NULL;
    bool ok = take_out(b, name, &old, errp);

    if (ok && !put_in(b, n, errp)) {
        g_autoptr(Error) ignored = NULL;

        ok = false;
        if (old) {
            (void)put_in(b, old, &ignored); /* the first error is told */
        }
    }
    let_go(old);
    return ok;
}

bool coroutine_fn qmp_blockdev_change_medium(const BlockdevChangeMediumArg *arg, Error **errp)
{
    const char *name = arg->device ? arg->device : arg->id;
    g_autoptr(Backend) b = media_find_backend(arg->device, arg->id, errp);
    g_autoptr(BlockdevOptions) options = b ? describe_medium(b, arg, errp) : NULL;
    Node *n = options ? drive_open(options, errp) : NULL;
    bool ok =
        n && open_tray(b, name, errp) && exchange(b, name, n, errp) && close_tray(b, name, errp);

    let_go(n);
    return ok;
}

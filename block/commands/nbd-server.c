/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nbd-server-*.
 */
#include "block/backend.h"
#include "block/export.h"
#include "block/reopen.h"
#include "block/graph.h"
#include "block/nbd-server.h"
#include "qapi-commands.h"

bool coroutine_fn qmp_nbd_server_start(const NbdServerStartArg *arg, Error **errp)
{
    const NbdServerConfig config = {
        .max_connections = arg->has_max_connections ? arg->max_connections : 100,
        .handshake_seconds = arg->has_handshake_max_seconds ? arg->handshake_max_seconds : 10,
        .tls_creds = arg->tls_creds,
        .tls_authz = arg->tls_authz,
    };

    return nbd_server_start(arg->addr, &config, errp);
}

bool coroutine_fn qmp_nbd_server_stop(Error **errp)
{
    return nbd_server_stop(errp);
}

bool coroutine_fn qmp_nbd_server_add(const NbdServerAddArg *arg, Error **errp)
{
    const char *name = arg->name ? arg->name : arg->device;
    BlockExportOptions o = {.type = BLOCK_EXPORT_TYPE_NBD, .has_writable = true};
    BlockDirtyBitmapOrStr bitmap = {.type = QAPI_KIND_STRING, .u.local = arg->bitmap};
    BlockDirtyBitmapOrStrList bitmaps = {.value = &bitmap};
    bool by_device;
    Node *n;

    if (!nbd_server_running()) {
        error_set(errp, ERROR_INVALID, name, "nbd-server-add", "NBD server not running");
        return false;
    }
    if (export_find(name)) {
        error_set(errp, ERROR_EXISTS, name, "nbd-server-add",
                  "Block export id '%s' is already in use", name);
        return false;
    }
    n = node_lookup(arg->device, arg->device, errp);
    if (!n) {
        return false;
    }
    o.id = (char *)name;
    o.node_name = n->name;
    o.writable = arg->has_writable && arg->writable && !node_is_read_only(n);
    o.u.nbd.name = (char *)name;
    o.u.nbd.description = arg->description;
    o.u.nbd.bitmaps = arg->bitmap ? &bitmaps : NULL;
    by_device = backend_find(arg->device);
    if (!blockdev_activate_for_export(o.node_name, errp) || !export_add(&o, errp)) {
        return false;
    }
    if (by_device && export_find(name)) {
        export_find(name)->device = g_strdup(arg->device);
    }
    return true;
}

bool coroutine_fn qmp_nbd_server_remove(const NbdServerRemoveArg *arg, Error **errp)
{
    return export_del(arg->name, arg->has_mode && arg->mode == BLOCK_EXPORT_REMOVE_MODE_HARD, errp);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nbd-server-start and nbd-server-stop.
 */
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

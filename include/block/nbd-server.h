/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NBD server: one a process.  Control thread; coroutines.
 */
#ifndef BLOCK_NBD_SERVER_H
#define BLOCK_NBD_SERVER_H

#include "util/error.h"

struct SocketAddressLegacy;

bool nbd_server_running(void);
typedef struct NbdServerConfig {
    unsigned max_connections, handshake_seconds; /* 0: no limit */
    const char *tls_creds;                       /* object with TLS credentials; NULL: no TLS */
    const char *tls_authz;                       /* object that says which peers may; NULL: all */
} NbdServerConfig;

bool nbd_server_start(const struct SocketAddressLegacy *addr, const NbdServerConfig *config,
                      Error **errp);
/* Until this is called clients wait in the listen queue: the daemon is still starting.  Once. */
void nbd_server_serve(void);
/* Stops listening, removes the exports of type nbd, disconnects clients. */
bool nbd_server_stop(Error **errp);

#endif

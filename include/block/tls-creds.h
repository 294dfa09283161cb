/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * TLS credentials by the ids of their objects.  Control thread.
 */
#ifndef BLOCK_TLS_CREDS_H
#define BLOCK_TLS_CREDS_H

#include "util/tls.h"

/* A reference for the caller.  NULL with *errp: there is no such object, it is something else, or is for the other side. */
TlsCreds *tls_creds_lookup(const char *id, bool server, Error **errp);

#endif

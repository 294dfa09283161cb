/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Secrets by the ids of their objects.  Control thread.
 */
#ifndef BLOCK_SECRET_H
#define BLOCK_SECRET_H

#include "util/error.h"
#include <glib.h>

/* The plain secret: a reference for the caller (g_bytes_unref()).  NULL with *errp: "No secret with id '...'", or the object
 * is none. */
GBytes *secret_lookup(const char *id, Error **errp);
/* The same as UTF-8 text, owned by the caller. */
char *secret_lookup_utf8(const char *id, Error **errp);

#endif

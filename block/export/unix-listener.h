/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Listening at a local socket; private to block/export/.
 */
#ifndef BLOCK_EXPORT_UNIX_LISTENER_H
#define BLOCK_EXPORT_UNIX_LISTENER_H

#include "util/error.h"
#include <sys/types.h>

struct UnixSocketAddress;

typedef struct UnixListener {
    char *
        path; /* absolute; to be removed, if it is still this file; NULL: not ours, or an abstract name */
    dev_t dev;
    ino_t ino;
} UnixListener;

/* A listening descriptor, not blocking, the caller's; l says what unix_listener_remove() will do.  What an earlier process left under the
 * name is replaced if it is a socket.  -1 with errp. */
int unix_listener_open(UnixListener *l, const struct UnixSocketAddress *a, int backlog,
                       Error **errp);
/* Removes the socket's file, if it is still ours.  The descriptor is closed by the caller. */
void unix_listener_remove(UnixListener *l);

#endif

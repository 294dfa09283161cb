/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Making sockets for character devices; private to monitor/.  All return a non-blocking, close-on-exec descriptor, or -1 with
 * *errp set.
 */
#ifndef MONITOR_CHARDEV_INTERNAL_H
#define MONITOR_CHARDEV_INTERNAL_H

#include "util/error.h"

int socket_listen_unix(const char *path, Error **errp);
int socket_connect_unix(const char *path, Error **errp);
int socket_listen_inet(const char *host, const char *port, Error **errp);
int socket_connect_inet(const char *host, const char *port, Error **errp);
/* An inherited descriptor, by its number. */
int socket_take_fd(const char *number, Error **errp);
/* Waits for the first client, as wait=on asks. */
int socket_accept_blocking(int listen_fd);

#endif

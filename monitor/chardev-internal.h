/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Making sockets for character devices; private to monitor/.  All return a non-blocking, close-on-exec descriptor, or -1 with
 * *errp set.
 */
#ifndef MONITOR_CHARDEV_INTERNAL_H
#define MONITOR_CHARDEV_INTERNAL_H

#include "util/error.h"
#include <sys/types.h>

/* The file of a listening socket: removed at the end, if it still is the one that was made. */
typedef struct SocketFile {
    char *path; /* absolute; NULL: none */
    dev_t dev;
    ino_t ino;
} SocketFile;

typedef struct InetAddress {
    const char *host; /* NULL or "": any (listening), this machine (connecting) */
    const char *port; /* number or, connecting, name */
    const char *to;   /* listening: last port to try; NULL: only `port` */
    int ipv4, ipv6;   /* 1: on, 0: off, -1: not said */
} InetAddress;

int socket_listen_unix(const char *path, SocketFile *ret_file, Error **errp);
void socket_file_remove(SocketFile *f);
int socket_connect_unix(const char *path, Error **errp);
int socket_listen_inet(const InetAddress *a, Error **errp);
int socket_connect_inet(const InetAddress *a, Error **errp);
/* A passed descriptor, see passed_fd_socket(); server: made to listen. */
int socket_take_fd(const char *text, bool server, Error **errp);
/* Small messages leave at once (TCP; nothing to do for others). */
void socket_set_nodelay(int fd);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sockets for character devices.
 */
#include "chardev-internal.h"
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static bool unix_address(const char *path, struct sockaddr_un *sa, Error **errp)
{
    *sa = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(sa->sun_path)) {
        error_set(errp, ERROR_LIMIT, path, "socket", "UNIX socket path '%s' is too long", path);
        error_hint(errp, "Path must be less than %zu bytes", sizeof(sa->sun_path));
        return false;
    }
    strcpy(sa->sun_path, path);
    return true;
}

int socket_listen_unix(const char *path, Error **errp)
{
    struct sockaddr_un sa;
    int fd;

    if (!unix_address(path, &sa, errp)) {
        return -1;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        error_set_errno(errp, errno, path, "socket", "Failed to create a socket");
        return -1;
    }
    /* What an earlier process left there would be in the way. */
    if (unlink(path) < 0 && errno != ENOENT) {
        error_set_errno(errp, errno, path, "socket", "Failed to unlink socket %s", path);
    } else if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
        error_set_errno(errp, errno, path, "socket", "Failed to bind socket to %s", path);
    } else if (listen(fd, 16) < 0) {
        error_set_errno(errp, errno, path, "socket", "Failed to listen on socket");
    } else {
        return fd;
    }
    close(fd);
    return -1;
}

int socket_connect_unix(const char *path, Error **errp)
{
    struct sockaddr_un sa;
    int fd;

    if (!unix_address(path, &sa, errp)) {
        return -1;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
        error_set_errno(errp, errno, path, "socket", "Failed to connect to '%s'", path);
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    g_unix_set_fd_nonblocking(fd, true, NULL);
    return fd;
}

static int inet_socket(const char *host, const char *port, bool server, Error **errp)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = server ? AI_PASSIVE : 0},
                    *list;
    int ret = getaddrinfo(host && *host ? host : NULL, port, &hints, &list), fd = -1, err = 0;

    if (ret) {
        error_set(errp, ERROR_INVALID, host, "socket", "address resolution failed for %s:%s: %s",
                  host ? host : "", port, gai_strerror(ret));
        return -1;
    }
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        int one = 1;

        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd < 0) {
            err = errno;
            continue;
        }
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
        if (server ? bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, 16) < 0
                   : connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
            err = errno;
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    if (fd < 0) {
        error_set_errno(errp, err, host, "socket",
                        server ? "Failed to bind socket" : "Failed to connect to '%s:%s'",
                        host ? host : "", port);
        return -1;
    }
    g_unix_set_fd_nonblocking(fd, true, NULL);
    return fd;
}

int socket_listen_inet(const char *host, const char *port, Error **errp)
{
    return inet_socket(host, port, true, errp);
}

int socket_connect_inet(const char *host, const char *port, Error **errp)
{
    return inet_socket(host, port, false, errp);
}

int socket_take_fd(const char *number, Error **errp)
{
    char *end;
    guint64 fd = g_ascii_strtoull(number, &end, 10);
    int type;
    socklen_t len = sizeof(type);

    if (!g_ascii_isdigit(number[0]) || *end || fd > INT_MAX) {
        error_set(errp, ERROR_INVALID, number, "socket", "Unable to parse FD number %s", number);
        return -1;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0) {
        error_set(errp, ERROR_INVALID, number, "socket", "File descriptor '%s' is not a socket",
                  number);
        return -1;
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    g_unix_set_fd_nonblocking(fd, true, NULL);
    return fd;
}

int socket_accept_blocking(int listen_fd)
{
    for (;;) {
        struct pollfd p = {.fd = listen_fd, .events = POLLIN};
        int fd;

        poll(&p, 1, -1);
        fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            return fd;
        }
    }
}

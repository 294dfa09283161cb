/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sockets for character devices.
 */
#include "chardev-internal.h"
#include "util/passed-fd.h"
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 16

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

/* What an earlier process left there is in the way; anything but a socket is not ours to remove. */
static bool make_room(const char *path, Error **errp)
{
    struct stat st;

    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
        error_set_errno(errp, EADDRINUSE, path, "socket", "Failed to bind socket to %s", path);
        return false;
    }
    if (unlink(path) < 0 && errno != ENOENT && errno != ENOTDIR) {
        error_set_errno(errp, errno, path, "socket", "Failed to unlink socket %s", path);
        return false;
    }
    return true;
}

int socket_listen_unix(const char *path, SocketFile *ret_file, Error **errp)
{
    struct sockaddr_un sa;
    struct stat st;
    int fd;

    if (!unix_address(path, &sa, errp)) {
        return -1;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        error_set_errno(errp, errno, path, "socket", "Failed to create a socket");
        return -1;
    }
    if (!make_room(path, errp)) {
        close(fd);
        return -1;
    }
    if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
        error_set_errno(errp, errno, path, "socket", "Failed to bind socket to %s", path);
        close(fd);
        return -1;
    }
    if (listen(fd, BACKLOG) < 0 || lstat(path, &st) < 0) {
        error_set_errno(errp, errno, path, "socket", "Failed to listen on socket");
        unlink(path);
        close(fd);
        return -1;
    }
    /* absolute, since --daemonize changes the directory */
    *ret_file = (SocketFile){g_canonicalize_filename(path, NULL), st.st_dev, st.st_ino};
    return fd;
}

void socket_file_remove(SocketFile *f)
{
    struct stat st;

    if (f->path && lstat(f->path, &st) == 0 && st.st_dev == f->dev && st.st_ino == f->ino) {
        unlink(f->path);
    }
    g_clear_pointer(&f->path, g_free);
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

static int family(const InetAddress *a)
{
    if ((a->ipv4 == 1 && a->ipv6 != 1) || a->ipv6 == 0) {
        return AF_INET;
    }
    return (a->ipv6 == 1 && a->ipv4 != 1) || a->ipv4 == 0 ? AF_INET6 : AF_UNSPEC;
}

static int open_inet(const struct addrinfo *a, bool server)
{
    int one = 1, err, fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);

    if (fd < 0) {
        return -errno;
    }
    if (server) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    }
    if (server ? bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0
               : connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
        err = errno;
        close(fd);
        return -err;
    }
    g_unix_set_fd_nonblocking(fd, true, NULL);
    return fd;
}

/* The first address that works: a descriptor; or -errno; or INT_MIN with *errp when there is no address. */
static int try_addresses(const InetAddress *a, const char *port, bool server, Error **errp)
{
    struct addrinfo hints = {.ai_family = family(a),
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = server ? AI_PASSIVE : 0},
                    *list;
    int ret = getaddrinfo(a->host && *a->host ? a->host : NULL, port, &hints, &list);

    if (ret) {
        error_set(errp, ERROR_INVALID, a->host, "socket", "address resolution failed for %s:%s: %s",
                  a->host ? a->host : "", port, gai_strerror(ret));
        return INT_MIN;
    }
    ret = -EADDRNOTAVAIL;
    for (struct addrinfo *i = list; i && ret < 0; i = i->ai_next) {
        ret = open_inet(i, server);
    }
    freeaddrinfo(list);
    return ret;
}

static bool parse_port(const char *text, unsigned *ret, Error **errp)
{
    char *end;
    guint64 port = g_ascii_strtoull(text, &end, 10);

    if (!g_ascii_isdigit(text[0]) || *end || port > 65535) {
        error_set(errp, ERROR_INVALID, text, "socket", "Failed to parse port '%s'", text);
        return false;
    }
    *ret = port;
    return true;
}

int socket_listen_inet(const InetAddress *a, Error **errp)
{
    unsigned port, to;
    int fd = -EADDRNOTAVAIL;

    if (!parse_port(a->port, &port, errp) || (a->to && !parse_port(a->to, &to, errp))) {
        return -1;
    }
    if (!a->to) {
        to = port;
    }
    for (; port <= to && fd < 0; port++) {
        g_autofree char *text = g_strdup_printf("%u", port);

        fd = try_addresses(a, text, true, errp);
        if (fd == INT_MIN) {
            return -1;
        }
    }
    if (fd < 0) {
        error_set_errno(errp, -fd, a->host, "socket", "Failed to find an available port");
        return -1;
    }
    return fd;
}

int socket_connect_inet(const InetAddress *a, Error **errp)
{
    int fd = try_addresses(a, a->port, false, errp);

    if (fd < 0 && fd != INT_MIN) {
        error_set_errno(errp, -fd, a->host, "socket", "Failed to connect to '%s:%s'",
                        a->host ? a->host : "", a->port);
    }
    return fd < 0 ? -1 : fd;
}

int socket_take_fd(const char *text, bool server, Error **errp)
{
    int fd = passed_fd_socket(text, errp);

    if (fd >= 0 && server && listen(fd, BACKLOG) < 0) {
        error_set_errno(errp, errno, text, "socket", "Failed to listen on fd socket");
        close(fd);
        return -1;
    }
    return fd;
}

void socket_set_nodelay(int fd)
{
    int one = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

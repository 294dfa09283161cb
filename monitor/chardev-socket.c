/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sockets for character devices: listening and connecting, by all kinds of addresses.
 */
#include "chardev-internal.h"
#include "qapi-types.h"
#include "util/passed-fd.h"
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 16

/* An abstract name is no file. */
static bool unix_address(const UnixSocketAddress *a, struct sockaddr_un *sa, socklen_t *ret_len,
                         Error **errp)
{
    bool abstract = a->has_abstract && a->abstract, tight = !a->has_tight || a->tight;
    size_t len = strlen(a->path), at = abstract ? 1 : 0;

    *sa = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (len + 1 > sizeof(sa->sun_path)) {
        error_set(errp, ERROR_LIMIT, a->path, "socket", "UNIX socket path '%s' is too long",
                  a->path);
        error_hint(errp, "Path must be less than %zu bytes", sizeof(sa->sun_path));
        return false;
    }
    memcpy(sa->sun_path + at, a->path, len);
    *ret_len = abstract && tight ? offsetof(struct sockaddr_un, sun_path) + 1 + len : sizeof(*sa);
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

static int listen_unix(const UnixSocketAddress *a, SocketFile *ret_file, Error **errp)
{
    bool abstract = a->has_abstract && a->abstract;
    const char *path = a->path;
    struct sockaddr_un sa;
    struct stat st = {0};
    socklen_t len;
    int fd;

    if (!unix_address(a, &sa, &len, errp)) {
        return -1;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        error_set_errno(errp, errno, path, "socket", "Failed to create a socket");
        return -1;
    }
    if (!abstract && !make_room(path, errp)) {
        close(fd);
        return -1;
    }
    if (bind(fd, (struct sockaddr *)&sa, len) < 0) {
        error_set_errno(errp, errno, path, "socket", "Failed to bind socket to %s", path);
        close(fd);
        return -1;
    }
    if (listen(fd, BACKLOG) < 0 || (!abstract && lstat(path, &st) < 0)) {
        error_set_errno(errp, errno, path, "socket", "Failed to listen on socket");
        if (!abstract) {
            unlink(path);
        }
        close(fd);
        return -1;
    }
    if (!abstract) {
        /* absolute, since --daemonize changes the directory */
        *ret_file = (SocketFile){g_canonicalize_filename(path, NULL), st.st_dev, st.st_ino};
    }
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

static int connect_unix(const UnixSocketAddress *a, Error **errp)
{
    struct sockaddr_un sa;
    socklen_t len;
    int fd;

    if (!unix_address(a, &sa, &len, errp)) {
        return -1;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&sa, len) < 0) {
        error_set_errno(errp, errno, a->path, "socket", "Failed to connect to '%s'", a->path);
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    g_unix_set_fd_nonblocking(fd, true, NULL);
    return fd;
}

static int family(const InetSocketAddress *a)
{
    bool on4 = a->has_ipv4 && a->ipv4, off4 = a->has_ipv4 && !a->ipv4;
    bool on6 = a->has_ipv6 && a->ipv6, off6 = a->has_ipv6 && !a->ipv6;

    if ((on4 && !on6) || off6) {
        return AF_INET;
    }
    return (on6 && !on4) || off4 ? AF_INET6 : AF_UNSPEC;
}

static void keep_alive(int fd, const InetSocketAddress *a)
{
    const struct {
        bool has;
        int option;
        int value;
    } table[] = {
        {a->has_keep_alive_count, TCP_KEEPCNT, (int)a->keep_alive_count},
        {a->has_keep_alive_idle, TCP_KEEPIDLE, (int)a->keep_alive_idle},
        {a->has_keep_alive_interval, TCP_KEEPINTVL, (int)a->keep_alive_interval},
    };
    int one = 1;

    if (!a->has_keep_alive || !a->keep_alive) {
        return;
    }
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        if (table[i].has && table[i].value > 0) {
            setsockopt(fd, IPPROTO_TCP, table[i].option, &table[i].value, sizeof(int));
        }
    }
}

/* Connections of a listening socket inherit what is set here. */
static int open_inet(const struct addrinfo *i, const InetSocketAddress *a, bool server)
{
    int protocol = a->has_mptcp && a->mptcp ? IPPROTO_MPTCP : i->ai_protocol;
    int one = 1, err, fd = socket(i->ai_family, i->ai_socktype | SOCK_CLOEXEC, protocol);

    if (fd < 0) {
        return -errno;
    }
    keep_alive(fd, a);
    if (server) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    }
    if (server ? bind(fd, i->ai_addr, i->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0
               : connect(fd, i->ai_addr, i->ai_addrlen) < 0) {
        err = errno;
        close(fd);
        return -err;
    }
    g_unix_set_fd_nonblocking(fd, true, NULL);
    return fd;
}

/* The first address that works: a descriptor; or -errno; or INT_MIN with *errp when there is no address. */
static int try_addresses(const InetSocketAddress *a, const char *port, bool server, Error **errp)
{
    struct addrinfo hints = {.ai_family = family(a),
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = (server ? AI_PASSIVE : 0) |
                                         (a->has_numeric && a->numeric ? AI_NUMERICHOST : 0)},
                    *list;
    int ret = getaddrinfo(*a->host ? a->host : NULL, port, &hints, &list);

    if (ret) {
        error_set(errp, ERROR_INVALID, a->host, "socket", "address resolution failed for %s:%s: %s",
                  a->host, port, gai_strerror(ret));
        return INT_MIN;
    }
    ret = -EADDRNOTAVAIL;
    for (struct addrinfo *i = list; i && ret < 0; i = i->ai_next) {
        ret = open_inet(i, a, server);
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

static int listen_inet(const InetSocketAddress *a, Error **errp)
{
    unsigned port, to;
    int fd = -EADDRNOTAVAIL;

    if (!parse_port(a->port, &port, errp)) {
        return -1;
    }
    to = a->has_to ? a->to : port;
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

static int connect_inet(const InetSocketAddress *a, Error **errp)
{
    int fd = try_addresses(a, a->port, false, errp);

    if (fd < 0 && fd != INT_MIN) {
        error_set_errno(errp, -fd, a->host, "socket", "Failed to connect to '%s:%s'", a->host,
                        a->port);
    }
    return fd < 0 ? -1 : fd;
}

static int open_vsock(const VsockSocketAddress *a, bool server, Error **errp)
{
    struct sockaddr_vm sa = {.svm_family = AF_VSOCK};
    guint64 cid, port;
    int fd;

    if (!g_ascii_string_to_unsigned(a->cid, 10, 0, UINT32_MAX, &cid, NULL)) {
        error_set(errp, ERROR_INVALID, a->cid, "socket", "Failed to parse cid '%s'", a->cid);
        return -1;
    }
    if (!g_ascii_string_to_unsigned(a->port, 10, 0, UINT32_MAX, &port, NULL)) {
        error_set(errp, ERROR_INVALID, a->port, "socket", "Failed to parse port '%s'", a->port);
        return -1;
    }
    sa.svm_cid = cid;
    sa.svm_port = port;
    fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 ||
        (server ? bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, BACKLOG) < 0
                : connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)) {
        error_set_errno(errp, errno, a->cid, "socket", "Failed to %s '%s:%s'",
                        server ? "listen on" : "connect to", a->cid, a->port);
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    g_unix_set_fd_nonblocking(fd, true, NULL);
    return fd;
}

static int take_fd(const char *text, bool server, Error **errp)
{
    int fd = passed_fd_socket(text, errp);

    if (fd >= 0 && server && listen(fd, BACKLOG) < 0) {
        error_set_errno(errp, errno, text, "socket", "Failed to listen on fd socket");
        close(fd);
        return -1;
    }
    return fd;
}

int socket_listen(const SocketAddressLegacy *a, SocketFile *ret_file, Error **errp)
{
    switch (a->type) {
    case SOCKET_ADDRESS_TYPE_UNIX:
        return listen_unix(a->u.q_unix.data, ret_file, errp);
    case SOCKET_ADDRESS_TYPE_INET:
        return listen_inet(a->u.inet.data, errp);
    case SOCKET_ADDRESS_TYPE_VSOCK:
        return open_vsock(a->u.vsock.data, true, errp);
    default:
        return take_fd(a->u.fd.data->str, true, errp);
    }
}

int socket_connect(const SocketAddressLegacy *a, Error **errp)
{
    switch (a->type) {
    case SOCKET_ADDRESS_TYPE_UNIX:
        return connect_unix(a->u.q_unix.data, errp);
    case SOCKET_ADDRESS_TYPE_INET:
        return connect_inet(a->u.inet.data, errp);
    case SOCKET_ADDRESS_TYPE_VSOCK:
        return open_vsock(a->u.vsock.data, false, errp);
    default:
        return take_fd(a->u.fd.data->str, false, errp);
    }
}

/* The port that a listening socket really has. */
static char *real_port(int fd)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    char port[NI_MAXSERV];

    if (fd < 0 || getsockname(fd, (struct sockaddr *)&ss, &len) < 0 ||
        getnameinfo((struct sockaddr *)&ss, len, NULL, 0, port, sizeof(port), NI_NUMERICSERV)) {
        return NULL;
    }
    return g_strdup(port);
}

char *socket_describe(const SocketAddressLegacy *a, int listen_fd, bool telnet)
{
    g_autofree char *port = NULL;

    switch (a->type) {
    case SOCKET_ADDRESS_TYPE_UNIX:
        return g_strdup_printf("unix:%s", a->u.q_unix.data->path);
    case SOCKET_ADDRESS_TYPE_INET:
        port = real_port(listen_fd);
        return g_strdup_printf("%s:%s:%s", telnet ? "telnet" : "tcp", a->u.inet.data->host,
                               port ? port : a->u.inet.data->port);
    case SOCKET_ADDRESS_TYPE_VSOCK:
        return g_strdup_printf("vsock:%s:%s", a->u.vsock.data->cid, a->u.vsock.data->port);
    default:
        return g_strdup_printf("fd:%s", a->u.fd.data->str);
    }
}

void socket_set_nodelay(int fd)
{
    int one = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

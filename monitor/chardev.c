/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Character devices: sockets (server or client, by path, by address, by descriptor) and stdio.
 *
 * All descriptors are non-blocking (files, which stdin and stdout may be, never block).  A connection is two descriptors that may be
 * the same.  Reading is done by one GLib source, writing by another that exists while something is queued.
 *
 * What is written is queued behind what has not been sent yet: `queue` holds it, `sent` bytes of it have left.
 */
#include "monitor/chardev.h"
#include "chardev-internal.h"
#include "util/log.h"
#include "util/loop.h"
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#define ACCEPT_AGAIN_MS 100
#define FDS_MAX         16 /* with one message; the system closes what is beyond */

struct Chardev {
    char *id;
    const ChardevUser *user;
    void *opaque;
    int listen_fd; /* -1: none */
    SocketFile socket_file;
    int in, out; /* -1: no peer */
    bool is_stdio;
    bool reading;
    GSource *accept_source, *read_source, *write_source;
    GByteArray *queue;
    guint sent;
};

static GHashTable *devices;
static bool serving;  /* chardev_serve() was called */
static bool stopping; /* chardev_stop_waiting() was called */

/* Standard input and output belong to one device; what was changed is put back at the end, since others may share them. */
static struct {
    bool taken;
    int flags[2];
    bool terminal_changed;
    struct termios terminal;
} stdio;

static void remove_source(GSource **s)
{
    if (*s) {
        g_source_destroy(*s);
        g_source_unref(*s);
        *s = NULL;
    }
}

static GSource *watch(int fd, GIOCondition condition, GUnixFDSourceFunc fn, Chardev *c)
{
    GSource *s = g_unix_fd_source_new(fd, condition);

    g_source_set_callback(s, G_SOURCE_FUNC(fn), c, NULL);
    g_source_attach(s, NULL);
    return s;
}

static gboolean on_accept(gint fd, GIOCondition condition, gpointer opaque);
static gboolean on_readable(gint fd, GIOCondition condition, gpointer opaque);

static void update_reading(Chardev *c)
{
    if (c->in >= 0 && c->reading && !c->read_source) {
        c->read_source = watch(c->in, G_IO_IN | G_IO_HUP | G_IO_ERR, on_readable, c);
    } else if ((c->in < 0 || !c->reading) && c->read_source) {
        remove_source(&c->read_source);
    }
}

static void connected(Chardev *c, int in, int out)
{
    c->in = in;
    c->out = out;
    c->reading = true;
    remove_source(&c->accept_source);
    c->user->opened(c->opaque);
    update_reading(c);
}

/* Memory that a slow reader has needed is given back. */
static void drop_queue(Chardev *c)
{
    g_byte_array_unref(c->queue);
    c->queue = g_byte_array_new();
    c->sent = 0;
}

void chardev_disconnect(Chardev *c)
{
    if (c->in < 0) {
        return;
    }
    remove_source(&c->read_source);
    remove_source(&c->write_source);
    drop_queue(c);
    if (!c->is_stdio) {
        close(c->in);
    }
    c->in = c->out = -1;
    c->user->closed(c->opaque);
    if (c->listen_fd >= 0 && !c->accept_source) {
        c->accept_source = watch(c->listen_fd, G_IO_IN, on_accept, c);
    }
}

static gboolean accept_again(gpointer opaque)
{
    Chardev *c = opaque;

    remove_source(&c->accept_source);
    c->accept_source = watch(c->listen_fd, G_IO_IN, on_accept, c);
    return G_SOURCE_REMOVE;
}

static gboolean on_accept(gint fd, GIOCondition condition, gpointer opaque)
{
    Chardev *c = opaque;
    int peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    (void)condition;
    if (peer < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            /* The client waits in the queue; trying at once again would fail at once again. */
            log_warn_limited("cannot accept a connection on character device '%s': %s", c->id,
                             g_strerror(errno));
            remove_source(&c->accept_source);
            c->accept_source = g_timeout_source_new(ACCEPT_AGAIN_MS);
            g_source_set_callback(c->accept_source, accept_again, c, NULL);
            g_source_attach(c->accept_source, NULL);
        }
        return G_SOURCE_CONTINUE;
    }
    connected(c, peer, peer);
    return G_SOURCE_CONTINUE; /* connected() has destroyed the source */
}

/* The descriptors of a message; what nobody wants is closed. */
static void take_descriptors(Chardev *c, struct msghdr *msg)
{
    int fds[FDS_MAX];

    for (struct cmsghdr *m = CMSG_FIRSTHDR(msg); m; m = CMSG_NXTHDR(msg, m)) {
        unsigned n = (m->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != SCM_RIGHTS || n == 0) {
            continue;
        }
        memcpy(fds, CMSG_DATA(m), n * sizeof(int));
        if (c->user->descriptors) {
            c->user->descriptors(c->opaque, fds, n);
        } else {
            for (unsigned i = 0; i < n; i++) {
                close(fds[i]);
            }
        }
    }
}

static ssize_t receive(Chardev *c, char *buf, size_t len)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control;
    struct iovec iov = {buf, len};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    ssize_t n;

    if (c->is_stdio) {
        return read(c->in, buf, len);
    }
    n = recvmsg(c->in, &msg, MSG_CMSG_CLOEXEC);
    if (n >= 0) {
        take_descriptors(c, &msg);
    }
    return n;
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer opaque)
{
    Chardev *c = opaque;
    char buf[65536];
    ssize_t n = receive(c, buf, sizeof(buf));

    (void)fd;
    (void)condition;
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return G_SOURCE_CONTINUE;
    }
    if (n <= 0) {
        chardev_disconnect(c);
    } else {
        c->user->received(c->opaque, buf, n);
    }
    return G_SOURCE_CONTINUE;
}

/* ---- writing ---- */

static gboolean on_writable(gint fd, GIOCondition condition, gpointer opaque);

/* Sends what it can; false: the peer is gone. */
static bool flush(Chardev *c)
{
    while (c->sent < c->queue->len) {
        const guint8 *data = c->queue->data + c->sent;
        size_t len = c->queue->len - c->sent;
        ssize_t n = c->is_stdio ? write(c->out, data, len) : send(c->out, data, len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            break;
        }
        if (n < 0) {
            return false;
        }
        c->sent += n;
    }
    if (c->sent < c->queue->len) {
        if (!c->write_source) {
            c->write_source = watch(c->out, G_IO_OUT | G_IO_ERR | G_IO_HUP, on_writable, c);
        }
        return true;
    }
    remove_source(&c->write_source);
    if (c->queue->len > 65536) {
        drop_queue(c);
    } else {
        g_byte_array_set_size(c->queue, 0);
        c->sent = 0;
    }
    return true;
}

static gboolean on_writable(gint fd, GIOCondition condition, gpointer opaque)
{
    Chardev *c = opaque;

    (void)fd;
    (void)condition;
    if (!flush(c)) {
        chardev_disconnect(c);
    }
    return G_SOURCE_CONTINUE;
}

void chardev_write(Chardev *c, const char *data, size_t len)
{
    if (c->out < 0) {
        return;
    }
    if (c->sent > c->queue->len / 2) {
        /* Moved once for every half that has left: no more work than sending it was. */
        g_byte_array_remove_range(c->queue, 0, c->sent);
        c->sent = 0;
    }
    g_byte_array_append(c->queue, (const guint8 *)data, len);
    /* A peer that is gone is noticed by the reading side too; its end is told from the main loop, not from here. */
    if (!c->write_source && !flush(c)) {
        c->write_source = watch(c->out, G_IO_OUT | G_IO_ERR | G_IO_HUP, on_writable, c);
    }
}

void chardev_write_stdout(const char *data, size_t len)
{
    GHashTableIter iter;
    gpointer value;

    if (devices) {
        g_hash_table_iter_init(&iter, devices);
        while (g_hash_table_iter_next(&iter, NULL, &value)) {
            Chardev *c = value;

            if (c->is_stdio && c->out >= 0) {
                chardev_write(c, data, len);
                return;
            }
        }
    }
    while (len > 0) {
        ssize_t n = write(STDOUT_FILENO, data, len);

        if (n < 0 && errno != EINTR) {
            return; /* nobody reads it */
        }
        if (n > 0) {
            data += n;
            len -= n;
        }
    }
}

size_t chardev_queued(const Chardev *c)
{
    return c->queue->len - c->sent;
}

void chardev_set_reading(Chardev *c, bool on)
{
    c->reading = on;
    update_reading(c);
}

/* ---- making ---- */

static const char *option(struct json_object *o, const char *key)
{
    struct json_object *v;

    return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : NULL;
}

static bool flag(struct json_object *o, const char *key, bool fallback, bool *ret, Error **errp)
{
    const char *v = option(o, key);

    if (!v) {
        *ret = fallback;
        return true;
    }
    if (strcmp(v, "on") != 0 && strcmp(v, "off") != 0) {
        error_set(errp, ERROR_INVALID, key, "chardev", "Parameter '%s' expects 'on' or 'off'", key);
        return false;
    }
    *ret = strcmp(v, "on") == 0;
    return true;
}

/* Checks names; from JSON, booleans and numbers are as good as the strings that the dotted syntax has. */
static bool check_known(struct json_object *o, const char *const *known, Error **errp)
{
    json_object_object_foreach(o, key, value)
    {
        if (!g_strv_contains(known, key)) {
            error_set(errp, ERROR_INVALID, key, "chardev", "Invalid parameter '%s'", key);
            return false;
        }
        if (json_object_is_type(value, json_type_boolean)) {
            json_object_object_add(
                o, key, json_object_new_string(json_object_get_boolean(value) ? "on" : "off"));
        } else if (!json_object_is_type(value, json_type_string) &&
                   !json_object_is_type(value, json_type_int)) {
            error_set(errp, ERROR_INVALID, key, "chardev",
                      "Invalid parameter type for '%s', expected: string", key);
            return false;
        }
    }
    return true;
}

/* Where a socket is: exactly one of the three ways to say it. */
static bool check_address(struct json_object *o, Error **errp)
{
    bool path = option(o, "path"), fd = option(o, "fd"),
         inet = option(o, "host") || option(o, "port");

    if (path + fd + inet > 1) {
        error_set(errp, ERROR_INVALID, NULL, "chardev",
                  "None or one of 'path', 'fd' or 'host' option required.");
    } else if (inet && !option(o, "port")) {
        error_set(errp, ERROR_INVALID, "port", "chardev", "chardev: socket: no port given");
    } else if (path + fd + inet == 0) {
        error_set(errp, ERROR_INVALID, NULL, "chardev",
                  "chardev: socket: no path, port or fd given");
    } else {
        return true;
    }
    return false;
}

static bool tristate(struct json_object *o, const char *key, int *ret, Error **errp)
{
    bool on;

    *ret = -1;
    if (!option(o, key)) {
        return true;
    }
    if (!flag(o, key, false, &on, errp)) {
        return false;
    }
    *ret = on;
    return true;
}

/* A descriptor: listening (server) or connected; -1 with *errp. */
static int open_socket(Chardev *c, struct json_object *o, bool server, Error **errp)
{
    InetAddress inet = {
        .host = option(o, "host"), .port = option(o, "port"), .to = option(o, "to")};
    const char *path = option(o, "path"), *fd = option(o, "fd");

    if (path) {
        return server ? socket_listen_unix(path, &c->socket_file, errp)
                      : socket_connect_unix(path, errp);
    }
    if (fd) {
        return socket_take_fd(fd, server, errp);
    }
    if (!tristate(o, "ipv4", &inet.ipv4, errp) || !tristate(o, "ipv6", &inet.ipv6, errp)) {
        return -1;
    }
    return server ? socket_listen_inet(&inet, errp) : socket_connect_inet(&inet, errp);
}

/* Waits for the first client, as wait=on asks. */
static bool coroutine_fn wait_for_client(Chardev *c, Error **errp)
{
    while (!stopping) {
        int fd = accept4(c->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            c->in = c->out = fd;
            return true;
        }
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            error_set_errno(errp, errno, c->id, "chardev", "Failed to accept a connection");
            return false;
        }
        co_poll(c->listen_fd, POLLIN, INT64_C(100000000));
    }
    error_set(errp, ERROR_BUSY, c->id, "chardev", "the daemon was told to end");
    return false;
}

static bool coroutine_fn make_socket(Chardev *c, struct json_object *o, Error **errp)
{
    static const char *const known[] = {"backend", "id",     "path", "host",    "port",
                                        "fd",      "server", "wait", "nodelay", "ipv4",
                                        "ipv6",    "to",     NULL};
    bool server, wait, nodelay;
    int sock;

    if (!check_known(o, known, errp) || !flag(o, "server", false, &server, errp) ||
        !flag(o, "wait", server && !option(o, "fd"), &wait, errp) ||
        !flag(o, "nodelay", true, &nodelay, errp) || !check_address(o, errp)) {
        return false;
    }
    if (!server && option(o, "wait")) {
        error_set(errp, ERROR_INVALID, "wait", "chardev",
                  "'wait' option is incompatible with socket in client connect mode");
        return false;
    }
    sock = open_socket(c, o, server, errp);
    if (sock < 0) {
        return false;
    }
    if (nodelay) {
        socket_set_nodelay(sock); /* connections have it from the listening socket */
    }
    if (!server) {
        c->in = c->out = sock;
        return true;
    }
    c->listen_fd = sock;
    if (!wait) {
        return true;
    }
    log_info("waiting for connection on: %s", option(o, "path")   ? option(o, "path")
                                              : option(o, "port") ? option(o, "port")
                                                                  : option(o, "fd"));
    return wait_for_client(c, errp);
}

static bool make_stdio(Chardev *c, struct json_object *o, Error **errp)
{
    static const char *const known[] = {"backend", "id", "signal", NULL};
    bool signal;

    if (!check_known(o, known, errp) || !flag(o, "signal", true, &signal, errp)) {
        return false;
    }
    if (stdio.taken) {
        error_set(errp, ERROR_BUSY, c->id, "chardev",
                  "cannot use stdio by multiple character devices");
        return false;
    }
    stdio.taken = true;
    for (int fd = 0; fd < 2; fd++) {
        stdio.flags[fd] = fcntl(fd, F_GETFL);
        fcntl(fd, F_SETFL, stdio.flags[fd] | O_NONBLOCK);
    }
    if (!signal && tcgetattr(STDIN_FILENO, &stdio.terminal) == 0) {
        struct termios t = stdio.terminal;

        t.c_lflag &= ~ISIG;
        stdio.terminal_changed = tcsetattr(STDIN_FILENO, TCSANOW, &t) == 0;
    }
    c->is_stdio = true;
    c->in = STDIN_FILENO;
    c->out = STDOUT_FILENO;
    return true;
}

static void put_stdio_back(void)
{
    for (int fd = 0; stdio.taken && fd < 2; fd++) {
        fcntl(fd, F_SETFL, stdio.flags[fd]);
    }
    if (stdio.terminal_changed) {
        tcsetattr(STDIN_FILENO, TCSANOW, &stdio.terminal);
    }
}

static bool check_id(const char *id, Error **errp)
{
    bool good = id && g_ascii_isalpha(id[0]);

    if (!id) {
        error_set(errp, ERROR_INVALID, NULL, "chardev", "chardev: no id specified");
        return false;
    }
    for (const char *p = id; good && *p; p++) {
        good = g_ascii_isalnum(*p) || *p == '-' || *p == '.' || *p == '_';
    }
    if (!good) {
        error_set(errp, ERROR_INVALID, id, "chardev", "Parameter 'id' expects an identifier");
        error_hint(errp, "Identifiers consist of letters, digits, '-', '.', '_', "
                         "starting with a letter.");
    }
    return good;
}

static void chardev_free(Chardev *c)
{
    if (c->in >= 0 && !c->is_stdio) {
        close(c->in);
    }
    if (c->listen_fd >= 0) {
        close(c->listen_fd);
    }
    socket_file_remove(&c->socket_file);
    g_byte_array_unref(c->queue);
    g_free(c->id);
    g_free(c);
}

bool coroutine_fn chardev_new(struct json_object *options, Error **errp)
{
    const char *backend, *id;
    Chardev *c;
    bool ok;

    if (!json_object_is_type(options, json_type_object)) {
        error_set(errp, ERROR_INVALID, NULL, "chardev", "Parameters must be an object");
        return false;
    }
    backend = option(options, "backend");
    id = option(options, "id");
    if (!devices) {
        devices = g_hash_table_new(g_str_hash, g_str_equal);
    }
    if (!check_id(id, errp)) {
        return false;
    }
    if (!backend) {
        error_set(errp, ERROR_INVALID, NULL, "chardev", "chardev: \"%s\" missing backend", id);
        return false;
    }
    if (g_hash_table_contains(devices, id)) {
        error_set(errp, ERROR_EXISTS, id, "chardev", "Duplicate ID '%s' for chardev", id);
        return false;
    }
    c = g_new0(Chardev, 1);
    c->id = g_strdup(id);
    c->listen_fd = c->in = c->out = -1;
    c->queue = g_byte_array_new();
    if (strcmp(backend, "socket") == 0) {
        ok = make_socket(c, options, errp);
    } else if (strcmp(backend, "stdio") == 0) {
        ok = make_stdio(c, options, errp);
    } else {
        error_set(errp, ERROR_INVALID, backend, "chardev", "'%s' is not a valid char driver name",
                  backend);
        ok = false;
    }
    if (!ok) {
        chardev_free(c);
        return false;
    }
    g_hash_table_insert(devices, c->id, c);
    return true;
}

void chardev_stop_waiting(void)
{
    stopping = true;
}

Chardev *chardev_find(const char *id)
{
    return devices ? g_hash_table_lookup(devices, id) : NULL;
}

static void serve(Chardev *c)
{
    if (c->in >= 0) {
        connected(c, c->in, c->out);
    } else if (c->listen_fd >= 0) {
        c->accept_source = watch(c->listen_fd, G_IO_IN, on_accept, c);
    }
}

void chardev_serve(void)
{
    GHashTableIter iter;
    gpointer value;

    serving = true;
    if (!devices) {
        return;
    }
    g_hash_table_iter_init(&iter, devices);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        Chardev *c = value;

        if (c->user) {
            serve(c);
        }
    }
}

bool chardev_attach(Chardev *c, const ChardevUser *user, void *opaque, Error **errp)
{
    if (c->user) {
        error_set(errp, ERROR_BUSY, c->id, "chardev", "Device '%s' is in use", c->id);
        return false;
    }
    c->user = user;
    c->opaque = opaque;
    if (serving) {
        serve(c);
    }
    return true;
}

void chardev_close_all(void)
{
    GHashTableIter iter;
    gpointer value;

    if (!devices) {
        return;
    }
    g_hash_table_iter_init(&iter, devices);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        Chardev *c = value;

        remove_source(&c->accept_source);
        remove_source(&c->read_source);
        if (c->out >= 0) {
            flush(c);
        }
        remove_source(&c->write_source);
        chardev_free(c);
    }
    put_stdio_back();
    g_hash_table_destroy(devices);
    devices = NULL;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Character devices: sockets (server or client, by path, by address, by descriptor) and stdio.
 *
 * All descriptors are non-blocking, but for stdin when it is a file, which never blocks.  A connection is two descriptors that may be
 * the same.  Reading is done by one GLib source, writing by another that exists while something is queued.
 */
#include "monitor/chardev.h"
#include "chardev-internal.h"
#include "util/log.h"
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct Chardev {
    char *id;
    const ChardevUser *user;
    void *opaque;
    int listen_fd;     /* -1: none */
    char *socket_path; /* removed at the end; NULL: none */
    int in, out;       /* -1: no peer */
    bool is_stdio;
    bool reading;
    GSource *accept_source, *read_source, *write_source;
    GByteArray *queue;
};

static GHashTable *devices;
static bool serving; /* chardev_serve() was called */

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

void chardev_disconnect(Chardev *c)
{
    if (c->in < 0) {
        return;
    }
    remove_source(&c->read_source);
    remove_source(&c->write_source);
    g_byte_array_set_size(c->queue, 0);
    if (!c->is_stdio) {
        close(c->in);
    }
    c->in = c->out = -1;
    c->user->closed(c->opaque);
    if (c->listen_fd >= 0 && !c->accept_source) {
        c->accept_source = watch(c->listen_fd, G_IO_IN, on_accept, c);
    }
}

static gboolean on_accept(gint fd, GIOCondition condition, gpointer opaque)
{
    Chardev *c = opaque;
    int peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    (void)condition;
    if (peer < 0) {
        return G_SOURCE_CONTINUE;
    }
    connected(c, peer, peer);
    return G_SOURCE_CONTINUE; /* connected() has destroyed the source */
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer opaque)
{
    Chardev *c = opaque;
    char buf[65536];
    ssize_t n = read(fd, buf, sizeof(buf));

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
    size_t done = 0;

    while (done < c->queue->len) {
        ssize_t n = c->is_stdio
                        ? write(c->out, c->queue->data + done, c->queue->len - done)
                        : send(c->out, c->queue->data + done, c->queue->len - done, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN) {
            break;
        }
        if (n < 0) {
            return false;
        }
        done += n;
    }
    g_byte_array_remove_range(c->queue, 0, done);
    if (c->queue->len > 0 && !c->write_source) {
        c->write_source = watch(c->out, G_IO_OUT | G_IO_ERR | G_IO_HUP, on_writable, c);
    } else if (c->queue->len == 0) {
        remove_source(&c->write_source);
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
    } else if (c->queue->len == 0) {
        c->user->drained(c->opaque);
    }
    return G_SOURCE_CONTINUE;
}

void chardev_write(Chardev *c, const char *data, size_t len)
{
    if (c->out < 0) {
        return;
    }
    g_byte_array_append(c->queue, (const guint8 *)data, len);
    /* A peer that is gone is noticed by the reading side too; its end is told from the main loop, not from here. */
    if (!c->write_source && !flush(c)) {
        c->write_source = watch(c->out, G_IO_OUT | G_IO_ERR | G_IO_HUP, on_writable, c);
    }
}

size_t chardev_queued(const Chardev *c)
{
    return c->queue->len;
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

static bool check_known(struct json_object *o, const char *const *known, Error **errp)
{
    json_object_object_foreach(o, key, value)
    {
        if (!json_object_is_type(value, json_type_string)) {
            error_set(errp, ERROR_INVALID, key, "chardev",
                      "Invalid parameter type for '%s', expected: string", key);
            return false;
        }
        if (!g_strv_contains(known, key)) {
            error_set(errp, ERROR_INVALID, key, "chardev", "Invalid parameter '%s'", key);
            return false;
        }
    }
    return true;
}

static bool make_socket(Chardev *c, struct json_object *o, Error **errp)
{
    static const char *const known[] = {"backend", "id",     "path", "host",    "port",
                                        "fd",      "server", "wait", "nodelay", "ipv4",
                                        "ipv6",    "to",     NULL};
    const char *path = option(o, "path"), *host = option(o, "host"), *port = option(o, "port"),
               *fd = option(o, "fd");
    bool server, wait;
    int sock;

    if (!check_known(o, known, errp) || !flag(o, "server", false, &server, errp) ||
        !flag(o, "wait", server, &wait, errp)) {
        return false;
    }
    if (path) {
        sock = server ? socket_listen_unix(path, errp) : socket_connect_unix(path, errp);
    } else if (fd) {
        sock = socket_take_fd(fd, errp);
    } else if (port) {
        sock =
            server ? socket_listen_inet(host, port, errp) : socket_connect_inet(host, port, errp);
    } else {
        error_set(errp, ERROR_INVALID, c->id, "chardev",
                  "chardev: socket: no path, port or fd given");
        return false;
    }
    if (sock < 0) {
        return false;
    }
    if (!server) {
        c->in = c->out = sock;
        return true;
    }
    c->listen_fd = sock;
    c->socket_path = g_strdup(path);
    if (wait && !fd) {
        log_info("waiting for connection on: %s", path ? path : port);
        c->in = c->out = socket_accept_blocking(sock);
    }
    return true;
}

static bool make_stdio(Chardev *c, struct json_object *o, Error **errp)
{
    static const char *const known[] = {"backend", "id", "signal", NULL};

    if (!check_known(o, known, errp)) {
        return false;
    }
    c->is_stdio = true;
    c->in = STDIN_FILENO;
    c->out = STDOUT_FILENO;
    return true;
}

bool chardev_new(struct json_object *options, Error **errp)
{
    const char *backend = option(options, "backend"), *id = option(options, "id");
    Chardev *c;
    bool ok;

    if (!devices) {
        devices = g_hash_table_new(g_str_hash, g_str_equal);
    }
    if (!backend) {
        error_set(errp, ERROR_INVALID, NULL, "chardev", "chardev: \"%s\" missing backend",
                  id ? id : "");
        return false;
    }
    if (!id) {
        error_set(errp, ERROR_INVALID, NULL, "chardev", "chardev: no id specified");
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
        g_byte_array_unref(c->queue);
        g_free(c->id);
        g_free(c);
        return false;
    }
    g_hash_table_insert(devices, c->id, c);
    return true;
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
        if (c->in >= 0 && !c->is_stdio) {
            close(c->in);
        }
        if (c->listen_fd >= 0) {
            close(c->listen_fd);
        }
        if (c->socket_path) {
            unlink(c->socket_path);
        }
        g_byte_array_unref(c->queue);
        g_free(c->socket_path);
        g_free(c->id);
        g_free(c);
    }
    g_hash_table_destroy(devices);
    devices = NULL;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Talking through descriptors: sockets with and without TLS, pipes, files, terminals.
 *
 * All descriptors are non-blocking (files never block).  Reading is done by one GLib source, writing by another that exists while
 * something is queued.  What is written is queued behind what has not been sent yet.
 *
 * TLS can have received more than was asked for, so after each reading all that is there is taken.
 */
#include "chardev-internal.h"
#include "qapi-types.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FDS_MAX 16   /* with one message; the system closes what is beyond */
#define REST_MS 1000 /* how long the end of the daemon waits for a peer to read */

void source_remove(GSource **s)
{
    if (*s) {
        g_source_destroy(*s);
        g_source_unref(*s);
        *s = NULL;
    }
}

GSource *source_watch(int fd, GIOCondition condition, GUnixFDSourceFunc fn, gpointer opaque)
{
    GSource *s = g_unix_fd_source_new(fd, condition);

    g_source_set_callback(s, G_SOURCE_FUNC(fn), opaque, NULL);
    g_source_attach(s, NULL);
    return s;
}

void stream_init(Stream *s, Chardev *device, void (*ended)(Stream *s))
{
    *s = (Stream){.device = device, .ended = ended, .in = -1, .out = -1};
    s->queue = g_byte_array_new();
}

void stream_cleanup(Stream *s)
{
    if (s->queue) {
        stream_stop(s, false);
        g_clear_pointer(&s->queue, g_byte_array_unref);
    }
}

/* ---- reading ---- */

static void take_descriptors(Stream *s, struct msghdr *msg)
{
    int fds[FDS_MAX];

    for (struct cmsghdr *m = CMSG_FIRSTHDR(msg); m; m = CMSG_NXTHDR(msg, m)) {
        unsigned n = (m->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (m->cmsg_level == SOL_SOCKET && m->cmsg_type == SCM_RIGHTS && n > 0) {
            memcpy(fds, CMSG_DATA(m), n * sizeof(int));
            chardev_descriptors(s->device, fds, n);
        }
    }
}

/* Bytes, 0 at the end, or a negative errno. */
static ssize_t receive(Stream *s, char *buf, size_t len)
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

    if (s->tls) {
        return tls_recv(s->tls, buf, len);
    }
    n = s->socket ? recvmsg(s->in, &msg, MSG_CMSG_CLOEXEC) : read(s->in, buf, len);
    if (n >= 0 && s->socket) {
        take_descriptors(s, &msg);
    }
    return n < 0 ? -errno : n;
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer opaque)
{
    Stream *s = opaque;
    char buf[65536];

    (void)fd;
    (void)condition;
    do {
        ssize_t n = receive(s, buf, sizeof(buf));

        if (n == -EAGAIN || n == -EINTR) {
            break;
        }
        if (n == 0 && stream_queued(s) > 0) {
            /* Somebody who said all he had to say may still want the answers. */
            s->finished = true;
            source_remove(&s->read_source);
            break;
        }
        if (n <= 0) {
            s->ended(s);
            break;
        }
        if (s->telnet) {
            n = telnet_filter(&s->telnet_state, buf, n);
        }
        if (n > 0) {
            chardev_received(s->device, buf, n);
        }
    } while (s->tls && tls_pending(s->tls) > 0);
    return G_SOURCE_CONTINUE;
}

static void update_reading(Stream *s)
{
    if (s->in >= 0 && s->reading && !s->finished && !s->read_source) {
        s->read_source = source_watch(s->in, G_IO_IN | G_IO_HUP | G_IO_ERR, on_readable, s);
    } else if (s->in < 0 || !s->reading) {
        source_remove(&s->read_source);
    }
}

void stream_set_reading(Stream *s, bool on)
{
    s->reading = on;
    update_reading(s);
}

/* ---- writing ---- */

static gboolean on_writable(gint fd, GIOCondition condition, gpointer opaque);

/* Memory that a slow reader has needed is given back. */
static void drop_queue(Stream *s)
{
    g_byte_array_unref(s->queue);
    s->queue = g_byte_array_new();
    s->sent = 0;
}

static ssize_t send_some(Stream *s, const guint8 *data, size_t len)
{
    ssize_t n = s->tls      ? tls_send(s->tls, data, len)
                : s->socket ? send(s->out, data, len, MSG_NOSIGNAL)
                            : write(s->out, data, len);

    return n < 0 && !s->tls ? -errno : n;
}

/* Sends what it can; false: the peer is gone. */
static bool flush(Stream *s)
{
    while (s->sent < s->queue->len) {
        ssize_t n = send_some(s, s->queue->data + s->sent, s->queue->len - s->sent);

        if (n == -EINTR) {
            continue;
        }
        if (n == -EAGAIN) {
            break;
        }
        if (n < 0) {
            return false;
        }
        s->sent += n;
    }
    if (s->sent < s->queue->len) {
        if (!s->write_source) {
            s->write_source = source_watch(s->out, G_IO_OUT | G_IO_ERR | G_IO_HUP, on_writable, s);
        }
        return true;
    }
    source_remove(&s->write_source);
    if (s->queue->len > 65536) {
        drop_queue(s);
    } else {
        g_byte_array_set_size(s->queue, 0);
        s->sent = 0;
    }
    return true;
}

static gboolean on_writable(gint fd, GIOCondition condition, gpointer opaque)
{
    Stream *s = opaque;

    (void)fd;
    (void)condition;
    if (!flush(s) || (s->finished && stream_queued(s) == 0)) {
        s->ended(s);
    } else if (stream_queued(s) == 0 && s->device->user->drained) {
        s->device->user->drained(s->device->opaque);
    }
    return G_SOURCE_CONTINUE;
}

/* In telnet the byte 255 begins a command; as data it is doubled. */
static void append(Stream *s, const char *data, size_t len)
{
    static const guint8 escaped[] = {255, 255};

    while (s->telnet && len > 0) {
        const char *special = memchr(data, 255, len);
        size_t n = special ? (size_t)(special - data) : len;

        g_byte_array_append(s->queue, (const guint8 *)data, n);
        if (special) {
            g_byte_array_append(s->queue, escaped, 2);
            n++;
        }
        data += n;
        len -= n;
    }
    g_byte_array_append(s->queue, (const guint8 *)data, len);
}

void stream_write(Stream *s, const char *data, size_t len)
{
    if (s->out < 0) {
        return;
    }
    /* Moved once for every half that has left: no more work than sending it was.  TLS wants the bytes where they were. */
    if (s->sent > s->queue->len / 2 && !s->tls) {
        g_byte_array_remove_range(s->queue, 0, s->sent);
        s->sent = 0;
    }
    append(s, data, len);
    /* A peer that is gone is noticed by the reading side too; its end is told from the main loop, not from here. */
    if (!s->write_source && !flush(s)) {
        s->write_source = source_watch(s->out, G_IO_OUT | G_IO_ERR | G_IO_HUP, on_writable, s);
    }
}

size_t stream_queued(const Stream *s)
{
    return s->queue->len - s->sent;
}

/* ---- beginning and end ---- */

void stream_start(Stream *s, int in, int out)
{
    s->in = in;
    s->out = out;
    s->reading = true;
    s->finished = false;
    s->telnet_state = 0;
    chardev_opened(s->device);
    update_reading(s);
}

/* The daemon ends: a peer that reads gets the rest. */
static void send_rest(Stream *s)
{
    gint64 deadline = g_get_monotonic_time() + REST_MS * 1000;

    while (flush(s) && stream_queued(s) > 0 && g_get_monotonic_time() < deadline) {
        struct pollfd p = {.fd = s->out, .events = POLLOUT};

        (void)poll(&p, 1, REST_MS);
    }
}

void stream_stop(Stream *s, bool send)
{
    source_remove(&s->read_source);
    if (send && s->out >= 0) {
        send_rest(s);
        if (s->tls) {
            tls_bye(s->tls);
        }
    }
    source_remove(&s->write_source);
    drop_queue(s);
    g_clear_pointer(&s->tls, tls_session_free);
    s->in = s->out = -1;
}

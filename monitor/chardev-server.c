/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Character devices of kind socket: servers and clients, with TLS or telnet.
 *
 * States of a device:
 *   idle         a server listens (accept_source); a client that tries again has a timer (again_source) or a connection under way
 *   handshake    there is a peer, and TLS is being negotiated (handshake_source), or it is asked whether he may (judgement)
 *   connected    the user talks
 *
 * A client's connection is made by a worker, so it can outlive the device: `Attempt` is what both share.
 */
#include "block/authz.h"
#include "block/tls-creds.h"
#include "chardev-internal.h"
#include "qapi-types.h"
#include "util/log.h"
#include "util/loop.h"
#include "util/worker.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPT_AGAIN_MS 100
#define HANDSHAKE_MS    10000

typedef struct SocketDevice SocketDevice;

/* Whether a peer may; outlives the device if it must. */
typedef struct Judgement {
    SocketDevice *device; /* NULL: it is gone, or its peer is */
    char *authz, *peer;
} Judgement;

typedef struct Attempt {
    SocketDevice *device; /* NULL: it is gone */
    SocketAddressLegacy *addr;
} Attempt;

struct SocketDevice {
    Chardev base;
    Stream stream;
    SocketAddressLegacy *addr;
    int fd;        /* the peer; -1: none */
    int listen_fd; /* -1: a client */
    SocketFile socket_file;
    TlsCreds *creds;
    char *authz;
    bool server, nodelay, telnet, connected;
    int64_t again_ms; /* 0: a client does not try again */
    Attempt *attempt;
    Judgement *judgement;
    TlsSession *handshake;
    GSource *accept_source, *again_source, *handshake_source, *deadline_source;
};

static void idle(SocketDevice *d);

static void drop_peer(SocketDevice *d)
{
    source_remove(&d->handshake_source);
    source_remove(&d->deadline_source);
    g_clear_pointer(&d->handshake, tls_session_free);
    if (d->judgement) {
        g_steal_pointer(&d->judgement)->device = NULL;
    }
    if (d->fd >= 0) {
        close(d->fd);
        d->fd = -1;
    }
}

static void ended(Stream *s)
{
    SocketDevice *d = (SocketDevice *)s->device;

    stream_stop(s, false);
    drop_peer(d);
    d->connected = false;
    chardev_closed(&d->base);
    idle(d);
}

static void talk(SocketDevice *d)
{
    source_remove(&d->handshake_source);
    source_remove(&d->deadline_source);
    d->stream.tls = g_steal_pointer(&d->handshake);
    d->stream.socket = true;
    d->stream.telnet = d->telnet;
    d->connected = true;
    if (d->telnet && d->server) {
        (void)send(d->fd, telnet_hello, strlen(telnet_hello), MSG_NOSIGNAL);
    }
    stream_start(&d->stream, d->fd, d->fd);
}

/* ---- TLS ---- */

static void handshake_step(SocketDevice *d);

static gboolean on_handshake_ready(gint fd, GIOCondition condition, gpointer opaque)
{
    (void)fd;
    (void)condition;
    handshake_step(opaque);
    return G_SOURCE_CONTINUE; /* handshake_step() has destroyed it */
}

static gboolean on_deadline(gpointer opaque)
{
    SocketDevice *d = opaque;

    log_warn_limited("character device '%s': no TLS handshake in time: disconnected", d->base.id);
    drop_peer(d);
    idle(d);
    return G_SOURCE_REMOVE;
}

static void refuse(SocketDevice *d, const char *reason)
{
    log_warn_limited("character device '%s': %s: disconnected", d->base.id, reason);
    drop_peer(d);
    idle(d);
}

static void coroutine_fn judge(void *opaque)
{
    Judgement *j = opaque;
    g_autoptr(Error) err = NULL;
    bool permits = authz_permits(j->authz, j->peer, &err);
    SocketDevice *d = j->device;

    if (d) {
        d->judgement = NULL;
        if (permits) {
            talk(d);
        } else {
            refuse(d, err->message);
        }
    }
    g_free(j->authz);
    g_free(j->peer);
    g_free(j);
}

static void start_judgement(SocketDevice *d)
{
    const char *peer = tls_peer(d->handshake);

    d->judgement = g_new0(Judgement, 1);
    *d->judgement =
        (Judgement){.device = d, .authz = g_strdup(d->authz), .peer = g_strdup(peer ? peer : "")};
    co_spawn(loop_control(), judge, d->judgement);
}

static void handshake_step(SocketDevice *d)
{
    g_autoptr(Error) err = NULL;
    int ret = tls_handshake(d->handshake, &err);

    source_remove(&d->handshake_source);
    if (ret == -EAGAIN) {
        d->handshake_source = source_watch(
            d->fd, tls_wants(d->handshake) == POLLIN ? G_IO_IN : G_IO_OUT, on_handshake_ready, d);
        return;
    }
    if (ret < 0) {
        refuse(d, err ? err->message : g_strerror(-ret));
    } else if (d->authz) {
        start_judgement(d);
    } else {
        talk(d);
    }
}

/* There is a peer on d->fd. */
static void met(SocketDevice *d)
{
    const char *host =
        d->addr->type == SOCKET_ADDRESS_TYPE_INET ? d->addr->u.inet.data->host : NULL;
    g_autoptr(Error) err = NULL;

    source_remove(&d->accept_source);
    if (d->nodelay) {
        socket_set_nodelay(d->fd);
    }
    if (!d->creds) {
        talk(d);
        return;
    }
    d->handshake = tls_session_new(d->creds, d->server ? NULL : host, d->fd, &err);
    if (!d->handshake) {
        log_warn("character device '%s': %s", d->base.id, err->message);
        drop_peer(d);
        idle(d);
        return;
    }
    d->deadline_source = g_timeout_source_new(HANDSHAKE_MS);
    g_source_set_callback(d->deadline_source, on_deadline, d, NULL);
    g_source_attach(d->deadline_source, NULL);
    handshake_step(d);
}

/* ---- servers ---- */

static gboolean on_accept(gint fd, GIOCondition condition, gpointer opaque);

static gboolean accept_again(gpointer opaque)
{
    SocketDevice *d = opaque;

    source_remove(&d->accept_source);
    d->accept_source = source_watch(d->listen_fd, G_IO_IN, on_accept, d);
    return G_SOURCE_REMOVE;
}

static gboolean on_accept(gint fd, GIOCondition condition, gpointer opaque)
{
    SocketDevice *d = opaque;
    int peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    (void)condition;
    if (peer >= 0) {
        d->fd = peer;
        met(d);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
        /* The client waits in the queue; trying at once again would fail at once again. */
        log_warn_limited("cannot accept a connection on character device '%s': %s", d->base.id,
                         g_strerror(errno));
        source_remove(&d->accept_source);
        d->accept_source = g_timeout_source_new(ACCEPT_AGAIN_MS);
        g_source_set_callback(d->accept_source, accept_again, d, NULL);
        g_source_attach(d->accept_source, NULL);
    }
    return G_SOURCE_CONTINUE; /* what must not go on has been destroyed */
}

/* Waits for the first client, as wait=on asks. */
static bool coroutine_fn wait_for_client(SocketDevice *d, Error **errp)
{
    g_autofree char *where = socket_describe(d->addr, d->listen_fd, d->telnet);

    log_info("waiting for connection on: %s", where);
    while (!chardev_is_stopping()) {
        int fd = accept4(d->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            d->fd = fd;
            return true;
        }
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            error_set_errno(errp, errno, d->base.id, "chardev", "Failed to accept a connection");
            return false;
        }
        co_poll(d->listen_fd, POLLIN, INT64_C(100000000));
    }
    error_set(errp, ERROR_BUSY, d->base.id, "chardev", "the daemon was told to end");
    return false;
}

/* ---- clients ---- */

typedef struct ConnectJob {
    const SocketAddressLegacy *addr;
    Error **errp;
} ConnectJob;

static int connect_on_worker(void *opaque)
{
    ConnectJob *j = opaque;

    return socket_connect(j->addr, j->errp);
}

static int coroutine_fn connect_peer(const SocketAddressLegacy *addr, Error **errp)
{
    ConnectJob j = {addr, errp};

    /* A name of a descriptor means something to the monitor whose command this is. */
    return addr->type == SOCKET_ADDRESS_TYPE_FD
               ? socket_connect(addr, errp)
               : worker_run(WORKERS_CONTROL, connect_on_worker, &j);
}

static void coroutine_fn attempt_main(void *opaque)
{
    Attempt *a = opaque;
    g_autoptr(Error) err = NULL;
    int fd = connect_peer(a->addr, &err);
    SocketDevice *d = a->device;

    qapi_free_SocketAddressLegacy(a->addr);
    g_free(a);
    if (!d) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    d->attempt = NULL;
    if (fd < 0) {
        log_warn_limited("Unable to connect character device %s: %s", d->base.id, err->message);
        idle(d);
        return;
    }
    d->fd = fd;
    met(d);
}

static void attempt(SocketDevice *d)
{
    Attempt *a = g_new0(Attempt, 1);

    a->device = d;
    a->addr = qapi_copy_SocketAddressLegacy(d->addr);
    d->attempt = a;
    co_spawn(loop_control(), attempt_main, a);
}

static gboolean try_again(gpointer opaque)
{
    SocketDevice *d = opaque;

    source_remove(&d->again_source);
    attempt(d);
    return G_SOURCE_REMOVE;
}

/* There is no peer: looks for one. */
static void idle(SocketDevice *d)
{
    if (d->listen_fd >= 0) {
        if (!d->accept_source) {
            d->accept_source = source_watch(d->listen_fd, G_IO_IN, on_accept, d);
        }
    } else if (d->again_ms && !d->again_source && !d->attempt) {
        d->again_source = g_timeout_source_new(d->again_ms);
        g_source_set_callback(d->again_source, try_again, d, NULL);
        g_source_attach(d->again_source, NULL);
    }
}

/* ---- the kind ---- */

static bool bad(Chardev *c, Error **errp, const char *text)
{
    error_set(errp, ERROR_INVALID, c->id, "chardev", "%s", text);
    return false;
}

static bool check(Chardev *c, const ChardevSocket *o, bool server, Error **errp)
{
    if (o->has_tn3270 && o->tn3270) {
        return bad(c, errp, "'tn3270' is not supported");
    }
    if (o->has_websocket && o->websocket) {
        return bad(c, errp, "'websocket' is not supported");
    }
    if (server &&
        ((o->has_reconnect && o->reconnect) || (o->has_reconnect_ms && o->reconnect_ms))) {
        return bad(c, errp, "'reconnect' option is incompatible with socket in server listen mode");
    }
    if (o->has_reconnect && o->has_reconnect_ms) {
        return bad(c, errp, "'reconnect' and 'reconnect-ms' are mutually exclusive");
    }
    if ((o->has_reconnect && (o->reconnect < 0 || o->reconnect > G_MAXINT32 / 1000)) ||
        (o->has_reconnect_ms && (o->reconnect_ms < 0 || o->reconnect_ms > G_MAXINT32))) {
        return bad(c, errp, "the time of 'reconnect' is out of range");
    }
    if (!server && o->has_wait) {
        return bad(c, errp, "'wait' option is incompatible with socket in client connect mode");
    }
    if (o->tls_authz && !o->tls_creds) {
        return bad(c, errp, "'tls_authz' option requires 'tls_creds' option");
    }
    if (o->tls_creds && o->addr->type == SOCKET_ADDRESS_TYPE_FD && !server) {
        return bad(c, errp, "'tls_creds' and a descriptor of a client do not go together");
    }
    return true;
}

static bool coroutine_fn socket_open(Chardev *c, const ChardevBackend *b, Error **errp)
{
    const ChardevSocket *o = b->u.socket.data;
    SocketDevice *d = (SocketDevice *)c;

    d->fd = d->listen_fd = -1;
    d->server = !o->has_server || o->server;
    if (!check(c, o, d->server, errp)) {
        return false;
    }
    stream_init(&d->stream, c, ended);
    d->addr = qapi_copy_SocketAddressLegacy(o->addr);
    d->nodelay = o->has_nodelay && o->nodelay;
    d->telnet = o->has_telnet && o->telnet;
    d->again_ms = o->has_reconnect      ? o->reconnect * 1000
                  : o->has_reconnect_ms ? o->reconnect_ms
                                        : 0;
    d->authz = g_strdup(o->tls_authz);
    if (o->tls_creds && !(d->creds = tls_creds_lookup(o->tls_creds, d->server, errp))) {
        return false;
    }
    if (d->server) {
        d->listen_fd = socket_listen(d->addr, &d->socket_file, errp);
        return d->listen_fd >= 0 && (!o->has_wait || !o->wait || wait_for_client(d, errp));
    }
    if (d->again_ms) {
        return true; /* the first attempt is made when there is a user */
    }
    d->fd = connect_peer(d->addr, errp);
    return d->fd >= 0;
}

static void socket_start(Chardev *c)
{
    SocketDevice *d = (SocketDevice *)c;

    if (d->fd >= 0) {
        met(d);
    } else if (!d->server && d->again_ms) {
        attempt(d);
    } else {
        idle(d);
    }
}

static void socket_write(Chardev *c, const char *data, size_t len)
{
    stream_write(&((SocketDevice *)c)->stream, data, len);
}

static size_t socket_queued(const Chardev *c)
{
    return stream_queued(&((const SocketDevice *)c)->stream);
}

static void socket_set_reading(Chardev *c, bool on)
{
    stream_set_reading(&((SocketDevice *)c)->stream, on);
}

static void socket_disconnect(Chardev *c)
{
    SocketDevice *d = (SocketDevice *)c;

    if (d->connected) {
        ended(&d->stream);
    }
}

static void socket_close(Chardev *c)
{
    SocketDevice *d = (SocketDevice *)c;

    source_remove(&d->accept_source);
    source_remove(&d->again_source);
    if (d->attempt) {
        d->attempt->device = NULL;
    }
    if (d->stream.queue) {
        stream_stop(&d->stream, true);
    }
    drop_peer(d);
    stream_cleanup(&d->stream);
    if (d->listen_fd >= 0) {
        close(d->listen_fd);
    }
    socket_file_remove(&d->socket_file);
    tls_creds_unref(d->creds);
    qapi_free_SocketAddressLegacy(d->addr);
    g_free(d->authz);
}

static char *socket_what(const Chardev *c)
{
    const SocketDevice *d = (const SocketDevice *)c;
    g_autofree char *address = socket_describe(d->addr, d->listen_fd, d->telnet);

    return g_strconcat(d->connected || d->fd >= 0 ? "" : "disconnected:", address,
                       d->server ? ",server=on" : "", NULL);
}

const ChardevKind chardev_kind_socket = {
    .name = "socket",
    .size = sizeof(SocketDevice),
    .open = socket_open,
    .start = socket_start,
    .write = socket_write,
    .queued = socket_queued,
    .set_reading = socket_set_reading,
    .disconnect = socket_disconnect,
    .close = socket_close,
    .describe = socket_what,
};

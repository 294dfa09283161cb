/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NBD server: listening, connections, and the exports that clients can choose.
 *
 * The control thread listens and starts every connection as a coroutine on the default I/O thread, where the handshake runs; when the client
 * has chosen an export, the connection goes on in a coroutine on that export's thread.  The list of exports is read by
 * handshakes, so it is under a lock.
 *
 * Ends of connections are told to the control thread (conn_gone), which owns the lists of connections.
 *
 * Lock: exports_lock, innermost.
 */
#include "block/nbd-server.h"
#include "block/iothread-objects.h"
#include "block/tls-creds.h"
#include "nbd-internal.h"
#include "unix-listener.h"
#include "qapi-types.h"
#include "util/log.h"
#include "util/passed-fd.h"
#include "util/rcu.h"
#include <errno.h>
#include <glib-unix.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ACCEPT_PAUSE_MS 100

typedef struct NbdServer {
    GArray *fds; /* listening */
    /* GSource *: of the descriptors, or one of the time until they are looked at again; none: not yet, or there are as many connections
     * as there may be. */
    GPtrArray *sources;
    UnixListener listener; /* its socket's file */
    unsigned max_connections, handshake_seconds;
    TlsCreds *creds; /* NULL: none */
    char *authz;
    GPtrArray *conns;   /* NbdConn *, all */
    GPtrArray *waiters; /* Coroutine *: for conns to be empty */
    bool stopping;
} NbdServer;

static NbdServer *server;
static bool serving; /* nbd_server_serve() was called */
/* A client may have more than one connection; constant while there is a server. */
static bool several;
static pthread_mutex_t exports_lock = PTHREAD_MUTEX_INITIALIZER;
static GPtrArray *nbd_exports; /* NbdExport * */

/* ---- exports ---- */

static bool coroutine_fn nbd_create(Export *base, const BlockExportOptions *options, Error **errp)
{
    NbdExport *e = (NbdExport *)base;
    const BlockExportOptionsNbd *o = &options->u.nbd;
    const char *name = o->name ? o->name : options->node_name;
    static uint64_t made;
    NbdBitmaps *bitmaps;
    bool taken = false;

    if (!server || server->stopping) {
        error_set(errp, ERROR_INVALID, base->id, "block-export-add", "NBD server not running");
        return false;
    }
    if (strlen(name) > NBD_MAX_NAME) {
        error_set(errp, ERROR_LIMIT, base->id, "block-export-add", "export name '%s' too long",
                  name);
        return false;
    }
    if (o->description && strlen(o->description) > NBD_MAX_NAME) {
        error_set(errp, ERROR_LIMIT, base->id, "block-export-add", "description '%s' too long",
                  o->description);
        return false;
    }
    bitmaps = nbd_bitmaps_new(base->edge->target, base->writable, o->bitmaps, errp);
    if (o->bitmaps && !bitmaps) {
        return false;
    }
    pthread_mutex_lock(&exports_lock);
    if (!nbd_exports) {
        nbd_exports = g_ptr_array_new();
    }
    for (guint i = 0; i < nbd_exports->len; i++) {
        taken |= strcmp(((NbdExport *)g_ptr_array_index(nbd_exports, i))->name, name) == 0;
    }
    if (!taken) {
        e->unique = ++made;
        e->bitmaps = bitmaps;
        e->name = g_strdup(name);
        e->description = g_strdup(o->description);
        e->allocation_depth = o->has_allocation_depth && o->allocation_depth;
        e->conns = g_ptr_array_new();
        e->idle_waiters = g_ptr_array_new();
        g_ptr_array_add(nbd_exports, e);
    }
    pthread_mutex_unlock(&exports_lock);
    if (taken) {
        nbd_bitmaps_free(bitmaps);
        error_set(errp, ERROR_EXISTS, name, "block-export-add",
                  "NBD server already has export named '%s'", name);
    }
    return !taken;
}

static unsigned nbd_clients(const Export *base)
{
    const NbdExport *e = (const NbdExport *)base;
    unsigned n;

    pthread_mutex_lock(&exports_lock);
    n = e->conns->len;
    pthread_mutex_unlock(&exports_lock);
    return n;
}

static void coroutine_fn nbd_shutdown(Export *base)
{
    NbdExport *e = (NbdExport *)base;

    pthread_mutex_lock(&exports_lock);
    g_ptr_array_remove(nbd_exports, e);
    for (guint i = 0; i < e->conns->len; i++) {
        shutdown(((NbdConn *)g_ptr_array_index(e->conns, i))->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&exports_lock);
    while (nbd_clients(base) > 0) {
        g_ptr_array_add(e->idle_waiters, co_self());
        co_yield();
    }
}

static void nbd_cleanup(Export *base)
{
    NbdExport *e = (NbdExport *)base;

    nbd_bitmaps_free(e->bitmaps);
    g_ptr_array_free(e->conns, true);
    g_ptr_array_free(e->idle_waiters, true);
    g_free(e->name);
    g_free(e->description);
}

const ExportDriver export_driver_nbd = {
    .name = "nbd",
    .bears_inactive = true,
    .size = sizeof(NbdExport),
    .create = nbd_create,
    .clients = nbd_clients,
    .shutdown = nbd_shutdown,
    .cleanup = nbd_cleanup,
};

static NbdExport *find(const char *name)
{
    for (guint i = 0; nbd_exports && i < nbd_exports->len; i++) {
        NbdExport *e = g_ptr_array_index(nbd_exports, i);

        if (strcmp(e->name, name) == 0) {
            return e;
        }
    }
    return NULL;
}

NbdExport *nbd_export_enter(const char *name, NbdConn *c)
{
    NbdExport *e;

    pthread_mutex_lock(&exports_lock);
    e = find(name);
    if (e) {
        c->exp = e;
        g_ptr_array_add(e->conns, c); /* from here on the export waits for us */
    }
    pthread_mutex_unlock(&exports_lock);
    return e;
}

bool nbd_export_look(const char *name, NbdExportFacts *ret_facts)
{
    NbdExport *e;

    pthread_mutex_lock(&exports_lock);
    e = find(name);
    if (e) {
        Node *n;

        rcu_begin();
        n = atomic_load_explicit(&e->base.edge->node, memory_order_acquire);
        *ret_facts = (NbdExportFacts){
            .unique = e->unique,
            .size = atomic_load_explicit(&n->size, memory_order_acquire),
            .flags = nbd_export_flags(e),
            .allocation_depth = e->allocation_depth,
            .description = g_strdup(e->description),
            .bitmap_contexts = nbd_bitmaps_contexts(e->bitmaps),
        };
        rcu_end();
    }
    pthread_mutex_unlock(&exports_lock);
    return e;
}

void nbd_export_facts_clear(NbdExportFacts *f)
{
    g_clear_pointer(&f->description, g_free);
    g_clear_pointer(&f->bitmap_contexts, g_strfreev);
}

void nbd_export_foreach(void (*fn)(void *opaque, const char *name, const char *description),
                        void *opaque)
{
    pthread_mutex_lock(&exports_lock);
    for (guint i = 0; nbd_exports && i < nbd_exports->len; i++) {
        NbdExport *e = g_ptr_array_index(nbd_exports, i);

        fn(opaque, e->name, e->description);
    }
    pthread_mutex_unlock(&exports_lock);
}

uint16_t nbd_export_flags(const NbdExport *e)
{
    /* Several connections see one node: a flush on any covers the writes of all. */
    uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
                     NBD_FLAG_SEND_DF | NBD_FLAG_SEND_CACHE;

    if (several) {
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    }
    if (e->base.writable) {
        return flags | NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    }
    return flags | NBD_FLAG_READ_ONLY;
}

/* ---- connections ---- */

static void wake_all(GPtrArray *list)
{
    for (guint i = 0; i < list->len; i++) {
        co_wake(g_ptr_array_index(list, i));
    }
    g_ptr_array_set_size(list, 0);
}

/* ---- listening ---- */

static gboolean on_accept(gint fd, GIOCondition condition, gpointer unused);

static bool is_full(const NbdServer *s)
{
    return s->max_connections && s->conns->len >= s->max_connections;
}

static void stop_listening(NbdServer *s)
{
    for (guint i = 0; i < s->sources->len; i++) {
        GSource *source = g_ptr_array_index(s->sources, i);

        g_source_destroy(source);
        g_source_unref(source);
    }
    g_ptr_array_set_size(s->sources, 0);
}

/* Clients that come while there are as many connections as there may be wait in the listen queue. */
static void update_listening(NbdServer *s)
{
    if (is_full(s)) {
        stop_listening(s);
        return;
    }
    for (guint i = 0; serving && !s->stopping && i < s->fds->len && s->sources->len <= i; i++) {
        GSource *source = g_unix_fd_source_new(g_array_index(s->fds, int, i), G_IO_IN);

        g_source_set_callback(source, G_SOURCE_FUNC(on_accept), NULL, NULL);
        g_source_attach(source, NULL);
        g_ptr_array_add(s->sources, source);
    }
}

static gboolean listen_again(gpointer unused)
{
    (void)unused;
    stop_listening(server);
    update_listening(server);
    return G_SOURCE_REMOVE;
}

/* Without descriptors or memory the same client would be offered again at once, for ever. */
static void pause_listening(NbdServer *s)
{
    GSource *later = g_timeout_source_new(ACCEPT_PAUSE_MS);

    stop_listening(s);
    g_source_set_callback(later, listen_again, NULL, NULL);
    g_source_attach(later, NULL);
    g_ptr_array_add(s->sources, later);
}

static void conn_gone(void *opaque)
{
    NbdConn *c = opaque;

    if (c->exp) {
        pthread_mutex_lock(&exports_lock);
        g_ptr_array_remove(c->exp->conns, c);
        pthread_mutex_unlock(&exports_lock);
        wake_all(c->exp->idle_waiters);
    }
    g_ptr_array_remove(server->conns, c);
    if (server->conns->len == 0) {
        wake_all(server->waiters);
    }
    update_listening(server);
    tls_session_free(c->tls);
    tls_creds_unref(c->creds);
    close(c->fd);
    g_free(c->authz);
    if (c->contexts) {
        g_array_free(c->contexts, true);
    }
    g_free(c->peer);
    g_free(c);
}

static void coroutine_fn transmit(void *opaque)
{
    NbdConn *c = opaque;

    nbd_transmission(c);
    if (c->tls) {
        tls_bye(c->tls);
    }
    loop_call(loop_control(), conn_gone, c);
}

static void handshake_timeout(void *opaque)
{
    NbdConn *c = opaque;

    log_warn_limited("NBD client %s: no handshake in time: disconnected", c->peer);
    shutdown(c->fd, SHUT_RDWR);
}

static void coroutine_fn serve(void *opaque)
{
    NbdConn *c = opaque;
    bool ok;

    timer_init(&c->handshake_timer, handshake_timeout, c);
    if (c->handshake_seconds) {
        timer_arm(&c->handshake_timer, clock_ns() + c->handshake_seconds * INT64_C(1000000000));
    }
    ok = nbd_handshake(c);
    timer_cancel(&c->handshake_timer);
    if (ok) {
        co_spawn(iothread_loop(c->exp->base.iothread), transmit, c);
    } else {
        loop_call(loop_control(), conn_gone, c);
    }
}

static char *peer_name(int fd)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getpeername(fd, (struct sockaddr *)&ss, &len) == 0 && ss.ss_family != AF_UNIX &&
        getnameinfo((struct sockaddr *)&ss, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) == 0) {
        return g_strdup_printf("%s:%s", host, port);
    }
    return g_strdup("on a local socket");
}

static gboolean on_accept(gint fd, GIOCondition condition, gpointer unused)
{
    g_autoptr(Error) err = NULL;
    IOThread *t = iothread_default(&err);
    int one = 1, peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    NbdConn *c;

    (void)condition;
    (void)unused;
    if (peer < 0 || !t) {
        if (peer >= 0) {
            log_warn_limited("NBD: a client was turned away: %s", err->message);
            close(peer);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            log_warn_limited("NBD: clients have to wait: %s", g_strerror(errno));
            pause_listening(server);
        }
        return G_SOURCE_CONTINUE;
    }
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one,
               sizeof(one)); /* fails on local sockets: no harm */
    c = g_new0(NbdConn, 1);
    c->fd = peer;
    c->peer = peer_name(peer);
    c->handshake_seconds = server->handshake_seconds;
    c->creds = server->creds ? tls_creds_ref(server->creds) : NULL;
    c->authz = g_strdup(server->authz);
    g_ptr_array_add(server->conns, c);
    co_spawn(iothread_loop(t), serve, c);
    update_listening(server);
    return G_SOURCE_CONTINUE;
}

/* ---- start and stop ---- */

bool nbd_server_running(void)
{
    return server && !server->stopping;
}

static void add_listener(NbdServer *s, int fd)
{
    g_array_append_val(s->fds, fd);
}

static bool listen_unix(NbdServer *s, const UnixSocketAddress *a, Error **errp)
{
    int fd = unix_listener_open(&s->listener, a, SOMAXCONN, errp);

    if (fd < 0) {
        return false;
    }
    add_listener(s, fd);
    return true;
}

/* Connections inherit it. */
static void keep_alive(int fd, const InetSocketAddress *o)
{
    const struct {
        bool has;
        int option, value;
    } table[] = {
        {o->has_keep_alive_count, TCP_KEEPCNT, (int)o->keep_alive_count},
        {o->has_keep_alive_idle, TCP_KEEPIDLE, (int)o->keep_alive_idle},
        {o->has_keep_alive_interval, TCP_KEEPINTVL, (int)o->keep_alive_interval},
    };
    int one = 1;

    if (!o->has_keep_alive || !o->keep_alive) {
        return;
    }
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        if (table[i].has && table[i].value > 0) {
            setsockopt(fd, IPPROTO_TCP, table[i].option, &table[i].value, sizeof(int));
        }
    }
}

static int bind_inet(const struct addrinfo *a, const InetSocketAddress *o)
{
    int protocol = o->has_mptcp && o->mptcp ? IPPROTO_MPTCP : a->ai_protocol;
    int one = 1, fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);

    if (fd < 0) {
        return -errno;
    }
    keep_alive(fd, o);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (a->ai_family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
    }
    if (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0) {
        int err = errno;

        close(fd);
        return -err;
    }
    return fd;
}

static bool listen_port(NbdServer *s, const InetSocketAddress *a, unsigned port, int *ret_err)
{
    bool v4 = a->has_ipv4 && a->ipv4, v6 = a->has_ipv6 && a->ipv6;
    bool no4 = a->has_ipv4 && !a->ipv4, no6 = a->has_ipv6 && !a->ipv6;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags =
                                 AI_PASSIVE | (a->has_numeric && a->numeric ? AI_NUMERICHOST : 0)};
    g_autofree char *text = g_strdup_printf("%u", port);
    struct addrinfo *list;

    hints.ai_family = (v4 && !v6) || no6 ? AF_INET : (v6 && !v4) || no4 ? AF_INET6 : AF_UNSPEC;
    if (getaddrinfo(*a->host ? a->host : NULL, text, &hints, &list)) {
        *ret_err = EADDRNOTAVAIL;
        return false;
    }
    for (struct addrinfo *i = list; i; i = i->ai_next) {
        int fd = bind_inet(i, a);

        if (fd >= 0) {
            add_listener(s, fd);
        } else {
            *ret_err = -fd;
        }
    }
    freeaddrinfo(list);
    return s->fds->len > 0;
}

static bool listen_inet(NbdServer *s, const InetSocketAddress *a, Error **errp)
{
    char *end;
    guint64 port = g_ascii_strtoull(a->port, &end, 10), to = a->has_to ? a->to : port;
    int err = EINVAL;

    if (!*a->port || *end || port > 65535) {
        error_set(errp, ERROR_INVALID, a->port, "listen", "Failed to parse port '%s'", a->port);
        return false;
    }
    for (; port <= to; port++) {
        if (listen_port(s, a, port, &err)) {
            return true;
        }
    }
    error_set_errno(errp, err, a->host, "listen", "Failed to find an available port");
    return false;
}

static bool listen_fd(NbdServer *s, const FdSocketAddress *a, Error **errp)
{
    int fd = passed_fd_socket(a->str, errp), listening = 0;
    socklen_t len = sizeof(listening);

    if (fd < 0) {
        return false;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || !listening) {
        close(fd);
        error_set(errp, ERROR_INVALID, a->str, "listen",
                  "File descriptor '%s' is not a listening socket", a->str);
        return false;
    }
    add_listener(s, fd);
    return true;
}

static bool listen_vsock(NbdServer *s, const VsockSocketAddress *a, Error **errp)
{
    struct sockaddr_vm sa = {.svm_family = AF_VSOCK};
    guint64 cid, port;
    int fd;

    if (!g_ascii_string_to_unsigned(a->cid, 10, 0, UINT32_MAX, &cid, NULL)) {
        error_set(errp, ERROR_INVALID, a->cid, "listen", "Failed to parse cid '%s'", a->cid);
        return false;
    }
    if (!g_ascii_string_to_unsigned(a->port, 10, 0, UINT32_MAX, &port, NULL)) {
        error_set(errp, ERROR_INVALID, a->port, "listen", "Failed to parse port '%s'", a->port);
        return false;
    }
    sa.svm_cid = cid;
    sa.svm_port = port;
    fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, SOMAXCONN) < 0) {
        error_set_errno(errp, errno, a->cid, "listen", "Failed to listen on '%s:%s'", a->cid,
                        a->port);
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    add_listener(s, fd);
    return true;
}

static void server_free(NbdServer *s)
{
    for (guint i = 0; i < s->fds->len; i++) {
        close(g_array_index(s->fds, int, i));
    }
    unix_listener_remove(&s->listener);
    g_array_free(s->fds, true);
    g_ptr_array_free(s->sources, true);
    g_ptr_array_free(s->conns, true);
    g_ptr_array_free(s->waiters, true);
    tls_creds_unref(s->creds);
    g_free(s->authz);
    g_free(s);
}

void nbd_server_serve(void)
{
    serving = true;
    if (server) {
        update_listening(server);
    }
}

bool nbd_server_start(const SocketAddressLegacy *addr, const NbdServerConfig *config, Error **errp)
{
    TlsCreds *creds = NULL;
    NbdServer *s;
    bool ok;

    if (server) {
        error_set(errp, ERROR_BUSY, NULL, "nbd-server-start", "NBD server already running");
        return false;
    }
    if (config->tls_authz && !config->tls_creds) {
        error_set(errp, ERROR_INVALID, "tls-authz", "nbd-server-start",
                  "'tls-authz' requires 'tls-creds'");
        return false;
    }
    if (config->tls_creds && !(creds = tls_creds_lookup(config->tls_creds, true, errp))) {
        return false;
    }
    s = g_new0(NbdServer, 1);
    s->creds = creds;
    s->authz = g_strdup(config->tls_authz);
    s->fds = g_array_new(false, false, sizeof(int));
    s->sources = g_ptr_array_new();
    s->conns = g_ptr_array_new();
    s->waiters = g_ptr_array_new();
    s->max_connections = config->max_connections;
    s->handshake_seconds = config->handshake_seconds;
    switch (addr->type) {
    case SOCKET_ADDRESS_TYPE_UNIX:
        ok = listen_unix(s, addr->u.q_unix.data, errp);
        break;
    case SOCKET_ADDRESS_TYPE_INET:
        ok = listen_inet(s, addr->u.inet.data, errp);
        break;
    case SOCKET_ADDRESS_TYPE_VSOCK:
        ok = listen_vsock(s, addr->u.vsock.data, errp);
        break;
    default:
        ok = listen_fd(s, addr->u.fd.data, errp);
        break;
    }
    if (!ok) {
        server_free(s);
        return false;
    }
    several = config->max_connections != 1;
    server = s;
    update_listening(s);
    return true;
}

bool nbd_server_stop(Error **errp)
{
    if (!nbd_server_running()) {
        error_set(errp, ERROR_INVALID, NULL, "nbd-server-stop", "NBD server not running");
        return false;
    }
    server->stopping = true;
    stop_listening(server);
    export_remove_all(&export_driver_nbd);
    /* Clients that have not chosen an export. */
    for (guint i = 0; i < server->conns->len; i++) {
        shutdown(((NbdConn *)g_ptr_array_index(server->conns, i))->fd, SHUT_RDWR);
    }
    while (server->conns->len > 0) {
        g_ptr_array_add(server->waiters, co_self());
        co_yield();
    }
    server_free(server);
    server = NULL;
    return true;
}

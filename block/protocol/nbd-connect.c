/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NBD client: from an address to a session.
 *
 * Everything here has a deadline, and ends soon when the target is stopped: a server that accepts and says nothing must not keep a
 * blockdev-add, a reconnection or the end of the process.  Names are looked up on a worker thread.
 */
#include "nbd-client.h"
#include "qapi-types.h"
#include "util/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define STEP_NS       (INT64_C(100) * 1000000)
#define MAX_BLOCK     (32u * 1024 * 1024)
#define MAX_MIN_BLOCK (64u * 1024)
#define SECTOR        512u

int coroutine_fn nbd_client_poll(const NbdTarget *t, int fd, short events, int64_t deadline_ns)
{
    for (;;) {
        int64_t left = deadline_ns - clock_ns();
        int ret;

        if (left <= 0 || atomic_load(&t->stopped)) {
            return 0;
        }
        ret = co_poll(fd, events, MIN(left, STEP_NS));
        if (ret != 0) {
            return ret < 0 ? ret : 1;
        }
    }
}

/* ---- sockets ---- */

/* Connects fd (consumed on failure) to an address; a descriptor or a negative errno. */
static int coroutine_fn connect_to(const NbdTarget *t, int fd, const void *addr, socklen_t len,
                                   int64_t deadline_ns)
{
    int err = fd < 0 ? errno : 0, ret;
    socklen_t err_len = sizeof(err);

    if (fd < 0) {
        return -err;
    }
    while (connect(fd, addr, len) < 0) {
        if (errno == EAGAIN) { /* a local server's queue is full */
            if (clock_ns() >= deadline_ns || atomic_load(&t->stopped)) {
                err = ETIMEDOUT;
                break;
            }
            co_sleep_ns(STEP_NS / 10);
        } else if (errno == EINPROGRESS || errno == EINTR) {
            ret = nbd_client_poll(t, fd, POLLOUT, deadline_ns);
            if (ret == 0) {
                err = ETIMEDOUT;
            } else if (ret < 0) {
                err = -ret;
            } else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &err_len) < 0) {
                err = errno;
            }
            break;
        } else {
            err = errno;
            break;
        }
    }
    if (err) {
        close(fd);
        return -err;
    }
    return fd;
}

static int new_socket(int family, int protocol)
{
    return socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
}

static int connect_failed(const NbdTarget *t, int err, Error **errp)
{
    error_set_errno(errp, err, t->shown, "connect", "Failed to connect to '%s'", t->shown);
    return -1;
}

static int coroutine_fn connect_unix(const NbdTarget *t, int64_t deadline_ns, Error **errp)
{
    const UnixSocketAddress *a = &t->server->u.q_unix;
    bool abstract = a->has_abstract && a->abstract;
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    size_t len = strlen(a->path);
    socklen_t size = sizeof(sa);
    int fd;

    if (len + abstract > sizeof(sa.sun_path) - !abstract) {
        error_set(errp, ERROR_LIMIT, a->path, "connect", "UNIX socket path '%s' is too long",
                  a->path);
        return -1;
    }
    memcpy(sa.sun_path + abstract, a->path, len);
    if (abstract && (!a->has_tight || a->tight)) {
        size = offsetof(struct sockaddr_un, sun_path) + 1 + len;
    }
    fd = connect_to(t, new_socket(AF_UNIX, 0), &sa, size, deadline_ns);
    return fd >= 0 ? fd : connect_failed(t, -fd, errp);
}

static int coroutine_fn connect_vsock(const NbdTarget *t, int64_t deadline_ns, Error **errp)
{
    const VsockSocketAddress *a = &t->server->u.vsock;
    struct sockaddr_vm sa = {.svm_family = AF_VSOCK};
    guint64 cid, port;
    int fd;

    if (!g_ascii_string_to_unsigned(a->cid, 10, 0, UINT32_MAX, &cid, NULL)) {
        error_set(errp, ERROR_INVALID, a->cid, "connect", "Failed to parse cid '%s'", a->cid);
        return -1;
    }
    if (!g_ascii_string_to_unsigned(a->port, 10, 0, UINT32_MAX, &port, NULL)) {
        error_set(errp, ERROR_INVALID, a->port, "connect", "Failed to parse port '%s'", a->port);
        return -1;
    }
    sa.svm_cid = cid;
    sa.svm_port = port;
    fd = connect_to(t, new_socket(AF_VSOCK, 0), &sa, sizeof(sa), deadline_ns);
    return fd >= 0 ? fd : connect_failed(t, -fd, errp);
}

typedef struct Lookup {
    const InetSocketAddress *address;
    struct addrinfo *list;
} Lookup;

static int look_up(void *opaque)
{
    Lookup *l = opaque;
    const InetSocketAddress *a = l->address;
    bool v4 = a->has_ipv4 && a->ipv4, v6 = a->has_ipv6 && a->ipv6;
    bool no4 = a->has_ipv4 && !a->ipv4, no6 = a->has_ipv6 && !a->ipv6;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};

    hints.ai_family = (v4 && !v6) || no6 ? AF_INET : (v6 && !v4) || no4 ? AF_INET6 : AF_UNSPEC;
    if (a->has_numeric && a->numeric) {
        hints.ai_flags |= AI_NUMERICHOST | AI_NUMERICSERV;
    }
    return getaddrinfo(a->host, a->port, &hints, &l->list);
}

/* Failures matter little here: the connection works without. */
static void set_tcp_options(int fd, const InetSocketAddress *o)
{
    const struct {
        bool has;
        int option;
        uint32_t value;
    } table[] = {
        {o->has_keep_alive_count, TCP_KEEPCNT, o->keep_alive_count},
        {o->has_keep_alive_idle, TCP_KEEPIDLE, o->keep_alive_idle},
        {o->has_keep_alive_interval, TCP_KEEPINTVL, o->keep_alive_interval},
    };
    int one = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (!o->has_keep_alive || !o->keep_alive) {
        return;
    }
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        if (table[i].has && table[i].value > 0) {
            int value = MIN(table[i].value, (uint32_t)INT32_MAX);

            setsockopt(fd, IPPROTO_TCP, table[i].option, &value, sizeof(value));
        }
    }
}

static int coroutine_fn connect_inet(const NbdTarget *t, int64_t deadline_ns, Error **errp)
{
    const InetSocketAddress *a = &t->server->u.inet;
    Lookup l = {.address = a};
    int ret = worker_run(WORKERS_CONTROL, look_up, &l), fd = -EADDRNOTAVAIL;

    if (ret != 0) {
        error_set(errp, ERROR_IO, t->shown, "connect", "address resolution failed for %s: %s",
                  t->shown, gai_strerror(ret));
        return -1;
    }
    for (struct addrinfo *i = l.list; i && fd < 0 && clock_ns() < deadline_ns; i = i->ai_next) {
        int protocol = a->has_mptcp && a->mptcp ? IPPROTO_MPTCP : i->ai_protocol;

        fd = connect_to(t, new_socket(i->ai_family, protocol), i->ai_addr, i->ai_addrlen,
                        deadline_ns);
    }
    freeaddrinfo(l.list);
    if (fd < 0) {
        return connect_failed(t, -fd, errp);
    }
    set_tcp_options(fd, a);
    return fd;
}

int coroutine_fn nbd_client_socket(NbdTarget *t, int64_t deadline_ns, Error **errp)
{
    int fd;

    switch (t->server->type) {
    case SOCKET_ADDRESS_TYPE_UNIX:
        return connect_unix(t, deadline_ns, errp);
    case SOCKET_ADDRESS_TYPE_INET:
        return connect_inet(t, deadline_ns, errp);
    case SOCKET_ADDRESS_TYPE_VSOCK:
        return connect_vsock(t, deadline_ns, errp);
    default:
        fd = t->fd;
        t->fd = -1;
        if (fd < 0) {
            error_set(errp, ERROR_IO, t->shown, "connect",
                      "The connection of descriptor '%s' is lost, and there is no address to go to",
                      t->shown);
        }
        return fd;
    }
}

/* ---- handshake ---- */

static void nbd_error(const NbdTarget *t, Error **errp)
{
    const char *text = nbd_get_error();
    int err = nbd_get_errno();

    error_set(errp, err ? error_kind_of_errno(err) : ERROR_IO, t->shown, "connect",
              "NBD server '%s': %s", t->shown, text ? text : "the connection was closed");
}

static struct nbd_handle *make_handle(const NbdTarget *t, Error **errp)
{
    struct nbd_handle *h = nbd_create();

    if (!h || nbd_set_export_name(h, t->export) < 0 || nbd_add_meta_context(h, t->context) < 0) {
        nbd_error(t, errp);
        if (h) {
            nbd_close(h);
        }
        return NULL;
    }
    return h;
}

static bool coroutine_fn shake_hands(const NbdTarget *t, struct nbd_handle *h, int fd,
                                     int64_t deadline_ns, Error **errp)
{
    bool failed = false;

    while (nbd_aio_is_ready(h) != 1) {
        unsigned dir = nbd_aio_get_direction(h);
        short events = (dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                       (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
        int ret;

        if (failed || nbd_aio_is_dead(h) || nbd_aio_is_closed(h)) {
            nbd_error(t, errp);
            return false;
        }
        ret = nbd_client_poll(t, fd, events, deadline_ns);
        if (ret <= 0) {
            error_set(errp, ret < 0 ? ERROR_IO : ERROR_TIMEOUT, t->shown, "connect",
                      "NBD server '%s': no handshake in time", t->shown);
            return false;
        }
        failed = (dir & LIBNBD_AIO_DIRECTION_READ ? nbd_aio_notify_read(h)
                                                  : nbd_aio_notify_write(h)) < 0;
    }
    return true;
}

static uint32_t block_size(struct nbd_handle *h, int which)
{
    int64_t v = nbd_get_block_size(h, which);

    return v > 0 && v <= UINT32_MAX ? v : 0;
}

static bool get_facts(const NbdTarget *t, struct nbd_handle *h, NbdFacts *f, Error **errp)
{
    int64_t size = nbd_get_size(h);

    if (size < 0 || (uint64_t)size > BLOCK_MAX_SIZE) {
        error_set(errp, ERROR_LIMIT, t->shown, "connect",
                  "NBD server '%s': the export's size cannot be", t->shown);
        return false;
    }
    *f = (NbdFacts){
        .size = size,
        .read_only = nbd_is_read_only(h) != 0,
        .flush = nbd_can_flush(h) == 1,
        .fua = nbd_can_fua(h) == 1,
        .trim = nbd_can_trim(h) == 1,
        .zero = nbd_can_zero(h) == 1,
        .fast_zero = nbd_can_fast_zero(h) == 1,
        .cache = nbd_can_cache(h) == 1,
        .context = nbd_can_meta_context(h, t->context) == 1,
        .min_block = block_size(h, LIBNBD_SIZE_MINIMUM),
        .preferred_block = block_size(h, LIBNBD_SIZE_PREFERRED),
        .max_block = block_size(h, LIBNBD_SIZE_MAXIMUM),
    };
    if (!f->min_block) {
        f->min_block = f->size % SECTOR ? 1 : SECTOR; /* it did not say: what all servers can */
    }
    f->max_block = f->max_block ? MIN(f->max_block, MAX_BLOCK) : MAX_BLOCK;
    f->max_block -= f->max_block % f->min_block;
    f->preferred_block = MAX(f->preferred_block, f->min_block);
    if ((f->min_block & (f->min_block - 1)) || f->min_block > MAX_MIN_BLOCK || !f->max_block) {
        error_set(errp, ERROR_CORRUPT, t->shown, "connect",
                  "NBD server '%s': its block sizes cannot be", t->shown);
        return false;
    }
    if (f->size % f->min_block) {
        error_set(errp, ERROR_CORRUPT, t->shown, "connect",
                  "NBD server '%s': export length is not multiple of minimum block size", t->shown);
        return false;
    }
    return true;
}

static void end_tls(NbdTls *tls)
{
    if (tls) {
        nbd_tls_end(tls);
    }
}

NbdSession *coroutine_fn nbd_client_connect(NbdTarget *t, int64_t deadline_ns, Error **errp)
{
    int fd = nbd_client_socket(t, deadline_ns, errp), own;
    struct nbd_handle *h;
    NbdTls *tls = NULL;
    NbdSession *s;
    NbdFacts facts;

    if (fd < 0) {
        return NULL;
    }
    if (t->creds) {
        int plain;

        tls = nbd_tls_start(t, fd, deadline_ns, &plain, errp);
        if (!tls) {
            return NULL;
        }
        fd = plain;
    }
    own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    h = own >= 0 ? make_handle(t, errp) : NULL;
    if (!h) {
        if (own < 0) {
            connect_failed(t, errno, errp);
        } else {
            close(own);
        }
        close(fd);
        end_tls(tls);
        return NULL;
    }
    if (nbd_aio_connect_socket(h, fd) < 0) { /* which consumes fd in any case */
        nbd_error(t, errp);
    } else if (shake_hands(t, h, own, deadline_ns, errp) && get_facts(t, h, &facts, errp)) {
        s = g_new0(NbdSession, 1);
        s->h = h;
        s->fd = own;
        s->facts = facts;
        s->tls = tls;
        atomic_init(&s->refs, 1);
        pthread_mutex_init(&s->lock, NULL);
        co_queue_init(&s->writer);
        return s;
    }
    nbd_close(h);
    close(own);
    end_tls(tls);
    return NULL;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NBD client: TLS.
 *
 * Credentials are objects of ours (util/tls.h), which know more than libnbd lets one set: names that certificates must have, passwords of keys,
 * priorities.  So the beginning of the handshake is done here, up to the end of STARTTLS; then two coroutines carry bytes between the TLS session
 * and one end of a pair of local sockets.  libnbd has the other end and sees a server that greets it in the clear: the server's own greeting is
 * played to it again, and its answer, which the server has had from us, is swallowed.
 *
 * What is said after STARTTLS is said inside TLS: nothing from before it counts.  A server that does not do TLS is refused.
 */
#include "nbd-client.h"
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define GREETING_MAGIC UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define OPTION_MAGIC   UINT64_C(0x49484156454F5054) /* "IHAVEOPT" */
#define REPLY_MAGIC    UINT64_C(0x3e889045565a9)
#define FIXED_NEWSTYLE 1
#define NO_ZEROES      2
#define OPT_STARTTLS   5
#define REP_ACK        1
#define MAX_ERROR_TEXT 4096
#define BUFFER         (64u * 1024)

typedef struct __attribute__((packed)) Greeting {
    uint64_t magic, option_magic;
    uint16_t flags;
} Greeting;

typedef struct __attribute__((packed)) Option {
    uint64_t magic;
    uint32_t option, length;
} Option;

typedef struct __attribute__((packed)) OptionReply {
    uint64_t magic;
    uint32_t option, type, length;
} OptionReply;

struct NbdTls {
    TlsSession *session;
    int fd;    /* the server */
    int inner; /* our end of the pair */
    CoGroup running;
};

static bool failed(const NbdTarget *t, int err, Error **errp)
{
    if (err == 0 || err == ETIMEDOUT) {
        error_set(errp, ERROR_TIMEOUT, t->shown, "connect", "NBD server '%s': no handshake in time",
                  t->shown);
    } else {
        error_set_errno(errp, err, t->shown, "connect", "NBD server '%s'", t->shown);
    }
    return false;
}

static bool coroutine_fn read_all(const NbdTarget *t, int fd, void *buf, size_t len,
                                  int64_t deadline_ns, Error **errp)
{
    size_t done = 0;

    while (done < len) {
        int ret = nbd_client_poll(t, fd, POLLIN, deadline_ns);
        ssize_t n;

        if (ret <= 0) {
            return failed(t, -ret, errp);
        }
        n = recv(fd, (char *)buf + done, len - done, MSG_DONTWAIT);
        if (n == 0) {
            return failed(t, ECONNRESET, errp);
        }
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            return failed(t, errno, errp);
        }
        done += MAX(n, 0);
    }
    return true;
}

/* A few bytes at the beginning of a connection: they fit into the socket. */
static bool coroutine_fn send_few(const NbdTarget *t, int fd, const void *buf, size_t len,
                                  Error **errp)
{
    ssize_t n = send(fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);

    return n == (ssize_t)len || failed(t, n < 0 ? errno : EIO, errp);
}

/* A server says no: why, if it says that too. */
static bool coroutine_fn denied(const NbdTarget *t, int fd, uint32_t len, int64_t deadline_ns,
                                Error **errp)
{
    g_autofree char *text = g_malloc0(MAX_ERROR_TEXT + 1);
    g_autoptr(Error) ignored = NULL;

    if (len > 0 && len <= MAX_ERROR_TEXT && read_all(t, fd, text, len, deadline_ns, &ignored) &&
        g_utf8_validate(text, -1, NULL)) {
        error_set(errp, ERROR_PERMISSION, t->shown, "connect",
                  "Denied by server for option 5 (starttls)");
        error_hint(errp, "server reported: %s", text);
    } else {
        error_set(errp, ERROR_PERMISSION, t->shown, "connect",
                  "Denied by server for option 5 (starttls)");
    }
    return false;
}

/* Up to the point where both sides begin to speak TLS. */
static bool coroutine_fn ask_for_tls(const NbdTarget *t, int fd, int64_t deadline_ns, Greeting *g,
                                     Error **errp)
{
    struct __attribute__((packed)) {
        uint32_t flags;
        Option option;
    } ask;
    OptionReply r;

    if (!read_all(t, fd, g, sizeof(*g), deadline_ns, errp)) {
        return false;
    }
    if (be64toh(g->magic) != GREETING_MAGIC || be64toh(g->option_magic) != OPTION_MAGIC ||
        !(be16toh(g->flags) & FIXED_NEWSTYLE)) {
        error_set(errp, ERROR_UNSUPPORTED, t->shown, "connect",
                  "NBD server '%s' does not offer TLS", t->shown);
        return false;
    }
    ask.flags = htobe32(FIXED_NEWSTYLE | (be16toh(g->flags) & NO_ZEROES));
    ask.option = (Option){htobe64(OPTION_MAGIC), htobe32(OPT_STARTTLS), 0};
    if (!send_few(t, fd, &ask, sizeof(ask), errp) ||
        !read_all(t, fd, &r, sizeof(r), deadline_ns, errp)) {
        return false;
    }
    if (be64toh(r.magic) != REPLY_MAGIC || be32toh(r.option) != OPT_STARTTLS) {
        return failed(t, EPROTO, errp);
    }
    if (be32toh(r.type) != REP_ACK) {
        return denied(t, fd, be32toh(r.length), deadline_ns, errp);
    }
    return r.length == 0 || failed(t, EPROTO, errp);
}

static TlsSession *coroutine_fn begin(const NbdTarget *t, int fd, int64_t deadline_ns, Error **errp)
{
    TlsSession *s = tls_session_new(t->creds, t->tls_hostname, fd, errp);
    int ret;

    while (s && (ret = tls_handshake(s, errp)) < 0) {
        if (ret == -EAGAIN) {
            ret = nbd_client_poll(t, fd, tls_wants(s), deadline_ns);
            if (ret > 0) {
                continue;
            }
            failed(t, -ret, errp);
        }
        g_clear_pointer(&s, tls_session_free);
    }
    return s;
}

/* ---- carrying ---- */

/* Whatever ends one way ends the other. */
static void cut(NbdTls *tls)
{
    shutdown(tls->inner, SHUT_RDWR);
    shutdown(tls->fd, SHUT_RDWR);
}

static bool coroutine_fn send_tls(NbdTls *tls, const uint8_t *buf, size_t len)
{
    while (len > 0) {
        ssize_t n = tls_send(tls->session, buf, len);

        if (n == -EAGAIN) {
            if (co_poll(tls->fd, tls_wants(tls->session), -1) < 0) {
                return false;
            }
        } else if (n <= 0) {
            return false;
        } else {
            buf += n;
            len -= n;
        }
    }
    return true;
}

/* What libnbd says, but for the first words. */
static void coroutine_fn outwards(void *opaque)
{
    NbdTls *tls = opaque;
    g_autofree uint8_t *buf = g_malloc(BUFFER);
    size_t swallow = sizeof(uint32_t);

    for (;;) {
        ssize_t n = co_recv(tls->inner, buf, BUFFER);
        size_t skip;

        if (n <= 0) {
            break;
        }
        skip = MIN((size_t)n, swallow);
        swallow -= skip;
        if (!send_tls(tls, buf + skip, n - skip)) {
            break;
        }
    }
    tls_bye(tls->session);
    cut(tls);
    co_group_done(&tls->running);
}

static void coroutine_fn inwards(void *opaque)
{
    NbdTls *tls = opaque;
    g_autofree uint8_t *buf = g_malloc(BUFFER);

    for (;;) {
        ssize_t n = tls_recv(tls->session, buf, BUFFER);
        struct iovec iov = {buf, MAX(n, 0)};

        if (n == -EAGAIN) {
            if (co_poll(tls->fd, tls_wants(tls->session), -1) < 0) {
                break;
            }
        } else if (n <= 0 || co_send_all(tls->inner, &iov, 1) < 0) {
            break;
        }
    }
    cut(tls);
    co_group_done(&tls->running);
}

NbdTls *coroutine_fn nbd_tls_start(const NbdTarget *t, int fd, int64_t deadline_ns, int *ret_fd,
                                   Error **errp)
{
    int pair[2] = {-1, -1};
    TlsSession *session;
    Greeting g;
    NbdTls *tls;

    if (!ask_for_tls(t, fd, deadline_ns, &g, errp) ||
        !(session = begin(t, fd, deadline_ns, errp))) {
        close(fd);
        return NULL;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0 ||
        !send_few(t, pair[0], &g, sizeof(g), errp)) {
        if (pair[0] < 0) {
            failed(t, errno, errp);
        } else {
            close(pair[0]);
            close(pair[1]);
        }
        tls_session_free(session);
        close(fd);
        return NULL;
    }
    tls = g_new0(NbdTls, 1);
    tls->session = session;
    tls->fd = fd;
    tls->inner = pair[0];
    co_group_init(&tls->running);
    co_group_add(&tls->running, 2);
    co_start(outwards, tls);
    co_start(inwards, tls);
    *ret_fd = pair[1];
    return tls;
}

void coroutine_fn nbd_tls_end(NbdTls *tls)
{
    cut(tls);
    co_group_wait(&tls->running);
    co_group_destroy(&tls->running);
    tls_session_free(tls->session);
    close(tls->inner);
    close(tls->fd);
    g_free(tls);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The bytes of an NBD connection: plain, or through TLS.
 *
 * A TLS session is used by the reader's and the writer's coroutine, which are on one thread; calls into it never suspend, so they do
 * not meet.  When one would block, its coroutine waits for the descriptor and tries again.
 */
#include "block/authz.h"
#include "nbd-internal.h"
#include "util/log.h"
#include <errno.h>
#include <poll.h>

static int coroutine_fn wait_ready(NbdConn *c, short events)
{
    int ret = co_poll(c->fd, events, -1);

    return ret < 0 ? ret : 0;
}

ssize_t coroutine_fn nbd_recv(NbdConn *c, void *buf, size_t len)
{
    ssize_t n;
    int ret;

    if (!c->tls) {
        return co_recv(c->fd, buf, len);
    }
    while ((n = tls_recv(c->tls, buf, len)) == -EAGAIN) {
        ret = wait_ready(c, tls_wants(c->tls));
        if (ret < 0) {
            return ret;
        }
    }
    return n;
}

int coroutine_fn nbd_read(NbdConn *c, void *buf, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = nbd_recv(c, (char *)buf + done, len - done);

        if (n <= 0) {
            return n < 0 ? n : -ECONNRESET;
        }
        done += n;
    }
    return 0;
}

int coroutine_fn nbd_send_all(NbdConn *c, struct iovec *iov, int niov)
{
    if (!c->tls) {
        return co_send_all(c->fd, iov, niov);
    }
    for (int i = 0; i < niov; i++) {
        size_t done = 0;

        while (done < iov[i].iov_len) {
            ssize_t n = tls_send(c->tls, (char *)iov[i].iov_base + done, iov[i].iov_len - done);
            int ret = n == -EAGAIN ? wait_ready(c, POLLOUT) : n < 0 ? n : 0;

            if (ret < 0) {
                return ret;
            }
            done += n > 0 ? n : 0;
        }
    }
    return 0;
}

bool coroutine_fn nbd_start_tls(NbdConn *c)
{
    g_autoptr(Error) err = NULL;
    int ret = -EPROTO;

    c->tls = tls_session_new(c->creds, NULL, c->fd, &err);
    if (c->tls) {
        while ((ret = tls_handshake(c->tls, &err)) == -EAGAIN) {
            ret = wait_ready(c, tls_wants(c->tls));
            if (ret < 0) {
                break;
            }
        }
    }
    if (ret == 0 && c->authz) {
        const char *peer = tls_peer(c->tls);

        ret = authz_permits(c->authz, peer ? peer : "", &err) ? 0 : -EACCES;
    }
    if (ret < 0) {
        log_warn_limited("NBD client %s: %s: disconnected", c->peer,
                         err ? err->message : g_strerror(-ret));
    }
    return ret == 0;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A session: one front end, from its connection to its end.
 *
 * Messages are handled one after the other.  When the connection ends, for whatever reason, queues are stopped (requests that run are
 * finished and answered), the disk is flushed, and everything that the front end gave us is let go.
 */
#include "util/log.h"
#include "vub-internal.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the socket ---- */

static void collect_fds(VubMessage *m, struct msghdr *msg)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t n;
        int fd;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (m->nfds < VUB_MAX_FDS) {
                m->fds[m->nfds++] = fd;
            } else {
                close(fd);
            }
        }
    }
}

static void close_fds(VubMessage *m)
{
    for (unsigned i = 0; i < m->nfds; i++) {
        if (m->fds[i] >= 0) {
            close(m->fds[i]);
        }
    }
    m->nfds = 0;
    if (m->reply_fd >= 0) {
        close(m->reply_fd);
        m->reply_fd = -1;
    }
}

/* Exactly len bytes, with the descriptors that come along.  0 or a negative errno; -ECONNRESET: the end. */
static int coroutine_fn receive(int fd, VubMessage *m, void *buf, size_t len)
{
    uint8_t *to = buf;

    while (len > 0) {
        union {
            char space[CMSG_SPACE(VUB_MAX_FDS * sizeof(int))];
            struct cmsghdr align;
        } control;
        struct iovec iov = {.iov_base = to, .iov_len = len};
        struct msghdr msg = {
            .msg_iov = &iov,
            .msg_iovlen = 1,
            .msg_control = &control,
            .msg_controllen = sizeof(control),
        };
        ssize_t got = co_recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);

        if (got < 0) {
            return got;
        }
        collect_fds(m, &msg);
        if (got == 0) {
            return -ECONNRESET;
        }
        to += got;
        len -= got;
    }
    return 0;
}

static int coroutine_fn send_message(int fd, VubMessage *m)
{
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    uint8_t flat[sizeof(m->head) + VUB_MAX_PAYLOAD];
    struct iovec iov = {.iov_base = flat, .iov_len = sizeof(m->head) + m->head.size};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t sent;

    memcpy(flat, &m->head, sizeof(m->head));
    memcpy(flat + sizeof(m->head), m->raw, m->head.size);
    if (m->reply_fd >= 0) {
        struct cmsghdr *c = &control.align;

        msg.msg_control = &control;
        msg.msg_controllen = sizeof(control);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &m->reply_fd, sizeof(int));
    }
    sent = co_sendmsg(fd, &msg, MSG_NOSIGNAL);
    if (sent < 0) {
        return sent;
    }
    /* The rest of what the socket had no room for. */
    iov.iov_base = flat + sent;
    iov.iov_len -= sent;
    return iov.iov_len > 0 ? co_send_all(fd, &iov, 1) : 0;
}

/* ---- messages ---- */

static bool check_header(const VubHeader *h, Error **errp)
{
    if ((h->flags & VUB_VERSION_MASK) != VUB_VERSION || (h->flags & VUB_REPLY)) {
        error_set(errp, ERROR_INVALID, NULL, "vhost-user", "a message of another version");
        return false;
    }
    if (h->size > VUB_MAX_PAYLOAD) {
        error_set(errp, ERROR_LIMIT, NULL, "vhost-user", "a message is too long");
        return false;
    }
    return true;
}

/* False: the session is over, by an error if *errp is set. */
static bool coroutine_fn one_message(VubSession *s, VubMessage *m, Error **errp)
{
    bool reply, wanted, ok;

    if (receive(s->fd, m, &m->head, sizeof(m->head)) < 0) {
        return false;
    }
    if (!check_header(&m->head, errp) || receive(s->fd, m, m->raw, m->head.size) < 0) {
        return false;
    }
    wanted = (m->head.flags & VUB_NEED_REPLY) && (s->protocol_features & VUB_PROTOCOL_REPLY_ACK);
    ok = vub_message_run(s, m, &reply, errp);
    if (!reply && wanted) {
        m->u64 = ok ? 0 : 1;
        m->head.size = sizeof(m->u64);
        reply = true;
    } else {
        reply &= ok;
    }
    if (reply) {
        m->head.flags = VUB_VERSION | VUB_REPLY;
        if (send_message(s->fd, m) < 0) {
            return false;
        }
    }
    return ok;
}

/* ---- the end ---- */

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

static void coroutine_fn session_end(VubSession *s)
{
    VubExport *e = s->exp;
    Request r;
    int ret;

    for (unsigned i = 0; i < e->num_queues; i++) {
        VubQueue *q = &e->queues[i];

        vub_queue_stop(q, NULL);
        close_fd(&q->kick_fd);
        close_fd(&q->call_fd);
        close_fd(&q->err_fd);
        q->num = q->base = 0;
        q->has_addr = q->enabled = false;
    }
    if (e->base.writable) {
        request_begin(&r, REQUEST_FLUSH);
        ret = vub_kept_flush(s, &r);
        request_end(&r);
        if (ret < 0) {
            log_warn_limited("export '%s': flush at the end of a connection failed: %s", e->base.id,
                             g_strerror(-ret));
        }
    }
    pthread_mutex_lock(&e->lock);
    close_fd(&e->backend_fd);
    pthread_mutex_unlock(&e->lock);
    g_clear_pointer(&s->mem, vub_memory_unref);
    g_clear_pointer(&s->log, vub_log_free);
    g_clear_pointer(&s->inflight, vub_inflight_free);
}

void coroutine_fn vub_session_run(VubSession *s)
{
    g_autoptr(Error) err = NULL;
    bool more = true;

    s->mem = vub_memory_new();
    atomic_store(&s->wce, !s->exp->base.writethrough);
    while (more) {
        VubMessage m = {.reply_fd = -1};

        more = one_message(s, &m, &err);
        close_fds(&m);
    }
    if (err) {
        log_warn_limited("export '%s': %s: disconnected", s->exp->base.id, err->message);
    }
    session_end(s);
    /* Not before everything is answered: the front end looks at the rings then. */
    shutdown(s->fd, SHUT_RDWR);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sockets on any loop: try at once, wait only when the call would block.
 */
#include "loop-internal.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>

/* After a call that said -err: true if it shall be repeated; else *ret is what to return. */
static bool coroutine_fn again(int fd, int err, short events, ssize_t *ret)
{
    if (err == EINTR) {
        return true;
    }
    if (err != EAGAIN && err != EWOULDBLOCK) {
        *ret = -err;
        return false;
    }
    *ret = co_poll(fd, events, -1);
    return *ret >= 0;
}

ssize_t coroutine_fn co_recvmsg(int fd, struct msghdr *msg, int flags)
{
    struct msghdr asked = *msg;
    ssize_t ret;

    do {
        *msg = asked; /* the call changes lengths */
        ret = recvmsg(fd, msg, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    } while (ret < 0 && again(fd, errno, POLLIN, &ret));
    return ret;
}

ssize_t coroutine_fn co_recv(int fd, void *buf, size_t len)
{
    const LoopOps *ops = loop_current()->ops;
    ssize_t ret;

    for (;;) {
        ret = recv(fd, buf, len, MSG_DONTWAIT);
        if (ret >= 0) {
            return ret;
        }
        if (ops->recv && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            ret = ops->recv(fd, buf, len);
            if (ret != -EAGAIN && ret != -EINTR) {
                return ret;
            }
        } else if (!again(fd, errno, POLLIN, &ret)) {
            return ret;
        }
    }
}

ssize_t coroutine_fn co_sendmsg(int fd, const struct msghdr *msg, int flags)
{
    ssize_t ret;

    do {
        ret = sendmsg(fd, msg, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (ret < 0 && again(fd, errno, POLLOUT, &ret));
    return ret;
}

int coroutine_fn co_send_all(int fd, struct iovec *iov, int niov)
{
    while (niov > 0) {
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = MIN(niov, IOV_MAX)};
        ssize_t n;

        if (iov->iov_len == 0) {
            iov++;
            niov--;
            continue;
        }
        n = co_sendmsg(fd, &msg, 0);
        if (n < 0) {
            return n;
        }
        while (niov > 0 && (size_t)n >= iov->iov_len) {
            n -= iov->iov_len;
            iov++;
            niov--;
        }
        if (niov > 0) {
            iov->iov_base = (char *)iov->iov_base + n;
            iov->iov_len -= n;
        }
    }
    return 0;
}

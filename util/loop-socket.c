/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sockets on any loop: try at once, wait for readiness only when the call would block.
 */
#include "loop-internal.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>

ssize_t coroutine_fn co_recvmsg(int fd, struct msghdr *msg, int flags)
{
    for (;;) {
        ssize_t n = recvmsg(fd, msg, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        int ret;

        if (n >= 0) {
            return n;
        }
        if (errno == EINTR) {
            continue;
        }
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
            return -errno;
        }
        ret = co_poll(fd, POLLIN, -1);
        if (ret < 0) {
            return ret;
        }
    }
}

ssize_t coroutine_fn co_recv(int fd, void *buf, size_t len)
{
    struct iovec iov = {.iov_base = buf, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    return co_recvmsg(fd, &msg, 0);
}

ssize_t coroutine_fn co_sendmsg(int fd, const struct msghdr *msg, int flags)
{
    for (;;) {
        ssize_t n = sendmsg(fd, msg, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
        int ret;

        if (n >= 0) {
            return n;
        }
        if (errno == EINTR) {
            continue;
        }
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
            return -errno;
        }
        ret = co_poll(fd, POLLOUT, -1);
        if (ret < 0) {
            return ret;
        }
    }
}

int coroutine_fn co_send_all(int fd, struct iovec *iov, int niov)
{
    while (niov > 0) {
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = MIN(niov, IOV_MAX)};
        ssize_t n = co_sendmsg(fd, &msg, 0);

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

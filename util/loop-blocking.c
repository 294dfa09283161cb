/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Storage calls carried out by worker threads: for loops without io_uring.  The control loop uses its own pool, so that what commands do
 * never takes a thread from guests.
 *
 * A small read of what is cached is done at once: to hand it over costs many times what it takes.  The kernel is told not to wait; what
 * it would have to wait for goes to a worker.
 */
#include "loop-internal.h"
#include "util/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

typedef struct BlockingCall {
    enum { CALL_READ, CALL_WRITE, CALL_FSYNC, CALL_FDATASYNC, CALL_FALLOCATE, CALL_FTRUNCATE } op;
    int fd, niov, mode;
    const struct iovec *iov;
    off_t offset, len;
    ssize_t ret;
} BlockingCall;

static int blocking_call(void *opaque)
{
    BlockingCall *c = opaque;
    ssize_t ret = -1;

    switch (c->op) {
    case CALL_READ:
        ret = preadv(c->fd, c->iov, c->niov, c->offset);
        break;
    case CALL_WRITE:
        ret = pwritev(c->fd, c->iov, c->niov, c->offset);
        break;
    case CALL_FSYNC:
        ret = fsync(c->fd);
        break;
    case CALL_FDATASYNC:
        ret = fdatasync(c->fd);
        break;
    case CALL_FALLOCATE:
        ret = fallocate(c->fd, c->mode, c->offset, c->len);
        break;
    case CALL_FTRUNCATE:
        ret = ftruncate(c->fd, c->len);
        break;
    }
    c->ret = ret < 0 ? -errno : ret;
    return 0;
}

static ssize_t coroutine_fn run(BlockingCall *c)
{
    worker_run(loop_current() == loop_control() ? WORKERS_CONTROL : WORKERS_GUEST, blocking_call,
               c);
    return c->ret;
}

#define INLINE_BYTES 65536u
#define INLINE_READS 32u /* of a thread, in a row, before others get their turn */

/* True: *ret_ret is what blocking_preadv() returns. */
static bool coroutine_fn read_cached(int fd, const struct iovec *iov, int niov, off_t offset,
                                     ssize_t *ret_ret)
{
    static __thread unsigned reads;
    size_t size = 0;
    ssize_t ret;
    int flags;

    for (int i = 0; i < niov; i++) {
        size += iov[i].iov_len;
    }
    /* Direct I/O waits for the storage whatever it is told. */
    if (size > INLINE_BYTES || (flags = fcntl(fd, F_GETFL)) < 0 || (flags & O_DIRECT)) {
        return false;
    }
    ret = preadv2(fd, iov, niov, offset, RWF_NOWAIT);
    if (ret < 0 || (size_t)ret != size) {
        return false; /* less: the rest is not cached, or there is none */
    }
    if (++reads % INLINE_READS == 0) {
        co_reschedule();
    }
    *ret_ret = ret;
    return true;
}

ssize_t coroutine_fn blocking_preadv(int fd, const struct iovec *iov, int niov, off_t offset)
{
    BlockingCall c = {.op = CALL_READ, .fd = fd, .iov = iov, .niov = niov, .offset = offset};
    ssize_t ret;

    if (read_cached(fd, iov, niov, offset, &ret)) {
        return ret;
    }
    return run(&c);
}

ssize_t coroutine_fn blocking_pwritev(int fd, const struct iovec *iov, int niov, off_t offset)
{
    BlockingCall c = {.op = CALL_WRITE, .fd = fd, .iov = iov, .niov = niov, .offset = offset};

    return run(&c);
}

int coroutine_fn blocking_fsync(int fd, bool data_only)
{
    BlockingCall c = {.op = data_only ? CALL_FDATASYNC : CALL_FSYNC, .fd = fd};

    return run(&c);
}

int coroutine_fn blocking_fallocate(int fd, int mode, off_t offset, off_t len)
{
    BlockingCall c = {.op = CALL_FALLOCATE, .fd = fd, .mode = mode, .offset = offset, .len = len};

    return run(&c);
}

int coroutine_fn blocking_ftruncate(int fd, off_t len)
{
    BlockingCall c = {.op = CALL_FTRUNCATE, .fd = fd, .len = len};

    return run(&c);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Storage calls carried out by worker threads: for loops without io_uring.  The control loop uses its own pool, so that what commands do
 * never takes a thread from guests.
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

ssize_t coroutine_fn blocking_preadv(int fd, const struct iovec *iov, int niov, off_t offset)
{
    BlockingCall c = {.op = CALL_READ, .fd = fd, .iov = iov, .niov = niov, .offset = offset};

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

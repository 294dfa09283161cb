/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * I/O loop on io_uring.
 *
 * A call fills a submission entry and yields; entries of a whole turn go to the kernel with the one io_uring_enter(2) that also
 * waits for completions.  When the submission queue is full, what is in it is submitted first.  The completion queue is larger than
 * the submission queue, and the kernel keeps what overflows.
 *
 * user_data points to the Op on the waiting coroutine's stack; two values mean nobody waits: the kick and cancellations.
 *
 * The ring belongs to one thread, which says so to kernels that make use of it (SINGLE_ISSUER, DEFER_TASKRUN); older
 * kernels get a plain ring.
 */
#include "loop-internal.h"
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SQ_ENTRIES 256
#define CQ_ENTRIES 4096

typedef struct Op {
    Coroutine *co;
    int res;
} Op;

typedef struct UringLoop {
    struct io_uring ring;
    int kick_fd;
    eventfd_t kick_value;
    bool kick_armed;
} UringLoop;

#define USER_KICK   ((uint64_t)1)
#define USER_NOBODY ((uint64_t)2)

static int ring_init(struct io_uring *ring)
{
    static const unsigned flags[] = {
#if defined(IORING_SETUP_SINGLE_ISSUER) && defined(IORING_SETUP_DEFER_TASKRUN)
        IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
#endif
        IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
    };
    int ret = -EINVAL;

    for (unsigned i = 0; i < G_N_ELEMENTS(flags) && ret == -EINVAL; i++) {
        struct io_uring_params p = {.flags = flags[i], .cq_entries = CQ_ENTRIES};

        ret = io_uring_queue_init_params(SQ_ENTRIES, ring, &p);
    }
    return ret;
}

static bool uring_init(Loop *l, Error **errp)
{
    UringLoop *u = g_new0(UringLoop, 1);
    int ret = ring_init(&u->ring);

    if (ret < 0) {
        error_set_errno(errp, -ret, NULL, "iothread", "io_uring is not available");
        g_free(u);
        return false;
    }
    u->kick_fd = eventfd(0, EFD_CLOEXEC);
    if (u->kick_fd < 0) {
        error_set_errno(errp, errno, NULL, "iothread", "Could not create an event descriptor");
        io_uring_queue_exit(&u->ring);
        g_free(u);
        return false;
    }
    l->impl = u;
    return true;
}

static void uring_cleanup(Loop *l)
{
    UringLoop *u = l->impl;

    io_uring_queue_exit(&u->ring);
    close(u->kick_fd);
    g_free(u);
}

static void uring_kick(Loop *l)
{
    eventfd_write(((UringLoop *)l->impl)->kick_fd, 1);
}

static UringLoop *self(void)
{
    return loop_current()->impl;
}

static struct io_uring_sqe *get_sqe(UringLoop *u)
{
    struct io_uring_sqe *sqe;

    while (!(sqe = io_uring_get_sqe(&u->ring))) {
        io_uring_submit(&u->ring);
    }
    return sqe;
}

static void complete(UringLoop *u, struct io_uring_cqe *cqe)
{
    Op *op;

    switch (cqe->user_data) {
    case USER_KICK:
        u->kick_armed = false;
        break;
    case USER_NOBODY:
        break;
    default:
        op = io_uring_cqe_get_data(cqe);
        op->res = cqe->res;
        co_wake(op->co);
        break;
    }
}

static void uring_wait(Loop *l, int64_t timeout_ns)
{
    UringLoop *u = l->impl;
    struct __kernel_timespec ts = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;

    if (!u->kick_armed) {
        struct io_uring_sqe *sqe = get_sqe(u);

        io_uring_prep_read(sqe, u->kick_fd, &u->kick_value, sizeof(u->kick_value), 0);
        sqe->user_data = USER_KICK;
        u->kick_armed = true;
    }
    if (timeout_ns == 0) {
        io_uring_submit_and_get_events(&u->ring);
    } else {
        io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, timeout_ns < 0 ? NULL : &ts, NULL);
    }
    io_uring_for_each_cqe(&u->ring, head, cqe) {
        complete(u, cqe);
        n++;
    }
    io_uring_cq_advance(&u->ring, n);
}

static int coroutine_fn run(struct io_uring_sqe *sqe, Op *op)
{
    op->co = co_self();
    io_uring_sqe_set_data(sqe, op);
    co_yield();
    return op->res;
}

static ssize_t coroutine_fn uring_preadv(int fd, const struct iovec *iov, int niov, off_t offset)
{
    struct io_uring_sqe *sqe = get_sqe(self());
    Op op;

    if (niov == 1) {
        io_uring_prep_read(sqe, fd, iov->iov_base, iov->iov_len, offset);
    } else {
        io_uring_prep_readv(sqe, fd, iov, niov, offset);
    }
    return run(sqe, &op);
}

static ssize_t coroutine_fn uring_pwritev(int fd, const struct iovec *iov, int niov, off_t offset)
{
    struct io_uring_sqe *sqe = get_sqe(self());
    Op op;

    if (niov == 1) {
        io_uring_prep_write(sqe, fd, iov->iov_base, iov->iov_len, offset);
    } else {
        io_uring_prep_writev(sqe, fd, iov, niov, offset);
    }
    return run(sqe, &op);
}

static int coroutine_fn uring_fsync(int fd, bool data_only)
{
    struct io_uring_sqe *sqe = get_sqe(self());
    Op op;

    io_uring_prep_fsync(sqe, fd, data_only ? IORING_FSYNC_DATASYNC : 0);
    return run(sqe, &op);
}

static int coroutine_fn uring_fallocate(int fd, int mode, off_t offset, off_t len)
{
    struct io_uring_sqe *sqe = get_sqe(self());
    Op op;

    io_uring_prep_fallocate(sqe, fd, mode, offset, len);
    return run(sqe, &op);
}

static int coroutine_fn uring_poll(int fd, short events, int64_t timeout_ns)
{
    UringLoop *u = self();
    struct __kernel_timespec ts = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    struct io_uring_sqe *sqe;
    Op op;
    int ret;

    if (timeout_ns >= 0 && io_uring_sq_space_left(&u->ring) < 2) {
        io_uring_submit(&u->ring); /* linked entries must go together */
    }
    sqe = get_sqe(u);
    io_uring_prep_poll_add(sqe, fd, events);
    if (timeout_ns >= 0) {
        struct io_uring_sqe *limit;

        sqe->flags |= IOSQE_IO_LINK;
        limit = get_sqe(u);
        io_uring_prep_link_timeout(limit, &ts, 0);
        limit->user_data = USER_NOBODY;
    }
    ret = run(sqe, &op);
    return ret == -ECANCELED ? 0 : ret;
}

const LoopOps loop_ops_uring = {
    .backend = LOOP_IO_URING,
    .init = uring_init,
    .cleanup = uring_cleanup,
    .kick = uring_kick,
    .wait = uring_wait,
    .preadv = uring_preadv,
    .pwritev = uring_pwritev,
    .fsync = uring_fsync,
    .fallocate = uring_fallocate,
    .ftruncate = blocking_ftruncate, /* io_uring got it only lately, and it is rare */
    .poll = uring_poll,
};

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * I/O loop on io_uring.
 *
 * A call fills a submission entry and yields; the entries of a whole turn go to the kernel with the one
 * io_uring_enter(2) that also waits for completions.  user_data points to the Op on the waiting
 * coroutine's stack; a few small values mean that nobody waits.
 *
 * Full queues.  When the submission queue is full it is submitted at once.  The kernel keeps completions
 * that do not fit into their queue and delivers them with the next enter; until then it may refuse
 * submissions, so who finds no room takes completions and lets the loop go on.
 *
 * Kicks.  A multishot poll on an eventfd: a kick costs its sender one write and us no call at all.  The
 * counter is never read, since every write is an event of its own.
 *
 * Kernels.  The ring belongs to one thread and says so where that helps (SINGLE_ISSUER, DEFER_TASKRUN;
 * COOP_TASKRUN before); kernels from 5.7 on get what they know.  CUTPOINT_URING_COMPAT makes a new
 * kernel look old, for tests.
 */
#include "loop-internal.h"
#include "util/log.h"
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SQ_ENTRIES   256u
#define CQ_ENTRIES   4096u
#define MAX_TRANSFER 0x7ffff000u /* what read(2) and write(2) do at most */
/* Threads for calls that block in the kernel.  The default is a few per processor: as many slow syncs
 * would keep all other disks waiting (T4). */
#define IOWQ_THREADS  128u
#define NO_ROOM_NS    INT64_C(1000000)
#define LOOK_AGAIN_NS INT64_C(1000000)

enum {
    USER_NOBODY = 1,
    USER_KICK = 2,
};

typedef struct Op {
    Coroutine *co;
    int res;
} Op;

typedef struct UringLoop {
    struct io_uring ring;
    int kick_fd;
    bool kick_armed;
    bool multishot;     /* this kernel's poll can be */
    bool poll_first;    /* this kernel's receive can be told not to try first */
    unsigned in_flight; /* entries that have not completed, but the kick's */
} UringLoop;

static UringLoop *self(void)
{
    return loop_current()->impl;
}

/* ---- the ring ---- */

static bool compat(void)
{
    return g_getenv("CUTPOINT_URING_COMPAT");
}

static int ring_create(UringLoop *u)
{
    static const unsigned flags[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL, /* 6.1 */
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_SUBMIT_ALL, /* 5.19 */
        0,
    };
    unsigned i = compat() ? G_N_ELEMENTS(flags) - 1 : 0;
    unsigned cq = CQ_ENTRIES;

    for (;;) {
        struct io_uring_params p = {.flags = flags[i] | IORING_SETUP_CQSIZE, .cq_entries = cq};
        int ret = io_uring_queue_init_params(SQ_ENTRIES, &u->ring, &p);

        if (ret == 0) {
            u->multishot = u->poll_first = i == 0;
            return 0;
        }
        if (ret == -EINVAL && i + 1 < G_N_ELEMENTS(flags)) {
            i++;
        } else if (ret == -ENOMEM && cq > SQ_ENTRIES) {
            cq /= 2; /* old kernels count rings as locked memory */
        } else {
            return ret;
        }
    }
}

static bool ring_suffices(struct io_uring *ring)
{
    static const int needed[] = {IORING_OP_READ,     IORING_OP_WRITE,        IORING_OP_READV,
                                 IORING_OP_WRITEV,   IORING_OP_FSYNC,        IORING_OP_FALLOCATE,
                                 IORING_OP_POLL_ADD, IORING_OP_LINK_TIMEOUT, IORING_OP_RECV};
    unsigned features = IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_FAST_POLL;
    struct io_uring_probe *probe;
    bool ok = (ring->features & features) == features;

    if (!ok || !(probe = io_uring_get_probe_ring(ring))) {
        return false;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(needed); i++) {
        ok = ok && io_uring_opcode_supported(probe, needed[i]);
    }
    io_uring_free_probe(probe);
    return ok;
}

static bool uring_init(Loop *l, Error **errp)
{
    unsigned threads[2] = {IOWQ_THREADS, 0};
    UringLoop *u = g_new0(UringLoop, 1);
    int ret = ring_create(u);

    if (ret < 0) {
        error_set_errno(errp, -ret, NULL, "iothread", "io_uring is not available");
        g_free(u);
        return false;
    }
    if (!ring_suffices(&u->ring)) {
        error_set(errp, ERROR_UNSUPPORTED, NULL, "iothread",
                  "io_uring is not available: the kernel's is too old");
        goto fail;
    }
    u->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (u->kick_fd < 0) {
        error_set_errno(errp, errno, NULL, "iothread", "Could not create an event descriptor");
        goto fail;
    }
    if (compat()) {
        u->ring.features &= ~IORING_FEAT_EXT_ARG;
    } else {
        /* Both only make things better, where the kernel can. */
        io_uring_register_iowq_max_workers(&u->ring, threads);
        io_uring_register_ring_fd(&u->ring);
    }
    l->impl = u;
    return true;

fail:
    io_uring_queue_exit(&u->ring);
    g_free(u);
    return false;
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
    UringLoop *u = l->impl;

    eventfd_write(u->kick_fd, 1);
}

/* ---- completions ---- */

static void kick_arrived(UringLoop *u, const struct io_uring_cqe *cqe)
{
    eventfd_t unused;

    if (cqe->flags & IORING_CQE_F_MORE) {
        return;
    }
    u->kick_armed = false;
    if (u->multishot) {
        u->multishot = cqe->res != -EINVAL;
    } else {
        eventfd_read(u->kick_fd, &unused);
    }
}

static unsigned take_completions(UringLoop *u)
{
    struct io_uring_cqe *cqe;
    unsigned head, n = 0;

    io_uring_for_each_cqe(&u->ring, head, cqe)
    {
        Op *op;

        n++;
        switch (cqe->user_data) {
        case USER_KICK:
            kick_arrived(u, cqe);
            break;
        case USER_NOBODY:
            u->in_flight--;
            break;
        case LIBURING_UDATA_TIMEOUT: /* liburing's own, on old kernels */
            break;
        default:
            op = io_uring_cqe_get_data(cqe);
            op->res = cqe->res;
            u->in_flight--;
            co_wake(op->co);
            break;
        }
    }
    io_uring_cq_advance(&u->ring, n);
    return n;
}

/* ---- submissions ---- */

/* True: there is room for n entries now. */
static bool try_room(UringLoop *u, unsigned n)
{
    if (io_uring_sq_space_left(&u->ring) >= n) {
        return true;
    }
    if (io_uring_submit(&u->ring) == -EBUSY) {
        take_completions(u);
        io_uring_submit(&u->ring);
    }
    return io_uring_sq_space_left(&u->ring) >= n;
}

static void coroutine_fn make_room(UringLoop *u, unsigned n)
{
    unsigned max_batch = atomic_load_explicit(&loop_current()->max_batch, memory_order_relaxed);

    if (max_batch > 0 && io_uring_sq_ready(&u->ring) >= max_batch) {
        io_uring_submit(&u->ring);
    }
    while (!try_room(u, n)) {
        co_reschedule(); /* the loop takes completions meanwhile */
    }
}

static struct io_uring_sqe *coroutine_fn get_sqe(UringLoop *u)
{
    make_room(u, 1);
    return io_uring_get_sqe(&u->ring);
}

static int coroutine_fn run(UringLoop *u, struct io_uring_sqe *sqe)
{
    Op op = {.co = co_self()};

    io_uring_sqe_set_data(sqe, &op);
    u->in_flight++;
    co_yield();
    return op.res;
}

static bool arm_kick(UringLoop *u)
{
    struct io_uring_sqe *sqe;

    if (u->kick_armed) {
        return true;
    }
    if (!try_room(u, 1)) {
        return false;
    }
    sqe = io_uring_get_sqe(&u->ring);
    if (u->multishot) {
        io_uring_prep_poll_multishot(sqe, u->kick_fd, POLLIN);
    } else {
        io_uring_prep_poll_add(sqe, u->kick_fd, POLLIN);
    }
    sqe->user_data = USER_KICK;
    u->kick_armed = true;
    return true;
}

static void uring_wait(Loop *l, int64_t timeout_ns)
{
    UringLoop *u = l->impl;
    struct __kernel_timespec ts;
    struct io_uring_cqe *unused;
    int ret;

    if (!arm_kick(u)) {
        timeout_ns = timeout_ns < 0 ? NO_ROOM_NS : MIN(timeout_ns, NO_ROOM_NS);
    }
    if (timeout_ns < 0) {
        ret = io_uring_submit_and_wait(&u->ring, 1);
    } else if (timeout_ns > 0) {
        ts = (struct __kernel_timespec){timeout_ns / 1000000000, timeout_ns % 1000000000};
        ret = io_uring_submit_and_wait_timeout(&u->ring, &unused, 1, &ts, NULL);
    } else if (u->in_flight > 0 || io_uring_sq_ready(&u->ring) > 0) {
        ret = io_uring_submit_and_get_events(&u->ring);
    } else {
        return;
    }
    switch (ret < 0 ? -ret : 0) {
    case 0:
    case ETIME:
    case EINTR:
    case EBUSY:  /* completions must be taken first */
    case EAGAIN: /* no memory for requests at the moment */
        break;
    default:
        /* The kernel has lost completions, or we broke the ring: requests would hang for ever. */
        g_error("io_uring failed: %s", g_strerror(-ret));
    }
    if (take_completions(u) == 0 && (ret == -EAGAIN || ret == -EBUSY)) {
        usleep(NO_ROOM_NS / 1000);
    }
}

/* ---- storage ---- */

static ssize_t coroutine_fn uring_preadv(int fd, const struct iovec *iov, int niov, off_t offset)
{
    UringLoop *u = self();
    struct io_uring_sqe *sqe = get_sqe(u);
    int ret;

    if (niov == 1) {
        io_uring_prep_read(sqe, fd, iov->iov_base, MIN(iov->iov_len, MAX_TRANSFER), offset);
    } else {
        io_uring_prep_readv(sqe, fd, iov, niov, offset);
    }
    ret = run(u, sqe);
    /* Some files cannot do without waiting and say so instead of being given to a thread. */
    return ret == -EAGAIN ? blocking_preadv(fd, iov, niov, offset) : ret;
}

static ssize_t coroutine_fn uring_pwritev(int fd, const struct iovec *iov, int niov, off_t offset)
{
    UringLoop *u = self();
    struct io_uring_sqe *sqe = get_sqe(u);
    int ret;

    if (niov == 1) {
        io_uring_prep_write(sqe, fd, iov->iov_base, MIN(iov->iov_len, MAX_TRANSFER), offset);
    } else {
        io_uring_prep_writev(sqe, fd, iov, niov, offset);
    }
    ret = run(u, sqe);
    return ret == -EAGAIN ? blocking_pwritev(fd, iov, niov, offset) : ret;
}

static int coroutine_fn uring_fsync(int fd, bool data_only)
{
    UringLoop *u = self();
    struct io_uring_sqe *sqe = get_sqe(u);

    io_uring_prep_fsync(sqe, fd, data_only ? IORING_FSYNC_DATASYNC : 0);
    return run(u, sqe);
}

static int coroutine_fn uring_fallocate(int fd, int mode, off_t offset, off_t len)
{
    UringLoop *u = self();
    struct io_uring_sqe *sqe = get_sqe(u);

    io_uring_prep_fallocate(sqe, fd, mode, offset, len);
    return run(u, sqe);
}

/* ---- readiness ---- */

/* io_uring's poll ends when the peer has shut down its sending side, even if nobody asked for that, and
 * would do so again at once.  The rare waiter for something else looks now and then. */
static int coroutine_fn look_now_and_then(int fd, short events, int64_t deadline)
{
    for (;;) {
        struct pollfd p = {.fd = fd, .events = events};

        if (poll(&p, 1, 0) != 0) {
            return p.revents & POLLNVAL ? -EBADF : p.revents;
        }
        if (clock_ns() >= deadline) {
            return 0;
        }
        co_sleep_ns(LOOK_AGAIN_NS);
    }
}

static int coroutine_fn poll_once(int fd, short events, int64_t timeout_ns)
{
    UringLoop *u = self();
    struct __kernel_timespec ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    struct io_uring_sqe *sqe, *limit;
    int ret;

    make_room(u, 2); /* linked entries must go together */
    sqe = io_uring_get_sqe(&u->ring);
    io_uring_prep_poll_add(sqe, fd, (unsigned short)events);
    if (timeout_ns < 0) {
        return run(u, sqe);
    }
    sqe->flags |= IOSQE_IO_LINK;
    limit = io_uring_get_sqe(&u->ring);
    io_uring_prep_link_timeout(limit, &ts, 0);
    limit->user_data = USER_NOBODY;
    u->in_flight++;
    ret = run(u, sqe);
    return ret == -ECANCELED ? 0 : ret;
}

static int coroutine_fn uring_poll(int fd, short events, int64_t timeout_ns)
{
    int64_t now = timeout_ns < 0 ? 0 : clock_ns();
    int ret = poll_once(fd, events, timeout_ns), wanted;

    if (ret <= 0) {
        return ret;
    }
    wanted = ret & ((unsigned short)events | POLLERR | POLLHUP | POLLNVAL);
    if (wanted) {
        return wanted & POLLNVAL ? -EBADF : wanted;
    }
    return look_now_and_then(
        fd, events, timeout_ns < 0 || timeout_ns > INT64_MAX - now ? INT64_MAX : now + timeout_ns);
}

static ssize_t coroutine_fn uring_recv(int fd, void *buf, size_t len)
{
    UringLoop *u = self();
    struct io_uring_sqe *sqe = get_sqe(u);

    io_uring_prep_recv(sqe, fd, buf, MIN(len, MAX_TRANSFER), 0);
    if (u->poll_first) {
        sqe->ioprio |= IORING_RECVSEND_POLL_FIRST; /* the caller has just tried */
    }
    return run(u, sqe);
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
    .ftruncate = blocking_ftruncate, /* io_uring has it since 6.9 only, and it is rare */
    .poll = uring_poll,
    .recv = uring_recv,
};

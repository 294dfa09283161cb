/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sockets and descriptors on every kind of loop: data arrives whole and in order, waits end by data, by
 * timeout, by shutdown(2) from elsewhere and by the peer's end; two can wait for one descriptor, and very many
 * at once.
 */
#include "util-test.h"
#include "util/co-lock.h"
#include "util/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MS INT64_C(1000000)

static void make_pair(int fds[2])
{
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), ==, 0);
}

static void make_tcp_pair(int fds[2])
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    g_assert_cmpint(getsockname(listener, (struct sockaddr *)&addr, &len), ==, 0);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(connect(fds[0], (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    g_assert_cmpint(fds[1], >=, 0);
    g_assert_cmpint(fcntl(fds[0], F_SETFL, O_NONBLOCK), ==, 0);
    close(listener);
}

static void close_pair(int fds[2])
{
    close(fds[0]);
    close(fds[1]);
}

/* ---- data ---- */

#define STREAM (8u << 20)

typedef struct Stream {
    int fd;
    CoGroup group;
} Stream;

static uint8_t byte_at(size_t i)
{
    return i * 2654435761u >> 24;
}

static void coroutine_fn sender(void *opaque)
{
    Stream *s = opaque;
    g_autofree uint8_t *buf = g_malloc(STREAM);
    size_t sent = 0;

    for (size_t i = 0; i < STREAM; i++) {
        buf[i] = byte_at(i);
    }
    while (sent < STREAM) {
        struct iovec iov[5];

        for (unsigned i = 0; i < G_N_ELEMENTS(iov); i++) {
            size_t len = i == 2 ? 0 : g_test_rand_int_range(0, 300000);

            len = MIN(len, STREAM - sent);
            iov[i] = (struct iovec){buf + sent, len};
            sent += len;
        }
        g_assert_cmpint(co_send_all(s->fd, iov, G_N_ELEMENTS(iov)), ==, 0);
    }
    shutdown(s->fd, SHUT_WR);
    co_group_done(&s->group);
}

static void coroutine_fn receive_stream(int fd, bool use_msg)
{
    g_autofree uint8_t *buf = g_malloc(70000);
    size_t received = 0;

    for (;;) {
        size_t len = g_test_rand_int_range(1, 70000);
        struct iovec iov = {buf, len};
        struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
        ssize_t n = use_msg ? co_recvmsg(fd, &msg, 0) : co_recv(fd, buf, len);

        g_assert_cmpint(n, >=, 0);
        if (n == 0) {
            break;
        }
        for (ssize_t i = 0; i < n; i++) {
            if (buf[i] != byte_at(received + i)) {
                g_error("byte %zu differs", received + i);
            }
        }
        received += n;
    }
    g_assert_cmpuint(received, ==, STREAM);
}

static void coroutine_fn stream_both_ways(int fds[2])
{
    for (unsigned i = 0; i < 2; i++) {
        Stream s = {.fd = fds[i]};

        co_group_init(&s.group);
        co_group_add(&s.group, 1);
        co_start(sender, &s);
        receive_stream(fds[!i], i);
        co_group_wait(&s.group);
        co_group_destroy(&s.group);
    }
    close_pair(fds);
}

static void coroutine_fn test_stream(void *opaque)
{
    int fds[2];

    (void)opaque;
    make_pair(fds);
    stream_both_ways(fds);
    make_tcp_pair(fds);
    stream_both_ways(fds);
}

static void coroutine_fn test_passed_descriptor(void *opaque)
{
    int fds[2], pipes[2], passed;
    char byte = 'x';
    struct iovec iov = {&byte, 1};
    union {
        char buf[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.buf,
        .msg_controllen = sizeof(control.buf),
    };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    (void)opaque;
    make_pair(fds);
    g_assert_cmpint(pipe2(pipes, O_CLOEXEC), ==, 0);
    *c = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(c), &pipes[1], sizeof(int));
    g_assert_cmpint(co_sendmsg(fds[0], &msg, 0), ==, 1);
    memset(&control, 0, sizeof(control));
    g_assert_cmpint(co_recvmsg(fds[1], &msg, 0), ==, 1);
    c = CMSG_FIRSTHDR(&msg);
    g_assert_nonnull(c);
    memcpy(&passed, CMSG_DATA(c), sizeof(int));
    g_assert_cmpint(fcntl(passed, F_GETFD), ==, FD_CLOEXEC);
    g_assert_cmpint(write(passed, "y", 1), ==, 1);
    g_assert_cmpint(read(pipes[0], &byte, 1), ==, 1);
    close(passed);
    close_pair(pipes);
    close_pair(fds);
}

/* ---- ends of waits ---- */

static int shut_soon(void *opaque)
{
    g_usleep(10000);
    shutdown(GPOINTER_TO_INT(opaque), SHUT_RDWR);
    return 0;
}

static void coroutine_fn fill_buffer(int fd)
{
    g_autofree char *junk = g_malloc0(65536);

    while (send(fd, junk, 65536, MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
    }
    g_assert_cmpint(errno, ==, EAGAIN);
}

static void coroutine_fn ends_of_waits(void (*make)(int fds[2]))
{
    char buf[10];
    struct iovec iov = {buf, 10};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    int fds[2], ret;

    /* Our own shutdown, from another thread: each call that can wait. */
    make(fds);
    worker_submit(WORKERS_CONTROL, shut_soon, NULL, GINT_TO_POINTER(fds[0]));
    g_assert_cmpint(co_recv(fds[0], buf, 10), ==, 0);
    close_pair(fds);

    make(fds);
    worker_submit(WORKERS_CONTROL, shut_soon, NULL, GINT_TO_POINTER(fds[0]));
    g_assert_cmpint(co_recvmsg(fds[0], &msg, 0), ==, 0);
    close_pair(fds);

    make(fds);
    worker_submit(WORKERS_CONTROL, shut_soon, NULL, GINT_TO_POINTER(fds[0]));
    ret = co_poll(fds[0], POLLIN, -1);
    g_assert_cmpint(ret & POLLIN, ==, POLLIN);
    close_pair(fds);

    /* Errors and hang-ups end every wait, whatever it is for. */
    make(fds);
    worker_submit(WORKERS_CONTROL, shut_soon, NULL, GINT_TO_POINTER(fds[0]));
    ret = co_poll(fds[0], POLLPRI, -1);
    g_assert_cmpint(ret, ==, POLLHUP);
    close_pair(fds);

    make(fds);
    fill_buffer(fds[0]);
    worker_submit(WORKERS_CONTROL, shut_soon, NULL, GINT_TO_POINTER(fds[0]));
    g_assert_cmpint(co_sendmsg(fds[0], &msg, 0), ==, -EPIPE);
    g_assert_cmpint(co_send_all(fds[0], &iov, 1), ==, -EPIPE);
    close_pair(fds);

    /* The peer's end. */
    make(fds);
    close(fds[1]);
    g_assert_cmpint(co_recv(fds[0], buf, 10), ==, 0);
    close(fds[0]);

    make(fds);
    fill_buffer(fds[0]);
    close(fds[1]); /* with data that it has not read */
    ret = co_recv(fds[0], buf, 10);
    g_assert(ret == 0 || ret == -ECONNRESET);
    ret = co_sendmsg(fds[0], &msg, 0);
    g_assert(ret == -EPIPE || ret == -ECONNRESET);
    close(fds[0]);
}

static void coroutine_fn test_ends(void *opaque)
{
    (void)opaque;
    ends_of_waits(make_pair);
    ends_of_waits(make_tcp_pair);
}

typedef struct HalfClosed {
    int fd;
    bool sent;
} HalfClosed;

static void coroutine_fn sends_one(void *opaque)
{
    HalfClosed *h = opaque;
    char byte = 'x';
    struct iovec iov = {&byte, 1};

    g_assert_cmpint(co_send_all(h->fd, &iov, 1), ==, 0);
    h->sent = true;
}

/* A peer that sends no more but still reads, slowly: we wait for it, without being busy meanwhile. */
static void coroutine_fn half_closed(void (*make)(int fds[2]))
{
    g_autofree char *sink = g_malloc(65536);
    struct timespec before, after;
    HalfClosed h = {0};
    int fds[2];

    make(fds);
    shutdown(fds[1], SHUT_WR);
    fill_buffer(fds[0]);
    h.fd = fds[0];
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    co_start(sends_one, &h);
    g_assert_cmpint(co_poll(fds[0], POLLOUT, 50 * MS), ==, 0);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    g_assert_cmpint((after.tv_sec - before.tv_sec) * 1000 * MS + after.tv_nsec - before.tv_nsec, <,
                    20 * MS);
    g_assert(!h.sent);
    while (!h.sent) {
        g_assert_cmpint(co_poll(fds[1], POLLIN, -1), >, 0);
        while (read(fds[1], sink, 65536) > 0) {
        }
        co_reschedule();
    }
    g_assert_cmpint(co_recv(fds[0], sink, 1), ==, 0);
    close_pair(fds);
}

static void coroutine_fn test_half_closed(void *opaque)
{
    (void)opaque;
    half_closed(make_pair);
    half_closed(make_tcp_pair);
}

static void coroutine_fn test_timeout(void *opaque)
{
    int64_t start = clock_ns();
    int fds[2];

    (void)opaque;
    make_pair(fds);
    g_assert_cmpint(co_poll(fds[0], POLLIN, 20 * MS), ==, 0);
    g_assert_cmpint(clock_ns() - start, >=, 20 * MS);
    g_assert_cmpint(clock_ns() - start, <, 2000 * MS);
    g_assert_cmpint(co_poll(fds[0], POLLIN, 0), ==, 0);
    g_assert_cmpint(co_poll(fds[0], POLLOUT, 0), ==, POLLOUT);
    g_assert_cmpint(co_poll(fds[0], POLLOUT, 1000000 * MS), ==, POLLOUT);
    g_assert_cmpint(co_poll(fds[0], POLLOUT, INT64_MAX), ==, POLLOUT);
    g_assert_cmpint(write(fds[1], "x", 1), ==, 1);
    g_assert_cmpint(co_poll(fds[0], POLLIN | POLLOUT, -1), ==, POLLIN | POLLOUT);
    /* A wait that timed out left nothing behind. */
    close(fds[1]);
    g_assert_cmpint(co_poll(fds[0], POLLIN, -1) & POLLIN, ==, POLLIN);
    close(fds[0]);
    for (unsigned i = 0; i < 300; i++) {
        make_pair(fds); /* mostly the same numbers again */
        g_assert_cmpint(co_poll(fds[0], POLLIN, i % 3 * MS / 10), ==, 0);
        close_pair(fds);
    }
}

static void coroutine_fn test_regular_file(void *opaque)
{
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

    (void)opaque;
    g_assert_cmpint(co_poll(fd, POLLIN, -1), ==, POLLIN);
    close(fd);
}

/* ---- two waiters of one descriptor ---- */

typedef struct Wait {
    int fd;
    short events;
    int64_t timeout;
    int ret;
    CoGroup *group;
} Wait;

static void coroutine_fn waits(void *opaque)
{
    Wait *w = opaque;

    w->ret = co_poll(w->fd, w->events, w->timeout);
    co_group_done(w->group);
}

static void coroutine_fn test_two_waiters(void *opaque)
{
    g_autofree char *sink = g_malloc(65536);
    CoGroup group;
    int fds[2];

    (void)opaque;
    co_group_init(&group);
    make_pair(fds);
    fill_buffer(fds[0]);
    Wait in = {fds[0], POLLIN, -1, -1, &group}, out = {fds[0], POLLOUT, -1, -1, &group};
    Wait short_in = {fds[0], POLLIN, 2 * MS, -1, &group};

    co_group_add(&group, 3);
    co_start(waits, &in);
    co_start(waits, &out);
    co_start(waits, &short_in);
    co_wait_until(short_in.ret != -1);
    g_assert_cmpint(short_in.ret, ==, 0);
    g_assert_cmpint(in.ret, ==, -1);
    g_assert_cmpint(out.ret, ==, -1);
    while (read(fds[1], sink, 65536) > 0) {
    }
    co_wait_until(out.ret != -1);
    g_assert_cmpint(out.ret & POLLOUT, ==, POLLOUT);
    co_sleep_ns(MS);
    g_assert_cmpint(in.ret, ==, -1);
    g_assert_cmpint(write(fds[1], "x", 1), ==, 1);
    co_group_wait(&group);
    g_assert_cmpint(in.ret & POLLIN, ==, POLLIN);
    close_pair(fds);
    co_group_destroy(&group);
}

/* More completions at one moment than the completion queue holds. */
#define CROWD UTIL_TEST_AMOUNT(20000u, 10000u, 1000u)

static int wake_it(void *opaque)
{
    co_wake(opaque);
    return 0;
}

static void coroutine_fn test_crowd(void *opaque)
{
    g_autofree Wait *w = g_new(Wait, CROWD);
    CoGroup group;
    int fds[2];

    if (loop_current() == loop_control()) {
        return; /* GLib looks at every descriptor in turn, and such numbers are not for it */
    }
    (void)opaque;
    co_group_init(&group);
    co_group_add(&group, CROWD);
    make_pair(fds);
    for (unsigned i = 0; i < CROWD; i++) {
        w[i] = (Wait){fds[0], POLLIN, i % 16 == 0 ? 100000 * MS : -1, 0, &group};
        co_start(waits, &w[i]);
    }
    co_sleep_ns(10 * MS);
    g_assert_cmpint(write(fds[1], "x", 1), ==, 1);
    /* A wake-up from elsewhere amid all that, and others after it. */
    worker_submit(WORKERS_CONTROL, wake_it, NULL, co_self());
    g_usleep(2000);
    co_yield();
    co_group_wait(&group);
    for (unsigned i = 0; i < 10; i++) {
        co_sleep_ns(MS / 10);
        worker_submit(WORKERS_CONTROL, wake_it, NULL, co_self());
        co_yield();
    }
    for (unsigned i = 0; i < CROWD; i++) {
        g_assert_cmpint(w[i].ret & POLLIN, ==, POLLIN);
    }
    close_pair(fds);
    co_group_destroy(&group);
}

int main(int argc, char **argv)
{
    util_test_init(&argc, &argv);
    util_test_add_loops("/loop-socket/stream", test_stream);
    util_test_add_loops("/loop-socket/passed-descriptor", test_passed_descriptor);
    util_test_add_loops("/loop-socket/ends-of-waits", test_ends);
    util_test_add_loops("/loop-socket/half-closed", test_half_closed);
    util_test_add_loops("/loop-socket/timeout", test_timeout);
    util_test_add_loops("/loop-socket/regular-file", test_regular_file);
    util_test_add_loops("/loop-socket/two-waiters", test_two_waiters);
    util_test_add_loops("/loop-socket/crowd", test_crowd);
    return g_test_run();
}

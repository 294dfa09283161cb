/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver `file`: what a job's thread writes into a file that others write to.
 */
#include "block/contention.h"
#include "node-test.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB UINT64_C(1048576)

typedef struct Beside {
    Edge *edge;
    IOThread *jobs;
    CoGroup guest, job;
    _Atomic bool stop;
    _Atomic uint64_t writes; /* the guest's */
    bool contended;
    int64_t took; /* ns */
} Beside;

static uint8_t data[MIB];

static int coroutine_fn write_at(Edge *e, uint64_t offset, size_t len)
{
    Request r;
    int ret;

    request_begin(&r, REQUEST_WRITE);
    ret = edge_pwrite(e, &r, guest(offset), data, len, 0);
    request_end(&r);
    return ret;
}

static void coroutine_fn guest_writes(void *opaque)
{
    Beside *b = opaque;

    while (!atomic_load(&b->stop)) {
        g_assert_cmpint(write_at(b->edge, atomic_load(&b->writes) % 16 * 4096, 4096), ==, 0);
        atomic_fetch_add(&b->writes, 1);
        co_sleep_ns(1000000);
    }
    co_group_done(&b->guest);
}

static void coroutine_fn job_writes(void *opaque)
{
    Beside *b = opaque;
    int64_t began = clock_ns();
    Request r;

    request_begin(&r, REQUEST_READ);
    b->contended = edge_is_contended(b->edge, &r);
    request_end(&r);
    g_assert_cmpint(write_at(b->edge, MIB, sizeof(data)), ==, 0);
    b->took = clock_ns() - began;
    co_group_done(&b->job);
}

/* The whole of `data`, at MIB, from a loop that works in the background. */
static void coroutine_fn job_write(Beside *b)
{
    co_group_init(&b->job);
    co_group_add(&b->job, 1);
    co_spawn(iothread_loop(b->jobs), job_writes, b);
    co_group_wait(&b->job);
    co_group_destroy(&b->job);
}

static void coroutine_fn expect_data(Edge *e)
{
    for (unsigned i = 0; i < MIB / 4096; i++) {
        test_expect(e, MIB + i * 4096, data[i * 4096], 4096);
    }
}

static void fill(unsigned seed)
{
    for (unsigned i = 0; i < MIB / 4096; i++) {
        memset(data + i * 4096, (int)(i + seed) % 251, 4096);
    }
}

static void coroutine_fn test_beside(void)
{
    const char *image = node_test_file("image");
    int fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    Beside b = {.jobs = iothread_new("background", NULL)};
    Node *n;

    g_assert_nonnull(b.jobs);
    loop_set_background(iothread_loop(b.jobs));
    g_assert_cmpint(ftruncate(fd, 2 * MIB), ==, 0);
    close(fd);
    n = node_test_open("{'driver': 'raw', 'file': {'driver': 'file', 'filename': '%s'}}", image);
    b.edge = node_test_attach(n, PERM_CONSISTENT_READ | PERM_WRITE, PERM_ALL);
    node_test_use(TEST_THREAD_1);

    /* Alone: what jobs write themselves does not make them stop. */
    for (unsigned i = 0; i < 2; i++) {
        fill(i);
        job_write(&b);
        g_assert_false(b.contended);
    }
    expect_data(b.edge);
    /* Beside a guest: in pieces, with rests. */
    co_group_init(&b.guest);
    co_group_add(&b.guest, 1);
    co_spawn(test_loop(TEST_THREAD_0), guest_writes, &b);
    while (atomic_load(&b.writes) < 3) {
        co_sleep_ns(1000000);
    }
    fill(100);
    job_write(&b);
    atomic_store(&b.stop, true);
    co_group_wait(&b.guest);
    co_group_destroy(&b.guest);
    g_assert_true(b.contended);
    g_assert_cmpint(b.took, >=, (int64_t)(MIB / CONTENDED_PIECE - 1) * CONTENDED_REST_MIN);
    expect_data(b.edge);
    /* He has gone: alone again.  What he wrote last is found once. */
    job_write(&b);
    co_sleep_ns(20000000);
    job_write(&b);
    g_assert_false(b.contended);

    edge_detach(b.edge);
    node_unref(n);
    node_wait_all_closed();
    iothread_free(b.jobs);
}

int main(int argc, char **argv)
{
    int ret;

    node_test_init();
    g_test_init(&argc, &argv, NULL);
    node_test_add("/file/beside-guests", test_beside);
    ret = g_test_run();
    node_test_end();
    return ret;
}

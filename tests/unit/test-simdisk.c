/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver `simdisk`: nodes on simulated disks.  The model has its own tests
 * (test-sim-machine.c).
 *
 * The test that counts is the last one: writers on two I/O threads, power failures at every
 * operation, and the promise that what a completed flush covered is there.
 */
#include "block/simdisk.h"
#include "node-test.h"
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static SimMachine *m;

static Node *coroutine_fn open_disk(const char *name, const char *more)
{
    return node_test_open("{'driver': 'simdisk', 'node-name': '%s'%s}", name, more);
}

static void coroutine_fn close_disk(Node *n, Edge *e)
{
    edge_detach(e);
    node_unref(n);
    node_wait_all_closed();
}

static void coroutine_fn requests(void)
{
    uint64_t len;
    Node *n;
    Edge *e;

    simmachine_reset(m);
    n = open_disk("d", ", 'size': 100000, 'discard': 'unmap'");
    e = node_test_attach(n, PERM_ALL, PERM_ALL);
    g_assert_cmpint(atomic_load(&n->size), ==, 100352);
    g_assert_cmpstr(n->filename, ==, "simdisk:d");
    g_assert_cmpint(test_fill(e, 10, 'x', 20000), ==, 0); /* in whole sectors below */
    test_expect(e, 0, 0, 10);
    test_expect(e, 10, 'x', 20000);
    test_expect(e, 20010, 0, 1000);
    g_assert_cmphex(test_status(e, 0, 100352, &len, NULL), ==,
                    STATUS_DATA | STATUS_ALLOCATED | STATUS_OFFSET_VALID);
    g_assert_cmpint(len, ==, 20480);
    g_assert_cmphex(test_status(e, 20480, 100352, &len, NULL), ==,
                    STATUS_ZERO | STATUS_ALLOCATED | STATUS_OFFSET_VALID | STATUS_EOF);
    g_assert_cmpint(test_zero(e, 512, 512, 0), ==, 0);
    g_assert_cmpint(test_discard(e, 2048, 512), ==, 0);
    test_expect(e, 512, 0, 512);
    test_expect(e, 2048, 0, 512);
    g_assert_cmpint(test_flush(e), ==, 0);
    g_assert_cmpint(test_truncate(e, 1000), ==, 0);
    g_assert_cmpint(atomic_load(&n->size), ==, 1024);
    g_assert_cmpint(test_truncate(e, SIM_SIZE_MAX + 1), ==, -EFBIG);
    close_disk(n, e);

    /* The disk outlives its node. */
    n = open_disk("d", "");
    g_assert_cmpint(atomic_load(&n->size), ==, 1024);
    e = node_test_attach(n, PERM_ALL, PERM_ALL);
    test_expect(e, 10, 'x', 500);
    close_disk(n, e);
}

static void coroutine_fn test_requests(void)
{
    node_test_on_each_loop(requests);
}

static void coroutine_fn test_faults(void)
{
    const char *log = node_test_file("log");
    g_autofree char *text = NULL;
    uint8_t buf[512];
    Node *n;
    Edge *e;

    simmachine_reset(m);
    n = node_test_open("{'driver': 'simdisk', 'node-name': 'd', 'log': '%s', 'fail-after': 2, "
                       "'fail-errno': 28, 'stop-after': 4}",
                       log);
    g_assert_cmpint(atomic_load(&n->size), ==, 64 << 20);
    e = node_test_attach(n, PERM_ALL, PERM_ALL);
    g_assert_cmpint(test_fill(e, 0, 'a', 512), ==, 0);
    g_assert_cmpint(test_fill(e, 0, 'b', 512), ==, -ENOSPC);
    g_assert_cmpint(test_fill(e, 0, 'c', 512), ==, 0);
    g_assert_cmpint(test_flush(e), ==, 0);
    g_assert_true(simmachine_stopped(m));
    g_assert_cmpint(test_fill(e, 0, 'd', 512), ==, -EIO);
    g_assert_cmpint(test_read(e, 0, buf, 512), ==, -EIO);
    g_assert_cmpint(test_flush(e), ==, -EIO);
    close_disk(n, e);
    g_assert_true(g_file_get_contents(log, &text, NULL, NULL));
    g_assert_cmpstr(text, ==,
                    "1 d write 0 512 1 2 0\n2 d write 0 512 3 4 -28\n3 d write 0 512 5 6 0\n4 d "
                    "flush 0 0 7 8 0\n");
    simmachine_reset(m);

    node_test_refused("Parameter 'fail-errno' expects an errno value",
                      "{'driver': 'simdisk', 'fail-errno': -5}");
    node_test_refused("Parameter 'size' expects a number of bytes from 0 to 1099511627776",
                      "{'driver': 'simdisk', 'size': -1}");
    node_test_refused("Could not open '/nowhere/log': No such file or directory",
                      "{'driver': 'simdisk', 'log': '/nowhere/log'}");
    node_test_refused("Could not load a simulated disk from '/proc': Invalid argument",
                      "{'driver': 'simdisk', 'filename': '/proc'}");
    n = node_test_open("{'driver': 'simdisk', 'filename': '%s'}", log);
    {
        g_autofree char *busy = g_strdup_printf("Simulated disk '%s' has another node", log);

        node_test_refused(busy, "{'driver': 'simdisk', 'filename': '%s'}", log);
    }
    node_unref(n);
    node_wait_all_closed();
    simmachine_reset(m);
}

/* Content comes from a file and goes back to it. */
static void coroutine_fn test_files(void)
{
    const char *file = node_test_file("disk");
    g_autofree char *data = g_strnfill(5000, 'f'), *back = NULL, *crashed = NULL;
    gsize len;
    Node *n;
    Edge *e;

    simmachine_reset(m);
    g_assert_true(g_file_set_contents(file, data, 5000, NULL));
    n = node_test_open("{'driver': 'simdisk', 'filename': '%s'}", file);
    e = node_test_attach(n, PERM_ALL, PERM_ALL);
    g_assert_cmpint(atomic_load(&n->size), ==, 5120);
    test_expect(e, 0, 'f', 5000);
    test_expect(e, 5000, 0, 120);
    g_assert_cmpint(test_fill(e, 1024, 'g', 512), ==, 0);
    close_disk(n, e);
    g_assert_true(g_file_get_contents(file, &back, &len, NULL));
    g_assert_cmpint(len, ==, 5120);
    g_assert_cmpint(back[1023], ==, 'f');
    g_assert_cmpint(back[1024], ==, 'g');

    /* After a power failure: what the failure left. */
    n = node_test_open("{'driver': 'simdisk', 'filename': '%s'}", file);
    e = node_test_attach(n, PERM_ALL, PERM_ALL);
    g_assert_cmpint(test_flush(e), ==, 0);
    g_assert_cmpint(test_fill(e, 2048, 'h', 512), ==, 0);
    simmachine_stop_now(m);
    close_disk(n, e);
    g_assert_true(g_file_get_contents(file, &crashed, &len, NULL));
    g_assert_cmpint(len, ==, 5120);
    g_assert_cmpint(crashed[1024], ==, 'g');
    g_assert_cmpint(crashed[2048], ==, 'f');
    simmachine_reset(m);
}

/* ---- power failures under load ---- */

#define WRITERS 4
#define ROUNDS  12

typedef struct Writer {
    Edge *edge;
    unsigned number;
    struct {
        uint64_t
            acknowledged; /* time at which the flush after this round's write was over; 0: was not */
    } rounds[ROUNDS];
    CoGroup *group;
} Writer;

/* Writes its number of the round over and over to its own eight sectors, a flush after each. */
static void coroutine_fn write_on(void *opaque)
{
    Writer *w = opaque;
    uint8_t buf[4096];

    for (unsigned i = 0; i < ROUNDS; i++) {
        Request r;
        int ret;

        memset(buf, 1 + i, sizeof(buf));
        request_begin(&r, REQUEST_WRITE);
        ret = edge_pwrite(w->edge, &r, guest(w->number * 4096), buf, sizeof(buf), 0);
        request_end(&r);
        g_assert_cmpint(ret, ==, 0);
        request_begin(&r, REQUEST_FLUSH);
        ret = edge_flush(w->edge, &r);
        request_end(&r);
        g_assert_cmpint(ret, ==, 0);
        w->rounds[i].acknowledged = simmachine_time(m);
    }
    co_group_done(w->group);
}

static void judge(const Writer *writers, uint64_t t, uint64_t seed, bool *ret_lost, bool *ret_torn)
{
    const char *file = node_test_file("rebuilt");
    g_autofree char *data = NULL;
    g_autoptr(Error) err = NULL;
    gsize len;

    g_assert_true(simmachine_rebuild(m, t, seed, "d", file, &err));
    g_assert_true(g_file_get_contents(file, &data, &len, NULL));
    g_assert_cmpint(len, ==, WRITERS * 4096);
    for (unsigned i = 0; i < WRITERS; i++) {
        const Writer *w = &writers[i];
        unsigned promised = 0;

        while (promised < ROUNDS && w->rounds[promised].acknowledged <= t) {
            promised++;
        }
        for (unsigned s = 0; s < 4096; s += SIM_SECTOR) {
            unsigned have = (uint8_t)data[w->number * 4096 + s];

            /* What was promised, or the one write after it. */
            g_assert_cmpint(have, >=, promised);
            g_assert_cmpint(have, <=, promised + 1);
            *ret_lost |= have == promised && promised < ROUNDS;
            *ret_torn |= have != (uint8_t)data[w->number * 4096];
        }
    }
}

static void coroutine_fn test_power_failures(void)
{
    g_autoptr(Error) err = NULL;
    IOThread *threads[2] = {iothread_new("a", &err), iothread_new("b", &err)};
    Writer writers[WRITERS] = {0};
    bool lost = false, torn = false;
    CoGroup group;
    Node *n;
    Edge *e;

    simmachine_reset(m);
    simmachine_set_latency(m, 200000, 1);
    n = open_disk("d", ", 'size': 16384");
    e = node_test_attach(n, PERM_ALL, PERM_ALL);
    co_group_init(&group);
    co_group_add(&group, WRITERS);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i].edge = e;
        writers[i].number = i;
        writers[i].group = &group;
        co_spawn(iothread_loop(threads[i & 1]), write_on, &writers[i]);
    }
    co_group_wait(&group);
    co_group_destroy(&group);
    for (uint64_t t = 0; t <= simmachine_time(m); t++) {
        for (uint64_t seed = 0; seed < 8; seed++) {
            judge(writers, t, seed * 1000 + seed + t * 8, &lost, &torn);
        }
    }
    g_assert_true(lost && torn); /* it is not that nothing ever goes wrong */
    close_disk(n, e);
    iothread_free(threads[0]);
    iothread_free(threads[1]);
    simmachine_reset(m);
}

int main(int argc, char **argv)
{
    int ret;

    node_test_init();
    g_test_init(&argc, &argv, NULL);
    m = simmachine_default();
    node_test_add("/simdisk/requests", test_requests);
    node_test_add("/simdisk/faults", test_faults);
    node_test_add("/simdisk/files", test_files);
    node_test_add("/simdisk/power-failures", test_power_failures);
    ret = g_test_run();
    node_test_end();
    return ret;
}

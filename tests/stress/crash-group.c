/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Power failures during a group snapshot under load.
 *
 * Three qcow2 disks and their overlays lie on simulated disks of one machine, which remembers every operation.  Dependent writers on two
 * I/O threads write records and flush; meanwhile one transaction puts the overlays on.  Afterwards, for operation k = 1, 2, 3, ...
 * (in CI every some, from a random start; STRESS_LONG=1: all) it is rebuilt what a power failure right after k could leave: unflushed
 * writes lost, reordered, torn.  Each time:
 *
 *   - qemu-img check finds every base and every overlay whole (leaks are permitted);
 *   - every record that a writer had flushed is there, read through overlay and base.
 *
 * And at the end: the bases form one consistent cut.
 */
#include "block/simdisk.h"
#include "block/transaction.h"
#include "tests/unit/node-test.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DISKS   3
#define WRITERS 4
#define SLOTS   8           /* places of a writer on each disk */
#define SLOT    (20u << 10) /* bytes between places: several share a cluster, some cross one */
#define DISK    (4u << 20)
#define RECORDS 4000 /* at most; they end some time after the transaction */
#define AFTER   40

typedef struct Writer {
    unsigned id;
    Edge **edges;
    CoGroup *group;
    _Atomic unsigned written;
    _Atomic bool *committed;
    /* flushes: all records before `record` were durable when the machine's time was `time` */
    struct {
        unsigned record;
        uint64_t time;
    } flushes[RECORDS];
    unsigned nflushes;
} Writer;

static uint64_t place(unsigned writer, unsigned record)
{
    return (writer * SLOTS + record / DISKS % SLOTS) * (uint64_t)SLOT;
}

static void coroutine_fn flush_all(Writer *w, unsigned records)
{
    for (unsigned i = 0; i < DISKS; i++) {
        Request r;

        request_begin(&r, REQUEST_FLUSH);
        g_assert_cmpint(edge_flush(w->edges[i], &r), ==, 0);
        request_end(&r);
    }
    w->flushes[w->nflushes].record = records;
    w->flushes[w->nflushes++].time = simmachine_time(simmachine_default());
}

static void coroutine_fn writer_main(void *opaque)
{
    Writer *w = opaque;

    unsigned end = RECORDS;

    for (unsigned i = 0; i < end; i++) {
        uint32_t sector[2 * SIM_SECTOR / 4];
        Request r;

        for (unsigned k = 0; k < G_N_ELEMENTS(sector); k++) {
            sector[k] = i + 1;
        }
        request_begin(&r, REQUEST_WRITE);
        g_assert_cmpint(
            edge_pwrite(w->edges[i % DISKS], &r, guest(place(w->id, i)), sector, sizeof(sector), 0),
            ==, 0);
        request_end(&r);
        atomic_store(&w->written, i + 1);
        if (i % 13 == 12) {
            flush_all(w, i + 1);
        }
        if (end == RECORDS && atomic_load(w->committed)) {
            end = MIN(i + AFTER, RECORDS);
        }
        co_reschedule();
    }
    co_group_done(w->group);
}

static void coroutine_fn make_image(const char *file)
{
    g_autoptr(Error) err = NULL;
    CreateSpec spec = {.size = DISK, .cluster_size = 16384};
    Node *n = node_test_open("{'driver': 'simdisk', 'node-name': '%s', 'size': 65536}", file);
    Edge *e = node_test_attach(n, PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE, PERM_ALL);

    g_assert_true(driver_qcow2.create(e, &spec, &err));
    edge_detach(e);
    n->monitor_owned = true; /* stays: the format node refers to it */
}

/* Record numbers (1...) at every place of a disk as read through the chain; the images lie in the test's directory. */
static uint32_t *read_disk(unsigned disk, bool base_only)
{
    g_autofree char *base = g_strdup(node_test_file("base")),
                    *over = g_strdup(node_test_file("over"));
    g_autofree char *raw = g_strdup(node_test_file("raw"));
    g_autofree char *image =
        base_only
            ? g_strdup_printf("json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\","
                              "\"filename\":\"%s%u\"}}",
                              base, disk)
            : g_strdup_printf(
                  "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"%s%u\"},"
                  "\"backing\":{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"%"
                  "s%u\"}}}",
                  over, disk, base, disk);
    const char *argv[] = {"qemu-img", "convert", "-O", "raw", image, raw, NULL};
    uint32_t *records = g_new0(uint32_t, WRITERS * SLOTS);
    g_autofree char *data = NULL, *err = NULL;
    gsize len;

    if (test_spawn(argv, &err) != 0) {
        g_error("%s", err);
    }
    g_assert_true(g_file_get_contents(raw, &data, &len, NULL));
    g_assert_cmpuint(len, ==, DISK);
    for (unsigned i = 0; i < WRITERS * SLOTS; i++) {
        memcpy(&records[i], data + i * (uint64_t)SLOT, 4);
    }
    return records;
}

/* The newest record below `limit` that belongs on this place of this disk, plus 1; 0: none. */
static uint32_t newest(unsigned disk, unsigned slot, unsigned limit)
{
    uint32_t found = 0;

    for (unsigned i = disk; i < limit; i += DISKS) {
        found = i / DISKS % SLOTS == slot ? i + 1 : found;
    }
    return found;
}

static void check_image(const char *kind, unsigned disk, uint64_t k)
{
    g_autofree char *path = g_strdup_printf("%s%u", node_test_file(kind), disk), *err = NULL;
    g_autofree char *image = g_strdup_printf("json:{\"driver\":\"qcow2\",\"backing\":null,\"file\":"
                                             "{\"driver\":\"file\",\"filename\":\"%s\"}}",
                                             path);
    const char *argv[] = {"qemu-img", "check", "-q", image, NULL};
    int status = test_spawn(argv, &err);

    if (status != 0 && status != 3) { /* 3: leaks */
        g_error("after operation %" G_GUINT64_FORMAT ": qemu-img check of %s%u: status %d: %s", k,
                kind, disk, status, err);
    }
}

static void check_crash(Writer *writers, uint64_t k, uint64_t seed)
{
    SimMachine *m = simmachine_default();
    uint64_t t = simmachine_time_of(m, k);

    for (unsigned d = 0; d < DISKS; d++) {
        static const char *const kinds[] = {"base", "over"};
        g_autofree uint32_t *have = NULL;

        for (unsigned j = 0; j < 2; j++) {
            g_autofree char *name = g_strdup_printf("%s%u", kinds[j], d);
            g_autofree char *path = g_strdup(node_test_file(name));
            g_autoptr(Error) err = NULL;

            g_assert_true(simmachine_rebuild(m, t, seed + d * 2 + j, name, path, &err));
            check_image(kinds[j], d, k);
        }
        have = read_disk(d, false);
        for (unsigned w = 0; w < WRITERS; w++) {
            unsigned durable = 0;

            for (unsigned f = 0; f < writers[w].nflushes && writers[w].flushes[f].time <= t; f++) {
                durable = writers[w].flushes[f].record;
            }
            for (unsigned s = 0; s < SLOTS; s++) {
                if (have[w * SLOTS + s] < newest(d, s, durable)) {
                    g_error("after operation %" G_GUINT64_FORMAT " (seed %" G_GUINT64_FORMAT
                            "): disk %u, writer %u, place %u has "
                            "record %u, but %u was flushed",
                            k, seed, d, w, s, have[w * SLOTS + s], newest(d, s, durable));
                }
            }
        }
    }
}

static void check_bases_are_one_cut(Writer *writers)
{
    uint32_t *have[DISKS];

    for (unsigned d = 0; d < DISKS; d++) {
        g_autofree char *name = g_strdup_printf("base%u", d),
                        *path = g_strdup(node_test_file(name));
        g_autoptr(Error) err = NULL;

        g_assert_true(simmachine_save(simmachine_default(), name, path, &err));
        have[d] = read_disk(d, true);
    }
    for (unsigned w = 0; w < WRITERS; w++) {
        uint32_t last = 0;

        for (unsigned d = 0; d < DISKS; d++) {
            for (unsigned s = 0; s < SLOTS; s++) {
                last = MAX(last, have[d][w * SLOTS + s]);
            }
        }
        g_assert_cmpuint(last, <=, writers[w].written);
        for (unsigned d = 0; d < DISKS; d++) {
            for (unsigned s = 0; s < SLOTS; s++) {
                g_assert_cmpuint(have[d][w * SLOTS + s], ==, newest(d, s, last));
            }
        }
    }
    for (unsigned d = 0; d < DISKS; d++) {
        g_free(have[d]);
    }
}

static void coroutine_fn test_crash(void)
{
    static Writer writers[WRITERS];
    bool all = g_getenv("STRESS_LONG");
    uint64_t step = all ? 1 : 23, ops, begun;
    Transaction *t = transaction_new();
    g_autoptr(Error) err = NULL;
    Edge *edges[DISKS];
    Node *bases[DISKS];
    CoGroup group;
    _Atomic bool committed = false;
    SimMachine *m = simmachine_default();

    simmachine_reset(m);
    for (unsigned d = 0; d < DISKS; d++) {
        g_autofree char *base = g_strdup_printf("base%u", d), *over = g_strdup_printf("over%u", d);
        g_autofree char *format = g_strdup_printf("o%u", d), *name = g_strdup_printf("b%u", d);
        Node *o;

        make_image(base);
        make_image(over);
        bases[d] =
            node_test_open("{'driver': 'qcow2', 'node-name': '%s', 'file': '%s'}", name, base);
        o = node_test_open("{'driver': 'qcow2', 'node-name': '%s', 'file': '%s', 'backing': null}",
                           format, over);
        o->monitor_owned = true;
        edges[d] = node_test_attach(bases[d], PERM_CONSISTENT_READ | PERM_WRITE, PERM_ALL);
        transaction_add_snapshot(t, name, format);
    }
    simmachine_set_latency(m, 200000, 1);
    begun = simmachine_ops(m);
    co_group_init(&group);
    co_group_add(&group, WRITERS);
    for (unsigned w = 0; w < WRITERS; w++) {
        writers[w] = (Writer){.id = w, .edges = edges, .group = &group, .committed = &committed};
        co_spawn(test_loop(w % 2 ? TEST_THREAD_1 : TEST_THREAD_0), writer_main, &writers[w]);
    }
    while (writers[0].written < 30) {
        co_sleep_ns(100000);
    }
    g_assert_true(transaction_run(t, &err));
    transaction_free(t);
    atomic_store(&committed, true);
    g_assert_cmpuint(writers[0].written, <, RECORDS); /* the load was still running */
    co_group_wait(&group);
    co_group_destroy(&group);
    ops = simmachine_ops(m);
    g_test_message("%" G_GUINT64_FORMAT " operations under load", ops - begun);
    check_bases_are_one_cut(writers);
    for (uint64_t k = begun + 1 + g_test_rand_int_range(0, step); k <= ops; k += step) {
        check_crash(writers, k, k * 7919);
    }

    for (unsigned d = 0; d < DISKS; d++) {
        g_autofree char *format = g_strdup_printf("o%u", d), *base = g_strdup_printf("base%u", d);
        g_autofree char *over = g_strdup_printf("over%u", d);
        Node *o = node_find(format), *b = node_find(base), *ob = node_find(over);

        edge_detach(edges[d]);
        node_unref(o);
        node_unref(bases[d]);
        node_wait_all_closed();
        node_unref(b);
        node_unref(ob);
    }
    node_wait_all_closed();
}

int main(int argc, char **argv)
{
    int ret;

    node_test_init();
    g_test_init(&argc, &argv, NULL);
    node_test_add("/crash/power-failure-in-a-group-snapshot", test_crash);
    ret = g_test_run();
    node_test_end();
    return ret;
}

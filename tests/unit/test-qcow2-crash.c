/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qcow2 and power failures, and storage that fails.
 *
 * Writers on two I/O threads keep, for every sector of the disk, what was written and when.  Then the power fails, after the fact, at
 * many moments; each time the image must be whole but for leaked clusters, and every sector must have
 * what the last flush made durable or something written later.  And nothing else: no other sector's data, no zeroes that nobody
 * wrote, no old data.
 */
#include "qcow2-story.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

static const char *image, *base;

static void judge(const Story *s, uint64_t t, uint64_t seed)
{
    g_autoptr(Error) err = NULL;
    Model file = {0};
    uint64_t covered;
    int status;

    if (!simmachine_rebuild(s->m, t, seed, "d", image, &err)) {
        g_error("%s", err->message);
    }
    status = shell_status("qemu-img check -q -f qcow2 '%s'", image);
    if (status != 0 && status != 3) { /* 3: leaks */
        shell("cp '%s' /tmp/bad.qcow2; qemu-img check -f qcow2 '%s' | head", image, image);
        g_error("time %" G_GUINT64_FORMAT " seed %" G_GUINT64_FORMAT ": qemu-img check says %d", t,
                seed, status);
    }
    covered = story_covered(s, t);
    model_load(&file, image, "qcow2");
    g_assert_cmpuint(file.size, ==, s->sectors * 512);
    for (uint64_t i = 0; i < s->sectors; i++) {
        if (!story_may_have(s, i, t, covered, file.data + i * 512)) {
            uint64_t v[2];

            memcpy(v, file.data + i * 512, 16);
            g_error("time %" G_GUINT64_FORMAT " seed %" G_GUINT64_FORMAT
                    ": sector %" G_GUINT64_FORMAT " has id %" G_GUINT64_FORMAT
                    " of sector %" G_GUINT64_FORMAT,
                    t, seed, i, v[0], v[1]);
        }
    }
    model_clear(&file);
}

/* ---- images ---- */

typedef struct Shape {
    uint64_t cluster, size;
    bool backing;
    const char *open;
    bool extended_l2;
} Shape;

static Node *coroutine_fn open_disk(void)
{
    return node_test_open("{'driver': 'simdisk', 'node-name': 'd', 'size': 0, 'discard': 'unmap'}");
}

static void coroutine_fn make_image(Story *s, const Shape *shape)
{
    CreateSpec spec = {
        .size = shape->size,
        .cluster_size = shape->cluster,
        .extended_l2 = shape->extended_l2,
        .backing_file = shape->backing ? base : NULL,
        .backing_format = shape->backing ? "raw" : NULL,
    };
    g_autofree uint8_t *data = g_malloc0(shape->size);
    g_autoptr(Error) err = NULL;
    Node *n;
    Edge *e;

    for (uint64_t i = 0; i < s->sectors; i++) {
        uint64_t id = shape->backing && i % 7 ? 1 : 0;

        story_put_sector(data + i * 512, i, id);
        story_write(s, i, id);
        g_array_index(s->writes[i], Write, 0).ended = 1;
    }
    if (shape->backing) {
        g_assert_true(g_file_set_contents(base, (char *)data, shape->size, NULL));
    }
    n = open_disk();
    e = node_test_attach(n, QCOW2_RW, PERM_ALL);
    if (!driver_qcow2.create(e, &spec, &err)) {
        g_error("%s", err->message);
    }
    edge_detach(e);
    node_unref(n);
    node_wait_all_closed();
}

static Node *coroutine_fn open_image(const Shape *shape)
{
    return node_test_open("{'driver': 'qcow2', 'node-name': 'q', 'discard': 'unmap'%s, "
                          "'file': {'driver': 'simdisk', 'node-name': 'd', 'discard': 'unmap'}}",
                          shape->open);
}

static const Shape shapes[] = {
    {65536, 4 << 20, false, "", false},
    {65536, 4 << 20, true, "", false},
    {4096, 2 << 20, true, "", false},
    {512, 1 << 20, true, ", 'l2-cache-size': 4096, 'refcount-cache-size': 1024", false},
    {512, 8 << 20, false, ", 'pass-discard-other': true", false},
    {16384, 2 << 20, true, "", true},
};

static void coroutine_fn power_failures(void)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(5);

    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        const Shape *shape = &shapes[i];
        uint64_t begin, end, mid;
        Story s;
        Node *n;
        Edge *e;

        simmachine_reset(simmachine_default());
        story_init(&s, shape->size);
        s.compresses = shape->cluster < 65536;
        make_image(&s, shape);
        begin = simmachine_time(s.m);
        simmachine_set_latency(s.m, 20000, i);
        n = open_image(shape);
        e = node_test_attach(n, QCOW2_RW, PERM_ALL);
        story_run_writers(&s, e, shape->cluster, 6, 120, i);
        edge_detach(e);
        node_unref(n);
        node_wait_all_closed();
        mid = simmachine_time(s.m);
        simmachine_set_latency(s.m, 0, 0);
        /* Again: what was freed is used. */
        n = open_image(shape);
        e = node_test_attach(n, QCOW2_RW, PERM_ALL);
        story_run_writers(&s, e, shape->cluster, 4, 60, i + 100);
        edge_detach(e);
        node_unref(n);
        node_wait_all_closed();
        end = simmachine_time(s.m);
        g_test_message("shape %u: times %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT
                       " to %" G_GUINT64_FORMAT,
                       i, begin, mid, end);
        for (unsigned k = 0; k < 60; k++) {
            judge(&s, begin + (uint64_t)(g_rand_double(rand) * (end - begin)), g_rand_int(rand));
        }
        judge(&s, end, 1);
        g_assert_cmpint(shell_status("qemu-img check -q -f qcow2 '%s'", image), ==, 0);
        story_clear(&s);
    }
}

/* Power fails after each of the operations that making an image takes: there is none, or it is whole when create() has returned. */
static void coroutine_fn creation(void)
{
    const Shape *shape = &shapes[1];
    Story s;

    simmachine_reset(simmachine_default());
    story_init(&s, shape->size);
    s.compresses = shape->cluster < 65536;
    make_image(&s, shape);
    for (unsigned seed = 0; seed < 20; seed++) {
        judge(&s, simmachine_time(s.m), seed);
    }
    g_assert_cmpuint(simmachine_ops(s.m), <=, 6);
    story_clear(&s);
}

/* The k-th operation fails, for many k: requests may fail then and later, but the image is whole. */
static void coroutine_fn failures(int err, unsigned first, unsigned step, unsigned last)
{
    for (unsigned k = first; k <= last; k += step) {
        const Shape *shape = &shapes[1 + k % 3];
        uint64_t before;
        Story s;
        Node *n;
        Edge *e;

        simmachine_reset(simmachine_default());
        story_init(&s, shape->size);
        s.compresses = shape->cluster < 65536;
        make_image(&s, shape);
        atomic_store(&s.expect_errors, true);
        before = simmachine_ops(s.m);
        n = open_image(shape);
        e = node_test_attach(n, QCOW2_RW, PERM_ALL);
        simmachine_fail(s.m, before + k, err);
        story_run_writers(&s, e, shape->cluster, 4, 40, k);
        edge_detach(e);
        node_unref(n);
        node_wait_all_closed();
        simmachine_fail(s.m, 0, 0);
        judge(&s, simmachine_time(s.m), k);
        story_clear(&s);
    }
}

static void coroutine_fn failures_eio(void)
{
    failures(EIO, 1, 3, 150);
}

static void coroutine_fn failures_enospc(void)
{
    failures(ENOSPC, 2, 7, 150);
}

int main(int argc, char **argv)
{
    int ret;

    node_test_init();
    image = node_test_file("crash.qcow2");
    base = node_test_file("crash-base.raw");
    g_test_init(&argc, &argv, NULL);
    node_test_add("/qcow2/crash/creation", creation);
    node_test_add("/qcow2/crash/power", power_failures);
    node_test_add("/qcow2/crash/eio", failures_eio);
    node_test_add("/qcow2/crash/enospc", failures_enospc);
    ret = g_test_run();
    simmachine_reset(simmachine_default());
    node_test_end();
    return ret;
}

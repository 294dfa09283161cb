/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qcow2 and power failures, and storage that fails.
 *
 * Writers on two I/O threads keep, for every sector of the disk, what was written and when.  Then the power fails, after the fact, at
 * many moments; each time the image must be whole but for leaked clusters, and every sector must have
 * what the last flush made durable or something written later.  And nothing else: no other sector's data, no zeroes that nobody
 * wrote, no old data.
 */
#include "block/simdisk.h"
#include "qcow2-test.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

typedef struct Write {
    uint64_t id;           /* what is in the sector; 0: zeroes */
    uint64_t begun, ended; /* time; 0: not ended */
} Write;

typedef struct Flush {
    uint64_t begun, ended;
} Flush;

typedef struct Story {
    SimMachine *m;
    uint64_t sectors;
    GArray **writes;      /* of Write, a list for each sector, its first contents at first */
    GArray *flushes;      /* of Flush: completed ones */
    pthread_mutex_t lock; /* of flushes */
    _Atomic uint64_t last_id;
    _Atomic bool expect_errors;
} Story;

static const char *image, *base;

static void story_init(Story *s, uint64_t size)
{
    memset(s, 0, sizeof(*s));
    s->m = simmachine_default();
    s->sectors = size / 512;
    s->writes = g_new(GArray *, s->sectors);
    for (uint64_t i = 0; i < s->sectors; i++) {
        s->writes[i] = g_array_new(false, false, sizeof(Write));
    }
    s->flushes = g_array_new(false, false, sizeof(Flush));
    pthread_mutex_init(&s->lock, NULL);
    atomic_store(&s->last_id, 1000);
}

static void story_clear(Story *s)
{
    for (uint64_t i = 0; i < s->sectors; i++) {
        g_array_free(s->writes[i], true);
    }
    g_free(s->writes);
    g_array_free(s->flushes, true);
    pthread_mutex_destroy(&s->lock);
}

static void story_write(Story *s, uint64_t sector, uint64_t id)
{
    Write w = {.id = id, .begun = simmachine_time(s->m)};

    g_array_append_val(s->writes[sector], w);
}

static void story_ended(Story *s, uint64_t sector)
{
    g_array_index(s->writes[sector], Write, s->writes[sector]->len - 1).ended =
        simmachine_time(s->m);
}

/* A sector's contents: its id and number, over and over. */
static void put_sector(uint8_t *p, uint64_t sector, uint64_t id)
{
    for (unsigned i = 0; i < 512; i += 16) {
        uint64_t v[2] = {id, id ? sector : 0};

        memcpy(p + i, v, 16);
    }
}

/* ---- writers ---- */

typedef struct Writer {
    Story *s;
    Edge *edge;
    unsigned id, n;
    unsigned requests;
    uint64_t cluster;
    GRand *rand;
    CoGroup *done;
} Writer;

typedef enum Kind { WRITE, ZERO, UNMAP, DISCARD } Kind;

static int coroutine_fn change(Writer *w, Request *r, Kind kind, uint64_t from, uint64_t count)
{
    uint64_t per_cluster = w->cluster / 512;
    g_autofree uint8_t *buf = g_malloc(count * 512);
    uint64_t id = kind == WRITE ? atomic_fetch_add(&w->s->last_id, 1) : 0, first = from,
             end = from + count;
    int ret;

    if (kind == DISCARD) {
        first = (from + per_cluster - 1) / per_cluster * per_cluster;
        end = end / per_cluster * per_cluster;
    }
    for (uint64_t i = first; i < end; i++) {
        story_write(w->s, i, id);
    }
    for (uint64_t i = 0; i < count; i++) {
        put_sector(buf + i * 512, from + i, id);
    }
    switch (kind) {
    case WRITE:
        ret = edge_pwrite(w->edge, r, guest(from * 512), buf, count * 512, 0);
        break;
    case DISCARD:
        ret = edge_pdiscard(w->edge, r, guest(from * 512), count * 512);
        break;
    default:
        ret = edge_pwrite_zeroes(w->edge, r, guest(from * 512), count * 512,
                                 kind == UNMAP ? REQ_MAY_UNMAP : 0);
        break;
    }
    for (uint64_t i = first; i < end && ret == 0; i++) {
        story_ended(w->s, i);
    }
    return ret;
}

static int coroutine_fn flush(Writer *w, Request *r)
{
    Flush f = {.begun = simmachine_time(w->s->m)};
    int ret = edge_flush(w->edge, r);

    if (ret == 0) {
        f.ended = simmachine_time(w->s->m);
        pthread_mutex_lock(&w->s->lock);
        g_array_append_val(w->s->flushes, f);
        pthread_mutex_unlock(&w->s->lock);
    }
    return ret;
}

/* Whatever is read anywhere has been written there: not what another sector had, whose cluster it was or will be. */
static int coroutine_fn look_around(Writer *w, Request *r)
{
    uint64_t count = 1 + g_rand_int_range(w->rand, 0, 64),
             from = g_rand_int_range(w->rand, 0, w->s->sectors - count + 1);
    g_autofree uint8_t *buf = g_malloc(count * 512);
    int ret = edge_pread(w->edge, r, guest(from * 512), buf, count * 512, 0);

    for (uint64_t i = 0; i < count && ret == 0; i++) {
        for (unsigned k = 0; k < 512; k += 16) {
            uint64_t v[2];

            memcpy(v, buf + i * 512 + k, 16);
            if (v[0] ? v[1] != from + i || v[0] > atomic_load(&w->s->last_id) : v[1] != 0) {
                g_error("sector %" G_GUINT64_FORMAT " reads as sector %" G_GUINT64_FORMAT
                        ", id %" G_GUINT64_FORMAT,
                        from + i, v[1], v[0]);
            }
        }
    }
    return ret;
}

static void coroutine_fn writer_main(void *opaque)
{
    Writer *w = opaque;
    uint64_t part = w->s->sectors / w->n, start = w->id * part;

    for (unsigned i = 0; i < w->requests; i++) {
        int dice = g_rand_int_range(w->rand, 0, 20), ret;
        uint64_t len = 1 + g_rand_int_range(w->rand, 0, dice % 3 ? 20 : MIN(part, 300));
        uint64_t from = start + g_rand_int_range(w->rand, 0, part - len + 1);
        Request r;

        request_begin(&r, dice == 0 ? REQUEST_FLUSH : dice >= 15 ? REQUEST_READ : REQUEST_WRITE);
        ret = dice == 0    ? flush(w, &r)
              : dice <= 2  ? change(w, &r, DISCARD, from, len)
              : dice == 3  ? change(w, &r, ZERO, from, len)
              : dice == 4  ? change(w, &r, UNMAP, from, len)
              : dice >= 15 ? look_around(w, &r)
                           : change(w, &r, WRITE, from, len);
        request_end(&r);
        if (ret < 0 && !atomic_load(&w->s->expect_errors)) {
            g_error("request failed: %s", g_strerror(-ret));
        }
    }
    co_group_done(w->done);
}

static void coroutine_fn run_writers(Story *s, Edge *edge, uint64_t cluster, unsigned n,
                                     unsigned requests, uint32_t seed)
{
    g_autofree Writer *writers = g_new0(Writer, n);
    CoGroup done;

    co_group_init(&done);
    co_group_add(&done, n);
    for (unsigned i = 0; i < n; i++) {
        writers[i] = (Writer){
            .s = s,
            .edge = edge,
            .id = i,
            .n = n,
            .requests = requests,
            .cluster = cluster,
            .rand = g_rand_new_with_seed(seed * 100 + i),
            .done = &done,
        };
        co_spawn(test_loop(TEST_THREAD_0 + i % 2), writer_main, &writers[i]);
    }
    co_group_wait(&done);
    co_group_destroy(&done);
    for (unsigned i = 0; i < n; i++) {
        g_rand_free(writers[i].rand);
    }
}

/* ---- judging ---- */

static bool may_have(const Story *s, uint64_t sector, uint64_t t, const uint8_t *have)
{
    const GArray *list = s->writes[sector];
    uint64_t covered = 0;
    guint first = 0;
    uint8_t want[512];

    /* What a flush that completed by t has made durable. */
    for (guint i = 0; i < s->flushes->len; i++) {
        const Flush *f = &g_array_index(s->flushes, Flush, i);

        if (f->ended <= t) {
            covered = MAX(covered, f->begun);
        }
    }
    for (guint i = 0; i < list->len; i++) {
        const Write *w = &g_array_index(list, Write, i);

        /* The clock ticks with operations of the disk only: the same time says nothing. */
        if (w->ended && w->ended < covered) {
            first = i;
        }
    }
    for (guint i = first; i < list->len; i++) {
        const Write *w = &g_array_index(list, Write, i);

        put_sector(want, sector, w->id);
        if (w->begun <= t && memcmp(have, want, 512) == 0) {
            return true;
        }
    }
    return false;
}

static void judge(const Story *s, uint64_t t, uint64_t seed)
{
    g_autoptr(Error) err = NULL;
    Model file = {0};
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
    model_load(&file, image, "qcow2");
    g_assert_cmpuint(file.size, ==, s->sectors * 512);
    for (uint64_t i = 0; i < s->sectors; i++) {
        if (!may_have(s, i, t, file.data + i * 512)) {
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
        .backing_file = shape->backing ? base : NULL,
        .backing_format = shape->backing ? "raw" : NULL,
    };
    g_autofree uint8_t *data = g_malloc0(shape->size);
    g_autoptr(Error) err = NULL;
    Node *n;
    Edge *e;

    for (uint64_t i = 0; i < s->sectors; i++) {
        uint64_t id = shape->backing && i % 7 ? 1 : 0;

        put_sector(data + i * 512, i, id);
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
    {65536, 4 << 20, false, ""},
    {65536, 4 << 20, true, ""},
    {4096, 2 << 20, true, ""},
    {512, 1 << 20, true, ", 'l2-cache-size': 4096, 'refcount-cache-size': 1024"},
    {512, 8 << 20, false, ", 'pass-discard-other': true"},
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
        make_image(&s, shape);
        begin = simmachine_time(s.m);
        simmachine_set_latency(s.m, 20000, i);
        n = open_image(shape);
        e = node_test_attach(n, QCOW2_RW, PERM_ALL);
        run_writers(&s, e, shape->cluster, 6, 120, i);
        edge_detach(e);
        node_unref(n);
        node_wait_all_closed();
        mid = simmachine_time(s.m);
        simmachine_set_latency(s.m, 0, 0);
        /* Again: what was freed is used. */
        n = open_image(shape);
        e = node_test_attach(n, QCOW2_RW, PERM_ALL);
        run_writers(&s, e, shape->cluster, 4, 60, i + 100);
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
        make_image(&s, shape);
        atomic_store(&s.expect_errors, true);
        before = simmachine_ops(s.m);
        n = open_image(shape);
        e = node_test_attach(n, QCOW2_RW, PERM_ALL);
        simmachine_fail(s.m, before + k, err);
        run_writers(&s, e, shape->cluster, 4, 40, k);
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

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Internal snapshots of qcow2 while guests write, and power failures.
 *
 * Writers on two I/O threads go on while snapshots are taken, given up at every stage, and removed.  A snapshot must have what was written before its
 * hold began, and nothing that was sent after its flip.  Whenever the power fails, afterwards, the image is whole but for leaks and flags (COPIED) that
 * do not fit a refcount; qemu-img repairs these and no byte changes; snapshots that were stored are there, with what they had.
 */
#include "qcow2-story.h"
#include "block/driver.h"
#include "block/internal-snapshot.h"
#include "qapi-types.h"
#include "../../block/gate.h"
#include <errno.h>
#include <string.h>

static const char *image, *base, *raw;

/* One that was taken; all times are the simulated machine's. */
typedef struct Taken {
    char *name, *twin; /* twin: of the same state, never removed; NULL: none */
    uint64_t held,
        flipped;       /* what ended before `held` is in it, what began after `flipped` is not */
    uint64_t stored;   /* from then on it must be there ...; 0: it never was */
    uint64_t removing; /* ... until then; 0: to the end */
    uint64_t given_up; /* the same of the twin */
} Taken;

typedef struct Run {
    Story s;
    Node *n;
    GArray *taken; /* of Taken */
    GRand *rand;
    unsigned next;
} Run;

typedef struct Shape {
    uint64_t cluster, size;
    bool backing, extended;
    const char *open;
    unsigned requests, snapshots;
} Shape;

static const Shape shapes[] = {
    {65536, 4 << 20, true, false, "", 120, 8},
    {4096, 2 << 20, false, false, "", 150, 8},
    {16384, 4 << 20, true, true, "", 120, 6},
    {512, 1 << 20, true, false, ", 'l2-cache-size': 4096, 'refcount-cache-size': 1024", 100, 5},
};

/* ---- taking them ---- */

static void coroutine_fn nap(Run *run)
{
    co_sleep_ns(g_rand_int_range(run->rand, 0, 4000000));
}

static void hold(Run *run, Taken *t)
{
    t->held = simmachine_time(run->s.m);
    gate_close_writes(run->n, clock_ns() + INT64_C(20000000000));
}

static void coroutine_fn take(Run *run)
{
    const InternalSnapshotOps *ops = run->n->driver->snapshots;
    unsigned give_up = g_rand_int_range(run->rand, 0, 10); /* at which stage; most never */
    Taken t = {.name = g_strdup_printf("s%u", run->next++)};
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    InternalSnapshot *made = NULL;
    bool keep = false;

    g_ptr_array_add(names, t.name);
    if (run->next % 4 == 0) {
        t.twin = g_strdup_printf("t%u", run->next);
        g_ptr_array_add(names, t.twin);
    }
    g_assert_cmpint(ops->begin(run->n, names, &made), ==, 0);
    nap(run);
    if (give_up != 0) {
        hold(run, &t);
        g_assert_true(gate_wait_writes(run->n));
        if (give_up == 1) {
            /* As if the time had passed: writes go on, and it is tried again. */
            g_assert_cmpint(ops->catch_up(made, clock_ns() - 1), <=, 0);
            gate_open(run->n);
            nap(run);
            hold(run, &t);
            g_assert_true(gate_wait_writes(run->n));
        }
        g_assert_cmpint(ops->catch_up(made, INT64_MAX), ==, 0);
        g_assert_true(gate_claim(run->n));
        ops->flip(made);
        t.flipped = simmachine_time(run->s.m);
        gate_open(run->n);
        nap(run);
        if (give_up != 2) {
            g_assert_cmpint(ops->store(made), ==, 0);
            t.stored = simmachine_time(run->s.m);
            keep = give_up != 3;
            nap(run);
            t.removing = t.given_up = keep ? 0 : simmachine_time(run->s.m);
        }
    }
    ops->end(made, keep);
    g_array_append_val(run->taken, t);
}

static void coroutine_fn remove_one(Run *run)
{
    for (guint i = 0; i < run->taken->len; i++) {
        Taken *t = &g_array_index(run->taken, Taken, i);
        SnapshotInfo *info = NULL;

        if (!t->stored || t->removing || g_rand_int_range(run->rand, 0, 2)) {
            continue;
        }
        t->removing = simmachine_time(run->s.m);
        g_assert_cmpint(run->n->driver->snapshots->remove(run->n, NULL, t->name, &info), ==, 0);
        g_assert_cmpstr(info->name, ==, t->name);
        qapi_free_SnapshotInfo(info);
        return;
    }
}

typedef struct Writers {
    Run *run;
    const Shape *shape;
    Edge *edge;
    uint32_t seed;
    CoGroup done;
} Writers;

static void coroutine_fn write_all(void *opaque)
{
    Writers *w = opaque;

    story_run_writers(&w->run->s, w->edge, w->shape->cluster, 6, w->shape->requests, w->seed);
    co_group_done(&w->done);
}

/* ---- images ---- */

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
        .extended_l2 = shape->extended,
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

/* ---- judging ---- */

static void compare(const Run *run, const char *file, const char *format, uint64_t t,
                    uint64_t covered, const char *what)
{
    Model m = {0};

    model_load(&m, file, format);
    g_assert_cmpuint(m.size, ==, run->s.sectors * 512);
    for (uint64_t i = 0; i < run->s.sectors; i++) {
        if (!story_may_have(&run->s, i, t, covered, m.data + i * 512)) {
            uint64_t v[2];

            memcpy(v, m.data + i * 512, 16);
            g_error("%s: sector %" G_GUINT64_FORMAT " has id %" G_GUINT64_FORMAT
                    " of sector %" G_GUINT64_FORMAT,
                    what, i, v[0], v[1]);
        }
    }
    model_clear(&m);
}

static void judge_snapshot(const Run *run, const Taken *t, const char *name, uint64_t removing,
                           uint64_t now, const char *what)
{
    bool must = t->stored && t->stored < now && (!removing || removing >= now);
    bool there = shell_status("qemu-img snapshot -l '%s' | grep -q ' %s '", image, name) == 0;

    if (must && !there) {
        g_error("%s: snapshot %s is not there", what, name);
    }
    if (there) {
        g_autofree char *which = g_strdup_printf("%s, snapshot %s", what, name);

        shell("qemu-img convert -l 'snapshot.name=%s' -O raw '%s' '%s'", name, image, raw);
        compare(run, raw, "raw", t->flipped, t->held, which);
    }
}

static void judge(const Run *run, uint64_t t, uint64_t seed)
{
    g_autofree char *what =
        g_strdup_printf("time %" G_GUINT64_FORMAT " seed %" G_GUINT64_FORMAT, t, seed);
    g_autoptr(Error) err = NULL;

    if (!simmachine_rebuild(run->s.m, t, seed, "d", image, &err)) {
        g_error("%s", err->message);
    }
    /* References without a refcount are the end; flags that do not fit are not. */
    if (shell_status("qemu-img check -f qcow2 '%s' 2>&1 | grep -E '^ERROR' | grep -qv OFLAG_COPIED",
                     image) == 0) {
        shell("cp '%s' /tmp/bad.qcow2; qemu-img check -f qcow2 '%s' 2>&1 | head -20", image, image);
        g_error("%s: qemu-img check finds errors", what);
    }
    for (unsigned repaired = 0; repaired < 2; repaired++) {
        compare(run, image, "qcow2", t, story_covered(&run->s, t), what);
        for (guint i = 0; i < run->taken->len; i++) {
            const Taken *taken = &g_array_index(run->taken, Taken, i);

            judge_snapshot(run, taken, taken->name, taken->removing, t, what);
            if (taken->twin) {
                judge_snapshot(run, taken, taken->twin, taken->given_up, t, what);
            }
        }
        shell_status("qemu-img check -q -r all -f qcow2 '%s' >/dev/null 2>&1", image);
        g_assert_cmpint(shell_status("qemu-img check -q -f qcow2 '%s'", image), ==, 0);
        if (!g_test_slow()) {
            break;
        }
    }
}

static void coroutine_fn run_shape(const Shape *shape, uint32_t seed)
{
    unsigned judges = g_test_slow() ? 12 : 2;
    Run run = {.taken = g_array_new(false, true, sizeof(Taken)),
               .rand = g_rand_new_with_seed(seed)};
    Writers w = {.run = &run, .shape = shape, .seed = seed};
    uint64_t begin, end;

    simmachine_reset(simmachine_default());
    story_init(&run.s, shape->size);
    run.s.compresses = shape->cluster < 65536;
    make_image(&run.s, shape);
    begin = simmachine_time(run.s.m);
    simmachine_set_latency(run.s.m, 20000, seed);
    run.n = node_test_open("{'driver': 'qcow2', 'node-name': 'q', 'discard': 'unmap'%s, "
                           "'file': {'driver': 'simdisk', 'node-name': 'd', 'discard': 'unmap'}}",
                           shape->open);
    w.edge = node_test_attach(run.n, QCOW2_RW, PERM_ALL);
    co_group_init(&w.done);
    co_group_add(&w.done, 1);
    co_start(write_all, &w);
    for (unsigned i = 0; i < shape->snapshots; i++) {
        take(&run);
        if (i % 3 == 2) {
            remove_one(&run);
        }
    }
    co_group_wait(&w.done);
    co_group_destroy(&w.done);
    edge_detach(w.edge);
    node_unref(run.n);
    node_wait_all_closed();
    end = simmachine_time(run.s.m);
    for (unsigned k = 0; k < judges; k++) {
        judge(&run, begin + (uint64_t)(g_rand_double(run.rand) * (end - begin)),
              g_rand_int(run.rand));
    }
    if (!simmachine_rebuild(run.s.m, end, 1, "d", image, NULL) ||
        shell_status("qemu-img check -f qcow2 '%s'", image) != 0) {
        shell("cp '%s' /tmp/bad.qcow2", image);
        g_error("seed %u: the image is not as clean as it was", seed);
    }
    judge(&run, end, 1);
    for (guint i = 0; i < run.taken->len; i++) {
        g_free(g_array_index(run.taken, Taken, i).name);
        g_free(g_array_index(run.taken, Taken, i).twin);
    }
    g_array_free(run.taken, true);
    g_rand_free(run.rand);
    story_clear(&run.s);
}

static void coroutine_fn power_failures(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        for (unsigned k = 0; k < (g_test_slow() ? 4 : 1); k++) {
            run_shape(&shapes[i], 10 * i + k);
        }
    }
}

int main(int argc, char **argv)
{
    int ret;

    node_test_init();
    image = node_test_file("snapshots.qcow2");
    base = node_test_file("snapshots-base.raw");
    raw = node_test_file("snapshots.raw");
    g_test_init(&argc, &argv, NULL);
    node_test_add("/qcow2/snapshots/power", power_failures);
    ret = g_test_run();
    simmachine_reset(simmachine_default());
    node_test_end();
    return ret;
}

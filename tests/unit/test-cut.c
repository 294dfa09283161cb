/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The cut, on the real code: edge_enter(), changes, copies, flushes (T1, T2, T4, T5, T6), with disks in memory and requests on
 * several I/O threads.
 *
 * The random test is the one that matters: writers over several disks and threads, each write submitted when the one before
 * completed, while changes re-point all disks at once, round after round.  The old nodes of each round must form a consistent
 * cut, nothing may be lost, and no old node may be written after it was found settled.  The same test with the flip
 * made disk by disk must fail: that proves that it can.
 */
#include "block/change.h"
#include "block/node-internal.h"
#include "block/transaction/snapshot-common.h"
#include "mem-driver.h"
#include "util/iothread.h"
#include "util/rcu.h"
#include <string.h>

#define DISKS   4
#define THREADS 2
#define SIZE    (64u * 1024)

static IOThread *threads[THREADS];

/* ---- running test bodies as coroutines of the control thread ---- */

typedef struct Body {
    CoroutineFn *fn;
    GMainLoop *loop;
} Body;

static void coroutine_fn run_body(void *opaque)
{
    Body *b = opaque;

    b->fn(NULL);
    node_wait_all_closed();
    g_main_loop_quit(b->loop);
}

static void in_coroutine(gconstpointer fn)
{
    Body b = {.fn = (CoroutineFn *)fn, .loop = g_main_loop_new(NULL, false)};

    co_spawn(loop_control(), run_body, &b);
    g_main_loop_run(b.loop);
    g_main_loop_unref(b.loop);
}

/* ---- requests on an I/O thread, asked for by the control thread ---- */

typedef struct Io {
    enum { IO_WRITE, IO_READ, IO_FLUSH } op;
    Edge *edge;
    uint64_t offset;
    uint8_t byte;
    size_t len;
    int ret;
    _Atomic bool started, done;
    CoGroup group;
} Io;

static void coroutine_fn io_main(void *opaque)
{
    Io *io = opaque;
    g_autofree uint8_t *buf = g_malloc(MAX(io->len, 1));
    Request r;

    request_begin(&r, io->op == IO_READ    ? REQUEST_READ
                      : io->op == IO_WRITE ? REQUEST_WRITE
                                           : REQUEST_FLUSH);
    memset(buf, io->byte, io->len);
    atomic_store(&io->started, true);
    switch (io->op) {
    case IO_WRITE:
        io->ret = edge_pwrite(io->edge, &r, guest(io->offset), buf, io->len, 0);
        break;
    case IO_READ:
        io->ret = edge_pread(io->edge, &r, guest(io->offset), buf, io->len, 0);
        io->byte = buf[0];
        break;
    case IO_FLUSH:
        io->ret = edge_flush(io->edge, &r);
        break;
    }
    request_end(&r);
    atomic_store(&io->done, true);
    co_group_done(&io->group);
}

static void io_start(Io *io, unsigned thread)
{
    co_group_init(&io->group);
    co_group_add(&io->group, 1);
    co_spawn(iothread_loop(threads[thread]), io_main, io);
}

static int coroutine_fn io_wait(Io *io)
{
    co_group_wait(&io->group);
    co_group_destroy(&io->group);
    return io->ret;
}

static void coroutine_fn wait_until(_Atomic unsigned *v, unsigned value)
{
    while (atomic_load(v) != value) {
        co_sleep_ns(100000);
    }
}

/* ---- disks ---- */

typedef struct Disk {
    Node *node; /* reference: what the edge leads to */
    Edge *edge;
    unsigned generation;
} Disk;

static Edge *coroutine_fn client_edge(Node *n, Error **errp)
{
    return edge_attach(n, NULL, &mem_owner, (void *)"client", "root", EDGE_ROOT,
                       PERM_CONSISTENT_READ | PERM_WRITE, PERM_ALL, errp);
}

static void coroutine_fn disk_init(Disk *d, const char *name)
{
    g_autoptr(Error) err = NULL;

    d->node = mem_node_new(name, SIZE, true);
    d->edge = client_edge(d->node, &err);
    g_assert_no_error((GError *)NULL);
    g_assert(d->edge);
    d->generation = 0;
}

static void coroutine_fn disk_done(Disk *d)
{
    edge_detach(d->edge);
    node_unref(d->node);
}

/* An overlay of d's node, linked as a transaction does; returns the backing edge. */
static Edge *coroutine_fn overlay_on(Disk *d, Node **ret_overlay)
{
    g_autoptr(Error) err = NULL;
    g_autofree char *name = g_strdup_printf("%.20s-%u", d->node->name, ++d->generation);
    Node *o = mem_node_new(name, SIZE, false);
    Edge *b = edge_attach(d->node, o, NULL, NULL, "backing", EDGE_COW, PERM_CONSISTENT_READ,
                          PERM_ALL, &err);

    g_assert(b);
    atomic_store(&o->backing, b);
    *ret_overlay = o;
    return b;
}

static void coroutine_fn settle_and_fold(Change *c, Disk *disks, unsigned n)
{
    g_autoptr(Error) err = NULL;

    g_assert_true(change_settle(c, -1, &err));
    for (unsigned i = 0; i < n; i++) {
        node_ro_commit(((Edge *)atomic_load(&disks[i].edge->target->backing))->target);
        perm_lower(disks[i].edge->target);
    }
    change_fold(c);
    change_free(c);
    for (unsigned i = 0; i < n; i++) {
        node_unref(disks[i].node);
        disks[i].node = node_ref(disks[i].edge->target);
    }
}

/* ---- single behaviours ---- */

static void coroutine_fn test_old_request_stays_old(void *unused)
{
    Disk d;
    Node *o;
    Edge *b;
    Change *c = change_new();
    Io before, after;

    (void)unused;
    disk_init(&d, "stay");
    b = overlay_on(&d, &o);
    change_add(c, d.node, o, b);

    atomic_store(&mem(d.node)->gate_closed, true);
    before = (Io){.op = IO_WRITE, .edge = d.edge, .offset = 0, .byte = 1, .len = MEM_CLUSTER};
    io_start(&before, 0);
    wait_until(&mem(d.node)->waiting, 1);
    change_arm(c);
    change_cut(c);

    /* A whole cluster needs no copy: it must not wait for the old write (T4). */
    after =
        (Io){.op = IO_WRITE, .edge = d.edge, .offset = MEM_CLUSTER, .byte = 2, .len = MEM_CLUSTER};
    io_start(&after, 1);
    g_assert_cmpint(io_wait(&after), ==, 0);
    g_assert_false(atomic_load(&before.done));
    g_assert_cmpint(mem(o)->data[MEM_CLUSTER], ==, 2);
    g_assert_cmpint(mem(d.node)->data[MEM_CLUSTER], ==, 0);
    g_assert_cmpint(node_count_writes(d.node), ==, 1);

    atomic_store(&mem(d.node)->gate_closed, false);
    settle_and_fold(c, &d, 1);
    g_assert_cmpint(io_wait(&before), ==, 0);
    g_assert_cmpint(mem_peek(o, 0), ==, 1);
    g_assert_cmpint(atomic_load(&mem(o)->allocated[0]), ==, 0);
    node_unref(o);
    disk_done(&d);
}

static void coroutine_fn test_copy_waits(void *unused)
{
    Disk d;
    Node *o;
    Edge *b;
    Change *c = change_new();
    Io before, copy;

    (void)unused;
    disk_init(&d, "copy");
    b = overlay_on(&d, &o);
    change_add(c, d.node, o, b);
    atomic_store(&mem(d.node)->gate_closed, true);
    before = (Io){.op = IO_WRITE, .edge = d.edge, .offset = 512, .byte = 7, .len = 512};
    io_start(&before, 0);
    wait_until(&mem(d.node)->waiting, 1);
    change_arm(c);
    change_cut(c);
    /* Part of the same cluster: the copy must have the old write in it (T6). */
    copy = (Io){.op = IO_WRITE, .edge = d.edge, .offset = 0, .byte = 9, .len = 512};
    io_start(&copy, 1);
    co_sleep_ns(20000000);
    g_assert_true(atomic_load(&copy.started));
    g_assert_false(atomic_load(&copy.done));
    atomic_store(&mem(d.node)->gate_closed, false);
    g_assert_cmpint(io_wait(&copy), ==, 0);
    g_assert_cmpint(io_wait(&before), ==, 0);
    settle_and_fold(c, &d, 1);
    g_assert_cmpint(mem_peek(o, 0), ==, 9);
    g_assert_cmpint(mem_peek(o, 512), ==, 7);
    node_unref(o);
    disk_done(&d);
}

static void coroutine_fn test_copy_waits_for_all_edges(void *unused)
{
    g_autoptr(Error) err = NULL;
    Disk d;
    Node *o;
    Edge *b, *second;
    Change *c = change_new();
    Io before, copy;

    (void)unused;
    disk_init(&d, "edges");
    second = client_edge(d.node, &err);
    b = overlay_on(&d, &o);
    change_add(c, d.node, o, b);
    atomic_store(&mem(d.node)->gate_closed, true);
    before = (Io){.op = IO_WRITE, .edge = second, .offset = 512, .byte = 7, .len = 512};
    io_start(&before, 0);
    wait_until(&mem(d.node)->waiting, 1);
    change_arm(c);
    change_cut(c);
    copy = (Io){.op = IO_WRITE, .edge = d.edge, .offset = 0, .byte = 9, .len = 512};
    io_start(&copy, 1);
    co_sleep_ns(20000000);
    g_assert_false(atomic_load(&copy.done));
    atomic_store(&mem(d.node)->gate_closed, false);
    io_wait(&copy);
    io_wait(&before);
    settle_and_fold(c, &d, 1);
    g_assert_true(second->target == o);
    g_assert_cmpint(mem_peek(o, 512), ==, 7);
    edge_detach(second);
    node_unref(o);
    disk_done(&d);
}

static void coroutine_fn test_flush_covers_old_node(void *unused)
{
    Disk d;
    Node *o;
    Edge *b;
    Change *c = change_new();
    Io w, f, held;

    (void)unused;
    disk_init(&d, "flush");
    w = (Io){.op = IO_WRITE, .edge = d.edge, .offset = 0, .byte = 1, .len = MEM_CLUSTER};
    io_start(&w, 0);
    io_wait(&w);
    b = overlay_on(&d, &o);
    change_add(c, d.node, o, b);
    change_arm(c);
    change_cut(c);
    f = (Io){.op = IO_FLUSH, .edge = d.edge};
    io_start(&f, 1);
    g_assert_cmpint(io_wait(&f), ==, 0);
    g_assert_cmpint(atomic_load(&mem(d.node)->flushes), ==, 1); /* T5 */
    settle_and_fold(c, &d, 1);
    /* Settled: the old node is not flushed again. */
    held = (Io){.op = IO_FLUSH, .edge = d.edge};
    io_start(&held, 1);
    io_wait(&held);
    g_assert_cmpint(atomic_load(&mem(((Edge *)o->backing)->target)->flushes), ==, 1);
    node_unref(o);
    disk_done(&d);
}

static void coroutine_fn test_failed_settle_flush(void *unused)
{
    g_autoptr(Error) err = NULL;
    Disk d;
    Node *o;
    Edge *b;
    Change *c = change_new();
    Io w, f;

    (void)unused;
    disk_init(&d, "fail");
    w = (Io){.op = IO_WRITE, .edge = d.edge, .offset = 0, .byte = 1, .len = MEM_CLUSTER};
    io_start(&w, 0);
    io_wait(&w);
    b = overlay_on(&d, &o);
    change_add(c, d.node, o, b);
    change_arm(c);
    change_cut(c);
    atomic_store(&mem(d.node)->flush_result, -EIO);
    g_assert_false(change_settle(c, -1, &err));
    g_assert_cmpstr(err->message, ==, "Write to node 'fail' failed: Input/output error");
    /* What the guest was told is not durable: its flush must say so. */
    f = (Io){.op = IO_FLUSH, .edge = d.edge};
    io_start(&f, 0);
    g_assert_cmpint(io_wait(&f), ==, -EIO);
    atomic_store(&mem(d.node)->flush_result, 0);
    settle_and_fold(c, &d, 1);
    node_unref(o);
    disk_done(&d);
}

static void coroutine_fn test_settle_deadline(void *unused)
{
    g_autoptr(Error) err = NULL;
    Disk d;
    Node *o;
    Edge *b;
    Change *c = change_new();
    Io before;

    (void)unused;
    disk_init(&d, "late");
    b = overlay_on(&d, &o);
    change_add(c, d.node, o, b);
    atomic_store(&mem(d.node)->gate_closed, true);
    before = (Io){.op = IO_WRITE, .edge = d.edge, .offset = 0, .byte = 1, .len = 512};
    io_start(&before, 0);
    wait_until(&mem(d.node)->waiting, 1);
    change_arm(c);
    change_cut(c);
    g_assert_false(change_settle(c, clock_ns() + 10000000, &err));
    g_assert_cmpint(err->kind, ==, ERROR_TIMEOUT);
    atomic_store(&mem(d.node)->gate_closed, false);
    settle_and_fold(c, &d, 1);
    io_wait(&before);
    node_unref(o);
    disk_done(&d);
}

/* One request over two nested edges of one change: old at the first means old at the second. */
static void coroutine_fn nested_main(void *opaque)
{
    Edge **edges = opaque;
    Request r;
    Node *upper, *lower;

    request_begin(&r, REQUEST_WRITE);
    upper = edge_enter(edges[0], &r);
    ((_Atomic unsigned *)edges[2])[0] = 1;
    while (((_Atomic unsigned *)edges[2])[0] != 2) {
        co_sleep_ns(100000);
    }
    lower = edge_enter(edges[1], &r);
    edges[3] = (Edge *)upper;
    edges[4] = (Edge *)lower;
    request_end(&r);
    ((_Atomic unsigned *)edges[2])[0] = 3;
}

static void coroutine_fn test_nested(void *unused)
{
    Disk a, b;
    Node *oa, *ob;
    Edge *ba, *bb;
    Change *c = change_new();
    _Atomic unsigned step = 0;
    Edge *arg[5];
    Disk both[2];

    (void)unused;
    disk_init(&a, "upper");
    disk_init(&b, "lower");
    ba = overlay_on(&a, &oa);
    bb = overlay_on(&b, &ob);
    change_add(c, a.node, oa, ba);
    change_add(c, b.node, ob, bb);
    arg[0] = a.edge;
    arg[1] = b.edge;
    arg[2] = (Edge *)&step;
    co_spawn(iothread_loop(threads[0]), nested_main, arg);
    wait_until(&step, 1);
    change_arm(c);
    change_cut(c);
    step = 2;
    wait_until(&step, 3);
    g_assert_true((Node *)arg[3] == a.node);
    g_assert_true((Node *)arg[4] == b.node);
    both[0] = a;
    both[1] = b;
    settle_and_fold(c, both, 2);
    node_unref(oa);
    node_unref(ob);
    disk_done(&both[0]);
    disk_done(&both[1]);
}

/* One request that reads, is overtaken by the cut, and then writes what it read: both on the old side. */
typedef struct Split {
    Edge *edge;
    _Atomic unsigned step;
} Split;

static void coroutine_fn split_main(void *opaque)
{
    Split *s = opaque;
    uint8_t buf[MEM_CLUSTER];
    Request r;

    request_begin(&r, REQUEST_WRITE);
    g_assert_cmpint(edge_pread(s->edge, &r, guest(0), buf, sizeof(buf), REQ_COPY), ==, 0);
    s->step = 1;
    while (s->step != 2) {
        co_sleep_ns(100000);
    }
    memset(buf, 5, sizeof(buf));
    g_assert_cmpint(edge_pwrite(s->edge, &r, guest(0), buf, sizeof(buf), 0), ==, 0);
    request_end(&r);
    s->step = 3;
}

static void coroutine_fn test_one_decision(void *unused)
{
    Disk d;
    Node *o;
    Edge *b;
    Change *c = change_new();
    Split s = {0};

    (void)unused;
    disk_init(&d, "split");
    b = overlay_on(&d, &o);
    change_add(c, d.node, o, b);
    s.edge = d.edge;
    co_spawn(iothread_loop(threads[0]), split_main, &s);
    wait_until(&s.step, 1);
    change_arm(c);
    change_cut(c);
    s.step = 2;
    settle_and_fold(c, &d, 1);
    g_assert_cmpint(atomic_load(&mem(o)->allocated[0]), ==, 0);
    g_assert_cmpint(mem_peek(o, 0), ==, 5);
    /* Settling waits for the request's end, not for its coroutine, which still has a step to take. */
    wait_until(&s.step, 3);
    node_unref(o);
    disk_done(&d);
}

static void coroutine_fn test_born_edge(void *unused)
{
    g_autoptr(Error) err = NULL;
    Disk d;
    Node *o;
    Edge *b, *born;
    Change *c = change_new();
    Io w;

    (void)unused;
    disk_init(&d, "born");
    b = overlay_on(&d, &o);
    change_add(c, d.node, o, b);
    change_arm(c);
    born = client_edge(d.node, &err);
    change_cut(c);
    g_assert_true(born->target == o);
    w = (Io){.op = IO_WRITE, .edge = born, .offset = 0, .byte = 3, .len = MEM_CLUSTER};
    io_start(&w, 0);
    io_wait(&w);
    g_assert_cmpint(mem(o)->data[0], ==, 3);
    settle_and_fold(c, &d, 1);
    edge_detach(born);
    node_unref(o);
    disk_done(&d);
}

/* ---- the random test ---- */

typedef struct Writer {
    Disk *disks;
    _Atomic bool *stop;
    unsigned id;
    uint32_t records; /* written so far: record i went to disk i % DISKS, in sector id */
    CoGroup *group;
    GRand *rand;
} Writer;

/* A record is its number, in the writer's own 512 bytes of each disk: small, so that copies happen all the time. */
static void coroutine_fn writer_main(void *opaque)
{
    Writer *w = opaque;

    while (!atomic_load(w->stop)) {
        uint32_t buf[128] = {[0] = w->records + 1, [127] = w->records + 1};
        Edge *e = w->disks[w->records % DISKS].edge;
        Request r;
        int ret;

        request_begin(&r, REQUEST_WRITE);
        ret = edge_pwrite(e, &r, guest(w->id * 512), buf, sizeof(buf), 0);
        request_end(&r);
        g_assert_cmpint(ret, ==, 0);
        w->records++;
        if (g_rand_int_range(w->rand, 0, 8) == 0) {
            co_sleep_ns(g_rand_int_range(w->rand, 0, 200000));
        } else {
            co_reschedule();
        }
    }
    co_group_done(w->group);
}

static uint32_t record_of(const Node *n, unsigned writer)
{
    uint8_t b[4];
    uint32_t v;

    for (unsigned i = 0; i < 4; i++) {
        b[i] = mem_peek(n, writer * 512 + i);
    }
    memcpy(&v, b, 4);
    return v;
}

/* Is the set of nodes closed under "depends on"?  Record k is on disk (k - 1) % DISKS; disk by disk the newest seen. */
static bool is_consistent(Node **nodes, unsigned writer)
{
    uint32_t newest = 0;

    for (unsigned i = 0; i < DISKS; i++) {
        newest = MAX(newest, record_of(nodes[i], writer));
    }
    for (unsigned i = 0; i < DISKS; i++) {
        uint32_t have = record_of(nodes[i], writer);

        /* The newest record <= `newest` that belongs on this disk. */
        uint32_t want = newest < i + 1 ? 0 : newest - (newest - (i + 1)) % DISKS;

        if (have != want) {
            return false;
        }
    }
    return true;
}

#define WRITERS 8

static bool coroutine_fn random_rounds(unsigned rounds, bool one_by_one)
{
    Disk disks[DISKS];
    Writer writers[WRITERS] = {{0}};
    _Atomic bool stop = false;
    CoGroup group;
    bool consistent = true;

    for (unsigned i = 0; i < DISKS; i++) {
        g_autofree char *name = g_strdup_printf("%s%u", one_by_one ? "single" : "disk", i);

        disk_init(&disks[i], name);
        mem(disks[i].node)->yield_in_write = true;
    }
    co_group_init(&group);
    co_group_add(&group, WRITERS);
    for (unsigned i = 0; i < WRITERS; i++) {
        writers[i] = (Writer){.disks = disks,
                              .stop = &stop,
                              .id = i,
                              .group = &group,
                              .rand = g_rand_new_with_seed(i)};
        co_spawn(iothread_loop(threads[i % THREADS]), writer_main, &writers[i]);
    }
    for (unsigned round = 0; round < rounds; round++) {
        Node *old[DISKS], *overlays[DISKS];
        Edge *backing[DISKS];
        Change *changes[DISKS] = {NULL};
        unsigned n = one_by_one ? DISKS : 1;

        for (unsigned i = 0; i < DISKS; i++) {
            Change **c = &changes[one_by_one ? i : 0];

            old[i] = node_ref(disks[i].node);
            backing[i] = overlay_on(&disks[i], &overlays[i]);
            mem(overlays[i])->yield_in_write = true;
            *c = *c ? *c : change_new();
            change_add(*c, disks[i].node, overlays[i], backing[i]);
        }
        for (unsigned i = 0; i < n; i++) {
            change_arm(changes[i]);
            change_cut(changes[i]);
            if (one_by_one) {
                co_sleep_ns(300000);
            }
        }
        for (unsigned i = 0; i < n; i++) {
            settle_and_fold(changes[i], one_by_one ? &disks[i] : disks, one_by_one ? 1 : DISKS);
        }
        for (unsigned w = 0; w < WRITERS; w++) {
            consistent &= is_consistent(old, w);
        }
        for (unsigned i = 0; i < DISKS; i++) {
            g_assert_cmpint(atomic_load(&mem(old[i])->writes_after_ro), ==, 0);
            node_unref(old[i]);
            node_unref(overlays[i]);
        }
        co_sleep_ns(500000);
    }
    atomic_store(&stop, true);
    co_group_wait(&group);
    co_group_destroy(&group);
    /* Nothing is lost: every writer's last records are on top. */
    for (unsigned w = 0; w < WRITERS; w++) {
        Node *tops[DISKS];

        for (unsigned i = 0; i < DISKS; i++) {
            tops[i] = disks[i].node;
        }
        g_assert_cmpint(writers[w].records, >, rounds);
        g_assert_true(is_consistent(tops, w));
        g_assert_cmpint(record_of(tops[(writers[w].records - 1) % DISKS], w), ==,
                        writers[w].records);
        g_rand_free(writers[w].rand);
    }
    for (unsigned i = 0; i < DISKS; i++) {
        disk_done(&disks[i]);
    }
    return consistent;
}

static void coroutine_fn test_consistent_cut(void *unused)
{
    (void)unused;
    g_assert_true(random_rounds(60, false));
}

static void coroutine_fn test_one_by_one_is_found(void *unused)
{
    (void)unused;
    g_assert_false(random_rounds(20, true));
}

int main(int argc, char **argv)
{
    g_autoptr(Error) err = NULL;
    int ret;

    g_test_init(&argc, &argv, NULL);
    rcu_init_process();
    loop_control_init();
    for (unsigned i = 0; i < THREADS; i++) {
        g_autofree char *id = g_strdup_printf("io%u", i);

        threads[i] = iothread_new(id, &err);
        g_assert(threads[i]);
    }
    g_test_add_data_func("/cut/old-request-stays-old", test_old_request_stays_old, in_coroutine);
    g_test_add_data_func("/cut/copy-waits", test_copy_waits, in_coroutine);
    g_test_add_data_func("/cut/copy-waits-for-all-edges", test_copy_waits_for_all_edges,
                         in_coroutine);
    g_test_add_data_func("/cut/flush-covers-old-node", test_flush_covers_old_node, in_coroutine);
    g_test_add_data_func("/cut/failed-settle-flush", test_failed_settle_flush, in_coroutine);
    g_test_add_data_func("/cut/settle-deadline", test_settle_deadline, in_coroutine);
    g_test_add_data_func("/cut/nested-edges-decide-once", test_nested, in_coroutine);
    g_test_add_data_func("/cut/one-decision-a-request", test_one_decision, in_coroutine);
    g_test_add_data_func("/cut/born-edge", test_born_edge, in_coroutine);
    g_test_add_data_func("/cut/consistent-over-disks-and-threads", test_consistent_cut,
                         in_coroutine);
    g_test_add_data_func("/cut/one-by-one-is-found-inconsistent", test_one_by_one_is_found,
                         in_coroutine);
    ret = g_test_run();
    for (unsigned i = 0; i < THREADS; i++) {
        iothread_free(threads[i]);
    }
    return ret;
}

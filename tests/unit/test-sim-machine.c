/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The model of simulated disks: operations, faults, and what power failures may leave.
 *
 * The random test judges every rebuilt image by an oracle of its own, which computes for each
 * sector the set of permitted contents directly from the definition in include/block/simdisk.h, and
 * demands that each of them comes out sometimes.
 */
#include "block/simdisk.h"
#include <errno.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define S SIM_SECTOR

static char *path;

static SimTicket begin(SimDisk *d, SimOpKind kind, unsigned sector, unsigned count, uint8_t byte)
{
    g_autofree uint8_t *data = g_malloc(MAX(count, 1) * S);

    memset(data, byte, count * S);
    return sim_issue(d, kind, (uint64_t)sector * S, (uint64_t)count * S, data);
}

static int end(SimDisk *d, SimTicket t)
{
    sim_apply(d, t);
    return sim_complete(d, t);
}

static int do_write(SimDisk *d, unsigned sector, unsigned count, uint8_t byte)
{
    return end(d, begin(d, SIM_WRITE, sector, count, byte));
}

static int do_flush(SimDisk *d)
{
    return end(d, begin(d, SIM_FLUSH, 0, 0, 0));
}

static SimDisk *disk(SimMachine *m, const char *name, unsigned sectors)
{
    g_autoptr(Error) err = NULL;
    SimDisk *d = simdisk_get(m, name, (uint64_t)sectors * S, &err);

    g_assert_nonnull(d);
    return d;
}

/* One byte a sector; 0xee: the sector's bytes differ. */
static GByteArray *rebuilt(SimMachine *m, const char *name, uint64_t t, uint64_t seed)
{
    g_autofree char *data = NULL;
    g_autoptr(Error) err = NULL;
    GByteArray *a = g_byte_array_new();
    gsize len;

    g_assert_true(simmachine_rebuild(m, t, seed, name, path, &err));
    g_assert_true(g_file_get_contents(path, &data, &len, NULL));
    g_assert_cmpint(len % S, ==, 0);
    for (gsize i = 0; i < len; i += S) {
        uint8_t b = memcmp(data + i, data + i + 1, S - 1) == 0 ? data[i] : 0xee;

        g_byte_array_append(a, &b, 1);
    }
    return a;
}

/* All contents of a sector that come out over many seeds, as a sorted string of letters; '.' is 0.
 * */
static char *outcomes(SimMachine *m, const char *name, uint64_t t, unsigned sector)
{
    bool seen[256] = {0};
    GString *s = g_string_new(NULL);

    for (uint64_t seed = 0; seed < 200; seed++) {
        g_autoptr(GByteArray) a = rebuilt(m, name, t, seed);

        seen[sector < a->len ? a->data[sector] : '-'] = true;
    }
    for (unsigned i = 0; i < 256; i++) {
        if (seen[i]) {
            g_string_append_c(s, i ? (char)i : '.');
        }
    }
    return g_string_free(s, false);
}

static void expect(SimMachine *m, const char *name, uint64_t t, unsigned sector, const char *want)
{
    g_autofree char *have = outcomes(m, name, t, sector);

    g_assert_cmpstr(have, ==, want);
}

static void expect_reads(SimDisk *d, unsigned sector, uint8_t byte)
{
    uint8_t buf[S];

    g_assert_cmpint(sim_read(d, (uint64_t)sector * S, buf, S), ==, 0);
    for (unsigned i = 0; i < S; i++) {
        g_assert_cmpint(buf[i], ==, byte);
    }
}

/* ---- running ---- */

static void test_operations(void)
{
    SimMachine *m = simmachine_new();
    SimDisk *a = disk(m, "a", 100), *b = disk(m, "b", 10);
    g_auto(GStrv) names = simmachine_disks(m);
    uint64_t size;
    SimOp op;

    g_assert_cmpstr(names[0], ==, "a");
    g_assert_cmpstr(names[1], ==, "b");
    g_assert_null(names[2]);
    g_assert_cmpint(do_write(a, 3, 20, 'x'), ==, 0);
    g_assert_cmpint(do_write(b, 0, 1, 'y'), ==, 0);
    g_assert_cmpint(end(a, begin(a, SIM_ZERO, 4, 1, 0)), ==, 0);
    g_assert_cmpint(end(a, begin(a, SIM_DISCARD, 6, 16, 0)), ==, 0);
    g_assert_cmpint(do_flush(a), ==, 0);
    expect_reads(a, 2, 0);
    expect_reads(a, 3, 'x');
    expect_reads(a, 4, 0);
    expect_reads(a, 5, 'x');
    expect_reads(a, 6, 0);
    expect_reads(a, 21, 0);
    expect_reads(a, 22, 'x');
    expect_reads(a, 23, 0);
    expect_reads(b, 0, 'y');
    g_assert_cmpint(end(a, begin(a, SIM_TRUNCATE, 0, 5, 0)), ==, 0);
    g_assert_cmpint(end(a, begin(a, SIM_TRUNCATE, 0, 30, 0)), ==, 0);
    g_assert_true(simmachine_size(m, "a", &size));
    g_assert_cmpint(size, ==, 30 * S);
    expect_reads(a, 3, 'x');
    expect_reads(a, 5, 0);
    expect_reads(a, 22, 0);
    g_assert_cmpint(simmachine_ops(m), ==, 7);
    simmachine_op(m, 2, &op);
    g_assert_cmpstr(op.disk, ==, "b");
    g_assert_cmpint(op.kind, ==, SIM_WRITE);
    g_assert_cmpint(op.bytes, ==, S);
    g_assert_cmpint(op.issued, ==, 3);
    g_assert_cmpint(op.completed, ==, 4);
    g_assert_cmpint(simmachine_time_of(m, 2), ==, 4);
    g_assert_cmpint(simmachine_time(m), ==, 14);
    g_assert_false(simmachine_size(m, "c", &size));
    simmachine_free(m);
}

static void test_fail(void)
{
    SimMachine *m = simmachine_new();
    SimDisk *d = disk(m, "d", 10);

    simmachine_fail(m, 2, ENOSPC);
    g_assert_cmpint(do_write(d, 0, 1, 'a'), ==, 0);
    g_assert_cmpint(do_write(d, 0, 2, 'b'), ==, -ENOSPC);
    expect_reads(d, 0, 'a');
    expect_reads(d, 1, 0);
    g_assert_cmpint(do_write(d, 1, 1, 'c'), ==, 0);
    expect(m, "d", simmachine_time(m), 0, ".a");
    expect(m, "d", simmachine_time(m), 1, ".c");
    simmachine_free(m);
}

static void test_stop(void)
{
    SimMachine *m = simmachine_new();
    SimDisk *d = disk(m, "d", 10), *e = disk(m, "e", 10);
    SimTicket under_way;
    uint8_t buf[S];

    simmachine_stop(m, 2);
    under_way = begin(e, SIM_WRITE, 5, 1, 'u');
    g_assert_false(simmachine_stopped(m));
    g_assert_cmpint(do_write(d, 0, 1, 'a'), ==, 0); /* number 2: completes, then the power fails */
    g_assert_true(simmachine_stopped(m));
    g_assert_cmpint(do_write(d, 1, 1, 'b'), ==, -EIO);
    g_assert_cmpint(do_flush(d), ==, -EIO);
    g_assert_cmpint(end(e, under_way), ==, -EIO);
    g_assert_cmpint(sim_read(d, 0, buf, S), ==, -EIO);
    g_assert_cmpint(simmachine_ops(m), ==, 2);
    expect(m, "d", simmachine_time(m), 0, ".a");
    expect(m, "d", simmachine_time(m), 1, ".");
    expect(m, "e", simmachine_time(m), 5, ".u");
    simmachine_free(m);
}

/* ---- power failures, case by case ---- */

static void test_flush_covers(void)
{
    SimMachine *m = simmachine_new();
    SimDisk *d = disk(m, "d", 10), *e = disk(m, "e", 10);
    SimTicket open_write, flush;
    uint64_t before;

    do_write(d, 0, 1, 'a');
    do_write(e, 0, 1, 'a');
    open_write = begin(d, SIM_WRITE, 1, 1, 'b');
    before = simmachine_time(m);
    flush = begin(d, SIM_FLUSH, 0, 0, 0);
    end(d, open_write); /* completes after the flush was issued */
    do_write(d, 2, 1, 'c');
    expect(m, "d", simmachine_time(m), 0, ".a"); /* the flush has not completed */
    end(d, flush);
    expect(m, "d", simmachine_time(m), 0, "a");
    expect(m, "d", simmachine_time(m), 1, ".b");
    expect(m, "d", simmachine_time(m), 2, ".c");
    expect(m, "e", simmachine_time(m), 0, ".a"); /* another disk's flush */
    expect(m, "d", before, 0, ".a");
    expect(m, "d", before, 2, "."); /* not issued yet */
    expect(m, "d", 0, 0, ".");
    simmachine_free(m);
}

static void test_order(void)
{
    SimMachine *m = simmachine_new();
    SimDisk *d = disk(m, "d", 10);
    SimTicket t;

    do_write(d, 0, 1, 'a');
    do_flush(d);
    do_write(d, 0, 1, 'b');
    do_write(d, 0, 1, 'c');
    expect(m, "d", simmachine_time(m), 0, "abc"); /* any since the flush */
    do_flush(d);
    expect(m, "d", simmachine_time(m), 0, "c"); /* what is overwritten durably is gone */

    /* Two under way together, one of them covered by a flush. */
    t = begin(d, SIM_WRITE, 1, 1, 'x');
    do_write(d, 1, 1, 'y');
    do_flush(d);
    expect(m, "d", simmachine_time(m), 1, "xy"); /* x can still come */
    end(d, t);
    expect_reads(d, 1, 'x');
    expect(m, "d", simmachine_time(m), 1, "xy");
    do_flush(d);
    expect(m, "d", simmachine_time(m), 1, "x"); /* what readers see */
    simmachine_free(m);
}

static void test_together(void)
{
    SimMachine *m = simmachine_new();
    SimDisk *d = disk(m, "d", 10);
    bool xy = false, yx = false, later_first = false;
    SimTicket x = begin(d, SIM_WRITE, 0, 2, 'x'), y = begin(d, SIM_WRITE, 1, 2, 'y');

    end(d, x);
    end(d, y);
    do_write(d, 5, 1, 'p');
    do_write(d, 5, 1, 'q');
    do_write(d, 6, 1, 'r');
    for (uint64_t seed = 0; seed < 400; seed++) {
        g_autoptr(GByteArray) a = rebuilt(m, "d", simmachine_time(m), seed);

        if (seed % 8 == 1) { /* of these all that is in doubt survives whole */
            g_assert_cmpint(a->data[0], ==, 'x');
            g_assert_cmpint(a->data[2], ==, 'y');
            xy |= a->data[1] == 'y';
            yx |= a->data[1] == 'x';
        }
        later_first |= a->data[6] == 'r' && a->data[5] == 0;
    }
    g_assert_true(xy && yx);    /* in either order where they overlap */
    g_assert_true(later_first); /* writes to other sectors overtake */
    simmachine_free(m);
}

static void test_torn(void)
{
    SimMachine *m = simmachine_new();
    SimDisk *d = disk(m, "d", 10);
    bool none = false, all = false, prefix = false, suffix = false, mixed = false;

    do_write(d, 1, 4, 'a');
    for (uint64_t seed = 0; seed < 400; seed++) {
        g_autoptr(GByteArray) a = rebuilt(m, "d", simmachine_time(m), seed);
        unsigned got = 0;

        for (unsigned i = 0; i < 4; i++) {
            got = got << 1 | (a->data[1 + i] == 'a');
        }
        g_assert_cmpint(a->data[0], ==, 0);
        g_assert_cmpint(a->data[5], ==, 0);
        none |= got == 0;
        all |= got == 15;
        prefix |= got == 8 || got == 12 || got == 14;
        suffix |= got == 1 || got == 3 || got == 7;
        mixed |= got == 5 || got == 9 || got == 10;
    }
    g_assert_true(none && all && prefix && suffix && mixed);
    simmachine_free(m);
}

static void test_failed_flush(void)
{
    SimMachine *m = simmachine_new();
    SimDisk *d = disk(m, "d", 10);

    simmachine_fail(m, 2, EIO);
    do_write(d, 0, 1, 'a');
    g_assert_cmpint(do_flush(d), ==, -EIO);
    do_write(d, 1, 1, 'b');
    g_assert_cmpint(do_flush(d), ==, 0);
    expect(m, "d", simmachine_time(m), 0, ".a"); /* no later flush saves it */
    expect(m, "d", simmachine_time(m), 1, "b");
    do_write(d, 0, 1, 'c');
    do_flush(d);
    expect(m, "d", simmachine_time(m), 0, "c");
    simmachine_free(m);
}

static void test_truncate(void)
{
    SimMachine *m = simmachine_new();
    SimDisk *d = disk(m, "d", 4);

    do_write(d, 3, 1, 'a');
    do_flush(d);
    end(d, begin(d, SIM_TRUNCATE, 0, 8, 0));
    do_write(d, 7, 1, 'b');
    /* '-': beyond the end */
    expect(m, "d", simmachine_time(m), 7, ".-b");
    expect(m, "d", simmachine_time(m), 3, "a");
    do_flush(d);
    expect(m, "d", simmachine_time(m), 7, "b");
    end(d, begin(d, SIM_TRUNCATE, 0, 2, 0));
    expect(m, "d", simmachine_time(m), 3, "-a");
    end(d, begin(d, SIM_TRUNCATE, 0, 8, 0));
    expect(m, "d", simmachine_time(m), 3, ".-a");
    expect(m, "d", simmachine_time(m), 7, ".-b");
    do_flush(d);
    expect(m, "d", simmachine_time(m), 3, ".");
    expect(m, "d", simmachine_time(m), 7, ".");
    simmachine_free(m);
}

static void test_seed_decides(void)
{
    SimMachine *m = simmachine_new();
    SimDisk *d = disk(m, "d", 64);
    bool differ = false;

    for (unsigned i = 0; i < 20; i++) {
        do_write(d, i, 8, 'a' + i);
    }
    for (uint64_t seed = 0; seed < 50; seed++) {
        g_autoptr(GByteArray) one = rebuilt(m, "d", simmachine_time(m), seed);
        g_autoptr(GByteArray) two = rebuilt(m, "d", simmachine_time(m), seed);
        g_autoptr(GByteArray) next = rebuilt(m, "d", simmachine_time(m), seed + 8);

        g_assert_cmpmem(one->data, one->len, two->data, two->len);
        differ |= memcmp(one->data, next->data, one->len) != 0;
    }
    g_assert_true(differ);
    simmachine_free(m);
}

/* ---- all cases, by an oracle ---- */

#define SECTORS 6
#define OPS     24

typedef struct Event {
    SimTicket ticket;
    SimOpKind kind;
    unsigned sector, count;
    uint8_t byte;
    bool fails;
    uint64_t issued, applied, completed; /* 0: not yet */
} Event;

typedef struct History {
    Event events[OPS];
    unsigned n;
} History;

static bool touches(const Event *e, unsigned sector)
{
    return e->kind != SIM_FLUSH && sector >= e->sector && sector < e->sector + e->count;
}

static bool covered(const History *h, const Event *w, uint64_t t)
{
    for (unsigned i = 0; i < h->n; i++) {
        const Event *f = &h->events[i];
        bool spoilt = false;

        if (f->kind != SIM_FLUSH || f->fails || !f->completed || f->completed > t ||
            !w->completed || w->completed > f->issued) {
            continue;
        }
        for (unsigned j = 0; j < h->n; j++) {
            const Event *b = &h->events[j];

            spoilt |= b->kind == SIM_FLUSH && b->fails && b->issued > w->completed &&
                      b->issued < f->issued;
        }
        if (!spoilt) {
            return true;
        }
    }
    return false;
}

static void permitted(const History *h, unsigned sector, uint64_t t, bool ret_ok[256])
{
    const Event *base = NULL;

    memset(ret_ok, 0, 256);
    for (unsigned i = 0; i < h->n; i++) {
        const Event *w = &h->events[i];

        if (touches(w, sector) && !w->fails && w->issued <= t && covered(h, w, t) &&
            (!base || w->applied > base->applied)) {
            base = w;
        }
    }
    ret_ok[base ? base->byte : 0] = true;
    for (unsigned i = 0; i < h->n; i++) {
        const Event *w = &h->events[i];

        if (touches(w, sector) && !w->fails && w->issued <= t && !covered(h, w, t) &&
            (!w->completed || w->completed > t || !base || w->applied > base->applied)) {
            ret_ok[w->byte] = true;
        }
    }
}

static void random_history(SimMachine *m, SimDisk *d, History *h)
{
    unsigned open[OPS], n_open = 0;
    uint64_t applied = 0;

    h->n = 0;
    while (h->n < OPS || (n_open > 0 && g_test_rand_int_range(0, 4))) {
        if (h->n < OPS && (n_open == 0 || g_test_rand_int_range(0, 2))) {
            Event *e = &h->events[h->n];
            int what = g_test_rand_int_range(0, 8);

            *e = (Event){.byte = 'A' + h->n};
            e->kind = what < 5 ? SIM_WRITE : what < 6 ? SIM_ZERO : SIM_FLUSH;
            e->fails = g_test_rand_int_range(0, 10) == 0;
            if (e->kind != SIM_FLUSH) {
                e->sector = g_test_rand_int_range(0, SECTORS);
                e->count = g_test_rand_int_range(1, SECTORS - e->sector + 1);
            }
            if (e->kind == SIM_ZERO) {
                e->byte = 0;
            }
            simmachine_fail(m, e->fails ? h->n + 1 : 0, EIO);
            e->ticket = begin(d, e->kind, e->sector, e->count, e->byte);
            e->issued = simmachine_time(m);
            open[n_open++] = h->n++;
        } else {
            unsigned which = g_test_rand_int_range(0, n_open);
            Event *e = &h->events[open[which]];

            if (!e->applied && g_test_rand_int_range(0, 2)) {
                sim_apply(d, e->ticket);
                e->applied = ++applied;
                continue; /* completes some time later */
            }
            if (!e->applied) {
                sim_apply(d, e->ticket);
                e->applied = ++applied;
            }
            g_assert_cmpint(sim_complete(d, e->ticket), ==, e->fails ? -EIO : 0);
            e->completed = simmachine_time(m);
            open[which] = open[--n_open];
        }
    }
}

static void judge(SimMachine *m, const History *h, uint64_t t)
{
    bool ok[SECTORS][256], seen[SECTORS][256] = {{0}};
    unsigned missing = 0, seeds = 0;

    for (unsigned s = 0; s < SECTORS; s++) {
        permitted(h, s, t, ok[s]);
    }
    do {
        for (unsigned i = 0; i < 64; i++, seeds++) {
            g_autoptr(GByteArray) a = rebuilt(m, "d", t, seeds);

            g_assert_cmpint(a->len, ==, SECTORS);
            for (unsigned s = 0; s < SECTORS; s++) {
                g_assert_true(ok[s][a->data[s]]);
                seen[s][a->data[s]] = true;
            }
        }
        missing = 0;
        for (unsigned s = 0; s < SECTORS; s++) {
            for (unsigned b = 0; b < 256; b++) {
                missing += ok[s][b] && !seen[s][b];
            }
        }
    } while (missing && seeds < 20000);
    g_assert_cmpint(missing, ==, 0);
}

static void test_oracle(void)
{
    for (unsigned round = 0; round < 40; round++) {
        SimMachine *m = simmachine_new();
        SimDisk *d = disk(m, "d", SECTORS);
        History h;

        random_history(m, d, &h);
        judge(m, &h, simmachine_time(m));
        judge(m, &h, g_test_rand_int_range(0, simmachine_time(m) + 1));
        simmachine_free(m);
    }
}

/* ---- files ---- */

static void test_save_load(void)
{
    g_autofree char *again = g_strconcat(path, ".again", NULL);
    SimMachine *m = simmachine_new();
    SimDisk *d = disk(m, "d", 1 << 20); /* 512 MiB, nearly empty */
    g_autoptr(Error) err = NULL, err2 = NULL, err3 = NULL;
    uint64_t size;

    do_write(d, 77777, 9, 'w');
    do_write(d, (1 << 20) - 1, 1, 'z');
    g_assert_true(simmachine_save(m, "d", path, &err));
    g_assert_true(simmachine_load(m, "e", path, &err));
    g_assert_true(simmachine_size(m, "e", &size));
    g_assert_cmpint(size, ==, (1 << 20) * S);
    g_assert_true(simmachine_rebuild(m, simmachine_time(m), 0, "e", again, &err));
    {
        char *argv[] = {
            (char *)"qemu-img", (char *)"compare", (char *)"-q", (char *)"-f", (char *)"raw",
            (char *)"-F",       (char *)"raw",     path,         again,        NULL};
        int status;

        g_assert_true(g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL,
                                   &status, NULL));
        g_assert_cmpint(status, ==, 0);
    }
    g_assert_false(simmachine_load(m, "d", path, &err));
    g_assert_cmpstr(err->message, ==, "Simulated disk 'd' is in use or has a record");
    g_assert_false(simmachine_save(m, "none", path, &err2));
    g_assert_cmpstr(err2->message, ==, "There is no simulated disk 'none'");
    g_assert_false(simmachine_load(m, "f", "/proc", &err3));
    g_assert_cmpstr(err3->message, ==,
                    "Could not load a simulated disk from '/proc': Invalid argument");
    g_unlink(again);
    simmachine_free(m);
}

static void test_log(void)
{
    SimMachine *m = simmachine_new();
    SimDisk *d = disk(m, "d", 8);
    g_autofree char *text = NULL;
    g_autoptr(Error) err = NULL;

    g_assert_true(simmachine_set_log(m, path, &err));
    simmachine_fail(m, 2, ENOSPC);
    do_write(d, 1, 2, 'a');
    do_write(d, 0, 1, 'b');
    do_flush(d);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==,
                    "1 d write 512 1024 1 2 0\n2 d write 0 512 3 4 -28\n"
                    "3 d flush 0 0 5 6 0\n");
    g_assert_false(simmachine_set_log(m, "/nowhere/log", &err));
    g_assert_cmpstr(err->message, ==, "Could not open '/nowhere/log': No such file or directory");
    simmachine_free(m);
}

/* ---- threads ---- */

static void *hammer(void *opaque)
{
    SimDisk *d = opaque;

    for (unsigned i = 0; i < 300; i++) {
        uint8_t buf[S];

        g_assert_cmpint(do_write(d, i % 16, 1 + i % 3, 'a' + i % 26), ==, 0);
        g_assert_cmpint(sim_read(d, (i % 16) * S, buf, S), ==, 0);
        if (i % 10 == 0) {
            g_assert_cmpint(do_flush(d), ==, 0);
        }
    }
    return NULL;
}

static void test_threads(void)
{
    SimMachine *m = simmachine_new();
    SimDisk *d = disk(m, "d", 64), *e = disk(m, "e", 64);
    pthread_t threads[4];

    for (unsigned i = 0; i < 4; i++) {
        pthread_create(&threads[i], NULL, hammer, i & 1 ? d : e);
    }
    for (unsigned i = 0; i < 20; i++) {
        g_autoptr(GByteArray) a = rebuilt(m, "d", simmachine_time(m), i);

        g_assert_cmpint(a->len, ==, 64);
    }
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    g_assert_cmpint(simmachine_ops(m), ==, 4 * 330);
    simmachine_reset(m);
    g_assert_cmpint(simmachine_ops(m), ==, 0);
    simmachine_free(m);
}

int main(int argc, char **argv)
{
    g_autofree char *dir = g_dir_make_tmp("test-sim-machine-XXXXXX", NULL);
    int ret;

    g_test_init(&argc, &argv, NULL);
    path = g_build_filename(dir, "image", NULL);
    g_test_add_func("/sim-machine/operations", test_operations);
    g_test_add_func("/sim-machine/fail", test_fail);
    g_test_add_func("/sim-machine/stop", test_stop);
    g_test_add_func("/sim-machine/flush-covers", test_flush_covers);
    g_test_add_func("/sim-machine/order", test_order);
    g_test_add_func("/sim-machine/together", test_together);
    g_test_add_func("/sim-machine/torn", test_torn);
    g_test_add_func("/sim-machine/failed-flush", test_failed_flush);
    g_test_add_func("/sim-machine/truncate", test_truncate);
    g_test_add_func("/sim-machine/seed-decides", test_seed_decides);
    g_test_add_func("/sim-machine/oracle", test_oracle);
    g_test_add_func("/sim-machine/save-load", test_save_load);
    g_test_add_func("/sim-machine/log", test_log);
    g_test_add_func("/sim-machine/threads", test_threads);
    ret = g_test_run();
    g_unlink(path);
    g_rmdir(dir);
    g_free(path);
    return ret;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Dirty bitmaps: marks against a model, recording beside writers on two threads (D1), pace.
 */
#include "block/dirty-bitmap.h"
#include "node-test.h"
#include <stdlib.h>
#include <string.h>

#define GRANULE  512u
#define GRANULES 64u

static void coroutine_fn test_marks(void)
{
    uint64_t size = 1000 * GRANULE + 100;
    DirtyBitmap *b = dirty_bitmap_new(size, GRANULE);
    g_autofree bool *model = g_new0(bool, 1001);

    for (int round = 0; round < 20000; round++) {
        uint64_t offset = g_test_rand_int_range(0, (int)size + 2000), from, len;
        uint64_t bytes = g_test_rand_int_range(0, round % 10 ? 3000 : 300000);
        bool set = g_test_rand_bit(), found;
        unsigned count = 0, first = 1001, end;

        (set ? dirty_bitmap_set : dirty_bitmap_clear)(b, offset, bytes);
        for (uint64_t g = 0; g < 1001; g++) {
            if (bytes > 0 && g * GRANULE < offset + bytes &&
                offset < MIN((g + 1) * GRANULE, size)) {
                model[g] = set;
            }
            count += model[g];
        }
        g_assert_cmpuint(dirty_bitmap_count(b), ==, (uint64_t)count * GRANULE);
        from = (uint64_t)g_test_rand_int_range(0, 1002) * GRANULE;
        for (unsigned g = from / GRANULE; g < 1001 && first == 1001; g++) {
            first = model[g] ? g : 1001;
        }
        found = dirty_bitmap_next(b, from, 16 * GRANULE, &offset, &len);
        g_assert_cmpint(found, ==, first < 1001);
        if (found) {
            for (end = first; end < 1001 && end < first + 16 && model[end]; end++) {
            }
            g_assert_cmpuint(offset, ==, (uint64_t)first * GRANULE);
            g_assert_cmpuint(len, ==, MIN((uint64_t)end * GRANULE, size) - offset);
        }
    }
    dirty_bitmap_free(b);
}

static Node *coroutine_fn open_file(void)
{
    const char *name = node_test_file("disk");
    g_autofree char *zeroes = g_malloc0(GRANULE * GRANULES);

    g_assert(g_file_set_contents(name, zeroes, GRANULE * GRANULES, NULL));
    return node_test_open("{'driver':'file','node-name':'f','filename':'%s','discard':'unmap'}",
                          name);
}

static void coroutine_fn test_what_is_recorded(void)
{
    g_autoptr(Node) n = open_file();
    Edge *e = node_test_attach(n, PERM_ALL, PERM_ALL);
    DirtyBitmap *a = dirty_bitmap_new(GRANULE * GRANULES, GRANULE),
                *b = dirty_bitmap_new(GRANULE * GRANULES, GRANULE);
    uint64_t offset, len;

    g_assert_cmpint(test_fill(e, 0, 1, GRANULE), ==, 0);
    node_record(n, a);
    g_assert_cmpint(test_fill(e, 3 * GRANULE + 5, 1, GRANULE), ==, 0);
    node_record(n, b);
    g_assert_cmpint(test_zero(e, 10 * GRANULE, GRANULE, 0), ==, 0);
    test_expect(e, 20 * GRANULE, 0, GRANULE);
    g_assert_cmpint(test_flush(e), ==, 0);
    g_assert_cmpuint(dirty_bitmap_count(a), ==, 3 * GRANULE);
    g_assert(dirty_bitmap_next(a, 0, 16 * GRANULE, &offset, &len) && offset == 3 * GRANULE &&
             len == 2 * GRANULE);
    g_assert_cmpuint(dirty_bitmap_count(b), ==, GRANULE);
    node_unrecord(n, a);
    g_assert_cmpint(test_discard(e, 30 * GRANULE, 8 * GRANULE), ==, 0);
    g_assert_cmpuint(dirty_bitmap_count(a), ==, 3 * GRANULE);
    g_assert_cmpuint(dirty_bitmap_count(b), ==, 9 * GRANULE);
    node_unrecord(n, b);
    dirty_bitmap_free(a);
    dirty_bitmap_free(b);
    edge_detach(e);
}

/* ---- D1 ---- */

typedef struct Writer {
    Edge *edge;
    unsigned seed;
    _Atomic bool *stop;
    CoGroup *group;
} Writer;

static void coroutine_fn writer(void *opaque)
{
    Writer *w = opaque;
    GRand *rand = g_rand_new_with_seed(w->seed);
    uint8_t buf[GRANULE];

    while (!atomic_load(w->stop)) {
        Request r;

        memset(buf, g_rand_int_range(rand, 0, 256), sizeof(buf));
        request_begin(&r, REQUEST_WRITE);
        g_assert_cmpint(edge_pwrite(w->edge, &r,
                                    guest((uint64_t)g_rand_int_range(rand, 0, GRANULES) * GRANULE),
                                    buf, sizeof(buf), 0),
                        ==, 0);
        request_end(&r);
    }
    g_rand_free(rand);
    co_group_done(w->group);
}

/* Who clears a mark and then reads has, in the end, the contents of all that is not marked. */
static void coroutine_fn marks_or_data(void)
{
    g_autoptr(Node) n = open_file();
    Edge *e = node_test_attach(n, PERM_ALL, PERM_ALL);
    DirtyBitmap *b = dirty_bitmap_new(GRANULE * GRANULES, GRANULE);
    uint8_t copy[GRANULES][GRANULE] = {{0}}, now[GRANULE];
    _Atomic bool stop = false;
    Writer w[2];
    CoGroup group;
    uint64_t offset, len;

    node_record(n, b);
    co_group_init(&group);
    co_group_add(&group, 2);
    for (unsigned i = 0; i < 2; i++) {
        w[i] = (Writer){.edge = e, .seed = i, .stop = &stop, .group = &group};
        co_spawn(test_loop(i ? TEST_THREAD_1 : TEST_THREAD_0), writer, &w[i]);
    }
    node_test_use(TEST_CONTROL);
    for (int round = 0; round < 500; round++) {
        if (dirty_bitmap_next(b, (uint64_t)g_test_rand_int_range(0, GRANULES) * GRANULE, GRANULE,
                              &offset, &len)) {
            dirty_bitmap_clear(b, offset, len);
            g_assert_cmpint(test_read(e, offset, copy[offset / GRANULE], GRANULE), ==, 0);
        }
        co_reschedule();
    }
    atomic_store(&stop, true);
    co_group_wait(&group);
    co_group_destroy(&group);
    for (uint64_t g = 0; g < GRANULES; g++) {
        bool marked =
            dirty_bitmap_next(b, g * GRANULE, GRANULE, &offset, &len) && offset == g * GRANULE;

        g_assert_cmpint(test_read(e, g * GRANULE, now, GRANULE), ==, 0);
        g_assert(marked || memcmp(now, copy[g], GRANULE) == 0);
    }
    node_unrecord(n, b);
    dirty_bitmap_free(b);
    edge_detach(e);
}

static void coroutine_fn test_marks_or_data(void)
{
    for (int i = 0; i < 20; i++) {
        marks_or_data();
    }
}

/* ---- pace ---- */

static void coroutine_fn end_pace(void *opaque)
{
    co_sleep_ns(20000000);
    node_set_pace(opaque, 0, 0);
}

static void coroutine_fn test_pace(void)
{
    g_autoptr(Node) n = open_file();
    Edge *e = node_test_attach(n, PERM_ALL, PERM_ALL);
    int64_t began = clock_ns();

    node_test_use(TEST_THREAD_0);
    node_set_pace(n, 50000000, INT64_MAX);
    g_assert_cmpint(test_fill(e, 0, 1, GRANULE), ==, 0);
    g_assert_cmpint(clock_ns() - began, >=, 50000000);
    /* Those that wait go on when it ends, or when its time is over. */
    node_set_pace(n, INT64_C(1000000000000), INT64_MAX);
    co_start(end_pace, n);
    g_assert_cmpint(test_fill(e, 0, 1, GRANULE), ==, 0);
    node_set_pace(n, INT64_C(1000000000000), clock_ns() + 20000000);
    g_assert_cmpint(test_fill(e, 0, 1, GRANULE), ==, 0);
    node_set_pace(n, 0, 0);
    node_test_use(TEST_CONTROL);
    edge_detach(e);
}

int main(int argc, char **argv)
{
    int ret;

    node_test_init();
    g_test_init(&argc, &argv, NULL);
    node_test_add("/dirty-bitmap/marks", test_marks);
    node_test_add("/dirty-bitmap/what-is-recorded", test_what_is_recorded);
    node_test_add("/dirty-bitmap/marks-or-data", test_marks_or_data);
    node_test_add("/dirty-bitmap/pace", test_pace);
    ret = g_test_run();
    node_test_end();
    return ret;
}

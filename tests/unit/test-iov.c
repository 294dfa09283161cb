/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * I/O vectors against flat memory: slices, copies, zero tests, with random pieces.
 */
#include "util/iov.h"
#include <stdlib.h>
#include <string.h>

#define SIZE 5000

typedef struct Pieces {
    uint8_t *memory;
    struct iovec iov[40];
    unsigned n;
} Pieces;

/* Pieces in random order and of random lengths, some of them empty, SIZE bytes together. */
static void pieces_init(Pieces *p, unsigned max_pieces)
{
    size_t left = SIZE, at = 0;

    p->memory = g_malloc(SIZE);
    p->n = g_test_rand_int_range(1, max_pieces + 1);
    for (unsigned i = 0; i < p->n; i++) {
        size_t len = i == p->n - 1 ? left : (size_t)g_test_rand_int_range(0, left + 1);

        if (g_test_rand_int_range(0, 8) == 0 && i < p->n - 1) {
            len = 0;
        }
        p->iov[i] = (struct iovec){p->memory + at, len};
        at += len;
        left -= len;
    }
    for (unsigned i = p->n - 1; i > 0; i--) {
        unsigned j = g_test_rand_int_range(0, i + 1);
        struct iovec t = p->iov[i];

        p->iov[i] = p->iov[j];
        p->iov[j] = t;
    }
}

static void fill_random(uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        buf[i] = g_test_rand_int();
    }
}

static void random_range(size_t *offset, size_t *len)
{
    *offset = g_test_rand_int_range(0, SIZE + 1);
    *len = g_test_rand_int_range(0, SIZE - *offset + 1);
}

static void test_copies(void)
{
    for (unsigned round = 0; round < 500; round++) {
        g_auto(IoVector) v = {0};
        uint8_t flat[SIZE], copy[SIZE], part[SIZE];
        size_t offset, len;
        Pieces p;

        pieces_init(&p, 40);
        iov_init_external(&v, p.iov, p.n);
        g_assert_cmpuint(v.size, ==, SIZE);
        fill_random(flat, SIZE);
        iov_from_buf(&v, 0, flat, SIZE);
        iov_to_buf(&v, 0, copy, SIZE);
        g_assert_cmpmem(flat, SIZE, copy, SIZE);

        random_range(&offset, &len);
        iov_to_buf(&v, offset, part, len);
        g_assert_cmpmem(flat + offset, len, part, len);
        fill_random(part, len);
        iov_from_buf(&v, offset, part, len);
        memcpy(flat + offset, part, len);

        random_range(&offset, &len);
        iov_memset(&v, offset, 0x5a, len);
        memset(flat + offset, 0x5a, len);
        iov_to_buf(&v, 0, copy, SIZE);
        g_assert_cmpmem(flat, SIZE, copy, SIZE);
        g_free(p.memory);
    }
}

static void test_slices(void)
{
    for (unsigned round = 0; round < 2000; round++) {
        g_auto(IoVector) v = {0}, slice = {0}, slice2 = {0};
        uint8_t flat[SIZE], copy[SIZE];
        size_t offset, len, offset2, len2, total = 0;
        unsigned pieces = 0;
        Pieces p;

        pieces_init(&p, round % 2 ? 6 : 40);
        iov_init_external(&v, p.iov, p.n);
        fill_random(flat, SIZE);
        iov_from_buf(&v, 0, flat, SIZE);
        random_range(&offset, &len);
        iov_init_slice(&slice, &v, offset, len);
        g_assert_cmpuint(slice.size, ==, len);
        iov_to_buf(&slice, 0, copy, len);
        g_assert_cmpmem(flat + offset, len, copy, len);
        for (unsigned i = 0; i < slice.niov; i++) {
            g_assert_cmpuint(slice.iov[i].iov_len, >, 0);
            total += slice.iov[i].iov_len;
            pieces++;
        }
        g_assert_cmpuint(total, ==, len);
        if (slice.heap) {
            /* Only what does not fit; empty pieces may have been counted. */
            g_assert_cmpuint(pieces + p.n, >, G_N_ELEMENTS(slice.local));
        } else {
            g_assert_true(slice.iov == slice.local);
        }
        offset2 = g_test_rand_int_range(0, len + 1);
        len2 = g_test_rand_int_range(0, len - offset2 + 1);
        iov_init_slice(&slice2, &slice, offset2, len2);
        iov_to_buf(&slice2, 0, copy, len2);
        g_assert_cmpmem(flat + offset + offset2, len2, copy, len2);
        g_free(p.memory);
    }
}

/* A short slice of a long vector allocates nothing. */
static void test_small_slice(void)
{
    g_auto(IoVector) v = {0}, slice = {0};
    struct iovec iov[100];
    char memory[1000];

    for (unsigned i = 0; i < 100; i++) {
        iov[i] = (struct iovec){memory + 10 * i, 10};
    }
    iov_init_external(&v, iov, 100);
    iov_init_slice(&slice, &v, 15, 30);
    g_assert_cmpuint(slice.niov, ==, 4);
    g_assert_null(slice.heap);
    g_assert_true(slice.iov[0].iov_base == memory + 15);
    g_assert_cmpuint(slice.iov[3].iov_len, ==, 5);
}

static void test_zero(void)
{
    g_autofree uint8_t *buf = g_malloc0(4096 + 64);

    for (size_t len = 0; len < 300; len++) {
        for (size_t at = 0; at < 9; at++) {
            g_assert_true(buffer_is_zero(buf + at, len));
            for (size_t i = 0; i < len; i++) {
                buf[at + i] = 0x80;
                g_assert_false(buffer_is_zero(buf + at, len));
                buf[at + i] = 0;
            }
            /* The neighbours do not matter. */
            buf[at + len] = 1;
            g_assert_true(buffer_is_zero(buf + at, len));
            buf[at + len] = 0;
        }
    }
    for (unsigned i = 0; i < 1000; i++) {
        size_t at = g_test_rand_int_range(0, 4096);

        buf[at] = 1;
        g_assert_false(buffer_is_zero(buf, 4096));
        buf[at] = 0;
        g_assert_true(buffer_is_zero(buf, 4096));
    }
}

static void test_zero_vector(void)
{
    Pieces p;
    g_auto(IoVector) v = {0};

    pieces_init(&p, 20);
    iov_init_external(&v, p.iov, p.n);
    iov_memset(&v, 0, 0, SIZE);
    g_assert_true(iov_is_zero(&v));
    for (unsigned i = 0; i < 200; i++) {
        size_t at = g_test_rand_int_range(0, SIZE);

        p.memory[at] = 1;
        g_assert_false(iov_is_zero(&v));
        p.memory[at] = 0;
        g_assert_true(iov_is_zero(&v));
    }
    g_free(p.memory);
}

static void test_aligned(void)
{
    struct iovec iov[] = {{(void *)0x1000, 0x200}, {(void *)0x3000, 0x1000}};
    g_auto(IoVector) v = {0};

    iov_init_external(&v, iov, 2);
    g_assert_true(iov_is_aligned(&v, 1));
    g_assert_true(iov_is_aligned(&v, 0x200));
    g_assert_false(iov_is_aligned(&v, 0x400));
    iov[1].iov_base = (void *)0x3100;
    g_assert_false(iov_is_aligned(&v, 0x200));
    iov[1].iov_base = (void *)0x3200;
    g_assert_true(iov_is_aligned(&v, 0x200));
}

static void test_buf(void)
{
    char memory[10] = "123456789", out[10];
    g_auto(IoVector) v = {0};

    iov_init_buf(&v, memory, sizeof(memory));
    g_assert_cmpuint(v.size, ==, 10);
    g_assert_cmpuint(v.niov, ==, 1);
    iov_from_buf(&v, 2, "xy", 2);
    iov_to_buf(&v, 0, out, 10);
    g_assert_cmpstr(out, ==, "12xy56789");
}

static void test_range_checked(void)
{
    if (g_test_subprocess()) {
        char memory[10];
        IoVector v, slice;

        iov_init_buf(&v, memory, sizeof(memory));
        iov_init_slice(&slice, &v, 5, SIZE_MAX - 2);
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr("*iov_init_slice: assertion failed*");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/iov/buf", test_buf);
    g_test_add_func("/iov/copies", test_copies);
    g_test_add_func("/iov/slices", test_slices);
    g_test_add_func("/iov/small-slice", test_small_slice);
    g_test_add_func("/iov/zero", test_zero);
    g_test_add_func("/iov/zero-vector", test_zero_vector);
    g_test_add_func("/iov/aligned", test_aligned);
    g_test_add_func("/iov/range-checked", test_range_checked);
    return g_test_run();
}

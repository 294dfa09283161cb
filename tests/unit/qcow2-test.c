/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * See qcow2-test.h.
 */
#include "qcow2-test.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int run_shell(const char *fmt, va_list ap)
{
    g_autofree char *cmd = g_strdup_vprintf(fmt, ap), *err = NULL;
    const char *const argv[] = {"/bin/sh", "-c", cmd, NULL};
    int status = test_spawn(argv, &err);

    if (status != 0 && status != 3 && err && err[0]) {
        g_test_message("%s: %s", cmd, err);
    }
    return status;
}

int shell_status(const char *fmt, ...)
{
    va_list ap;
    int status;

    va_start(ap, fmt);
    status = run_shell(fmt, ap);
    va_end(ap);
    return status;
}

void shell(const char *fmt, ...)
{
    va_list ap;
    int status;

    va_start(ap, fmt);
    status = run_shell(fmt, ap);
    va_end(ap);
    if (status != 0) {
        g_error("status %d: %s", status, fmt);
    }
}

/* ---- model ---- */

void model_load(Model *m, const char *image, const char *format)
{
    g_autofree char *raw = g_strdup_printf("%s.raw", image);
    gsize len;

    shell("qemu-img convert -f %s -O raw '%s' '%s'", format, image, raw);
    g_assert_true(g_file_get_contents(raw, (char **)&m->data, &len, NULL));
    m->size = len;
    unlink(raw);
}

void model_clear(Model *m)
{
    g_free(m->data);
    *m = (Model){0};
}

static void compare(const uint8_t *have, const uint8_t *want, uint64_t offset, uint64_t len)
{
    if (memcmp(have, want, len) != 0) {
        uint64_t i = 0;

        while (have[i] == want[i]) {
            i++;
        }
        g_error("byte 0x%" G_GINT64_MODIFIER "x is %#x, not %#x", offset + i, have[i], want[i]);
    }
}

void coroutine_fn model_compare(Edge *e, const Model *m)
{
    g_autofree uint8_t *buf = g_malloc(1 << 20);

    for (uint64_t at = 0; at < m->size; at += 1 << 20) {
        uint64_t len = MIN(m->size - at, 1 << 20);

        g_assert_cmpint(test_read(e, at, buf, len), ==, 0);
        compare(buf, m->data + at, at, len);
    }
}

void model_judge(const char *image, const Model *m)
{
    Model file = {0};

    g_assert_cmpint(shell_status("qemu-img check -q -f qcow2 '%s'", image), ==, 0);
    model_load(&file, image, "qcow2");
    g_assert_cmpuint(file.size, ==, m->size);
    compare(file.data, m->data, 0, m->size);
    model_clear(&file);
}

/* ---- random requests ---- */

typedef struct Worker {
    const Fuzz *f;
    unsigned id;
    GRand *rand;
    uint8_t *buf;
    CoGroup *done;
} Worker;

#define INTERLEAVED (64 * 1024) /* bytes at the start of the disk */
#define LONGEST     (200 * 1024)

/* A piece of what the worker owns; true: a single sector of the interleaved part. */
static bool choose(Worker *w, uint64_t *ret_offset, uint64_t *ret_len)
{
    const Fuzz *f = w->f;
    uint64_t rest = f->model->size - INTERLEAVED, part = (rest / f->workers) & ~UINT64_C(511);
    uint64_t start = INTERLEAVED + w->id * part, len, unit = f->ops & FUZZ_TINY ? 1 : 512;

    if (g_rand_int_range(w->rand, 0, 4) == 0) {
        uint64_t n = INTERLEAVED / 512 / f->workers;

        *ret_offset = (g_rand_int_range(w->rand, 0, n) * f->workers + w->id) * 512;
        *ret_len = 512;
        return true;
    }
    len = g_rand_int_range(w->rand, 0, 3) ? 1 + g_rand_int_range(w->rand, 0, 8192)
                                          : 1 + g_rand_int_range(w->rand, 0, LONGEST);
    len = MIN((len + unit - 1) / unit * unit, part);
    *ret_offset = start + (uint64_t)(g_rand_double(w->rand) * (part - len)) / unit * unit;
    *ret_len = len;
    return false;
}

static void fill(Worker *w, uint64_t len)
{
    for (uint64_t i = 0; i < len; i += 4) {
        uint32_t v = g_rand_int(w->rand) | 1;

        memcpy(w->buf + i, &v, MIN(4, len - i));
    }
}

static void coroutine_fn one_request(Worker *w)
{
    const Fuzz *f = w->f;
    uint64_t offset, len;
    bool single = choose(w, &offset, &len);
    int kind = g_rand_int_range(w->rand, 0, 20), ret = 0;
    RequestKind rk = kind < 6 ? REQUEST_READ : REQUEST_WRITE;
    Request r;

    request_begin(&r, rk);
    if (kind < 6) {
        ret = edge_pread(f->edge, &r, guest(offset), w->buf, len, 0);
        g_assert_cmpint(ret, ==, 0);
        compare(w->buf, f->model->data + offset, offset, len);
    } else if (kind == 6 && (f->ops & FUZZ_FLUSH)) {
        ret = edge_flush(f->edge, &r);
    } else if (kind <= 8 && (f->ops & FUZZ_ZERO)) {
        ret = edge_pwrite_zeroes(f->edge, &r, guest(offset), len, kind == 7 ? REQ_MAY_UNMAP : 0);
        memset(f->model->data + offset, 0, len);
    } else if (kind <= 10 && (f->ops & FUZZ_DISCARD) && !single) {
        uint64_t from = (offset + f->cluster - 1) / f->cluster * f->cluster;
        uint64_t to = (offset + len) / f->cluster * f->cluster;

        ret = edge_pdiscard(f->edge, &r, guest(offset), len);
        if (from < to && !f->discard_shows_backing) {
            memset(f->model->data + from, 0, to - from);
        }
    } else {
        fill(w, len);
        ret = edge_pwrite(f->edge, &r, guest(offset), w->buf, len, kind == 19 ? REQ_FUA : 0);
        memcpy(f->model->data + offset, w->buf, len);
    }
    request_end(&r);
    g_assert_cmpint(ret, ==, 0);
}

static void coroutine_fn worker_main(void *opaque)
{
    Worker *w = opaque;

    for (unsigned i = 0; i < w->f->requests; i++) {
        one_request(w);
    }
    co_group_done(w->done);
}

void coroutine_fn fuzz_run(const Fuzz *f)
{
    g_autofree Worker *workers = g_new0(Worker, f->workers);
    CoGroup done;

    co_group_init(&done);
    co_group_add(&done, f->workers);
    for (unsigned i = 0; i < f->workers; i++) {
        workers[i] = (Worker){
            .f = f,
            .id = i,
            .rand = g_rand_new_with_seed(f->seed * 1000 + i),
            .buf = g_malloc(LONGEST + 4096),
            .done = &done,
        };
        co_spawn(test_loop(TEST_THREAD_0 + i % 2), worker_main, &workers[i]);
    }
    co_group_wait(&done);
    co_group_destroy(&done);
    for (unsigned i = 0; i < f->workers; i++) {
        g_rand_free(workers[i].rand);
        g_free(workers[i].buf);
    }
}

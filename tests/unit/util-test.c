/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Help for the tests of util/; see the header.
 */
#include "util-test.h"
#include "util/co-lock.h"
#include "util/rcu.h"
#include <unistd.h>

#define HANG_SECONDS 100

void util_test_init(int *argc, char ***argv)
{
    g_test_init(argc, argv, NULL);
    rcu_init_process();
    loop_control_init();
}

typedef struct Body {
    CoroutineFn *fn;
    void *opaque;
    GMainLoop *main_loop;
} Body;

static void coroutine_fn run_body(void *opaque)
{
    Body *b = opaque;

    b->fn(b->opaque);
    g_main_loop_quit(b->main_loop);
}

static void in_coroutine(CoroutineFn *fn, void *opaque)
{
    Body b = {.fn = fn, .opaque = opaque, .main_loop = g_main_loop_new(NULL, false)};

    alarm(HANG_SECONDS);
    co_spawn(loop_control(), run_body, &b);
    g_main_loop_run(b.main_loop);
    g_main_loop_unref(b.main_loop);
    alarm(0);
}

static void run_test(gconstpointer data)
{
    in_coroutine((CoroutineFn *)data, NULL);
}

void util_test_add(const char *path, CoroutineFn *body)
{
    g_test_add_data_func(path, (gconstpointer)body, run_test);
}

IOThread *util_test_iothread(void)
{
    g_autoptr(Error) err = NULL;
    IOThread *t = iothread_new("test", &err);

    if (!t) {
        g_error("%s", err->message);
    }
    return t;
}

typedef struct RunOn {
    CoroutineFn *fn;
    void *opaque;
    CoGroup group;
} RunOn;

static void coroutine_fn run_on(void *opaque)
{
    RunOn *r = opaque;

    r->fn(r->opaque);
    co_group_done(&r->group);
}

void coroutine_fn util_test_run_on(Loop *loop, CoroutineFn *fn, void *opaque)
{
    RunOn r = {.fn = fn, .opaque = opaque};

    co_group_init(&r.group);
    co_group_add(&r.group, 1);
    co_spawn(loop, run_on, &r);
    co_group_wait(&r.group);
    co_group_destroy(&r.group);
}

static void coroutine_fn io_body(void *opaque)
{
    IOThread *t = util_test_iothread();

    util_test_run_on(iothread_loop(t), (CoroutineFn *)opaque, NULL);
    iothread_free(t);
}

static void run_io_test(gconstpointer data)
{
    in_coroutine(io_body, (void *)data);
}

void util_test_add_loops(const char *path, CoroutineFn *body)
{
    g_autofree char *control = g_strdup_printf("%s/control", path);
    g_autofree char *io = g_strdup_printf("%s/io", path);

    util_test_add(control, body);
    g_test_add_data_func(io, (gconstpointer)body, run_io_test);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * I/O threads: how many there can be, what they leave behind, how they end, their properties.
 */
#include "util-test.h"
#include "util/co-lock.h"
#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static unsigned descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    while (readdir(d)) {
        n++;
    }
    closedir(d);
    return n;
}

/* As many as there are slots, each with one of its own; then a clear error; slots are used again. */
static void test_slots(void)
{
    for (unsigned round = 0; round < 2; round++) {
        g_autoptr(Error) err = NULL;
        IOThread *t[LOOP_SLOTS];
        bool seen[LOOP_SLOTS] = {false};
        unsigned before = descriptors();

        seen[loop_slot(loop_control())] = true;
        for (unsigned i = 0; i < LOOP_SLOTS - 1; i++) {
            unsigned slot;

            t[i] = util_test_iothread();
            slot = loop_slot(iothread_loop(t[i]));
            g_assert_cmpuint(slot, <, LOOP_SLOTS);
            g_assert(!seen[slot]);
            seen[slot] = true;
        }
        g_assert_null(iothread_new("one too many", &err));
        g_assert_cmpint(err->kind, ==, ERROR_LIMIT);
        g_assert_cmpstr(err->message, ==, "Too many I/O threads: at most 63 are supported");
        for (unsigned i = 0; i < LOOP_SLOTS - 1; i++) {
            iothread_free(t[i]);
        }
        g_assert_cmpuint(descriptors(), ==, before);
    }
}

static void test_no_descriptors(void)
{
    struct rlimit saved, few = {0};
    unsigned failed = 0;

    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &saved), ==, 0);
    few.rlim_max = saved.rlim_max;
    /* Whatever a loop opens first, second, ... is the one that there is no room for. */
    for (few.rlim_cur = 3; few.rlim_cur < 40; few.rlim_cur++) {
        g_autoptr(Error) err = NULL;
        IOThread *t;

        g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &few), ==, 0);
        t = iothread_new("x", &err);
        g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &saved), ==, 0);
        if (t) {
            iothread_free(t);
            break;
        }
        g_assert_nonnull(strstr(err->message, "Too many open files"));
        failed++;
    }
    g_assert_cmpuint(failed, >, 0);
    g_assert_cmpuint(few.rlim_cur, <, 40);
}

static void test_users(void)
{
    IOThread *t = util_test_iothread();

    g_assert_cmpstr(iothread_id(t), ==, "test");
    g_assert_cmpuint(iothread_users(t), ==, 0);
    g_assert(iothread_ref(t) == t);
    iothread_ref(t);
    g_assert_cmpuint(iothread_users(t), ==, 2);
    iothread_unref(t);
    iothread_unref(t);
    g_assert_cmpuint(iothread_users(t), ==, 0);
    iothread_free(t);
}

static void count(void *opaque)
{
    ++*(unsigned *)opaque;
}

static void coroutine_fn sleeps_and_counts(void *opaque)
{
    co_sleep_ns(20000000);
    count(opaque);
}

/* What is queued runs, and coroutines come to their end, before the thread ends. */
static void test_end(void)
{
    for (unsigned round = 0; round < 20; round++) {
        IOThread *t = util_test_iothread();
        unsigned n = 0;

        for (unsigned i = 0; i < 100; i++) {
            loop_call(iothread_loop(t), count, &n);
        }
        co_spawn(iothread_loop(t), sleeps_and_counts, &n);
        iothread_free(t);
        g_assert_cmpuint(n, ==, 101);
    }
}

static void coroutine_fn never_ends(void *opaque)
{
    (void)opaque;
    co_yield();
}

/* A thread that cannot end is left behind; the process goes on. */
static void test_stuck(void)
{
    if (g_test_subprocess()) {
        IOThread *t = util_test_iothread();

        co_spawn(iothread_loop(t), never_ends, NULL);
        iothread_free(t);
        _exit(0);
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
    g_test_trap_assert_stderr(
        "*error: I/O thread 'test' does not end: requests on it have not ended\n");
}

typedef struct Name {
    char name[32];
    bool signals_blocked;
} Name;

static void coroutine_fn looks_at_thread(void *opaque)
{
    Name *n = opaque;
    sigset_t set;

    pthread_getname_np(pthread_self(), n->name, sizeof(n->name));
    pthread_sigmask(SIG_SETMASK, NULL, &set);
    n->signals_blocked = sigismember(&set, SIGTERM) && sigismember(&set, SIGCHLD);
}

static void coroutine_fn test_thread(void *opaque)
{
    g_autoptr(Error) err = NULL;
    IOThread *t = iothread_new("a name that is far too long", &err);
    Name n;

    (void)opaque;
    g_assert_nonnull(t);
    util_test_run_on(iothread_loop(t), looks_at_thread, &n);
    g_assert_cmpstr(n.name, ==, "IO a name that ");
    g_assert(n.signals_blocked);
    iothread_free(t);
}

static void expect_error(IOThread *t, const IOThreadParams *p, const char *message)
{
    g_autoptr(Error) err = NULL;
    IOThreadParams before, after;

    iothread_get_params(t, &before);
    g_assert(!iothread_set_params(t, p, &err));
    g_assert_cmpstr(err->message, ==, message);
    iothread_get_params(t, &after);
    g_assert_cmpmem(&before, sizeof(before), &after, sizeof(after));
}

static void test_params(void)
{
    IOThread *t = util_test_iothread();
    g_autoptr(Error) err = NULL;
    IOThreadParams p, q;

    iothread_get_params(t, &p);
    g_assert_cmpint(p.poll_max_ns, ==, 0);
    g_assert_cmpint(p.aio_max_batch, ==, 0);
    g_assert_cmpint(p.thread_pool_min, ==, 0);
    g_assert_cmpint(p.thread_pool_max, ==, 64);
    p = (IOThreadParams){INT64_MAX, 2, 3, INT64_MAX, 5, 5};
    g_assert(iothread_set_params(t, &p, &err));
    iothread_get_params(t, &q);
    g_assert_cmpmem(&p, sizeof(p), &q, sizeof(q));

    const char *pool = "bad thread-pool-min/thread-pool-max values";
#define RANGE " value must be in range [0, 9223372036854775807]"

    expect_error(t, &(IOThreadParams){.poll_max_ns = -1, .thread_pool_max = 1},
                 "poll-max-ns" RANGE);
    expect_error(t, &(IOThreadParams){.poll_grow = -1, .thread_pool_max = 1}, "poll-grow" RANGE);
    expect_error(t, &(IOThreadParams){.poll_shrink = -1, .thread_pool_max = 1},
                 "poll-shrink" RANGE);
    expect_error(t, &(IOThreadParams){.aio_max_batch = -1, .thread_pool_max = 1},
                 "aio-max-batch" RANGE);
    expect_error(t, &(IOThreadParams){.thread_pool_max = 0}, pool);
    expect_error(t, &(IOThreadParams){.thread_pool_min = -1, .thread_pool_max = 1}, pool);
    expect_error(t, &(IOThreadParams){.thread_pool_min = 3, .thread_pool_max = 2}, pool);
    expect_error(t, &(IOThreadParams){.thread_pool_max = INT64_C(1) << 31}, pool);
    iothread_free(t);
}

int main(int argc, char **argv)
{
    util_test_init(&argc, &argv);
    g_test_add_func("/iothread/slots", test_slots);
    g_test_add_func("/iothread/no-descriptors", test_no_descriptors);
    g_test_add_func("/iothread/users", test_users);
    g_test_add_func("/iothread/end", test_end);
    g_test_add_func("/iothread/stuck", test_stuck);
    util_test_add("/iothread/thread", test_thread);
    g_test_add_func("/iothread/params", test_params);
    return g_test_run();
}

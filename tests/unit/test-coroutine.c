/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Coroutines: order of running, wakes before and after the yield and from elsewhere, many of them, and
 * what an overflow of the stack does.
 */
#include "util-test.h"
#include "util/co-lock.h"
#include "util/worker.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static GString *trace;

static void trace_clear(void)
{
    if (trace) {
        g_string_free(trace, true);
    }
    trace = g_string_new(NULL);
}

/* ---- order ---- */

static Coroutine *sleeper;

static void coroutine_fn yields_once(void *opaque)
{
    g_string_append(trace, "b");
    g_assert(co_self() != opaque);
    g_assert(co_loop(co_self()) == loop_current());
    sleeper = co_self();
    co_yield();
    g_string_append(trace, "e");
}

static void coroutine_fn test_order(void *opaque)
{
    Coroutine *self = co_self();

    (void)opaque;
    trace_clear();
    g_assert(self);
    g_string_append(trace, "a");
    co_start(yields_once, self);
    g_assert(co_self() == self);
    g_string_append(trace, "c");
    co_wake(sleeper);
    g_string_append(trace, "d"); /* never inline */
    co_reschedule();
    g_string_append(trace, "f");
    g_assert_cmpstr(trace->str, ==, "abcdef");
}

static void coroutine_fn append(void *opaque)
{
    g_string_append(trace, opaque);
}

static void coroutine_fn starts_another(void *opaque)
{
    g_string_append(trace, "1");
    co_start(append, opaque);
    g_string_append(trace, "3");
}

static void append_call(void *opaque)
{
    g_assert(!co_self());
    g_string_append(trace, opaque);
}

static void coroutine_fn test_nested(void *opaque)
{
    (void)opaque;
    trace_clear();
    co_start(starts_another, (void *)"2");
    g_assert_cmpstr(trace->str, ==, "123");
    co_spawn(loop_current(), append, (void *)"4");
    loop_call(loop_current(), append_call, (void *)"5");
    co_spawn(loop_current(), append, (void *)"6");
    g_assert_cmpstr(trace->str, ==, "123");
    co_reschedule();
    g_assert_cmpstr(trace->str, ==, "123456");
}

/* ---- wakes ---- */

static void coroutine_fn test_wake_before_yield(void *opaque)
{
    (void)opaque;
    for (unsigned i = 0; i < 1000; i++) {
        co_wake(co_self());
        co_yield();
    }
}

static int wake_from_worker(void *opaque)
{
    co_wake(opaque);
    return 0;
}

static void coroutine_fn test_wake_before_yield_elsewhere(void *opaque)
{
    (void)opaque;
    for (unsigned i = 0; i < 200; i++) {
        worker_submit(WORKERS_CONTROL, wake_from_worker, NULL, co_self());
        if (i % 2) {
            g_usleep(100); /* the wake comes first */
        }
        co_yield();
    }
}

/* ---- local state survives switches; registers too ---- */

static void coroutine_fn computes(void *opaque)
{
    uint64_t seed = GPOINTER_TO_SIZE(opaque), a = seed, b = seed * 3, c = seed ^ 0x5555, d = ~seed;
    double x = seed, y = 1.0 / (seed + 1);

    for (unsigned i = 0; i < 50; i++) {
        a = a * 6364136223846793005u + b;
        b ^= c + i;
        c = (c << 7) | (c >> 57);
        d += a;
        x = x * 0.5 + y;
        co_reschedule();
    }
    uint64_t a2 = seed, b2 = seed * 3, c2 = seed ^ 0x5555, d2 = ~seed;
    double x2 = seed;

    for (unsigned i = 0; i < 50; i++) {
        a2 = a2 * 6364136223846793005u + b2;
        b2 ^= c2 + i;
        c2 = (c2 << 7) | (c2 >> 57);
        d2 += a2;
        x2 = x2 * 0.5 + y;
    }
    g_assert(a == a2 && b == b2 && c == c2 && d == d2 && x == x2);
}

typedef struct Counted {
    CoGroup *group;
    CoroutineFn *fn;
    void *opaque;
} Counted;

static void coroutine_fn counted(void *opaque)
{
    Counted c = *(Counted *)opaque;

    g_free(opaque);
    c.fn(c.opaque);
    co_group_done(c.group);
}

static void start_counted(CoGroup *g, CoroutineFn *fn, void *opaque)
{
    Counted *c = g_new(Counted, 1);

    *c = (Counted){g, fn, opaque};
    co_group_add(g, 1);
    co_start(counted, c);
}

static void coroutine_fn test_state(void *opaque)
{
    CoGroup g;

    (void)opaque;
    co_group_init(&g);
    for (size_t i = 0; i < 100; i++) {
        start_counted(&g, computes, GSIZE_TO_POINTER(i));
    }
    co_group_wait(&g);
    co_group_destroy(&g);
}

/* ---- many ---- */

#define IN_A_ROW UTIL_TEST_AMOUNT(1000000u, 50000u, 20000u)

static void coroutine_fn increments(void *opaque)
{
    ++*(unsigned *)opaque;
}

static void coroutine_fn test_one_after_another(void *opaque)
{
    unsigned n = 0;

    (void)opaque;
    for (unsigned i = 0; i < IN_A_ROW; i++) {
        co_start(increments, &n);
    }
    g_assert_cmpuint(n, ==, IN_A_ROW);
}

#define AT_ONCE UTIL_TEST_AMOUNT(100000u, 5000u, 1000u)

typedef struct Crowd {
    GPtrArray *waiting;
    unsigned ended;
} Crowd;

static void coroutine_fn joins_crowd(void *opaque)
{
    Crowd *c = opaque;
    volatile char deep[3000];

    deep[0] = 1;
    g_ptr_array_add(c->waiting, co_self());
    co_yield();
    c->ended += deep[0];
}

static void coroutine_fn test_many_at_once(void *opaque)
{
    Crowd c = {.waiting = g_ptr_array_new()};

    (void)opaque;
    for (unsigned i = 0; i < AT_ONCE; i++) {
        co_start(joins_crowd, &c);
    }
    g_assert_cmpuint(c.waiting->len, ==, AT_ONCE);
    for (unsigned i = 0; i < AT_ONCE; i++) {
        co_wake(g_ptr_array_index(c.waiting, i));
    }
    g_assert_cmpuint(c.ended, ==, 0);
    co_wait_until(c.ended == AT_ONCE);
    g_ptr_array_free(c.waiting, true);
    co_pool_drain(); /* while one of this thread runs */
    co_start(increments, &c.ended);
    g_assert_cmpuint(c.ended, ==, AT_ONCE + 1);
}

/* ---- stacks ---- */

static void coroutine_fn uses_most_of_stack(void *opaque)
{
    char *p = __builtin_alloca(CO_STACK_SIZE - 16 * 1024);

    for (size_t i = 0; i < CO_STACK_SIZE - 16 * 1024; i += 4096) {
        p[i] = i >> 12;
    }
    co_reschedule();
    for (size_t i = 0; i < CO_STACK_SIZE - 16 * 1024; i += 4096) {
        g_assert_cmpint(p[i], ==, (char)(i >> 12));
    }
    *(bool *)opaque = true;
}

static void coroutine_fn test_whole_stack(void *opaque)
{
    bool done = false;

    (void)opaque;
    co_start(uses_most_of_stack, &done);
    co_wait_until(done);
}

static unsigned recurse(unsigned n)
{
    volatile char frame[1024];

    frame[n % sizeof(frame)] = n;
    return n == 0 ? 0 : recurse(n - 1) + frame[n % sizeof(frame)];
}

static char *low_water; /* somewhere near the top of the stack that overflows */

static void coroutine_fn overflows(void *opaque)
{
    char here;

    low_water = &here;
    sleeper = co_self();
    co_yield(); /* neighbours move in */
    g_print("%u", recurse(GPOINTER_TO_UINT(opaque)));
}

#define FAULT_IN_GUARD 42

static void on_fault(int signal_number, siginfo_t *info, void *context)
{
    size_t distance = low_water - (char *)info->si_addr;

    (void)signal_number;
    (void)context;
    /* The whole stack (twice as large with sanitizers) was used, and not a page more. */
    _exit(distance > CO_STACK_SIZE - 64 * 1024 && distance < 2 * CO_STACK_SIZE + 64 * 1024
              ? FAULT_IN_GUARD
              : 1);
}

/* The fault comes from the guard pages right below, though the neighbour's stack lies there. */
static void test_overflow(void)
{
    pid_t child = fork();
    int status;

    g_assert_cmpint(child, >=, 0);
    if (child == 0) {
        static char signal_stack[65536];
        struct sigaction act = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
        stack_t ss = {.ss_sp = signal_stack, .ss_size = sizeof(signal_stack)};

        sigaltstack(&ss, NULL);
        sigaction(SIGSEGV, &act, NULL);
        trace_clear();
        co_pool_drain();
        co_start(overflows, GUINT_TO_POINTER(CO_STACK_SIZE * 4 / 1024));
        co_wake(sleeper);
        for (unsigned i = 0; i < 20; i++) {
            co_start(yields_once, NULL);
        }
        while (true) {
            g_main_context_iteration(NULL, true);
        }
    }
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, FAULT_IN_GUARD);
}

static void test_wake_twice(void)
{
    if (g_test_subprocess()) {
        struct rlimit none = {0, 0};

        setrlimit(RLIMIT_CORE, &none);
        trace_clear();
        co_start(yields_once, NULL);
        co_wake(sleeper);
        co_wake(sleeper);
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr("*twice*");
}

int main(int argc, char **argv)
{
    util_test_init(&argc, &argv);
    util_test_add_loops("/coroutine/order", test_order);
    util_test_add_loops("/coroutine/nested", test_nested);
    util_test_add_loops("/coroutine/wake-before-yield", test_wake_before_yield);
    util_test_add_loops("/coroutine/wake-before-yield-elsewhere", test_wake_before_yield_elsewhere);
    util_test_add_loops("/coroutine/state", test_state);
    util_test_add_loops("/coroutine/one-after-another", test_one_after_another);
    util_test_add_loops("/coroutine/many-at-once", test_many_at_once);
    util_test_add_loops("/coroutine/whole-stack", test_whole_stack);
    g_test_add_func("/coroutine/overflow-faults", test_overflow);
    g_test_add_func("/coroutine/wake-twice-is-found", test_wake_twice);
    return g_test_run();
}

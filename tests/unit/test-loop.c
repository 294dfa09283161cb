/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Loops: calls and their order, wake-ups, timers, the choice of a backend, the end of a loop.
 */
#include "util-test.h"
#include "util/co-lock.h"
#include "util/worker.h"
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MS INT64_C(1000000)

/* ---- calls ---- */

#define CALLERS    3
#define CALLS      5000
#define CALL(c, i) GSIZE_TO_POINTER((size_t)(c) << 32 | (i))

static unsigned called[CALLERS];

static void numbered_call(void *opaque)
{
    size_t v = GPOINTER_TO_SIZE(opaque);
    unsigned caller = v >> 32;

    g_assert(!co_self());
    g_assert_cmpuint(called[caller], ==, v & UINT32_MAX);
    called[caller]++;
}

typedef struct Caller {
    Loop *loop;
    unsigned number;
} Caller;

static void *call_many(void *opaque)
{
    Caller *c = opaque;

    for (unsigned i = 0; i < CALLS; i++) {
        loop_call(c->loop, numbered_call, CALL(c->number, i));
        if (i % 512 == 0) {
            g_usleep(300); /* let it fall asleep */
        }
    }
    return NULL;
}

static void coroutine_fn test_call_order(void *opaque)
{
    pthread_t threads[CALLERS];
    Caller callers[CALLERS];

    (void)opaque;
    memset(called, 0, sizeof(called));
    for (unsigned i = 0; i < CALLERS; i++) {
        callers[i] = (Caller){loop_current(), i};
        if (i > 0) {
            g_assert_cmpint(pthread_create(&threads[i], NULL, call_many, &callers[i]), ==, 0);
        }
    }
    call_many(&callers[0]); /* from the loop's own thread */
    g_assert_cmpuint(called[0], ==, 0);
    co_wait_until(called[0] == CALLS && called[1] == CALLS && called[2] == CALLS);
    for (unsigned i = 1; i < CALLERS; i++) {
        pthread_join(threads[i], NULL);
    }
}

static void coroutine_fn test_identity(void *opaque)
{
    Loop *l = loop_current();

    (void)opaque;
    g_assert(loop_is_self(l));
    g_assert_cmpuint(loop_slot(l), ==, loop_slot_self());
    g_assert_cmpuint(loop_slot(l), <, LOOP_SLOTS);
    g_assert((loop_backend(l) == LOOP_CONTROL) == (l == loop_control()));
    if (l != loop_control()) {
        g_assert(!loop_is_self(loop_control()));
        g_assert_cmpuint(loop_slot(loop_control()), !=, loop_slot_self());
    }
}

static int on_worker(void *opaque)
{
    g_assert(!loop_current());
    g_assert(!loop_is_self(opaque));
    g_assert(!co_self());
    return 0;
}

static void coroutine_fn test_worker_has_no_loop(void *opaque)
{
    (void)opaque;
    g_assert_cmpint(worker_run(WORKERS_CONTROL, on_worker, loop_current()), ==, 0);
}

/* ---- wake-ups of a sleeping loop: none is lost, and none takes long ---- */

typedef struct PingPong {
    Coroutine *partner;
    CoGroup *group;
    Loop *other;
    unsigned left;
} PingPong;

static void coroutine_fn pong(void *opaque)
{
    PingPong *p = opaque;
    Coroutine *ping = p->partner;

    p->partner = co_self();
    for (;;) {
        bool last = p->left == 0;

        co_wake(ping);
        if (last) {
            break;
        }
        co_yield();
    }
    co_group_done(p->group);
}

static void coroutine_fn ping_pong(Loop *other, unsigned rounds)
{
    CoGroup group;
    PingPong p = {.partner = co_self(), .group = &group, .left = rounds};

    co_group_init(&group);
    co_group_add(&group, 1);
    co_spawn(other, pong, &p);
    for (;;) {
        co_yield();
        if (p.left == 0) {
            break;
        }
        p.left--;
        co_wake(p.partner);
    }
    co_group_wait(&group);
    co_group_destroy(&group);
}

static void coroutine_fn test_ping_pong(void *opaque)
{
    unsigned rounds = UTIL_TEST_AMOUNT(20000, 5000, 2000);
    IOThread *t = util_test_iothread();

    (void)opaque;
    ping_pong(iothread_loop(t), rounds);
    iothread_free(t);
}

static void coroutine_fn ping_the_control_loop(void *opaque)
{
    ping_pong(loop_control(), GPOINTER_TO_UINT(opaque));
}

static void coroutine_fn ping_an_io_loop(void *opaque)
{
    ping_pong(opaque, UTIL_TEST_AMOUNT(20000, 5000, 2000));
}

static void coroutine_fn test_ping_pong_io(void *opaque)
{
    IOThread *a = util_test_iothread(), *b = util_test_iothread();

    (void)opaque;
    util_test_run_on(iothread_loop(a), ping_the_control_loop, GUINT_TO_POINTER(3000));
    util_test_run_on(iothread_loop(a), ping_an_io_loop, iothread_loop(b));
    iothread_free(a);
    iothread_free(b);
}

static int wake_many(void *opaque)
{
    GPtrArray *cos = opaque;

    for (guint i = 0; i < cos->len; i++) {
        co_wake(g_ptr_array_index(cos, i));
    }
    return 0;
}

typedef struct Sleepers {
    GPtrArray *cos;
    unsigned awake;
} Sleepers;

static void coroutine_fn sleeps_until_woken(void *opaque)
{
    Sleepers *s = opaque;

    g_ptr_array_add(s->cos, co_self());
    co_yield();
    s->awake++;
}

static void coroutine_fn test_many_wakes(void *opaque)
{
    (void)opaque;
    for (unsigned round = 0; round < 20; round++) {
        Sleepers s = {.cos = g_ptr_array_new()};

        for (unsigned i = 0; i < 500; i++) {
            co_start(sleeps_until_woken, &s);
        }
        worker_run(WORKERS_CONTROL, wake_many, s.cos);
        /* Their items came before ours. */
        g_assert_cmpuint(s.awake, ==, 500);
        g_ptr_array_free(s.cos, true);
    }
}

static int takes_a_while(void *opaque)
{
    (void)opaque;
    g_usleep(500); /* the loop has fallen asleep */
    return 0;
}

/* A loop that was woken, and has nothing to do now, sleeps. */
static void coroutine_fn test_idle(void *opaque)
{
    struct timespec before, after;

    (void)opaque;
    for (unsigned i = 0; i < 10; i++) {
        worker_run(WORKERS_CONTROL, takes_a_while, NULL);
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    co_sleep_ns(100 * MS);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    g_assert_cmpint((after.tv_sec - before.tv_sec) * 1000 * MS + after.tv_nsec - before.tv_nsec, <,
                    5 * MS);
}

/* ---- other sources of the control loop get their turn ---- */

static gboolean set_flag(gpointer opaque)
{
    *(volatile bool *)opaque = true;
    return G_SOURCE_REMOVE;
}

static void coroutine_fn test_sources_run_too(void *opaque)
{
    volatile bool flag = false;

    (void)opaque;
    g_idle_add_full(G_PRIORITY_DEFAULT, set_flag, (gpointer)&flag, NULL);
    for (unsigned i = 0; !flag; i++) {
        g_assert_cmpuint(i, <, 1000);
        co_reschedule();
    }
}

/* ---- timers ---- */

static void coroutine_fn test_sleep(void *opaque)
{
    int64_t start = clock_ns();

    (void)opaque;
    co_sleep_ns(20 * MS);
    g_assert_cmpint(clock_ns() - start, >=, 20 * MS);
    g_assert_cmpint(clock_ns() - start, <, 2000 * MS);
    start = clock_ns();
    co_sleep_ns(0);
    co_sleep_ns(-5);
    co_sleep_ns(INT64_MIN);
    g_assert_cmpint(clock_ns() - start, <, 1000 * MS);
}

#define TIMERS 200

typedef struct TimerTest {
    Timer timer;
    int64_t deadline; /* what it should be; -1: not armed */
    unsigned fired;
} TimerTest;

static TimerTest timers[TIMERS];
static int64_t last_deadline;
static unsigned armed;

static void timer_fired(void *opaque)
{
    TimerTest *t = opaque;

    g_assert_cmpint(t->deadline, >=, 0);
    g_assert_cmpint(clock_ns(), >=, t->deadline);
    g_assert_cmpint(t->timer.deadline, ==, -1);
    g_assert(!co_self());
    g_assert_cmpint(t->deadline, >=, last_deadline);
    last_deadline = t->deadline;
    t->deadline = -1;
    t->fired++;
    armed--;
}

/* Arms, re-arms and cancels at random; then all that are armed fire, once each, in order. */
static void coroutine_fn test_random_timers(void *opaque)
{
    (void)opaque;
    for (unsigned round = 0; round < 5; round++) {
        int64_t base = clock_ns() + 20 * MS;

        last_deadline = 0;
        armed = 0;
        for (unsigned i = 0; i < TIMERS; i++) {
            timers[i] = (TimerTest){.deadline = -1};
            timer_init(&timers[i].timer, timer_fired, &timers[i]);
            g_assert_cmpint(timers[i].timer.deadline, ==, -1);
        }
        for (unsigned i = 0; i < 5 * TIMERS; i++) {
            TimerTest *t = &timers[g_test_rand_int_range(0, TIMERS)];

            armed -= t->deadline >= 0;
            if (g_test_rand_int_range(0, 3) == 0) {
                timer_cancel(&t->timer);
                t->deadline = -1;
            } else {
                t->deadline = base + g_test_rand_int_range(0, 20) * MS / 2;
                timer_arm(&t->timer, t->deadline);
                armed++;
            }
            g_assert_cmpint(t->timer.deadline, ==, t->deadline);
        }
        co_wait_until(armed == 0);
        for (unsigned i = 0; i < TIMERS; i++) {
            g_assert_cmpint(timers[i].deadline, ==, -1);
            g_assert_cmpuint(timers[i].fired, <=, 1);
            timer_cancel(&timers[i].timer); /* when not armed: nothing */
        }
    }
}

typedef struct Chain {
    Timer timer, victim;
    unsigned fired, victim_fired;
} Chain;

static void chain_fired(void *opaque)
{
    Chain *c = opaque;

    timer_cancel(&c->victim);
    if (++c->fired < 10) {
        timer_arm(&c->timer, 0); /* again at once: others must get their turn */
    }
}

static void victim_fired(void *opaque)
{
    ((Chain *)opaque)->victim_fired++;
}

static void coroutine_fn test_timer_in_timer(void *opaque)
{
    Chain c = {0};
    int64_t now = clock_ns();

    (void)opaque;
    timer_init(&c.timer, chain_fired, &c);
    timer_init(&c.victim, victim_fired, &c);
    timer_arm(&c.timer, now);
    timer_arm(&c.victim, now + 1); /* due as well when the first runs */
    while (clock_ns() <= now + 1) {
    }
    co_wait_until(c.fired == 10);
    g_assert_cmpuint(c.victim_fired, ==, 0);
}

/* A deadline that is set while the loop sleeps for another, later one. */
static void coroutine_fn test_earlier_deadline(void *opaque)
{
    Chain c = {0};
    int64_t start = clock_ns();

    (void)opaque;
    timer_init(&c.victim, victim_fired, &c);
    timer_arm(&c.victim, start + 100000 * MS);
    co_sleep_ns(5 * MS);
    g_assert_cmpint(clock_ns() - start, <, 5000 * MS);
    timer_cancel(&c.victim);
}

/* ---- the choice of a backend ---- */

static void forbid_io_uring(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = G_N_ELEMENTS(filter), .filter = filter};

    g_assert_cmpint(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), ==, 0);
    g_assert_cmpint(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), ==, 0);
}

static void test_forbidden(void)
{
    g_autoptr(Error) err = NULL;
    IOThread *t;

    if (!g_test_subprocess()) {
        g_test_trap_subprocess(NULL, 0, 0);
        g_test_trap_assert_passed();
        g_test_trap_assert_stderr("*info: io_uring is not available: Operation not permitted; "
                                  "using epoll and worker threads\n");
        return;
    }
    g_unsetenv("CUTPOINT_LOOP");
    forbid_io_uring();
    t = util_test_iothread();
    g_assert_cmpint(loop_backend(iothread_loop(t)), ==, LOOP_EPOLL);
    iothread_free(t);
    iothread_free(util_test_iothread()); /* told once */

    loop_set_choice(LOOP_CHOICE_IO_URING);
    t = iothread_new("x", &err);
    g_assert_null(t);
    g_assert_cmpstr(err->message, ==, "io_uring is not available: Operation not permitted");
    g_assert_cmpint(err->kind, ==, ERROR_PERMISSION);
}

static void test_choice(void)
{
    const char *env = g_getenv("CUTPOINT_LOOP");
    g_autofree char *saved = g_strdup(env);
    IOThread *t;

    g_unsetenv("CUTPOINT_LOOP");
    loop_set_choice(LOOP_CHOICE_EPOLL);
    t = util_test_iothread();
    g_assert_cmpint(loop_backend(iothread_loop(t)), ==, LOOP_EPOLL);
    iothread_free(t);
    loop_set_choice(LOOP_CHOICE_IO_URING);
    g_setenv("CUTPOINT_LOOP", "epoll", true);
    t = util_test_iothread();
    g_assert_cmpint(loop_backend(iothread_loop(t)), ==, LOOP_EPOLL);
    iothread_free(t);
    loop_set_choice(LOOP_CHOICE_AUTO);
    if (saved) {
        g_setenv("CUTPOINT_LOOP", saved, true);
    } else {
        g_unsetenv("CUTPOINT_LOOP");
    }
}

int main(int argc, char **argv)
{
    util_test_init(&argc, &argv);
    util_test_add_loops("/loop/identity", test_identity);
    util_test_add_loops("/loop/worker-has-none", test_worker_has_no_loop);
    util_test_add_loops("/loop/call-order", test_call_order);
    util_test_add("/loop/ping-pong/control", test_ping_pong);
    util_test_add("/loop/ping-pong/io", test_ping_pong_io);
    util_test_add_loops("/loop/many-wakes", test_many_wakes);
    util_test_add_loops("/loop/idle", test_idle);
    util_test_add("/loop/sources-run-too", test_sources_run_too);
    util_test_add_loops("/loop/sleep", test_sleep);
    util_test_add_loops("/loop/random-timers", test_random_timers);
    util_test_add_loops("/loop/timer-in-timer", test_timer_in_timer);
    util_test_add_loops("/loop/earlier-deadline", test_earlier_deadline);
    g_test_add_func("/loop/choice", test_choice);
    g_test_add_func("/loop/io-uring-forbidden", test_forbidden);
    return g_test_run();
}

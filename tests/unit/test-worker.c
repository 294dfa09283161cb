/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Worker pools: values, order, limits, separation, threads that come and go, and a system that has none.
 *
 * pthread_create() is wrapped (see meson.build), so that it can fail.
 */
#include "util-test.h"
#include "util/co-lock.h"
#include "util/worker.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>

static atomic_bool no_threads;
static _Atomic unsigned threads_started;

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *opaque);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *opaque);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *),
                          void *opaque)
{
    if (atomic_load(&no_threads)) {
        return EAGAIN;
    }
    atomic_fetch_add(&threads_started, 1);
    return __real_pthread_create(thread, attr, fn, opaque);
}

/* ---- values ---- */

static int returns(void *opaque)
{
    return GPOINTER_TO_INT(opaque);
}

static void coroutine_fn test_value(void *opaque)
{
    (void)opaque;
    for (int i = -100; i < 100; i++) {
        g_assert_cmpint(
            worker_run(i % 2 ? WORKERS_GUEST : WORKERS_CONTROL, returns, GINT_TO_POINTER(i)), ==,
            i);
    }
}

typedef struct Submitted {
    pthread_t thread;
    _Atomic int value;
} Submitted;

static int notes_thread(void *opaque)
{
    ((Submitted *)opaque)->thread = pthread_self();
    return 17;
}

static void notes_value(void *opaque, int value)
{
    Submitted *s = opaque;

    g_assert(pthread_equal(s->thread, pthread_self()));
    atomic_store(&s->value, value);
}

static void coroutine_fn test_submit(void *opaque)
{
    Submitted s = {0};

    (void)opaque;
    worker_submit(WORKERS_CONTROL, notes_thread, notes_value, &s);
    co_wait_until(atomic_load(&s.value) == 17);
    g_assert(!pthread_equal(s.thread, pthread_self()));
    s.value = 0;
    worker_submit(WORKERS_CONTROL, notes_thread, NULL, &s);
    worker_run(WORKERS_CONTROL, returns, NULL);
}

static int checks_signals(void *opaque)
{
    sigset_t set;

    (void)opaque;
    pthread_sigmask(SIG_SETMASK, NULL, &set);
    return sigismember(&set, SIGTERM) && sigismember(&set, SIGUSR1) && sigismember(&set, SIGALRM);
}

static void coroutine_fn test_signals(void *opaque)
{
    (void)opaque;
    g_assert_cmpint(worker_run(WORKERS_GUEST, checks_signals, NULL), ==, 1);
}

/* ---- limits ---- */

typedef struct Gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool open;
    unsigned inside, most_inside, passed;
} Gate;

static void gate_init(Gate *g)
{
    *g = (Gate){.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
}

static int waits_at_gate(void *opaque)
{
    Gate *g = opaque;

    pthread_mutex_lock(&g->lock);
    g->inside++;
    g->most_inside = MAX(g->inside, g->most_inside);
    while (!g->open) {
        pthread_cond_wait(&g->changed, &g->lock);
    }
    g->inside--;
    g->passed++;
    pthread_mutex_unlock(&g->lock);
    return 0;
}

static void gate_open(Gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->open = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

static unsigned gate_get(Gate *g, const unsigned *what)
{
    unsigned value;

    pthread_mutex_lock(&g->lock);
    value = *what;
    pthread_mutex_unlock(&g->lock);
    return value;
}

/* As many at once as the maximum says, not one more; the other pool does not notice. */
static void coroutine_fn test_limit(void *opaque)
{
    Gate g;

    (void)opaque;
    for (unsigned max = 1; max <= 64; max *= 4) {
        gate_init(&g);
        worker_set_max(WORKERS_CONTROL, max);
        co_wait_until(worker_threads(WORKERS_CONTROL) <= max);
        for (unsigned i = 0; i < max + 20; i++) {
            worker_submit(WORKERS_CONTROL, waits_at_gate, NULL, &g);
        }
        co_wait_until(gate_get(&g, &g.inside) == max);
        co_sleep_ns(5000000);
        g_assert_cmpuint(gate_get(&g, &g.most_inside), ==, max);
        g_assert_cmpuint(worker_threads(WORKERS_CONTROL), ==, max);
        g_assert_cmpint(worker_run(WORKERS_GUEST, returns, GINT_TO_POINTER(5)), ==, 5);
        gate_open(&g);
        co_wait_until(gate_get(&g, &g.passed) == max + 20);
        g_assert_cmpuint(gate_get(&g, &g.most_inside), ==, max);
    }
    worker_set_max(WORKERS_CONTROL, 64);
}

static int takes_a_moment(void *opaque)
{
    Gate *g = opaque;

    pthread_mutex_lock(&g->lock);
    g->inside++;
    g->most_inside = MAX(g->inside, g->most_inside);
    pthread_mutex_unlock(&g->lock);
    g_usleep(500);
    pthread_mutex_lock(&g->lock);
    g->inside--;
    g->passed++;
    pthread_mutex_unlock(&g->lock);
    return 0;
}

/* Jobs that are done soon make no crowd; one that waits for long gets a thread whatever the others do. */
static void coroutine_fn test_eager(void *opaque)
{
    unsigned eager = worker_eager(), crowds = 0;
    Gate g, blocked;

    (void)opaque;
    worker_set_max(WORKERS_CONTROL, 1);
    co_wait_until(worker_threads(WORKERS_CONTROL) <= 1);
    worker_set_max(WORKERS_CONTROL, 2 * eager + 8);
    for (unsigned round = 0; round < 20; round++) {
        gate_init(&g);
        for (unsigned i = 0; i < 2 * eager; i++) {
            worker_submit(WORKERS_CONTROL, takes_a_moment, NULL, &g);
        }
        co_wait_until(gate_get(&g, &g.passed) == 2 * eager);
        crowds += gate_get(&g, &g.most_inside) > eager;
    }
    g_assert_cmpuint(crowds, <, 20); /* a busy machine may keep some of them waiting */

    gate_init(&blocked);
    for (unsigned i = 0; i < eager; i++) {
        worker_submit(WORKERS_CONTROL, waits_at_gate, NULL, &blocked);
    }
    co_wait_until(gate_get(&blocked, &blocked.inside) == eager);
    for (int i = 0; i < 20; i++) {
        g_assert_cmpint(worker_run(WORKERS_CONTROL, returns, GINT_TO_POINTER(i)), ==, i);
    }
    for (unsigned i = 0; i < eager; i++) {
        worker_submit(WORKERS_CONTROL, waits_at_gate, NULL, &blocked);
    }
    co_wait_until(gate_get(&blocked, &blocked.inside) == 2 * eager);
    gate_open(&blocked);
    co_wait_until(gate_get(&blocked, &blocked.passed) == 2 * eager);
    worker_set_max(WORKERS_CONTROL, 64);
}

static int waits_for_a_thread(void *opaque)
{
    worker_wait_begin();
    waits_at_gate(opaque);
    worker_wait_end();
    return 0;
}

/* Jobs that wait for other threads keep nobody waiting.  In the best round none was long enough in the queue for anything else. */
static void coroutine_fn test_waiting(void *opaque)
{
    unsigned n = 2 * worker_eager();
    int64_t best = INT64_MAX;

    (void)opaque;
    for (unsigned round = 0; round < 50 && best >= 2000000; round++) {
        int64_t begun = clock_ns();
        Gate g;

        gate_init(&g);
        for (unsigned i = 0; i < n; i++) {
            worker_submit(WORKERS_CONTROL, waits_for_a_thread, NULL, &g);
        }
        while (gate_get(&g, &g.inside) < n) {
            g_assert_cmpint(clock_ns() - begun, <, INT64_C(20000000000));
        }
        best = MIN(best, clock_ns() - begun);
        gate_open(&g);
        co_wait_until(gate_get(&g, &g.passed) == n);
    }
    g_assert_cmpint(best, <, 2000000);
}

/* One after another needs one thread, however many. */
static void coroutine_fn test_reuse(void *opaque)
{
    unsigned before;

    (void)opaque;
    worker_run(WORKERS_CONTROL, returns, NULL);
    co_sleep_ns(10000000); /* its thread waits for more */
    before = atomic_load(&threads_started);
    for (unsigned i = 0; i < 100; i++) {
        worker_run(WORKERS_CONTROL, returns, NULL);
        co_sleep_ns(100000);
    }
    g_assert_cmpuint(atomic_load(&threads_started) - before, <=, 3);
}

static void coroutine_fn test_fewer(void *opaque)
{
    (void)opaque;
    worker_set_max(WORKERS_CONTROL, 2);
    co_wait_until(worker_threads(WORKERS_CONTROL) <= 2);
    worker_set_max(WORKERS_CONTROL, 0); /* one at least */
    co_wait_until(worker_threads(WORKERS_CONTROL) <= 1);
    g_assert_cmpint(worker_run(WORKERS_CONTROL, returns, GINT_TO_POINTER(3)), ==, 3);
    worker_set_max(WORKERS_CONTROL, 64);
}

/* ---- many from many loops ---- */

typedef struct Busy {
    CoGroup *group;
    int number;
} Busy;

static void coroutine_fn busy(void *opaque)
{
    Busy b = *(Busy *)opaque;

    g_free(opaque);
    for (int i = 0; i < 20; i++) {
        int n = b.number * 100 + i;

        g_assert_cmpint(
            worker_run(i % 2 ? WORKERS_GUEST : WORKERS_CONTROL, returns, GINT_TO_POINTER(n)), ==,
            n);
    }
    co_group_done(b.group);
}

static void coroutine_fn test_many(void *opaque)
{
    IOThread *t[2] = {util_test_iothread(), util_test_iothread()};
    CoGroup group;

    (void)opaque;
    co_group_init(&group);
    co_group_add(&group, 150);
    for (int i = 0; i < 150; i++) {
        Loop *l = i % 3 == 2 ? loop_current() : iothread_loop(t[i % 3]);
        Busy *b = g_new(Busy, 1);

        *b = (Busy){&group, i};
        co_spawn(l, busy, b);
    }
    co_group_wait(&group);
    co_group_destroy(&group);
    iothread_free(t[0]);
    iothread_free(t[1]);
}

/* ---- no threads ---- */

static void test_no_threads_body(void)
{
    Submitted s = {0};

    atomic_store(&no_threads, true);
    worker_submit(WORKERS_GUEST, notes_thread, notes_value, &s);
    g_assert_cmpint(s.value, ==, 17);
    g_assert(pthread_equal(s.thread, pthread_self()));
}

static void test_no_threads(void)
{
    if (g_test_subprocess()) {
        test_no_threads_body();
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
    g_test_trap_assert_stderr("*could not start a guest worker thread: *");
}

int main(int argc, char **argv)
{
    util_test_init(&argc, &argv);
    util_test_add_loops("/worker/value", test_value);
    util_test_add_loops("/worker/submit", test_submit);
    util_test_add_loops("/worker/signals", test_signals);
    util_test_add("/worker/limit", test_limit);
    util_test_add("/worker/eager", test_eager);
    util_test_add("/worker/waiting", test_waiting);
    util_test_add("/worker/reuse", test_reuse);
    util_test_add("/worker/fewer", test_fewer);
    util_test_add("/worker/many", test_many);
    g_test_add_func("/worker/no-threads", test_no_threads);
    return g_test_run();
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Grace periods and the asymmetric barrier, with and without membarrier(2).
 */
#include "util-test.h"
#include "util/rcu.h"
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* ---- grace periods ---- */

typedef struct Value {
    _Atomic unsigned alive; /* 1; 0 when it was given up */
    unsigned number;
} Value;

static _Atomic(Value *) published;
static atomic_bool stop;
static _Atomic unsigned reads_done;

static void *reader(void *opaque)
{
    (void)opaque;
    rcu_thread_register();
    while (!atomic_load(&stop)) {
        rcu_begin();
        Value *v = atomic_load_explicit(&published, memory_order_acquire);
        unsigned number = v->number;

        for (unsigned i = 0; i < 50; i++) {
            g_assert_cmpuint(atomic_load_explicit(&v->alive, memory_order_relaxed), ==, 1);
            g_assert_cmpuint(v->number, ==, number);
        }
        rcu_end();
        atomic_fetch_add(&reads_done, 1);
    }
    rcu_thread_unregister();
    return NULL;
}

static Value *value_new(unsigned number)
{
    Value *v = g_new(Value, 1);

    v->alive = 1;
    v->number = number;
    return v;
}

static void coroutine_fn test_grace(void *opaque)
{
    pthread_t threads[2];

    (void)opaque;
    atomic_store(&stop, false);
    atomic_store(&published, value_new(0));
    for (unsigned i = 0; i < 2; i++) {
        g_assert_cmpint(pthread_create(&threads[i], NULL, reader, NULL), ==, 0);
    }
    for (unsigned i = 1; i < UTIL_TEST_AMOUNT(500, 300, 100); i++) {
        Value *old = atomic_exchange(&published, value_new(i));

        co_rcu_synchronize();
        atomic_store_explicit(&old->alive, 0, memory_order_relaxed);
        old->number = UINT_MAX;
        g_free(old);
    }
    co_wait_until(atomic_load(&reads_done) > 100);
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    g_free(atomic_exchange(&published, NULL));
}

typedef struct Section {
    pthread_mutex_t lock;
    bool begun, end, grace_over;
} Section;

static void *long_section(void *opaque)
{
    Section *s = opaque;

    rcu_thread_register();
    rcu_begin();
    rcu_begin(); /* sections nest */
    rcu_end();
    pthread_mutex_lock(&s->lock);
    s->begun = true;
    while (!s->end) {
        pthread_mutex_unlock(&s->lock);
        g_usleep(100);
        pthread_mutex_lock(&s->lock);
        g_assert(!s->grace_over);
    }
    pthread_mutex_unlock(&s->lock);
    rcu_end();
    rcu_thread_unregister();
    return NULL;
}

static bool get(Section *s, bool *flag)
{
    pthread_mutex_lock(&s->lock);
    bool value = *flag;

    pthread_mutex_unlock(&s->lock);
    return value;
}

static void coroutine_fn ends_section(void *opaque)
{
    Section *s = opaque;

    co_sleep_ns(20000000);
    pthread_mutex_lock(&s->lock);
    s->end = true;
    pthread_mutex_unlock(&s->lock);
}

/* It waits for a section that has begun, and the loop goes on meanwhile. */
static void coroutine_fn test_waits(void *opaque)
{
    Section s = {.lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t thread;

    (void)opaque;
    g_assert_cmpint(pthread_create(&thread, NULL, long_section, &s), ==, 0);
    co_wait_until(get(&s, &s.begun));
    co_start(ends_section, &s);
    co_rcu_synchronize();
    pthread_mutex_lock(&s.lock);
    g_assert(s.end);
    s.grace_over = true;
    pthread_mutex_unlock(&s.lock);
    pthread_join(thread, NULL);
}

/* ---- the barrier: who stores, passes it and loads cannot miss the other who does the same ---- */

#define ROUNDS     UTIL_TEST_AMOUNT(300000u, 50000u, 50000u)
#define BARRIER_NS INT64_C(3000000000) /* on a busy machine */

static struct {
    _Alignas(64) _Atomic unsigned light;
    _Alignas(64) _Atomic unsigned heavy;
    _Alignas(64) unsigned light_saw;
    _Alignas(64) _Atomic unsigned light_turn;
    _Alignas(64) _Atomic unsigned heavy_turn;
} race;

/* The other may have no processor at the moment.  False: the race is over. */
static bool spin_until(_Atomic unsigned *turn, unsigned value)
{
    unsigned spins = 0;

    while (atomic_load_explicit(turn, memory_order_acquire) < value) {
        if (++spins % 1000 == 0) {
            sched_yield();
            if (atomic_load(&stop)) {
                return false;
            }
        }
    }
    return true;
}

static void *light_side(void *opaque)
{
    (void)opaque;
    for (unsigned i = 1; i <= ROUNDS; i++) {
        if (!spin_until(&race.heavy_turn, i)) {
            break;
        }
        atomic_store_explicit(&race.light, i, memory_order_relaxed);
        barrier_light();
        race.light_saw = atomic_load_explicit(&race.heavy, memory_order_relaxed);
        atomic_store_explicit(&race.light_turn, i, memory_order_release);
    }
    return NULL;
}

static void test_barrier(void)
{
    int64_t deadline = clock_ns() + BARRIER_NS;
    unsigned both_saw = 0, i;
    pthread_t thread;

    atomic_store(&stop, false);
    race.light = race.heavy = race.light_turn = race.heavy_turn = 0;
    g_assert_cmpint(pthread_create(&thread, NULL, light_side, NULL), ==, 0);
    for (i = 1; i <= ROUNDS && clock_ns() < deadline; i++) {
        unsigned heavy_saw;

        atomic_store_explicit(&race.heavy_turn, i, memory_order_release);
        for (volatile unsigned delay = i % 64; delay > 0; delay--) {
        }
        atomic_store_explicit(&race.heavy, i, memory_order_relaxed);
        barrier_heavy();
        heavy_saw = atomic_load_explicit(&race.light, memory_order_relaxed);
        spin_until(&race.light_turn, i);
        if (heavy_saw < i && race.light_saw < i) {
            g_error("both missed the other's store in round %u", i);
        }
        both_saw += heavy_saw == i && race.light_saw == i;
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    g_test_message("both saw the other's store in %u rounds of %u", both_saw, i - 1);
}

static void forbid_membarrier(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = G_N_ELEMENTS(filter), .filter = filter};

    g_assert_cmpint(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), ==, 0);
    g_assert_cmpint(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), ==, 0);
}

static void test_forbidden(void)
{
    if (g_test_subprocess()) {
        forbid_membarrier();
        rcu_init_process();
        g_assert(barrier_light_is_fence);
        test_barrier();
        return;
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_passed();
}

/* Forbidden only after the light sides have come to rely on it: better no daemon than a wrong one. */
static void test_forbidden_later(void)
{
    if (g_test_subprocess()) {
        rcu_init_process();
        forbid_membarrier();
        barrier_heavy();
        return;
    }
    if (barrier_light_is_fence) {
        return; /* it does not rely on it */
    }
    g_test_trap_subprocess(NULL, 0, 0);
    g_test_trap_assert_failed();
    g_test_trap_assert_stderr("*membarrier, which worked at start, fails*");
}

static void test_mode(void)
{
#ifdef UTIL_TEST_TSAN
    g_assert(barrier_light_is_fence);
#else
    g_assert(!!g_getenv("CUTPOINT_NO_MEMBARRIER") == barrier_light_is_fence);
#endif
}

int main(int argc, char **argv)
{
    util_test_init(&argc, &argv);
    g_test_add_func("/rcu/mode", test_mode);
    util_test_add_loops("/rcu/grace", test_grace);
    util_test_add_loops("/rcu/waits", test_waits);
    g_test_add_func("/rcu/barrier", test_barrier);
    g_test_add_func("/rcu/membarrier-forbidden", test_forbidden);
    g_test_add_func("/rcu/membarrier-forbidden-later", test_forbidden_later);
    return g_test_run();
}

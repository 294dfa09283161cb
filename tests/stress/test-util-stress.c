/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Loops, coroutines and locks under random load from several threads at once.
 *
 * Every actor is a coroutine on one of the loops (control, I/O threads of whatever kind); each test has an
 * invariant that a lost wake-up, a lost lock or a stale pointer breaks, and ends only if nobody was
 * forgotten.  The time each runs for can be given in seconds by CUTPOINT_STRESS_SECONDS.
 */
#include "../unit/util-test.h"
#include "util/co-lock.h"
#include "util/worker.h"
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define THREADS 3
#define LOOPS   (THREADS + 1)
#define MS      INT64_C(1000000)

static IOThread *threads[THREADS];
static Loop *loops[LOOPS];
static int64_t duration_ns;

static int64_t end_time;
static bool time_is_left(void)
{
    return clock_ns() < end_time;
}

/* ---- actors ---- */

typedef struct Actor {
    CoroutineFn *fn;
    void *shared;
    unsigned number;
    uint64_t random, did;
    CoGroup *group;
} Actor;

/* xorshift64*: actors must not meet in the lock of a common generator. */
static uint32_t actor_random(Actor *a, uint32_t below)
{
    a->random ^= a->random >> 12;
    a->random ^= a->random << 25;
    a->random ^= a->random >> 27;
    return (a->random * UINT64_C(2685821657736338717) >> 32) % below;
}

static void coroutine_fn actor_main(void *opaque)
{
    Actor *a = opaque;

    a->fn(a);
    co_group_done(a->group);
}

/* Runs n actors, round robin over the first nloops loops, until all have ended; returns what they did
 * together, the least that one did in *least. */
static uint64_t coroutine_fn run_actors(CoroutineFn *fn, void *shared, unsigned n, unsigned nloops,
                                        uint64_t *least)
{
    g_autofree Actor *actors = g_new0(Actor, n);
    uint64_t all = 0;
    CoGroup group;

    end_time = clock_ns() + duration_ns;
    co_group_init(&group);
    co_group_add(&group, n);
    for (unsigned i = 0; i < n; i++) {
        actors[i] = (Actor){
            .fn = fn,
            .shared = shared,
            .number = i,
            .random = (uint64_t)g_test_rand_int() << 32 | (i + 1),
            .group = &group,
        };
        co_spawn(loops[(i + LOOPS - 1) % nloops], actor_main, &actors[i]);
    }
    co_group_wait(&group);
    co_group_destroy(&group);
    *least = UINT64_MAX;
    for (unsigned i = 0; i < n; i++) {
        all += actors[i].did;
        *least = MIN(*least, actors[i].did);
    }
    return all;
}

/* Something to do for a moment, in every way in which a coroutine can be suspended. */
static int nothing(void *opaque)
{
    (void)opaque;
    return 0;
}

static void coroutine_fn dawdle(Actor *a)
{
    switch (actor_random(a, 8)) {
    case 0:
        co_reschedule();
        break;
    case 1:
        worker_run(actor_random(a, 2) ? WORKERS_GUEST : WORKERS_CONTROL, nothing, NULL);
        break;
    case 2:
        co_sleep_ns(actor_random(a, 200000));
        break;
    default:
        break;
    }
}

/* ---- exclusion and fairness of a mutex ---- */

typedef struct MutexTest {
    CoMutex mutex;
    uint64_t count; /* protected by it */
    _Atomic unsigned inside;
} MutexTest;

static void coroutine_fn uses_mutex(void *opaque)
{
    Actor *a = opaque;
    MutexTest *t = a->shared;

    while (time_is_left()) {
        if (actor_random(a, 4) == 0) {
            if (!co_mutex_trylock(&t->mutex)) {
                dawdle(a);
                continue;
            }
        } else {
            co_mutex_lock(&t->mutex);
        }
        /* Relaxed: it is the mutex that shall order what is under it. */
        g_assert_cmpuint(atomic_fetch_add_explicit(&t->inside, 1, memory_order_relaxed), ==, 0);
        t->count++;
        if (actor_random(a, 16) == 0) {
            dawdle(a);
        }
        g_assert_cmpuint(atomic_fetch_sub_explicit(&t->inside, 1, memory_order_relaxed), ==, 1);
        co_mutex_unlock(&t->mutex);
        a->did++;
        if (actor_random(a, 4) == 0) {
            dawdle(a);
        }
    }
}

static void coroutine_fn test_mutex(void *opaque)
{
    MutexTest t = {0};
    uint64_t all, least;

    (void)opaque;
    co_mutex_init(&t.mutex);
    all = run_actors(uses_mutex, &t, 40, LOOPS, &least);
    g_assert_cmpuint(all, ==, t.count);
    g_assert_cmpuint(least, >, 0);
    co_mutex_destroy(&t.mutex);
    g_test_message("%" G_GUINT64_FORMAT " times, %" G_GUINT64_FORMAT " the slowest", all, least);
}

/* Only the mutex orders what these do: no wake-ups, no queues. */
static void coroutine_fn tries_mutex(void *opaque)
{
    Actor *a = opaque;
    MutexTest *t = a->shared;

    while (a->did < 10000) {
        if (co_mutex_trylock(&t->mutex)) {
            t->count++;
            co_mutex_unlock(&t->mutex);
            a->did++;
        }
        if (actor_random(a, 100) == 0) {
            g_usleep(1);
        }
    }
}

static void coroutine_fn test_trylock(void *opaque)
{
    MutexTest t = {0};
    uint64_t least;

    (void)opaque;
    co_mutex_init(&t.mutex);
    run_actors(tries_mutex, &t, LOOPS, LOOPS, &least);
    g_assert_cmpuint(t.count, ==, LOOPS * 10000);
    co_mutex_destroy(&t.mutex);
}

#define FAIR_ACTORS 8
#define FAIR_TURNS  UTIL_TEST_AMOUNT(2000u, 1000u, 300u)

typedef struct FairTest {
    CoMutex mutex;
    _Atomic unsigned waiting; /* that have said that they will queue up */
    unsigned turns[FAIR_ACTORS];
} FairTest;

/* All want it all the time, so between two turns of one all others have theirs: nobody is ever more than a
 * turn ahead of another who waits. */
static void coroutine_fn wants_mutex(void *opaque)
{
    Actor *a = opaque;
    FairTest *t = a->shared;

    for (unsigned i = 0; i < FAIR_TURNS; i++) {
        atomic_fetch_add(&t->waiting, 1);
        co_mutex_lock(&t->mutex);
        atomic_fetch_sub(&t->waiting, 1);
        /* Until all others are in the queue, or as good as: a moment more. */
        while (i < FAIR_TURNS / 2 && atomic_load(&t->waiting) < FAIR_ACTORS - 1) {
            co_reschedule();
        }
        t->turns[a->number] = i + 1;
        if (i > 0 && i < FAIR_TURNS / 2) {
            for (unsigned j = 0; j < FAIR_ACTORS; j++) {
                g_assert_cmpuint(t->turns[j] + 2, >=, i + 1);
            }
        }
        a->did++;
        co_mutex_unlock(&t->mutex);
    }
}

static void coroutine_fn test_fairness(void *opaque)
{
    FairTest t = {0};
    uint64_t least;

    (void)opaque;
    co_mutex_init(&t.mutex);
    g_assert_cmpuint(run_actors(wants_mutex, &t, FAIR_ACTORS, LOOPS, &least), ==,
                     FAIR_ACTORS * FAIR_TURNS);
    co_mutex_destroy(&t.mutex);
}

/* ---- readers and writers ---- */

typedef struct RwTest {
    CoRwlock lock;
    uint64_t a, b; /* equal, but while somebody writes */
    _Atomic int readers;
} RwTest;

static void coroutine_fn uses_rwlock(void *opaque)
{
    Actor *a = opaque;
    RwTest *t = a->shared;

    while (time_is_left()) {
        if (actor_random(a, 5) == 0) {
            co_rwlock_wrlock(&t->lock);
            g_assert_cmpint(atomic_load(&t->readers), ==, 0);
            t->a++;
            dawdle(a);
            t->b++;
            if (actor_random(a, 2)) {
                co_rwlock_downgrade(&t->lock);
                atomic_fetch_add(&t->readers, 1);
                g_assert_cmpuint(t->a, ==, t->b);
                dawdle(a);
                atomic_fetch_sub(&t->readers, 1);
            }
        } else {
            co_rwlock_rdlock(&t->lock);
            atomic_fetch_add(&t->readers, 1);
            g_assert_cmpuint(t->a, ==, t->b);
            dawdle(a);
            g_assert_cmpuint(t->a, ==, t->b);
            atomic_fetch_sub(&t->readers, 1);
        }
        co_rwlock_unlock(&t->lock);
        a->did++;
    }
}

static void coroutine_fn test_rwlock(void *opaque)
{
    RwTest t = {0};
    uint64_t all, least;

    (void)opaque;
    co_rwlock_init(&t.lock);
    all = run_actors(uses_rwlock, &t, 40, LOOPS, &least);
    g_assert_cmpuint(least, >, 0);
    co_rwlock_destroy(&t.lock);
    g_test_message("%" G_GUINT64_FORMAT " times, %" G_GUINT64_FORMAT " the slowest", all, least);
}

/* ---- ranges ---- */

#define RANGE_BYTES 64

typedef struct RangeTest {
    CoRangeLock lock;
    _Atomic int holders[RANGE_BYTES]; /* shared ones; -1: one that is not */
} RangeTest;

static void coroutine_fn uses_range(void *opaque)
{
    Actor *a = opaque;
    RangeTest *t = a->shared;

    while (time_is_left()) {
        unsigned offset = actor_random(a, RANGE_BYTES);
        unsigned length = 1 + actor_random(a, MIN(RANGE_BYTES - offset, 12));
        bool shared = actor_random(a, 2);
        CoRange r;

        co_range_lock(&t->lock, &r, offset, length, shared);
        for (unsigned i = offset; i < offset + length; i++) {
            if (shared) {
                g_assert_cmpint(atomic_fetch_add(&t->holders[i], 1), >=, 0);
            } else {
                g_assert_cmpint(atomic_exchange(&t->holders[i], -1), ==, 0);
            }
        }
        dawdle(a);
        for (unsigned i = offset; i < offset + length; i++) {
            if (shared) {
                g_assert_cmpint(atomic_fetch_sub(&t->holders[i], 1), >, 0);
            } else {
                g_assert_cmpint(atomic_exchange(&t->holders[i], 0), ==, -1);
            }
        }
        co_range_unlock(&t->lock, &r);
        a->did++;
    }
}

static void coroutine_fn test_range(void *opaque)
{
    RangeTest t = {0};
    uint64_t all, least;

    (void)opaque;
    co_range_lock_init(&t.lock);
    all = run_actors(uses_range, &t, 30, LOOPS, &least);
    g_assert_cmpuint(least, >, 0);
    co_range_lock_destroy(&t.lock);
    g_test_message("%" G_GUINT64_FORMAT " times, %" G_GUINT64_FORMAT " the slowest", all, least);
}

/* ---- a bounded buffer: conditions, wake one and wake all ---- */

#define SLOTS 5

typedef struct BufferTest {
    pthread_mutex_t lock;
    CoQueue not_full, not_empty;
    unsigned used, producers;
    uint64_t put, taken, items[SLOTS];
} BufferTest;

static void coroutine_fn produces(BufferTest *t, Actor *a)
{
    while (time_is_left()) {
        pthread_mutex_lock(&t->lock);
        while (t->used == SLOTS) {
            co_queue_wait(&t->not_full, &t->lock);
        }
        t->items[t->put % SLOTS] = t->put + 1;
        t->put++;
        t->used++;
        co_queue_wake_one(&t->not_empty);
        pthread_mutex_unlock(&t->lock);
        a->did++;
        if (actor_random(a, 8) == 0) {
            dawdle(a);
        }
    }
    pthread_mutex_lock(&t->lock);
    if (--t->producers == 0) {
        co_queue_wake_all(&t->not_empty);
    }
    pthread_mutex_unlock(&t->lock);
}

static void coroutine_fn consumes(BufferTest *t, Actor *a)
{
    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (t->used == 0 && t->producers > 0) {
            co_queue_wait(&t->not_empty, &t->lock);
        }
        if (t->used == 0) {
            break;
        }
        t->taken++;
        g_assert_cmpuint(t->items[(t->taken - 1) % SLOTS], ==, t->taken);
        t->used--;
        co_queue_wake_one(&t->not_full);
        pthread_mutex_unlock(&t->lock);
        if (actor_random(a, 8) == 0) {
            dawdle(a);
        }
        pthread_mutex_lock(&t->lock);
    }
    pthread_mutex_unlock(&t->lock);
}

static void coroutine_fn uses_buffer(void *opaque)
{
    Actor *a = opaque;

    (a->number % 2 ? produces : consumes)(a->shared, a);
}

static void coroutine_fn test_buffer(void *opaque)
{
    BufferTest t = {.lock = PTHREAD_MUTEX_INITIALIZER, .producers = 15};
    uint64_t all, least;

    (void)opaque;
    all = run_actors(uses_buffer, &t, 30, LOOPS, &least);
    g_assert_cmpuint(all, ==, t.put);
    g_assert_cmpuint(t.taken, ==, t.put);
    g_test_message("%" G_GUINT64_FORMAT " items", all);
}

/* ---- wakes from everywhere: each yield is answered by one, whoever sends it and when ---- */

typedef struct Post {
    Coroutine *co;
    _Atomic unsigned woken;
} Post;

static void wake_call(void *opaque)
{
    Post *p = opaque;

    atomic_fetch_add(&p->woken, 1);
    co_wake(p->co);
}

static int wake_job(void *opaque)
{
    wake_call(opaque);
    return 0;
}

static void coroutine_fn wake_coroutine(void *opaque)
{
    wake_call(opaque);
}

static void coroutine_fn is_woken(void *opaque)
{
    Actor *a = opaque;
    Post p = {.co = co_self()};

    while (time_is_left()) {
        Loop *l = loops[actor_random(a, LOOPS)];
        Timer timer;

        switch (actor_random(a, 6)) {
        case 0:
            worker_submit(WORKERS_GUEST, wake_job, NULL, &p);
            break;
        case 1:
            loop_call(l, wake_call, &p);
            break;
        case 2:
            co_spawn(l, wake_coroutine, &p);
            break;
        case 3:
            co_start(wake_coroutine, &p);
            break;
        case 4:
            timer_init(&timer, wake_call, &p);
            timer_arm(&timer, clock_ns() + actor_random(a, 100000));
            break;
        case 5:
            wake_call(&p);
            break;
        }
        if (actor_random(a, 16) == 0) {
            g_usleep(actor_random(a, 50)); /* so that the wake comes first */
        }
        co_yield();
        a->did++;
        g_assert_cmpuint(atomic_load(&p.woken), ==, a->did);
    }
}

static void coroutine_fn test_wakes(void *opaque)
{
    uint64_t all, least;

    (void)opaque;
    all = run_actors(is_woken, NULL, 50, LOOPS, &least);
    g_assert_cmpuint(least, >, 0);
    g_test_message("%" G_GUINT64_FORMAT " wakes, %" G_GUINT64_FORMAT " of the slowest", all, least);
}

/* ---- sockets that somebody shuts down while others receive, send and poll ---- */

static int shut(void *opaque)
{
    shutdown(GPOINTER_TO_INT(opaque), SHUT_RDWR);
    return 0;
}

typedef struct Half {
    int fd;
    unsigned what;
    CoGroup *group;
} Half;

static void coroutine_fn uses_socket(void *opaque)
{
    Half *h = opaque;
    g_autofree char *buf = g_malloc0(40000);

    for (;;) {
        struct iovec iov = {buf, 40000};
        ssize_t ret;

        if (h->what == 0) {
            ret = co_recv(h->fd, buf, 40000);
        } else if (h->what == 1) {
            ret = co_send_all(h->fd, &iov, 1) == 0;
        } else {
            /* Errors and hang-ups end it; a timeout or data does not. */
            ret = !(co_poll(h->fd, POLLIN, MS / 10) & (POLLHUP | POLLERR));
        }
        if (ret <= 0) {
            break;
        }
    }
    co_group_done(h->group);
}

static void coroutine_fn is_shut(void *opaque)
{
    Actor *a = opaque;

    while (time_is_left()) {
        Half halves[6];
        CoGroup group;
        int fds[2];

        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), ==,
                        0);
        co_group_init(&group);
        co_group_add(&group, 6);
        for (unsigned i = 0; i < 6; i++) {
            halves[i] = (Half){fds[i % 2], i / 2, &group};
            co_spawn(loops[actor_random(a, LOOPS)], uses_socket, &halves[i]);
        }
        dawdle(a);
        worker_run(WORKERS_CONTROL, shut, GINT_TO_POINTER(fds[actor_random(a, 2)]));
        co_group_wait(&group);
        co_group_destroy(&group);
        close(fds[0]);
        close(fds[1]);
        a->did++;
    }
}

static void coroutine_fn test_shutdown(void *opaque)
{
    uint64_t all, least;

    (void)opaque;
    all = run_actors(is_shut, NULL, 8, LOOPS, &least);
    g_test_message("%" G_GUINT64_FORMAT " sockets", all);
}

/* ---- timers: random ones on every loop, none early, none lost ---- */

static void coroutine_fn sleeps(void *opaque)
{
    Actor *a = opaque;

    while (time_is_left()) {
        int64_t ns = actor_random(a, 3) ? actor_random(a, 300000) : actor_random(a, 3000);
        int64_t start = clock_ns();

        co_sleep_ns(ns);
        g_assert_cmpint(clock_ns() - start, >=, ns);
        a->did++;
    }
}

static void coroutine_fn test_sleeps(void *opaque)
{
    uint64_t all, least;

    (void)opaque;
    all = run_actors(sleeps, NULL, 200, LOOPS, &least);
    g_assert_cmpuint(least, >, 0);
    g_test_message("%" G_GUINT64_FORMAT " sleeps, %" G_GUINT64_FORMAT " of the slowest", all,
                   least);
}

/* ---- loops that come and go while others talk to them ---- */

static void coroutine_fn says_done(void *opaque)
{
    dawdle(opaque);
    co_group_done(((Actor *)opaque)->group);
}

static void coroutine_fn test_loops_come_and_go(void *opaque)
{
    unsigned rounds = 0;

    (void)opaque;
    end_time = clock_ns() + duration_ns;
    while (time_is_left()) {
        IOThread *t = util_test_iothread();
        Actor actors[20];
        CoGroup group;

        co_group_init(&group);
        co_group_add(&group, G_N_ELEMENTS(actors));
        for (unsigned i = 0; i < G_N_ELEMENTS(actors); i++) {
            actors[i] = (Actor){.random = g_test_rand_int() + 1u, .group = &group};
            co_spawn(iothread_loop(t), says_done, &actors[i]);
        }
        if (rounds % 2) {
            co_group_wait(&group);
            iothread_free(t); /* what woke us may be on its last steps */
        } else {
            iothread_free(t);
            co_group_wait(&group);
        }
        co_group_destroy(&group);
        rounds++;
    }
    g_test_message("%u loops", rounds);
}

static void start_threads(void)
{
    for (unsigned i = 0; i < THREADS; i++) {
        threads[i] = util_test_iothread();
        loops[i] = iothread_loop(threads[i]);
    }
    loops[THREADS] = loop_control();
}

static void end_threads(void)
{
    for (unsigned i = 0; i < THREADS; i++) {
        iothread_free(threads[i]);
    }
}

int main(int argc, char **argv)
{
    const char *seconds = g_getenv("CUTPOINT_STRESS_SECONDS");
    int ret;

    util_test_init(&argc, &argv);
    duration_ns = (seconds ? g_ascii_strtod(seconds, NULL) : 2) * 1e9;
    start_threads();
    util_test_add("/util-stress/wakes", test_wakes);
    util_test_add("/util-stress/mutex", test_mutex);
    util_test_add("/util-stress/trylock", test_trylock);
    util_test_add("/util-stress/fairness", test_fairness);
    util_test_add("/util-stress/rwlock", test_rwlock);
    util_test_add("/util-stress/range", test_range);
    util_test_add("/util-stress/buffer", test_buffer);
    util_test_add("/util-stress/shutdown", test_shutdown);
    util_test_add("/util-stress/sleeps", test_sleeps);
    util_test_add("/util-stress/loops-come-and-go", test_loops_come_and_go);
    ret = g_test_run();
    end_threads();
    return ret;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Locks for coroutines: order, exclusion, hand-over, on one loop step by step; tests/stress/test-util-stress.c
 * has the same across threads at random.
 */
#include "util-test.h"
#include "util/co-lock.h"
#include <string.h>

static GString *trace;

static void trace_is(const char *expected)
{
    co_reschedule();
    co_reschedule();
    g_assert_cmpstr(trace->str, ==, expected);
}

static void trace_clear(void)
{
    if (trace) {
        g_string_free(trace, true);
    }
    trace = g_string_new(NULL);
}

/* ---- CoMutex ---- */

static CoMutex mutex;

static void coroutine_fn takes_mutex(void *opaque)
{
    co_mutex_lock(&mutex);
    g_string_append(trace, opaque);
    co_reschedule();
    g_string_append(trace, "-");
    co_mutex_unlock(&mutex);
}

static void coroutine_fn test_mutex(void *opaque)
{
    (void)opaque;
    trace_clear();
    co_mutex_init(&mutex);
    co_mutex_lock(&mutex);
    g_assert(!co_mutex_trylock(&mutex));
    co_start(takes_mutex, (void *)"a");
    co_start(takes_mutex, (void *)"b");
    co_start(takes_mutex, (void *)"c");
    trace_is("");
    g_assert(!co_mutex_trylock(&mutex));
    co_mutex_unlock(&mutex);
    /* It is a's already: we cannot take it back, though a has not run yet. */
    g_assert(!co_mutex_trylock(&mutex));
    co_mutex_lock(&mutex);
    g_assert_cmpstr(trace->str, ==, "a-b-c-");
    co_mutex_unlock(&mutex);
    g_assert(co_mutex_trylock(&mutex));
    co_mutex_unlock(&mutex);
    co_mutex_destroy(&mutex);
}

typedef struct Owned {
    CoMutex mutex;
    unsigned users;
} Owned;

static _Atomic unsigned freed;

static void coroutine_fn last_one_frees(void *opaque)
{
    Owned *o = opaque;
    bool last;

    co_mutex_lock(&o->mutex);
    co_reschedule();
    last = --o->users == 0;
    co_mutex_unlock(&o->mutex);
    if (last) {
        co_mutex_destroy(&o->mutex);
        g_free(o);
        atomic_fetch_add(&freed, 1);
    }
}

/* The next owner may free the lock while the one before is still in unlock. */
static void coroutine_fn test_mutex_freed(void *opaque)
{
    IOThread *t = util_test_iothread();

    (void)opaque;
    for (unsigned i = 0; i < 300; i++) {
        Owned *o = g_new0(Owned, 1);

        co_mutex_init(&o->mutex);
        o->users = 2;
        co_spawn(iothread_loop(t), last_one_frees, o);
        last_one_frees(o);
        co_wait_until(atomic_load(&freed) == i + 1);
    }
    iothread_free(t);
}

/* ---- CoRwlock ---- */

static CoRwlock rwlock;

static void coroutine_fn reads(void *opaque)
{
    co_rwlock_rdlock(&rwlock);
    g_string_append(trace, opaque);
    co_reschedule();
    g_string_append(trace, "-");
    co_rwlock_unlock(&rwlock);
}

static void coroutine_fn writes(void *opaque)
{
    co_rwlock_wrlock(&rwlock);
    g_string_append(trace, opaque);
    co_reschedule();
    g_string_append(trace, "=");
    co_rwlock_unlock(&rwlock);
}

static void coroutine_fn writes_and_reads(void *opaque)
{
    co_rwlock_wrlock(&rwlock);
    g_string_append(trace, opaque);
    co_reschedule();
    co_rwlock_downgrade(&rwlock);
    g_string_append(trace, ">");
    co_reschedule();
    g_string_append(trace, "-");
    co_rwlock_unlock(&rwlock);
}

static void coroutine_fn settle(void)
{
    for (unsigned i = 0; i < 20; i++) {
        co_reschedule();
    }
}

static void coroutine_fn test_rwlock(void *opaque)
{
    (void)opaque;
    co_rwlock_init(&rwlock);

    /* Readers together; a waiting writer keeps later readers out; order of arrival. */
    trace_clear();
    co_start(reads, (void *)"a");
    co_start(reads, (void *)"b");
    co_start(writes, (void *)"W");
    co_start(reads, (void *)"c");
    co_start(reads, (void *)"d");
    co_start(writes, (void *)"X");
    settle();
    g_assert_cmpstr(trace->str, ==, "ab--W=cd--X=");

    /* A writer that becomes a reader lets waiting readers in, not the writer behind them. */
    trace_clear();
    co_start(writes_and_reads, (void *)"W");
    co_start(reads, (void *)"a");
    co_start(writes, (void *)"X");
    co_start(reads, (void *)"b");
    settle();
    g_assert_cmpstr(trace->str, ==, "W>a--X=b-");

    trace_clear();
    co_start(writes_and_reads, (void *)"W");
    co_start(writes, (void *)"X");
    settle();
    g_assert_cmpstr(trace->str, ==, "W>-X=");
    co_rwlock_destroy(&rwlock);
}

/* ---- CoQueue ---- */

static CoQueue queue;
static pthread_mutex_t queue_lock = PTHREAD_MUTEX_INITIALIZER;

static void coroutine_fn queues(void *opaque)
{
    pthread_mutex_lock(&queue_lock);
    co_queue_wait(&queue, &queue_lock);
    g_string_append(trace, opaque);
    pthread_mutex_unlock(&queue_lock);
}

static void coroutine_fn test_queue(void *opaque)
{
    (void)opaque;
    trace_clear();
    co_queue_init(&queue);
    pthread_mutex_lock(&queue_lock);
    g_assert(!co_queue_wake_one(&queue));
    g_assert(!co_queue_wake_all(&queue));
    pthread_mutex_unlock(&queue_lock);
    for (const char *const *name = (const char *[]){"a", "b", "c", "d", NULL}; *name; name++) {
        co_start(queues, (void *)*name);
    }
    trace_is("");
    pthread_mutex_lock(&queue_lock);
    g_assert(co_queue_wake_one(&queue));
    pthread_mutex_unlock(&queue_lock);
    trace_is("a");
    pthread_mutex_lock(&queue_lock);
    g_assert(co_queue_wake_all(&queue));
    g_assert(!co_queue_wake_one(&queue));
    pthread_mutex_unlock(&queue_lock);
    trace_is("abcd");
}

/* ---- CoGroup ---- */

static CoGroup group;

static void coroutine_fn waits_for_group(void *opaque)
{
    co_group_wait(&group);
    g_string_append(trace, opaque);
}

static void coroutine_fn test_group(void *opaque)
{
    (void)opaque;
    trace_clear();
    co_group_init(&group);
    co_group_wait(&group); /* zero: at once */
    co_group_add(&group, 2);
    co_group_add(&group, 1);
    co_start(waits_for_group, (void *)"w");
    co_group_done(&group);
    co_group_done(&group);
    trace_is("");
    co_group_add(&group, 1);
    co_group_done(&group);
    trace_is("");
    co_group_done(&group);
    trace_is("w");
    co_group_wait(&group);
    co_group_destroy(&group);
}

static void coroutine_fn done_soon(void *opaque)
{
    co_group_done(opaque);
}

/* The waiter frees the group as soon as it was woken. */
static void coroutine_fn test_group_freed(void *opaque)
{
    IOThread *t = util_test_iothread();

    (void)opaque;
    for (unsigned i = 0; i < 500; i++) {
        CoGroup *g = g_new(CoGroup, 1);

        co_group_init(g);
        co_group_add(g, 3);
        for (unsigned j = 0; j < 3; j++) {
            co_spawn(iothread_loop(t), done_soon, g);
        }
        co_group_wait(g);
        co_group_destroy(g);
        memset(g, 0xff, sizeof(*g));
        g_free(g);
    }
    iothread_free(t);
}

/* ---- CoRangeLock ---- */

static CoRangeLock ranges;

typedef struct RangeUser {
    const char *name;
    uint64_t offset, length;
    bool shared, release;
    CoRange range;
} RangeUser;

static void coroutine_fn uses_range(void *opaque)
{
    RangeUser *u = opaque;

    co_range_lock(&ranges, &u->range, u->offset, u->length, u->shared);
    g_string_append(trace, u->name);
    while (!u->release) {
        co_reschedule();
    }
    co_range_unlock(&ranges, &u->range);
}

static void coroutine_fn test_range(void *opaque)
{
    RangeUser a = {.name = "a", .offset = 0, .length = 10};
    RangeUser b = {.name = "b", .offset = 10, .length = 10}; /* touches, does not overlap */
    RangeUser c = {.name = "c", .offset = 9, .length = 2};   /* both */
    RangeUser d = {.name = "d", .offset = 10, .length = 1};  /* b and, waiting, c */
    RangeUser e = {.name = "e", .offset = 100, .length = 1};
    RangeUser f = {.name = "f", .offset = UINT64_MAX - 1, .length = 1};

    (void)opaque;
    trace_clear();
    co_range_lock_init(&ranges);
    co_start(uses_range, &a);
    co_start(uses_range, &b);
    co_start(uses_range, &c);
    co_start(uses_range, &d);
    co_start(uses_range, &e);
    co_start(uses_range, &f);
    trace_is("abef");
    b.release = true;
    trace_is("abef"); /* d does not overtake c */
    a.release = true;
    trace_is("abefc");
    c.release = true;
    trace_is("abefcd");
    d.release = e.release = f.release = true;
    settle();
    co_range_lock_destroy(&ranges);
}

static void coroutine_fn test_shared_range(void *opaque)
{
    RangeUser a = {.name = "a", .offset = 0, .length = 10, .shared = true};
    RangeUser b = {.name = "b", .offset = 5, .length = 10, .shared = true};
    RangeUser w = {.name = "W", .offset = 7, .length = 1};
    RangeUser c = {.name = "c", .offset = 0, .length = 8, .shared = true};
    RangeUser d = {.name = "d", .offset = 0, .length = 7, .shared = true};

    (void)opaque;
    trace_clear();
    co_range_lock_init(&ranges);
    co_start(uses_range, &a);
    co_start(uses_range, &b);
    co_start(uses_range, &w);
    co_start(uses_range, &c); /* behind w */
    co_start(uses_range, &d); /* clear of w */
    trace_is("abd");
    a.release = true;
    trace_is("abd");
    b.release = true;
    trace_is("abdW");
    w.release = true;
    trace_is("abdWc");
    c.release = d.release = true;
    settle();
    co_range_lock_destroy(&ranges);
}

int main(int argc, char **argv)
{
    util_test_init(&argc, &argv);
    util_test_add_loops("/co-lock/mutex", test_mutex);
    util_test_add("/co-lock/mutex-freed", test_mutex_freed);
    util_test_add_loops("/co-lock/rwlock", test_rwlock);
    util_test_add_loops("/co-lock/queue", test_queue);
    util_test_add_loops("/co-lock/group", test_group);
    util_test_add("/co-lock/group-freed", test_group_freed);
    util_test_add_loops("/co-lock/range", test_range);
    util_test_add_loops("/co-lock/shared-range", test_shared_range);
    return g_test_run();
}

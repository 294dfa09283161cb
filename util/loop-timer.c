/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Timers of a loop: a binary heap by deadline, touched by the loop's thread only.  It keeps the
 * memory it grew to, so arming allocates nothing once a loop has been busy for a while.
 */
#include "loop-internal.h"
#include <time.h>

#define NS_PER_S INT64_C(1000000000)

int64_t clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static void put(TimerHeap *h, size_t i, Timer *t)
{
    h->at[i] = t;
    t->impl = GSIZE_TO_POINTER(i + 1);
}

/* Both find the place of t, which is to replace what is at i. */
static size_t sift_up(TimerHeap *h, size_t i, const Timer *t)
{
    while (i > 0 && h->at[(i - 1) / 2]->deadline > t->deadline) {
        put(h, i, h->at[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    return i;
}

static size_t sift_down(TimerHeap *h, size_t i, const Timer *t)
{
    for (;;) {
        size_t child = 2 * i + 1;

        if (child + 1 < h->len && h->at[child + 1]->deadline < h->at[child]->deadline) {
            child++;
        }
        if (child >= h->len || h->at[child]->deadline >= t->deadline) {
            return i;
        }
        put(h, i, h->at[child]);
        i = child;
    }
}

void timer_init(Timer *t, void (*fn)(void *opaque), void *opaque)
{
    *t = (Timer){.loop = loop_current(), .fn = fn, .opaque = opaque, .deadline = -1};
    g_assert(t->loop);
}

void timer_cancel(Timer *t)
{
    TimerHeap *h = &t->loop->timers;
    size_t i;
    Timer *last;

    g_assert(loop_is_self(t->loop));
    if (t->deadline < 0) {
        return;
    }
    i = GPOINTER_TO_SIZE(t->impl) - 1;
    t->deadline = -1;
    t->impl = NULL;
    last = h->at[--h->len];
    if (i < h->len) {
        put(h, sift_down(h, sift_up(h, i, last), last), last);
    }
}

void timer_arm(Timer *t, int64_t deadline_ns)
{
    TimerHeap *h = &t->loop->timers;

    timer_cancel(t);
    if (h->len == h->allocated) {
        h->allocated = MAX(16, h->allocated * 2);
        h->at = g_renew(Timer *, h->at, h->allocated);
    }
    t->deadline = MAX(deadline_ns, 0);
    h->len++;
    put(h, sift_up(h, h->len - 1, t), t);
}

int64_t loop_timeout(const Loop *l)
{
    int64_t left;

    if (l->timers.len == 0) {
        return -1;
    }
    left = l->timers.at[0]->deadline - clock_ns();
    return MAX(left, 0); /* a macro: it reads the clock twice if it can */
}

bool loop_run_timers(Loop *l)
{
    bool ran = false;
    int64_t now;

    if (l->timers.len == 0) {
        return false;
    }
    /* One reading of the clock for all: a timer that arms itself for "now" cannot keep us here. */
    now = clock_ns();
    while (l->timers.len > 0 && l->timers.at[0]->deadline <= now) {
        Timer *t = l->timers.at[0];

        timer_cancel(t);
        t->fn(t->opaque);
        ran = true;
    }
    return ran;
}

static void wake_sleeper(void *opaque)
{
    co_wake(opaque);
}

void coroutine_fn co_sleep_ns(int64_t ns)
{
    int64_t now = clock_ns();
    Timer t;

    timer_init(&t, wake_sleeper, co_self());
    timer_arm(&t, ns < INT64_MAX - now ? now + MAX(ns, 0) : INT64_MAX);
    co_yield();
}

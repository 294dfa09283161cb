/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is queued on a loop; loop-internal.h has the words and why no wake-up is lost.
 */
#include "loop-internal.h"
#include <stdlib.h>

void loop_post(Loop *l, LoopItem *item)
{
    LoopItem *head;

    if (l == loop_current()) {
        item->next = NULL;
        *l->ready_tail = item;
        l->ready_tail = &item->next;
        return;
    }
    /* Relaxed: whoever takes the item sees this count as well. */
    atomic_fetch_add_explicit(&l->posters, 1, memory_order_relaxed);
    head = atomic_load_explicit(&l->remote, memory_order_relaxed);
    do {
        item->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&l->remote, &head, item, memory_order_seq_cst,
                                                    memory_order_relaxed));
    if (atomic_load_explicit(&l->asleep, memory_order_seq_cst) &&
        atomic_exchange_explicit(&l->asleep, false, memory_order_seq_cst)) {
        l->ops->kick(l);
    }
    atomic_fetch_sub_explicit(&l->posters, 1, memory_order_release);
}

static void take_remote(Loop *l)
{
    LoopItem *newest, *first = NULL, *last;

    if (!atomic_load_explicit(&l->remote, memory_order_relaxed)) {
        return;
    }
    last = newest = atomic_exchange_explicit(&l->remote, NULL, memory_order_acquire);
    while (newest) {
        LoopItem *older = newest->next;

        newest->next = first;
        first = newest;
        newest = older;
    }
    if (first) {
        *l->ready_tail = first;
        l->ready_tail = &last->next;
    }
}

unsigned loop_run_ready(Loop *l)
{
    unsigned ran = 0;
    LoopItem *item;

    take_remote(l);
    item = l->ready;
    l->ready = NULL;
    l->ready_tail = &l->ready;
    while (item) {
        LoopItem *next = item->next;

        item->run(item);
        item = next;
        ran++;
    }
    return ran;
}

bool loop_has_work(const Loop *l)
{
    return l->ready || atomic_load_explicit(&l->remote, memory_order_relaxed);
}

bool loop_prepare_sleep(Loop *l)
{
    if (loop_has_work(l)) {
        return false;
    }
    atomic_store_explicit(&l->asleep, true, memory_order_seq_cst);
    if (atomic_load_explicit(&l->remote, memory_order_seq_cst)) {
        loop_awake(l);
        return false;
    }
    return true;
}

void loop_awake(Loop *l)
{
    atomic_store_explicit(&l->asleep, false, memory_order_relaxed);
}

/* ---- calls and new coroutines ---- */

typedef struct Call {
    LoopItem item;
    void (*fn)(void *opaque);
    void *opaque;
} Call;

static void post_call(Loop *loop, void (*run)(LoopItem *item), void (*fn)(void *opaque),
                      void *opaque)
{
    Call *c = g_new(Call, 1);

    *c = (Call){.item.run = run, .fn = fn, .opaque = opaque};
    loop_post(loop, &c->item);
}

static void run_call(LoopItem *item)
{
    Call c = *(Call *)item;

    g_free(item);
    c.fn(c.opaque);
}

static void run_spawn(LoopItem *item)
{
    Call c = *(Call *)item;

    g_free(item);
    co_start(c.fn, c.opaque);
}

void loop_call(Loop *loop, void (*fn)(void *opaque), void *opaque)
{
    post_call(loop, run_call, fn, opaque);
}

void co_spawn(Loop *loop, CoroutineFn *fn, void *opaque)
{
    post_call(loop, run_spawn, fn, opaque);
}

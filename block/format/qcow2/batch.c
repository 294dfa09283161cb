/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Parallel pieces of one request.  See batch.h.
 */
#include "batch.h"
#include <glib.h>

typedef struct BatchItem {
    Batch *batch;
    BatchFn *fn;
    void *piece;
} BatchItem;

void batch_init(Batch *b, unsigned max)
{
    *b = (Batch){.max = max};
}

static void coroutine_fn run_item(void *opaque)
{
    BatchItem item = *(BatchItem *)opaque;
    Batch *b = item.batch;
    int ret;

    ret = item.fn(item.piece);
    g_free(item.piece);
    if (ret < 0 && b->ret == 0) {
        b->ret = ret;
    }
    b->running--;
    if (b->waiter) {
        Coroutine *co = b->waiter;

        b->waiter = NULL;
        co_wake(co);
    }
}

static void coroutine_fn wait_below(Batch *b, unsigned n)
{
    while (b->running > n) {
        b->waiter = co_self();
        co_yield();
    }
}

void coroutine_fn batch_add(Batch *b, BatchFn *fn, void *piece)
{
    BatchItem item = {.batch = b, .fn = fn, .piece = piece};

    wait_below(b, b->max - 1);
    if (b->ret < 0) {
        g_free(piece);
        return;
    }
    b->running++;
    co_start(run_item, &item);
}

int coroutine_fn batch_wait(Batch *b)
{
    wait_below(b, 0);
    return b->ret;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Write thresholds: telling once that a disk's file is written behind an offset, so that a manager can give the storage below more room in time.
 *
 * The request that goes behind it takes the threshold away, so one of many tells; the event is sent by the control thread.
 */
#include "block/stats.h"
#include "qapi-events.h"
#include "stats-internal.h"

typedef struct Exceeded {
    char *node;
    uint64_t amount, threshold;
} Exceeded;

static void coroutine_fn tell(void *opaque)
{
    Exceeded *x = opaque;

    qapi_event_send_block_write_threshold(x->node, x->amount, x->threshold);
    g_free(x->node);
    g_free(x);
}

void node_threshold_exceeded(Node *n, uint64_t end)
{
    uint64_t threshold = atomic_exchange(&n->write_threshold, 0);
    Exceeded *x;

    if (threshold && end > threshold) {
        x = g_new0(Exceeded, 1);
        x->node = g_strdup(n->name); /* constant */
        x->amount = end - threshold;
        x->threshold = threshold;
        co_spawn(loop_control(), tell, x);
    }
}

void node_set_write_threshold(Node *n, uint64_t offset)
{
    atomic_store(&n->write_threshold, offset);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a quorum tells the user: QUORUM_REPORT_BAD of a child, QUORUM_FAILURE of a vote that nobody won.
 *
 * Requests run on any thread; the control thread sends: at once what happens in itself, so that it is told before the reply of the command that the
 * request is a part of.  Both events count in sectors of 512 bytes that the request touches.
 */
#include "qapi-events.h"
#include "quorum.h"
#include <string.h>

#define SECTOR 512u

typedef struct Report {
    char *node;
    char *error; /* NULL: none */
    QuorumOpType type;
    int64_t sector, sectors;
} Report;

static Report *report_new(const Node *n, uint64_t offset, uint64_t bytes)
{
    Report *x = g_new0(Report, 1);

    x->node = g_strdup(n->name); /* constant */
    x->sector = (int64_t)(offset / SECTOR);
    x->sectors = (int64_t)((offset + bytes + SECTOR - 1) / SECTOR) - x->sector;
    return x;
}

static void report_free(Report *x)
{
    g_free(x->node);
    g_free(x->error);
    g_free(x);
}

static void coroutine_fn tell_bad(void *opaque)
{
    Report *x = opaque;

    qapi_event_send_quorum_report_bad(x->type, x->error, x->node, x->sector, x->sectors);
    report_free(x);
}

static void coroutine_fn tell_failure(void *opaque)
{
    Report *x = opaque;

    qapi_event_send_quorum_failure(x->node, x->sector, x->sectors);
    report_free(x);
}

static void deliver(CoroutineFn *tell, Report *x)
{
    if (loop_current() == loop_control()) {
        tell(x); /* does not suspend */
    } else {
        co_spawn(loop_control(), tell, x);
    }
}

void quorum_report_bad(Edge *child, QuorumOpType type, uint64_t offset, uint64_t bytes, int err)
{
    Report *x = report_new(atomic_load_explicit(&child->node, memory_order_acquire), offset, bytes);

    x->type = type;
    x->error = err < 0 ? g_strdup(strerror(-err)) : NULL;
    deliver(tell_bad, x);
}

void quorum_report_failure(const Node *n, uint64_t offset, uint64_t bytes)
{
    deliver(tell_failure, report_new(n, offset, bytes));
}

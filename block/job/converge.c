/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Catching up with those who write; see converge.h.
 */
#include "converge.h"
#include "block/dirty-bitmap.h"

#define FIRST_PACE_NS INT64_C(1000000)

uint64_t converge_total(Copy *c)
{
    uint64_t dirty = dirty_bitmap_count(c->todo);

    job_set_total(c->job, atomic_load(&c->job->progress) + dirty);
    return dirty;
}

static bool is_little(const Converge *v, uint64_t dirty)
{
    uint64_t least = 2 * (uint64_t)dirty_bitmap_granularity(v->copy->todo);

    return dirty <= MAX(least, MIN(v->rate / 100, UINT64_C(16) << 20));
}

bool coroutine_fn converge_slice(Converge *v, bool slow)
{
    Job *j = v->copy->job;
    uint64_t before = atomic_load(&j->progress), seen = dirty_bitmap_count(v->copy->todo);
    uint64_t carried, dirty, added;
    int64_t began = clock_ns(), took;
    bool ok = copy_run(v->copy, began + CONVERGE_SLICE_NS, false);

    took = MAX(clock_ns() - began, 1);
    carried = atomic_load(&j->progress) - before;
    dirty = converge_total(v->copy);
    if (carried > 0) {
        v->rate = (uint64_t)((double)carried * 1e9 / (double)took);
    }
    added = dirty + carried > seen ? dirty + carried - seen : 0;
    v->seen = dirty;
    if (slow && v->max_delay > 0 && !is_little(v, dirty) && added > carried / 2) {
        v->pace = MIN(v->pace ? 2 * v->pace : FIRST_PACE_NS, v->max_delay);
    } else if (!slow || added < carried / 4) {
        v->pace = v->pace > FIRST_PACE_NS ? v->pace / 2 : 0;
    }
    node_set_pace(v->node, v->pace, clock_ns() + 4 * CONVERGE_SLICE_NS);
    return ok;
}

bool coroutine_fn converge_run(Converge *v)
{
    Job *j = v->copy->job;
    uint64_t first = v->seen = converge_total(v->copy), begun = atomic_load(&j->progress);

    while (!is_little(v, v->seen) || atomic_load(&j->progress) == begun) {
        if (v->seen == 0) {
            break;
        }
        /* Until it has been round once, what is being written again costs nothing. */
        if (!converge_slice(v, atomic_load(&j->progress) - begun >= first)) {
            break;
        }
    }
    node_set_pace(v->node, 0, 0);
    return atomic_load(&v->copy->error) == 0 && (!job_is_cancelled(j) || atomic_load(&j->soft));
}

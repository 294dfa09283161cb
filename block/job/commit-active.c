/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Committing what guests are writing to.
 *
 * What is written to top while the job runs is recorded in the bitmap of what is to be copied (dirty-bitmap.h), so it is copied again.
 *
 *   copy        the first time round
 *   converge    until little is left (converge.h)
 *   ready       what guests write is copied behind them, nobody is slowed down
 *   complete    converge again, then pivot
 *   pivot       writes into top are held (hold.c), those under way end, the rest is copied; then one instant moves all users of top (or of
 *               the filter above it that the job was given) to base.
 *               If that takes more than HOLD_NS, all goes on as before and it is tried again later: no guest waits longer than that
 *
 * With a snapshot journal base is durable before the pivot, and the journal knows which of the two is the disk, whenever the process ends
 * (block/transaction/journal-pivot.c).
 */
#include "commit.h"
#include "converge.h"
#include "../node-internal.h"
#include "block/change.h"
#include "block/io.h"
#include "util/log.h"
#include <errno.h>

#define HOLD_NS  INT64_C(50000000)
#define RETRY_NS INT64_C(200000000)
/* A pivot that has to happen now, since the job is pending, is tried this long. */
#define PIVOT_NS INT64_C(30000000000)

static Converge converge_of(CommitJob *c)
{
    return (Converge){.copy = &c->copy, .node = c->top, .max_delay = c->max_delay};
}

/* ---- pivot ---- */

/* While writes are held: nothing of top is missing in base any more. */
static bool coroutine_fn catch_up(CommitJob *c, int64_t deadline)
{
    for (Node *n = c->from; n; n = commit_next_moved(c, n)) {
        if (!node_wait_writes(n, false, deadline)) {
            return false;
        }
    }
    while (dirty_bitmap_count(c->copy.todo) > 0) {
        if (clock_ns() >= deadline || !copy_run(&c->copy, deadline, true)) {
            return false;
        }
    }
    return true;
}

/* True: done, unless *errp says that it never will be; false: try again. */
static bool coroutine_fn try_pivot(CommitJob *c, bool move, Error **errp)
{
    int64_t deadline = clock_ns() + HOLD_NS, begun = deadline - HOLD_NS / 10;
    Change *change = change_new();
    bool recorded = false, done;

    for (Node *n = c->from; n; n = commit_next_moved(c, n)) {
        change_add(change, n, c->to, NULL);
    }
    change_arm(change);
    change_hold(change, deadline);
    done = catch_up(c, begun);
    if (done && move) {
        done = chain_pivot_begin(c->top, c->base, begun, &recorded, errp) && change_cut(change);
    }
    if (done && move) {
        c->pivoted = true;
        change_abandon_old(change);
        change_fold(change);
    } else {
        change_disarm(change);
        if (recorded) {
            /* Guests write to top again; base stays as it is until nobody takes it for the disk. */
            chain_pivot_give_up(c->base, errp);
        }
    }
    change_free(change);
    return done || *errp;
}

/* Users of top come with what they need. */
static bool coroutine_fn get_permissions(CommitJob *c, Error **errp)
{
    unsigned perm = c->top->perm | c->from->perm;

    return edge_set_perm(c->base_edge, c->base_edge->perm | perm, PERM_ALL, errp) &&
           (!c->to_edge || edge_set_perm(c->to_edge, perm, PERM_ALL, errp));
}

/* Makes base the same as top at an instant, and moves top's users there if `move`. */
static bool coroutine_fn meet(CommitJob *c, bool move, int64_t give_up, Error **errp)
{
    Converge v = converge_of(c);
    int64_t nap = RETRY_NS / 8;

    if (move && (!get_permissions(c, errp) || !node_write_out(c->base, errp))) {
        return false;
    }
    for (;;) {
        bool done;

        if (!converge_run(&v)) {
            if (atomic_load(&c->copy.error) < 0) {
                copy_error(&c->copy, errp);
            }
            return false;
        }
        chain_lock();
        done = try_pivot(c, move, errp);
        chain_unlock();
        if (done) {
            break;
        }
        log_warn(
            "commit job '%s': requests to node '%s' or the copying of the last of it took more "
            "than %d ms; guests go on writing to it, and it will be tried again",
            c->job.id, c->top->name, (int)(HOLD_NS / 1000000));
        if (clock_ns() >= give_up) {
            error_set(errp, ERROR_TIMEOUT, c->top->name, "pivot",
                      "Node '%s' has requests that do not end", c->top->name);
            return false;
        }
        co_sleep_ns(nap);
        nap = MIN(2 * nap, 8 * RETRY_NS);
    }
    if (*errp) {
        return false;
    }
    converge_total(&c->copy);
    /* What a guest was told to be durable in top is so in base before anybody is told that top may go. */
    if (!node_write_out(c->base, errp)) {
        return false;
    }
    if (move) {
        chain_pivot_done(c->top, c->base);
    }
    return true;
}

/* ---- the job ---- */

static void tick(void *opaque)
{
    CommitJob *c = opaque;

    if (dirty_bitmap_count(c->copy.todo) > 0) {
        job_kick(&c->job);
    } else {
        timer_arm(&c->tick, clock_ns() + CONVERGE_SLICE_NS / 2);
    }
}

/* Copies behind the guests until somebody wants an end. */
static bool coroutine_fn follow(CommitJob *c)
{
    Converge v = converge_of(c);

    timer_init(&c->tick, tick, c);
    while (!c->completing && !job_is_cancelled(&c->job) && atomic_load(&c->copy.error) == 0) {
        timer_arm(&c->tick, clock_ns() + CONVERGE_SLICE_NS / 2);
        job_idle(&c->job);
        timer_cancel(&c->tick);
        if (dirty_bitmap_count(c->copy.todo) > 0 && !c->completing) {
            converge_slice(&v, false);
        }
    }
    return atomic_load(&c->copy.error) == 0;
}

bool coroutine_fn commit_active_run(CommitJob *c, Error **errp)
{
    Converge v = converge_of(c);
    bool ok;

    node_record(c->top, c->copy.todo);
    c->recording = true;
    ok = copy_scan(&c->copy) && converge_run(&v);
    if (ok && !c->once) {
        job_ready(&c->job);
        ok = follow(c);
    }
    if (!ok || (job_is_cancelled(&c->job) && !atomic_load(&c->job.soft))) {
        if (atomic_load(&c->copy.error) < 0) {
            copy_error(&c->copy, errp);
        }
        return false;
    }
    if (c->once) {
        return meet(c, false, clock_ns() + PIVOT_NS, errp) && commit_once_end(c, errp);
    }
    if (!c->completing || c->job.auto_finalize) {
        ok = meet(c, c->completing, INT64_MAX, errp);
        if (c->pivoted) {
            /* Too late to be cancelled. */
            atomic_store(&c->job.cancelled, false);
        }
    }
    return ok;
}

bool coroutine_fn commit_active_prepare(CommitJob *c, Error **errp)
{
    return !c->completing || c->pivoted || meet(c, true, clock_ns() + PIVOT_NS, errp);
}

bool commit_active_complete(Job *j, Error **errp)
{
    CommitJob *c = (CommitJob *)j;

    (void)errp;
    c->completing = true;
    job_kick(j);
    return true;
}

bool commit_active_soft_cancel(Job *j)
{
    return job_is_ready(j);
}

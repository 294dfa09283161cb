/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The end of a mirror job.
 *
 *   1. the target gets its backing node, if it is to get one; nobody reads it yet
 *   2. little is left to copy, and the target is flushed
 *   3. writes into the source are held (hold.c), those under way end, the rest is copied: both are the same
 *   4. with a snapshot journal the target is durable, and the journal knows which of the two is the disk, whenever the process ends
 *      (block/transaction/journal-pivot.c)
 *   5. one instant moves all users of the replaced node to the target
 *   6. the target is flushed: what guests were told to be durable in the source is so there before anybody is told that the source may go
 *
 * If 3 to 5 take more than HOLD_NS, all goes on as before and it is tried again later: no guest waits longer than that.  After 5 nothing is an error
 * any more: guests are on the target.
 *
 * If the source becomes the target's backing node (sync none), it is an old node as after a snapshot: flushed, then read-only.
 */
#include "mirror.h"
#include "../node-internal.h"
#include "block/change.h"
#include "block/io.h"
#include "util/log.h"
#include <errno.h>
#include <string.h>

#define HOLD_NS  INT64_C(50000000)
#define RETRY_NS INT64_C(200000000)
/* For the flush of a source that becomes a backing node. */
#define SETTLE_NS INT64_C(10000000000)

/* ---- backing ---- */

static bool coroutine_fn open_backing(MirrorJob *m, Error **errp)
{
    g_auto(ImageFacts) f = {0};
    Node *t = m->target;

    if (chain_backing(t) || !t->driver->supports_backing || !t->driver->facts) {
        return true;
    }
    if (!t->driver->facts(t, &f, errp)) {
        return false;
    }
    if (!f.backing_file) {
        return true;
    }
    t->backing_overridden = false;
    if (!node_open_backing(t, NULL, f.backing_file, f.backing_format, errp)) {
        t->backing_overridden = true;
        return false;
    }
    return true;
}

static bool coroutine_fn attach_backing(MirrorJob *m, Error **errp)
{
    bool is_source = m->what == MIRROR_NONE;
    Node *b = is_source ? m->source : mirror_backing_of(m->source);
    Edge *e;

    if (!b || m->what == MIRROR_FULL || m->backing_edge || chain_backing(m->target)) {
        return true;
    }
    e = edge_attach(b, m->target, NULL, NULL, "backing", EDGE_COW, PERM_CONSISTENT_READ,
                    is_source ? PERM_ALL : PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED, errp);
    if (!e) {
        return false;
    }
    /* Guests write to it until they have moved. */
    e->unsettled = is_source;
    m->backing_edge = e;
    atomic_store_explicit(&m->target->backing, e, memory_order_release);
    return true;
}

static bool coroutine_fn give_backing(MirrorJob *m, Error **errp)
{
    switch (m->backing) {
    case MIRROR_BACKING_OPENED:
        return open_backing(m, errp);
    case MIRROR_BACKING_OF_SOURCE:
        return attach_backing(m, errp);
    case MIRROR_BACKING_AS_IS:
        break;
    }
    return true;
}

/* ---- the instant ---- */

/* While writes are held: nothing of the source is missing in the target any more. */
static bool coroutine_fn catch_up(MirrorJob *m, int64_t deadline)
{
    if (!node_wait_writes(m->source, false, deadline)) {
        return false;
    }
    while (dirty_bitmap_count(m->copy.todo) > 0) {
        if (clock_ns() >= deadline || !copy_run(&m->copy, deadline, true)) {
            return false;
        }
    }
    return copy_is_idle(&m->copy);
}

static void coroutine_fn settle(MirrorJob *m, Change *change)
{
    g_autoptr(Error) err = NULL;

    if (m->backing_edge && m->backing_edge->unsettled) {
        if (!change_settle(change, clock_ns() + SETTLE_NS, &err)) {
            log_error("mirror job '%s': node '%s', which is a backing node now, is not durable: %s",
                      m->job.id, m->source->name, err->message);
        }
        m->backing_edge->unsettled = false;
    }
    change_abandon_old(change);
    change_fold(change);
}

/* True: done, unless *errp says that it never will be; false: try again. */
static bool coroutine_fn try_pivot(MirrorJob *m, bool move, Error **errp)
{
    int64_t deadline = clock_ns() + HOLD_NS, begun = deadline - HOLD_NS / 10;
    Change *change = change_new();
    bool recorded = false, done;

    change_add(change, m->replaced, m->target,
               m->what == MIRROR_NONE && m->replaced == m->source ? m->backing_edge : NULL);
    if (m->replaced != m->source) {
        change_add_held(change, m->source);
    }
    change_arm(change);
    change_hold(change, deadline);
    done = catch_up(m, begun);
    if (done && move) {
        /* Should the hold expire, guests' writes are not carried through until the record is taken back: a target that was written to is, after a
         * crash, the disk. */
        atomic_store(&m->suspended, true);
        done =
            chain_pivot_begin(m->replaced, m->target, begun, &recorded, errp) && change_cut(change);
    }
    if (done && move) {
        m->pivoted = true;
        settle(m, change);
    } else {
        change_disarm(change);
        if (recorded) {
            /* Guests write to the source again; the target stays as it is until nobody takes it for the disk. */
            chain_pivot_give_up(m->target, errp);
        }
    }
    change_free(change);
    return done || *errp;
}

/* ---- getting there ---- */

/* Users come with what they need. */
static bool coroutine_fn may_move(MirrorJob *m, Error **errp)
{
    g_autoptr(Error) err = NULL;

    if (!mirror_can_replace(m->source, m->replaced)) {
        log_error("Can no longer replace '%s' by '%s', because it can no longer be guaranteed that "
                  "doing so would not lead to an abrupt change of visible data",
                  m->replaced->name, m->target->name);
    } else if (edge_set_perm(m->target_edge, m->target_edge->perm | m->replaced->perm, PERM_ALL,
                             &err)) {
        return true;
    } else {
        log_error("mirror job '%s': %s", m->job.id, err->message);
    }
    error_set(errp, ERROR_PERMISSION, m->target->name, "pivot", "%s", strerror(EPERM));
    return false;
}

static bool failed(MirrorJob *m, Error **errp)
{
    if (!*errp && atomic_load(&m->copy.error) < 0) {
        copy_error(&m->copy, errp);
    }
    return false;
}

static bool coroutine_fn meet_once(MirrorJob *m, bool move, Error **errp)
{
    bool done;

    if (!node_wait_unreserved(m->target, errp)) {
        return true;
    }
    chain_lock();
    done = !m->target->reserved_by && try_pivot(m, move, errp);
    chain_unlock();
    return done;
}

bool coroutine_fn mirror_meet(MirrorJob *m, bool move, int64_t give_up, Error **errp)
{
    Converge v = {
        .copy = &m->copy, .node = m->source, .max_delay = mirror_is_through(m) ? 0 : m->max_delay};
    int64_t nap = RETRY_NS / 8;
    g_autoptr(Error) err = NULL;

    if (move && (!may_move(m, errp) || !give_backing(m, errp))) {
        return false;
    }
    for (;;) {
        if (!converge_run(&v) || !mirror_flush_target(m)) {
            return failed(m, errp);
        }
        if (meet_once(m, move, errp)) {
            break;
        }
        if (atomic_load(&m->copy.error) < 0) {
            return failed(m, errp);
        }
        log_warn(
            "mirror job '%s': requests to node '%s' or the copying of the last of it took more "
            "than %d ms; guests go on writing to it, and it will be tried again",
            m->job.id, m->source->name, (int)(HOLD_NS / 1000000));
        if (clock_ns() >= give_up) {
            error_set(errp, ERROR_TIMEOUT, m->source->name, "pivot",
                      "Node '%s' has requests that do not end", m->source->name);
            return false;
        }
        co_sleep_ns(nap);
        nap = MIN(2 * nap, 8 * RETRY_NS);
    }
    if (*errp) {
        return false;
    }
    converge_total(&m->copy);
    if (!move) {
        return mirror_flush_target(m) || failed(m, errp);
    }
    if (!node_write_out(m->target, &err)) {
        log_error("mirror job '%s': %s; what node '%s' has may be needed yet", m->job.id,
                  err->message, m->source->name);
        return true;
    }
    chain_pivot_done(m->replaced, m->target);
    return true;
}

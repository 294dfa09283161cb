/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The life of a transaction.
 *
 *            plan          prepare, link          record        cut            settle
 *   NEW --------> PREPARING -------------> PREPARED -----> COMMITTING -> SETTLING -------> settled
 *     \              \                      |   ^  \                    ^
 *      `-- error ---- `-- undo, error       |   |   `-- undo, error     |   (no way back from the record)
 *                                    keep, hold (prepared.c): HELD -----'
 *
 *   plan      every action, in list order, against the planned graph; never suspends; reserves nodes and names.  A node that another
 *             running transaction has reserved: everything is given back, we wait for an end (bounded) and plan anew.
 *   prepare   of all actions side by side, with I/O running: intent (journal), files, opens, flushes.  Then link, in list order.
 *   undo      of the failing and of all other actions, newest first.
 *   record    one durable write to the journal, if there is one: the group is committed.  Internal snapshots are taken and stored before
 *             (freeze.c).
 *   cut       arm and cut the change; then commit of every action, in the same turn of the control loop: no query and no
 *             command runs in between (T1).
 *   settle    old requests end, old nodes are flushed, made read-only; edges are folded; reservations end.
 *
 * What must hold: T1 (all or nothing), T2 (no error after the record; the reply comes when settled, or with success at the settle
 * timeout), T3 (undo leaves no trace), T4 (no request waits for any of this), T7 (intent, files, record, cut).
 *
 * Errors: the first in list order, as QEMU reports it.
 */
#include "action.h"
#include "journal-internal.h"
#include "qapi-events.h"
#include "block/file.h"
#include "util/log.h"
#include "util/worker.h"

static GPtrArray *under_way; /* Transaction *, oldest first: from began to ended */

Transaction *transaction_new(void)
{
    Transaction *t = g_new0(Transaction, 1);

    t->actions = g_ptr_array_new();
    t->nodes = g_ptr_array_new();
    t->names = g_ptr_array_new_with_free_func(g_free);
    t->files_to_commit = g_ptr_array_new();
    t->settle_timeout_ns = TRANSACTION_SETTLE_TIMEOUT_NS;
    return t;
}

static void transaction_destroy(Transaction *t)
{
    for (guint i = 0; i < t->actions->len; i++) {
        Action *a = g_ptr_array_index(t->actions, i);

        a->ops->free(a);
    }
    g_ptr_array_free(t->actions, true);
    planned_graph_free(t->graph);
    if (t->jobs) {
        job_group_unref(t->jobs);
    }
    g_ptr_array_free(t->nodes, true);
    g_ptr_array_free(t->names, true);
    g_ptr_array_free(t->files_to_commit, true);
    change_free(t->change);
    if (!t->group_registered) {
        group_free(t->group);
    }
    g_free(t->id);
    g_free(t->digest);
    g_free(t);
}

void transaction_free(Transaction *t)
{
    if (!t) {
        return;
    }
    if (t->running) {
        t->detached = true; /* settling goes on; it frees us */
        return;
    }
    transaction_destroy(t);
}

void transaction_set_group(Transaction *t, const char *id, const char *digest)
{
    g_assert(!t->id && !t->digest);
    t->id = g_strdup(id);
    t->digest = g_strdup(digest);
}

void transaction_set_grouped(Transaction *t)
{
    g_assert(!t->jobs);
    t->jobs = job_group_ref(job_group_new());
}

void transaction_set_settle_timeout(Transaction *t, int64_t ns)
{
    t->settle_timeout_ns = ns;
}

void transaction_add(Transaction *t, Action *a)
{
    a->t = t;
    a->index = t->actions->len;
    g_ptr_array_add(t->actions, a);
}

void transaction_add_snapshot_sync(Transaction *t, const SnapshotSyncArgs *args)
{
    transaction_add(t, snapshot_sync_action_new(args));
}

void transaction_add_snapshot(Transaction *t, const char *node, const char *overlay)
{
    transaction_add(t, snapshot_action_new(node, overlay));
}

void transaction_add_abort(Transaction *t)
{
    transaction_add(t, abort_action_new());
}

GPtrArray *transactions_under_way(void)
{
    if (!under_way) {
        under_way = g_ptr_array_new();
    }
    return under_way;
}

void transaction_set_state(Transaction *t, TransactionState state)
{
    t->state = state;
    transaction_wake_waiters();
}

/* ---- plan ---- */

static bool plan_once(Transaction *t, Error **errp)
{
    t->graph = planned_graph_new(t);
    for (guint i = 0; i < t->actions->len; i++) {
        Action *a = g_ptr_array_index(t->actions, i);

        if (a->ops->plan && !a->ops->plan(a, t->graph, errp)) {
            transaction_release_all(t);
            planned_graph_free(t->graph);
            t->graph = NULL;
            return false;
        }
    }
    return true;
}

static bool coroutine_fn plan(Transaction *t, Error **errp)
{
    int64_t deadline = clock_ns() + TRANSACTION_BUSY_TIMEOUT_NS;

    for (;;) {
        g_autoptr(Error) err = NULL;

        if (plan_once(t, &err)) {
            return true;
        }
        /* Only a reservation by another transaction passes with time. */
        if (g_strcmp0(err->operation, "reserve") != 0 || clock_ns() >= deadline) {
            error_move(errp, &err);
            return false;
        }
        transaction_wait_other(deadline);
    }
}

/* ---- prepare ---- */

typedef struct Step {
    Action *action;
    CoGroup *group;
    Error *err;
    bool ok;
} Step;

static void coroutine_fn prepare_one(void *opaque)
{
    Step *s = opaque;

    s->ok = s->action->ops->prepare(s->action, &s->err);
    co_group_done(s->group);
}

static void coroutine_fn settled_one(void *opaque)
{
    Step *s = opaque;

    s->action->ops->settled(s->action);
    co_group_done(s->group);
}

/* Runs fn for every action side by side and waits for all. */
static void coroutine_fn for_all(Transaction *t, Step *steps, CoroutineFn *fn, size_t op_offset)
{
    CoGroup group;

    co_group_init(&group);
    for (guint i = 0; i < t->actions->len; i++) {
        Action *a = g_ptr_array_index(t->actions, i);

        steps[i].action = a;
        steps[i].group = &group;
        steps[i].ok = true;
        if (G_STRUCT_MEMBER(void *, a->ops, op_offset)) {
            co_group_add(&group, 1);
            co_start(fn, &steps[i]);
        }
    }
    co_group_wait(&group);
    co_group_destroy(&group);
}

static bool coroutine_fn prepare(Transaction *t, Error **errp)
{
    g_autofree Step *steps = g_new0(Step, MAX(t->actions->len, 1));
    bool ok = true;

    for_all(t, steps, prepare_one, G_STRUCT_OFFSET(ActionOps, prepare));
    for (guint i = 0; i < t->actions->len; i++) {
        Action *a = g_ptr_array_index(t->actions, i);

        if (!steps[i].ok && ok) {
            error_move(errp, &steps[i].err);
            ok = false;
        } else if (ok && a->ops->link) {
            ok = a->ops->link(a, errp);
        }
        error_free(steps[i].err);
    }
    return ok;
}

static void make_group(Transaction *t)
{
    t->group = group_new(t->id, t->digest);
    for (guint i = 0; i < t->actions->len; i++) {
        Action *a = g_ptr_array_index(t->actions, i);

        a->member = a->ops->member ? a->ops->member(a, t->group) : NULL;
    }
}

void coroutine_fn transaction_undo(Transaction *t)
{
    if (t->armed) {
        change_disarm(t->change);
    }
    change_free(t->change); /* its references would keep overlays open */
    t->change = NULL;
    for (guint i = t->actions->len; i-- > 0;) {
        Action *a = g_ptr_array_index(t->actions, i);

        if (a->ops->undo) {
            a->ops->undo(a);
        }
    }
}

void coroutine_fn transaction_end(Transaction *t)
{
    transaction_release_all(t);
    g_ptr_array_remove(transactions_under_way(), t);
    transaction_ended(t);
}

bool coroutine_fn transaction_prepare(Transaction *t, Error **errp)
{
    g_assert(!t->running && !t->change);
    t->begun = clock_ns();
    if (!plan(t, errp)) {
        return false;
    }
    transaction_began(t);
    t->state = TRANSACTION_STATE_PREPARING;
    g_ptr_array_add(transactions_under_way(), t);
    make_group(t);
    t->change = change_new();
    if (!journal_intent(t->group, errp)) {
        transaction_undo(t);
        transaction_end(t);
        return false;
    }
    if (!prepare(t, errp)) {
        transaction_undo(t);
        journal_forget(t->group);
        transaction_end(t);
        return false;
    }
    t->prepared = clock_ns();
    t->group->prepare_ns = t->prepared - t->begun;
    transaction_set_state(t, TRANSACTION_STATE_PREPARED);
    return true;
}

/* ---- record ---- */

bool coroutine_fn transaction_record(Transaction *t, Error **errp)
{
    int64_t start = clock_ns();

    if (t->recorded) {
        return true;
    }
    if (!journal_record(t->group, errp)) {
        return false;
    }
    t->recorded = true;
    t->group->record_ns = clock_ns() - start;
    return true;
}

/* ---- cut ---- */

static bool cut(Transaction *t)
{
    int64_t start = clock_ns();

    if (!t->armed) {
        change_arm(t->change);
        t->armed = true;
    }
    if (!change_cut(t->change)) {
        return false;
    }
    t->group->cut_ns = change_cut_time(t->change) - start;
    t->group->cut_time = g_get_real_time() * 1000 - (clock_ns() - change_cut_time(t->change));
    for (guint i = 0; i < t->actions->len; i++) {
        Action *a = g_ptr_array_index(t->actions, i);

        if (a->ops->commit) {
            a->ops->commit(a);
        }
    }
    if (t->group->members->len > 0) {
        t->group_registered = true;
        group_register(t->group);
    }
    return true;
}

void transaction_cut_now(Transaction *t)
{
    bool done = cut(t);

    g_assert(done);
    if (t->flipped) {
        t->group->cut_time = t->flipped;
    }
}

/* ---- settle ---- */

typedef struct Settle {
    Transaction *t;
    Coroutine *waiter; /* the command's; NULL once it stopped waiting */
    Timer timer;
} Settle;

static bool tell_unnamed = true;

void snapshot_group_tell_unnamed(bool on)
{
    tell_unnamed = on;
}

static void finish_group(Transaction *t)
{
    Group *g = t->group;

    g->state = SNAPSHOT_GROUP_STATE_SETTLED;
    g->longest_wait = 0;
    for (guint i = 0; i < g->members->len; i++) {
        const GroupMember *m = g_ptr_array_index(g->members, i);

        g->longest_wait = MAX(g->longest_wait, m->longest_wait);
        if (m->state == SNAPSHOT_GROUP_STATE_DEGRADED) {
            g->state = SNAPSHOT_GROUP_STATE_DEGRADED;
        }
    }
    g->settle_ns = t->settled - change_cut_time(t->change);
    journal_settled(g);
    if (t->group_registered && (t->id || tell_unnamed)) {
        qapi_event_send_snapshot_group_settled(g->id, g->state, g->longest_wait);
    }
}

/* On a worker: all at once, since a thread for each would have to be woken. */
static int commit_files(void *opaque)
{
    const GPtrArray *files = opaque;

    for (guint i = 0; i < files->len; i++) {
        snapshot_file_commit(g_ptr_array_index(files, i));
    }
    return 0;
}

static void coroutine_fn settle(void *opaque)
{
    Settle *s = opaque;
    Transaction *t = s->t;
    g_autofree Step *steps = g_new0(Step, MAX(t->actions->len, 1));
    g_autoptr(Error) err = NULL;

    if (!change_settle(t->change, -1, &err)) {
        /* T2: committed all the same.  The failed flush is sticky, so the guest's next flush tells it. */
        log_warn("snapshot group %s is degraded: %s", t->group->id, err->message);
        group_message(t->group, "%s", err->message);
    }
    for (guint i = 0; i < t->actions->len; i++) {
        Action *a = g_ptr_array_index(t->actions, i);

        if (a->ops->ended) {
            a->ops->ended(a);
        }
    }
    for_all(t, steps, settled_one, G_STRUCT_OFFSET(ActionOps, settled));
    if (t->files_to_commit->len > 0) {
        worker_run(WORKERS_CONTROL, commit_files, t->files_to_commit);
    }
    change_fold(t->change);
    t->settled = clock_ns();
    finish_group(t);
    change_free(t->change);
    t->change = NULL;
    transaction_end(t);
    if (s->waiter) {
        timer_cancel(&s->timer);
        co_wake(s->waiter);
    }
    if (t->detached) {
        transaction_destroy(t);
    }
    g_free(s);
}

static void settle_timeout(void *opaque)
{
    Settle *s = opaque;
    Coroutine *waiter = s->waiter;

    s->waiter = NULL;
    log_warn("snapshot group %s is committed but not settled after %g s: old requests are still "
             "running, or old images still being flushed",
             s->t->group->id, s->t->settle_timeout_ns / 1e9);
    co_wake(waiter);
}

/* Settles in a coroutine of its own, and waits for it as long as a reply may take. */
static void coroutine_fn settle_and_wait(Transaction *t)
{
    Settle *s = g_new0(Settle, 1);

    s->t = t;
    s->waiter = co_self();
    timer_init(&s->timer, settle_timeout, s);
    timer_arm(&s->timer, clock_ns() + t->settle_timeout_ns);
    co_spawn(loop_control(), settle, s);
    co_yield();
}

bool coroutine_fn transaction_cut(Transaction *t)
{
    if (!cut(t)) {
        return false;
    }
    transaction_set_state(t, TRANSACTION_STATE_SETTLING);
    settle_and_wait(t);
    return true;
}

bool coroutine_fn transaction_decide(Transaction *t, Error **errp)
{
    if (transaction_freezes(t)) {
        if (!transaction_freeze(t, errp)) {
            return false;
        }
    } else {
        if (!transaction_record(t, errp)) {
            return false;
        }
        transaction_cut_now(t);
    }
    transaction_set_state(t, TRANSACTION_STATE_SETTLING);
    settle_and_wait(t);
    return true;
}

bool coroutine_fn transaction_run(Transaction *t, Error **errp)
{
    if (!transaction_prepare(t, errp)) {
        return false;
    }
    transaction_set_state(t, TRANSACTION_STATE_COMMITTING);
    if (!transaction_decide(t, errp)) {
        transaction_set_state(t, TRANSACTION_STATE_ABORTING);
        transaction_undo(t);
        journal_forget(t->group);
        transaction_end(t);
        return false;
    }
    return true;
}

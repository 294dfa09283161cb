/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The cut: re-pointing any number of edges at one instant, while requests run through them.
 *
 * States, and what holds in each
 *
 *   PLANNED --change_arm--> ARMED --change_cut--> CUT --change_settle--> (settled) --change_fold--> gone
 *                             |                    ^
 *                        change_hold           change_cut
 *                             `--> HELD -----------'
 *                                    `-- deadline, change_disarm --> EXPIRED --change_disarm--> gone
 *
 *   PLANNED  C1  no edge knows of the change.
 *   ARMED    C2  every edge of the change has `next` and `pending` set, in this order; all requests still decide for the old
 *                node.  Barriers are up and old nodes are marked "not known flushed" already, so that the first request which
 *                sees the cut finds both.
 *   HELD     C7  writes that begin wait (hold.c); everything else is as in ARMED.
 *   EXPIRED      as ARMED, for good.
 *   CUT      C3  a request that begins decides for the new node.  The flag never goes back: if one request saw it, every request
 *                that was submitted after that one completed sees it too, on whichever disk and thread (completion is
 *                published with release, the flag read with acquire).  That makes the old nodes a consistent cut.
 *            C4  after the heavy barrier, the counts of an old node contain every request that decided for it.
 *   settled  C5  no write-like request and no flush is in an old node and none will come; what it held is durable, unless an
 *                error said otherwise.
 *   fold     C6  edges lead to the new node before `pending` is cleared, with a grace period between: nobody can
 *                have loaded the old node and then find no change.  Another grace period passes before the change is freed or an edge
 *                is armed again.
 *
 * What the control thread's lists say (`target`, `parents`) flips in change_cut() too, in the same turn of its loop: no query
 * sees a part of a group (T1).
 *
 * A filter (change_add_filter) is another kind of new node: what passes it goes on into the old node.  Such requests are counted apart until it
 * is settled (Edge.fresh), so that C4 and C5 hold for those that did not pass it; nothing is flushed.
 *
 * Between change_cut() and the end of change_settle(), copies wait: a read or status marked REQ_COPY that passes `barrier` waits
 * for the writes in the old node (io.c).  The barriers fall when the old writes of all members have ended, not waiting for
 * flushes.  No old node of a change may be reachable from another one of it by a client's request (plan refuses that): a copy waits
 * for its own old node only.
 */
#include "block/change.h"
#include "block/count.h"
#include "change-internal.h"
#include "io-internal.h"
#include "node-internal.h"

Change *change_new(void)
{
    Change *c = g_new0(Change, 1);

    pthread_mutex_init(&c->hold_lock, NULL);
    g_queue_init(&c->held);
    c->moves = g_array_new(false, false, sizeof(Move));
    c->edges = g_ptr_array_new();
    return c;
}

void change_free(Change *c)
{
    if (!c) {
        return;
    }
    for (guint i = 0; i < c->moves->len; i++) {
        Move *m = &g_array_index(c->moves, Move, i);

        node_unref(m->old_node);
        node_unref(m->new_node);
    }
    g_assert(g_queue_is_empty(&c->held));
    pthread_mutex_destroy(&c->hold_lock);
    g_array_free(c->moves, true);
    g_ptr_array_free(c->edges, true);
    g_free(c);
}

void change_add(Change *c, Node *old_node, Node *new_node, Edge *barrier)
{
    Move m = {.old_node = node_ref(old_node), .new_node = node_ref(new_node), .barrier = barrier};

    g_assert(atomic_load(&c->state) == CHANGE_PLANNED);
    g_assert(!barrier || (barrier->role == EDGE_COW && barrier->target == old_node));
    g_array_append_val(c->moves, m);
}

void change_add_held(Change *c, Node *n)
{
    change_add(c, n, n, NULL);
}

void change_add_edge(Change *c, Edge *e, Node *new_node)
{
    Move m = {.old_node = node_ref(e->target), .new_node = node_ref(new_node), .only = e};

    g_assert(atomic_load(&c->state) == CHANGE_PLANNED);
    g_array_append_val(c->moves, m);
}

void change_add_overlay(Change *c, Node *old_node, Node *new_node, Edge *barrier)
{
    for (guint i = 0; i < c->moves->len; i++) {
        Move *m = &g_array_index(c->moves, Move, i);

        if (m->new_node == old_node) {
            node_ref(new_node);
            node_unref(m->new_node);
            m->new_node = new_node;
        }
    }
    change_add(c, old_node, new_node, barrier);
}

void change_add_filter(Change *c, Node *old_node, Node *filter, Edge *own)
{
    Move m = {.old_node = node_ref(old_node),
              .new_node = node_ref(filter),
              .barrier = own,
              .filter = true};

    g_assert(atomic_load(&c->state) == CHANGE_PLANNED);
    for (guint i = 0; i < c->moves->len; i++) {
        Move *before = &g_array_index(c->moves, Move, i);

        if (before->new_node == old_node) {
            node_ref(filter);
            node_unref(before->new_node);
            before->new_node = filter;
        }
    }
    g_array_append_val(c->moves, m);
}

void change_arm_edge(Change *c, Edge *e, Node *new_node)
{
    /* One unsettled change an edge. */
    g_assert(!atomic_load_explicit(&e->pending, memory_order_relaxed));
    atomic_store_explicit(&e->next, new_node, memory_order_relaxed);
    atomic_store_explicit(&e->pending, c, memory_order_release);
    g_ptr_array_add(c->edges, e);
}

/* An edge of old_node that stays where it is. */
static bool stays(const Move *m, const Edge *e)
{
    /* What a job holds it holds, wherever others go. */
    return e == m->barrier || edge_is_job(e) ||
           /* What the filter uses must not use the filter; who reads the snapshot of one filter does not want that of another. */
           (m->filter && e->parent &&
            (e->parent->driver->reads_snapshot || node_reaches(m->new_node, e->parent)));
}

void change_arm(Change *c)
{
    g_assert(atomic_load(&c->state) == CHANGE_PLANNED);
    for (guint i = 0; i < c->moves->len; i++) {
        Move *m = &g_array_index(c->moves, Move, i);

        if (m->only) {
            change_arm_edge(c, m->only, m->new_node);
            continue;
        }
        g_assert(!m->old_node->unsettled);
        m->old_node->unsettled = c;
        atomic_store_explicit(&m->old_node->longest_wait, 0, memory_order_relaxed);
        if (m->old_node != m->new_node && !m->filter) {
            atomic_store_explicit(&m->old_node->unflushed_old, true, memory_order_relaxed);
        }
        if (m->barrier) {
            atomic_store_explicit(&m->barrier->fresh, m->filter, memory_order_relaxed);
            atomic_store_explicit(&m->barrier->barrier, m->old_node, memory_order_relaxed);
        }
        for (guint j = 0; j < m->old_node->parents->len; j++) {
            Edge *e = g_ptr_array_index(m->old_node->parents, j);

            if (!stays(m, e)) {
                change_arm_edge(c, e, m->new_node);
            }
        }
    }
    atomic_store_explicit(&c->state, CHANGE_ARMED, memory_order_release);
}

Node *change_next_of(const Change *c, const Node *old_node)
{
    for (guint i = 0; i < c->moves->len; i++) {
        Move *m = &g_array_index(c->moves, Move, i);

        if (m->old_node == old_node && !m->only) {
            return m->new_node;
        }
    }
    return NULL;
}

void change_edge_gone(Change *c, Edge *e)
{
    g_ptr_array_remove(c->edges, e);
}

void change_hold(Change *c, int64_t deadline_ns)
{
    g_assert(atomic_load(&c->state) == CHANGE_ARMED);
    c->hold_deadline = deadline_ns;
    atomic_store_explicit(&c->state, CHANGE_HELD, memory_order_seq_cst);
    barrier_heavy(); /* who did not see it is counted */
}

bool change_expired(const Change *c)
{
    return atomic_load_explicit(&c->state, memory_order_acquire) == CHANGE_EXPIRED;
}

/* The cut.  False: the hold has ended before. */
static bool flip(Change *c)
{
    if (atomic_load(&c->state) == CHANGE_ARMED) {
        c->cut_time = clock_ns();
        atomic_store_explicit(&c->state, CHANGE_CUT, memory_order_seq_cst);
        return true;
    }
    c->cut_time = clock_ns();
    if (c->cut_time >= c->hold_deadline) {
        hold_end(c, CHANGE_EXPIRED);
    }
    return hold_end(c, CHANGE_CUT);
}

bool change_cut(Change *c)
{
    g_assert(atomic_load(&c->state) >= CHANGE_ARMED);
    if (!flip(c)) {
        return false;
    }
    barrier_heavy();
    for (guint i = 0; i < c->edges->len; i++) {
        Edge *e = g_ptr_array_index(c->edges, i);

        edge_retarget(e, atomic_load_explicit(&e->next, memory_order_relaxed));
    }
    return true;
}

void coroutine_fn change_disarm(Change *c)
{
    int armed = CHANGE_ARMED;

    if (!hold_end(c, CHANGE_EXPIRED)) {
        (void)atomic_compare_exchange_strong(&c->state, &armed, CHANGE_EXPIRED);
    }
    g_assert(change_expired(c));
    for (guint i = 0; i < c->edges->len; i++) {
        Edge *e = g_ptr_array_index(c->edges, i);

        atomic_store_explicit(&e->pending, NULL, memory_order_release);
    }
    g_ptr_array_set_size(c->edges, 0);
    for (guint i = 0; i < c->moves->len; i++) {
        Move *m = &g_array_index(c->moves, Move, i);

        if (m->barrier) {
            atomic_store_explicit(&m->barrier->barrier, NULL, memory_order_release);
            atomic_store_explicit(&m->barrier->fresh, false, memory_order_release);
        }
        if (m->old_node != m->new_node) {
            atomic_store_explicit(&m->old_node->unflushed_old, false, memory_order_release);
        }
        m->old_node->unsettled = NULL;
    }
    co_rcu_synchronize();
}

int64_t change_cut_time(const Change *c)
{
    return c->cut_time;
}

typedef struct SettleFlush {
    CoGroup *group;
    Node *node;
    bool filter;
    int64_t deadline_ns;
    int ret;
} SettleFlush;

static void coroutine_fn settle_flush(void *opaque)
{
    SettleFlush *f = opaque;
    Request r;

    if (f->filter) {
        /* Nothing to make durable; but what was counted apart shall not be met by the next change. */
        f->ret = node_wait_passed(f->node, f->deadline_ns) ? 0 : -ETIMEDOUT;
    } else if (!node_wait_writes(f->node, true, f->deadline_ns)) {
        f->ret = -ETIMEDOUT;
    } else {
        request_begin(&r, REQUEST_FLUSH);
        f->ret = node_flush_self(f->node, &r);
        request_end(&r);
        if (f->ret == 0) {
            atomic_store_explicit(&f->node->unflushed_old, false, memory_order_release);
        }
    }
    co_group_done(f->group);
}

bool coroutine_fn change_settle(Change *c, int64_t deadline_ns, Error **errp)
{
    guint n = c->moves->len;
    g_autofree SettleFlush *flushes = g_new0(SettleFlush, n);
    CoGroup group;
    bool ok = true, filters = false;

    g_assert(change_is_cut(c));
    for (guint i = 0; i < n; i++) {
        Move *m = &g_array_index(c->moves, Move, i);

        if (m->filter ? !node_wait_old_writes(m->old_node, deadline_ns)
                      : !node_wait_writes(m->old_node, false, deadline_ns)) {
            error_set(errp, ERROR_TIMEOUT, m->old_node->name, "settle",
                      "Requests that began before the snapshot are still running in node '%s'",
                      m->old_node->name);
            return false;
        }
    }
    /* Only now, when all are idle: a request that is old in one node may yet enter another. */
    for (guint i = 0; i < n; i++) {
        Move *m = &g_array_index(c->moves, Move, i);

        if (m->barrier) {
            atomic_store_explicit(&m->barrier->barrier, NULL, memory_order_release);
            atomic_store_explicit(&m->barrier->fresh, false, memory_order_release);
        }
        filters |= m->filter;
    }
    if (filters) {
        co_rcu_synchronize(); /* who still saw `fresh` is counted */
    }

    co_group_init(&group);
    co_group_add(&group, n);
    for (guint i = 0; i < n; i++) {
        flushes[i].group = &group;
        flushes[i].node = g_array_index(c->moves, Move, i).old_node;
        flushes[i].filter = g_array_index(c->moves, Move, i).filter;
        flushes[i].deadline_ns = deadline_ns;
        co_start(settle_flush, &flushes[i]);
    }
    co_group_wait(&group);
    co_group_destroy(&group);
    for (guint i = 0; i < n && ok; i++) {
        if (flushes[i].ret < 0) {
            error_set_errno(errp, -flushes[i].ret, flushes[i].node->name, "flush",
                            "Write to node '%s' failed", flushes[i].node->name);
            ok = false;
        }
    }
    return ok;
}

void coroutine_fn change_abandon_old(Change *c)
{
    g_assert(change_is_cut(c));
    for (guint i = 0; i < c->moves->len; i++) {
        Move *m = &g_array_index(c->moves, Move, i);

        if (m->old_node == m->new_node) {
            continue;
        }
        node_wait_writes(m->old_node, false, -1);
        if (m->barrier) {
            atomic_store_explicit(&m->barrier->barrier, NULL, memory_order_release);
        }
        atomic_store_explicit(&m->old_node->unflushed_old, false, memory_order_release);
    }
}

void coroutine_fn change_fold(Change *c)
{
    g_assert(change_is_cut(c));
    for (guint i = 0; i < c->edges->len; i++) {
        Edge *e = g_ptr_array_index(c->edges, i);

        atomic_store_explicit(&e->node, e->target, memory_order_release);
    }
    co_rcu_synchronize();
    for (guint i = 0; i < c->edges->len; i++) {
        Edge *e = g_ptr_array_index(c->edges, i);

        atomic_store_explicit(&e->pending, NULL, memory_order_release);
    }
    for (guint i = 0; i < c->moves->len; i++) {
        Move *m = &g_array_index(c->moves, Move, i);

        if (!m->only) {
            m->old_node->unsettled = NULL;
        }
    }
    /* The edges have forgotten the change: they may go while the grace period lasts, so it forgets them too. */
    for (guint i = 0; i < c->edges->len; i++) {
        edge_settled(g_ptr_array_index(c->edges, i));
    }
    g_ptr_array_set_size(c->edges, 0);
    co_rcu_synchronize();
}

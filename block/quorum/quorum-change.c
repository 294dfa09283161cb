/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Other children for a quorum, while requests run through it (x-blockdev-change).
 *
 *   prepare   the new child gets an edge that nobody uses yet; permissions and locks are taken.  All that can fail.
 *   cut       one store: calls that begin use the new set.  Nobody waits.
 *   settle    calls that began with the old set end; then that is freed, and a removed child given up
 *
 * A call enters the current set in a read section, which the store is followed by a grace period for; so the users of an old set only become
 * fewer.  Entered under the lock of its range, a write that follows another one never has an older set than that one (Q3).
 *
 * The command waits for settling SETTLE_NS at most: a child is removed just because its storage hangs, perhaps.  What is left of it then is in no
 * query; the node goes when its requests have ended.  A request that ends later than its calls may remember the edge (its pin), so the memory of that
 * stays until the quorum closes.
 */
#include "quorum.h"
#include "../node-internal.h"
#include "util/rcu.h"
#include <string.h>

#define SETTLE_NS INT64_C(500000000)

/* ---- sets ---- */

QuorumSet *quorum_set_new(const QuorumSet *from, unsigned n)
{
    QuorumSet *set = g_malloc0(sizeof(QuorumSet) + n * sizeof(Edge *));

    co_group_init(&set->users);
    co_group_add(&set->users, 1);
    set->n = n;
    for (unsigned i = 0; from && i < MIN(n, from->n); i++) {
        set->child[i] = from->child[i];
    }
    return set;
}

void quorum_set_free(QuorumSet *set)
{
    co_group_destroy(&set->users);
    g_free(set);
}

QuorumSet *quorum_set_enter(QuorumState *s)
{
    QuorumSet *set;

    rcu_begin();
    set = atomic_load_explicit(&s->set, memory_order_acquire);
    co_group_add(&set->users, 1);
    rcu_end();
    return set;
}

void quorum_set_leave(QuorumSet *set)
{
    co_group_done(&set->users);
}

/* ---- settling ---- */

typedef struct Settle {
    Node *n; /* a reference */
    QuorumSet *old;
    Edge *removed;     /* NULL: none */
    Coroutine *waiter; /* the command's; NULL: it does not wait, or not any more */
    Timer timer;
    bool done, given_up;
} Settle;

static void wake(Settle *w)
{
    Coroutine *waiter = w->waiter;

    w->waiter = NULL;
    if (waiter) {
        co_wake(waiter);
    }
}

static void coroutine_fn settle(void *opaque)
{
    Settle *w = opaque;

    co_rcu_synchronize();
    quorum_set_leave(w->old);
    co_group_wait(&w->old->users);
    quorum_set_free(w->old);
    if (w->removed) {
        edge_retire(w->removed, w->n);
    }
    node_unref(w->n);
    w->done = true;
    if (w->given_up) {
        g_free(w);
    } else {
        wake(w);
    }
}

static void too_long(void *opaque)
{
    wake(opaque);
}

/* The cut, and what follows it. */
static void coroutine_fn change_to(Node *n, QuorumSet *set, Edge *removed)
{
    QuorumState *s = n->state;
    Settle *w = g_new0(Settle, 1);

    w->n = node_ref(n);
    w->removed = removed;
    w->old = atomic_load(&s->set);
    atomic_store_explicit(&s->set, set, memory_order_seq_cst);
    co_start(settle, w);
    if (!w->done) {
        w->waiter = co_self();
        timer_init(&w->timer, too_long, w);
        timer_arm(&w->timer, clock_ns() + SETTLE_NS);
        co_yield();
        timer_cancel(&w->timer);
    }
    if (w->done) {
        g_free(w);
    } else {
        w->given_up = true;
    }
}

/* ---- adding and removing ---- */

bool coroutine_fn quorum_add_child(Node *n, Node *child, Error **errp)
{
    QuorumState *s = n->state;
    const QuorumSet *now = atomic_load(&s->set);
    g_autofree char *name = g_strdup_printf("children.%u", s->next_index);
    QuorumSet *set;
    Edge *e;

    if (s->blkverify) {
        error_set(errp, ERROR_INVALID, n->name, "add-child",
                  "Cannot add a child to a quorum in blkverify mode");
        return false;
    }
    if (node_reaches(child, n)) {
        error_set(errp, ERROR_INVALID, child->name, "add-child",
                  "Making '%s' a %s child of '%s' would create a cycle", child->name, name,
                  n->name);
        return false;
    }
    if (!node_check_child_active(n, child, name, errp) ||
        !quorum_check_size(n, now->child[0]->target, child, errp)) {
        return false;
    }
    e = edge_join(child, n, name, EDGE_FILTERED);
    if (!perm_refresh(n, errp)) {
        edge_unjoin(e);
        return false;
    }
    set = quorum_set_new(now, now->n + 1);
    set->child[now->n] = e;
    s->next_index++;
    e->joining = false;
    change_to(n, set, NULL);
    return true;
}

bool coroutine_fn quorum_remove_child(Node *n, Edge *e, Error **errp)
{
    QuorumState *s = n->state;
    const QuorumSet *now = atomic_load(&s->set);
    g_autofree char *newest = g_strdup_printf("children.%u", s->next_index - 1);
    QuorumSet *set;

    if (now->n <= s->threshold) {
        error_set(errp, ERROR_INVALID, n->name, "remove-child",
                  "The number of children cannot be lower than the vote threshold %u",
                  s->threshold);
        return false;
    }
    /* With blkverify there are as many as the threshold. */
    set = quorum_set_new(NULL, now->n - 1);
    for (unsigned i = 0, to = 0; i < now->n; i++) {
        if (now->child[i] != e) {
            set->child[to++] = now->child[i];
        }
    }
    if (strcmp(e->name, newest) == 0) {
        s->next_index--;
    }
    g_ptr_array_remove(n->children, e);
    change_to(n, set, e);
    return true;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Fleecing by an overlay: the target of a copy-before-write filter has the source as its backing node.
 *
 * Readers of the target see in it what was copied, and below it what was not, and that is the snapshot, but for a reader that finds a cluster
 * not there and reads it below when it has been overwritten.  So such reads go by a guard: they hold what they read below, or find it in the
 * target after all.  What the filter does not keep (it has a bitmap) is read as it is.
 *
 * Lock: none; the list belongs to the control thread.
 */
#include "../guard.h"
#include "../node-internal.h"
#include "cbw.h"
#include <errno.h>

/* All guards of all filters; few. */
typedef struct Guard {
    EdgeGuard guard; /* first */
    Cbw *c;
    Edge *source; /* the filter's */
    Node *target; /* the filter's edge keeps it */
} Guard;

static GHashTable *guards; /* Cbw -> Guard */

static void enter(EdgeGuard *g)
{
    cbw_enter(((Guard *)g)->c);
}

static void leave(EdgeGuard *g)
{
    cbw_leave(((Guard *)g)->c);
}

static bool is_kept(const Guard *g, uint64_t offset, uint64_t bytes)
{
    return cbw_error(g->c) < 0 || cbw_keeps(g->c, offset, bytes);
}

static int coroutine_fn guard_preadv(EdgeGuard *guard, Request *r, GuestOffset offset,
                                     const IoVector *iov, unsigned flags)
{
    const Guard *g = (Guard *)guard;
    size_t at = 0;
    int ret = 0;

    /* By clusters only if some of them are kept and some are not. */
    if (is_kept(g, offset.v, iov->size)) {
        return cbw_snapshot_preadv(g->c, r, offset, iov, flags);
    }
    while (at < iov->size && ret == 0) {
        GuestOffset o = guest_add(offset, at);
        size_t len = MIN(iov->size - at, cbw_cluster(g->c) - o.v % cbw_cluster(g->c));
        g_auto(IoVector) part = {0};

        iov_init_slice(&part, iov, at, len);
        ret = is_kept(g, o.v, len) ? cbw_snapshot_preadv(g->c, r, o, &part, flags)
                                   : edge_preadv(g->source, r, o, &part, flags);
        at += len;
    }
    return ret;
}

static int coroutine_fn guard_status(EdgeGuard *guard, Request *r, GuestOffset offset,
                                     uint64_t bytes, unsigned flags, uint64_t *ret_bytes)
{
    const Guard *g = (Guard *)guard;
    uint64_t len = MIN(bytes, cbw_cluster(g->c) - offset.v % cbw_cluster(g->c));

    return is_kept(g, offset.v, len)
               ? cbw_snapshot_status(g->c, r, offset, bytes, flags, ret_bytes)
               : edge_block_status_above(g->source, r, offset, len, flags, ret_bytes, NULL);
}

static const EdgeGuard functions = {
    .enter = enter, .leave = leave, .preadv = guard_preadv, .block_status = guard_status};

/* Sets or takes away g on the backing edges from n down. */
static bool mark(Node *n, const Node *source, Guard *g, bool set)
{
    bool any = false;

    for (guint i = 0; i < n->children->len; i++) {
        Edge *e = g_ptr_array_index(n->children, i);
        EdgeGuard *now = atomic_load(&e->guard);

        if (!set && now == &g->guard) {
            atomic_store_explicit(&e->guard, NULL, memory_order_release);
        } else if (set && !now && e->role == EDGE_COW && e->target == source) {
            e->guarded = true;
            atomic_store_explicit(&e->guard, &g->guard, memory_order_release);
            any = true;
        } else if (e->target != source) {
            any |= mark(e->target, source, g, set);
        }
    }
    return any;
}

void cbw_guard_share(const Node *source, Node *n, bool share)
{
    for (guint i = 0; i < n->children->len; i++) {
        Edge *e = g_ptr_array_index(n->children, i);

        if (e->target != source) {
            cbw_guard_share(source, e->target, share);
        } else if (e->role == EDGE_COW && !atomic_load(&e->guard)) {
            e->guarded = share;
        }
    }
}

void cbw_guard(Cbw *c, Node *source, Edge *file, Node *target)
{
    Guard *g = g_new0(Guard, 1);

    g->guard = functions;
    g->c = c;
    g->source = file;
    g->target = target;
    if (!mark(target, source, g, true)) {
        g_free(g);
        return;
    }
    if (!guards) {
        guards = g_hash_table_new(NULL, NULL);
    }
    g_hash_table_insert(guards, c, g);
}

void coroutine_fn cbw_unguard(Cbw *c)
{
    Guard *g = guards ? g_hash_table_lookup(guards, c) : NULL;

    if (g) {
        g_hash_table_remove(guards, c);
        mark(g->target, NULL, g, false);
        co_rcu_synchronize();
        cbw_wait_idle(c);
        g_free(g);
    }
}

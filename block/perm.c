/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Permissions: who may do what with a node at the same time.
 *
 * Every edge says what its parent does with the node (perm) and what it lets others do (shared).  A node's cumulative permissions
 * follow from its edges; what it needs from its children follows from those (driver->child_perm); a protocol driver turns its
 * own into locks on the file (driver->perm_prepare).
 *
 * An update is a plan first: nodes in an order in which every parent comes before its children, with new values for each; conflicts
 * and read-only nodes are found there, with nothing changed.  Then the protocol drivers take their locks, and only when all
 * have them the plan is applied.  Reopening has a plan of its own in which edges are marked as joining (in the lists already, not used yet) or
 * leaving (in the lists still), and nodes have a `reopening`, which says what they will be.  An inactive node takes no more of its children than
 * reading, and shares all; users from outside the graph that bear it count as if they were not there.
 *
 * A coroutine can be suspended while locks are taken.  Two plans that have a node in common follow each other, in the order in which they
 * came; those of different disks go side by side.  That suffices: an edge's values are read by plans that have its target, and changed by
 * plans that have its parent, and so its target too.  A plan that waits looks at the graph anew when its turn comes.  The plan of a
 * reopening marks nodes before it knows all of them: it has all nodes there are.
 */
#include "block/count.h"
#include "block/reopen.h"
#include "node-internal.h"
#include <string.h>

#define CHANGING (PERM_WRITE | PERM_WRITE_UNCHANGED | PERM_RESIZE)

typedef struct PlanEdge {
    unsigned perm, shared;
} PlanEdge;

typedef struct PlanNode {
    Node *node;
    unsigned perm, shared;
    bool prepared;
} PlanNode;

struct PermPlan {
    GPtrArray *order;  /* PlanNode *, parents first */
    GHashTable *seen;  /* Node * */
    GHashTable *edges; /* Edge * -> PlanEdge * : edges whose values change with the plan */
    bool everything;   /* has all nodes, whatever `seen` says */
    Coroutine *waiter; /* NULL: does not wait */
};

/* Oldest first: the plans that are carried out, and those that wait for one before them. */
static GQueue plans = G_QUEUE_INIT;

char *perm_names(unsigned perm)
{
    static const char *const text[] = {"consistent read", "write", "write unchanged", "resize"};
    GString *s = g_string_new(NULL);

    for (unsigned i = 0; i < G_N_ELEMENTS(text); i++) {
        if (perm & (1u << i)) {
            g_string_append_printf(s, "%s%s", s->len ? ", " : "", text[i]);
        }
    }
    return g_string_free(s, false);
}

static void plan_visit(PermPlan *p, Node *n)
{
    PlanNode *pn;

    if (!g_hash_table_add(p->seen, n)) {
        return;
    }
    for (guint i = 0; i < n->children->len; i++) {
        plan_visit(p, ((Edge *)g_ptr_array_index(n->children, i))->target);
    }
    pn = g_new0(PlanNode, 1);
    pn->node = n;
    g_ptr_array_insert(p->order, 0, pn);
}

static PlanEdge edge_values(const PermPlan *p, const Edge *e)
{
    PlanEdge *pe = g_hash_table_lookup(p->edges, e);

    if (e->leaving || (!e->parent && node_will_be_inactive(e->target) && e->owner->bears_inactive &&
                       e->owner->bears_inactive(e->owner_opaque))) {
        return (PlanEdge){0, PERM_ALL};
    }
    return pe ? *pe : (PlanEdge){e->perm, e->shared};
}

static char *describe_parent(const Edge *e)
{
    if (e->parent) {
        return g_strdup_printf("node '%s'", e->parent->name);
    }
    return e->owner->describe(e->owner_opaque);
}

static bool check_conflicts(const PermPlan *p, const Node *n, Error **errp)
{
    for (guint i = 0; i < n->parents->len; i++) {
        const Edge *a = g_ptr_array_index(n->parents, i);

        for (guint j = 0; j < n->parents->len; j++) {
            const Edge *b = g_ptr_array_index(n->parents, j);
            unsigned conflict = edge_values(p, a).perm & ~edge_values(p, b).shared;

            if (a != b && conflict) {
                g_autofree char *who = describe_parent(a), *whom = describe_parent(b),
                                *what = perm_names(conflict);

                error_set(errp, ERROR_BUSY, n->name, "permissions",
                          "Permission conflict on node '%s': permissions '%s' are both required by "
                          "%s (uses node '%s' "
                          "as '%s' child) and unshared by %s (uses node '%s' as '%s' child).",
                          n->name, what, who, n->name, a->name, whom, n->name, b->name);
                return false;
            }
        }
    }
    return true;
}

/* Values for one node from its (planned) edges, and for the edges to its children. */
static bool plan_node(PermPlan *p, PlanNode *pn, bool check, Error **errp)
{
    Node *n = pn->node;

    pn->perm = 0;
    pn->shared = PERM_ALL;
    for (guint i = 0; i < n->parents->len; i++) {
        PlanEdge v = edge_values(p, g_ptr_array_index(n->parents, i));

        pn->perm |= v.perm;
        pn->shared &= v.shared;
    }
    if (check) {
        if (!check_conflicts(p, n, errp)) {
            return false;
        }
        if (node_will_be_inactive(n) && (pn->perm & CHANGING)) {
            g_autofree char *what = perm_names(pn->perm & CHANGING);

            error_set(errp, ERROR_PERMISSION, n->name, "permissions",
                      "Permission '%s' unavailable on inactive node", what);
            return false;
        }
        if (n->reopening && n->reopening->read_only &&
            (pn->perm & (PERM_WRITE | PERM_WRITE_UNCHANGED))) {
            error_set(errp, ERROR_PERMISSION, n->name, "permissions",
                      "Read-only block node '%s' cannot support read-write users", n->name);
            return false;
        }
        if ((pn->perm & ~n->perm & (PERM_WRITE | PERM_WRITE_UNCHANGED)) &&
            node_will_be_read_only(n)) {
            error_set(errp, ERROR_PERMISSION, n->name, "permissions", "Block node is read-only");
            return false;
        }
    }
    if (!n->driver->child_perm) {
        return true;
    }
    for (guint i = 0; i < n->children->len; i++) {
        Edge *e = g_ptr_array_index(n->children, i);
        PlanEdge *pe = g_new0(PlanEdge, 1);

        if (e->leaving) {
            *pe = (PlanEdge){0, PERM_ALL};
            g_hash_table_insert(p->edges, e, pe);
            continue;
        }
        node_child_perm(n, e->role, pn->perm, pn->shared, &pe->perm, &pe->shared);
        if (e->unsettled || e->guarded) {
            pe->shared = PERM_ALL;
        }
        if (e->lenient) {
            *pe = (PlanEdge){PERM_NONE, PERM_ALL};
        }
        g_hash_table_insert(p->edges, e, pe);
    }
    return true;
}

static void plan_abort(PermPlan *p)
{
    for (guint i = 0; i < p->order->len; i++) {
        PlanNode *pn = g_ptr_array_index(p->order, i);

        if (pn->prepared) {
            pn->node->driver->perm_abort(pn->node);
        }
    }
}

static void plan_apply(PermPlan *p)
{
    GHashTableIter iter;
    gpointer key, value;

    g_hash_table_iter_init(&iter, p->edges);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        Edge *e = key;
        PlanEdge *pe = value;

        e->perm = pe->perm;
        e->shared = pe->shared;
    }
    for (guint i = 0; i < p->order->len; i++) {
        PlanNode *pn = g_ptr_array_index(p->order, i);

        pn->node->perm = pn->perm;
        pn->node->shared = pn->shared;
        if (pn->prepared) {
            pn->node->driver->perm_commit(pn->node, pn->perm, pn->shared);
        }
    }
}

/* ---- one after another, or side by side ---- */

static bool overlap(const PermPlan *a, const PermPlan *b)
{
    GHashTableIter iter;
    gpointer node;

    if (a->everything || b->everything) {
        return true;
    }
    g_hash_table_iter_init(&iter, a->seen);
    while (g_hash_table_iter_next(&iter, &node, NULL)) {
        if (g_hash_table_contains(b->seen, node)) {
            return true;
        }
    }
    return false;
}

static bool must_wait(const PermPlan *p)
{
    for (GList *l = plans.head; l->data != p; l = l->next) {
        if (overlap(l->data, p)) {
            return true;
        }
    }
    return false;
}

static PermPlan *plan_new(void)
{
    PermPlan *p = g_new0(PermPlan, 1);

    p->order = g_ptr_array_new_with_free_func(g_free);
    p->seen = g_hash_table_new(NULL, NULL);
    p->edges = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    return p;
}

/* For n and what is below it; NULL: for everything. */
static PermPlan *coroutine_fn plan_begin(Node *n)
{
    PermPlan *p = plan_new();

    p->everything = !n;
    g_queue_push_tail(&plans, p);
    for (;;) {
        if (n) {
            g_hash_table_remove_all(p->seen);
            g_ptr_array_set_size(p->order, 0);
            plan_visit(p, n);
        }
        if (!must_wait(p)) {
            return p;
        }
        p->waiter = co_self();
        co_yield();
    }
}

PermPlan *coroutine_fn perm_plan_begin(void)
{
    return plan_begin(NULL);
}

void perm_plan_add(PermPlan *p, Node *n)
{
    plan_visit(p, n);
}

static bool values_change(const PlanNode *pn)
{
    return pn->perm != pn->node->perm || pn->shared != pn->node->shared || pn->node->reopening;
}

static bool coroutine_fn plan_prepare(PermPlan *p, bool check, Error **errp)
{
    bool ok = true;

    for (guint i = 0; i < p->order->len && ok; i++) {
        ok = plan_node(p, g_ptr_array_index(p->order, i), check, errp);
    }
    for (guint i = 0; i < p->order->len && ok; i++) {
        PlanNode *pn = g_ptr_array_index(p->order, i);
        const BlockDriver *drv = pn->node->driver;

        if (drv->perm_prepare && values_change(pn)) {
            ok = drv->perm_prepare(pn->node, pn->perm, pn->shared, errp);
            pn->prepared = ok;
        }
    }
    if (!ok) {
        plan_abort(p);
    }
    return ok;
}

bool coroutine_fn perm_plan_prepare(PermPlan *p, Error **errp)
{
    return plan_prepare(p, true, errp);
}

void perm_plan_abort(PermPlan *p)
{
    plan_abort(p);
}

void perm_plan_apply(PermPlan *p)
{
    plan_apply(p);
}

Node *perm_plan_node(const PermPlan *p, unsigned i)
{
    return i < p->order->len ? ((PlanNode *)g_ptr_array_index(p->order, i))->node : NULL;
}

void perm_plan_end(PermPlan *p)
{
    g_queue_remove(&plans, p);
    for (GList *l = plans.head; l; l = l->next) {
        PermPlan *other = l->data;

        if (other->waiter && !must_wait(other)) {
            co_wake(other->waiter);
            other->waiter = NULL;
        }
    }
    g_ptr_array_free(p->order, true);
    g_hash_table_destroy(p->seen);
    g_hash_table_destroy(p->edges);
    g_free(p);
}

/* The nodes that lose their last writer by the plan; referenced. */
static GPtrArray *losing_writers(const PermPlan *p)
{
    const unsigned writing = PERM_WRITE | PERM_WRITE_UNCHANGED;
    GPtrArray *nodes = g_ptr_array_new_with_free_func((GDestroyNotify)node_unref);

    for (guint i = 0; i < p->order->len; i++) {
        const PlanNode *pn = g_ptr_array_index(p->order, i);

        if (pn->node->driver->writers_gone && pn->node->refs > 0 && (pn->node->perm & writing) &&
            !(pn->perm & writing)) {
            g_ptr_array_add(nodes, node_ref(pn->node));
        }
    }
    return nodes;
}

/* Without the lock: storage may take its time. */
static void coroutine_fn tell_writers_gone(const GPtrArray *nodes)
{
    for (guint i = 0; i < nodes->len; i++) {
        Node *n = g_ptr_array_index(nodes, i);
        Request r;

        if (n->reopening || atomic_load(&n->read_only)) {
            continue; /* it is seen to there */
        }
        request_begin(&r, REQUEST_WRITE);
        count_begin(n, r.slot, REQUEST_WRITE);
        n->driver->writers_gone(n, &r);
        count_end(n, r.slot, REQUEST_WRITE);
        request_end(&r);
    }
}

static bool coroutine_fn perm_update(Node *n, bool check, Error **errp)
{
    PermPlan *p = plan_begin(n);
    g_autoptr(GPtrArray) idle = NULL;
    bool ok;

    ok = plan_prepare(p, check, errp);
    if (ok) {
        idle = losing_writers(p);
        plan_apply(p);
    }
    perm_plan_end(p);
    if (idle) {
        tell_writers_gone(idle);
    }
    return ok;
}

bool coroutine_fn perm_refresh(Node *n, Error **errp)
{
    return perm_update(n, true, errp);
}

void coroutine_fn perm_lower(Node *n)
{
    g_autoptr(Error) err = NULL;

    /* A driver that cannot give up a lock keeps it: harmless to us, and nothing that the caller could do better. */
    (void)perm_update(n, false, &err);
}

void node_child_perm(const Node *n, EdgeRole role, unsigned parent_perm, unsigned parent_shared,
                     unsigned *perm, unsigned *shared)
{
    n->driver->child_perm(n, role, parent_perm, parent_shared, perm, shared);
    if (node_will_be_inactive(n)) {
        *perm &= PERM_CONSISTENT_READ;
        *shared = PERM_ALL;
    }
}

bool coroutine_fn perm_check_filter(Node *old, Node *filter, Edge *own, Error **errp)
{
    PermPlan *p = perm_plan_begin();
    g_autoptr(GPtrArray) all = g_ptr_array_copy(old->parents, NULL, NULL);
    guint own_parents = filter->parents->len;
    bool unsettled = own->unsettled, ok = true;

    /* The lists are for a moment, without suspending, what they will be. */
    own->unsettled = false;
    g_ptr_array_set_size(old->parents, 0);
    for (guint i = 0; i < all->len; i++) {
        Edge *e = g_ptr_array_index(all, i);
        bool stays = e == own || edge_is_job(e) || (e->parent && node_reaches(filter, e->parent));

        g_ptr_array_add(stays ? old->parents : filter->parents, e);
    }
    perm_plan_add(p, filter);
    for (guint i = 0; i < p->order->len && ok; i++) {
        ok = plan_node(p, g_ptr_array_index(p->order, i), true, errp);
    }
    g_ptr_array_set_size(filter->parents, own_parents);
    g_ptr_array_set_size(old->parents, 0);
    for (guint i = 0; i < all->len; i++) {
        g_ptr_array_add(old->parents, g_ptr_array_index(all, i));
    }
    own->unsettled = unsettled;
    perm_plan_end(p);
    return ok;
}

void format_child_perm(const Node *n, EdgeRole role, unsigned parent_perm, unsigned parent_shared,
                       unsigned *perm, unsigned *shared)
{
    if (role == EDGE_COW) {
        /* Data may be copied up or not; it must not change below us, unless nobody uses us. */
        *perm = parent_perm & PERM_CONSISTENT_READ;
        *shared = PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED;
        if (parent_perm == PERM_NONE) {
            *shared |= PERM_WRITE | PERM_RESIZE;
        }
        return;
    }
    *perm = PERM_CONSISTENT_READ |
            (parent_perm & PERM_ALL & ~(PERM_WRITE | PERM_WRITE_UNCHANGED | PERM_RESIZE));
    if (!node_will_be_read_only(n)) {
        /* Metadata is written whether or not a parent writes. */
        *perm |= PERM_WRITE | PERM_RESIZE;
    }
    /* Two users of one image file would destroy each other's metadata. */
    (void)parent_shared;
    *shared = PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED;
    if (n->force_share) {
        *shared = PERM_ALL;
    }
}

void filter_child_perm(const Node *n, EdgeRole role, unsigned parent_perm, unsigned parent_shared,
                       unsigned *perm, unsigned *shared)
{
    (void)n;
    (void)role;
    *perm = parent_perm;
    *shared = parent_shared | PERM_WRITE_UNCHANGED;
}

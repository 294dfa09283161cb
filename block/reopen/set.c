/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Changing any number of nodes, all or none: the sequence that reopening and activation share.
 *
 *   plan      new edges join, old ones are marked as leaving; drivers check; permissions are planned over the graph as it will be, and what they
 *             need (locks, descriptors) is got beside what is held.  Requests run.
 *   quiesce   parents first: where something changes that requests see, the gate is closed and the node becomes idle (gate.c); what memory holds
 *             gets into the files that it belongs to
 *   load      children first: what the new states need is read
 *   switch    children first, and nothing that can fail: permissions, driver states, edges, flags; the gates open
 *   end       old edges are detached, old states freed
 *
 * Whatever fails up to and including the claim of the gates: all is as it was.  Only the nodes that change are held, and no longer than
 * HOLD_LIMIT_NS, by their own I/O threads' clocks; a change between read-only and writable alone holds nobody.
 */
#include "set.h"
#include "../gate.h"
#include "../io-internal.h"
#include "block/bitmaps.h"
#include "block/graph.h"
#include "block/put-away.h"
#include "block/transaction.h"

#define HOLD_LIMIT_NS (10 * INT64_C(1000000000))

static void item_free(gpointer p)
{
    Item *i = p;

    qapi_free_BlockdevOptions(i->r.options);
    qapi_free_BlockdevOptions(i->given);
    node_unref(i->r.node);
    g_free(i);
}

void set_init(Set *s)
{
    *s = (Set){.items = g_ptr_array_new_with_free_func(item_free)};
}

void set_clear(Set *s)
{
    if (s->hold) {
        reservation_end(s->hold);
    }
    g_ptr_array_free(s->items, true);
}

Item *set_find(const Set *s, const Node *n)
{
    for (guint i = 0; i < s->items->len; i++) {
        Item *item = g_ptr_array_index(s->items, i);

        if (item->r.node == n) {
            return item;
        }
    }
    return NULL;
}

Item *set_add(Set *s, Node *n, const BlockdevOptions *given)
{
    Item *i = g_new0(Item, 1);

    i->r.node = node_ref(n);
    i->given = given ? qapi_copy_BlockdevOptions(given) : NULL;
    g_ptr_array_add(s->items, i);
    return i;
}

/* The node that somebody else has reserved; NULL: now all are ours. */
Node *set_reserve(Set *s)
{
    s->hold = reservation_new();
    for (guint i = 0; i < s->items->len; i++) {
        Item *item = g_ptr_array_index(s->items, i);
        Node *all[] = {item->r.node, item->want_file, item->want_backing,
                       item->r.file ? item->r.file->target : NULL,
                       item->r.backing ? item->r.backing->target : NULL};

        for (guint j = 0; j < G_N_ELEMENTS(all); j++) {
            if (all[j] && !reservation_add(s->hold, all[j])) {
                return all[j];
            }
        }
    }
    return NULL;
}

/* ---- plan ---- */

static bool join(Item *i, Node *want, const char *name, EdgeRole role, Edge **edge, Error **errp)
{
    Node *n = i->r.node;

    if (node_reaches(want, n)) {
        error_set(errp, ERROR_INVALID, want->name, "reopen",
                  "Making '%s' a %s child of '%s' would create a cycle", want->name, name, n->name);
        return false;
    }
    if (!node_check_child_active(n, want, name, errp)) {
        return false;
    }
    *edge = edge_join(want, n, name, role);
    return true;
}

/* What one job works on must stay connected. */
static bool is_frozen(const Node *n, const Edge *e)
{
    for (guint i = 0; i < n->parents->len; i++) {
        const Edge *mine = g_ptr_array_index(n->parents, i);

        for (guint j = 0; edge_is_job(mine) && j < e->target->parents->len; j++) {
            const Edge *below = g_ptr_array_index(e->target->parents, j);

            if (edge_is_job(below) && below->owner_opaque == mine->owner_opaque) {
                return true;
            }
        }
    }
    return false;
}

static bool check_frozen(const Node *n, const Edge *e, Error **errp)
{
    if (e && is_frozen(n, e)) {
        error_set(errp, ERROR_BUSY, n->name, "reopen",
                  "Cannot change frozen '%s' link from '%s' to '%s'", e->name, n->name,
                  e->target->name);
        return false;
    }
    return true;
}

static bool plan_edges(Item *i, Error **errp)
{
    Reopen *r = &i->r;

    if ((i->want_file && !check_frozen(r->node, r->file, errp)) ||
        ((i->want_backing || i->no_backing) && !check_frozen(r->node, r->backing, errp))) {
        return false;
    }
    if (i->want_file) {
        i->old_file = r->file;
        i->old_file->leaving = true;
        if (!join(i, i->want_file, "file", i->old_file->role, &r->file, errp)) {
            return false;
        }
        r->new_file = r->hold = true;
    }
    if (i->want_backing || i->no_backing) {
        i->old_backing = r->backing;
        if (i->old_backing) {
            i->old_backing->leaving = true;
        }
        r->backing = NULL;
        r->new_backing = r->hold = true;
        if (i->want_backing && !join(i, i->want_backing, "backing", EDGE_COW, &r->backing, errp)) {
            return false;
        }
    }
    return true;
}

static bool coroutine_fn plan(Set *s, Error **errp)
{
    s->plan = perm_plan_begin();
    for (guint i = 0; i < s->items->len; i++) {
        Item *item = g_ptr_array_index(s->items, i);

        if (item->changed) {
            item->r.node->reopening = &item->r;
        }
    }
    for (guint i = 0; i < s->items->len; i++) {
        if (!plan_edges(g_ptr_array_index(s->items, i), errp)) {
            return false;
        }
    }
    /* Children first: what becomes of a file decides what becomes of its image. */
    for (guint i = s->items->len; i-- > 0;) {
        Item *item = g_ptr_array_index(s->items, i);

        if (item->changed) {
            item->prepared = true;
            if (item->r.node->driver->reopen_prepare &&
                !item->r.node->driver->reopen_prepare(item->r.node, &item->r, errp)) {
                return false;
            }
        }
    }
    for (guint i = 0; i < s->items->len; i++) {
        Item *item = g_ptr_array_index(s->items, i);

        if (item->changed) {
            perm_plan_add(s->plan, item->r.node);
        }
        if (item->old_file) {
            perm_plan_add(s->plan, item->old_file->target);
        }
        if (item->old_backing) {
            perm_plan_add(s->plan, item->old_backing->target);
        }
    }
    s->planned = perm_plan_prepare(s->plan, errp);
    return s->planned;
}

/* ---- quiesce and load ---- */

static bool gives_up_writing(const Item *i)
{
    return i->r.read_only && !atomic_load(&i->r.node->read_only);
}

/* Most of what is to be written out, before anybody has to wait for it. */
static bool coroutine_fn flush_before(Item *i, Error **errp)
{
    Node *n = i->r.node;
    Request r;
    int ret;

    request_begin(&r, REQUEST_FLUSH);
    ret = node_flush_self(n, &r);
    request_end(&r);
    if (ret < 0) {
        error_set_errno(errp, -ret, n->name, "flush", "Error flushing node '%s'", n->name);
    }
    return ret == 0;
}

static bool timed_out(const Node *n, Error **errp)
{
    error_set(errp, ERROR_TIMEOUT, n->name, "reopen",
              "Node '%s' is busy: its requests did not end in time", n->name);
    return false;
}

static bool coroutine_fn quiesce(Item *i, int64_t deadline, Error **errp)
{
    Node *n = i->r.node;
    Request r;
    int ret = 0;

    if (i->r.hold) {
        gate_close(n, deadline);
        i->closed = true;
        if (!gate_wait_idle(n)) {
            return timed_out(n, errp);
        }
    } else if (gives_up_writing(i) && !node_wait_writes(n, true, deadline)) {
        return timed_out(n, errp);
    }
    if (n->driver->reopen_quiesce) {
        void *watched = gives_up_writing(i) ? put_away_begin(n) : NULL;
        bool ok = n->driver->reopen_quiesce(n, &i->r, errp);

        put_away_end(watched);
        if (!ok) {
            return false;
        }
    }
    if ((i->r.new_file && !atomic_load(&n->read_only)) || (i->r.inactive && gives_up_writing(i))) {
        /* Later flushes go to another file, or others look for it there. */
        request_begin(&r, REQUEST_FLUSH);
        r.passes_gates = true;
        ret = node_flush_self(n, &r);
        request_end(&r);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, n->name, "flush", "Error flushing node '%s'", n->name);
    }
    return ret == 0;
}

static Item *item_of(const Node *n)
{
    return (Item *)n->reopening; /* of this set: no other runs between the plan's begin and end */
}

static unsigned count_nodes(const Set *s)
{
    unsigned count = 0;

    while (perm_plan_node(s->plan, count)) {
        count++;
    }
    return count;
}

static bool coroutine_fn get_ready(Set *s, Error **errp)
{
    int64_t deadline;
    Node *n;

    for (unsigned i = 0; (n = perm_plan_node(s->plan, i)); i++) {
        if (item_of(n) && (gives_up_writing(item_of(n)) || n->reopening->new_file) &&
            !flush_before(item_of(n), errp)) {
            return false;
        }
    }
    deadline = clock_ns() + HOLD_LIMIT_NS;
    for (unsigned i = 0; (n = perm_plan_node(s->plan, i)); i++) {
        if (item_of(n) && !quiesce(item_of(n), deadline, errp)) {
            return false;
        }
    }
    for (unsigned i = count_nodes(s); i-- > 0;) {
        n = perm_plan_node(s->plan, i);
        if (item_of(n) && n->driver->reopen_load &&
            !n->driver->reopen_load(n, n->reopening, errp)) {
            return false;
        }
    }
    for (unsigned i = 0; (n = perm_plan_node(s->plan, i)); i++) {
        if (item_of(n) && item_of(n)->closed && !gate_claim(n)) {
            return timed_out(n, errp);
        }
    }
    return true;
}

/* ---- switch ---- */

/* The joining edge takes the place of the leaving one, if there is one, in the list of children. */
static void replace_child(Node *n, Edge *old_edge, Edge *new_edge)
{
    guint at;

    if (new_edge) {
        new_edge->joining = false;
    }
    if (old_edge && new_edge && g_ptr_array_find(n->children, old_edge, &at)) {
        g_ptr_array_remove(n->children, new_edge);
        g_ptr_array_index(n->children, at) = new_edge;
    } else if (old_edge) {
        g_ptr_array_remove(n->children, old_edge);
    }
}

static void coroutine_fn switch_node(Item *i)
{
    Node *n = i->r.node;

    if (n->driver->reopen_switch) {
        n->driver->reopen_switch(n, &i->r);
    }
    if (i->r.new_file) {
        replace_child(n, i->old_file, i->r.file);
        n->file = i->r.file;
    }
    if (i->r.new_backing) {
        replace_child(n, i->old_backing, i->r.backing);
        atomic_store_explicit(&n->backing, i->r.backing, memory_order_release);
        n->backing_overridden = true;
    }
    node_set_flags(n, &i->flags);
    n->rest_read_only = i->r.rest_read_only;
    atomic_store_explicit(&n->inactive, i->r.inactive, memory_order_release);
    atomic_store_explicit(&n->read_only, i->r.read_only, memory_order_release);
    if (i->given) {
        qapi_free_BlockdevOptions(n->options);
        n->options = g_steal_pointer(&i->r.options);
        qapi_free_BlockdevOptions(n->given);
        n->given = g_steal_pointer(&i->given);
    }
    if (i->r.hold && !n->driver->is_protocol) {
        g_clear_pointer(&n->filename, g_free);
        node_set_filename(n);
    }
    if (i->r.new_file) {
        g_clear_pointer(&n->header_backing, g_free); /* another header's */
    }
}

static void coroutine_fn switch_all(Set *s)
{
    unsigned count = count_nodes(s);

    perm_plan_apply(s->plan);
    while (count-- > 0) {
        Node *n = perm_plan_node(s->plan, count);
        Item *i = item_of(n);
        uint64_t size = atomic_load(&n->size);

        if (!i) {
            continue;
        }
        switch_node(i);
        node_bitmaps_resize(n, atomic_load(&n->size));
        if (i->closed) {
            gate_open(n);
            i->closed = false;
        }
        if (atomic_load(&n->size) != size) {
            node_resized(n);
        }
    }
}

/* ---- end ---- */

static void coroutine_fn end(Set *s, bool done)
{
    for (guint i = s->items->len; i-- > 0;) {
        Item *item = g_ptr_array_index(s->items, i);
        Node *n = item->r.node;

        if (item->prepared && n->driver->reopen_end) {
            n->driver->reopen_end(n, &item->r, done);
        }
        n->reopening = NULL;
        if (item->closed) {
            gate_open(n);
        }
        if (!done && item->old_file) {
            item->old_file->leaving = false;
        }
        if (!done && item->old_backing) {
            item->old_backing->leaving = false;
        }
        if (!done && item->r.file && item->r.file->joining) {
            edge_unjoin(item->r.file);
        }
        if (!done && item->r.backing && item->r.backing->joining) {
            edge_unjoin(item->r.backing);
        }
    }
    perm_plan_end(s->plan);
    for (guint i = 0; done && i < s->items->len; i++) {
        Item *item = g_ptr_array_index(s->items, i);

        if (item->old_file) {
            edge_detach(item->old_file);
        }
        if (item->old_backing) {
            edge_detach(item->old_backing);
        }
    }
}

bool coroutine_fn set_run(Set *s, Error **errp)
{
    bool ok = plan(s, errp) && get_ready(s, errp);

    if (ok) {
        switch_all(s);
    } else if (s->planned) {
        perm_plan_abort(s->plan);
    }
    end(s, ok);
    return ok;
}

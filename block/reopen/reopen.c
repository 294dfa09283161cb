/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reopening any number of nodes, all or none.
 *
 *   collect   which nodes, with which options and children; nothing changes.  All of them are reserved, or it waits and begins again.
 *   plan      new edges join, old ones are marked as leaving; drivers check; permissions are planned over the graph as it will be, and what they
 *             need (locks, descriptors) is got beside what is held.  Requests run.
 *   quiesce   parents first: where something changes that requests see, the gate is closed and the node becomes idle (gate.c); what memory holds
 *             gets into the files that it belongs to
 *   load      what the new states need is read
 *   switch    children first, and nothing that can fail: permissions, driver states, edges, flags; the gates open
 *   end       old edges are detached, old states freed
 *
 * Whatever fails up to and including the claim of the gates: all is as it was.  Only the nodes that change are held, and no longer than
 * HOLD_LIMIT_NS, by their own I/O threads' clocks; a change between read-only and writable alone holds nobody.
 *
 * Children that are defined in place are part of their parent's options: they are reopened with it.  One that is given by reference stays as it
 * is (and if it was defined in place, inherits anew).
 */
#include "block/reopen.h"
#include "../gate.h"
#include "../io-internal.h"
#include "../node-internal.h"
#include "block/bitmaps.h"
#include "block/graph.h"
#include "block/transaction.h"
#include "options.h"
#include <string.h>

#define HOLD_LIMIT_NS (10 * INT64_C(1000000000))

typedef struct Item {
    Reopen r; /* first */
    BlockdevOptions *given;
    NodeFlags flags;
    bool kept; /* options as they are: named by reference only */
    bool expanded;
    bool changed;                   /* there is something to do */
    Node *want_file, *want_backing; /* other targets; NULL: none of them */
    bool no_backing;                /* backing shall be detached */
    Edge *old_file, *old_backing;   /* leaving */
    bool prepared, closed;
} Item;

typedef struct Set {
    GPtrArray *items;  /* Item *: parents before the children that are defined in place in them */
    Transaction *hold; /* the reservation; NULL: not yet */
    PermPlan *plan;
    bool planned; /* permissions are prepared */
} Set;

static void item_free(gpointer p)
{
    Item *i = p;

    qapi_free_BlockdevOptions(i->r.options);
    qapi_free_BlockdevOptions(i->given);
    node_unref(i->r.node);
    g_free(i);
}

static Item *find_item(const Set *s, const Node *n)
{
    for (guint i = 0; i < s->items->len; i++) {
        Item *item = g_ptr_array_index(s->items, i);

        if (item->r.node == n) {
            return item;
        }
    }
    return NULL;
}

static Item *add_item(Set *s, Node *n, const BlockdevOptions *given)
{
    Item *i = g_new0(Item, 1);

    i->r.node = node_ref(n);
    i->given = qapi_copy_BlockdevOptions(given);
    g_ptr_array_add(s->items, i);
    return i;
}

/* ---- collect ---- */

static bool expand(Set *s, Item *i, const Item *parent, EdgeRole role, Error **errp);

static bool cannot_change(const Node *n, const char *option, Error **errp)
{
    error_set(errp, ERROR_INVALID, n->name, "reopen", "Cannot change the option '%s'", option);
    return false;
}

/* The node below is defined in place in i. */
static bool expand_child(Set *s, Item *i, Node *child, const BlockdevOptions *definition,
                         EdgeRole role, Error **errp)
{
    Item *c = find_item(s, child);

    if (c) {
        return true; /* it is in the list itself */
    }
    c = add_item(s, child, definition ? definition : child->given);
    c->kept = !definition;
    return expand(s, c, i, role, errp);
}

/* What becomes of a child.  kind: QAPI_KIND_STRING or another; name: of a reference. */
static bool plan_child(Set *s, Item *i, Edge *now, const char *what, EdgeRole role,
                       const char *reference, const BlockdevOptions *definition, Node **ret_want,
                       Error **errp)
{
    Node *n = i->r.node, *have = now ? now->target : NULL;
    g_autofree char *option = g_strdup_printf("%s.driver", what);

    if (definition) {
        if (!have || have->opened_by != n) {
            return cannot_change(n, option, errp);
        }
        return expand_child(s, i, have, definition, role, errp);
    }
    if (reference) {
        Node *want = node_find(reference);

        if (!want) {
            error_set(errp, ERROR_NOT_FOUND, reference, "lookup",
                      "Cannot find device='' nor node-name='%s'", reference);
            return false;
        }
        if (want != have) {
            *ret_want = want;
            return true;
        }
    }
    return !have || have->opened_by != n || expand_child(s, i, have, NULL, role, errp);
}

static bool plan_file(Set *s, Item *i, Error **errp)
{
    Node *n = i->r.node;
    const BlockdevRef *ref = i->kept ? NULL : options_file(i->given);
    EdgeRole role = n->file ? n->file->role : EDGE_STORAGE;

    if (!n->file) {
        return true;
    }
    return plan_child(
        s, i, n->file, "file", role, ref && ref->type == QAPI_KIND_STRING ? ref->u.reference : NULL,
        ref && ref->type != QAPI_KIND_STRING ? ref->u.definition : NULL, &i->want_file, errp);
}

static bool has_backing_file(const Node *n)
{
    g_auto(ImageFacts) f = {.actual_size = -1};
    g_autoptr(Error) ignored = NULL;

    return n->driver->facts && n->driver->facts((Node *)n, &f, &ignored) && f.backing_file;
}

static bool plan_backing(Set *s, Item *i, Error **errp)
{
    Node *n = i->r.node;
    const BlockdevRefOrNull *ref = i->kept ? NULL : reopen_backing_option(i->given);
    Edge *now = atomic_load_explicit(&n->backing, memory_order_relaxed);

    if (!n->driver->supports_backing) {
        return true;
    }
    if (!i->kept && !ref && (now || has_backing_file(n))) {
        error_set(errp, ERROR_INVALID, n->name, "reopen", "backing is missing for '%s'", n->name);
        return false;
    }
    if (ref && ref->type == QAPI_KIND_NULL) {
        i->no_backing = now;
        return true;
    }
    return plan_child(s, i, now, "backing", EDGE_COW,
                      ref && ref->type == QAPI_KIND_STRING ? ref->u.reference : NULL,
                      ref && ref->type != QAPI_KIND_STRING ? ref->u.definition : NULL,
                      &i->want_backing, errp);
}

static bool flags_equal(const NodeFlags *a, const NodeFlags *b)
{
    return a->cache_direct == b->cache_direct && a->cache_no_flush == b->cache_no_flush &&
           a->discard_unmap == b->discard_unmap && a->detect_zeroes == b->detect_zeroes;
}

/* Options for a backing image that n does not have. */
static bool lacks_backing(const Node *n, const BlockdevOptions *given)
{
    const BlockdevRefOrNull *ref = reopen_backing_option(given);

    return ref && ref->type != QAPI_KIND_STRING && ref->type != QAPI_KIND_NULL &&
           !atomic_load_explicit(&((Node *)n)->backing, memory_order_relaxed);
}

static bool check_options(Item *i, const Item *parent, EdgeRole role, Error **errp)
{
    Node *n = i->r.node;
    NodeFlags now = node_flags(n);
    bool same = true;

    if (lacks_backing(n, i->given)) {
        /* Meant for another node, which was here before: said first, since the rest then only follows from it. */
        return cannot_change(n, "backing.driver", errp);
    }
    if (strcmp(qapi_enum_BlockdevDriver(i->given->driver), n->driver->name) != 0) {
        return cannot_change(n, "driver", errp);
    }
    if (i->given->node_name && strcmp(i->given->node_name, n->name) != 0) {
        return cannot_change(n, "node-name", errp);
    }
    if (!n->driver->reopen_prepare && i->kept) {
        i->flags = now; /* nobody asks anything of it */
        return true;
    }
    if (!n->driver->reopen_prepare) {
        error_set(errp, ERROR_UNSUPPORTED, n->name, "reopen",
                  "Block format '%s' used by node '%s' does not support reopening files",
                  n->driver->name, n->name);
        return false;
    }
    if (!i->kept && !reopen_check_options(n, i->given, &same, errp)) {
        return false;
    }
    i->r.options = qapi_copy_BlockdevOptions(i->given);
    if (parent) {
        options_inherit(i->r.options, &parent->flags, role);
    }
    if (!options_flags(n->name, i->r.options, false, &i->flags, errp)) {
        return false;
    }
    i->r.read_only = i->flags.read_only;
    i->r.auto_read_only = i->flags.auto_read_only;
    i->r.cache_direct = i->flags.cache_direct;
    i->r.discard_unmap = i->flags.discard_unmap;
    i->r.file = n->file;
    i->r.backing = atomic_load_explicit(&n->backing, memory_order_relaxed);
    i->r.hold = !flags_equal(&i->flags, &now);
    i->changed = !same || i->r.hold || i->flags.read_only != now.read_only ||
                 i->flags.auto_read_only != now.auto_read_only ||
                 (!i->flags.auto_read_only && i->flags.read_only != atomic_load(&n->read_only));
    return true;
}

static bool expand(Set *s, Item *i, const Item *parent, EdgeRole role, Error **errp)
{
    i->expanded = true;
    if (!check_options(i, parent, role, errp) || !plan_file(s, i, errp) ||
        !plan_backing(s, i, errp)) {
        return false;
    }
    i->changed |= i->want_file || i->want_backing || i->no_backing;
    return true;
}

static bool collect(Set *s, const BlockdevOptionsList *options, Error **errp)
{
    for (; options; options = options->next) {
        const BlockdevOptions *o = options->value;
        Node *n;

        if (!o->node_name) {
            error_set(errp, ERROR_INVALID, NULL, "reopen", "node-name not specified");
            return false;
        }
        n = node_find(o->node_name);
        if (!n) {
            error_set(errp, ERROR_NOT_FOUND, o->node_name, "reopen",
                      "Failed to find node with node-name='%s'", o->node_name);
            return false;
        }
        if (find_item(s, n)) {
            error_set(errp, ERROR_INVALID, n->name, "reopen", "Node '%s' is listed twice", n->name);
            return false;
        }
        add_item(s, n, o);
    }
    for (guint i = 0; i < s->items->len; i++) {
        Item *item = g_ptr_array_index(s->items, i);

        if (!item->expanded && !expand(s, item, NULL, EDGE_ROOT, errp)) {
            return false;
        }
    }
    return true;
}

/* The node that somebody else has reserved; NULL: now all are ours. */
static Node *reserve(Set *s)
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
            if (!item->r.node->driver->reopen_prepare(item->r.node, &item->r, errp)) {
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
    if (n->driver->reopen_quiesce && !n->driver->reopen_quiesce(n, &i->r, errp)) {
        return false;
    }
    if (i->r.new_file && !atomic_load(&n->read_only)) {
        /* Later flushes go to another file. */
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
    for (unsigned i = 0; (n = perm_plan_node(s->plan, i)); i++) {
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
    atomic_store_explicit(&n->read_only, i->r.read_only, memory_order_release);
    qapi_free_BlockdevOptions(n->options);
    n->options = g_steal_pointer(&i->r.options);
    qapi_free_BlockdevOptions(n->given);
    n->given = g_steal_pointer(&i->given);
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
    unsigned count = 0;

    perm_plan_apply(s->plan);
    while (perm_plan_node(s->plan, count)) {
        count++;
    }
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

static void set_free(Set *s)
{
    if (s->hold) {
        reservation_end(s->hold);
    }
    g_ptr_array_free(s->items, true);
}

bool coroutine_fn blockdev_reopen(const BlockdevOptionsList *options, Error **errp)
{
    bool ok;

    for (;;) {
        Set s = {.items = g_ptr_array_new_with_free_func(item_free)};
        g_autoptr(Node) busy = NULL;

        if (!collect(&s, options, errp)) {
            set_free(&s);
            return false;
        }
        busy = reserve(&s);
        if (busy) {
            node_ref(busy);
            set_free(&s);
            if (!node_wait_unreserved(busy, errp)) {
                return false;
            }
            continue;
        }
        ok = plan(&s, errp) && get_ready(&s, errp);
        if (ok) {
            switch_all(&s);
        } else if (s.planned) {
            perm_plan_abort(s.plan);
        }
        end(&s, ok);
        set_free(&s);
        node_wait_all_closed(); /* nodes that nobody uses any more have their files closed when the reply comes */
        return ok;
    }
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reopening any number of nodes, all or none.
 *
 * Which nodes, with which options and children, is found out here, and nothing changes; all of them are reserved, or it waits and begins again.
 * What follows is in set.c.
 *
 * Children that are defined in place are part of their parent's options: they are reopened with it.  One that is given by reference stays as it
 * is (and if it was defined in place, inherits anew).
 */
#include "block/reopen.h"
#include "../node-internal.h"
#include "block/graph.h"
#include "block/transaction.h"
#include "options.h"
#include "set.h"
#include <string.h>

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
    Item *c = set_find(s, child);

    if (c) {
        return true; /* it is in the list itself */
    }
    c = set_add(s, child, definition ? definition : child->given);
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
    if (i->given->has_active && !i->kept && i->given->active == atomic_load(&n->inactive)) {
        return cannot_change(n, "active", errp);
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
    i->r.inactive = atomic_load(&n->inactive);
    i->r.rest_read_only = i->flags.read_only;
    i->r.read_only = i->flags.read_only || i->r.inactive;
    i->r.auto_read_only = i->flags.auto_read_only;
    i->r.cache_direct = i->flags.cache_direct;
    i->r.discard_unmap = i->flags.discard_unmap;
    i->r.file = n->file;
    i->r.backing = atomic_load_explicit(&n->backing, memory_order_relaxed);
    i->r.hold = !flags_equal(&i->flags, &now);
    i->changed = !same || i->r.hold || i->flags.read_only != now.read_only ||
                 i->flags.auto_read_only != now.auto_read_only ||
                 (!i->flags.auto_read_only && i->flags.read_only != node_is_read_only(n));
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
        if (set_find(s, n)) {
            error_set(errp, ERROR_INVALID, n->name, "reopen", "Node '%s' is listed twice", n->name);
            return false;
        }
        set_add(s, n, o);
    }
    for (guint i = 0; i < s->items->len; i++) {
        Item *item = g_ptr_array_index(s->items, i);

        if (!item->expanded && !expand(s, item, NULL, EDGE_ROOT, errp)) {
            return false;
        }
    }
    return true;
}

bool coroutine_fn blockdev_reopen(const BlockdevOptionsList *options, Error **errp)
{
    bool ok;

    for (;;) {
        g_autoptr(Node) busy = NULL;
        Set s;

        set_init(&s);
        if (!collect(&s, options, errp)) {
            set_clear(&s);
            return false;
        }
        busy = set_reserve(&s);
        if (busy) {
            node_ref(busy);
            set_clear(&s);
            if (!node_wait_unreserved(busy, errp)) {
                return false;
            }
            continue;
        }
        ok = set_run(&s, errp);
        set_clear(&s);
        node_wait_all_closed(); /* nodes that nobody uses any more have their files closed when the reply comes */
        return ok;
    }
}

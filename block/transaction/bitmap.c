/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The actions block-dirty-bitmap-add, -remove, -clear, -enable, -disable, -merge.
 *
 * They take effect at the instant of the transaction, with whatever disks it snapshots, in list order.  A bitmap may have marked too much, never too
 * little: a map that shall record begins to before the instant (link), one that shall not any more ends after it (settled); what is in
 * between is in both.  So an action never changes a map that it might have to put back: it prepares another one, which takes its place at the
 * instant (commit):
 *
 *   add      a new map, recording
 *   clear    a new map in place of the old one, recording if that did
 *   enable   a new map, recording, that gets the marks of the old one
 *   merge    marks are added in memory that is there already; and again when old requests have ended (ended): one that was on its way to the node at
 *            the instant, in a filter above it, marks the source only afterwards
 *
 * What the image has of a bitmap changes when all is settled, so that there is nothing to take back: a removed one is removed there then; the
 * others are stored when the node is given up for writing (BlockDriver.bitmap_can_store).
 *
 * Later actions see what earlier ones will have done (planned_bitmap()).
 */
#include "action.h"
#include "block/bitmaps.h"
#include "block/driver.h"
#include "qapi-types.h"
#include <errno.h>
#include <string.h>

#define NAME_MAX_BYTES  1023
#define GRANULARITY_MIN 4096u
#define GRANULARITY_MAX 65536u

typedef struct Source {
    PlannedNode *node;
    UserBitmap *bitmap;
} Source;

typedef struct BitmapAction {
    Action action; /* first */
    BitmapVerb verb;
    char *node, *name;
    bool has_granularity, persistent, disabled;
    uint32_t granularity;
    BlockDirtyBitmapOrStrList *sources;
    /* from plan on */
    PlannedNode *planned;
    UserBitmap *bitmap;
    UserBitmap *owned; /* added or removed: ours to free */
    GArray *from;      /* of Source */
    /* merge, from the instant on: the maps it concerns, whatever takes their place afterwards; all live until the transaction ends */
    DirtyBitmap *into;
    GPtrArray *added; /* DirtyBitmap * */
    /* from link on */
    DirtyBitmap *fresh; /* until the instant, then what it replaced */
    DirtyBitmap *
        recording; /* what records and has to stop: fresh, in undo; what it replaced, in settled; NULL: nothing */
} BitmapAction;

static const ActionOps bitmap_ops;

/* ---- plan ---- */

static BitmapAction *earlier(const Action *a, guint i)
{
    Action *other = g_ptr_array_index(a->t->actions, i);

    return other->ops == &bitmap_ops ? (BitmapAction *)other : NULL;
}

/* The bitmap of that name when the actions before a have been carried out. */
UserBitmap *planned_bitmap(const Action *a, const PlannedNode *p, const char *name)
{
    for (guint i = a->index; i-- > 0;) {
        BitmapAction *x = earlier(a, i);

        if (x && x->planned == p && strcmp(x->name, name) == 0) {
            if (x->verb == BITMAP_REMOVE) {
                return NULL;
            }
            return x->bitmap;
        }
    }
    return p->real ? node_bitmap_find(p->real, name) : NULL;
}

/* Will b record then? */
static bool planned_enabled(const Action *a, const UserBitmap *b)
{
    for (guint i = a->index; i-- > 0;) {
        const BitmapAction *x = earlier(a, i);

        if (x && x->bitmap == b) {
            if (x->verb == BITMAP_ADD) {
                return !x->disabled;
            }
            if (x->verb == BITMAP_ENABLE || x->verb == BITMAP_DISABLE) {
                return x->verb == BITMAP_ENABLE;
            }
        }
    }
    return b->enabled;
}

static bool find(Action *a, PlannedGraph *g, const char *node, const char *name, unsigned allow,
                 PlannedNode **ret_node, UserBitmap **ret_bitmap, Error **errp)
{
    g_autoptr(Error) err = NULL;

    *ret_node = planned_lookup(g, node, node, &err);
    if (!*ret_node) {
        if (err->kind == ERROR_NOT_FOUND) {
            error_set(errp, ERROR_NOT_FOUND, node, "bitmap", "Node '%s' not found", node);
        } else {
            error_move(errp, &err);
        }
        return false;
    }
    *ret_bitmap = planned_bitmap(a, *ret_node, name);
    if (!*ret_bitmap) {
        error_set(errp, ERROR_NOT_FOUND, name, "bitmap", "Dirty bitmap '%s' not found", name);
        return false;
    }
    return user_bitmap_check(*ret_bitmap, (*ret_node)->real, allow, errp);
}

static uint32_t default_granularity(Node *n)
{
    g_auto(ImageFacts) f = {.actual_size = -1};
    g_autoptr(Error) ignored = NULL;

    if (!n->driver->facts || !n->driver->facts(n, &f, &ignored) || f.cluster_size == 0) {
        return GRANULARITY_MAX;
    }
    return CLAMP(f.cluster_size, GRANULARITY_MIN, GRANULARITY_MAX);
}

static uint32_t granularity_of(const BitmapAction *x, Node *n)
{
    return x->has_granularity ? x->granularity : default_granularity(n);
}

static bool check_storable(const BitmapAction *x, Node *n, Error **errp)
{
    if (!n->driver->bitmap_can_store) {
        error_set_errno(errp, ENOTSUP, n->name, "bitmap", "Can't store persistent bitmaps to %s",
                        x->node);
        return false;
    }
    return n->driver->bitmap_can_store(n, x->name, granularity_of(x, n), errp);
}

static bool plan_add(BitmapAction *x, PlannedGraph *g, Error **errp)
{
    uint32_t v = x->granularity;

    if (x->name[0] == '\0') {
        error_set(errp, ERROR_INVALID, x->node, "bitmap", "Bitmap name cannot be empty");
        return false;
    }
    x->planned = planned_lookup(g, x->node, x->node, errp);
    if (!x->planned) {
        return false;
    }
    if (x->has_granularity && (v < 512 || (v & (v - 1)))) {
        error_set(errp, ERROR_INVALID, x->name, "bitmap",
                  "Granularity must be power of 2 and at least 512");
        return false;
    }
    if (strlen(x->name) > NAME_MAX_BYTES) {
        error_set(errp, ERROR_INVALID, x->node, "bitmap", "Bitmap name too long: %s", x->name);
        return false;
    }
    if (planned_bitmap(&x->action, x->planned, x->name)) {
        error_set(errp, ERROR_EXISTS, x->name, "bitmap", "Bitmap already exists: %s", x->name);
        return false;
    }
    if (x->persistent && x->planned->real && !check_storable(x, x->planned->real, errp)) {
        return false;
    }
    x->bitmap = x->owned = user_bitmap_new(x->name);
    x->bitmap->persistent = x->persistent;
    return true;
}

static bool plan_sources(BitmapAction *x, PlannedGraph *g, Error **errp)
{
    g_array_set_size(x->from, 0);
    for (const BlockDirtyBitmapOrStrList *s = x->sources; s; s = s->next) {
        bool local = s->value->type == QAPI_KIND_STRING;
        Source source;

        if (!find(&x->action, g, local ? x->node : s->value->u.external->node,
                  local ? s->value->u.local : s->value->u.external->name, BITMAP_ALLOW_READ_ONLY,
                  &source.node, &source.bitmap, errp)) {
            return false;
        }
        g_array_append_val(x->from, source);
    }
    return true;
}

/* What a verb can do with. */
static unsigned allowed(BitmapVerb verb)
{
    switch (verb) {
    case BITMAP_ENABLE:
    case BITMAP_DISABLE:
        return BITMAP_ALLOW_READ_ONLY; /* stored as it is when the node is writable again */
    case BITMAP_REMOVE:
        return BITMAP_ALLOW_INCONSISTENT;
    default:
        return 0;
    }
}

static bool bitmap_plan(Action *a, PlannedGraph *g, Error **errp)
{
    BitmapAction *x = (BitmapAction *)a;

    user_bitmap_free(x->owned); /* of an earlier try */
    x->owned = x->bitmap = NULL;
    x->planned = NULL;
    if (x->verb == BITMAP_ADD) {
        return plan_add(x, g, errp);
    }
    return find(a, g, x->node, x->name, allowed(x->verb), &x->planned, &x->bitmap, errp) &&
           plan_sources(x, g, errp);
}

/* ---- link ---- */

static bool coroutine_fn make_fresh(BitmapAction *x, uint64_t size, uint32_t granularity,
                                    bool record, Error **errp)
{
    x->fresh = dirty_bitmap_new(size, granularity);
    if (!x->fresh) {
        error_set_errno(errp, ENOMEM, x->name, "bitmap", "Could not allocate bitmap '%s'", x->name);
        return false;
    }
    if (record) {
        node_record(planned_node(x->planned), x->fresh);
        x->recording = x->fresh;
    }
    return true;
}

static bool check_sizes(BitmapAction *x, Error **errp)
{
    uint64_t size = dirty_bitmap_size(x->bitmap->map);

    for (guint i = 0; i < x->from->len; i++) {
        uint64_t other = dirty_bitmap_size(g_array_index(x->from, Source, i).bitmap->map);

        if (other != size) {
            error_set(errp, ERROR_INVALID, x->name, "bitmap",
                      "Bitmaps are of different sizes (destination size is %" G_GUINT64_FORMAT
                      ", source size is %" G_GUINT64_FORMAT ") and can't be merged",
                      size, other);
            return false;
        }
    }
    return true;
}

static bool coroutine_fn bitmap_link(Action *a, Error **errp)
{
    BitmapAction *x = (BitmapAction *)a;
    Node *n = planned_node(x->planned);
    const DirtyBitmap *now = x->bitmap->map;

    switch (x->verb) {
    case BITMAP_ADD:
        if ((x->persistent && !check_storable(x, n, errp)) ||
            !make_fresh(x, atomic_load(&n->size), granularity_of(x, n), !x->disabled, errp)) {
            return false;
        }
        x->bitmap->map = x->fresh; /* for later actions; nobody else sees it */
        return true;
    case BITMAP_CLEAR:
        return make_fresh(x, dirty_bitmap_size(now), dirty_bitmap_granularity(now),
                          planned_enabled(a, x->bitmap), errp);
    case BITMAP_ENABLE:
        return planned_enabled(a, x->bitmap) ||
               make_fresh(x, dirty_bitmap_size(now), dirty_bitmap_granularity(now), true, errp);
    case BITMAP_MERGE:
        return check_sizes(x, errp);
    default:
        return true;
    }
}

/* ---- the instant, and after it ---- */

/* The fresh map takes over; it then is the old one. */
static void take_over(BitmapAction *x, bool keep_marks)
{
    DirtyBitmap *old = x->bitmap->map;

    if (keep_marks) {
        dirty_bitmap_merge(x->fresh, old);
    }
    x->bitmap->map = x->fresh;
    x->fresh = old;
    x->recording = x->bitmap->enabled ? old : NULL;
}

static void merge(BitmapAction *x)
{
    for (guint i = 0; i < x->added->len; i++) {
        dirty_bitmap_merge(x->into, g_ptr_array_index(x->added, i));
    }
}

static void bitmap_commit(Action *a)
{
    BitmapAction *x = (BitmapAction *)a;
    UserBitmap *b = x->bitmap;

    switch (x->verb) {
    case BITMAP_ADD:
        b->enabled = !x->disabled;
        node_bitmap_add(planned_node(x->planned), b);
        x->owned = NULL;
        x->fresh = NULL;
        x->recording = NULL;
        break;
    case BITMAP_REMOVE:
        node_bitmap_remove(planned_node(x->planned), b);
        x->owned = b;
        x->recording = b->enabled ? b->map : NULL;
        break;
    case BITMAP_CLEAR:
        take_over(x, false);
        break;
    case BITMAP_ENABLE:
        if (x->fresh) {
            take_over(x, true);
        }
        b->enabled = true;
        break;
    case BITMAP_DISABLE:
        x->recording = b->enabled ? b->map : NULL;
        b->enabled = false;
        break;
    case BITMAP_MERGE:
        x->into = b->map;
        for (guint i = 0; i < x->from->len; i++) {
            g_ptr_array_add(x->added, g_array_index(x->from, Source, i).bitmap->map);
        }
        merge(x);
        break;
    }
}

static void bitmap_ended(Action *a)
{
    merge((BitmapAction *)a);
}

static void coroutine_fn bitmap_stop(Action *a)
{
    BitmapAction *x = (BitmapAction *)a;

    if (x->recording) {
        node_unrecord(planned_node(x->planned), x->recording);
        x->recording = NULL;
    }
}

static void coroutine_fn bitmap_settled(Action *a)
{
    const BitmapAction *x = (BitmapAction *)a;

    bitmap_stop(a);
    if (x->verb == BITMAP_REMOVE && x->bitmap->persistent) {
        Node *n = planned_node(x->planned);

        n->driver->bitmap_removed(n, x->name);
    }
}

static void bitmap_free(Action *a)
{
    BitmapAction *x = (BitmapAction *)a;

    if (x->owned && x->owned->map == x->fresh) {
        x->fresh = NULL; /* goes with it */
    }
    user_bitmap_free(x->owned);
    dirty_bitmap_free(x->fresh);
    qapi_free(&qapi_type_BlockDirtyBitmapOrStrList, x->sources);
    g_array_free(x->from, true);
    g_ptr_array_free(x->added, true);
    g_free(x->name);
    g_free(x->node);
    g_free(x);
}

static const ActionOps bitmap_ops = {
    .name = "block-dirty-bitmap",
    .plan = bitmap_plan,
    .link = bitmap_link,
    .commit = bitmap_commit,
    .ended = bitmap_ended,
    .settled = bitmap_settled,
    .undo = bitmap_stop,
    .free = bitmap_free,
};

void transaction_add_bitmap(Transaction *t, BitmapVerb verb, const BitmapArgs *args)
{
    BitmapAction *x = g_new0(BitmapAction, 1);

    x->action.ops = &bitmap_ops;
    x->verb = verb;
    x->node = g_strdup(args->node);
    x->name = g_strdup(args->name);
    x->has_granularity = args->has_granularity;
    x->granularity = args->granularity;
    x->persistent = args->persistent;
    x->disabled = args->disabled;
    x->sources = qapi_copy(&qapi_type_BlockDirtyBitmapOrStrList, args->sources);
    x->from = g_array_new(false, false, sizeof(Source));
    x->added = g_ptr_array_new();
    transaction_add(t, &x->action);
}

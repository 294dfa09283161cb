/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Dirty bitmaps that an export shows: meta contexts qemu:dirty-bitmap:NAME.
 *
 * While an export has a bitmap in use, nobody removes, clears or changes it; it may still record, and follow its disk's size.  Its node stays,
 * too, whatever becomes of the chain that it was found in.  A snapshot of the exported disk moves the export and leaves the bitmap where it is.
 *
 * Readers are any thread; the map is replaced when the disk is resized, so they look at it in a read section (util/rcu.h).
 */
#include "block/bitmaps.h"
#include "block/graph.h"
#include "nbd-internal.h"
#include "qapi-types.h"
#include "util/rcu.h"

#define CONTEXT "qemu:dirty-bitmap:"

typedef struct Shown {
    Node *node; /* a reference */
    UserBitmap *bitmap;
} Shown;

struct NbdBitmaps {
    GArray *list; /* of Shown */
};

/* The bitmap of that name in n or the nearest node below that has one. */
static UserBitmap *find_below(Node *n, const char *name, Node **ret_node)
{
    while (n) {
        UserBitmap *b = node_bitmap_find(n, name);
        const Edge *backing = atomic_load_explicit(&n->backing, memory_order_acquire);

        if (b) {
            *ret_node = n;
            return b;
        }
        n = backing ? backing->target : n->driver->is_filter && n->file ? n->file->target : NULL;
    }
    return NULL;
}

static UserBitmap *find_in(const char *node, const char *name, Node **ret_node, Error **errp)
{
    Node *n = node_find(node);
    UserBitmap *b = n ? node_bitmap_find(n, name) : NULL;

    if (!n) {
        error_set(errp, ERROR_NOT_FOUND, node, "block-export-add", "Node '%s' not found", node);
    } else if (!b) {
        error_set(errp, ERROR_NOT_FOUND, name, "block-export-add", "Dirty bitmap '%s' not found",
                  name);
    }
    *ret_node = n;
    return b;
}

static UserBitmap *find(Node *n, const BlockDirtyBitmapOrStr *what, Node **ret_node, Error **errp)
{
    UserBitmap *b;

    if (what->type != QAPI_KIND_STRING) {
        return find_in(what->u.external->node, what->u.external->name, ret_node, errp);
    }
    b = find_below(n, what->u.local, ret_node);
    if (!b) {
        error_set(errp, ERROR_NOT_FOUND, what->u.local, "block-export-add",
                  "Bitmap '%s' is not found", what->u.local);
    }
    return b;
}

static bool coroutine_fn add(NbdBitmaps *list, Node *n, bool writable,
                             const BlockDirtyBitmapOrStr *what, Error **errp)
{
    Shown s;

    s.bitmap = find(n, what, &s.node, errp);
    if (!s.bitmap || !node_wait_unreserved(s.node, errp)) {
        return false;
    }
    s.bitmap = find(n, what, &s.node, errp); /* a transaction may have changed what there is */
    if (!s.bitmap || !user_bitmap_check(s.bitmap, s.node, BITMAP_ALLOW_READ_ONLY, errp)) {
        return false;
    }
    if (!writable && what->type == QAPI_KIND_STRING && s.bitmap->enabled &&
        !atomic_load(&s.node->read_only)) {
        error_set(errp, ERROR_INVALID, s.bitmap->name, "block-export-add",
                  "Enabled bitmap '%s' incompatible with readonly export", s.bitmap->name);
        return false;
    }
    node_ref(s.node);
    s.bitmap->busy++;
    g_array_append_val(list->list, s);
    return true;
}

NbdBitmaps *coroutine_fn nbd_bitmaps_new(Node *n, bool writable,
                                         const BlockDirtyBitmapOrStrList *names, Error **errp)
{
    NbdBitmaps *b;

    if (!names) {
        return NULL;
    }
    b = g_new0(NbdBitmaps, 1);
    b->list = g_array_new(false, false, sizeof(Shown));
    for (; names; names = names->next) {
        if (!add(b, n, writable, names->value, errp)) {
            nbd_bitmaps_free(b);
            return NULL;
        }
    }
    return b;
}

void nbd_bitmaps_free(NbdBitmaps *b)
{
    for (guint i = 0; b && i < b->list->len; i++) {
        const Shown *s = &g_array_index(b->list, Shown, i);

        s->bitmap->busy--;
        node_unref(s->node);
    }
    if (b) {
        g_array_free(b->list, true);
        g_free(b);
    }
}

char **nbd_bitmaps_contexts(const NbdBitmaps *b)
{
    guint n = b ? b->list->len : 0;
    char **names = g_new0(char *, n + 1);

    for (guint i = 0; i < n; i++) {
        names[i] = g_strconcat(CONTEXT, g_array_index(b->list, Shown, i).bitmap->name, NULL);
    }
    return names;
}

bool nbd_bitmaps_next(const NbdBitmaps *b, unsigned i, uint64_t offset, uint64_t bytes,
                      uint64_t *ret_bytes)
{
    const Shown *s = &g_array_index(b->list, Shown, i);
    uint64_t end = offset + bytes, at, len;
    const DirtyBitmap *map;
    bool marked = false;

    rcu_begin();
    map = __atomic_load_n(&s->bitmap->map, __ATOMIC_ACQUIRE);
    if (dirty_bitmap_next(map, offset & ~(uint64_t)(dirty_bitmap_granularity(map) - 1), UINT64_MAX,
                          &at, &len)) {
        marked = at <= offset;
        end = MIN(end, marked ? at + len : at);
    }
    rcu_end();
    *ret_bytes = end - offset;
    return marked;
}

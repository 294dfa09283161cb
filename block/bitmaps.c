/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Dirty bitmaps that users have; see bitmaps.h.
 */
#include "block/bitmaps.h"
#include "qapi-types.h"
#include "util/rcu.h"
#include <string.h>

UserBitmap *user_bitmap_new(const char *name)
{
    UserBitmap *b = g_new0(UserBitmap, 1);

    b->name = g_strdup(name);
    return b;
}

void user_bitmap_free(UserBitmap *b)
{
    if (b) {
        dirty_bitmap_free(b->map);
        g_free(b->name);
        g_free(b);
    }
}

bool user_bitmap_check(const UserBitmap *b, const Node *n, unsigned allow, Error **errp)
{
    if (b->busy) {
        error_set(errp, ERROR_BUSY, b->name, "bitmap",
                  "Bitmap '%s' is currently in use by another operation and cannot be used",
                  b->name);
        return false;
    }
    if (!(allow & BITMAP_ALLOW_READ_ONLY) && b->persistent && n &&
        atomic_load(&((Node *)n)->read_only)) {
        error_set(errp, ERROR_PERMISSION, b->name, "bitmap",
                  "Bitmap '%s' is readonly and cannot be modified", b->name);
        return false;
    }
    if (!(allow & BITMAP_ALLOW_INCONSISTENT) && b->inconsistent) {
        error_set(errp, ERROR_INVALID, b->name, "bitmap",
                  "Bitmap '%s' is inconsistent and cannot be used", b->name);
        error_hint(errp, "Try block-dirty-bitmap-remove to delete this bitmap from disk");
        return false;
    }
    return true;
}

UserBitmap *node_bitmap_find(const Node *n, const char *name)
{
    for (guint i = 0; n->bitmaps && i < n->bitmaps->len; i++) {
        UserBitmap *b = g_ptr_array_index(n->bitmaps, i);

        if (b->name && strcmp(b->name, name) == 0) {
            return b;
        }
    }
    return NULL;
}

void node_bitmap_add(Node *n, UserBitmap *b)
{
    if (!n->bitmaps) {
        n->bitmaps = g_ptr_array_new();
    }
    g_ptr_array_add(n->bitmaps, b);
}

void node_bitmap_remove(Node *n, UserBitmap *b)
{
    g_ptr_array_remove(n->bitmaps, b);
}

void node_bitmaps_free(Node *n)
{
    node_forget_recording(n);
    for (guint i = 0; n->bitmaps && i < n->bitmaps->len; i++) {
        user_bitmap_free(g_ptr_array_index(n->bitmaps, i));
    }
    if (n->bitmaps) {
        g_ptr_array_free(n->bitmaps, true);
    }
}

void dirty_bitmap_merge(DirtyBitmap *to, const DirtyBitmap *from)
{
    uint64_t at = 0, offset, bytes;

    while (dirty_bitmap_next(from, at, UINT64_MAX, &offset, &bytes)) {
        dirty_bitmap_set(to, offset, bytes);
        at = offset + bytes;
        if (at % dirty_bitmap_granularity(from)) {
            break; /* the end of the disk */
        }
    }
}

static void coroutine_fn resize_one(Node *n, UserBitmap *b, uint64_t size)
{
    DirtyBitmap *old = b->map, *fresh = dirty_bitmap_new(size, dirty_bitmap_granularity(old));

    g_assert(fresh);
    if (b->enabled) {
        node_record(n, fresh);
    }
    dirty_bitmap_merge(fresh, old);
    __atomic_store_n(&b->map, fresh, __ATOMIC_RELEASE);
    if (b->enabled) {
        node_unrecord(n, old);
        dirty_bitmap_merge(fresh, old); /* what was marked in between */
    }
    if (b->busy) {
        co_rcu_synchronize(); /* exports read it from their threads */
    }
    dirty_bitmap_free(old);
}

void coroutine_fn node_bitmaps_resize(Node *n, uint64_t size)
{
    for (guint i = 0; n->bitmaps && i < n->bitmaps->len; i++) {
        UserBitmap *b = g_ptr_array_index(n->bitmaps, i);

        if (!b->inconsistent && dirty_bitmap_size(b->map) != size) {
            resize_one(n, b, size);
        }
    }
}

BlockDirtyInfoList *node_bitmaps_query(const Node *n)
{
    BlockDirtyInfoList *list = NULL, **tail = &list;

    for (guint i = n->bitmaps ? n->bitmaps->len : 0; i-- > 0;) {
        const UserBitmap *b = g_ptr_array_index(n->bitmaps, i);
        BlockDirtyInfo *info = g_new0(BlockDirtyInfo, 1);

        info->name = g_strdup(b->name);
        info->count = dirty_bitmap_count(b->map);
        info->granularity = dirty_bitmap_granularity(b->map);
        info->recording = b->enabled;
        info->busy = b->busy > 0;
        info->persistent = b->persistent;
        info->has_inconsistent = info->inconsistent = b->inconsistent;
        *tail = g_new0(BlockDirtyInfoList, 1);
        (*tail)->value = info;
        tail = &(*tail)->next;
    }
    return list;
}

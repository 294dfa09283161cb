/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a backup does with the bitmap that it is given.
 *
 * From the instant on the bitmap stands still, and another one without a name (its successor) records what is written since.  In the end there is one
 * again, the successor under the bitmap's name:
 *
 *                         the job succeeded        it failed, or was cancelled
 *   never                 both                     both
 *   on-success            successor                both
 *   always                successor                successor and what was not copied
 *
 * Around the instant both record, so that a write that is under way then is in one of them for certain.
 */
#include "backup-bitmap.h"
#include "qapi-types.h"
#include <errno.h>

struct BackupBitmap {
    Node *node; /* a reference */
    UserBitmap *bitmap, *successor;
    int mode;
    bool listed; /* the node has the successor */
};

BackupBitmap *coroutine_fn backup_bitmap_new(Node *n, UserBitmap *b, int mode, Error **errp)
{
    DirtyBitmap *map =
        dirty_bitmap_new(dirty_bitmap_size(b->map), dirty_bitmap_granularity(b->map));
    BackupBitmap *x;

    if (!map) {
        error_set_errno(errp, ENOMEM, b->name, "bitmap", "Could not allocate bitmap '%s'", b->name);
        return NULL;
    }
    x = g_new0(BackupBitmap, 1);
    x->node = node_ref(n);
    x->bitmap = b;
    x->mode = mode;
    x->successor = user_bitmap_new(NULL);
    x->successor->map = map;
    b->busy++;
    node_record(n, map);
    return x;
}

void backup_bitmap_begin(BackupBitmap *x)
{
    x->successor->enabled = x->bitmap->enabled;
    node_bitmap_add(x->node, x->successor);
    x->listed = true;
}

void coroutine_fn backup_bitmap_settled(BackupBitmap *x)
{
    node_unrecord(x->node, x->bitmap->enabled ? x->bitmap->map : x->successor->map);
}

const DirtyBitmap *backup_bitmap_marks(const BackupBitmap *x)
{
    return x->bitmap->map;
}

static void forget(BackupBitmap *x)
{
    user_bitmap_free(x->successor);
    node_unref(x->node);
    g_free(x);
}

void coroutine_fn backup_bitmap_end(BackupBitmap *x, bool success, const DirtyBitmap *remaining)
{
    DirtyBitmap *old = x->bitmap->map, *fresh = x->successor->map;

    if (x->mode == BITMAP_SYNC_MODE_NEVER || (!success && x->mode == BITMAP_SYNC_MODE_ON_SUCCESS)) {
        dirty_bitmap_merge(fresh, old);
    } else if (!success) {
        dirty_bitmap_merge(fresh, remaining);
    }
    /* The successor goes on recording, as the bitmap. */
    x->bitmap->map = fresh;
    x->bitmap->busy--;
    x->successor->map = old;
    x->successor->enabled = false;
    node_bitmap_remove(x->node, x->successor);
    forget(x);
}

void coroutine_fn backup_bitmap_undo(BackupBitmap *x)
{
    node_unrecord(x->node, x->successor->map);
    x->bitmap->busy--;
    forget(x);
}

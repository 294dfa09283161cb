/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Dirty bitmaps that users have: named, of one node each, shown by queries.  The maps are those of dirty-bitmap.h.
 *
 * They change by transactions only (block/transaction/bitmap.c), which have the node reserved.  Drivers load those that images have, and store
 * them (BlockDriver).  Control thread.
 */
#ifndef BLOCK_BITMAPS_H
#define BLOCK_BITMAPS_H

#include "block/dirty-bitmap.h"

struct BlockDirtyInfoList;

typedef struct UserBitmap {
    char *name; /* NULL: it belongs to an operation, and only queries show it */
    DirtyBitmap *map;
    bool enabled;    /* the map records its node */
    bool persistent; /* stored in the image, by the node's driver, when nobody writes any more */
    bool
        inconsistent; /* persistent; it was not stored after the last writes: the map is empty and does not record */
    unsigned busy; /* operations that use it (jobs, exports): others leave it alone */
} UserBitmap;

/* What somebody wants of a bitmap who can do with a weaker one than most. */
typedef enum BitmapAllow {
    BITMAP_ALLOW_READ_ONLY = 1 << 0,    /* a stored one of a read-only node */
    BITMAP_ALLOW_INCONSISTENT = 1 << 1, /* one without contents */
} BitmapAllow;

/* False: n's bitmap cannot be used now.  Errors: "Bitmap '%s' is currently in use by another operation and cannot be used", "... is
 * readonly and cannot be modified", "... is inconsistent and cannot be used". */
bool user_bitmap_check(const UserBitmap *b, const Node *n, unsigned allow, Error **errp);

UserBitmap *user_bitmap_new(const char *name);
/* Its map records nothing. */
void user_bitmap_free(UserBitmap *b);

/* NULL: there is none of that name. */
UserBitmap *node_bitmap_find(const Node *n, const char *name);
/* The node owns it from here on; and no longer. */
void node_bitmap_add(Node *n, UserBitmap *b);
void node_bitmap_remove(Node *n, UserBitmap *b);
/* A node that nobody uses any more is being freed. */
void node_bitmaps_free(Node *n);
/* Before a disk gets larger and after it got smaller: its bitmaps have that size too, bytes. */
void coroutine_fn node_bitmaps_resize(Node *n, uint64_t size);
/* Newest first. */
struct BlockDirtyInfoList *node_bitmaps_query(const Node *n);

/* What is marked in `from` becomes so in `to`, in whole granules of `to`. */
void dirty_bitmap_merge(DirtyBitmap *to, const DirtyBitmap *from);

#endif

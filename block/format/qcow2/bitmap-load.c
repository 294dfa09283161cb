/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Stored dirty bitmaps: from the image into memory.  See bitmap.h.
 *
 * An extension without its autoclear bit was left by a program that wrote to the image and does not know bitmaps: they are worth nothing, and are
 * ignored.
 */
#include "bitmap.h"
#include "block/bitmaps.h"
#include "util/log.h"
#include <stdlib.h>

#define TABLE_ALL_ONES UINT64_C(1)
/* Marks of all bitmaps of an image, bytes: a limit for images that somebody made up. */
#define LOAD_MAX (UINT64_C(2) << 30)

static bool failed(const Qcow2 *q, const StoredBitmap *b, int ret, Error **errp)
{
    error_set_errno(errp, -ret, q->node->name, "open", "Could not read bitmap '%s' from the image",
                    b->name);
    return false;
}

static bool valid_entry(const Qcow2 *q, uint64_t v)
{
    return v == TABLE_ALL_ONES || (v < QCOW2_MAX_HOST_OFFSET && in_cluster(q, v) == 0);
}

int coroutine_fn bitmap_read_table(Qcow2 *q, Request *r, const StoredBitmap *b, uint64_t entries,
                                   uint64_t **ret)
{
    uint64_t *table = g_try_new(uint64_t, entries);
    int err;

    if (!table) {
        return -ENOMEM;
    }
    err = edge_pread(q->file, r, host_to_child(b->table), table, entries * 8, 0);
    for (uint64_t i = 0; i < entries && err == 0; i++) {
        table[i] = be64toh(table[i]);
        err = valid_entry(q, table[i]) ? 0 : -EINVAL;
    }
    if (err < 0) {
        g_free(table);
        return err;
    }
    *ret = table;
    return 0;
}

static int coroutine_fn read_marks(Qcow2 *q, Request *r, const StoredBitmap *b, DirtyBitmap *map)
{
    uint64_t bytes = dirty_bitmap_bytes(map), entries = div_up(bytes, q->cluster_size);
    g_autofree uint64_t *table = NULL;
    uint8_t *buf = block_try_alloc(q->cluster_size);
    int ret = buf ? bitmap_read_table(q, r, b, entries, &table) : -ENOMEM;

    for (uint64_t i = 0; i < entries && ret == 0; i++) {
        uint64_t at = i << q->cluster_bits, len = MIN(bytes - at, q->cluster_size);

        if (table[i] == 0) {
            continue;
        }
        if (table[i] == TABLE_ALL_ONES) {
            memset(buf, 0xff, len);
        } else {
            ret = edge_pread(q->file, r, host_to_child(host(table[i])), buf, len, 0);
        }
        if (ret == 0) {
            dirty_bitmap_or_bytes(map, at, buf, len);
        }
    }
    free(buf);
    return ret;
}

static bool coroutine_fn load_one(Qcow2 *q, Request *r, const StoredBitmap *b, uint64_t *left,
                                  Error **errp)
{
    bool in_use = b->flags & BITMAP_IN_USE;
    uint64_t size = in_use ? 0 : q->header.size;
    UserBitmap *u = user_bitmap_new(b->name);
    int ret = 0;

    u->persistent = true;
    u->inconsistent = in_use;
    u->enabled = !in_use && b->flags & BITMAP_AUTO;
    u->map = dirty_bitmap_new(size, UINT32_C(1) << b->granularity_bits);
    if (!u->map || dirty_bitmap_bytes(u->map) > *left) {
        ret = -ENOMEM;
    } else if (!in_use) {
        *left -= dirty_bitmap_bytes(u->map);
        ret = read_marks(q, r, b, u->map);
    }
    if (ret < 0) {
        user_bitmap_free(u);
        return failed(q, b, ret, errp);
    }
    g_ptr_array_add(q->loaded, u);
    return true;
}

static bool coroutine_fn read_directory(Qcow2 *q, Request *r, const DirectoryExtension *e,
                                        Error **errp)
{
    uint8_t *buf = block_try_alloc(MAX(e->bytes, 1));
    int ret = buf ? edge_pread(q->file, r, host_to_child(e->offset), buf, e->bytes, 0) : -ENOMEM;
    GPtrArray *list = NULL;

    if (ret < 0) {
        error_set_errno(errp, -ret, q->node->name, "open", "Could not read the bitmap directory");
    } else {
        list = directory_parse(buf, e, q->cluster_bits, q->header.size, errp);
    }
    free(buf);
    if (list) {
        g_ptr_array_unref(q->stored);
        q->stored = list;
        q->directory = e->offset;
    }
    return list;
}

bool coroutine_fn bitmaps_load(Qcow2 *q, Request *r, Error **errp)
{
    const HeaderExtension *ext = header_find_extension(&q->header, EXT_BITMAPS);
    uint64_t left = LOAD_MAX;
    DirectoryExtension e;

    if (!ext || q->version < 3) {
        return true;
    }
    if (!(q->header.autoclear & AUTOCLEAR_BITMAPS)) {
        log_warn("%s: a program lacking bitmap support modified this file, so all bitmaps are now "
                 "considered inconsistent",
                 q->node->filename ? q->node->filename : q->node->name);
        return true;
    }
    if (!directory_extension_parse(ext->data, ext->len, q->cluster_bits, &e, errp) ||
        !read_directory(q, r, &e, errp)) {
        return false;
    }
    for (guint i = 0; i < q->stored->len; i++) {
        if (!load_one(q, r, g_ptr_array_index(q->stored, i), &left, errp)) {
            return false;
        }
    }
    bitmaps_note_ranges(q);
    return true;
}

void coroutine_fn bitmaps_release(Node *n)
{
    for (guint i = n->bitmaps ? n->bitmaps->len : 0; i-- > 0;) {
        UserBitmap *u = g_ptr_array_index(n->bitmaps, i);

        if (u->persistent && !u->busy) {
            node_bitmap_remove(n, u);
            if (u->enabled) {
                node_unrecord(n, u->map);
            }
            user_bitmap_free(u);
        }
    }
}

void coroutine_fn bitmaps_adopt(Qcow2 *q)
{
    Node *n = q->node;

    for (guint i = 0; i < q->loaded->len; i++) {
        UserBitmap *u = g_ptr_array_index(q->loaded, i);

        if (node_bitmap_find(n, u->name)) {
            /* One that somebody uses, or that is in memory only; the stored one stays what it is. */
            user_bitmap_free(u);
            continue;
        }
        node_bitmap_add(n, u);
        if (u->enabled) {
            node_record(n, u->map);
        }
    }
    g_ptr_array_set_size(q->loaded, 0);
}

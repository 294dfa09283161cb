/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Stored dirty bitmaps: from memory into the image.  See bitmap.h.
 *
 * Nothing that the file refers to is written over, but for the flags of entries, which are good in every combination.  All else is written to clusters
 * of its own, made durable, and then referred to; a failure on the way gives these clusters back and leaves the file as it was.
 */
#include "bitmap.h"
#include "block/bitmaps.h"
#include "util/log.h"
#include <errno.h>
#include <stdlib.h>

/* Clusters, one Drop after the other. */
static void note(GArray *list, uint64_t first, uint64_t count)
{
    Drop d = {.first = {first}, .count = count};

    g_array_append_val(list, d);
}

static void coroutine_fn give_back(Qcow2 *q, Request *r, const GArray *list)
{
    for (guint i = 0; i < list->len; i++) {
        const Drop *d = &g_array_index(list, Drop, i);

        clusters_unalloc(q, r, d->first, d->count);
    }
}

/* Room for `bytes` in one piece, noted in taken. */
static int coroutine_fn take(Qcow2 *q, Request *r, uint64_t bytes, GArray *taken, HostOffset *ret)
{
    uint64_t count = MAX(div_up(bytes, q->cluster_size), 1), got;
    ClusterIndex first;
    bool fresh;
    int err = count == 1 ? clusters_alloc(q, r, 1, &first, &got, &fresh)
                         : clusters_alloc_exact(q, r, count, &first);

    if (err < 0) {
        return err;
    }
    note(taken, first.v, count);
    *ret = cluster_start(first, q->cluster_bits);
    if (overlap_check(q, *ret, count << q->cluster_bits)) {
        return qcow2_overlap(q, r, *ret, count << q->cluster_bits);
    }
    return 0;
}

/* Writes what `buf` has, filled up with zeroes to whole clusters. */
static int coroutine_fn put(Qcow2 *q, Request *r, const uint8_t *buf, uint64_t bytes, GArray *taken,
                            HostOffset *ret)
{
    uint64_t len = MAX(cluster_ceil(q, bytes), q->cluster_size);
    uint8_t *whole = block_try_alloc(len);
    int err = whole ? take(q, r, len, taken, ret) : -ENOMEM;

    if (err == 0) {
        memcpy(whole, buf, bytes);
        memset(whole + bytes, 0, len - bytes);
        err = edge_pwrite(q->file, r, host_to_child(*ret), whole, len, 0);
    }
    free(whole);
    return err;
}

/* Marks and table of one bitmap; *entry gets what is new. */
static int coroutine_fn write_marks(Qcow2 *q, Request *r, const UserBitmap *u, GArray *taken,
                                    StoredBitmap *entry)
{
    uint64_t bytes = dirty_bitmap_bytes(u->map), n = MAX(div_up(bytes, q->cluster_size), 1);
    g_autofree uint64_t *table = g_try_new0(uint64_t, n);
    uint8_t *buf = block_try_alloc(q->cluster_size);
    int ret = table && buf ? 0 : -ENOMEM;

    for (uint64_t i = 0; i < n && ret == 0; i++) {
        HostOffset at;

        dirty_bitmap_get_bytes(u->map, i << q->cluster_bits, buf, q->cluster_size);
        if (buffer_is_zero(buf, q->cluster_size)) {
            continue;
        }
        ret = put(q, r, buf, q->cluster_size, taken, &at);
        table[i] = ret == 0 ? htobe64(at.v) : 0;
    }
    if (ret == 0) {
        ret = put(q, r, (const uint8_t *)table, n * 8, taken, &entry->table);
        entry->table_entries = n;
    }
    free(buf);
    return ret;
}

/* What b's table refers to, and the table.  What cannot be read stays where it is, of no use to anybody. */
static void coroutine_fn note_old(Qcow2 *q, Request *r, const StoredBitmap *b, GArray *old)
{
    g_autofree uint64_t *table = NULL;
    int ret = bitmap_read_table(q, r, b, b->table_entries, &table);

    if (ret < 0) {
        log_warn("%s: clusters of bitmap '%s' are leaked: %s", q->node->name, b->name,
                 g_strerror(-ret));
        return;
    }
    for (uint32_t i = 0; i < b->table_entries; i++) {
        if (table[i] >= q->cluster_size) {
            note(old, table[i] >> q->cluster_bits, 1);
        }
    }
    note(old, b->table.v >> q->cluster_bits,
         div_up((uint64_t)b->table_entries * 8, q->cluster_size));
}

void bitmaps_note_ranges(Qcow2 *q)
{
    g_array_set_size(q->bitmap_ranges, 0);
    for (guint i = 0; i <= q->stored->len && q->stored->len > 0; i++) {
        bool last = i == q->stored->len;
        const StoredBitmap *b = last ? NULL : g_ptr_array_index(q->stored, i);
        HostOffset at = last ? q->directory : b->table;
        uint64_t bytes = last ? directory_bytes(q->stored) : (uint64_t)b->table_entries * 8;
        MetaRange m = {.start = at.v >> q->cluster_bits,
                       .end = cluster_ceil(q, at.v + bytes) >> q->cluster_bits};

        g_array_append_val(q->bitmap_ranges, m);
        for (uint64_t c = m.start; c < m.end; c++) {
            overlap_add(q, (ClusterIndex){c});
        }
    }
}

/* ---- changing the directory: bitmap_lock is held ---- */

typedef struct Update {
    GPtrArray *next;  /* the new directory */
    GArray *taken;    /* clusters allocated for it */
    GArray *old;      /* clusters that only the present one refers to */
    HostOffset place; /* where it lies */
} Update;

static void update_begin(Update *u)
{
    *u = (Update){.next = stored_bitmaps_new(),
                  .taken = g_array_new(false, false, sizeof(Drop)),
                  .old = g_array_new(false, false, sizeof(Drop))};
}

static int coroutine_fn write_directory(Qcow2 *q, Request *r, Update *u)
{
    uint64_t bytes = directory_bytes(u->next);
    g_autofree uint8_t *buf = g_try_malloc0(MAX(bytes, 1));

    if (u->next->len == 0) {
        return 0;
    }
    if (!buf) {
        return -ENOMEM;
    }
    directory_build(u->next, buf);
    return put(q, r, buf, bytes, u->taken, &u->place);
}

/* Everything that is written so far, and the refcounts of where it is. */
static int coroutine_fn make_durable(Qcow2 *q, Request *r)
{
    int ret;

    co_mutex_lock(&q->flush_lock);
    ret = write_back_locked(q, r);
    co_mutex_unlock(&q->flush_lock);
    return ret;
}

/* The header refers to it. */
static int coroutine_fn refer(Qcow2 *q, Request *r, const Update *u, bool *ret_tried)
{
    DirectoryExtension e = {
        .count = u->next->len, .bytes = directory_bytes(u->next), .offset = u->place};
    uint8_t data[DIRECTORY_EXTENSION_BYTES];

    directory_extension_build(&e, data);
    return header_write_bitmaps(q, r, e.count > 0 ? data : NULL, ret_tried);
}

/* Frees u. */
static int coroutine_fn update_end(Qcow2 *q, Request *r, Update *u, int ret)
{
    bool tried = false;

    if (ret == 0) {
        ret = write_directory(q, r, u);
    }
    if (ret == 0) {
        ret = make_durable(q, r);
    }
    if (ret == 0) {
        if (q->stored->len > 0) {
            note(u->old, q->directory.v >> q->cluster_bits,
                 div_up(directory_bytes(q->stored), q->cluster_size));
        }
        ret = refer(q, r, u, &tried);
        q->directory_unsure = ret < 0 && (tried || q->directory_unsure);
    }
    if (ret == 0) {
        pthread_mutex_lock(&q->lock);
        g_ptr_array_unref(q->stored);
        q->stored = g_steal_pointer(&u->next);
        q->directory = u->place;
        bitmaps_note_ranges(q);
        pthread_mutex_unlock(&q->lock);
    }
    if (ret == 0 || !tried) {
        give_back(q, r, ret == 0 ? u->old : u->taken);
    } /* else the file refers to one or the other: both stay */
    g_clear_pointer(&u->next, g_ptr_array_unref);
    g_array_free(u->taken, true);
    g_array_free(u->old, true);
    return ret;
}

static StoredBitmap *find_stored(const GPtrArray *list, const char *name)
{
    for (guint i = 0; i < list->len; i++) {
        StoredBitmap *b = g_ptr_array_index(list, i);

        if (strcmp(b->name, name) == 0) {
            return b;
        }
    }
    return NULL;
}

static int coroutine_fn add_entry(Qcow2 *q, Request *r, const UserBitmap *u, StoredBitmap *entry,
                                  Update *up)
{
    entry->flags = (entry->flags & BITMAP_EXTRA_COMPATIBLE) | (u->enabled ? BITMAP_AUTO : 0);
    entry->granularity_bits = __builtin_ctz(dirty_bitmap_granularity(u->map));
    g_ptr_array_add(up->next, entry);
    return write_marks(q, r, u, up->taken, entry);
}

/* Those that the file has, in their order; then new ones, newest first. */
static int coroutine_fn collect(Qcow2 *q, Request *r, Update *up)
{
    const GPtrArray *all = q->node->bitmaps;
    int ret = 0;

    for (guint i = 0; i < q->stored->len && ret == 0; i++) {
        const StoredBitmap *b = g_ptr_array_index(q->stored, i);
        const UserBitmap *u = node_bitmap_find(q->node, b->name);

        if (u && (u->inconsistent || !u->persistent)) {
            g_ptr_array_add(up->next, stored_bitmap_copy(b));
            continue;
        }
        note_old(q, r, b, up->old);
        if (u) {
            ret = add_entry(q, r, u, stored_bitmap_copy(b), up);
        }
    }
    for (guint i = all ? all->len : 0; i-- > 0 && ret == 0;) {
        const UserBitmap *u = g_ptr_array_index(all, i);

        if (u->persistent && !find_stored(q->stored, u->name)) {
            StoredBitmap *entry = g_new0(StoredBitmap, 1);

            entry->name = g_strdup(u->name);
            ret = add_entry(q, r, u, entry, up);
        }
    }
    return ret;
}

bool bitmaps_any(const Qcow2 *q)
{
    const GPtrArray *all = q->node->bitmaps;
    bool any = q->stored->len > 0;

    for (guint i = 0; all && i < all->len; i++) {
        any |= ((const UserBitmap *)g_ptr_array_index(all, i))->persistent;
    }
    return any;
}

bool coroutine_fn bitmaps_store(Qcow2 *q, Request *r, Error **errp)
{
    Update u;
    int ret;

    if (!bitmaps_any(q) || atomic_load(&q->corrupt)) {
        return true;
    }
    co_mutex_lock(&q->bitmap_lock);
    update_begin(&u);
    ret = collect(q, r, &u);
    ret = update_end(q, r, &u, ret);
    co_mutex_unlock(&q->bitmap_lock);
    if (ret < 0) {
        error_set_errno(errp, -ret, q->node->name, "bitmap",
                        "Could not store the bitmaps of node '%s'", q->node->name);
    }
    return ret == 0;
}

/* The entries are where they are; each is good with and without the flag. */
static int coroutine_fn write_in_place(Qcow2 *q, Request *r, const GPtrArray *entries)
{
    uint64_t bytes = directory_bytes(entries);
    g_autofree uint8_t *buf = g_try_malloc(bytes);
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    directory_build(entries, buf);
    ret = edge_pwrite(q->file, r, host_to_child(q->directory), buf, bytes, 0);
    return ret < 0 ? ret : edge_flush(q->file, r);
}

/* The present entries, each with the flag.  True: one did not have it. */
static bool copy_in_use(const Qcow2 *q, GPtrArray *next)
{
    bool changed = false;

    for (guint i = 0; i < q->stored->len; i++) {
        StoredBitmap *b = stored_bitmap_copy(g_ptr_array_index(q->stored, i));

        changed |= !(b->flags & BITMAP_IN_USE);
        b->flags |= BITMAP_IN_USE;
        g_ptr_array_add(next, b);
    }
    return changed;
}

static int coroutine_fn mark_in_place(Qcow2 *q, Request *r)
{
    GPtrArray *next = stored_bitmaps_new();
    int ret = 0;

    if (copy_in_use(q, next)) {
        ret = write_in_place(q, r, next);
    }
    if (ret == 0) {
        GPtrArray *before = q->stored;

        pthread_mutex_lock(&q->lock);
        q->stored = next;
        pthread_mutex_unlock(&q->lock);
        next = before;
    }
    g_ptr_array_unref(next);
    return ret;
}

bool coroutine_fn bitmaps_mark_in_use(Qcow2 *q, Request *r, Error **errp)
{
    Update u;
    int ret;

    co_mutex_lock(&q->bitmap_lock);
    if (q->directory_unsure) {
        /* Nobody knows which directory the file has: it gets another one. */
        update_begin(&u);
        (void)copy_in_use(q, u.next);
        ret = update_end(q, r, &u, 0);
    } else {
        ret = mark_in_place(q, r);
    }
    co_mutex_unlock(&q->bitmap_lock);
    if (ret < 0) {
        error_set_errno(errp, -ret, q->node->name, "bitmap",
                        "Could not mark the bitmaps of node '%s' as being in use", q->node->name);
    }
    return ret == 0;
}

/* ---- for the driver ---- */

void coroutine_fn qcow2_bitmap_removed(Node *n, const char *name)
{
    Qcow2 *q = qcow2_of(n);
    const StoredBitmap *b;
    Request r;
    Update u;
    int ret = 0;

    request_begin(&r, REQUEST_WRITE);
    co_mutex_lock(&q->bitmap_lock);
    b = find_stored(q->stored, name);
    if (b && (atomic_load(&n->read_only) || atomic_load(&q->corrupt))) {
        ret = -EROFS;
    } else if (b) {
        update_begin(&u);
        for (guint i = 0; i < q->stored->len; i++) {
            const StoredBitmap *other = g_ptr_array_index(q->stored, i);

            if (other != b) {
                g_ptr_array_add(u.next, stored_bitmap_copy(other));
            }
        }
        note_old(q, &r, b, u.old);
        ret = update_end(q, &r, &u, 0);
    }
    co_mutex_unlock(&q->bitmap_lock);
    request_end(&r);
    if (ret < 0) {
        /* It is gone from memory; who opens the image later finds one that was not stored. */
        log_warn("%s: bitmap '%s' could not be removed from the image: %s", n->name, name,
                 g_strerror(-ret));
    }
}

static bool cannot_store(Error **errp, const Node *n, const char *name, const char *why)
{
    error_set(errp, ERROR_UNSUPPORTED, name, "bitmap",
              "Can't make bitmap '%s' persistent in '%s': %s", name, n->name, why);
    return false;
}

bool qcow2_bitmap_can_store(Node *n, const char *name, uint32_t granularity, Error **errp)
{
    const Qcow2 *q = qcow2_of(n);
    uint64_t granules = div_up(atomic_load(&n->size), granularity), count = 0, bytes = 0;

    if (q->version < 3) {
        return cannot_store(errp, n, name, "Cannot store dirty bitmaps in qcow2 v2 files");
    }
    if (atomic_load(&n->read_only)) {
        return cannot_store(errp, n, name, "Block node is read-only");
    }
    if (granularity > UINT32_C(1) << BITMAP_MAX_GRAN_BITS) {
        return cannot_store(errp, n, name, "Granularity exceeds 2147483648 bytes");
    }
    if (cluster_ceil(q, div_up(granules, 8)) > BITMAP_MAX_BYTES) {
        return cannot_store(
            errp, n, name, "Too much space will be occupied by the bitmap. Use larger granularity");
    }
    for (guint i = 0; n->bitmaps && i < n->bitmaps->len; i++) {
        const UserBitmap *u = g_ptr_array_index(n->bitmaps, i);

        if (u->persistent) {
            count++;
            bytes += DIRECTORY_ENTRY_HEAD + strlen(u->name) + 7;
        }
    }
    if (count >= BITMAPS_MAX) {
        return cannot_store(errp, n, name,
                            "Maximum number of persistent bitmaps is already reached");
    }
    if (bytes + DIRECTORY_ENTRY_HEAD + strlen(name) + 7 > DIRECTORY_MAX_BYTES) {
        return cannot_store(errp, n, name, "Not enough space in the bitmap directory");
    }
    return true;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The directory of stored dirty bitmaps, and the header extension that says where it is.  See bitmap.h.
 *
 * An entry is a head of 24 bytes, extra data, the name, and zeroes up to a multiple of 8; entries follow each other without gaps.  Nothing here is
 * trusted.
 */
#include "bitmap.h"
#include <inttypes.h>

#define TYPE_DIRTY 1u

/* Byte offsets in an entry. */
enum {
    ENT_TABLE = 0,
    ENT_TABLE_SIZE = 8,
    ENT_FLAGS = 12,
    ENT_TYPE = 16,
    ENT_GRANULARITY = 17,
    ENT_NAME_SIZE = 18,
    ENT_EXTRA_SIZE = 20,
};

StoredBitmap *stored_bitmap_copy(const StoredBitmap *b)
{
    StoredBitmap *c = g_memdup2(b, sizeof(*b));

    c->name = g_strdup(b->name);
    c->extra = g_memdup2(b->extra, b->extra_len);
    return c;
}

void stored_bitmap_free(StoredBitmap *b)
{
    g_free(b->extra);
    g_free(b->name);
    g_free(b);
}

GPtrArray *stored_bitmaps_new(void)
{
    return g_ptr_array_new_with_free_func((GDestroyNotify)stored_bitmap_free);
}

/* ---- the extension ---- */

static bool bad_extension(Error **errp, const char *text)
{
    error_set(errp, ERROR_CORRUPT, NULL, "open", "bitmaps_ext: %s", text);
    return false;
}

bool directory_extension_parse(const uint8_t *data, uint32_t len, unsigned cluster_bits,
                               DirectoryExtension *ret, Error **errp)
{
    DirectoryExtension e;

    if (len != DIRECTORY_EXTENSION_BYTES) {
        return bad_extension(errp, "Invalid extension length");
    }
    e = (DirectoryExtension){
        .count = get_be32(data), .bytes = get_be64(data + 8), .offset = host(get_be64(data + 16))};
    if (get_be32(data + 4) != 0) {
        return bad_extension(errp, "Reserved field is not zero");
    }
    if (e.count > BITMAPS_MAX) {
        error_set(errp, ERROR_LIMIT, NULL, "open",
                  "bitmaps_ext: image has %" PRIu32 " bitmaps, exceeding the QEMU supported "
                  "maximum of %u",
                  e.count, BITMAPS_MAX);
        return false;
    }
    if (e.count == 0) {
        return bad_extension(errp, "found bitmaps extension with zero bitmaps");
    }
    if (e.offset.v == 0 || e.offset.v & ((UINT64_C(1) << cluster_bits) - 1) ||
        e.offset.v >= QCOW2_MAX_HOST_OFFSET) {
        return bad_extension(errp, "invalid bitmap directory offset");
    }
    if (e.bytes > DIRECTORY_MAX_BYTES) {
        error_set(errp, ERROR_LIMIT, NULL, "open",
                  "bitmaps_ext: bitmap directory size (%" PRIu64 ") exceeds the maximum "
                  "supported size (%" PRIu64 ")",
                  e.bytes, DIRECTORY_MAX_BYTES);
        return false;
    }
    *ret = e;
    return true;
}

void directory_extension_build(const DirectoryExtension *e, uint8_t *data)
{
    put_be32(data, e->count);
    put_be32(data + 4, 0);
    put_be64(data + 8, e->bytes);
    put_be64(data + 16, e->offset.v);
}

/* ---- entries ---- */

static uint64_t entry_bytes(uint64_t extra, uint64_t name)
{
    return (DIRECTORY_ENTRY_HEAD + extra + name + 7) & ~UINT64_C(7);
}

static bool check_entry(const StoredBitmap *b, unsigned type, unsigned cluster_bits,
                        uint64_t disk_size)
{
    uint64_t cluster = UINT64_C(1) << cluster_bits;
    uint64_t bytes = (uint64_t)b->table_entries << cluster_bits; /* of marks: below 2^53 */

    return b->table_entries > 0 && b->table.v != 0 && b->table.v % cluster == 0 &&
           b->table.v < QCOW2_MAX_HOST_OFFSET && bytes <= BITMAP_MAX_BYTES && type == TYPE_DIRTY &&
           b->granularity_bits >= BITMAP_MIN_GRAN_BITS &&
           b->granularity_bits <= BITMAP_MAX_GRAN_BITS && !(b->flags & ~BITMAP_FLAGS_KNOWN) &&
           (b->extra_len == 0 || b->flags & BITMAP_EXTRA_COMPATIBLE) &&
           /* What is out of date may be of another size. */
           (b->flags & BITMAP_IN_USE ||
            div_up(div_up(disk_size, UINT64_C(1) << b->granularity_bits), 8) <= bytes);
}

/* The entry at buf; *ret_len: its length.  NULL: it is damaged. */
static StoredBitmap *parse_entry(const uint8_t *buf, uint64_t left, unsigned cluster_bits,
                                 uint64_t disk_size, uint64_t *ret_len, Error **errp)
{
    uint64_t extra, name;
    StoredBitmap *b;

    if (left < DIRECTORY_ENTRY_HEAD) {
        bad_extension(errp, "bitmap directory is too short");
        return NULL;
    }
    extra = get_be32(buf + ENT_EXTRA_SIZE);
    name = (unsigned)buf[ENT_NAME_SIZE] << 8 | buf[ENT_NAME_SIZE + 1];
    if (entry_bytes(extra, name) > left || name == 0 || name > BITMAP_MAX_NAME) {
        bad_extension(errp, "bitmap directory has a damaged entry");
        return NULL;
    }
    b = g_new0(StoredBitmap, 1);
    b->table = host(get_be64(buf + ENT_TABLE));
    b->table_entries = get_be32(buf + ENT_TABLE_SIZE);
    b->flags = get_be32(buf + ENT_FLAGS);
    b->granularity_bits = buf[ENT_GRANULARITY];
    b->extra_len = extra;
    b->extra = g_memdup2(buf + DIRECTORY_ENTRY_HEAD, extra);
    b->name = g_strndup((const char *)buf + DIRECTORY_ENTRY_HEAD + extra, name);
    if (!g_utf8_validate(b->name, -1, NULL) || strlen(b->name) != name) {
        bad_extension(errp, "bitmap directory has a name that is no text");
    } else if (!check_entry(b, buf[ENT_TYPE], cluster_bits, disk_size)) {
        error_set(errp, ERROR_CORRUPT, NULL, "open", "Bitmap '%s' doesn't satisfy the constraints",
                  b->name);
    } else {
        *ret_len = entry_bytes(extra, name);
        return b;
    }
    stored_bitmap_free(b);
    return NULL;
}

GPtrArray *directory_parse(const uint8_t *buf, const DirectoryExtension *e, unsigned cluster_bits,
                           uint64_t disk_size, Error **errp)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GPtrArray) list = stored_bitmaps_new();
    uint64_t at = 0, len;

    for (uint32_t i = 0; i < e->count; i++) {
        StoredBitmap *b = parse_entry(buf + at, e->bytes - at, cluster_bits, disk_size, &len, errp);

        if (!b) {
            return NULL;
        }
        g_ptr_array_add(list, b);
        if (!g_hash_table_add(seen, b->name)) {
            error_set(errp, ERROR_CORRUPT, NULL, "open",
                      "bitmaps_ext: bitmap directory has the name '%s' twice", b->name);
            return NULL;
        }
        at += len;
    }
    if (at != e->bytes) {
        bad_extension(errp, "bitmap directory has more than its bitmaps");
        return NULL;
    }
    return g_steal_pointer(&list);
}

uint64_t directory_bytes(const GPtrArray *entries)
{
    uint64_t n = 0;

    for (guint i = 0; i < entries->len; i++) {
        const StoredBitmap *b = g_ptr_array_index(entries, i);

        n += entry_bytes(b->extra_len, strlen(b->name));
    }
    return n;
}

void directory_build(const GPtrArray *entries, uint8_t *buf)
{
    for (guint i = 0; i < entries->len; i++) {
        const StoredBitmap *b = g_ptr_array_index(entries, i);
        size_t name = strlen(b->name), len = entry_bytes(b->extra_len, name);

        memset(buf, 0, len);
        put_be64(buf + ENT_TABLE, b->table.v);
        put_be32(buf + ENT_TABLE_SIZE, b->table_entries);
        put_be32(buf + ENT_FLAGS, b->flags);
        buf[ENT_TYPE] = TYPE_DIRTY;
        buf[ENT_GRANULARITY] = b->granularity_bits;
        buf[ENT_NAME_SIZE] = name >> 8;
        buf[ENT_NAME_SIZE + 1] = name & 0xff;
        put_be32(buf + ENT_EXTRA_SIZE, b->extra_len);
        if (b->extra_len) {
            memcpy(buf + DIRECTORY_ENTRY_HEAD, b->extra, b->extra_len);
        }
        memcpy(buf + DIRECTORY_ENTRY_HEAD + b->extra_len, b->name, name);
        buf += len;
    }
}

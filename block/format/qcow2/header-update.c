/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Changing the header of an image that is in use.
 *
 * A sector of 512 bytes reaches storage as a whole or not at all; fields of the header proper lie in the first one.  So:
 *
 *  - A few fields: the bytes concerned are written, nothing else.
 *  - Extensions and the name of the backing file: a name that changes or is in the way is written where neither the present name nor any
 *    extension is, and made durable; then the first sector refers to it.  When the extensions reach beyond the first sector and change there, they
 *    are cut short for a moment: a first sector that has the END extension after the last one that lies in it as a whole, then the sectors behind,
 *    then the first sector as it shall be, each step durable before the next.  What can be missing after a crash in between is what every reader
 *    may ignore.  Those that must not be missing come first (the format's name, where the dirty bitmaps are).
 */
#include "qcow2.h"
#include <inttypes.h>
#include <stdlib.h>

static int coroutine_fn write_header(Qcow2 *q, Request *r, uint32_t offset, const void *buf,
                                     size_t len)
{
    return edge_pwrite(q->file, r, guest(offset), buf, len, 0);
}

int coroutine_fn header_write_bits(Qcow2 *q, Request *r, uint64_t incompatible, uint64_t autoclear)
{
    uint8_t buf[HDR_REFCOUNT_ORDER - HDR_INCOMPATIBLE];
    int ret;

    co_mutex_lock(&q->header_lock);
    put_be64(buf, incompatible);
    put_be64(buf + HDR_COMPATIBLE - HDR_INCOMPATIBLE, q->header.compatible);
    put_be64(buf + HDR_AUTOCLEAR - HDR_INCOMPATIBLE, autoclear);
    ret = write_header(q, r, HDR_INCOMPATIBLE, buf, sizeof(buf));
    if (ret == 0) {
        ret = edge_flush(q->file, r);
    }
    if (ret == 0) {
        q->header.incompatible = incompatible;
        q->header.autoclear = autoclear;
    }
    co_mutex_unlock(&q->header_lock);
    return ret;
}

int coroutine_fn header_write_tables(Qcow2 *q, Request *r, uint64_t size, const Table *l1,
                                     uint32_t l1_entries, HostOffset reft_offset,
                                     uint32_t reft_clusters)
{
    uint8_t buf[HDR_NB_SNAPSHOTS - HDR_SIZE];
    int ret;

    co_mutex_lock(&q->header_lock);
    put_be64(buf, size);
    put_be32(buf + HDR_CRYPT_METHOD - HDR_SIZE, q->header.crypt_method);
    put_be32(buf + HDR_L1_SIZE - HDR_SIZE, l1_entries);
    put_be64(buf + HDR_L1_OFFSET - HDR_SIZE, l1->offset.v);
    put_be64(buf + HDR_REFT_OFFSET - HDR_SIZE, reft_offset.v);
    put_be32(buf + HDR_REFT_CLUSTERS - HDR_SIZE, reft_clusters);
    ret = write_header(q, r, HDR_SIZE, buf, sizeof(buf));
    if (ret == 0) {
        ret = edge_flush(q->file, r);
    }
    if (ret == 0) {
        q->header.size = size;
        q->header.l1_offset = l1->offset;
        q->header.l1_size = l1_entries;
        q->header.reft_offset = reft_offset;
        q->header.reft_clusters = reft_clusters;
    }
    co_mutex_unlock(&q->header_lock);
    return ret;
}

int coroutine_fn header_write_snapshots(Qcow2 *q, Request *r, uint32_t count, HostOffset offset)
{
    uint8_t buf[HDR_INCOMPATIBLE - HDR_NB_SNAPSHOTS];
    int ret;

    co_mutex_lock(&q->header_lock);
    put_be32(buf, count);
    put_be64(buf + HDR_SNAPSHOTS_OFFSET - HDR_NB_SNAPSHOTS, offset.v);
    ret = write_header(q, r, HDR_NB_SNAPSHOTS, buf, sizeof(buf));
    if (ret == 0) {
        ret = edge_flush(q->file, r);
    }
    if (ret == 0) {
        q->header.nb_snapshots = count;
        q->header.snapshots_offset = offset;
    }
    co_mutex_unlock(&q->header_lock);
    return ret;
}

/* ---- backing strings ---- */

/* Where a name of `len` bytes can lie beside [0, used) and the present name; 0: nowhere. */
static uint64_t find_room(const Qcow2 *q, uint64_t used, uint64_t len)
{
    const Qcow2Header *h = &q->header;
    uint64_t present_end = h->backing_offset + (h->backing_file ? strlen(h->backing_file) : 0);

    if (used + len > q->cluster_size) {
        return 0;
    }
    if (!h->backing_file || used + len <= h->backing_offset || used >= present_end) {
        return used;
    }
    return present_end + len <= q->cluster_size ? present_end : 0;
}

static int coroutine_fn step(Qcow2 *q, Request *r, uint32_t offset, const uint8_t *buf, size_t len)
{
    int ret = write_header(q, r, offset, buf, len);

    return ret < 0 ? ret : edge_flush(q->file, r);
}

/* Byte behind the last extension that lies in the first sector as a whole and leaves room for END. */
static size_t extensions_in_first(const uint8_t *to, size_t at)
{
    while (at + 16 <= SECTOR && get_be32(to + at) != EXT_END) {
        size_t next = at + 8 + (((size_t)get_be32(to + at + 4) + 7) & ~(size_t)7);

        if (next + 8 > SECTOR) {
            break;
        }
        at = next;
    }
    return at;
}

/* The steps that lead from the present first cluster to `to`; used: end of header and extensions of both. */
static int coroutine_fn write_steps(Qcow2 *q, Request *r, const uint8_t *from, uint8_t *to,
                                    uint64_t name_offset, size_t name_len, uint64_t used)
{
    g_autofree uint8_t *first = NULL;
    int ret = 0;

    if (name_len > 0 && name_offset + name_len > SECTOR) {
        ret = step(q, r, name_offset, to + name_offset, name_len);
    }
    if (ret == 0 && used > SECTOR && memcmp(from + SECTOR, to + SECTOR, used - SECTOR) != 0) {
        size_t at = extensions_in_first(to, q->header.header_length);

        if (at + 8 > SECTOR) {
            return -ENOSPC;
        }
        first = g_memdup2(to, SECTOR);
        memset(first + at, 0, SECTOR - at); /* END */
        ret = step(q, r, 0, first, SECTOR);
        if (ret == 0) {
            ret = step(q, r, SECTOR, to + SECTOR, used - SECTOR);
        }
    }
    return ret < 0 ? ret : step(q, r, 0, to, SECTOR);
}

/* With header_lock.  Extensions, backing strings and autoclear bits of `next` take the place of the present ones; next->backing_offset is chosen here.
 * Memory is the caller's to change.  *ret_tried: on failure the file may have either, else the present ones. */
static int coroutine_fn replace_header(Qcow2 *q, Request *r, Qcow2Header *next, bool *ret_tried)
{
    g_autofree uint8_t *from = g_malloc0(q->cluster_size), *to = g_malloc0(q->cluster_size);
    size_t name_len = next->backing_file ? strlen(next->backing_file) : 0;
    uint64_t len = MIN(q->cluster_size, edge_size(q->file, r));
    uint64_t used = MAX(header_length_with_extensions(next), q->header.extensions_end);
    bool moves = next->backing_file != q->header.backing_file || used > q->header.backing_offset;
    int ret;

    if (!next->backing_file) {
        next->backing_offset = 0;
    } else if (moves) {
        next->backing_offset = find_room(q, used, name_len);
    }
    if (used > q->cluster_size || (next->backing_file && next->backing_offset == 0)) {
        return -ENOSPC;
    }
    ret = edge_pread(q->file, r, guest(0), from, len, 0);
    if (ret == 0) {
        /* Whatever else is in the cluster stays. */
        memcpy(to, from, len);
        memset(to + next->header_length, 0, used - next->header_length);
        header_build(next, to);
        *ret_tried = true;
        ret = write_steps(q, r, from, to, next->backing_offset, moves ? name_len : 0, used);
    }
    return ret;
}

static int coroutine_fn update_backing(Qcow2 *q, Request *r, const char *file, const char *format,
                                       Error **errp)
{
    Qcow2Header next = q->header; /* shares its extensions */
    bool tried = false;
    int ret;

    next.backing_file = (char *)file;
    next.backing_format = file ? (char *)format : NULL;
    ret = replace_header(q, r, &next, &tried);
    if (ret == -ENOSPC) {
        error_set(errp, ERROR_NO_SPACE, q->node->name, "backing", "Backing file name too long");
        return ret;
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, q->node->name, "backing", "Could not write the image header");
        return ret;
    }
    g_free(q->header.backing_file);
    g_free(q->header.backing_format);
    q->header.backing_file = g_strdup(file);
    q->header.backing_format = g_strdup(next.backing_format);
    q->header.backing_offset = next.backing_offset;
    q->header.extensions_end = header_length_with_extensions(&q->header);
    return 0;
}

bool coroutine_fn qcow2_set_backing_string(Node *n, const char *file, const char *format,
                                           Error **errp)
{
    Qcow2 *q = qcow2_of(n);
    Request r;
    int ret;

    if (atomic_load(&n->read_only) || atomic_load(&q->corrupt)) {
        error_set(errp, ERROR_PERMISSION, n->name, "backing", "Node '%s' is read only", n->name);
        return false;
    }
    if ((file && strlen(file) > QCOW2_MAX_BACKING_NAME) ||
        (format && strlen(format) > QCOW2_MAX_FORMAT_NAME)) {
        error_set(errp, ERROR_LIMIT, n->name, "backing", "Backing file name too long");
        return false;
    }
    request_begin(&r, REQUEST_WRITE);
    co_mutex_lock(&q->header_lock);
    ret = update_backing(q, &r, file, format, errp);
    co_mutex_unlock(&q->header_lock);
    request_end(&r);
    return ret == 0;
}

/* ---- dirty bitmaps ---- */

/* The present extensions with that one, in front but for the group's, or without one.  Data is shared. */
static GArray *extensions_with_bitmaps(const Qcow2 *q, HeaderExtension *bitmaps)
{
    GArray *list = g_array_new(false, true, sizeof(HeaderExtension));
    guint at = 0;

    for (guint i = 0; i < q->header.extensions->len; i++) {
        const HeaderExtension *e = &g_array_index(q->header.extensions, HeaderExtension, i);

        if (e->type != EXT_BITMAPS) {
            g_array_append_val(list, *e);
        }
    }
    if (bitmaps) {
        at = list->len > 0 && g_array_index(list, HeaderExtension, 0).type == EXT_SNAPSHOT_GROUP;
        g_array_insert_val(list, at, *bitmaps);
    }
    return list;
}

int coroutine_fn header_write_bitmaps(Qcow2 *q, Request *r, const uint8_t *extension,
                                      bool *ret_tried)
{
    HeaderExtension e = {.type = EXT_BITMAPS, .len = 24};
    Qcow2Header next;
    int ret;

    co_mutex_lock(&q->header_lock);
    next = q->header;
    e.data = extension ? g_memdup2(extension, e.len) : NULL;
    next.extensions = extensions_with_bitmaps(q, extension ? &e : NULL);
    next.autoclear =
        extension ? next.autoclear | AUTOCLEAR_BITMAPS : next.autoclear & ~AUTOCLEAR_BITMAPS;
    ret = replace_header(q, r, &next, ret_tried);
    if (ret == 0) {
        for (guint i = 0; i < q->header.extensions->len; i++) {
            HeaderExtension *old = &g_array_index(q->header.extensions, HeaderExtension, i);

            if (old->type == EXT_BITMAPS) {
                g_free(old->data);
            }
        }
        g_array_free(q->header.extensions, true);
        q->header.extensions = next.extensions;
        q->header.autoclear = next.autoclear;
        q->header.backing_offset = next.backing_offset;
        q->header.extensions_end = header_length_with_extensions(&q->header);
    } else {
        g_free(e.data);
        g_array_free(next.extensions, true);
    }
    co_mutex_unlock(&q->header_lock);
    return ret;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The snapshot table: which internal snapshots an image has, and where their L1 tables are, so that no data is ever written over these.  What
 * a snapshot shares with the disk has no COPIED flag, and is copied when it is written.
 *
 * The table is a row of entries of variable length (qcow2 specification, "Snapshots"); everything in it is checked before it is used.  Entries that
 * were there are kept to the byte.  A new table is written elsewhere and made durable before the header names it, in one write: at every
 * moment the file has one whole table.
 */
#include "qcow2.h"
#include <errno.h>
#include <stdlib.h>

#define ENTRY_HEAD 40u
#define EXTRA_MAX  1024u
#define OUR_EXTRA  24u /* size of VM state, size of the disk, instruction count */

enum { /* bytes of an entry */
       E_L1_OFFSET = 0,
       E_L1_SIZE = 8,
       E_ID_LEN = 12,
       E_NAME_LEN = 14,
       E_DATE_SEC = 16,
       E_DATE_NSEC = 20,
       E_VM_CLOCK = 24,
       E_VM_STATE = 32,
       E_EXTRA_LEN = 36,
       X_VM_STATE = 0, /* in the extra data */
       X_DISK_SIZE = 8,
       X_ICOUNT = 16,
};

static unsigned get_be16(const uint8_t *p)
{
    return p[0] << 8 | p[1];
}

static void put_be16(uint8_t *p, unsigned v)
{
    p[0] = v >> 8;
    p[1] = v;
}

void snapshot_free(Qcow2Snapshot *s)
{
    if (s) {
        g_free(s->id);
        g_free(s->name);
        g_free(s->raw);
        g_free(s);
    }
}

static void add_range(Qcow2 *q, HostOffset at, uint64_t bytes)
{
    MetaRange m = {.start = at.v >> q->cluster_bits,
                   .end = cluster_ceil(q, at.v + bytes) >> q->cluster_bits};

    if (bytes > 0) {
        g_array_append_val(q->snapshot_ranges, m);
    }
}

/* ---- reading ---- */

static bool bad(Qcow2 *q, Error **errp, const char *what)
{
    error_set(errp, ERROR_CORRUPT, q->node->name, "open", "Could not read snapshots: %s", what);
    return false;
}

static bool coroutine_fn read_part(Qcow2 *q, Request *r, HostOffset at, void *buf, size_t len,
                                   Error **errp)
{
    int ret = edge_pread(q->file, r, host_to_child(at), buf, len, 0);

    if (ret < 0) {
        error_set_errno(errp, -ret, q->node->name, "open", "Could not read snapshots");
    }
    return ret == 0;
}

/* What raw says. */
static void parse(const Qcow2 *q, Qcow2Snapshot *s)
{
    const uint8_t *p = s->raw, *extra = p + ENTRY_HEAD, *text;
    uint32_t extra_len = get_be32(p + E_EXTRA_LEN);

    s->l1 = host(get_be64(p + E_L1_OFFSET));
    s->l1_entries = get_be32(p + E_L1_SIZE);
    s->date_sec = get_be32(p + E_DATE_SEC);
    s->date_nsec = get_be32(p + E_DATE_NSEC);
    s->vm_clock_ns = get_be64(p + E_VM_CLOCK);
    s->vm_state_size = extra_len >= 8 ? get_be64(extra + X_VM_STATE) : get_be32(p + E_VM_STATE);
    s->disk_size = extra_len >= 16 ? get_be64(extra + X_DISK_SIZE) : q->header.size;
    s->icount = extra_len >= 24 ? get_be64(extra + X_ICOUNT) : UINT64_MAX;
    text = extra + extra_len;
    s->id = g_strndup((const char *)text, get_be16(p + E_ID_LEN));
    s->name = g_strndup((const char *)text + get_be16(p + E_ID_LEN), get_be16(p + E_NAME_LEN));
}

/* One entry at `at`. */
static Qcow2Snapshot *coroutine_fn read_entry(Qcow2 *q, Request *r, HostOffset at,
                                              uint64_t file_size, Error **errp)
{
    g_autofree uint8_t *raw = g_malloc0(ENTRY_HEAD);
    uint64_t extra, l1_bytes, len;
    Qcow2Snapshot *s;
    HostOffset l1;

    if (at.v > file_size || file_size - at.v < ENTRY_HEAD) {
        bad(q, errp, "The snapshot table reaches beyond the end of the file");
        return NULL;
    }
    if (!read_part(q, r, at, raw, ENTRY_HEAD, errp)) {
        return NULL;
    }
    l1 = host(get_be64(raw + E_L1_OFFSET));
    l1_bytes = (uint64_t)get_be32(raw + E_L1_SIZE) * 8;
    extra = get_be32(raw + E_EXTRA_LEN);
    if (extra > EXTRA_MAX) {
        bad(q, errp, "Too much extra metadata in snapshot table entry");
        return NULL;
    }
    if (l1_bytes > QCOW2_MAX_L1_BYTES) {
        bad(q, errp, "Snapshot L1 table too large");
        return NULL;
    }
    if (in_cluster(q, l1.v) || l1.v > BLOCK_MAX_SIZE - l1_bytes) {
        bad(q, errp, "Snapshot L1 table offset invalid");
        return NULL;
    }
    len = ENTRY_HEAD + extra + get_be16(raw + E_ID_LEN) + get_be16(raw + E_NAME_LEN);
    if (file_size - at.v < len) {
        bad(q, errp, "The snapshot table reaches beyond the end of the file");
        return NULL;
    }
    s = g_new0(Qcow2Snapshot, 1);
    s->raw_len = (len + 7) & ~7u;
    s->raw = g_malloc0(s->raw_len);
    memcpy(s->raw, raw, ENTRY_HEAD);
    if (!read_part(q, r, host_add(at, ENTRY_HEAD), s->raw + ENTRY_HEAD, len - ENTRY_HEAD, errp)) {
        snapshot_free(s);
        return NULL;
    }
    parse(q, s);
    return s;
}

bool coroutine_fn snapshots_open(Qcow2 *q, Request *r, Error **errp)
{
    uint64_t file_size = edge_size(q->file, r);
    HostOffset at = q->header.snapshots_offset;

    for (uint32_t i = 0; i < q->header.nb_snapshots; i++) {
        Qcow2Snapshot *s = read_entry(q, r, at, file_size, errp);

        if (!s) {
            return false;
        }
        g_ptr_array_add(q->snapshots, s);
        add_range(q, s->l1, (uint64_t)s->l1_entries * 8);
        at = host_add(at, s->raw_len);
        if (at.v - q->header.snapshots_offset.v > QCOW2_MAX_SNAP_BYTES) {
            return bad(q, errp, "Snapshot table is too large");
        }
    }
    add_range(q, q->header.snapshots_offset, at.v - q->header.snapshots_offset.v);
    return true;
}

/* ---- writing ---- */

void snapshot_build(Qcow2Snapshot *s)
{
    size_t id_len = strlen(s->id), name_len = strlen(s->name),
           len = ENTRY_HEAD + OUR_EXTRA + id_len + name_len;
    uint8_t *p, *extra;

    g_free(s->raw);
    s->raw_len = (len + 7) & ~(size_t)7;
    s->raw = p = g_malloc0(s->raw_len);
    extra = p + ENTRY_HEAD;
    put_be64(p + E_L1_OFFSET, s->l1.v);
    put_be32(p + E_L1_SIZE, s->l1_entries);
    put_be16(p + E_ID_LEN, id_len);
    put_be16(p + E_NAME_LEN, name_len);
    put_be32(p + E_DATE_SEC, s->date_sec);
    put_be32(p + E_DATE_NSEC, s->date_nsec);
    put_be64(p + E_VM_CLOCK, s->vm_clock_ns);
    put_be32(p + E_VM_STATE, MIN(s->vm_state_size, UINT32_MAX));
    put_be32(p + E_EXTRA_LEN, OUR_EXTRA);
    put_be64(extra + X_VM_STATE, s->vm_state_size);
    put_be64(extra + X_DISK_SIZE, s->disk_size);
    put_be64(extra + X_ICOUNT, s->icount);
    memcpy(extra + OUR_EXTRA, s->id, id_len);
    memcpy(extra + OUR_EXTRA + id_len, s->name, name_len);
}

static uint64_t table_bytes(const GPtrArray *list)
{
    uint64_t bytes = 0;

    for (guint i = 0; i < list->len; i++) {
        bytes += ((const Qcow2Snapshot *)g_ptr_array_index(list, i))->raw_len;
    }
    return bytes;
}

/* A table with the entries of `list`, in new clusters; not flushed.  An empty list has none. */
static int coroutine_fn write_table(Qcow2 *q, Request *r, const GPtrArray *list, HostOffset *ret_at)
{
    uint64_t bytes = table_bytes(list), done = 0, clusters = div_up(bytes, q->cluster_size);
    ClusterIndex first;
    uint8_t *buf;
    int ret;

    *ret_at = host(0);
    if (bytes == 0) {
        return 0;
    }
    if (bytes > QCOW2_MAX_SNAP_BYTES || list->len > QCOW2_MAX_SNAPSHOTS) {
        return -EFBIG;
    }
    buf = block_try_alloc(cluster_ceil(q, bytes));
    if (!buf) {
        return -ENOMEM;
    }
    memset(buf, 0, cluster_ceil(q, bytes));
    for (guint i = 0; i < list->len; i++) {
        const Qcow2Snapshot *s = g_ptr_array_index(list, i);

        memcpy(buf + done, s->raw, s->raw_len);
        done += s->raw_len;
    }
    ret = clusters_alloc_exact(q, r, clusters, &first);
    if (ret == 0) {
        *ret_at = cluster_start(first, q->cluster_bits);
        ret = edge_pwrite(q->file, r, host_to_child(*ret_at), buf, cluster_ceil(q, bytes), 0);
        if (ret < 0) {
            clusters_unalloc(q, r, first, clusters);
        }
    }
    free(buf);
    return ret;
}

/* Under lock. */
static void set_ranges(Qcow2 *q, HostOffset table)
{
    uint64_t bytes = table_bytes(q->snapshots);

    g_array_set_size(q->snapshot_ranges, 0);
    for (guint i = 0; i < q->snapshots->len; i++) {
        const Qcow2Snapshot *s = g_ptr_array_index(q->snapshots, i);

        add_range(q, s->l1, (uint64_t)s->l1_entries * 8);
    }
    add_range(q, table, bytes);
    for (guint i = 0; i < q->snapshot_ranges->len; i++) {
        const MetaRange *m = &g_array_index(q->snapshot_ranges, MetaRange, i);

        for (uint64_t c = m->start; c < m->end; c++) {
            overlap_add(q, (ClusterIndex){c});
        }
    }
}

/* The header again as it was, after a write that may have failed on its way.  True: it is. */
static bool coroutine_fn restore_header(Qcow2 *q, Request *r)
{
    return header_write_snapshots(q, r, q->header.nb_snapshots, q->header.snapshots_offset) == 0;
}

int coroutine_fn snapshots_write(Qcow2 *q, Request *r, GPtrArray *list, bool *ret_unknown)
{
    HostOffset table, old = q->header.snapshots_offset;
    uint64_t old_bytes = table_bytes(q->snapshots);
    int ret = write_table(q, r, list, &table);

    *ret_unknown = false;
    if (ret < 0) {
        return ret;
    }
    ret = write_back_locked(q, r); /* the table's refcounts; flushes */
    if (ret == 0) {
        ret = header_write_snapshots(q, r, list->len, table);
        *ret_unknown = ret < 0 && !restore_header(q, r);
    }
    if (ret < 0) {
        if (!*ret_unknown && table.v) {
            clusters_unalloc(q, r, cluster_of(table, q->cluster_bits),
                             div_up(table_bytes(list), q->cluster_size));
        }
        return ret;
    }
    pthread_mutex_lock(&q->lock);
    g_ptr_array_unref(q->snapshots);
    q->snapshots = list;
    set_ranges(q, table);
    if (old_bytes > 0) {
        drop_clusters(q, cluster_of(old, q->cluster_bits), div_up(old_bytes, q->cluster_size),
                      DROP_OTHER);
        meta_changed(q);
    }
    pthread_mutex_unlock(&q->lock);
    return 0;
}

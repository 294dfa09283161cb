/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Opening and closing, and the driver's table.
 *
 * Opening reads the header, the L1 table and the refcount table; everything in them is checked before it is used.  Refcount blocks and
 * L2 tables are read when they are needed.
 */
#include "qapi-types.h"
#include "qcow2.h"
#include "util/log.h"
#include <errno.h>
#include <stdlib.h>

#define DEFAULT_L2_CACHE       (UINT64_C(32) << 20)
#define DEFAULT_REFCOUNT_CACHE (UINT64_C(4) << 20)

static bool size_option(bool has, int64_t value, uint64_t fallback, const char *name, uint64_t *ret,
                        Error **errp)
{
    if (has && value < 0) {
        error_set(errp, ERROR_INVALID, name, "open", "Parameter '%s' expects a non-negative value",
                  name);
        return false;
    }
    *ret = has && value > 0 ? (uint64_t)value : fallback;
    return true;
}

bool qcow2_options(Node *n, const BlockdevOptions *options, Qcow2Options *ret, Error **errp)
{
    const BlockdevOptionsQcow2 *o = &options->u.qcow2;
    uint64_t all;

    *ret = (Qcow2Options){
        .lazy_refcounts = o->has_lazy_refcounts && o->lazy_refcounts,
        .discard_request = o->has_pass_discard_request ? o->pass_discard_request : n->discard_unmap,
        .discard_other = o->has_pass_discard_other && o->pass_discard_other,
        .discard_no_unref = o->has_discard_no_unref && o->discard_no_unref,
    };
    if (!size_option(o->has_cache_size, o->cache_size, DEFAULT_L2_CACHE + DEFAULT_REFCOUNT_CACHE,
                     "cache-size", &all, errp)) {
        return false;
    }
    return size_option(o->has_l2_cache_size, o->l2_cache_size,
                       o->has_cache_size ? all - all / 8 : DEFAULT_L2_CACHE, "l2-cache-size",
                       &ret->l2_cache_size, errp) &&
           size_option(o->has_refcount_cache_size, o->refcount_cache_size,
                       o->has_cache_size ? all / 8 : DEFAULT_REFCOUNT_CACHE, "refcount-cache-size",
                       &ret->refcount_cache_size, errp);
}

/* ---- pieces of open ---- */

static bool coroutine_fn read_header(Qcow2 *q, Request *r, Error **errp)
{
    uint64_t size = edge_size(q->node->file, r);
    g_autofree uint8_t *buf = NULL;
    uint8_t start[QCOW2_OUR_HEADER] = {0};
    size_t cluster, len;
    int ret = edge_pread(q->node->file, r, guest(0), start, MIN(size, sizeof(start)), 0);

    if (ret == 0) {
        cluster = header_cluster_size(start, MIN(size, sizeof(start)));
        len = cluster ? MIN(cluster, size) : MIN(size, sizeof(start));
        buf = g_malloc0(MAX(len, sizeof(start)));
        ret = edge_pread(q->node->file, r, guest(0), buf, len, 0);
        if (ret == 0) {
            return header_parse(&q->header, buf, len, errp) &&
                   header_check_supported(&q->header, !atomic_load(&q->node->read_only), errp);
        }
    }
    error_set_errno(errp, -ret, q->node->name, "open", "Could not read qcow2 header");
    return false;
}

static bool setup(Qcow2 *q, Error **errp)
{
    const Qcow2Header *h = &q->header;
    Node *n = q->node;

    q->version = h->version;
    q->cluster_bits = h->cluster_bits;
    q->cluster_size = UINT64_C(1) << h->cluster_bits;
    q->refcount_order = h->version < 3 ? 4 : h->refcount_order;
    q->l2_bits = h->cluster_bits - 3;
    q->compression = h->compression;
    q->table_align = MAX(SECTOR, n->file->target->limits.request_alignment);
    q->l2_limit = MAX(q->opt.l2_cache_size >> h->cluster_bits, 4);
    q->refblock_limit = MAX(q->opt.refcount_cache_size >> h->cluster_bits, 4);
    q->opened_dirty = h->incompatible & INCOMPAT_DIRTY;
    q->uses = aligned_alloc(64, LOOP_SLOTS * sizeof(UseCount));
    if (!q->uses) {
        error_set_errno(errp, ENOMEM, n->name, "open", "Could not allocate memory");
        return false;
    }
    memset(q->uses, 0, LOOP_SLOTS * sizeof(UseCount));
    return true;
}

static bool coroutine_fn read_l1(Qcow2 *q, Request *r, Error **errp)
{
    const Qcow2Header *h = &q->header;
    uint64_t need = div_up(h->size, UINT64_C(1) << (q->cluster_bits + q->l2_bits));
    uint32_t bytes = h->l1_size * 8, room = MAX((bytes + SECTOR - 1) & ~(SECTOR - 1), SECTOR);
    uint64_t file = edge_size(q->node->file, r);
    L1 *l1;
    int ret = 0;

    if (need > h->l1_size) {
        error_set(errp, ERROR_CORRUPT, q->node->name, "open", "L1 table is too small");
        return false;
    }
    l1 = g_malloc0(sizeof(L1) + need * sizeof(l1->l2[0]));
    l1->entries = h->l1_size;
    l1->covered = need;
    if (!table_init(&l1->t, h->l1_offset, room)) {
        ret = -ENOMEM;
    } else if (bytes) {
        ret = h->l1_offset.v + bytes <= file
                  ? edge_pread(q->node->file, r, host_to_child(h->l1_offset), l1->t.data, bytes, 0)
                  : -EIO;
    }
    l1->t.kind = TABLE_L1;
    atomic_store(&q->l1, l1);
    if (ret < 0) {
        error_set_errno(errp, -ret, q->node->name, "open", "Could not read L1 table");
        return false;
    }
    return true;
}

/* Internal snapshots: their tables must not be written over.  Their clusters are safe by their refcounts. */
static bool coroutine_fn read_snapshots(Qcow2 *q, Request *r, Error **errp)
{
    const Qcow2Header *h = &q->header;
    uint64_t at = h->snapshots_offset.v;

    for (uint32_t i = 0; i < h->nb_snapshots; i++) {
        uint8_t fixed[40];
        uint64_t l1_at, l1_bytes, next;
        MetaRange m;
        int ret = edge_pread(q->node->file, r, guest(at), fixed, sizeof(fixed), 0);

        if (ret < 0) {
            error_set_errno(errp, -ret, q->node->name, "open", "Could not read snapshots");
            return false;
        }
        l1_at = get_be64(fixed);
        l1_bytes = (uint64_t)get_be32(fixed + 8) * 8;
        next = at + 40 + get_be32(fixed + 36) + (fixed[12] << 8 | fixed[13]) +
               (fixed[14] << 8 | fixed[15]);
        next = (next + 7) & ~UINT64_C(7);
        if (in_cluster(q, l1_at) || l1_bytes > QCOW2_MAX_L1_BYTES ||
            l1_at >= QCOW2_MAX_HOST_OFFSET || next - h->snapshots_offset.v > QCOW2_MAX_SNAP_BYTES) {
            error_set(errp, ERROR_CORRUPT, q->node->name, "open", "Snapshot table is invalid");
            return false;
        }
        m = (MetaRange){l1_at >> q->cluster_bits,
                        (l1_at + l1_bytes + q->cluster_size - 1) >> q->cluster_bits};
        g_array_append_val(q->snapshot_ranges, m);
        at = next;
    }
    if (h->nb_snapshots) {
        MetaRange m = {h->snapshots_offset.v >> q->cluster_bits,
                       (at + q->cluster_size - 1) >> q->cluster_bits};

        g_array_append_val(q->snapshot_ranges, m);
    }
    return true;
}

/* What a writable image needs beyond. */
static bool coroutine_fn open_writable(Qcow2 *q, Request *r, Error **errp)
{
    uint64_t unknown = q->header.autoclear;
    int ret;

    if (!reft_open(q, r, errp) || !overlap_open(q, errp)) {
        return false;
    }
    q->tail = div_up(edge_size(q->node->file, r), q->cluster_size);
    q->max_tail = q->tail;
    if (unknown) {
        /* Nobody here keeps what these bits promise. */
        ret = header_write_bits(q, r, q->header.incompatible, 0);
        if (ret < 0) {
            error_set_errno(errp, -ret, q->node->name, "open", "Could not write the image header");
            return false;
        }
    }
    return true;
}

static void free_state(Qcow2 *q)
{
    L1 *l1 = atomic_load(&q->l1);

    if (l1) {
        l2_free_all(q);
        table_clear(&l1->t);
        g_free(l1);
    }
    if (q->blocks) {
        refcount_free_all(q);
    } else {
        table_clear(&q->reft);
    }
    overlap_close(q);
    header_clear(&q->header);
    free(q->uses);
    g_ptr_array_free(q->dirty_tables, true);
    g_array_free(q->drops, true);
    g_array_free(q->durable, true);
    g_array_free(q->waiting, true);
    g_array_free(q->snapshot_ranges, true);
    co_mutex_destroy(&q->flush_lock);
    co_mutex_destroy(&q->alloc_lock);
    co_mutex_destroy(&q->header_lock);
    co_range_lock_destroy(&q->ranges);
    pthread_mutex_destroy(&q->lock);
    *(Qcow2 **)q->node->state = NULL;
    g_free(q);
}

static Qcow2 *new_state(Node *n)
{
    Qcow2 *q = g_new0(Qcow2, 1);

    q->node = n;
    header_init(&q->header);
    q->dirty_tables = g_ptr_array_new();
    q->drops = g_array_new(false, false, sizeof(Drop));
    q->durable = g_array_new(false, false, sizeof(Drop));
    q->waiting = g_array_new(false, false, sizeof(Drop));
    q->snapshot_ranges = g_array_new(false, false, sizeof(MetaRange));
    co_mutex_init(&q->flush_lock);
    co_mutex_init(&q->alloc_lock);
    co_mutex_init(&q->header_lock);
    co_range_lock_init(&q->ranges);
    co_queue_init(&q->keeper_waiters);
    pthread_mutex_init(&q->lock, NULL);
    *(Qcow2 **)n->state = q;
    return q;
}

static bool coroutine_fn load(Qcow2 *q, Error **errp)
{
    bool ok;
    Request r;

    request_begin(&r, atomic_load(&q->node->read_only) ? REQUEST_READ : REQUEST_WRITE);
    ok = read_header(q, &r, errp) && setup(q, errp) && read_l1(q, &r, errp) &&
         read_snapshots(q, &r, errp) &&
         (atomic_load(&q->node->read_only) || open_writable(q, &r, errp));
    request_end(&r);
    return ok;
}

static bool coroutine_fn qcow2_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    const BlockdevOptionsQcow2 *o = &options->u.qcow2;
    Qcow2 *q = new_state(n);

    if (!qcow2_options(n, options, &q->opt, errp) ||
        !node_open_child(n, o->file, "file", EDGE_STORAGE, errp)) {
        free_state(q);
        return false;
    }
    if (n->auto_read_only && atomic_load(&n->file->target->read_only)) {
        atomic_store(&n->read_only, true);
    }
    if (!load(q, errp)) {
        free_state(q);
        return false;
    }
    atomic_store(&n->size, q->header.size);
    n->limits.write_zeroes_alignment = n->limits.discard_alignment = q->cluster_size;
    if (!node_open_backing(n, o->backing, q->header.backing_file, q->header.backing_format, errp)) {
        free_state(q);
        return false;
    }
    return true;
}

/* Everything into the file, for as long as it can be written. */
static void coroutine_fn finish_writing(Qcow2 *q)
{
    Request r;
    int ret;

    keeper_stop(q);
    if (atomic_load(&q->corrupt)) {
        return;
    }
    request_begin(&r, REQUEST_WRITE);
    ret = qcow2_write_everything(q, &r);
    if (ret == 0) {
        co_mutex_lock(&q->alloc_lock);
        file_trim(q, &r);
        co_mutex_unlock(&q->alloc_lock);
    }
    request_end(&r);
    if (ret < 0) {
        log_warn("%s: could not write all tables back: %s",
                 q->node->filename ? q->node->filename : q->node->name, g_strerror(-ret));
    }
}

static void coroutine_fn qcow2_close(Node *n)
{
    Qcow2 *q = qcow2_of(n);

    if (!atomic_load(&n->read_only)) {
        finish_writing(q);
    } else {
        keeper_stop(q);
    }
    free_state(q);
}

static void coroutine_fn qcow2_ro_commit(Node *n)
{
    finish_writing(qcow2_of(n));
}

const BlockDriver driver_qcow2 = {
    .name = "qcow2",
    .supports_backing = true,
    .state_size = sizeof(Qcow2 *),
    .open = qcow2_open,
    .close = qcow2_close,
    .child_perm = format_child_perm,
    .ro_commit = qcow2_ro_commit,
    .facts = qcow2_facts,
    .set_backing_string = qcow2_set_backing_string,
    .create = qcow2_create,
    .probe = header_probe,
    .preadv = qcow2_preadv,
    .pwritev = qcow2_pwritev,
    .pwrite_zeroes = qcow2_pwrite_zeroes,
    .pdiscard = qcow2_pdiscard,
    .flush = qcow2_flush,
    .block_status = qcow2_block_status,
};

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The qcow2 driver: opening and closing.
 *
 * Opening reads the header, L1, where snapshots have their tables and, if the image may be written, the refcount table; everything
 * else is read when it is needed.  It changes nothing in the file but auto-clear bits of features nobody here knows, and
 * these only in a writable image.
 */
#include "bitmap.h"
#include "block/bitmaps.h"
#include "block/internal-snapshot.h"
#include "qapi-types.h"
#include "util/log.h"
#include <errno.h>
#include <stdlib.h>

#define FIRST_READ 65536u

static void clean_cache(void *opaque)
{
    Qcow2 *q = opaque;

    l2_clean(q);
    timer_arm(&q->clean_timer, clock_ns() + q->opt.clean_interval * INT64_C(1000000000));
}

Qcow2 *qcow2_state_new(Node *n)
{
    Qcow2 *q = g_new0(Qcow2, 1);

    q->node = n;
    q->uses = aligned_alloc(64, LOOP_SLOTS * sizeof(UseCount));
    g_assert(q->uses);
    memset(q->uses, 0, LOOP_SLOTS * sizeof(UseCount));
    header_init(&q->header);
    co_mutex_init(&q->flush_lock);
    co_mutex_init(&q->resize_lock);
    co_mutex_init(&q->alloc_lock);
    co_mutex_init(&q->pack_lock);
    co_mutex_init(&q->header_lock);
    co_mutex_init(&q->bitmap_lock);
    co_range_lock_init(&q->ranges);
    pthread_mutex_init(&q->lock, NULL);
    co_queue_init(&q->keeper_waiters);
    q->dirty_tables = g_ptr_array_new();
    q->drops = g_array_new(false, false, sizeof(Drop));
    q->durable = g_array_new(false, false, sizeof(Drop));
    q->waiting = g_array_new(false, false, sizeof(Drop));
    q->snapshot_ranges = g_array_new(false, false, sizeof(MetaRange));
    q->bitmap_ranges = g_array_new(false, false, sizeof(MetaRange));
    q->stored = stored_bitmaps_new();
    q->loaded = g_ptr_array_new();
    q->snapshots = g_ptr_array_new();
    return q;
}

void qcow2_state_free(Qcow2 *q)
{
    L1 *l1 = l1_of(q);

    if (l1) {
        l2_free_all(q);
        l1_free(l1);
    }
    refcount_free_all(q);
    overlap_close(q);
    for (guint i = 0; i < q->loaded->len; i++) {
        user_bitmap_free(g_ptr_array_index(q->loaded, i));
    }
    g_ptr_array_free(q->loaded, true);
    g_ptr_array_unref(q->stored);
    g_array_free(q->bitmap_ranges, true);
    g_array_free(q->snapshot_ranges, true);
    for (guint i = 0; i < q->snapshots->len; i++) {
        snapshot_free(g_ptr_array_index(q->snapshots, i));
    }
    g_ptr_array_free(q->snapshots, true);
    g_array_free(q->waiting, true);
    g_array_free(q->durable, true);
    g_array_free(q->drops, true);
    g_ptr_array_free(q->dirty_tables, true);
    pthread_mutex_destroy(&q->lock);
    co_range_lock_destroy(&q->ranges);
    co_mutex_destroy(&q->bitmap_lock);
    co_mutex_destroy(&q->header_lock);
    co_mutex_destroy(&q->alloc_lock);
    co_mutex_destroy(&q->pack_lock);
    co_mutex_destroy(&q->resize_lock);
    co_mutex_destroy(&q->flush_lock);
    header_clear(&q->header);
    free(q->uses);
    g_free(q);
}

int coroutine_fn qcow2_read_start(Qcow2 *q, Request *r, HostOffset at, void *buf, size_t len)
{
    const NewImage *image = q->node->new_image;

    if (image) {
        new_image_read(image, at.v, buf, len);
        return 0;
    }
    return edge_pread(q->file, r, host_to_child(at), buf, len, 0);
}

/* The first cluster, or what the file has of it. */
static bool coroutine_fn read_header(Qcow2 *q, Request *r, Error **errp)
{
    uint64_t size = edge_size(q->file, r);
    size_t len = MIN(size, FIRST_READ), cluster;
    uint8_t *buf = block_try_alloc(len);
    bool ok;
    int ret = buf ? qcow2_read_start(q, r, host(0), buf, len) : -ENOMEM;

    cluster = ret == 0 ? header_cluster_size(buf, len) : 0;
    if (cluster > len && size > len) {
        free(buf);
        len = MIN(size, cluster);
        buf = block_try_alloc(len);
        ret = buf ? qcow2_read_start(q, r, host(0), buf, len) : -ENOMEM;
    } else if (cluster) {
        len = MIN(len, cluster);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, q->node->name, "open", "Could not read qcow2 header");
        ok = false;
    } else {
        ok = header_parse(&q->header, buf, len, errp);
    }
    free(buf);
    return ok;
}

static bool coroutine_fn read_l1(Qcow2 *q, Request *r, Error **errp)
{
    uint64_t covers = UINT64_C(1) << (q->cluster_bits + q->l2_bits);
    L1 *l1 = l1_new(q->header.l1_offset, q->header.l1_size, div_up(q->header.size, covers));
    int ret = 0;

    if (!l1) {
        error_set_errno(errp, ENOMEM, q->node->name, "open", "Could not read L1 table");
        return false;
    }
    atomic_store(&q->l1, l1);
    if (l1->entries > 0) {
        ret = qcow2_read_start(q, r, l1->t.offset, l1->t.data, (size_t)l1->entries * 8);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, q->node->name, "open", "Could not read L1 table");
    }
    return ret == 0;
}

static void take_header(Qcow2 *q)
{
    const Qcow2Header *h = &q->header;

    q->version = h->version;
    q->cluster_bits = h->cluster_bits;
    q->cluster_size = UINT64_C(1) << h->cluster_bits;
    q->refcount_order = h->refcount_order;
    q->extended = h->incompatible & INCOMPAT_EXTENDED_L2;
    q->l2_bits = h->cluster_bits - (q->extended ? 4 : 3);
    q->subcluster_size = q->extended ? q->cluster_size / SUBCLUSTERS : q->cluster_size;
    q->compression = h->compression;
    q->disk_size = h->size;
    q->opened_dirty = h->incompatible & INCOMPAT_DIRTY;
    atomic_store(&q->corrupt, (h->incompatible & INCOMPAT_CORRUPT) != 0);
}

void qcow2_set_limits(Node *n, const Qcow2 *q)
{
    n->limits.request_alignment = 1;
    n->limits.memory_alignment = 1;
    n->limits.write_zeroes_alignment = q->subcluster_size;
    n->limits.discard_alignment = q->cluster_size;
}

bool coroutine_fn qcow2_open_writable(Qcow2 *q, Request *r, Error **errp)
{
    if (!reft_open(q, r, errp) || !overlap_open(q, errp)) {
        return false;
    }
    q->tail = div_up(edge_size(q->file, r), q->cluster_size);
    q->max_tail = 0;
    return true;
}

bool coroutine_fn qcow2_clear_autoclear(Qcow2 *q, Request *r, Error **errp)
{
    uint64_t keep =
        (q->stored->len > 0 ? AUTOCLEAR_BITMAPS : 0) | (q->raw_data ? AUTOCLEAR_RAW_DATA : 0);
    int ret = q->header.autoclear & ~keep
                  ? header_write_bits(q, r, q->header.incompatible, q->header.autoclear & keep)
                  : 0;

    if (ret < 0) {
        error_set_errno(errp, -ret, q->node->name, "open", "Could not update qcow2 header");
    }
    return ret == 0;
}

bool coroutine_fn qcow2_load(Qcow2 *q, Request *r, const BlockdevOptions *options, bool writable,
                             Error **errp)
{
    if (!read_header(q, r, errp) || !header_check_supported(&q->header, writable, errp)) {
        return false;
    }
    take_header(q);
    qcow2_set_cache_limits(q);
    q->table_align = MAX(SECTOR, q->file->target->limits.request_alignment);
    if (!qcow2_check_entry_size(q, options, errp) || !read_l1(q, r, errp) ||
        !snapshots_open(q, r, errp) || !bitmaps_load(q, r, errp)) {
        return false;
    }
    return !writable || qcow2_open_writable(q, r, errp);
}

void qcow2_clean_regularly(Qcow2 *q)
{
    timer_init(&q->clean_timer, clean_cache, q);
    if (q->opt.clean_interval) {
        timer_arm(&q->clean_timer, clock_ns() + q->opt.clean_interval * INT64_C(1000000000));
    }
}

static bool coroutine_fn qcow2_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    Qcow2 *q = qcow2_state_new(n);
    bool writable;
    Request r;
    bool ok;

    *(Qcow2 **)n->state = q;
    if (!qcow2_options(n, options, n->discard_unmap, &q->opt, errp) ||
        !node_open_child(n, options->u.qcow2.file, "file", EDGE_STORAGE, errp)) {
        qcow2_state_free(q);
        return false;
    }
    q->file = q->data = n->file;
    if (n->auto_read_only && atomic_load(&n->file->target->read_only)) {
        atomic_store(&n->read_only, true);
    }
    writable = !atomic_load(&n->read_only);
    request_begin(&r, REQUEST_WRITE);
    ok = qcow2_load(q, &r, options, writable, errp) && data_file_open(q, options, errp) &&
         (!writable || qcow2_clear_autoclear(q, &r, errp));
    if (ok && writable && n->new_image) {
        qcow2_new_image_opened(q);
        qcow2_warm_up(n, &r);
    }
    request_end(&r);
    if (ok) {
        atomic_store(&n->size, q->header.size);
        qcow2_set_limits(n, q);
        ok = node_open_backing(n, options->u.qcow2.backing, q->header.backing_file,
                               q->header.backing_format, errp);
    }
    if (ok && writable) {
        /* Last: an image that could not be opened after all has its bitmaps as before. */
        request_begin(&r, REQUEST_WRITE);
        ok = bitmaps_mark_in_use(q, &r, errp);
        request_end(&r);
    }
    if (!ok) {
        qcow2_state_free(q);
        return false;
    }
    if (!atomic_load(&n->inactive)) {
        bitmaps_adopt(q);
    }
    qcow2_clean_regularly(q);
    return true;
}

/* Gives up writing: all that is in memory gets into the file. */
static void coroutine_fn finish_writing(Qcow2 *q)
{
    g_autoptr(Error) err = NULL;
    Request r;
    int ret;

    keeper_stop(q);
    request_begin(&r, REQUEST_WRITE);
    if (!bitmaps_store(q, &r, &err)) {
        log_error("%s: %s; they are lost", q->node->filename ? q->node->filename : q->node->name,
                  err->message);
    }
    ret = qcow2_write_everything(q, &r);
    request_end(&r);
    if (ret < 0) {
        log_error("%s: writing metadata back failed: %s",
                  q->node->filename ? q->node->filename : q->node->name, g_strerror(-ret));
    }
}

static void coroutine_fn qcow2_close(Node *n)
{
    Qcow2 *q = qcow2_of(n);

    timer_cancel(&q->clean_timer);
    if (!atomic_load(&n->read_only)) {
        finish_writing(q);
    } else {
        keeper_stop(q);
    }
    qcow2_state_free(q);
}

static void coroutine_fn qcow2_ro_commit(Node *n)
{
    finish_writing(qcow2_of(n));
}

static bool coroutine_fn qcow2_rw_begin(Node *n, Error **errp)
{
    Qcow2 *q = qcow2_of(n);
    Request r;
    bool ok = true;

    if (!header_check_supported(&q->header, true, errp)) {
        return false;
    }
    request_begin(&r, REQUEST_WRITE);
    if (!q->blocks) {
        ok = qcow2_open_writable(q, &r, errp) && qcow2_clear_autoclear(q, &r, errp);
        if (!ok) {
            refcount_free_all(q);
            overlap_close(q);
        }
    }
    ok = ok && bitmaps_mark_in_use(q, &r, errp);
    request_end(&r);
    if (!ok) {
        return false;
    }
    alloc_restart(q);
    pthread_mutex_lock(&q->lock);
    q->closing = false;
    pthread_mutex_unlock(&q->lock);
    return true;
}

const BlockDriver driver_qcow2 = {
    .name = "qcow2",
    .supports_backing = true,
    .state_size = sizeof(Qcow2 *),
    .open = qcow2_open,
    .close = qcow2_close,
    .reopen_options = qcow2_reopen_options,
    .reopen_prepare = qcow2_reopen_prepare,
    .reopen_quiesce = qcow2_reopen_quiesce,
    .reopen_load = qcow2_reopen_load,
    .reopen_switch = qcow2_reopen_switch,
    .reopen_end = qcow2_reopen_end,
    .child_perm = format_child_perm,
    .ro_commit = qcow2_ro_commit,
    .rw_begin = qcow2_rw_begin,
    .writers_gone = qcow2_writers_gone,
    .facts = qcow2_facts,
    .snapshots = &qcow2_snapshot_ops,
    .set_backing_string = qcow2_set_backing_string,
    .bitmap_can_store = qcow2_bitmap_can_store,
    .bitmap_removed = qcow2_bitmap_removed,
    .create = qcow2_create,
    .lay_out = qcow2_lay_out,
    .probe = header_probe,
    .preadv = qcow2_preadv,
    .pwritev = qcow2_pwritev,
    .compresses = true,
    .pwrite_zeroes = qcow2_pwrite_zeroes,
    .pdiscard = qcow2_pdiscard,
    .copy_up = qcow2_copy_up,
    .is_contended = data_file_is_contended,
    .flush = qcow2_flush,
    .unsaved = qcow2_unsaved,
    .come_to_rest = qcow2_come_to_rest,
    .make_empty = qcow2_make_empty,
    .empty_max = qcow2_empty_max,
    .truncate = qcow2_truncate,
    .block_status = qcow2_block_status,
};

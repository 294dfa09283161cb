/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Internal snapshots: into the file, and out of it again.
 *
 *   store   L1 table of the snapshot and a new snapshot table | all else that memory has (write-back) | header     (| is a flush)
 *   remove  a snapshot table without it | header | references are given back, and what the disk has for itself again gets its COPIED flag
 *
 * Whatever a snapshot in the file refers to has a reference of its own in the file; a crash in between leaves clusters with a reference too many,
 * and flags that are missing, which is no more than a leak.
 *
 * A flag comes back under the range lock of its cluster: who is about to copy the cluster must not miss a write in place.
 */
#include "block/internal-snapshot.h"
#include "qapi-types.h"
#include "qcow2.h"
#include "util/log.h"
#include <errno.h>
#include <stdlib.h>

#define CHUNK 128u /* entries at a time under a range lock */

struct InternalSnapshot {
    Qcow2 *q;
    Draft *draft;
    Qcow2Snapshot *s;      /* q->snapshots has it once it is stored */
    ClusterIndex l1_first; /* where its L1 table will be */
    uint64_t l1_clusters;
    bool flipped, stored;
    bool unknown; /* whether it is in the file: nothing is given back */
};

/* ---- giving back what a snapshot had ---- */

/* Contiguous clusters that are given back together. */
typedef struct Run {
    ClusterIndex first;
    uint64_t count;
} Run;

static int coroutine_fn release_run(Qcow2 *q, Request *r, Run *run)
{
    int ret = run->count > 0
                  ? refcount_release(q, r, run->first, run->count, q->opt.discard_snapshot)
                  : 0;

    run->count = 0;
    return ret;
}

/* What the L2 table in the file at `at` refers to, and the table.  buf: a cluster. */
static int coroutine_fn release_table(Qcow2 *q, Request *r, HostOffset at, uint64_t *buf)
{
    Run run = {.count = 0};
    IoVector v;
    int ret;

    if (in_cluster(q, at.v)) {
        return qcow2_corrupt(
            q, r, "L2 table offset 0x%" G_GINT64_MODIFIER "x of a snapshot is not aligned", at.v);
    }
    iov_init_buf(&v, buf, q->cluster_size);
    ret = host_preadv(q, r, at, &v, 0);
    for (uint64_t i = 0; ret == 0 && i < UINT64_C(1) << q->l2_bits; i++) {
        ClusterIndex first = {0};
        uint64_t count = entry_clusters(q, be64toh(buf[i]), &first);

        if (count > 0 && run.count > 0 && run.first.v + run.count == first.v) {
            run.count += count;
        } else if (count > 0) {
            ret = release_run(q, r, &run);
            run = (Run){.first = first, .count = count};
        }
    }
    if (ret == 0) {
        ret = release_run(q, r, &run);
    }
    return ret < 0 ? ret
                   : refcount_release(q, r, cluster_of(at, q->cluster_bits), 1,
                                      q->opt.discard_snapshot);
}

/* Everything that an L1 table (as in the file) refers to.  All of it is in the file. */
static int coroutine_fn release_all(Qcow2 *q, Request *r, const uint64_t *l1, uint32_t entries)
{
    uint64_t *buf = block_try_alloc(q->cluster_size);
    int ret = buf ? 0 : -ENOMEM;

    for (uint32_t i = 0; i < entries && ret == 0; i++) {
        HostOffset at = host(be64toh(l1[i]) & ENTRY_OFFSET_MASK);

        if (at.v) {
            ret = release_table(q, r, at, buf);
        }
    }
    free(buf);
    return ret;
}

/* ---- what the disk has for itself again ---- */

static bool lacks_flag(const Qcow2 *q, uint64_t entry)
{
    Mapping m;

    return entry_decode(q, entry, &m) && (m.type == MAP_DATA || m.type == MAP_ZERO_ALLOC) &&
           !m.copied;
}

/* Under lock; *at: the first of [*at, stop) that may get a flag. */
static bool find_lacking(Qcow2 *q, const L2Table *l2, uint64_t *at, uint64_t stop)
{
    while (*at < stop && !lacks_flag(q, table_entry(&l2->t, *at))) {
        (*at)++;
    }
    return *at < stop;
}

/* With alloc_lock, under lock.  1: a block is missing. */
static int flag_entry(Qcow2 *q, L2Table *l2, uint64_t i, uint64_t *ret_missing)
{
    uint64_t entry = table_entry(&l2->t, i), least;
    ClusterIndex first;
    int ret;

    if (!lacks_flag(q, entry) || entry_clusters(q, entry, &first) != 1) {
        return 0;
    }
    ret = refcount_change(q, first, 1, 0, &least, ret_missing);
    if (ret == 0 && least == 1) {
        table_set_entry(q, &l2->t, i, entry | ENTRY_COPIED);
    }
    return ret;
}

/* The range of the entries is locked. */
static int coroutine_fn flag_chunk(Qcow2 *q, Request *r, uint64_t index, uint64_t at, uint64_t stop)
{
    RefPins pins;
    int ret = 0;

    co_mutex_lock(&q->alloc_lock);
    refcount_pins_init(&pins);
    pthread_mutex_lock(&q->lock);
    while (at < stop && ret == 0) {
        L2Table *l2 = l2_writable(q, index);
        uint64_t missing = 0;

        if (!l2) {
            break; /* somebody needs the memory: it stays without flags, that is no harm */
        }
        ret = flag_entry(q, l2, at, &missing);
        if (ret == -EAGAIN) {
            pthread_mutex_unlock(&q->lock);
            ret = refcount_pin(q, r, &pins, missing);
            pthread_mutex_lock(&q->lock);
        } else {
            at++;
        }
    }
    meta_changed(q);
    pthread_mutex_unlock(&q->lock);
    refcount_unpin(&pins);
    co_mutex_unlock(&q->alloc_lock);
    return ret;
}

static int coroutine_fn flag_table(Qcow2 *q, Request *r, uint64_t index)
{
    uint64_t per_table = UINT64_C(1) << q->l2_bits, at = 0;
    int ret = 0;

    while (at < per_table && ret == 0) {
        uint64_t stop = MIN((at / CHUNK + 1) * CHUNK, per_table), guest = index * per_table;
        bool any = false;
        L2Table *l2;
        CoRange range;

        ret = l2_load(q, r, index, 0);
        pthread_mutex_lock(&q->lock);
        l2 = l2_resident(q, index);
        if (l2) {
            any = find_lacking(q, l2, &at, stop);
        }
        pthread_mutex_unlock(&q->lock);
        if (ret == 0 && any) {
            co_range_lock(&q->ranges, &range, (guest + at) << q->cluster_bits,
                          (stop - at) << q->cluster_bits, false);
            ret = flag_chunk(q, r, index, at, stop);
            co_range_unlock(&q->ranges, &range);
        }
        at = l2 ? stop : at;
    }
    return ret;
}

static int coroutine_fn take_back(Qcow2 *q, Request *r)
{
    uint32_t entries = l1_of(q)->covered;
    int ret = 0;

    for (uint32_t i = 0; i < entries && ret == 0; i++) {
        bool there, own = false;

        pthread_mutex_lock(&q->lock);
        there = table_entry(&l1_of(q)->t, i) & ENTRY_OFFSET_MASK;
        pthread_mutex_unlock(&q->lock);
        if (!there) {
            continue;
        }
        ret = l2_throttle(q, r);
        if (ret == 0) {
            ret = l2_adopt(q, r, i, &own);
        }
        if (ret == 0 && own) {
            ret = flag_table(q, r, i);
        }
    }
    return ret;
}

/* A snapshot that the file does not have, with its L1 table. */
static void coroutine_fn give_back(Qcow2 *q, Request *r, const uint64_t *l1, uint32_t entries,
                                   HostOffset at)
{
    int ret = qcow2_write_back(q, r); /* a table may be in memory only */

    if (ret == 0) {
        ret = release_all(q, r, l1, entries);
    }
    if (ret == 0 && entries > 0 && at.v) {
        ret = refcount_release(q, r, cluster_of(at, q->cluster_bits),
                               div_up((uint64_t)entries * 8, q->cluster_size),
                               q->opt.discard_snapshot);
    }
    if (ret == 0) {
        ret = take_back(q, r);
    }
    if (ret == 0) {
        ret = qcow2_write_back(q, r);
    }
    if (ret < 0) {
        log_warn("%s: clusters of a snapshot that is gone could not be freed, they are leaked: %s",
                 q->node->name, g_strerror(-ret));
    }
}

/* ---- a new one ---- */

static char *next_id(const Qcow2 *q)
{
    uint64_t max = 0;

    for (guint i = 0; i < q->snapshots->len; i++) {
        const Qcow2Snapshot *s = g_ptr_array_index(q->snapshots, i);

        max = MAX(max, g_ascii_strtoull(s->id, NULL, 10));
    }
    return g_strdup_printf("%" G_GUINT64_FORMAT, max + 1);
}

static int coroutine_fn alloc_l1(InternalSnapshot *n, Request *r)
{
    Qcow2 *q = n->q;
    uint64_t bytes = (uint64_t)n->s->l1_entries * 8;
    int ret;

    n->l1_clusters = div_up(bytes, q->cluster_size);
    if (n->l1_clusters == 0) {
        return 0;
    }
    ret = clusters_alloc_exact(q, r, n->l1_clusters, &n->l1_first);
    if (ret < 0) {
        n->l1_clusters = 0;
        return ret;
    }
    n->s->l1 = cluster_start(n->l1_first, q->cluster_bits);
    pthread_mutex_lock(&q->lock);
    for (uint64_t i = 0; i < n->l1_clusters; i++) {
        overlap_add(q, (ClusterIndex){n->l1_first.v + i});
    }
    pthread_mutex_unlock(&q->lock);
    return 0;
}

static void free_new(InternalSnapshot *n)
{
    if (!n->stored) {
        snapshot_free(n->s);
    }
    draft_free(n->draft);
    g_free(n);
}

static void coroutine_fn undo(InternalSnapshot *n, Request *r)
{
    if (!n->flipped) {
        draft_cancel(n->draft, r);
        if (n->l1_clusters > 0) {
            clusters_unalloc(n->q, r, n->l1_first, n->l1_clusters);
        }
    } else if (n->unknown) {
        log_warn("%s: snapshot '%s' may be in the image; what it refers to stays", n->q->node->name,
                 n->s->name);
    } else {
        give_back(n->q, r, draft_l1(n->draft), n->s->l1_entries, n->s->l1);
    }
}

static int coroutine_fn snapshot_begin(Node *node, const char *name, InternalSnapshot **ret)
{
    Qcow2 *q = qcow2_of(node);
    InternalSnapshot *n;
    Request r;
    int err;

    if (atomic_load(&q->corrupt)) {
        return -EIO;
    }
    if (q->external) {
        return -ENOTSUP; /* there is one place only for each guest cluster */
    }
    if (q->snapshots->len >= QCOW2_MAX_SNAPSHOTS) {
        return -EFBIG;
    }
    if (q->draft) {
        return -EBUSY;
    }
    n = g_new0(InternalSnapshot, 1);
    n->q = q;
    n->draft = draft_new(q);
    n->s = g_new0(Qcow2Snapshot, 1);
    n->s->id = next_id(q);
    n->s->name = g_strdup(name);
    n->s->icount = UINT64_MAX;
    n->s->l1_entries = draft_l1_entries(n->draft);
    request_begin(&r, REQUEST_WRITE);
    err = alloc_l1(n, &r);
    if (err == 0) {
        err = draft_count(n->draft, &r);
    }
    if (err < 0) {
        undo(n, &r);
        free_new(n);
    } else {
        *ret = n;
    }
    request_end(&r);
    return err;
}

static int coroutine_fn snapshot_catch_up(InternalSnapshot *n, int64_t deadline_ns)
{
    Request r;
    int ret;

    request_begin(&r, REQUEST_WRITE);
    ret = draft_catch_up(n->draft, &r, deadline_ns);
    request_end(&r);
    return ret;
}

/* The clock of a machine that has run since we began. */
static int64_t started;

__attribute__((constructor)) static void note_start(void)
{
    started = clock_ns();
}

static void snapshot_flip(InternalSnapshot *n)
{
    int64_t now = g_get_real_time();

    draft_flip(n->draft);
    n->flipped = true;
    n->s->disk_size = atomic_load(&n->q->node->size);
    n->s->date_sec = now / 1000000;
    n->s->date_nsec = now % 1000000 * 1000;
    n->s->vm_clock_ns = clock_ns() - started;
}

static int coroutine_fn write_l1(InternalSnapshot *n, Request *r)
{
    uint64_t len = n->l1_clusters << n->q->cluster_bits;
    uint8_t *buf = len ? block_try_alloc(len) : NULL;
    int ret;

    if (!len) {
        return 0;
    }
    if (!buf) {
        return -ENOMEM;
    }
    memset(buf, 0, len);
    memcpy(buf, draft_l1(n->draft), (size_t)n->s->l1_entries * 8);
    ret = edge_pwrite(n->q->file, r, host_to_child(n->s->l1), buf, len, 0);
    free(buf);
    return ret;
}

static GPtrArray *list_without(const Qcow2 *q, const Qcow2Snapshot *s)
{
    GPtrArray *list = g_ptr_array_new();

    for (guint i = 0; i < q->snapshots->len; i++) {
        if (g_ptr_array_index(q->snapshots, i) != s) {
            g_ptr_array_add(list, g_ptr_array_index(q->snapshots, i));
        }
    }
    return list;
}

static int coroutine_fn write_list(Qcow2 *q, Request *r, GPtrArray *list, bool *ret_unknown)
{
    int ret;

    co_mutex_lock(&q->flush_lock);
    ret = snapshots_write(q, r, list, ret_unknown);
    co_mutex_unlock(&q->flush_lock);
    if (ret < 0) {
        g_ptr_array_unref(list);
    }
    return ret;
}

static int coroutine_fn snapshot_store(InternalSnapshot *n)
{
    GPtrArray *list;
    Request r;
    int ret;

    snapshot_build(n->s);
    request_begin(&r, REQUEST_WRITE);
    ret = write_l1(n, &r);
    if (ret == 0) {
        list = list_without(n->q, NULL);
        g_ptr_array_add(list, n->s);
        ret = write_list(n->q, &r, list, &n->unknown);
        n->stored = ret == 0;
    }
    request_end(&r);
    return ret;
}

static const char *snapshot_id(const InternalSnapshot *n)
{
    return n->s->id;
}

static void coroutine_fn snapshot_end(InternalSnapshot *n, bool keep)
{
    Request r;

    if (!keep) {
        request_begin(&r, REQUEST_WRITE);
        if (n->stored) {
            bool unknown;

            n->stored = write_list(n->q, &r, list_without(n->q, n->s), &unknown) < 0;
            n->unknown = n->stored;
        }
        undo(n, &r);
        request_end(&r);
    }
    free_new(n);
}

/* ---- those that are there ---- */

static SnapshotInfo *info_of(const Qcow2Snapshot *s)
{
    SnapshotInfo *i = g_new0(SnapshotInfo, 1);

    i->id = g_strdup(s->id);
    i->name = g_strdup(s->name);
    i->vm_state_size = s->vm_state_size;
    i->date_sec = s->date_sec;
    i->date_nsec = s->date_nsec;
    i->vm_clock_sec = s->vm_clock_ns / 1000000000;
    i->vm_clock_nsec = s->vm_clock_ns % 1000000000;
    i->has_icount = s->icount != UINT64_MAX;
    i->icount = i->has_icount ? s->icount : 0;
    return i;
}

static SnapshotInfoList *snapshot_list(const Node *n)
{
    const Qcow2 *q = qcow2_of(n);
    SnapshotInfoList *list = NULL;

    for (guint i = q->snapshots->len; i-- > 0;) {
        SnapshotInfoList *l = g_new0(SnapshotInfoList, 1);

        l->value = info_of(g_ptr_array_index(q->snapshots, i));
        l->next = list;
        list = l;
    }
    return list;
}

static Qcow2Snapshot *find(const Qcow2 *q, const char *id, const char *name)
{
    for (guint i = 0; i < q->snapshots->len; i++) {
        Qcow2Snapshot *s = g_ptr_array_index(q->snapshots, i);

        if ((!id || strcmp(s->id, id) == 0) && (!name || strcmp(s->name, name) == 0)) {
            return s;
        }
    }
    return NULL;
}

static int coroutine_fn remove_it(Qcow2 *q, Request *r, Qcow2Snapshot *s)
{
    size_t len = (size_t)s->l1_entries * 8;
    uint64_t *l1 = block_try_alloc(MAX(len, 8));
    bool unknown;
    int ret = l1 ? 0 : -ENOMEM;

    if (ret == 0 && len > 0) {
        ret = edge_pread(q->file, r, host_to_child(s->l1), l1, len, 0);
    }
    if (ret == 0) {
        ret = write_list(q, r, list_without(q, s), &unknown);
    }
    if (ret == 0) {
        give_back(q, r, l1, s->l1_entries, s->l1);
        snapshot_free(s);
    }
    free(l1);
    return ret;
}

static int coroutine_fn snapshot_remove(Node *n, const char *id, const char *name,
                                        SnapshotInfo **ret)
{
    Qcow2 *q = qcow2_of(n);
    Qcow2Snapshot *s = find(q, id, name);
    g_autoptr(SnapshotInfo) info = NULL;
    Request r;
    int err;

    if (!s) {
        return -ENOENT;
    }
    if (atomic_load(&q->corrupt)) {
        return -EIO;
    }
    info = info_of(s);
    request_begin(&r, REQUEST_WRITE);
    err = remove_it(q, &r, s);
    request_end(&r);
    if (err == 0) {
        *ret = g_steal_pointer(&info);
    }
    return err;
}

const InternalSnapshotOps qcow2_snapshot_ops = {
    .list = snapshot_list,
    .begin = snapshot_begin,
    .catch_up = snapshot_catch_up,
    .flip = snapshot_flip,
    .store = snapshot_store,
    .id = snapshot_id,
    .end = snapshot_end,
    .remove = snapshot_remove,
};

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
    GPtrArray *made; /* Qcow2Snapshot *, of one state; q->snapshots has them once they are stored */
    guint counted;   /* how many of them have references: the first has the draft's */
    bool flipped, stored;
    bool unknown; /* whether they are in the file: nothing is given back */
};

static uint64_t l1_clusters(const Qcow2 *q, const Qcow2Snapshot *s)
{
    return s->l1.v ? div_up((uint64_t)s->l1_entries * 8, q->cluster_size) : 0;
}

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
        uint64_t count = entry_clusters(q, be64toh(buf[i * entry_words(q)]), &first);

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
    while (*at < stop && !lacks_flag(q, l2_entry(q, &l2->t, *at).v)) {
        (*at)++;
    }
    return *at < stop;
}

/* With alloc_lock, under lock.  1: a block is missing. */
static int flag_entry(Qcow2 *q, L2Table *l2, uint64_t i, uint64_t *ret_missing)
{
    uint64_t entry = l2_entry(q, &l2->t, i).v, least;
    ClusterIndex first;
    int ret;

    if (!lacks_flag(q, entry) || entry_clusters(q, entry, &first) != 1) {
        return 0;
    }
    ret = refcount_change(q, first, 1, 0, &least, ret_missing);
    if (ret == 0 && least == 1) {
        table_set_entry(q, &l2->t, i * entry_words(q), entry | ENTRY_COPIED);
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

/* Snapshots that the file does not have, with their L1 tables; `counted` of them have references.  l1: what is in all of these tables. */
static void coroutine_fn give_back(Qcow2 *q, Request *r, Qcow2Snapshot *const *gone, guint n,
                                   guint counted, const uint64_t *l1)
{
    int ret = qcow2_write_back(q, r); /* a table may be in memory only */

    for (guint i = 0; i < n && ret == 0; i++) {
        if (i < counted) {
            ret = release_all(q, r, l1, gone[i]->l1_entries);
        }
        if (ret == 0 && l1_clusters(q, gone[i]) > 0) {
            ret = refcount_release(q, r, cluster_of(gone[i]->l1, q->cluster_bits),
                                   l1_clusters(q, gone[i]), q->opt.discard_snapshot);
        }
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

/* ---- references of its own for another snapshot of the same state ---- */

static int coroutine_fn add_refs(Qcow2 *q, Request *r, ClusterIndex first, uint64_t count)
{
    uint64_t least, missing;
    RefPins pins;
    int ret;

    co_mutex_lock(&q->alloc_lock);
    refcount_pins_init(&pins);
    do {
        pthread_mutex_lock(&q->lock);
        ret = refcount_change(q, first, count, 1, &least, &missing);
        meta_changed(q);
        pthread_mutex_unlock(&q->lock);
        if (ret == -EAGAIN) {
            ret = refcount_pin(q, r, &pins, missing);
            ret = ret < 0 ? ret : -EAGAIN;
        }
    } while (ret == -EAGAIN);
    refcount_unpin(&pins);
    co_mutex_unlock(&q->alloc_lock);
    return ret;
}

/* The L2 table in the file at `at`, and what it refers to. */
static int coroutine_fn add_table(Qcow2 *q, Request *r, HostOffset at, uint64_t *buf)
{
    IoVector v;
    int ret;

    iov_init_buf(&v, buf, q->cluster_size);
    ret = host_preadv(q, r, at, &v, 0);
    for (uint64_t i = 0; ret == 0 && i < UINT64_C(1) << q->l2_bits; i++) {
        ClusterIndex first = {0};
        uint64_t count = entry_clusters(q, be64toh(buf[i * entry_words(q)]), &first);

        if (count > 0) {
            ret = add_refs(q, r, first, count);
        }
    }
    return ret < 0 ? ret : add_refs(q, r, cluster_of(at, q->cluster_bits), 1);
}

/* What fails in the middle leaves leaked references. */
static int coroutine_fn count_others(InternalSnapshot *n, Request *r)
{
    Qcow2 *q = n->q;
    const uint64_t *l1 = draft_l1(n->draft);
    uint64_t *buf;
    int ret = 0;

    if (n->counted == n->made->len) {
        return 0;
    }
    buf = block_try_alloc(q->cluster_size);
    ret = buf ? qcow2_write_back(q, r) : -ENOMEM;
    while (ret == 0 && n->counted < n->made->len) {
        for (uint32_t i = 0; i < draft_l1_entries(n->draft) && ret == 0; i++) {
            HostOffset at = host(be64toh(l1[i]) & ENTRY_OFFSET_MASK);

            if (at.v) {
                ret = add_table(q, r, at, buf);
            }
        }
        n->counted += ret == 0;
    }
    free(buf);
    return ret;
}

/* ---- new ones ---- */

static uint64_t highest_id(const Qcow2 *q)
{
    uint64_t max = 0;

    for (guint i = 0; i < q->snapshots->len; i++) {
        const Qcow2Snapshot *s = g_ptr_array_index(q->snapshots, i);

        max = MAX(max, g_ascii_strtoull(s->id, NULL, 10));
    }
    return max;
}

static int coroutine_fn alloc_l1(Qcow2 *q, Request *r, Qcow2Snapshot *s)
{
    uint64_t count = div_up((uint64_t)s->l1_entries * 8, q->cluster_size);
    ClusterIndex first;
    int ret;

    if (count == 0) {
        return 0;
    }
    ret = clusters_alloc_exact(q, r, count, &first);
    if (ret < 0) {
        return ret;
    }
    s->l1 = cluster_start(first, q->cluster_bits);
    pthread_mutex_lock(&q->lock);
    for (uint64_t i = 0; i < count; i++) {
        overlap_add(q, (ClusterIndex){first.v + i});
    }
    pthread_mutex_unlock(&q->lock);
    return 0;
}

static void free_new(InternalSnapshot *n)
{
    for (guint i = 0; i < n->made->len && !n->stored; i++) {
        snapshot_free(g_ptr_array_index(n->made, i));
    }
    g_ptr_array_free(n->made, true);
    draft_free(n->draft);
    g_free(n);
}

static void coroutine_fn undo(InternalSnapshot *n, Request *r)
{
    if (n->flipped && n->unknown) {
        log_warn("%s: a new snapshot may be in the image; what it refers to stays",
                 n->q->node->name);
        return;
    }
    if (n->flipped) {
        give_back(n->q, r, (Qcow2Snapshot *const *)n->made->pdata, n->made->len, n->counted,
                  draft_l1(n->draft));
        return;
    }
    draft_cancel(n->draft, r);
    for (guint i = 0; i < n->made->len; i++) {
        const Qcow2Snapshot *s = g_ptr_array_index(n->made, i);

        if (l1_clusters(n->q, s) > 0) {
            clusters_unalloc(n->q, r, cluster_of(s->l1, n->q->cluster_bits), l1_clusters(n->q, s));
        }
    }
}

static InternalSnapshot *snapshot_new(Qcow2 *q, const GPtrArray *names)
{
    InternalSnapshot *n = g_new0(InternalSnapshot, 1);
    uint64_t id = highest_id(q);

    n->q = q;
    n->draft = draft_new(q);
    n->made = g_ptr_array_new();
    n->counted = 1;
    for (guint i = 0; i < names->len; i++) {
        Qcow2Snapshot *s = g_new0(Qcow2Snapshot, 1);

        s->id = g_strdup_printf("%" G_GUINT64_FORMAT, ++id);
        s->name = g_strdup(g_ptr_array_index(names, i));
        s->icount = UINT64_MAX;
        s->l1_entries = draft_l1_entries(n->draft);
        g_ptr_array_add(n->made, s);
    }
    return n;
}

static int coroutine_fn snapshot_begin(Node *node, const GPtrArray *names, InternalSnapshot **ret)
{
    Qcow2 *q = qcow2_of(node);
    InternalSnapshot *n;
    Request r;
    int err = 0;

    if (atomic_load(&q->corrupt)) {
        return -EIO;
    }
    if (q->snapshots->len + names->len > QCOW2_MAX_SNAPSHOTS) {
        return -EFBIG;
    }
    if (q->draft) {
        return -EBUSY;
    }
    n = snapshot_new(q, names);
    request_begin(&r, REQUEST_WRITE);
    for (guint i = 0; i < n->made->len && err == 0; i++) {
        err = alloc_l1(q, &r, g_ptr_array_index(n->made, i));
    }
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
    for (guint i = 0; i < n->made->len; i++) {
        Qcow2Snapshot *s = g_ptr_array_index(n->made, i);

        s->disk_size = atomic_load(&n->q->node->size);
        s->date_sec = now / 1000000;
        s->date_nsec = now % 1000000 * 1000;
        s->vm_clock_ns = clock_ns() - started;
    }
}

static int coroutine_fn write_l1(InternalSnapshot *n, Request *r, const Qcow2Snapshot *s)
{
    uint64_t len = l1_clusters(n->q, s) << n->q->cluster_bits;
    uint8_t *buf = len ? block_try_alloc(len) : NULL;
    int ret;

    if (!len) {
        return 0;
    }
    if (!buf) {
        return -ENOMEM;
    }
    memset(buf, 0, len);
    memcpy(buf, draft_l1(n->draft), (size_t)s->l1_entries * 8);
    ret = edge_pwrite(n->q->file, r, host_to_child(s->l1), buf, len, 0);
    free(buf);
    return ret;
}

/* The image's without `gone` (NULL: all of them). */
static GPtrArray *list_without(const Qcow2 *q, GPtrArray *gone)
{
    GPtrArray *list = g_ptr_array_new();

    for (guint i = 0; i < q->snapshots->len; i++) {
        Qcow2Snapshot *s = g_ptr_array_index(q->snapshots, i);

        if (!gone || !g_ptr_array_find(gone, s, NULL)) {
            g_ptr_array_add(list, s);
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

static int coroutine_fn store(InternalSnapshot *n, Request *r)
{
    GPtrArray *list;
    int ret = count_others(n, r);

    for (guint i = 0; i < n->made->len && ret == 0; i++) {
        snapshot_build(g_ptr_array_index(n->made, i));
        ret = write_l1(n, r, g_ptr_array_index(n->made, i));
    }
    if (ret < 0) {
        return ret;
    }
    list = list_without(n->q, NULL);
    for (guint i = 0; i < n->made->len; i++) {
        g_ptr_array_add(list, g_ptr_array_index(n->made, i));
    }
    ret = write_list(n->q, r, list, &n->unknown);
    n->stored = ret == 0;
    return ret;
}

static int coroutine_fn snapshot_store(InternalSnapshot *n)
{
    Request r;
    int ret;

    request_begin(&r, REQUEST_WRITE);
    ret = store(n, &r);
    request_end(&r);
    return ret;
}

static void coroutine_fn snapshot_end(InternalSnapshot *n, bool keep)
{
    Request r;

    if (!keep) {
        request_begin(&r, REQUEST_WRITE);
        if (n->stored) {
            bool unknown;

            n->stored = write_list(n->q, &r, list_without(n->q, n->made), &unknown) < 0;
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

/* In an external data file there is one place only for each guest cluster. */
static int snapshot_check(const Node *n)
{
    return qcow2_of(n)->external ? -ENOTSUP : 0;
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
    g_autoptr(GPtrArray) gone = g_ptr_array_new();
    size_t len = (size_t)s->l1_entries * 8;
    uint64_t *l1 = block_try_alloc(MAX(len, 8));
    bool unknown;
    int ret = l1 ? 0 : -ENOMEM;

    if (ret == 0 && len > 0) {
        ret = edge_pread(q->file, r, host_to_child(s->l1), l1, len, 0);
    }
    if (ret == 0) {
        g_ptr_array_add(gone, s);
        ret = write_list(q, r, list_without(q, gone), &unknown);
    }
    if (ret == 0) {
        give_back(q, r, &s, 1, 1, l1);
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
    .check = snapshot_check,
    .list = snapshot_list,
    .begin = snapshot_begin,
    .catch_up = snapshot_catch_up,
    .flip = snapshot_flip,
    .store = snapshot_store,
    .end = snapshot_end,
    .remove = snapshot_remove,
};

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The L2 tables in memory.
 *
 * A table gets resident when it is first needed and stays until memory is short.  Readers find it through L1.l2[] in a read section;
 * so a table that is given up is unlinked first, waits in limbo for a grace period, and is freed by whoever finds limbo full.
 *
 * Given up are clean tables only (not dirty, not being written), the one not used for longest by the second-chance rule.
 * Dirty ones leave when the housekeeping has written them; l2_throttle() keeps their number within bounds.  A dirty table that only a
 * snapshot refers to any more is an orphan until it has been written.
 *
 * Nothing yields between the moment when a table gets resident and the return to who asked for it: so it is still there then, however
 * short memory is, and everybody gets on.
 *
 * A slot is held by whoever loads, makes or copies the table of one L1 entry; others wait and look again.
 */
#include "block/debug.h"
#include "qcow2.h"
#include <errno.h>
#include <stdlib.h>

typedef struct TableSlot {
    uint64_t index;
    CoQueue waiters;
    struct TableSlot *next;
} TableSlot;

static L2Table *l2_of(const L1 *l1, uint64_t index)
{
    return atomic_load_explicit(&((L1 *)l1)->l2[index], memory_order_acquire);
}

/* ---- slots: under lock ---- */

/* False: somebody else had it; look again. */
static bool coroutine_fn slot_enter(Qcow2 *q, TableSlot *slot, uint64_t index)
{
    for (TableSlot *s = q->slots; s; s = s->next) {
        if (s->index == index) {
            co_queue_wait(&s->waiters, &q->lock);
            return false;
        }
    }
    slot->index = index;
    co_queue_init(&slot->waiters);
    slot->next = q->slots;
    q->slots = slot;
    return true;
}

static void slot_leave(Qcow2 *q, TableSlot *slot)
{
    TableSlot **p = &q->slots;

    while (*p != slot) {
        p = &(*p)->next;
    }
    *p = slot->next;
    co_queue_wake_all(&slot->waiters);
}

/* ---- residents: under lock ---- */

static L2Table *l2_new(Qcow2 *q, uint64_t index, HostOffset offset)
{
    L2Table *l2 = g_new0(L2Table, 1);

    if (!table_init(&l2->t, TABLE_L2, offset, q->cluster_size)) {
        g_free(l2);
        return NULL;
    }
    l2->index = index;
    return l2;
}

static void l2_free(L2Table *l2)
{
    table_clear(&l2->t);
    g_free(l2);
}

static void link_table(Qcow2 *q, L2Table *l2)
{
    if (!q->resident) {
        l2->prev = l2->next = q->resident = l2;
    } else {
        /* Behind the hand: looked at last. */
        l2->next = q->resident;
        l2->prev = q->resident->prev;
        l2->prev->next = l2->next->prev = l2;
    }
    q->nresident++;
    atomic_store_explicit(&l2->recent, true, memory_order_relaxed);
    atomic_store_explicit(&l1_of(q)->l2[l2->index], l2, memory_order_release);
}

static void to_limbo(Qcow2 *q, L2Table *l2)
{
    l2->next = q->limbo;
    q->limbo = l2;
    q->nlimbo++;
}

/* Into limbo, or to the orphans. */
static void unlink_table(Qcow2 *q, L2Table *l2)
{
    atomic_store_explicit(&l1_of(q)->l2[l2->index], NULL, memory_order_release);
    if (l2->next == l2) {
        q->resident = NULL;
    } else {
        l2->prev->next = l2->next;
        l2->next->prev = l2->prev;
        if (q->resident == l2) {
            q->resident = l2->next;
        }
    }
    q->nresident--;
    l2->prev = NULL;
    if (table_is_dirty(&l2->t)) {
        l2->next = q->orphans;
        q->orphans = l2;
    } else {
        to_limbo(q, l2);
    }
}

static void bury_orphans(Qcow2 *q)
{
    L2Table **p = &q->orphans, *l2;

    while ((l2 = *p)) {
        if (table_is_dirty(&l2->t)) {
            p = &l2->next;
        } else {
            *p = l2->next;
            to_limbo(q, l2);
        }
    }
}

static void make_room(Qcow2 *q)
{
    for (uint32_t steps = 2 * q->nresident; q->nresident > q->l2_limit && steps > 0; steps--) {
        L2Table *l2 = q->resident;

        q->resident = l2->next;
        if (table_is_dirty(&l2->t)) {
            continue;
        }
        if (atomic_load_explicit(&l2->recent, memory_order_relaxed)) {
            atomic_store_explicit(&l2->recent, false, memory_order_relaxed);
            continue;
        }
        unlink_table(q, l2);
    }
}

/* Not under lock. */
static void coroutine_fn empty_limbo(Qcow2 *q)
{
    L2Table *list = NULL;

    pthread_mutex_lock(&q->lock);
    if (G_UNLIKELY(q->orphans)) {
        bury_orphans(q);
    }
    if (q->nlimbo > MAX(q->l2_limit / 8, 4)) {
        list = q->limbo;
        q->limbo = NULL;
        q->nlimbo = 0;
    }
    pthread_mutex_unlock(&q->lock);
    if (list) {
        co_rcu_synchronize();
    }
    while (list) {
        L2Table *l2 = list;

        list = l2->next;
        l2_free(l2);
    }
}

void l2_clean(Qcow2 *q)
{
    L2Table *l2;

    pthread_mutex_lock(&q->lock);
    l2 = q->resident;
    for (uint32_t n = q->nresident; n > 0; n--) {
        L2Table *next = l2->next;

        if (atomic_load_explicit(&l2->recent, memory_order_relaxed)) {
            atomic_store_explicit(&l2->recent, false, memory_order_relaxed);
        } else if (!table_is_dirty(&l2->t)) {
            unlink_table(q, l2);
        }
        l2 = next;
    }
    pthread_mutex_unlock(&q->lock);
}

void l2_free_all(Qcow2 *q)
{
    while (q->resident) {
        unlink_table(q, q->resident);
    }
    /* What is still dirty could not be written. */
    while (q->orphans) {
        L2Table *l2 = q->orphans;

        q->orphans = l2->next;
        to_limbo(q, l2);
    }
    while (q->limbo) {
        L2Table *l2 = q->limbo;

        q->limbo = l2->next;
        l2_free(l2);
    }
    q->nlimbo = 0;
}

/* ---- loading ---- */

static int coroutine_fn read_table(Qcow2 *q, Request *r, L2Table *l2, unsigned flags)
{
    IoVector v;

    iov_init_buf(&v, l2->t.data, l2->t.size);
    edge_debug_event(q->file, r, flags, BLKDEBUG_EVENT_L2_LOAD);
    return host_preadv(q, r, l2->t.offset, &v, flags);
}

static int coroutine_fn check_l2_offset(Qcow2 *q, Request *r, uint64_t index, HostOffset at)
{
    if (in_cluster(q, at.v)) {
        return qcow2_corrupt(q, r,
                             "L2 table offset %#" G_GINT64_MODIFIER
                             "x unaligned (L1 index: %#" G_GINT64_MODIFIER "x)",
                             at.v, index);
    }
    if (overlap_fixed(q, cluster_of(at, q->cluster_bits))) {
        return qcow2_corrupt(q, r,
                             "L2 table offset 0x%" G_GINT64_MODIFIER
                             "x lies in other metadata (L1 index %" G_GUINT64_FORMAT ")",
                             at.v, index);
    }
    return 0;
}

/* A new table with what the file has at `at`.  The slot is held. */
static int coroutine_fn load_new(Qcow2 *q, Request *r, uint64_t index, HostOffset at,
                                 unsigned flags, L2Table **ret)
{
    L2Table *l2;
    int err = check_l2_offset(q, r, index, at);

    if (err < 0) {
        return err;
    }
    l2 = l2_new(q, index, at);
    if (!l2) {
        return -ENOMEM;
    }
    err = read_table(q, r, l2, flags);
    if (err < 0) {
        l2_free(l2);
        return err;
    }
    *ret = l2;
    return 0;
}

int coroutine_fn l2_load(Qcow2 *q, Request *r, uint64_t index, unsigned flags)
{
    L2Table *l2 = NULL;
    TableSlot slot;
    uint64_t entry;
    int ret;

    empty_limbo(q);
    pthread_mutex_lock(&q->lock);
    do {
        entry = table_entry(&l1_of(q)->t, index);
        if (l2_of(l1_of(q), index) || !(entry & ENTRY_OFFSET_MASK)) {
            pthread_mutex_unlock(&q->lock);
            return 0;
        }
    } while (!slot_enter(q, &slot, index));
    pthread_mutex_unlock(&q->lock);

    ret = load_new(q, r, index, host(entry & ENTRY_OFFSET_MASK), flags, &l2);

    pthread_mutex_lock(&q->lock);
    if (l2) {
        draft_table_loaded(q, l2);
        link_table(q, l2);
        make_room(q);
    }
    slot_leave(q, &slot);
    pthread_mutex_unlock(&q->lock);
    return ret;
}

/* ---- tables that may be changed ---- */

L2Table *l2_resident(Qcow2 *q, uint64_t index)
{
    return l2_of(l1_of(q), index);
}

L2Table *l2_writable(Qcow2 *q, uint64_t index)
{
    L1 *l1 = l1_of(q);

    return table_entry(&l1->t, index) & ENTRY_COPIED ? l2_of(l1, index) : NULL;
}

/* A copy of the table at `old`, whose L1 entry is `index`.  The slot is held. */
static int coroutine_fn copy_shared(Qcow2 *q, Request *r, uint64_t index, HostOffset old,
                                    L2Table **ret)
{
    L2Table *l2 = l2_new(q, index, old), *shared;

    if (!l2) {
        return -ENOMEM;
    }
    /* It may not be in the file yet.  What is not in memory is. */
    pthread_mutex_lock(&q->lock);
    shared = l2_of(l1_of(q), index);
    if (shared) {
        memcpy(l2->t.data, shared->t.data, l2->t.size);
    }
    pthread_mutex_unlock(&q->lock);
    if (shared) {
        *ret = l2;
        return 0;
    }
    l2_free(l2);
    return load_new(q, r, index, old, 0, ret);
}

/* A table of our own for an L1 entry that has none, or one that a snapshot shares.  The slot is held. */
static int coroutine_fn make_own(Qcow2 *q, Request *r, uint64_t index, uint64_t entry)
{
    HostOffset old = host(entry & ENTRY_OFFSET_MASK);
    L2Table *l2 = NULL, *shared;
    ClusterIndex c;
    uint64_t count;
    bool fresh;
    int ret;

    if (old.v) {
        ret = copy_shared(q, r, index, old, &l2);
    } else {
        l2 = l2_new(q, index, old);
        ret = l2 ? 0 : -ENOMEM;
    }
    if (ret < 0) {
        return ret;
    }
    edge_debug_event(q->file, r, 0, BLKDEBUG_EVENT_L2_ALLOC_WRITE);
    ret = clusters_alloc(q, r, 1, &c, &count, &fresh);
    if (ret < 0) {
        l2_free(l2);
        return ret;
    }
    l2->t.offset = cluster_start(c, q->cluster_bits);

    pthread_mutex_lock(&q->lock);
    shared = l2_of(l1_of(q), index);
    if (shared) {
        unlink_table(q, shared); /* what is shared is never changed */
    }
    if (old.v || !fresh) {
        table_mark_dirty(q, &l2->t, 0, l2->t.size);
    }
    overlap_add(q, c);
    link_table(q, l2);
    table_set_entry(q, &l1_of(q)->t, index, l2->t.offset.v | ENTRY_COPIED);
    if (old.v) {
        drop_clusters(q, cluster_of(old, q->cluster_bits), 1, DROP_OTHER);
    }
    draft_table_replaced(q, index, old);
    meta_changed(q);
    pthread_mutex_unlock(&q->lock);
    return 0;
}

int coroutine_fn l2_prepare(Qcow2 *q, Request *r, uint64_t index)
{
    empty_limbo(q);
    for (;;) {
        TableSlot slot;
        uint64_t entry;
        int ret;

        pthread_mutex_lock(&q->lock);
        entry = table_entry(&l1_of(q)->t, index);
        if (l2_writable(q, index)) {
            pthread_mutex_unlock(&q->lock);
            return 0;
        }
        if (entry & ENTRY_OFFSET_MASK && entry & ENTRY_COPIED) {
            pthread_mutex_unlock(&q->lock);
            ret = l2_load(q, r, index, 0);
            if (ret < 0) {
                return ret;
            }
            continue;
        }
        if (!slot_enter(q, &slot, index)) {
            pthread_mutex_unlock(&q->lock);
            continue;
        }
        pthread_mutex_unlock(&q->lock);

        ret = make_own(q, r, index, entry);

        pthread_mutex_lock(&q->lock);
        make_room(q);
        slot_leave(q, &slot);
        pthread_mutex_unlock(&q->lock);
        if (ret < 0) {
            return ret;
        }
    }
}

int coroutine_fn l2_adopt(Qcow2 *q, Request *r, uint64_t index, bool *ret_own)
{
    TableSlot slot;
    RefPins pins;
    int ret;

    pthread_mutex_lock(&q->lock);
    while (!slot_enter(q, &slot, index)) {
    }
    pthread_mutex_unlock(&q->lock);

    co_mutex_lock(&q->alloc_lock);
    refcount_pins_init(&pins);
    do {
        uint64_t entry, least = 0, missing = 0;

        pthread_mutex_lock(&q->lock);
        entry = table_entry(&l1_of(q)->t, index);
        *ret_own = entry & ENTRY_COPIED;
        ret = 0;
        if (entry & ENTRY_OFFSET_MASK && !*ret_own) {
            ret = refcount_change(q, cluster_of(host(entry & ENTRY_OFFSET_MASK), q->cluster_bits),
                                  1, 0, &least, &missing);
            if (ret == 0 && least == 1) {
                table_set_entry(q, &l1_of(q)->t, index, entry | ENTRY_COPIED);
                meta_changed(q);
                *ret_own = true;
            }
        }
        pthread_mutex_unlock(&q->lock);
        if (ret == -EAGAIN) {
            ret = refcount_pin(q, r, &pins, missing);
            ret = ret < 0 ? ret : -EAGAIN;
        }
    } while (ret == -EAGAIN);
    refcount_unpin(&pins);
    co_mutex_unlock(&q->alloc_lock);

    pthread_mutex_lock(&q->lock);
    slot_leave(q, &slot);
    pthread_mutex_unlock(&q->lock);
    return ret;
}

int coroutine_fn l2_throttle(Qcow2 *q, Request *r)
{
    uint32_t dirty = atomic_load_explicit(&q->ndirty, memory_order_relaxed);

    if (G_LIKELY(dirty <= MAX(q->l2_limit / 2, 8))) {
        return 0;
    }
    if (dirty > 2 * q->l2_limit + 16) {
        return qcow2_write_back(q, r);
    }
    keeper_kick(q, true);
    return 0;
}

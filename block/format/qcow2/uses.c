/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Uses and drops: when a host cluster that was given up may be given out again (Q4).
 *
 * A drop moves through three lists:
 *
 *   drops     memory no longer refers to the clusters; the file may.     -- write-back (flush.c) -->
 *   durable   the file does not either; uses may still be in progress.   -- grace_begin() -->
 *   waiting   every use that can know of them is in the phase that ended.   -- grace_over() --> refcount decremented
 *
 * Uses count themselves in the phase that they find.  A grace period first sees the other phase empty (who comes late to it, having
 * read the phase number long ago, sees the new mapping: the barriers pair with use_begin()), then makes it the current one, and is
 * over when the first is empty.  Nobody ever waits for that but the housekeeping.
 */
#include "qcow2.h"
#include "util/log.h"

void drop_clusters(Qcow2 *q, ClusterIndex first, uint64_t count, DropKind kind)
{
    Drop d = {.first = first, .count = count, .kind = kind};

    q->ndropped += count;
    if (q->drops->len > 0) {
        Drop *last = &g_array_index(q->drops, Drop, q->drops->len - 1);

        if (last->first.v + last->count == first.v && last->kind == kind) {
            last->count += count;
            return;
        }
    }
    g_array_append_val(q->drops, d);
}

uint64_t entry_clusters(const Qcow2 *q, uint64_t entry, ClusterIndex *ret_first)
{
    Mapping m;

    if (q->external || !entry_decode(q, entry, &m)) {
        return 0;
    }
    if (m.type == MAP_DATA || m.type == MAP_ZERO_ALLOC) {
        *ret_first = cluster_of(m.host, q->cluster_bits);
        return 1;
    }
    if (m.type == MAP_COMPRESSED) {
        HostOffset from = compressed_offset(entry, q->cluster_bits);
        HostOffset last = host_add(from, compressed_bytes(entry, q->cluster_bits) - 1);

        *ret_first = cluster_of(from, q->cluster_bits);
        return cluster_of(last, q->cluster_bits).v - ret_first->v + 1;
    }
    return 0;
}

void drop_entry(Qcow2 *q, uint64_t entry, DropKind kind)
{
    ClusterIndex first;
    uint64_t count = entry_clusters(q, entry, &first);

    if (count > 0) {
        drop_clusters(q, first, count, kind);
    }
}

static bool phase_empty(const Qcow2 *q, unsigned phase)
{
    for (unsigned i = 0; i < LOOP_SLOTS; i++) {
        if (atomic_load_explicit(&q->uses[i].n[phase], memory_order_acquire)) {
            return false;
        }
    }
    return true;
}

/* Under lock. */
static void swap_lists(GArray **a, GArray **b)
{
    GArray *t = *a;

    *a = *b;
    *b = t;
}

static void grace_begin(Qcow2 *q)
{
    unsigned phase = atomic_load_explicit(&q->use_phase, memory_order_relaxed);

    if (q->waiting->len > 0 || q->durable->len == 0) {
        return;
    }
    barrier_heavy();
    if (!phase_empty(q, phase ^ 1)) {
        return;
    }
    swap_lists(&q->waiting, &q->durable);
    atomic_store_explicit(&q->use_phase, phase ^ 1, memory_order_release);
}

/* The drops whose grace period is over; NULL: none. */
static GArray *grace_over(Qcow2 *q)
{
    GArray *over = q->waiting;

    if (over->len == 0) {
        return NULL;
    }
    barrier_heavy();
    if (!phase_empty(q, atomic_load_explicit(&q->use_phase, memory_order_relaxed) ^ 1)) {
        return NULL;
    }
    q->waiting = g_array_new(false, false, sizeof(Drop));
    return over;
}

static void coroutine_fn give_back(Qcow2 *q, Request *r, const Drop *d)
{
    bool discard = d->kind == DROP_REQUEST ? q->opt.discard_request : q->opt.discard_other;
    int ret = refcount_release(q, r, d->first, d->count, discard);

    if (ret < 0) {
        log_warn_limited("%s: could not free clusters, they are leaked: %s", q->node->name,
                         g_strerror(-ret));
    }
    pthread_mutex_lock(&q->lock);
    q->ndropped -= d->count;
    pthread_mutex_unlock(&q->lock);
}

bool coroutine_fn drops_reap(Qcow2 *q, Request *r)
{
    bool more;

    for (;;) {
        GArray *over;

        pthread_mutex_lock(&q->lock);
        grace_begin(q);
        over = grace_over(q);
        more = q->waiting->len > 0 || q->durable->len > 0;
        pthread_mutex_unlock(&q->lock);
        if (!over) {
            return more;
        }
        for (guint i = 0; i < over->len; i++) {
            give_back(q, r, &g_array_index(over, Drop, i));
        }
        g_array_free(over, true);
    }
}

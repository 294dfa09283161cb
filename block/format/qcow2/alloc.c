/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Giving out host clusters.
 *
 * Clusters come from the run: up to 16 MiB of free clusters within one refcount block.  Taking from it is a few instructions under
 * `lock`.  When it is used up, whoever notices refills it under alloc_lock:
 *
 *   - from a hole below the tail, if low_hint says that there may be one; each refill looks into one refcount block only, so
 *     that nobody waits for the whole table to be read;
 *   - else at the tail, where nothing is in use; the file is grown over the whole run at once, which makes the run fresh.
 *     What is left of it is cut off when nobody writes to the node any more.
 *
 * Storage that cannot grow (a device) is searched completely before the answer is ENOSPC.
 *
 * Refcounts change in memory when clusters are taken; the write-back makes them durable before anything refers to them (Q1).
 */
#include "qcow2.h"
#include "util/log.h"
#include <inttypes.h>

/* Where storage itself grows ahead of need. */
#define RUN_BYTES_AHEAD (UINT64_C(1) << 20)

static uint64_t run_limit(Qcow2 *q, Request *r)
{
    bool ahead = edge_enter(q->file, r)->driver->grows_ahead;

    return MAX((ahead ? RUN_BYTES_AHEAD : QCOW2_RUN_BYTES) >> q->cluster_bits, 1);
}

int coroutine_fn file_grow(Qcow2 *q, Request *r, uint64_t bytes)
{
    uint64_t size = edge_size(q->file, r);
    int ret;

    if (bytes <= size) {
        return 0;
    }
    if (bytes > QCOW2_MAX_HOST_OFFSET) {
        return -EFBIG;
    }
    ret = edge_truncate(q->file, r, bytes, false);
    if (ret == 0 && !q->grown) {
        q->grown = true;
        q->grown_from = size;
    }
    return ret == -ENOTSUP ? -ENOSPC : ret;
}

/* ---- the run ---- */

/* Under lock. */
static uint64_t take_from_run(Qcow2 *q, uint64_t want, ClusterIndex *ret_first, bool *ret_fresh)
{
    uint64_t n = MIN(want, q->run_end - q->run_next);

    if (n > 0) {
        refcount_take(q, q->run_block, q->run_next % block_entries(q), n);
        *ret_first = (ClusterIndex){q->run_next};
        *ret_fresh = q->run_fresh;
        q->run_next += n;
        q->max_tail = MAX(q->max_tail, q->run_next);
    }
    return n;
}

static void set_run(Qcow2 *q, RefBlock *b, uint64_t start, uint64_t end, bool fresh)
{
    pthread_mutex_lock(&q->lock);
    q->run_block = b;
    q->run_next = start;
    q->run_end = end;
    q->run_fresh = fresh;
    pthread_mutex_unlock(&q->lock);
}

/* With alloc_lock.  What is left of the run is free like any other cluster. */
static void put_run_back(Qcow2 *q)
{
    pthread_mutex_lock(&q->lock);
    if (q->run_next < q->run_end) {
        if (q->run_end == q->tail) {
            q->tail = q->run_next;
        } else {
            q->low_hint = MIN(q->low_hint, q->run_next);
        }
    }
    q->run_next = q->run_end = 0;
    q->run_block = NULL;
    pthread_mutex_unlock(&q->lock);
}

void coroutine_fn alloc_restart(Qcow2 *q)
{
    co_mutex_lock(&q->alloc_lock);
    put_run_back(q);
    pthread_mutex_lock(&q->lock);
    q->pack_next = host(0);
    pthread_mutex_unlock(&q->lock);
    q->grown = false;
    co_mutex_unlock(&q->alloc_lock);
}

void coroutine_fn file_trim(Qcow2 *q, Request *r)
{
    uint64_t end;
    int ret;

    co_mutex_lock(&q->alloc_lock);
    /* With the run gone, nobody gets a cluster before the lock is free again. */
    put_run_back(q);
    end = MAX(q->grown_from, q->max_tail << q->cluster_bits);
    if (q->grown && end < edge_size(q->file, r)) {
        ret = edge_truncate(q->file, r, end, true);
        if (ret < 0) {
            log_info("%s: could not cut the unused end off the image file: %s", q->node->name,
                     g_strerror(-ret));
        } else {
            q->tail = MIN(q->tail, div_up(end, q->cluster_size));
        }
    }
    co_mutex_unlock(&q->alloc_lock);
}

void coroutine_fn qcow2_writers_gone(Node *n, Request *r)
{
    Qcow2 *q = qcow2_of(n);

    if (!atomic_load(&q->corrupt)) {
        file_trim(q, r);
    }
}

/* The first free clusters of [from, end), all in block b; *ret_end == *ret_start: none. */
static void find_free(Qcow2 *q, Request *r, const RefBlock *b, uint64_t from, uint64_t end,
                      uint64_t *ret_start, uint64_t *ret_end)
{
    uint64_t per_block = block_entries(q), most = run_limit(q, r), limit;

    pthread_mutex_lock(&q->lock);
    while (from < end && refcount_get(b->t.data, q->refcount_order, from % per_block) != 0) {
        from++;
    }
    *ret_start = from;
    limit = MIN(end, from + most);
    while (from < limit && refcount_get(b->t.data, q->refcount_order, from % per_block) == 0) {
        from++;
    }
    *ret_end = from;
    pthread_mutex_unlock(&q->lock);
}

/* Looks for a hole in the block that low_hint is in; 0 with an empty run: there is none. */
static int coroutine_fn refill_low(Qcow2 *q, Request *r)
{
    uint64_t per_block = block_entries(q), index = q->low_hint / per_block, start, end;
    uint64_t limit = MIN(q->tail, (index + 1) * per_block);
    RefBlock *b;
    int ret;

    if (q->low_hint >= q->tail) {
        return 0;
    }
    ret = refblock_get(q, r, index, &b);
    if (ret < 0) {
        return ret;
    }
    if (!b) {
        /* Nothing in its whole range is in use; a file with such a hole in front of its tail is rare: left alone. */
        q->low_hint = limit;
        return refblock_check_range(q, r, index);
    }
    find_free(q, r, b, q->low_hint, limit, &start, &end);
    /* The file may end within its last cluster. */
    ret = start < end ? file_grow(q, r, end << q->cluster_bits) : 0;
    if (ret < 0) {
        return ret;
    }
    q->low_hint = end;
    if (start < end) {
        set_run(q, b, start, end, false);
    }
    return 0;
}

static int coroutine_fn refill_tail(Qcow2 *q, Request *r)
{
    uint64_t per_block = block_entries(q), start, end, size;
    RefBlock *b;
    int ret;

    for (;;) {
        uint64_t index = q->tail / per_block;

        if (index >= q->reft_entries) {
            ret = reft_grow(q, r, (ClusterIndex){q->tail});
            if (ret < 0) {
                return ret;
            }
            continue;
        }
        ret = refblock_get(q, r, index, &b);
        if (ret < 0) {
            return ret;
        }
        if (!b) {
            ret = file_grow(q, r, (q->tail + 1) << q->cluster_bits);
            if (ret == 0) {
                ret = refblock_create(q, r, index, (ClusterIndex){q->tail}, &b);
            }
            if (ret < 0) {
                return ret;
            }
            q->tail++;
            continue;
        }
        find_free(q, r, b, q->tail, (index + 1) * per_block, &start, &end);
        if (start < end) {
            break;
        }
        q->tail = end;
    }

    size = edge_size(q->file, r);
    ret = file_grow(q, r, end << q->cluster_bits);
    if (ret < 0 && end - start > 1) {
        end = start + 1;
        ret = file_grow(q, r, end << q->cluster_bits);
    }
    if (ret < 0) {
        return ret;
    }
    q->tail = end;
    set_run(q, b, start, end,
            q->tail_fresh || (start << q->cluster_bits >= size && edge_grows_zero(q->file, r)));
    return 0;
}

static bool run_empty(Qcow2 *q)
{
    bool empty;

    pthread_mutex_lock(&q->lock);
    empty = q->run_next == q->run_end;
    pthread_mutex_unlock(&q->lock);
    return empty;
}

/* With alloc_lock.  Success: the run was not empty for a moment. */
static int coroutine_fn refill(Qcow2 *q, Request *r)
{
    int ret, low;

    if (!run_empty(q)) {
        return 0;
    }
    ret = refill_low(q, r);
    if (ret < 0 || !run_empty(q)) {
        return ret;
    }
    ret = refill_tail(q, r);
    if (ret != -ENOSPC && ret != -EFBIG) {
        return ret;
    }
    while (q->low_hint < q->tail) {
        low = refill_low(q, r);
        if (low < 0 || !run_empty(q)) {
            return low;
        }
    }
    return ret;
}

int coroutine_fn clusters_alloc(Qcow2 *q, Request *r, uint64_t want, ClusterIndex *ret_first,
                                uint64_t *ret_count, bool *ret_fresh)
{
    uint64_t n;
    int ret;

    for (;;) {
        pthread_mutex_lock(&q->lock);
        n = take_from_run(q, want, ret_first, ret_fresh);
        pthread_mutex_unlock(&q->lock);
        if (n > 0) {
            break;
        }
        co_mutex_lock(&q->alloc_lock);
        ret = refill(q, r);
        co_mutex_unlock(&q->alloc_lock);
        if (ret < 0) {
            return ret;
        }
    }
    if (overlap_check(q, cluster_start(*ret_first, q->cluster_bits), n << q->cluster_bits)) {
        return qcow2_overlap(q, r, cluster_start(*ret_first, q->cluster_bits),
                             n << q->cluster_bits);
    }
    *ret_count = n;
    return 0;
}

/* What fails here fails again, and is told, when it is needed. */
void coroutine_fn qcow2_warm_up(Node *n, Request *r)
{
    Qcow2 *q = qcow2_of(n);
    unsigned phase = use_begin(q, r->slot);

    co_mutex_lock(&q->alloc_lock);
    (void)refill(q, r);
    co_mutex_unlock(&q->alloc_lock);
    use_end(q, r->slot, phase);
}

/* ---- many clusters in one piece ---- */

/* With alloc_lock.  Sees to it that the clusters from q->tail on have refcount blocks, and are free and in the file.  1: q->tail has
 * moved, again. */
static int coroutine_fn prepare_tail(Qcow2 *q, Request *r, uint64_t count)
{
    uint64_t per_block = block_entries(q), first = q->tail, end = first + count, c = first;

    while (c < end) {
        uint64_t index = c / per_block, stop = MIN(end, (index + 1) * per_block), start, free_end;
        RefBlock *b;
        int ret;

        if (index >= q->reft_entries) {
            /* What lies between stays behind as a hole. */
            q->tail = MAX(q->tail, q->reft_entries * per_block);
            ret = reft_grow(q, r, (ClusterIndex){q->tail});
            return ret < 0 ? ret : 1;
        }
        ret = refblock_get(q, r, index, &b);
        if (ret < 0) {
            return ret;
        }
        if (!b) {
            q->tail = c;
            ret = file_grow(q, r, (c + 1) << q->cluster_bits);
            if (ret == 0) {
                ret = refblock_create(q, r, index, (ClusterIndex){c}, &b);
            }
            q->tail += ret == 0;
            return ret < 0 ? ret : 1;
        }
        while (c < stop) {
            find_free(q, r, b, c, stop, &start, &free_end);
            if (start != c) {
                q->tail = start;
                return 1;
            }
            c = free_end;
        }
    }
    return file_grow(q, r, end << q->cluster_bits);
}

int coroutine_fn clusters_alloc_exact(Qcow2 *q, Request *r, uint64_t count, ClusterIndex *ret_first)
{
    uint64_t per_block = block_entries(q);
    int ret;

    co_mutex_lock(&q->alloc_lock);
    put_run_back(q);
    do {
        ret = prepare_tail(q, r, count);
        /* The blocks are in memory now, but looking at later ones may have pushed earlier ones out. */
        for (uint64_t c = q->tail; ret == 0 && c < q->tail + count;
             c += per_block - c % per_block) {
            RefBlock *b;

            ret = refblock_get(q, r, c / per_block, &b);
            if (ret == 0) {
                pthread_mutex_lock(&q->lock);
                refcount_take(q, b, c % per_block,
                              MIN(q->tail + count - c, per_block - c % per_block));
                pthread_mutex_unlock(&q->lock);
            }
        }
    } while (ret > 0);
    if (ret == 0) {
        *ret_first = (ClusterIndex){q->tail};
        q->tail += count;
        pthread_mutex_lock(&q->lock);
        q->max_tail = MAX(q->max_tail, q->tail);
        pthread_mutex_unlock(&q->lock);
    }
    co_mutex_unlock(&q->alloc_lock);
    return ret;
}

void coroutine_fn clusters_unalloc(Qcow2 *q, Request *r, ClusterIndex first, uint64_t count)
{
    int ret = refcount_release(q, r, first, count, false);

    if (ret < 0) {
        log_warn_limited("%s: could not give clusters back, they are leaked: %s", q->node->name,
                         g_strerror(-ret));
    }
}

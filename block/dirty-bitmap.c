/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Dirty bitmaps, and recording in them; see dirty-bitmap.h.
 *
 * The maps of a node are a list that is replaced as a whole; requests look at it in a read section (util/rcu.h).  A request that began
 * before recording did finds the list when it ends, since it looks again; one that had ended before left its data in the node
 * for whoever looks after node_record().
 */
#include "block/dirty-bitmap.h"
#include "record.h"
#include "util/rcu.h"
#include <stdlib.h>
#include <string.h>

struct DirtyBitmap {
    uint64_t size, bits;
    unsigned shift;
    _Atomic uint64_t set; /* how many bits are */
    _Atomic uint64_t *words;
};

struct Recorders {
    unsigned n;
    DirtyBitmap *maps[];
};

DirtyBitmap *dirty_bitmap_new(uint64_t size, uint32_t granularity)
{
    DirtyBitmap *b = g_new0(DirtyBitmap, 1);

    g_assert(granularity >= 512 && (granularity & (granularity - 1)) == 0);
    b->size = size;
    b->shift = __builtin_ctz(granularity);
    b->bits = (size >> b->shift) + ((size & (granularity - 1)) != 0);
    b->words = calloc(MAX((b->bits + 63) / 64, 1), sizeof(*b->words));
    if (!b->words) {
        g_free(b);
        return NULL;
    }
    return b;
}

void dirty_bitmap_free(DirtyBitmap *b)
{
    if (b) {
        free(b->words);
        g_free(b);
    }
}

uint32_t dirty_bitmap_granularity(const DirtyBitmap *b)
{
    return UINT32_C(1) << b->shift;
}

uint64_t dirty_bitmap_size(const DirtyBitmap *b)
{
    return b->size;
}

static void change(DirtyBitmap *b, uint64_t offset, uint64_t bytes, bool set)
{
    uint64_t bit, last;

    if (bytes == 0 || offset >= b->size) {
        return;
    }
    bit = offset >> b->shift;
    last = (offset + MIN(bytes, b->size - offset) - 1) >> b->shift;
    while (bit <= last) {
        uint64_t in_word = bit % 64, n = MIN(64 - in_word, last - bit + 1), before;
        uint64_t mask = (n == 64 ? UINT64_MAX : ((UINT64_C(1) << n) - 1)) << in_word;
        _Atomic uint64_t *w = &b->words[bit / 64];

        if (set) {
            /* Most writes hit what is marked already; sequentially consistent either way, or D1 would not hold. */
            if ((atomic_load(w) & mask) != mask) {
                before = atomic_fetch_or(w, mask);
                atomic_fetch_add(&b->set, __builtin_popcountll(mask & ~before));
            }
        } else {
            before = atomic_fetch_and(w, ~mask);
            atomic_fetch_sub(&b->set, __builtin_popcountll(mask & before));
        }
        bit += n;
    }
}

void dirty_bitmap_set(DirtyBitmap *b, uint64_t offset, uint64_t bytes)
{
    change(b, offset, bytes, true);
}

void dirty_bitmap_clear(DirtyBitmap *b, uint64_t offset, uint64_t bytes)
{
    change(b, offset, bytes, false);
}

uint64_t dirty_bitmap_count(const DirtyBitmap *b)
{
    /* A bit is cleared before it was counted as set, for a moment. */
    int64_t n = (int64_t)atomic_load(&((DirtyBitmap *)b)->set);

    return n < 0 ? 0 : (uint64_t)n << b->shift;
}

/* The first bit from `bit` on that is (not) set; b->bits: none. */
static uint64_t find(const DirtyBitmap *b, uint64_t bit, bool set)
{
    while (bit < b->bits) {
        uint64_t w = atomic_load(&((DirtyBitmap *)b)->words[bit / 64]);

        w = (set ? w : ~w) >> (bit % 64);
        if (w) {
            return MIN(bit + __builtin_ctzll(w), b->bits);
        }
        bit = (bit / 64 + 1) * 64;
    }
    return b->bits;
}

bool dirty_bitmap_next(const DirtyBitmap *b, uint64_t from, uint64_t max, uint64_t *ret_offset,
                       uint64_t *ret_bytes)
{
    uint64_t first = find(b, from >> b->shift, true), end;

    if (first >= b->bits) {
        return false;
    }
    end = MIN(find(b, first + 1, false), first + MAX(max >> b->shift, 1));
    *ret_offset = first << b->shift;
    *ret_bytes = MIN((end - first) << b->shift, b->size - *ret_offset);
    return true;
}

/* ---- marks as bytes ---- */

uint64_t dirty_bitmap_bytes(const DirtyBitmap *b)
{
    return (b->bits + 7) / 8;
}

void dirty_bitmap_get_bytes(const DirtyBitmap *b, uint64_t at, uint8_t *buf, size_t len)
{
    uint64_t words = (b->bits + 63) / 64;

    g_assert(at % 8 == 0);
    for (size_t done = 0; done < len; done += 8, at += 8) {
        uint64_t w = at / 8 < words ? atomic_load(&((DirtyBitmap *)b)->words[at / 8]) : 0;

        w = GUINT64_TO_LE(w);
        memcpy(buf + done, &w, MIN(len - done, 8));
    }
}

void dirty_bitmap_or_bytes(DirtyBitmap *b, uint64_t at, const uint8_t *buf, size_t len)
{
    g_assert(at % 8 == 0);
    for (size_t done = 0; done < len; done += 8, at += 8) {
        uint64_t w = 0, first = at * 8, before;

        if (first >= b->bits) {
            return;
        }
        memcpy(&w, buf + done, MIN(len - done, 8));
        w = GUINT64_FROM_LE(w);
        if (b->bits - first < 64) {
            w &= (UINT64_C(1) << (b->bits - first)) - 1;
        }
        before = atomic_fetch_or(&b->words[at / 8], w);
        atomic_fetch_add(&b->set, __builtin_popcountll(w & ~before));
    }
}

/* ---- recording ---- */

void node_mark(Node *n, uint64_t offset, uint64_t bytes)
{
    Recorders *r;

    rcu_begin();
    r = atomic_load_explicit(&n->recorders, memory_order_acquire);
    for (unsigned i = 0; r && i < r->n; i++) {
        dirty_bitmap_set(r->maps[i], offset, bytes);
    }
    rcu_end();
}

static void coroutine_fn replace(Node *n, DirtyBitmap *add, DirtyBitmap *remove)
{
    Recorders *old = atomic_load(&n->recorders), *new;
    unsigned have = old ? old->n : 0;

    new = g_malloc(sizeof(*new) + (have + 1) * sizeof(new->maps[0]));
    new->n = 0;
    for (unsigned i = 0; i < have; i++) {
        if (old->maps[i] != remove) {
            new->maps[new->n++] = old->maps[i];
        }
    }
    if (add) {
        new->maps[new->n++] = add;
    }
    if (new->n == 0) {
        g_free(new);
        new = NULL;
    }
    atomic_store(&n->recorders, new);
    co_rcu_synchronize();
    g_free(old);
}

void coroutine_fn node_record(Node *n, DirtyBitmap *b)
{
    replace(n, b, NULL);
}

void coroutine_fn node_unrecord(Node *n, DirtyBitmap *b)
{
    replace(n, NULL, b);
}

void node_forget_recording(Node *n)
{
    g_free(atomic_load(&n->recorders));
    atomic_store(&n->recorders, NULL);
}

/* ---- pace ---- */

void node_set_pace(Node *n, int64_t ns, int64_t until_ns)
{
    atomic_store(&n->pace_until, until_ns);
    atomic_store(&n->pace_ns, ns);
    if (ns == 0) {
        count_notify(n);
    }
}

static void pace_timeout(void *opaque)
{
    count_notify(opaque);
}

void coroutine_fn node_pace(Node *n)
{
    int64_t until = MIN(clock_ns() + atomic_load(&n->pace_ns), atomic_load(&n->pace_until));
    Timer timer;

    timer_init(&timer, pace_timeout, n);
    pthread_mutex_lock(&n->wait_lock);
    while (atomic_load(&n->pace_ns) > 0 && clock_ns() < until) {
        timer_arm(&timer, until);
        co_queue_wait(&n->waiters, &n->wait_lock);
    }
    pthread_mutex_unlock(&n->wait_lock);
    timer_cancel(&timer);
}

/* ---- following ---- */

void coroutine_fn node_follow(Node *n, uint64_t offset, uint64_t bytes)
{
    WriteFollower *f;

    rcu_begin();
    f = atomic_load_explicit(&n->follower, memory_order_acquire);
    if (f && !atomic_load_explicit(&f->active, memory_order_acquire)) {
        f = NULL;
    }
    if (f) {
        co_group_add(&f->inside, 1);
    }
    rcu_end();
    if (f) {
        f->wrote(f->opaque, offset, bytes);
        co_group_done(&f->inside);
    }
}

bool coroutine_fn node_set_follower(Node *n, WriteFollower *f)
{
    if (atomic_load(&n->follower)) {
        return false;
    }
    co_group_init(&f->inside);
    atomic_store(&n->follower, f);
    co_rcu_synchronize();
    return true;
}

void coroutine_fn node_remove_follower(Node *n, WriteFollower *f)
{
    atomic_store(&n->follower, NULL);
    co_rcu_synchronize(); /* who saw it is counted */
    co_group_wait(&f->inside);
    co_group_destroy(&f->inside);
}

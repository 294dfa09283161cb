/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Split virtqueues (virtio 1.2, 2.7) and their in-flight region (vhost-user, "Inflight I/O tracking").
 *
 * Positions are free-running 16-bit counters.  Answers are put into the used ring one by one (pushed_idx) and shown to the driver all at once
 * (used_idx); the region's list of the last batch lets a successor find out which of them the driver has seen.
 */
#include "vub-internal.h"
#include <endian.h>
#include <linux/virtio_ring.h>
#include <string.h>

#define BITS_PER_LONG (8 * sizeof(long))

typedef _Atomic uint16_t Shared16;

static Shared16 *avail_flags(const VubRing *r)
{
    return (Shared16 *)r->avail;
}
static Shared16 *avail_idx(const VubRing *r)
{
    return (Shared16 *)r->avail + 1;
}
static Shared16 *avail_entry(const VubRing *r, unsigned i)
{
    return (Shared16 *)r->avail + 2 + i;
}
static Shared16 *used_event(const VubRing *r)
{
    return avail_entry(r, r->num);
}
static Shared16 *used_flags(const VubRing *r)
{
    return (Shared16 *)r->used;
}
static Shared16 *used_idx(const VubRing *r)
{
    return (Shared16 *)r->used + 1;
}
static struct vring_used_elem *used_entry(const VubRing *r, unsigned i)
{
    return (struct vring_used_elem *)((uint8_t *)r->used + 4) + i;
}
static Shared16 *avail_event(const VubRing *r)
{
    return (Shared16 *)used_entry(r, r->num);
}

static uint64_t split_part_size(const VubRing *r, unsigned part)
{
    switch (part) {
    case VUB_PART_DESC:
        return UINT64_C(16) * r->num;
    case VUB_PART_AVAIL:
        return UINT64_C(6) + UINT64_C(2) * r->num;
    default:
        return UINT64_C(6) + UINT64_C(8) * r->num;
    }
}

/* ---- start ---- */

static VubDescSplit *state_of(const VubRing *r, uint16_t head)
{
    return &((VubRegionSplit *)r->inflight)->desc[head];
}

typedef struct Left {
    uint16_t head;
    uint64_t counter;
} Left;

static gint by_counter(gconstpointer a, gconstpointer b)
{
    const Left *x = a, *y = b;

    return x->counter < y->counter ? -1 : x->counter > y->counter;
}

/* What a predecessor took and did not answer. */
static bool find_left(VubRing *r, Error **errp)
{
    VubRegionSplit *region = r->inflight;
    uint16_t seen = le16toh(atomic_load_explicit(used_idx(r), memory_order_acquire));
    g_autoptr(GArray) left = g_array_new(false, false, sizeof(Left));

    if (region->version == 0) {
        region->version = 1;
        region->desc_num = r->num;
        region->used_idx = seen;
        return true;
    }
    if (region->version != 1 || region->desc_num != r->num) {
        error_set(errp, ERROR_INVALID, NULL, "vhost-user",
                  "the in-flight region is of another queue");
        return false;
    }
    /* The last batch was shown to the driver, and perhaps not noted. */
    for (uint16_t n = seen - region->used_idx, head = region->last_batch_head; n > 0; n--) {
        if (n > r->num || head >= r->num) {
            error_set(errp, ERROR_CORRUPT, NULL, "vhost-user", "the in-flight region is damaged");
            return false;
        }
        state_of(r, head)->inflight = 0;
        head = state_of(r, head)->next;
    }
    region->used_idx = seen;
    for (unsigned i = 0; i < r->num; i++) {
        if (state_of(r, i)->inflight) {
            Left l = {.head = i, .counter = state_of(r, i)->counter};

            g_array_append_val(left, l);
            r->counter = MAX(r->counter, l.counter + 1);
        }
    }
    g_array_sort(left, by_counter);
    for (guint i = 0; i < left->len; i++) {
        g_array_append_val(r->resubmit, g_array_index(left, Left, i).head);
    }
    /* A front end that lost its back end does not know the position: it is behind what was taken. */
    r->last_avail = r->used_idx + left->len;
    return true;
}

static bool split_start(VubRing *r, uint32_t base, Error **errp)
{
    if (r->num & (r->num - 1)) {
        error_set(errp, ERROR_INVALID, NULL, "vhost-user", "the size of a queue is no power of 2");
        return false;
    }
    r->busy = g_new0(unsigned long, (r->num + BITS_PER_LONG - 1) / BITS_PER_LONG);
    r->used_idx = r->pushed_idx = le16toh(atomic_load_explicit(used_idx(r), memory_order_acquire));
    r->last_avail = base;
    r->signalled_valid = false;
    return !r->inflight || find_left(r, errp);
}

/* ---- taking ---- */

static void desc_read(const VubRing *r, uint16_t i, struct vring_desc *ret)
{
    /* Once: the driver may change it behind our back. */
    memcpy(ret, (uint8_t *)r->desc + (size_t)i * sizeof(*ret), sizeof(*ret));
    atomic_signal_fence(memory_order_seq_cst);
}

static bool follow(VubRing *r, VubChain *c, uint16_t head)
{
    struct vring_desc d;
    const struct vring_desc *table = NULL;
    unsigned n = r->num, i = head, seen = 0;

    desc_read(r, head, &d);
    if (le16toh(d.flags) & VRING_DESC_F_INDIRECT) {
        if (le16toh(d.flags) & VRING_DESC_F_NEXT) {
            r->why = "an indirect descriptor has a next one";
            return false;
        }
        n = vub_ring_indirect(r, le64toh(d.addr), le32toh(d.len));
        if (n == 0) {
            return false;
        }
        table = (const struct vring_desc *)r->scratch;
        d = table[0];
    }
    for (;;) {
        unsigned flags = le16toh(d.flags);

        if (flags & VRING_DESC_F_INDIRECT) {
            r->why = "an indirect descriptor inside a chain";
            return false;
        }
        if (++seen > n || seen > VUB_MAX_DESCRIPTORS) {
            r->why = "a chain of descriptors is endless";
            return false;
        }
        if (!vub_ring_add(r, c, le64toh(d.addr), le32toh(d.len), flags & VRING_DESC_F_WRITE)) {
            return false;
        }
        if (!(flags & VRING_DESC_F_NEXT)) {
            return true;
        }
        i = le16toh(d.next);
        if (i >= n) {
            r->why = "a descriptor's number is too large";
            return false;
        }
        if (table) {
            d = table[i];
        } else {
            desc_read(r, i, &d);
        }
    }
}

static bool take(VubRing *r, VubChain *c, uint16_t head)
{
    if (head >= r->num) {
        r->why = "a descriptor's number is too large";
        return false;
    }
    if (r->busy[head / BITS_PER_LONG] & (1ul << (head % BITS_PER_LONG))) {
        r->why = "a request that runs was made available again";
        return false;
    }
    c->head = head;
    c->nout = c->nin = 0;
    if (!follow(r, c, head)) {
        return false;
    }
    r->busy[head / BITS_PER_LONG] |= 1ul << (head % BITS_PER_LONG);
    r->running++;
    return true;
}

static int split_pop(VubRing *r, VubChain *c)
{
    uint16_t head, there;

    if (r->resubmitted < r->resubmit->len) {
        head = g_array_index(r->resubmit, uint16_t, r->resubmitted++);
        return take(r, c, head) ? 1 : -1;
    }
    there = le16toh(atomic_load_explicit(avail_idx(r), memory_order_acquire));
    if (there == r->last_avail) {
        return 0;
    }
    if ((uint16_t)(there - r->last_avail) > r->num) {
        r->why = "more requests are available than the ring has";
        return -1;
    }
    head = le16toh(
        atomic_load_explicit(avail_entry(r, r->last_avail & (r->num - 1)), memory_order_relaxed));
    if (!take(r, c, head)) {
        return -1;
    }
    if (r->inflight) {
        VubDescSplit *s = state_of(r, head);

        s->counter = r->counter++;
        atomic_signal_fence(memory_order_seq_cst);
        s->inflight = 1;
    }
    r->last_avail++;
    return 1;
}

/* ---- answering ---- */

static void split_push(VubRing *r, const VubChain *c, uint32_t len)
{
    struct vring_used_elem *e = used_entry(r, r->pushed_idx & (r->num - 1));

    e->id = htole32(c->head);
    e->len = htole32(len);
    vub_ring_log(r, e, sizeof(*e));
    r->pushed_idx++;
    r->running--;
    r->busy[c->head / BITS_PER_LONG] &= ~(1ul << (c->head % BITS_PER_LONG));
    if (r->inflight) {
        VubRegionSplit *region = r->inflight;

        state_of(r, c->head)->next = region->last_batch_head;
        atomic_signal_fence(memory_order_seq_cst);
        region->last_batch_head = c->head;
    }
}

static void forget_batch(VubRing *r, uint16_t n)
{
    VubRegionSplit *region = r->inflight;
    uint16_t head = region->last_batch_head;

    for (; n > 0 && head < r->num; n--) {
        state_of(r, head)->inflight = 0;
        head = state_of(r, head)->next;
    }
    atomic_signal_fence(memory_order_seq_cst);
    region->used_idx = r->used_idx;
}

static bool split_publish(VubRing *r)
{
    uint16_t batch = r->pushed_idx - r->used_idx, old;
    bool valid;

    if (batch == 0) {
        return false;
    }
    r->used_idx = r->pushed_idx;
    atomic_store_explicit(used_idx(r), htole16(r->used_idx), memory_order_release);
    vub_ring_log(r, used_idx(r), sizeof(uint16_t));
    if (r->inflight) {
        forget_batch(r, batch);
    }
    /* The index must be there before we look whether the driver wants to know. */
    atomic_thread_fence(memory_order_seq_cst);
    if (!r->event_idx) {
        return !(le16toh(atomic_load_explicit(avail_flags(r), memory_order_relaxed)) &
                 VRING_AVAIL_F_NO_INTERRUPT);
    }
    old = r->signalled;
    valid = r->signalled_valid;
    r->signalled = r->used_idx;
    r->signalled_valid = true;
    return !valid ||
           vub_need_event(le16toh(atomic_load_explicit(used_event(r), memory_order_relaxed)),
                          r->used_idx, old);
}

static void split_want_kicks(VubRing *r, bool on)
{
    if (r->event_idx) {
        /* Not wanted: the event is left where it was, behind us. */
        if (on) {
            atomic_store_explicit(avail_event(r), htole16(r->last_avail), memory_order_relaxed);
            vub_ring_log(r, avail_event(r), sizeof(uint16_t));
        }
    } else {
        atomic_store_explicit(used_flags(r), on ? 0 : htole16(VRING_USED_F_NO_NOTIFY),
                              memory_order_relaxed);
        vub_ring_log(r, used_flags(r), sizeof(uint16_t));
    }
    if (on) {
        atomic_thread_fence(memory_order_seq_cst);
    }
}

static uint32_t split_base(const VubRing *r)
{
    return r->last_avail;
}

const VubRingOps vub_split_ops = {
    .start = split_start,
    .pop = split_pop,
    .push = split_push,
    .publish = split_publish,
    .want_kicks = split_want_kicks,
    .base = split_base,
    .part_size = split_part_size,
};

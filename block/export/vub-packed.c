/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Packed virtqueues (virtio 1.2, 2.8) and their in-flight region (vhost-user, "Inflight I/O tracking").
 *
 * One ring for both directions: a used element overwrites descriptors of requests that may still run, so a chain is parsed when it is taken,
 * and the region keeps copies of its descriptors.  Positions are an index and a wrap counter.
 *
 * In the region `slot`s form lists: the free ones from free_head on, and one for each request.  The old_* members are those of the last
 * step that was finished; a successor rolls back to them, or forward if the driver has already seen the step.
 */
#include "vub-internal.h"
#include <endian.h>
#include <linux/virtio_ring.h>
#include <string.h>

#define FLAG_AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define FLAG_USED  (1u << VRING_PACKED_DESC_F_USED)

static struct vring_packed_desc *desc_at(const VubRing *r, unsigned i)
{
    return (struct vring_packed_desc *)r->desc + i;
}

static _Atomic uint16_t *flags_at(const VubRing *r, unsigned i)
{
    return (_Atomic uint16_t *)&desc_at(r, i)->flags;
}

static uint64_t packed_part_size(const VubRing *r, unsigned part)
{
    return part == VUB_PART_DESC ? UINT64_C(16) * r->num : sizeof(struct vring_packed_desc_event);
}

static void advance(const VubRing *r, uint16_t *at, bool *wrap, unsigned n)
{
    unsigned to = *at + n;

    if (to >= r->num) {
        to -= r->num;
        *wrap = !*wrap;
    }
    *at = to;
}

/* ---- start ---- */

static VubDescPacked *slot_at(const VubRing *r, uint16_t slot)
{
    return &((VubRegionPacked *)r->inflight)->desc[slot];
}

static void region_init(VubRing *r)
{
    VubRegionPacked *region = r->inflight;

    for (unsigned i = 0; i < r->num; i++) {
        memset(slot_at(r, i), 0, sizeof(VubDescPacked));
        slot_at(r, i)->next = i + 1;
    }
    region->free_head = region->old_free_head = 0;
    region->used_idx = region->old_used_idx = r->used_next;
    region->used_wrap_counter = region->old_used_wrap_counter = r->used_wrap;
    region->desc_num = r->num;
    atomic_signal_fence(memory_order_seq_cst);
    region->version = 1;
}

typedef struct Left {
    uint16_t slot;
    uint64_t counter;
} Left;

static gint by_counter(gconstpointer a, gconstpointer b)
{
    const Left *x = a, *y = b;

    return x->counter < y->counter ? -1 : x->counter > y->counter;
}

static bool damaged(Error **errp)
{
    error_set(errp, ERROR_CORRUPT, NULL, "vhost-user", "the in-flight region is damaged");
    return false;
}

/* A step that the driver has seen is finished, one that it has not is undone. */
static bool settle_last_step(VubRing *r, Error **errp)
{
    VubRegionPacked *g = r->inflight;

    if (g->old_used_idx >= r->num || g->used_idx >= r->num) {
        return damaged(errp);
    }
    if (g->used_idx != g->old_used_idx || g->used_wrap_counter != g->old_used_wrap_counter) {
        unsigned flags =
            le16toh(atomic_load_explicit(flags_at(r, g->old_used_idx), memory_order_acquire));
        bool wrap = g->old_used_wrap_counter;

        if (!!(flags & FLAG_USED) == wrap && !!(flags & FLAG_AVAIL) == wrap) {
            g->old_free_head = g->free_head;
            g->old_used_idx = g->used_idx;
            g->old_used_wrap_counter = g->used_wrap_counter;
        }
    }
    g->free_head = g->old_free_head;
    g->used_idx = g->old_used_idx;
    g->used_wrap_counter = g->old_used_wrap_counter;
    return true;
}

static bool find_left(VubRing *r, Error **errp)
{
    VubRegionPacked *g = r->inflight;
    g_autoptr(GArray) left = g_array_new(false, false, sizeof(Left));
    unsigned descs = 0, seen = 0;

    if (g->version == 0) {
        region_init(r);
        return true;
    }
    if (g->version != 1 || g->desc_num != r->num) {
        error_set(errp, ERROR_INVALID, NULL, "vhost-user",
                  "the in-flight region is of another queue");
        return false;
    }
    if (!settle_last_step(r, errp)) {
        return false;
    }
    for (uint16_t i = g->free_head; i < r->num; i = slot_at(r, i)->next) {
        slot_at(r, i)->inflight = 0;
        if (++seen > r->num) {
            return damaged(errp);
        }
    }
    for (unsigned i = 0; i < r->num; i++) {
        if (slot_at(r, i)->inflight) {
            Left l = {.slot = i, .counter = slot_at(r, i)->counter};

            descs += slot_at(r, i)->num;
            g_array_append_val(left, l);
            r->counter = MAX(r->counter, l.counter + 1);
        }
    }
    if (descs > r->num) {
        return damaged(errp);
    }
    g_array_sort(left, by_counter);
    for (guint i = 0; i < left->len; i++) {
        g_array_append_val(r->resubmit, g_array_index(left, Left, i).slot);
    }
    /* The region knows better than a front end that has lost its back end. */
    r->used_next = r->next = g->used_idx;
    r->used_wrap = r->wrap = g->used_wrap_counter;
    advance(r, &r->next, &r->wrap, descs);
    return true;
}

static bool packed_start(VubRing *r, uint32_t base, Error **errp)
{
    r->next = r->used_next = base & 0x7fff;
    r->wrap = r->used_wrap = base & 0x8000;
    if (r->next >= r->num) {
        error_set(errp, ERROR_INVALID, NULL, "vhost-user", "a position is outside of its ring");
        return false;
    }
    r->signalled_valid = false;
    return !r->inflight || find_left(r, errp);
}

/* ---- taking ---- */

static bool desc_add(VubRing *r, VubChain *c, const struct vring_packed_desc *d)
{
    return vub_ring_add(r, c, le64toh(d->addr), le32toh(d->len),
                        le16toh(d->flags) & VRING_DESC_F_WRITE);
}

static bool add_indirect(VubRing *r, VubChain *c, const struct vring_packed_desc *d)
{
    const struct vring_packed_desc *table = (const struct vring_packed_desc *)r->scratch;
    unsigned n = vub_ring_indirect(r, le64toh(d->addr), le32toh(d->len));

    for (unsigned i = 0; i < n; i++) {
        if (le16toh(table[i].flags) & VRING_DESC_F_INDIRECT) {
            r->why = "an indirect descriptor inside a chain";
            return false;
        }
        if (!desc_add(r, c, &table[i])) {
            return false;
        }
    }
    return n > 0;
}

/* One descriptor of a chain; *more: another one follows. */
static bool add_desc(VubRing *r, VubChain *c, const struct vring_packed_desc *d, bool *more)
{
    unsigned flags = le16toh(d->flags);

    *more = flags & VRING_DESC_F_NEXT;
    c->ndescs++;
    c->head = le16toh(d->id);
    if (!(flags & VRING_DESC_F_INDIRECT)) {
        return desc_add(r, c, d);
    }
    if (*more || c->ndescs > 1) {
        r->why = "an indirect descriptor inside a chain";
        return false;
    }
    return add_indirect(r, c, d);
}

static bool take_left(VubRing *r, VubChain *c, uint16_t slot)
{
    unsigned n = slot_at(r, slot)->num;
    bool more = true;

    c->slot = slot;
    for (uint16_t i = slot; n > 0; n--) {
        VubDescPacked *s;
        struct vring_packed_desc d;

        if (i >= r->num || !more) {
            r->why = "the in-flight region is damaged";
            return false;
        }
        s = slot_at(r, i);
        d = (struct vring_packed_desc){
            .addr = s->addr, .len = s->len, .id = s->id, .flags = s->flags};
        if (!add_desc(r, c, &d, &more)) {
            return false;
        }
        i = s->next;
    }
    return true;
}

static bool is_available(const VubRing *r, unsigned flags, bool wrap)
{
    (void)r;
    return !!(flags & FLAG_AVAIL) == wrap && !!(flags & FLAG_USED) != wrap;
}

/* The region gets a copy; false: it is damaged. */
static bool keep_desc(VubRing *r, VubChain *c, const struct vring_packed_desc *d, bool last)
{
    VubRegionPacked *g = r->inflight;
    VubDescPacked *head, *s;

    if (g->old_free_head >= r->num || g->free_head >= r->num) {
        r->why = "the in-flight region is damaged";
        return false;
    }
    head = slot_at(r, g->old_free_head);
    s = slot_at(r, g->free_head);
    if (c->ndescs == 1) {
        c->slot = g->old_free_head;
        head->num = 0;
        head->counter = r->counter++;
        head->inflight = 1;
    }
    if (last) {
        head->last = g->free_head;
    }
    head->num++;
    s->addr = d->addr;
    s->len = d->len;
    s->flags = d->flags;
    s->id = d->id;
    g->free_head = s->next;
    if (last) {
        atomic_signal_fence(memory_order_seq_cst);
        g->old_free_head = g->free_head;
    }
    return true;
}

static bool take(VubRing *r, VubChain *c)
{
    uint16_t at = r->next;
    bool wrap = r->wrap, more = true;

    while (more) {
        struct vring_packed_desc d;
        unsigned flags = le16toh(atomic_load_explicit(flags_at(r, at), memory_order_acquire));

        if (r->running_descs + c->ndescs >= r->num || c->ndescs >= VUB_MAX_DESCRIPTORS) {
            r->why = "more descriptors are available than the ring has";
            return false;
        }
        memcpy(&d, desc_at(r, at), sizeof(d));
        atomic_signal_fence(memory_order_seq_cst);
        d.flags = htole16(flags);
        if (!add_desc(r, c, &d, &more) || (r->inflight && !keep_desc(r, c, &d, !more))) {
            return false;
        }
        advance(r, &at, &wrap, 1);
    }
    r->next = at;
    r->wrap = wrap;
    return true;
}

static int packed_pop(VubRing *r, VubChain *c)
{
    c->nout = c->nin = 0;
    c->ndescs = 0;
    if (r->resubmitted < r->resubmit->len) {
        if (!take_left(r, c, g_array_index(r->resubmit, uint16_t, r->resubmitted++))) {
            return -1;
        }
    } else {
        unsigned flags = le16toh(atomic_load_explicit(flags_at(r, r->next), memory_order_acquire));

        if (!is_available(r, flags, r->wrap)) {
            return 0;
        }
        if (!take(r, c)) {
            return -1;
        }
    }
    r->running_descs += c->ndescs;
    r->running++;
    return 1;
}

/* ---- answering ---- */

/* The request's slots are free; its answer is about to be seen. */
static void slot_free(VubRing *r, const VubChain *c, uint16_t next, bool wrap)
{
    VubRegionPacked *g = r->inflight;
    uint16_t last = slot_at(r, c->slot)->last;

    if (last < r->num) {
        slot_at(r, last)->next = g->free_head;
    }
    g->free_head = c->slot;
    g->used_wrap_counter = wrap;
    g->used_idx = next;
    atomic_signal_fence(memory_order_seq_cst);
}

static void slot_freed(VubRing *r, const VubChain *c)
{
    VubRegionPacked *g = r->inflight;

    slot_at(r, c->slot)->inflight = 0;
    atomic_signal_fence(memory_order_seq_cst);
    g->old_free_head = g->free_head;
    g->old_used_wrap_counter = g->used_wrap_counter;
    g->old_used_idx = g->used_idx;
}

static void packed_push(VubRing *r, const VubChain *c, uint32_t len)
{
    struct vring_packed_desc *d = desc_at(r, r->used_next);
    unsigned flags = (r->used_wrap ? FLAG_AVAIL | FLAG_USED : 0) | (len ? VRING_DESC_F_WRITE : 0);
    uint16_t next = r->used_next;
    bool wrap = r->used_wrap;
    GuestPhys at;

    advance(r, &next, &wrap, c->ndescs);
    if (r->inflight) {
        slot_free(r, c, next, wrap);
    }
    d->id = htole16(c->head);
    d->len = htole32(len);
    atomic_store_explicit(flags_at(r, r->used_next), htole16(flags), memory_order_release);
    if (r->data_log && vub_memory_reverse(r->mem, d, &at)) {
        vub_log_mark(r->data_log, at.v, sizeof(*d));
    }
    if (r->inflight) {
        slot_freed(r, c);
    }
    r->used_next = next;
    r->used_wrap = wrap;
    r->running_descs -= c->ndescs;
    r->running--;
    r->unsignalled += c->ndescs;
}

static bool packed_publish(VubRing *r)
{
    const struct vring_packed_desc_event *e = r->avail;
    unsigned flags, off_wrap, off, pushed = r->unsignalled;

    if (pushed == 0) {
        return false;
    }
    r->unsignalled = 0;
    atomic_thread_fence(memory_order_seq_cst);
    flags = le16toh(atomic_load_explicit((_Atomic uint16_t *)&e->flags, memory_order_acquire)) & 3;
    if (!r->event_idx || flags != VRING_PACKED_EVENT_FLAG_DESC) {
        r->signalled_valid = true;
        return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
    }
    off_wrap =
        le16toh(atomic_load_explicit((_Atomic uint16_t *)&e->off_wrap, memory_order_relaxed));
    off = off_wrap & 0x7fff;
    if ((off_wrap >> VRING_PACKED_EVENT_F_WRAP_CTR) != r->used_wrap) {
        off -= r->num;
    }
    return vub_need_event(off, r->used_next, r->used_next - pushed);
}

static void packed_want_kicks(VubRing *r, bool on)
{
    struct vring_packed_desc_event *e = r->used;
    unsigned flags = VRING_PACKED_EVENT_FLAG_DISABLE;

    if (on && r->event_idx) {
        atomic_store_explicit((_Atomic uint16_t *)&e->off_wrap,
                              htole16(r->next | r->wrap << VRING_PACKED_EVENT_F_WRAP_CTR),
                              memory_order_relaxed);
        atomic_thread_fence(memory_order_release);
        flags = VRING_PACKED_EVENT_FLAG_DESC;
    } else if (on) {
        flags = VRING_PACKED_EVENT_FLAG_ENABLE;
    }
    atomic_store_explicit((_Atomic uint16_t *)&e->flags, htole16(flags), memory_order_relaxed);
    vub_ring_log(r, e, sizeof(*e));
    if (on) {
        atomic_thread_fence(memory_order_seq_cst);
    }
}

static uint32_t packed_base(const VubRing *r)
{
    uint32_t avail = r->next | (uint32_t)r->wrap << 15;
    uint32_t used = r->used_next | (uint32_t)r->used_wrap << 15;

    return avail | used << 16;
}

const VubRingOps vub_packed_ops = {
    .start = packed_start,
    .pop = packed_pop,
    .push = packed_push,
    .publish = packed_publish,
    .want_kicks = packed_want_kicks,
    .base = packed_base,
    .part_size = packed_part_size,
};

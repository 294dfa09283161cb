/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * See mem-driver.h.
 */
#include "mem-driver.h"
#include "block/node-internal.h"
#include <string.h>

static void coroutine_fn pass_gate(MemState *s)
{
    if (!atomic_load(&s->gate_closed)) {
        return;
    }
    atomic_fetch_add(&s->waiting, 1);
    while (atomic_load(&s->gate_closed)) {
        co_sleep_ns(50000);
    }
    atomic_fetch_sub(&s->waiting, 1);
}

static int coroutine_fn mem_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                   unsigned flags)
{
    MemState *s = mem(n);
    size_t done = 0;

    while (done < iov->size) {
        uint64_t at = offset.v + done, c = at / MEM_CLUSTER;
        size_t len = MIN(iov->size - done, (c + 1) * MEM_CLUSTER - at);
        int ret = 0;

        if (atomic_load_explicit(&s->allocated[c], memory_order_acquire)) {
            iov_from_buf(iov, done, s->data + at, len);
        } else {
            g_auto(IoVector) part = {0};

            iov_init_slice(&part, iov, done, len);
            ret = backing_preadv(n, r, guest(at), &part, flags);
        }
        if (ret < 0) {
            return ret;
        }
        done += len;
    }
    return 0;
}

static int coroutine_fn write_cluster(Node *n, Request *r, uint64_t at, const IoVector *iov,
                                      size_t from, size_t len)
{
    MemState *s = mem(n);
    uint64_t c = at / MEM_CLUSTER, start = c * MEM_CLUSTER;
    CoRange range;
    int ret = 0;

    co_range_lock(&s->lock, &range, start, MEM_CLUSTER, false);
    if (!atomic_load_explicit(&s->allocated[c], memory_order_acquire) && len < MEM_CLUSTER) {
        IoVector v;

        iov_init_buf(&v, s->data + start, MEM_CLUSTER);
        ret = backing_preadv(n, r, guest(start), &v, REQ_COPY);
    }
    if (ret == 0) {
        if (s->yield_in_write) {
            co_reschedule();
        }
        if (atomic_load(&n->read_only)) {
            atomic_fetch_add(&s->writes_after_ro, 1);
        }
        iov_to_buf(iov, from, s->data + at, len);
        atomic_store_explicit(&s->allocated[c], 1, memory_order_release);
    }
    co_range_unlock(&s->lock, &range);
    return ret;
}

static int coroutine_fn mem_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                    unsigned flags)
{
    MemState *s = mem(n);
    size_t done = 0;

    (void)flags;
    pass_gate(s);
    while (done < iov->size) {
        uint64_t at = offset.v + done;
        size_t len = MIN(iov->size - done, MEM_CLUSTER - at % MEM_CLUSTER);
        int ret = write_cluster(n, r, at, iov, done, len);

        if (ret < 0) {
            return ret;
        }
        done += len;
    }
    return 0;
}

static int coroutine_fn mem_flush(Node *n, Request *r)
{
    MemState *s = mem(n);

    (void)r;
    pass_gate(s);
    atomic_fetch_add(&s->flushes, 1);
    return atomic_load(&s->flush_result);
}

static int coroutine_fn mem_block_status(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                         unsigned flags, bool precise, uint64_t *ret_bytes,
                                         HostOffset *ret_map)
{
    MemState *s = mem(n);
    uint64_t c = offset.v / MEM_CLUSTER, end = offset.v + bytes;
    uint8_t first = atomic_load(&s->allocated[c]);

    (void)r;
    (void)flags;
    (void)precise;
    (void)ret_map;
    while (++c * MEM_CLUSTER < end && atomic_load(&s->allocated[c]) == first) {
    }
    *ret_bytes = MIN(c * MEM_CLUSTER, end) - offset.v;
    return first ? STATUS_DATA | STATUS_ALLOCATED : 0;
}

static void coroutine_fn mem_close(Node *n)
{
    MemState *s = mem(n);

    co_range_lock_destroy(&s->lock);
    g_free(s->data);
    g_free((void *)s->allocated);
}

const BlockDriver mem_driver = {
    .name = "mem",
    .supports_backing = true,
    .state_size = sizeof(MemState),
    .child_perm = format_child_perm,
    .close = mem_close,
    .preadv = mem_preadv,
    .pwritev = mem_pwritev,
    .flush = mem_flush,
    .block_status = mem_block_status,
};

Node *mem_node_new(const char *name, uint64_t size, bool base)
{
    Node *n = node_alloc(&mem_driver, name);
    MemState *s = n->state;

    g_assert(size % MEM_CLUSTER == 0);
    atomic_store(&n->size, size);
    n->filename = g_strdup(name);
    s->data = g_malloc0(size);
    s->allocated = g_malloc0(size / MEM_CLUSTER);
    memset((void *)s->allocated, base, size / MEM_CLUSTER);
    co_range_lock_init(&s->lock);
    node_register(n);
    return n;
}

uint8_t mem_peek(const Node *n, uint64_t offset)
{
    const MemState *s = mem(n);
    Edge *b = atomic_load(&((Node *)n)->backing);

    if (atomic_load(&s->allocated[offset / MEM_CLUSTER])) {
        return s->data[offset];
    }
    return b ? mem_peek(b->target, offset) : 0;
}

static char *describe(void *opaque)
{
    return g_strdup_printf("block device '%s'", (const char *)opaque);
}

static char *name(void *opaque)
{
    return g_strdup(opaque);
}

const EdgeOwner mem_owner = {.describe = describe, .name = name};

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Queues: a ring, its thread, its requests.
 *
 * A started queue has a coroutine, the poller, that takes what the driver made available, starts a coroutine for each request, and
 * sleeps until the driver kicks.  Answers of one turn of the loop are shown to the driver together, with one call at most.
 *
 * To stop, the poller is woken by a kick of our own; then whatever runs ends by itself.  The eventfd is shared with the front end,
 * which may take that kick away from us, so it is repeated.
 */
#include "vub-internal.h"
#include "util/log.h"
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define TAKE_AT_ONCE 128            /* then others on this thread get their turn */
#define STOP_NAP_NS  INT64_C(20000) /* grows up to: */
#define STOP_NAP_MAX INT64_C(5000000)

void vub_queue_init(VubQueue *q, VubExport *e, unsigned index, Loop *loop)
{
    *q = (VubQueue){.exp = e, .index = index, .loop = loop};
    q->kick_fd = q->call_fd = q->err_fd = -1;
}

/* ---- memory in use ---- */

static VubView *view_new(VubMemory *mem)
{
    VubView *v = g_new(VubView, 1);

    *v = (VubView){.mem = vub_memory_ref(mem), .users = 1};
    return v;
}

static void view_unref(VubView *v)
{
    if (v && --v->users == 0) {
        vub_memory_unref(v->mem);
        g_free(v);
    }
}

/* ---- requests ---- */

static VubRequest *request_new(VubQueue *q)
{
    VubRequest *r = q->pool;

    if (r) {
        q->pool = r->next;
    } else {
        r = g_new0(VubRequest, 1);
        r->queue = q;
        vub_chain_init(&r->chain);
    }
    return r;
}

static void request_free(VubRequest *r)
{
    r->next = r->queue->pool;
    r->queue->pool = r;
}

static void pool_free(VubQueue *q)
{
    while (q->pool) {
        VubRequest *r = q->pool;

        q->pool = r->next;
        vub_chain_clear(&r->chain);
        g_free(r);
    }
}

void vub_queue_break(VubQueue *q, const char *why)
{
    if (!q->broken) {
        q->broken = true;
        log_warn_limited("export '%s': the guest broke queue %u: %s; the queue has stopped",
                         q->exp->base.id, q->index, why);
        if (q->err_fd >= 0) {
            eventfd_write(q->err_fd, 1);
        }
    }
}

static void publish(void *opaque)
{
    VubQueue *q = opaque;

    q->publishing = false;
    if (q->ring.ops->publish(&q->ring) && q->call_fd >= 0) {
        eventfd_write(q->call_fd, 1);
    }
}

static void log_writes(const VubRing *ring, const VubView *v, const struct iovec *iov, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        GuestPhys at;

        if (vub_memory_reverse(v->mem, iov[i].iov_base, &at)) {
            vub_log_mark(ring->data_log, at.v, iov[i].iov_len);
        }
    }
}

void vub_queue_answer(VubRequest *r, uint32_t written)
{
    VubQueue *q = r->queue;

    if (q->ring.data_log) {
        struct iovec status = {.iov_base = r->status, .iov_len = 1};

        log_writes(&q->ring, r->view, &status, 1);
        if (r->chain.nin > 0) {
            log_writes(&q->ring, r->view, r->chain.iov + r->chain.nout, r->chain.nin);
        }
    }
    q->ring.ops->push(&q->ring, &r->chain, written);
    if (!q->publishing) {
        q->publishing = true;
        loop_call(q->loop, publish, q);
    }
    view_unref(r->view);
    request_free(r);
}

/* 1: one was started; 0: there is none; -1: broken. */
static int coroutine_fn take_one(VubQueue *q)
{
    VubRequest *r = request_new(q);
    int ret = q->ring.ops->pop(&q->ring, &r->chain);

    if (ret <= 0) {
        if (ret < 0) {
            vub_queue_break(q, q->ring.why);
        }
        request_free(r);
        return ret;
    }
    if (!vub_request_prepare(r)) {
        q->ring.running--;
        request_free(r);
        vub_queue_break(q, "a request without header or status");
        return -1;
    }
    r->view = q->view;
    r->view->users++;
    co_start(vub_request_main, r);
    return 1;
}

static int coroutine_fn take_all(VubQueue *q)
{
    unsigned taken = 0;
    int ret;

    q->ring.ops->want_kicks(&q->ring, false);
    for (;;) {
        ret = take_one(q);
        if (ret == 0) {
            q->ring.ops->want_kicks(&q->ring, true);
            ret = take_one(q);
            if (ret == 1) {
                q->ring.ops->want_kicks(&q->ring, false);
            }
        }
        if (ret <= 0) {
            return ret;
        }
        if (++taken % TAKE_AT_ONCE == 0) {
            co_reschedule();
            if (q->stopping) {
                return 0;
            }
        }
    }
}

static void coroutine_fn poller(void *opaque)
{
    VubQueue *q = opaque;

    while (!q->stopping && !q->broken && take_all(q) == 0 && !q->stopping) {
        eventfd_t unused;

        if (co_poll(q->kick_fd, POLLIN, -1) < 0) {
            vub_queue_break(q, "its kicks cannot be waited for");
        }
        eventfd_read(q->kick_fd, &unused);
    }
    q->poller_runs = false;
}

/* ---- calls from the session ---- */

typedef struct QueueCall {
    VubQueue *q;
    VubQueueFn *fn;
    void *opaque;
    Coroutine *waiter;
} QueueCall;

static void coroutine_fn run_call(void *opaque)
{
    QueueCall *c = opaque;

    c->fn(c->q, c->opaque);
    co_wake(c->waiter);
}

void coroutine_fn vub_queue_call(VubQueue *q, VubQueueFn *fn, void *opaque)
{
    QueueCall c = {.q = q, .fn = fn, .opaque = opaque, .waiter = co_self()};

    co_spawn(q->loop, run_call, &c);
    co_yield();
}

/* ---- start, stop, changes ---- */

typedef struct Setup {
    VubSession *s;
    bool ok;
    Error **errp;
    uint32_t base;
} Setup;

/* Finds the ring in memory; the ring is as it was if it is not there. */
static bool locate(VubQueue *q, VubSession *s, VubRing *ring, Error **errp)
{
    const uint64_t addr[] = {q->addr.desc, q->addr.avail, q->addr.used};
    static const unsigned split_align[] = {16, 2, 4}, packed_align[] = {16, 4, 4};
    const unsigned *align = ring->ops == &vub_packed_ops ? packed_align : split_align;
    void *at[3];

    for (unsigned i = 0; i < 3; i++) {
        at[i] =
            vub_memory_user(s->mem, (UserAddr){addr[i]}, ring->ops->part_size(ring, i), align[i]);
        if (!at[i]) {
            error_set(errp, ERROR_INVALID, NULL, "vhost-user",
                      "queue %u does not lie in guest memory", q->index);
            return false;
        }
    }
    ring->desc = at[VUB_PART_DESC];
    ring->avail = at[VUB_PART_AVAIL];
    ring->used = at[VUB_PART_USED];
    ring->mem = s->mem;
    ring->data_log = s->features & VUB_F_LOG_ALL ? s->log : NULL;
    ring->log = q->addr.flags & VUB_VRING_F_LOG ? ring->data_log : NULL;
    ring->log_addr = q->addr.log;
    return true;
}

static bool prepare(VubQueue *q, VubSession *s, Error **errp)
{
    VubRing *ring = &q->ring;

    ring->ops = s->features & VUB_F_RING_PACKED ? &vub_packed_ops : &vub_split_ops;
    vub_ring_init(ring);
    ring->num = q->num;
    ring->event_idx = s->features & VUB_F_EVENT_IDX;
    ring->indirect = s->features & VUB_F_INDIRECT;
    ring->inflight = vub_inflight_region(s->inflight, q->index);
    if (ring->inflight && q->num > s->inflight->queue_size) {
        error_set(errp, ERROR_INVALID, NULL, "vhost-user",
                  "the in-flight buffer is too small for queue %u", q->index);
    } else if (locate(q, s, ring, errp) && ring->ops->start(ring, q->base, errp)) {
        return true;
    }
    vub_ring_clear(ring);
    return false;
}

static void coroutine_fn start(VubQueue *q, void *opaque)
{
    Setup *setup = opaque;

    setup->ok = prepare(q, setup->s, setup->errp);
    if (!setup->ok) {
        return;
    }
    q->session = setup->s;
    q->view = view_new(setup->s->mem);
    q->started = q->poller_runs = true;
    q->stopping = q->broken = false;
    if (q->ring.resubmit->len > 0) {
        log_info("export '%s': queue %u: %u requests of the former process are done again",
                 q->exp->base.id, q->index, q->ring.resubmit->len);
    }
    co_start(poller, q);
}

bool coroutine_fn vub_queue_start(VubQueue *q, VubSession *s, Error **errp)
{
    Setup setup = {.s = s, .errp = errp};

    if (q->started || q->kick_fd < 0 || !q->has_addr || q->num == 0 || !q->enabled) {
        return true;
    }
    vub_queue_call(q, start, &setup);
    return setup.ok;
}

static void coroutine_fn stop(VubQueue *q, void *opaque)
{
    Setup *setup = opaque;
    int64_t nap = STOP_NAP_NS;

    q->stopping = true;
    while (q->poller_runs || q->ring.running > 0 || q->publishing) {
        eventfd_write(q->kick_fd, 1);
        co_sleep_ns(nap);
        nap = MIN(2 * nap, STOP_NAP_MAX);
    }
    setup->base = q->ring.ops->base(&q->ring);
    q->started = false;
    view_unref(q->view);
    q->view = NULL;
    vub_ring_clear(&q->ring);
    pool_free(q);
}

void coroutine_fn vub_queue_stop(VubQueue *q, uint32_t *ret_base)
{
    Setup setup = {.base = q->base};

    if (q->started) {
        vub_queue_call(q, stop, &setup);
        q->base = setup.base;
    }
    if (ret_base) {
        *ret_base = setup.base;
    }
}

static void coroutine_fn update(VubQueue *q, void *opaque)
{
    Setup *setup = opaque;
    VubView *v = q->view;

    setup->ok = locate(q, setup->s, &q->ring, setup->errp);
    if (!setup->ok) {
        /* The memory that it used until now stays as long as it is in use. */
        vub_queue_break(q, "it is not in guest memory any more");
        return;
    }
    if (v->mem != setup->s->mem) {
        q->view = view_new(setup->s->mem);
        view_unref(v);
    }
}

bool coroutine_fn vub_queue_update(VubQueue *q, VubSession *s, Error **errp)
{
    Setup setup = {.s = s, .errp = errp};

    if (!q->started) {
        return true;
    }
    vub_queue_call(q, update, &setup);
    return setup.ok;
}

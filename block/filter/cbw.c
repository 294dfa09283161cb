/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Copying before writing, and reading what was; see cbw.h for words and what must hold.
 *
 * Holds are a list in the order in which they were asked for; one is had when no earlier one conflicts with it.  A copy for a guest's write runs
 * in a coroutine of its own on the guest's loop, so that the write can stop waiting for it.
 *
 * Lock: Cbw.lock is innermost.
 */
#include "cbw.h"
#include "../io-internal.h"
#include "block/bitmaps.h"
#include "block/graph.h"
#include "qapi-types.h"
#include "util/log.h"
#include "util/rcu.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CLUSTER_DEFAULT UINT64_C(65536)
#define CLUSTER_MAX     (UINT64_C(1) << 30)
/* The longest piece that is copied for a write at once. */
#define PIECE_MAX (UINT64_C(1) << 20)

typedef struct Hold {
    uint64_t offset, end;
    bool shared;
} Hold;

struct Cbw {
    Node *filter;
    Edge *target;
    CbwOptions o;
    uint64_t size;
    uint32_t cluster;
    DirtyBitmap *todo, *done, *access;
    UserBitmap *shown[3]; /* the same, for queries */
    _Atomic int error;
    _Atomic unsigned users; /* coroutines that use it beside requests of the filter */
    pthread_mutex_t lock;   /* innermost; protects: */
    GQueue holds;           /* Hold * */
    CoQueue
        changed; /* who waits for a hold to go, a copy to end, the snapshot to break, users to leave */
};

bool cbw_cluster_size(Node *target, uint64_t min_cluster, uint32_t *ret, Error **errp)
{
    g_auto(ImageFacts) f = {.actual_size = -1};
    g_autoptr(Error) ignored = NULL;
    uint64_t size = CLUSTER_DEFAULT;
    Node *image = node_skip_filters(target);

    if (min_cluster & (min_cluster - 1)) {
        error_set(errp, ERROR_INVALID, "min-cluster-size", "copy-before-write",
                  "min-cluster-size needs to be a power of 2");
        return false;
    }
    if (min_cluster > CLUSTER_MAX) {
        error_set(errp, ERROR_INVALID, "min-cluster-size", "copy-before-write",
                  "min-cluster-size too large: %" G_GUINT64_FORMAT " > %" G_GUINT64_FORMAT,
                  min_cluster, CLUSTER_MAX);
        return false;
    }
    if (image->driver->facts && image->driver->facts(image, &f, &ignored) &&
        (f.cluster_size & (f.cluster_size - 1)) == 0) {
        size = MAX(size, f.cluster_size);
    }
    *ret = (uint32_t)MAX(size, min_cluster);
    return true;
}

static bool make_maps(Cbw *c)
{
    c->todo = dirty_bitmap_new(c->size, c->cluster);
    c->done = dirty_bitmap_new(c->size, c->cluster);
    c->access = dirty_bitmap_new(c->size, c->cluster);
    return c->todo && c->done && c->access;
}

static void show_maps(Cbw *c)
{
    DirtyBitmap *const maps[] = {c->todo, c->done, c->access};

    for (unsigned i = 0; i < G_N_ELEMENTS(c->shown); i++) {
        c->shown[i] = user_bitmap_new(NULL);
        c->shown[i]->map = maps[i];
        node_bitmap_add(c->filter, c->shown[i]);
    }
}

static void hide_maps(Cbw *c)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(c->shown) && c->shown[i]; i++) {
        node_bitmap_remove(c->filter, c->shown[i]);
        c->shown[i]->map = NULL;
        user_bitmap_free(c->shown[i]);
    }
}

Cbw *cbw_new(Node *filter, Edge *target, const CbwOptions *options, const DirtyBitmap *only,
             Error **errp)
{
    uint32_t cluster;
    Cbw *c;

    if (!cbw_cluster_size(target->target, options->min_cluster, &cluster, errp)) {
        return NULL;
    }
    c = g_new0(Cbw, 1);
    c->filter = filter;
    c->target = target;
    c->o = *options;
    c->size = atomic_load(&filter->size);
    c->cluster = cluster;
    pthread_mutex_init(&c->lock, NULL);
    g_queue_init(&c->holds);
    co_queue_init(&c->changed);
    if (!make_maps(c)) {
        error_set_errno(errp, ENOMEM, filter->name, "copy-before-write",
                        "Could not keep track of what to copy");
        cbw_free(c);
        return NULL;
    }
    dirty_bitmap_set(c->todo, 0, c->size);
    dirty_bitmap_set(c->access, 0, c->size);
    if (only) {
        cbw_restrict(c, only);
    }
    show_maps(c);
    return c;
}

void cbw_free(Cbw *c)
{
    if (c) {
        g_assert(g_queue_is_empty(&c->holds) && atomic_load(&c->users) == 0);
        hide_maps(c);
        dirty_bitmap_free(c->todo);
        dirty_bitmap_free(c->done);
        dirty_bitmap_free(c->access);
        pthread_mutex_destroy(&c->lock);
        g_free(c);
    }
}

DirtyBitmap *cbw_todo(Cbw *c)
{
    return c->todo;
}

uint32_t cbw_cluster(const Cbw *c)
{
    return c->cluster;
}

Edge *cbw_target(const Cbw *c)
{
    return c->target;
}

int cbw_error(const Cbw *c)
{
    return atomic_load_explicit(&((Cbw *)c)->error, memory_order_acquire);
}

uint64_t cbw_marked(const DirtyBitmap *b)
{
    uint64_t count = dirty_bitmap_count(b), size = dirty_bitmap_size(b);
    uint64_t granule = dirty_bitmap_granularity(b), tail = size % granule, offset, bytes;

    if (tail && dirty_bitmap_next(b, size - tail, granule, &offset, &bytes)) {
        count -= granule - tail;
    }
    return MIN(count, size);
}

void cbw_restrict(Cbw *c, const DirtyBitmap *only)
{
    uint64_t at = 0, offset, bytes;

    /* In whole clusters: one is kept if any part of it is marked. */
    while (at < c->size) {
        bool any = dirty_bitmap_next(only, at, UINT64_MAX, &offset, &bytes);
        uint64_t from = any ? offset / c->cluster * c->cluster : c->size;
        uint64_t end = any ? (offset + bytes + c->cluster - 1) / c->cluster * c->cluster : c->size;

        if (from > at) {
            dirty_bitmap_clear(c->todo, at, from - at);
            dirty_bitmap_clear(c->access, at, from - at);
        }
        at = end;
    }
}

/* ---- users ---- */

void cbw_enter(Cbw *c)
{
    atomic_fetch_add(&c->users, 1);
}

void cbw_leave(Cbw *c)
{
    /* Under the lock: who waits for the last one may free c when it is let go. */
    pthread_mutex_lock(&c->lock);
    if (atomic_fetch_sub(&c->users, 1) == 1) {
        co_queue_wake_all(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
}

void coroutine_fn cbw_wait_idle(Cbw *c)
{
    pthread_mutex_lock(&c->lock);
    while (atomic_load(&c->users) > 0) {
        co_queue_wait(&c->changed, &c->lock);
    }
    pthread_mutex_unlock(&c->lock);
}

/* ---- waiting ---- */

typedef struct Wait {
    Cbw *c;
    Timer timer;
    int64_t deadline; /* clock_ns(); -1: none */
    bool timed;
} Wait;

static void wait_timeout(void *opaque)
{
    Cbw *c = opaque;

    pthread_mutex_lock(&c->lock);
    co_queue_wake_all(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

/* Under lock: until something has changed.  False: it is too late. */
static bool coroutine_fn wait_change(Wait *w)
{
    if (w->deadline >= 0) {
        if (clock_ns() >= w->deadline) {
            return false;
        }
        if (!w->timed) {
            timer_init(&w->timer, wait_timeout, w->c);
            w->timed = true;
        }
        timer_arm(&w->timer, w->deadline);
    }
    co_queue_wait(&w->c->changed, &w->c->lock);
    return true;
}

static void wait_end(Wait *w)
{
    if (w->timed) {
        timer_cancel(&w->timer);
    }
}

/* ---- holds ---- */

/* Under lock. */
static bool is_first(const Cbw *c, const Hold *h)
{
    for (GList *l = c->holds.head; l; l = l->next) {
        const Hold *o = l->data;

        if (o == h) {
            return true;
        }
        if (!(o->shared && h->shared) && o->offset < h->end && h->offset < o->end) {
            return false;
        }
    }
    return true;
}

static void let_go(Cbw *c, Hold *h)
{
    pthread_mutex_lock(&c->lock);
    g_queue_remove(&c->holds, h);
    co_queue_wake_all(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

/* Holds the clusters that the range touches.  -ETIMEDOUT; what broke the snapshot. */
static int coroutine_fn hold(Cbw *c, Hold *h, uint64_t offset, uint64_t bytes, bool shared,
                             int64_t deadline)
{
    Wait w = {.c = c, .deadline = deadline};
    int ret = 0;

    *h = (Hold){.offset = offset / c->cluster * c->cluster,
                .end = (offset + bytes + c->cluster - 1) / c->cluster * c->cluster,
                .shared = shared};
    pthread_mutex_lock(&c->lock);
    g_queue_push_tail(&c->holds, h);
    while (!is_first(c, h)) {
        ret = cbw_error(c);
        if (ret < 0) {
            break;
        }
        if (!wait_change(&w)) {
            ret = -ETIMEDOUT;
            break;
        }
    }
    pthread_mutex_unlock(&c->lock);
    wait_end(&w);
    if (ret < 0) {
        let_go(c, h);
    }
    return ret;
}

/* ---- copying ---- */

/* The next run of todo in [*at, end): whole clusters, or up to the end of the disk. */
static bool next_run(const Cbw *c, uint64_t *at, uint64_t end, uint64_t max, uint64_t *ret_bytes)
{
    uint64_t offset, bytes;

    if (!dirty_bitmap_next(c->todo, *at, MAX(max, c->cluster), &offset, &bytes) || offset >= end) {
        return false;
    }
    *at = offset;
    *ret_bytes = MIN(bytes, end - offset);
    return true;
}

/* How much of a run is data or zeroes, in whole clusters; a cluster that has both is data. */
static int coroutine_fn look(Cbw *c, Request *r, uint64_t offset, uint64_t *bytes)
{
    uint64_t len;
    int ret =
        edge_block_status_above(c->filter->file, r, guest(offset), *bytes, REQ_COPY, &len, NULL);

    if (ret < 0) {
        return ret;
    }
    if (len < *bytes && (ret & STATUS_ZERO) && len >= c->cluster) {
        len -= len % c->cluster;
    } else if (len < *bytes) {
        ret = len < c->cluster ? STATUS_DATA : ret;
        len = MIN((len + c->cluster - 1) / c->cluster * c->cluster, *bytes);
    }
    *bytes = len;
    return ret;
}

static int coroutine_fn write_target(Cbw *c, uint64_t offset, void *buf, uint64_t bytes, bool zero)
{
    Request w;
    int ret;

    request_begin(&w, REQUEST_WRITE);
    ret = zero ? edge_pwrite_zeroes(c->target, &w, guest(offset), bytes, REQ_MAY_UNMAP)
               : edge_pwrite(c->target, &w, guest(offset), buf, bytes,
                             c->o.compress ? REQ_COMPRESSED : 0);
    request_end(&w);
    return ret;
}

static void coroutine_fn discard_source(Cbw *c, uint64_t offset, uint64_t bytes)
{
    Request d;

    request_begin(&d, REQUEST_WRITE);
    (void)edge_pdiscard(c->filter->file, &d, guest(offset), bytes); /* space, not data */
    request_end(&d);
}

/* One run; *bytes: how much of it was copied. */
static int coroutine_fn copy_run(Cbw *c, uint64_t offset, uint64_t *bytes, uint8_t *buf, size_t len,
                                 bool discard, bool *ret_reading)
{
    bool zero = false;
    Request r;
    int ret;

    *ret_reading = true;
    request_begin(&r, REQUEST_READ);
    ret = look(c, &r, offset, bytes);
    if (ret >= 0) {
        zero = ret & STATUS_ZERO;
        *bytes = zero ? *bytes : MIN(*bytes, len / c->cluster * c->cluster);
        ret = zero ? 0 : edge_pread(c->filter->file, &r, guest(offset), buf, *bytes, REQ_COPY);
    }
    request_end(&r);
    if (ret < 0) {
        return ret;
    }
    *ret_reading = false;
    ret = write_target(c, offset, buf, *bytes, zero || buffer_is_zero(buf, *bytes));
    if (ret < 0) {
        return ret;
    }
    if (discard) {
        discard_source(c, offset, *bytes); /* while nobody can have written there again */
    }
    dirty_bitmap_set(c->done, offset, *bytes);
    dirty_bitmap_clear(c->todo, offset, *bytes);
    if (c->o.copied) {
        c->o.copied(c->o.opaque, *bytes);
    }
    return 0;
}

/* The range is held.  discard: in the source, what has got into the target. */
static int coroutine_fn copy_held(Cbw *c, uint64_t offset, uint64_t end, uint8_t *buf, size_t len,
                                  bool discard, bool *ret_reading)
{
    uint64_t bytes;
    int ret = 0;

    while (ret == 0 && next_run(c, &offset, end, UINT64_MAX, &bytes)) {
        ret = copy_run(c, offset, &bytes, buf, len, discard, ret_reading);
        offset += bytes;
        ret = ret == 0 ? cbw_error(c) : ret;
    }
    return ret;
}

int coroutine_fn cbw_copy(Cbw *c, uint64_t offset, uint64_t bytes, uint8_t *buf, size_t len,
                          bool *ret_reading)
{
    Hold h;
    int ret;

    *ret_reading = false;
    if (!next_run(c, &(uint64_t){offset}, offset + bytes, c->cluster, &(uint64_t){0})) {
        return 0;
    }
    cbw_enter(c);
    ret = hold(c, &h, offset, bytes, false, -1);
    if (ret == 0) {
        ret = copy_held(c, offset, offset + bytes, buf, len, c->o.discard_source, ret_reading);
        let_go(c, &h);
    }
    cbw_leave(c);
    return ret;
}

/* ---- guests' writes ---- */

/* A copy that a write waits for; of both, until the second one leaves it (under lock). */
typedef struct Before {
    Cbw *c;
    uint64_t offset, end;
    int64_t deadline;
    bool finished, left;
    int ret;
} Before;

static void coroutine_fn copy_before(void *opaque)
{
    Before *b = opaque;
    Cbw *c = b->c;
    size_t len = MAX(MIN(b->end - b->offset, PIECE_MAX), c->cluster);
    uint8_t *buf = block_try_alloc(len);
    bool reading, left;
    Hold h;
    int ret = buf ? hold(c, &h, b->offset, b->end - b->offset, false, b->deadline) : -ENOMEM;

    if (ret == 0) {
        ret = copy_held(c, b->offset, b->end, buf, len, false, &reading);
        let_go(c, &h);
    }
    free(buf);
    pthread_mutex_lock(&c->lock);
    b->ret = ret;
    b->finished = true;
    left = b->left;
    co_queue_wake_all(&c->changed);
    pthread_mutex_unlock(&c->lock);
    if (left) {
        g_free(b);
    }
    cbw_leave(c);
}

/* 0, -ETIMEDOUT, what went wrong, or what broke the snapshot. */
static int coroutine_fn wait_copied(Before *b)
{
    Cbw *c = b->c;
    Wait w = {.c = c, .deadline = b->deadline};
    bool finished;
    int ret = 0;

    pthread_mutex_lock(&c->lock);
    while (!b->finished && ret == 0) {
        ret = cbw_error(c);
        if (ret == 0 && !wait_change(&w)) {
            ret = -ETIMEDOUT;
        }
    }
    finished = b->finished;
    b->left = true;
    pthread_mutex_unlock(&c->lock);
    wait_end(&w);
    if (finished) {
        ret = b->ret;
        g_free(b);
    }
    return ret;
}

static void break_snapshot(Cbw *c, int err)
{
    int none = 0;

    if (!atomic_compare_exchange_strong(&c->error, &none, err)) {
        return;
    }
    log_warn("%s: a copy before a write failed: %s; the snapshot is lost, writes go on",
             c->filter->name, strerror(-err));
    pthread_mutex_lock(&c->lock);
    co_queue_wake_all(&c->changed);
    pthread_mutex_unlock(&c->lock);
    if (c->o.broke) {
        c->o.broke(c->o.opaque, err);
    }
}

/* Whole clusters, at most PIECE_MAX or one. */
static int coroutine_fn before_piece(Cbw *c, uint64_t start, uint64_t end)
{
    Before *b = g_new0(Before, 1);
    int ret;

    b->c = c;
    b->offset = start;
    b->end = end;
    b->deadline = c->o.timeout_ns ? clock_ns() + c->o.timeout_ns : -1;
    cbw_enter(c);
    co_start(copy_before, b);
    ret = wait_copied(b);
    if (ret < 0 && cbw_error(c) == 0 &&
        (ret == -ETIMEDOUT ? c->o.timeout_breaks_snapshot : c->o.break_snapshot)) {
        break_snapshot(c, ret);
    }
    return cbw_error(c) < 0 ? 0 : ret;
}

int coroutine_fn cbw_before_write(Cbw *c, uint64_t offset, uint64_t bytes)
{
    uint64_t end = MIN((offset + bytes + c->cluster - 1) / c->cluster * c->cluster, c->size);
    uint64_t at = offset / c->cluster * c->cluster, len;
    int ret = 0;

    /* A discard may be of all of the disk: the timeout is for each piece. */
    while (ret == 0 && bytes > 0 && cbw_error(c) == 0 &&
           next_run(c, &at, end, MAX(PIECE_MAX, c->cluster), &len)) {
        ret = before_piece(c, at, at + len);
        at += len;
    }
    return ret;
}

/* ---- reading what was ---- */

static bool all_marked(const DirtyBitmap *b, uint64_t offset, uint64_t bytes)
{
    uint64_t granule = dirty_bitmap_granularity(b), from = offset / granule * granule, o, len;

    return dirty_bitmap_next(b, from, offset + bytes - from + granule, &o, &len) && o == from &&
           o + len >= MIN(offset + bytes, dirty_bitmap_size(b));
}

bool cbw_keeps(const Cbw *c, uint64_t offset, uint64_t bytes)
{
    return all_marked(c->access, offset, bytes);
}

static int may_read(const Cbw *c, uint64_t offset, uint64_t bytes)
{
    return cbw_error(c) < 0 || !all_marked(c->access, offset, bytes) ? -EACCES : 0;
}

/* How much of the range, whose beginning may be read. */
static uint64_t readable(const Cbw *c, uint64_t offset, uint64_t bytes)
{
    uint64_t from = offset / c->cluster * c->cluster, o, len;

    if (!dirty_bitmap_next(c->access, from, bytes + c->cluster, &o, &len) || o != from) {
        return MIN(bytes, 1);
    }
    return MIN(bytes, o + len - offset);
}

/* How much of the range, from its beginning, is in the target (true) or is not. */
static bool in_target(const Cbw *c, uint64_t offset, uint64_t *bytes)
{
    uint64_t from = offset / c->cluster * c->cluster, o, len;

    if (!dirty_bitmap_next(c->done, from, *bytes + (offset - from), &o, &len) ||
        o >= offset + *bytes) {
        return false;
    }
    if (o > offset) {
        *bytes = o - offset;
        return false;
    }
    *bytes = MIN(*bytes, o + len - offset);
    return true;
}

/* Holds the beginning of a range that is not in the target, so that it stays as it is in the source.  False: it is in the target by now. */
static bool coroutine_fn hold_source(Cbw *c, Hold *h, uint64_t offset, uint64_t *bytes, int *ret)
{
    uint64_t len = *bytes;

    *ret = hold(c, h, offset, *bytes, true, -1);
    if (*ret < 0) {
        *ret = -EACCES;
        return true;
    }
    if (in_target(c, offset, &len)) {
        let_go(c, h);
        return false;
    }
    *bytes = len;
    return true;
}

int coroutine_fn cbw_snapshot_preadv(Cbw *c, Request *r, GuestOffset offset, const IoVector *iov,
                                     unsigned flags)
{
    int ret = may_read(c, offset.v, iov->size);
    size_t at = 0;

    while (at < iov->size && ret == 0) {
        uint64_t len = MIN(iov->size - at, PIECE_MAX);
        GuestOffset o = guest_add(offset, at);
        g_auto(IoVector) part = {0};
        Hold h;

        if (in_target(c, o.v, &len)) {
            iov_init_slice(&part, iov, at, len);
            ret = edge_preadv(c->target, r, o, &part, (flags & ~REQ_COPY) | REQ_UNGUARDED);
        } else if (hold_source(c, &h, o.v, &len, &ret)) {
            if (ret == 0) {
                iov_init_slice(&part, iov, at, len);
                ret = edge_preadv(c->filter->file, r, o, &part, flags | REQ_COPY);
                let_go(c, &h);
            }
        } else {
            continue;
        }
        at += len;
        if (ret == 0 && cbw_error(c) < 0) {
            ret = -EACCES;
        }
    }
    return ret;
}

int coroutine_fn cbw_snapshot_status(Cbw *c, Request *r, GuestOffset offset, uint64_t bytes,
                                     unsigned flags, uint64_t *ret_bytes)
{
    uint64_t len = bytes;
    Hold h;
    int ret;

    do {
        ret = may_read(c, offset.v, 1);
        if (ret < 0) {
            return ret;
        }
        len = readable(c, offset.v, bytes);
        if (in_target(c, offset.v, &len)) {
            return edge_block_status_above(c->target, r, offset, len,
                                           (flags & ~REQ_COPY) | REQ_UNGUARDED, ret_bytes, NULL);
        }
    } while (!hold_source(c, &h, offset.v, &len, &ret));
    if (ret == 0) {
        ret = edge_block_status_above(c->filter->file, r, offset, len, flags | REQ_COPY, ret_bytes,
                                      NULL);
        let_go(c, &h);
    }
    return cbw_error(c) < 0 ? -EACCES : ret;
}

int coroutine_fn cbw_snapshot_discard(Cbw *c, Request *r, GuestOffset offset, uint64_t bytes)
{
    uint64_t start = (offset.v + c->cluster - 1) / c->cluster * c->cluster;
    uint64_t end = offset.v + bytes;
    Hold h;
    int ret;

    if (end < c->size) {
        end -= end % c->cluster;
    }
    if (start >= end) {
        return 0; /* no cluster as a whole */
    }
    cbw_enter(c);
    ret = hold(c, &h, start, end - start, false, -1);
    if (ret == 0) {
        dirty_bitmap_clear(c->access, start, end - start);
        dirty_bitmap_clear(c->todo, start, end - start);
        let_go(c, &h);
        ret = edge_pdiscard(c->target, r, guest(start), end - start);
    }
    cbw_leave(c);
    return ret;
}

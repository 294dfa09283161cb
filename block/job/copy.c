/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The workers that carry a job's data; see copy.h.
 */
#include "copy.h"
#include "block/contention.h"
#include "block/driver.h"
#include "block/io.h"
#include "block/iothread-objects.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A piece that keeps failing and is tried again and again shall not take a processor. */
#define RETRY_NS INT64_C(100000000)
/* How often workers that have to let another one go first look whether they may go on. */
#define TURN_NS INT64_C(5000000)
/* So much is written between two calls that keep the cache from filling up. */
#define BEHIND (UINT64_C(16) << 20)

bool coroutine_fn copy_init(Copy *c, uint32_t granularity, Error **errp)
{
    IOThread *t = iothread_jobs(errp);

    if (!t) {
        return false;
    }
    c->loop = iothread_loop(t);
    c->todo = dirty_bitmap_new(c->size, granularity);
    if (!c->todo) {
        error_set_errno(errp, ENOMEM, c->job->id, "job", "Could not keep track of what to copy");
        return false;
    }
    pthread_mutex_init(&c->lock, NULL);
    co_queue_init(&c->ended);
    co_mutex_init(&c->gently);
    c->workers = c->workers ? MIN(c->workers, COPY_WORKERS) : COPY_WORKERS;
    c->piece_max = c->piece_max ? MIN(c->piece_max, COPY_PIECE_MAX) : COPY_PIECE_MAX;
    return true;
}

void copy_clear(Copy *c)
{
    if (c->todo) {
        dirty_bitmap_free(c->todo);
        c->todo = NULL;
        pthread_mutex_destroy(&c->lock);
        co_mutex_destroy(&c->gently);
    }
}

void copy_error(const Copy *c, Error **errp)
{
    int err = -atomic_load(&((Copy *)c)->error);

    error_set(errp, error_kind_of_errno(err), c->job->id, "copy", "%s", strerror(err));
    (*errp)->err = err;
}

/* A job that is cancelled softly ends well: it has to carry the rest. */
static bool is_ended(Job *j)
{
    return job_is_cancelled(j) && !atomic_load(&j->soft);
}

static bool may_go_on(Copy *c)
{
    return atomic_load(&c->error) == 0 && !is_ended(c->job);
}

/* Tells an error, and does what the job shall do about it. */
static JobErrorAction coroutine_fn tell(Copy *c, bool reading, int err)
{
    JobErrorAction action;
    int none = 0;

    atomic_fetch_add(&c->failures, 1);
    action = job_storage_error(c->job, reading ? c->on_error : c->on_write_error, reading, err);
    if (action == JOB_ACTION_REPORT) {
        atomic_compare_exchange_strong(&c->error, &none, err);
    }
    return action;
}

/* True: go on (the piece has to be done again unless it was left out). */
static bool coroutine_fn failed(Copy *c, bool reading, int err)
{
    int none = 0;

    switch (tell(c, reading, err)) {
    case JOB_ACTION_REPORT:
        return false;
    case JOB_ACTION_IGNORE:
        if (c->ignore_leaves_out) {
            atomic_compare_exchange_strong(&c->left_out, &none, err);
        } else {
            co_sleep_ns(RETRY_NS);
        }
        break;
    case JOB_ACTION_STOP:
        break; /* the next point is where it stops */
    }
    return true;
}

/* ---- pieces ---- */

/* Under lock. */
static bool is_busy(const Copy *c, uint64_t offset, uint64_t bytes, uint64_t *ret_end)
{
    for (const CopyPiece *p = c->carried; p; p = p->next) {
        if (p->offset < offset + bytes && offset < p->offset + p->bytes) {
            *ret_end = p->offset + p->bytes;
            return true;
        }
    }
    return false;
}

/* Under lock: p is carried from here on. */
static void begin_piece(Copy *c, CopyPiece *p)
{
    p->next = c->carried;
    c->carried = p;
    dirty_bitmap_clear(c->todo, p->offset, p->bytes);
}

static void end_piece(Copy *c, CopyPiece *p, bool done)
{
    CopyPiece **at = &c->carried;

    pthread_mutex_lock(&c->lock);
    if (!done) {
        dirty_bitmap_set(c->todo, p->offset, p->bytes);
    }
    while (*at != p) {
        at = &(*at)->next;
    }
    *at = p->next;
    co_queue_wake_all(&c->ended);
    pthread_mutex_unlock(&c->lock);
}

/* Under lock: the first marked piece in [from, end) that nobody carries. */
static bool find_piece(Copy *c, uint64_t from, uint64_t end, uint64_t max, CopyPiece *ret)
{
    uint64_t granule = dirty_bitmap_granularity(c->todo), busy_end;

    while (from < end && dirty_bitmap_next(c->todo, from, max, &ret->offset, &ret->bytes)) {
        if (ret->offset >= end) {
            return false;
        }
        ret->bytes = MIN(ret->bytes, MAX(max, granule));
        /* Pieces are aligned to their greatest length, so that they do not come to straddle tables. */
        if (ret->offset % max + ret->bytes > max && max > granule) {
            ret->bytes = max - ret->offset % max;
        }
        if (!is_busy(c, ret->offset, ret->bytes, &busy_end)) {
            return true;
        }
        if (!is_busy(c, ret->offset, MIN(granule, ret->bytes), &busy_end)) {
            ret->bytes = MIN(granule, ret->bytes);
            return true;
        }
        from = (busy_end + granule - 1) / granule * granule;
    }
    return false;
}

static bool take(Copy *c, bool gently, CopyPiece *ret)
{
    uint64_t granule = dirty_bitmap_granularity(c->todo);
    uint64_t longest = gently ? MIN(CONTENDED_PIECE, c->piece_max) : c->piece_max;
    uint64_t max = job_piece(c->job, granule, MAX(longest, granule));
    bool ok;

    pthread_mutex_lock(&c->lock);
    ok = find_piece(c, c->cursor, c->size, max, ret);
    if (!ok) {
        atomic_fetch_add(&c->rounds, 1);
        ok = find_piece(c, 0, MIN(c->cursor, c->size), max, ret);
    }
    if (ok) {
        c->cursor = (ret->offset + ret->bytes + granule - 1) / granule * granule;
        begin_piece(c, ret);
    }
    pthread_mutex_unlock(&c->lock);
    return ok;
}

/* ---- beside guests ---- */

static bool coroutine_fn is_contended(Copy *c)
{
    Request r;
    bool contended;

    request_begin(&r, REQUEST_READ); /* which keeps the node as it is */
    contended = edge_is_contended(c->target, &r);
    request_end(&r);
    return contended;
}

/* Storage works while we copy, and the flush in the end finds little left to do. */
static void coroutine_fn write_behind(Copy *c, uint64_t bytes)
{
    Node *n = atomic_load_explicit(&c->target->node, memory_order_acquire);

    if (atomic_fetch_add(&c->behind, bytes) + bytes < BEHIND) {
        return;
    }
    atomic_store(&c->behind, 0);
    while (n->file) {
        n = atomic_load_explicit(&n->file->node, memory_order_acquire);
    }
    if (n->driver->write_behind) {
        n->driver->write_behind(n);
    }
}

static uint8_t *alloc_buffer(const Copy *c)
{
    return block_try_alloc(MAX(c->piece_max, dirty_bitmap_granularity(c->todo)));
}

static void count_skipped(Copy *c)
{
    if (atomic_load_explicit(&c->skipped, memory_order_relaxed)) {
        job_progress(c->job, atomic_exchange(&c->skipped, 0));
    }
}

/* False: the worker ends. */
static bool coroutine_fn carry_piece(Copy *c, uint8_t *buf, bool hurry, bool gently)
{
    bool reading = false;
    CopyPiece piece;
    int ret;

    if (clock_ns() >= atomic_load(&c->deadline) || !may_go_on(c) || !take(c, gently, &piece)) {
        return false;
    }
    if (!hurry && !job_throttle(c->job, piece.bytes) && is_ended(c->job)) {
        end_piece(c, &piece, false);
        return false;
    }
    ret = c->copy(c->opaque, piece.offset, piece.bytes, buf, &reading);
    if (ret == 0) {
        end_piece(c, &piece, true);
        job_progress(c->job, c->counts_itself ? 0 : piece.bytes);
        count_skipped(c);
        if (!hurry) {
            write_behind(c, piece.bytes);
        }
        return true;
    }
    if (!failed(c, reading, ret)) {
        end_piece(c, &piece, false);
        return false;
    }
    /* Where it is left out, it is as if it had been carried. */
    ret = c->ignore_leaves_out ? atomic_load(&c->left_out) : 0;
    end_piece(c, &piece, ret < 0);
    if (ret < 0) {
        job_progress(c->job, piece.bytes);
    }
    return true;
}

/* Guests write where we do: one piece at a time, and a rest in which nothing is locked.  Who has no turn looks again a little later, so that he
 * can be paused meanwhile.  False: the worker ends. */
static bool coroutine_fn carry_gently(Copy *c, uint8_t *buf)
{
    int64_t began = clock_ns();
    bool more;

    if (!co_mutex_trylock(&c->gently)) {
        co_sleep_ns(TURN_NS);
        return began < atomic_load(&c->deadline) && may_go_on(c) && !copy_is_idle(c);
    }
    more = carry_piece(c, buf, false, true);
    if (more) {
        co_sleep_ns(contended_rest(clock_ns() - began));
    }
    co_mutex_unlock(&c->gently);
    return more;
}

static void coroutine_fn carry(void *opaque, unsigned index)
{
    Copy *c = opaque;
    uint8_t *buf = alloc_buffer(c);
    bool more = true;
    int none = 0;

    (void)index;
    if (!buf) {
        atomic_compare_exchange_strong(&c->error, &none, -ENOMEM);
        return;
    }
    while (more) {
        bool hurry = atomic_load(&c->hurry);

        if (!hurry) {
            job_point(c->job);
        }
        if (!hurry && is_contended(c)) {
            more = carry_gently(c, buf);
        } else {
            more = carry_piece(c, buf, hurry, false);
        }
    }
    free(buf);
}

bool coroutine_fn copy_run(Copy *c, int64_t deadline_ns, bool hurry)
{
    atomic_store(&c->deadline, deadline_ns < 0 ? INT64_MAX : deadline_ns);
    atomic_store(&c->hurry, hurry);
    job_run_workers(c->job, c->loop, c->workers, carry, c);
    return may_go_on(c);
}

bool copy_is_idle(Copy *c)
{
    bool idle;

    pthread_mutex_lock(&c->lock);
    idle = !c->carried && dirty_bitmap_count(c->todo) == 0;
    pthread_mutex_unlock(&c->lock);
    return idle;
}

int coroutine_fn copy_now(Copy *c, uint64_t offset, uint64_t bytes, const _Atomic bool *stop)
{
    uint64_t granule = dirty_bitmap_granularity(c->todo), busy_end;
    uint64_t end = MIN(offset + bytes, c->size);
    uint64_t at = offset / granule * granule;
    uint8_t *buf = alloc_buffer(c);
    int ret = buf ? 0 : -ENOMEM;

    /* The last granule is done as a whole, as far as there is one. */
    end = end > at ? MIN((end + granule - 1) / granule * granule, c->size) : at;
    while (at < end && ret == 0) {
        CopyPiece p = {.offset = at,
                       .bytes = MIN(end - at, MAX(c->piece_max / granule, 1) * granule)};
        bool reading;

        pthread_mutex_lock(&c->lock);
        while (!atomic_load(stop) && is_busy(c, p.offset, p.bytes, &busy_end)) {
            co_queue_wait(&c->ended, &c->lock);
        }
        if (atomic_load(stop)) {
            pthread_mutex_unlock(&c->lock);
            ret = -ECANCELED;
            break;
        }
        begin_piece(c, &p);
        pthread_mutex_unlock(&c->lock);
        ret = c->copy(c->opaque, p.offset, p.bytes, buf, &reading);
        end_piece(c, &p, ret == 0);
        if (ret < 0) {
            tell(c, reading, ret);
        } else {
            /* What guests write makes the job longer by itself. */
            atomic_fetch_add(&c->job->total, p.bytes);
            job_progress(c->job, p.bytes);
        }
        at += p.bytes;
    }
    if (at < end) {
        dirty_bitmap_set(c->todo, at, end - at);
    }
    free(buf);
    return ret;
}

/* ---- looking what there is ---- */

static void coroutine_fn scan(void *opaque, unsigned index)
{
    Copy *c = opaque;
    uint64_t offset = 0, len;

    (void)index;
    while (offset < c->size && may_go_on(c)) {
        int ret;

        job_point(c->job);
        ret = c->scan(c->opaque, offset, MIN(c->size - offset, UINT64_C(1) << 30), &len);

        if (ret < 0) {
            if (!failed(c, true, ret)) {
                return;
            }
            if (!c->ignore_leaves_out || atomic_load(&c->left_out) == 0) {
                continue;
            }
            len = MIN(dirty_bitmap_granularity(c->todo), c->size - offset);
            ret = 0;
        }
        if (ret > 0) {
            dirty_bitmap_set(c->todo, offset, len);
        }
        offset += len;
    }
}

bool coroutine_fn copy_scan(Copy *c)
{
    uint64_t marked;

    job_run_workers(c->job, c->loop, 1, scan, c);
    marked = dirty_bitmap_count(c->todo);
    if (c->count_skipped && may_go_on(c) && marked < c->size) {
        atomic_store(&c->skipped, c->size - marked);
        if (marked == 0) {
            count_skipped(c);
        }
    }
    return may_go_on(c);
}

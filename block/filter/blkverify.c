/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver `blkverify`: a disk, `test`, every read of which is compared with another one, `raw`, that gets the same writes.
 *
 * A difference is a fault of whatever stands behind `test`: the request fails and one line tells where.  Requests to the other disks of
 * the process go on.
 *
 * Invariant
 *  V1  writes that overlap reach both in the same order: a write holds its range.  A read looks at both without that, and again with
 *      its range held before it calls a difference one: a write may have been under way.
 *
 * It is no filter and has no n->file: nobody may look through it to one of the two.
 */
#include "block/driver.h"
#include "block/graph.h"
#include "qapi-types.h"
#include "util/log.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { TEST, RAW, NPLACES };

typedef struct VerifyState {
    Edge *places[NPLACES]; /* constant after open */
    CoRangeLock lock;      /* before any lock of the places */
} VerifyState;

/* ---- both at once ---- */

typedef struct Call {
    Node *n;
    Request *r;
    GuestOffset offset;
    uint64_t bytes;
    unsigned flags;
    const IoVector *iov; /* writes */
    void *bufs[NPLACES]; /* reads */
} Call;

typedef int coroutine_fn CallFn(const Call *c, unsigned place);

typedef struct Task {
    const Call *c;
    CallFn *fn;
    unsigned place;
    int ret;
    CoGroup *done;
} Task;

static void coroutine_fn run_task(void *opaque)
{
    Task *t = opaque;
    CoGroup *done = t->done;

    t->ret = t->fn(t->c, t->place);
    co_group_done(done);
}

static void coroutine_fn call_both(const Call *c, CallFn *fn, int ret[NPLACES])
{
    Task tasks[NPLACES];
    CoGroup done;

    co_group_init(&done);
    co_group_add(&done, NPLACES);
    for (unsigned i = 0; i < NPLACES; i++) {
        tasks[i] = (Task){.c = c, .fn = fn, .place = i, .done = &done};
        co_start(run_task, &tasks[i]);
    }
    co_group_wait(&done);
    co_group_destroy(&done);
    for (unsigned i = 0; i < NPLACES; i++) {
        ret[i] = tasks[i].ret;
    }
}

static Edge *place_of(const Call *c, unsigned place)
{
    return ((VerifyState *)c->n->state)->places[place];
}

static int coroutine_fn read_place(const Call *c, unsigned place)
{
    return edge_pread(place_of(c, place), c->r, c->offset, c->bufs[place], c->bytes, c->flags);
}

static int coroutine_fn write_place(const Call *c, unsigned place)
{
    return edge_pwritev(place_of(c, place), c->r, c->offset, c->iov, c->flags);
}

static int coroutine_fn zero_place(const Call *c, unsigned place)
{
    return edge_pwrite_zeroes(place_of(c, place), c->r, c->offset, c->bytes, c->flags);
}

static int coroutine_fn flush_place(const Call *c, unsigned place)
{
    return edge_flush(place_of(c, place), c->r);
}

/* ---- verdicts ---- */

/* 0: both did it, or the error that both had or that one had alone. */
static int same_result(const Call *c, const char *verb, const int ret[NPLACES])
{
    int test = MIN(ret[TEST], 0), raw = MIN(ret[RAW], 0);

    if (test != raw) {
        log_warn_limited("blkverify: %s offset=%" G_GUINT64_FORMAT " bytes=%" G_GUINT64_FORMAT
                         " return value mismatch %d != %d",
                         verb, c->offset.v, c->bytes, test, raw);
    }
    return test < 0 ? test : raw;
}

static int same_data(const Call *c)
{
    const uint8_t *test = c->bufs[TEST], *raw = c->bufs[RAW];
    uint64_t at = 0;

    if (memcmp(test, raw, c->bytes) == 0) {
        return 0;
    }
    while (test[at] == raw[at]) {
        at++;
    }
    log_warn_limited("blkverify: read offset=%" G_GUINT64_FORMAT " bytes=%" G_GUINT64_FORMAT
                     " contents mismatch at offset %" G_GUINT64_FORMAT,
                     c->offset.v, c->bytes, c->offset.v + at);
    return -EIO;
}

/* ---- requests ---- */

static int coroutine_fn read_and_compare(const Call *c)
{
    VerifyState *s = c->n->state;
    int ret[NPLACES], result;
    CoRange range;

    call_both(c, read_place, ret);
    if (ret[TEST] >= 0 && ret[RAW] >= 0 && memcmp(c->bufs[TEST], c->bufs[RAW], c->bytes) == 0) {
        return 0;
    }
    co_range_lock(&s->lock, &range, c->offset.v, c->bytes, false);
    call_both(c, read_place, ret);
    result = same_result(c, "read", ret);
    if (result == 0) {
        result = same_data(c);
    }
    co_range_unlock(&s->lock, &range);
    return result;
}

static int coroutine_fn verify_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                      unsigned flags)
{
    Call c = {.n = n, .r = r, .offset = offset, .bytes = iov->size, .flags = flags};
    int ret = 0;

    /* Memory of our own: a guest may write into its own meanwhile. */
    for (unsigned i = 0; i < NPLACES && ret == 0; i++) {
        c.bufs[i] = block_try_alloc(iov->size);
        ret = c.bufs[i] ? 0 : -ENOMEM;
    }
    if (ret == 0) {
        ret = read_and_compare(&c);
    }
    if (ret == 0) {
        iov_from_buf(iov, 0, c.bufs[TEST], iov->size);
    }
    for (unsigned i = 0; i < NPLACES; i++) {
        free(c.bufs[i]);
    }
    return ret;
}

static int coroutine_fn write_both(const Call *c, CallFn *fn)
{
    VerifyState *s = c->n->state;
    int ret[NPLACES];
    CoRange range;

    co_range_lock(&s->lock, &range, c->offset.v, c->bytes, false);
    call_both(c, fn, ret);
    co_range_unlock(&s->lock, &range);
    return same_result(c, "write", ret);
}

static int coroutine_fn verify_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                       unsigned flags)
{
    Call c = {.n = n, .r = r, .offset = offset, .bytes = iov->size, .flags = flags};
    IoVector flat;
    void *buf = block_try_alloc(iov->size);
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    /* Both are to get the same, whatever becomes of the guest's memory. */
    iov_to_buf(iov, 0, buf, iov->size);
    iov_init_buf(&flat, buf, iov->size);
    c.iov = &flat;
    ret = write_both(&c, write_place);
    free(buf);
    return ret;
}

static int coroutine_fn verify_pwrite_zeroes(Node *n, Request *r, GuestOffset offset,
                                             uint64_t bytes, unsigned flags)
{
    Call c = {.n = n,
              .r = r,
              .offset = offset,
              .bytes = bytes,
              .flags = flags & ~(unsigned)(REQ_NO_FALLBACK | REQ_MAY_UNMAP)};

    return flags & REQ_NO_FALLBACK ? -ENOTSUP : write_both(&c, zero_place);
}

static int coroutine_fn verify_flush(Node *n, Request *r)
{
    Call c = {.n = n, .r = r};
    int ret[NPLACES];

    call_both(&c, flush_place, ret);
    return same_result(&c, "flush", ret);
}

static void take_size(Node *n)
{
    const VerifyState *s = n->state;
    const Node *test = atomic_load_explicit(&s->places[TEST]->node, memory_order_acquire);

    atomic_store(&n->size, atomic_load(&((Node *)test)->size));
}

static int coroutine_fn verify_truncate(Node *n, Request *r, uint64_t size, bool exact)
{
    const VerifyState *s = n->state;
    int ret = 0;

    if (size < atomic_load(&n->size)) {
        atomic_store(&n->size, size);
    }
    for (unsigned i = NPLACES;
         i-- > 0 && ret >= 0;) { /* `test` last: what there is to read is in both */
        ret = edge_truncate(s->places[i], r, size, exact);
    }
    take_size(n);
    return MIN(ret, 0);
}

/* ---- control ---- */

static bool coroutine_fn open_place(Node *n, const BlockdevRef *ref, const char *name,
                                    unsigned place, EdgeRole role, Error **errp)
{
    VerifyState *s = n->state;
    bool ok = node_open_child(n, ref, name, role, errp);

    n->file = NULL; /* neither of them is the disk */
    if (!ok) {
        return false;
    }
    s->places[place] = g_ptr_array_index(n->children, n->children->len - 1);
    if (n->auto_read_only && atomic_load(&s->places[place]->target->read_only)) {
        atomic_store(&n->read_only, true);
    }
    return true;
}

static bool coroutine_fn verify_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    const BlockdevOptionsBlkverify *o = &options->u.blkverify;
    VerifyState *s = n->state;

    if (!open_place(n, o->raw, "raw", RAW, EDGE_FILTERED, errp) ||
        !open_place(n, o->test, "test", TEST, EDGE_FILTERED, errp)) {
        return false;
    }
    co_range_lock_init(&s->lock);
    take_size(n);
    return true;
}

static void coroutine_fn verify_close(Node *n)
{
    co_range_lock_destroy(&((VerifyState *)n->state)->lock);
}

/* Who wrote to one of them beside us would make them differ. */
static void verify_child_perm(const Node *n, EdgeRole role, unsigned parent_perm,
                              unsigned parent_shared, unsigned *perm, unsigned *shared)
{
    (void)n;
    (void)role;
    *perm = parent_perm;
    *shared = (parent_shared & PERM_CONSISTENT_READ) | PERM_WRITE_UNCHANGED;
}

/* "blkverify:RAW:TEST"; the format of TEST is not said. */
static struct json_object *verify_parse_name(const char *name, Error **errp)
{
    const char *raw = name + strlen("blkverify:"), *colon = strchr(raw, ':');
    g_autoptr(JsonObject) raw_options = NULL, test_file = NULL;
    g_autofree char *raw_name = NULL;
    struct json_object *o, *test;

    if (!colon) {
        error_set(errp, ERROR_INVALID, name, "open",
                  "blkverify requires raw copy and original image path");
        return NULL;
    }
    raw_name = g_strndup(raw, (size_t)(colon - raw));
    raw_options = filename_options(raw_name, errp);
    test_file = raw_options ? filename_options(colon + 1, errp) : NULL;
    if (!test_file) {
        return NULL;
    }
    test = json_object_new_object();
    json_object_object_add(test, "file", g_steal_pointer(&test_file));
    o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string("blkverify"));
    json_object_object_add(o, "raw", g_steal_pointer(&raw_options));
    json_object_object_add(o, "test", test);
    return o;
}

static const char *const protocols[] = {"blkverify", NULL};

const BlockDriver driver_blkverify = {
    .name = "blkverify",
    .protocols = protocols,
    .parse_name = verify_parse_name,
    .state_size = sizeof(VerifyState),
    .open = verify_open,
    .close = verify_close,
    .child_perm = verify_child_perm,
    .child_resized = take_size,
    .preadv = verify_preadv,
    .pwritev = verify_pwritev,
    .has_fua = true, /* passed on */
    .pwrite_zeroes = verify_pwrite_zeroes,
    .flush = verify_flush,
    .truncate = verify_truncate,
};

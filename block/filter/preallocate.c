/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The filter `preallocate`: lies between a format and its file, and gets storage for the file ahead of need, in large pieces, for file systems on which
 * growing a file is slow.
 *
 *   end        where the data ends: the size that the filter shows (Node.size)
 *   file end   the size of the child, at or behind the end; what is between them is allocated storage that reads as zeroes
 *
 * Invariants
 *  P1  end <= file end.  So the file end grows first, and the end falls first.
 *  P2  nothing was ever written between the end and the file end: who makes the disk smaller cuts the file.
 *  P3  a filter that is closed, read-only, inactive or without writers has nothing set aside: the file ends where the data does.
 *
 * Who asks for more than there is, and would take more (edge_truncate() that is not exact: a format that allocates), gets it together with `prealloc-size`
 * bytes ahead, up to a multiple of `prealloc-align`.  If that cannot be had, the file gets what was asked for.  Writes never go behind the end.
 *
 * While somebody may write to the filter nobody else may change the file.  What the filter does by itself it does while its parents have that permission:
 * afterwards the file may be somebody else's.  Requests of any thread; `lock` is before the locks of the child.
 */
#include "filter.h"
#include "block/io.h"
#include "qapi-types.h"
#include "util/log.h"
#include <errno.h>

#define ALIGN_DEFAULT (INT64_C(1) << 20)
#define SIZE_DEFAULT  (INT64_C(128) << 20)
#define SECTOR        512

typedef struct Ahead {
    uint64_t align, size; /* bytes */
} Ahead;

typedef struct PreallocateState {
    CoMutex lock; /* one change of the sizes at a time; protects: */
    uint64_t file_end;
    Ahead ahead;
    bool unsupported; /* the child cannot allocate */
} PreallocateState;

static bool get_options(const Node *n, const BlockdevOptions *options, Ahead *ret, Error **errp)
{
    const BlockdevOptionsPreallocate *o = &options->u.preallocate;
    int64_t align = o->has_prealloc_align ? o->prealloc_align : ALIGN_DEFAULT;
    int64_t size = o->has_prealloc_size ? o->prealloc_size : SIZE_DEFAULT;

    if (align < 0 || size < 0) {
        error_set(errp, ERROR_INVALID, n->name, "open",
                  "Parameter '%s' expects a non-negative number below 2^64",
                  align < 0 ? "prealloc-align" : "prealloc-size");
        return false;
    }
    if (align == 0 || align % SECTOR != 0) {
        error_set(errp, ERROR_INVALID, n->name, "open",
                  "prealloc-align parameter of preallocate filter is not aligned to %d", SECTOR);
        return false;
    }
    *ret = (Ahead){.align = align, .size = size};
    return true;
}

static bool coroutine_fn preallocate_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    PreallocateState *s = n->state;

    co_mutex_init(&s->lock);
    if (!get_options(n, options, &s->ahead, errp) ||
        !filter_open_file(n, options->u.preallocate.file, errp)) {
        return false;
    }
    s->file_end = atomic_load(&n->size);
    return true;
}

/* ---- giving back ---- */

static int coroutine_fn drop(Node *n, Request *r)
{
    PreallocateState *s = n->state;
    uint64_t end;
    int ret = 0;

    co_mutex_lock(&s->lock);
    end = atomic_load(&n->size);
    if (s->file_end > end) {
        ret = edge_truncate(n->file, r, end, true);
        if (ret == 0) {
            s->file_end = end;
        } else {
            log_warn("%s: could not give back what was preallocated: %s", n->name,
                     g_strerror(-ret));
        }
    }
    co_mutex_unlock(&s->lock);
    return ret;
}

static void coroutine_fn drop_by_itself(Node *n)
{
    Request r;

    request_begin(&r, REQUEST_WRITE);
    r.passes_gates = true;
    (void)drop(n, &r);
    request_end(&r);
}

/* ---- permissions ---- */

#define WRITING (PERM_WRITE | PERM_WRITE_UNCHANGED | PERM_RESIZE)

static void preallocate_child_perm(const Node *n, EdgeRole role, unsigned parent_perm,
                                   unsigned parent_shared, unsigned *perm, unsigned *shared)
{
    filter_child_perm(n, role, parent_perm, parent_shared, perm, shared);
    if (parent_perm) {
        *shared &= ~PERM_RESIZE;
    }
    if (parent_perm & WRITING) {
        *perm |= PERM_WRITE | PERM_RESIZE;
        *shared &= ~PERM_WRITE;
    }
}

static void coroutine_fn preallocate_ro_commit(Node *n)
{
    drop_by_itself(n);
}

/* The child can be changed until the plan is carried out. */
static bool coroutine_fn preallocate_perm_prepare(Node *n, unsigned perm, unsigned shared,
                                                  Error **errp)
{
    (void)shared;
    (void)errp;
    if ((n->perm & WRITING) && !(perm & WRITING) && !atomic_load(&n->read_only)) {
        drop_by_itself(n);
    }
    return true;
}

static void preallocate_perm_commit(Node *n, unsigned perm, unsigned shared)
{
    (void)n;
    (void)perm;
    (void)shared;
}

static void preallocate_perm_abort(Node *n)
{
    (void)n; /* what was given back is fetched again when it is needed */
}

static int coroutine_fn preallocate_come_to_rest(Node *n, Request *r, bool for_good,
                                                 int64_t deadline_ns)
{
    (void)deadline_ns;
    return for_good ? drop(n, r) : 0;
}

/* ---- reopening ---- */

static const char *const reopen_options[] = {"prealloc-align", "prealloc-size", NULL};

static bool coroutine_fn preallocate_reopen_prepare(Node *n, Reopen *r, Error **errp)
{
    Ahead *ahead = g_new0(Ahead, 1);

    r->state = ahead;
    r->hold |= !atomic_load(&n->read_only); /* the sizes stand still */
    return get_options(n, r->options, ahead, errp) && filter_reopen_prepare(n, r, errp);
}

static bool coroutine_fn preallocate_reopen_quiesce(Node *n, Reopen *r, Error **errp)
{
    if ((n->perm & WRITING) && !atomic_load(&n->read_only) && (r->read_only || r->new_file)) {
        drop_by_itself(n);
    }
    (void)errp;
    return true;
}

static void coroutine_fn preallocate_reopen_switch(Node *n, Reopen *r)
{
    PreallocateState *s = n->state;

    s->ahead = *(Ahead *)r->state;
    if (r->new_file || r->reload) {
        s->file_end = atomic_load(&r->file->target->size);
        s->unsupported = false;
        atomic_store(&n->size, s->file_end);
    }
}

static void coroutine_fn preallocate_reopen_end(Node *n, Reopen *r, bool done)
{
    (void)n;
    (void)done;
    g_clear_pointer(&r->state, g_free);
}

/* ---- requests ---- */

/* With the lock.  The file gets larger: room for an end at `end`, and more. */
static int coroutine_fn grow_ahead(Node *n, Request *r, uint64_t end)
{
    PreallocateState *s = n->state;
    uint64_t limit = BLOCK_MAX_SIZE - BLOCK_MAX_SIZE % s->ahead.align, target, from;
    uint32_t align = edge_enter(n->file, r)->limits.request_alignment;
    int ret;

    if (s->unsupported || end > limit || s->ahead.size > limit - end) {
        return -ENOTSUP;
    }
    target = end + s->ahead.size;
    target += (s->ahead.align - target % s->ahead.align) % s->ahead.align;
    ret = edge_truncate(n->file, r, target, false);
    if (ret < 0) {
        return ret;
    }
    from = (s->file_end + align - 1) & ~(uint64_t)(align - 1);
    ret = edge_pwrite_zeroes(n->file, r, guest(from), target - MIN(from, target), REQ_NO_FALLBACK);
    if (ret == 0) {
        s->file_end = target;
        return 0;
    }
    s->unsupported = ret == -ENOTSUP;
    ret = edge_truncate(n->file, r, end, false);
    s->file_end = ret == 0 ? end : target;
    return ret;
}

static int coroutine_fn preallocate_truncate(Node *n, Request *r, uint64_t size, bool exact)
{
    PreallocateState *s = n->state;
    int ret = 0;

    co_mutex_lock(&s->lock);
    if (size < atomic_load(&n->size)) {
        uint64_t old = atomic_load(&n->size);

        atomic_store_explicit(&n->size, size, memory_order_release);
        ret = edge_truncate(n->file, r, size, exact);
        if (ret == 0) {
            s->file_end = size;
        } else {
            atomic_store_explicit(&n->size, old, memory_order_release);
        }
    } else {
        if (size > s->file_end && (exact || grow_ahead(n, r, size) < 0)) {
            ret = edge_truncate(n->file, r, size, exact);
            s->file_end = ret == 0 ? size : s->file_end;
        }
        if (ret == 0) {
            atomic_store_explicit(&n->size, size, memory_order_release);
        }
    }
    co_mutex_unlock(&s->lock);
    return ret;
}

const BlockDriver driver_preallocate = {
    .name = "preallocate",
    .is_filter = true,
    .grows_ahead = true,
    .state_size = sizeof(PreallocateState),
    .open = preallocate_open,
    .reopen_options = reopen_options,
    .reopen_prepare = preallocate_reopen_prepare,
    .reopen_quiesce = preallocate_reopen_quiesce,
    .reopen_switch = preallocate_reopen_switch,
    .reopen_end = preallocate_reopen_end,
    .child_perm = preallocate_child_perm,
    .perm_prepare = preallocate_perm_prepare,
    .perm_commit = preallocate_perm_commit,
    .perm_abort = preallocate_perm_abort,
    .ro_commit = preallocate_ro_commit,
    .come_to_rest = preallocate_come_to_rest,
    .preadv = filter_preadv,
    .pwritev = filter_pwritev,
    .has_fua = true, /* passed on */
    .pwrite_zeroes = filter_pwrite_zeroes,
    .pdiscard = filter_pdiscard,
    .truncate = preallocate_truncate,
};

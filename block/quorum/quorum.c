/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver `quorum`: a disk that is kept several times.
 *
 * Words
 *  child      one of the places; all have the same size.
 *  set        the children that there are at a time (x-blockdev-change adds and removes some).
 *  threshold  how many children have to agree: on the data of a read, on the success of anything else.
 *  bad        a child that failed, or that lost a vote; each is told (QUORUM_REPORT_BAD).
 *
 * Invariants
 *  Q1  writes that overlap reach all children in the same order: a write holds its range.  Without that, two writes of a guest could leave
 *      children different for ever.
 *  Q2  the children of an old disk (after a snapshot) stay as they are: ro_commit ends rewriting, and waits for what is under way.  A quorum that
 *      the user opened read-only does rewrite: that does not change what is read.
 *  Q3  a call goes to one set of children from its beginning to its end.  A write takes it with its range locked: so of two writes that overlap,
 *      the later one never has an older set, and a new child misses nothing that comes after what it has (quorum-change.c).
 *
 * It is not a filter and has no n->file: nobody may look through it to one child and take that for the disk.  Discards are not passed on: what
 * children read afterwards may differ.
 */
#include "quorum.h"
#include "../node-internal.h"
#include <errno.h>
#include <string.h>

/* ---- votes ---- */

typedef struct ChildTask {
    const QuorumCall *c;
    QuorumFn *fn;
    unsigned child;
    int *ret;
    CoGroup *done;
} ChildTask;

static void coroutine_fn child_task(void *opaque)
{
    ChildTask *t = opaque;
    CoGroup *done = t->done;

    *t->ret = t->fn(t->c, t->child);
    co_group_done(done);
}

void coroutine_fn quorum_all(const QuorumCall *c, QuorumFn *fn, int *ret)
{
    unsigned n = c->set->n;
    g_autofree ChildTask *tasks = g_new0(ChildTask, n);
    CoGroup done;

    co_group_init(&done);
    co_group_add(&done, n);
    for (unsigned i = 0; i < n; i++) {
        tasks[i] = (ChildTask){.c = c, .fn = fn, .child = i, .ret = &ret[i], .done = &done};
        co_start(child_task, &tasks[i]);
    }
    co_group_wait(&done);
    co_group_destroy(&done);
}

int quorum_vote_results(const QuorumCall *c, QuorumOpType type, const int *ret)
{
    const QuorumState *s = c->n->state;
    unsigned succeeded = 0, most = 0;
    int commonest = 0;

    for (unsigned i = 0; i < c->set->n; i++) {
        unsigned same = 0;

        if (ret[i] >= 0) {
            succeeded++;
            continue;
        }
        quorum_report_bad(c->set->child[i], type, c->offset.v, c->bytes, ret[i]);
        for (unsigned j = 0; j < c->set->n; j++) {
            same += ret[j] == ret[i];
        }
        if (same > most) {
            most = same;
            commonest = ret[i];
        }
    }
    if (succeeded >= s->threshold) {
        return 0;
    }
    quorum_report_failure(c->n, c->offset.v, c->bytes);
    return commonest;
}

static int coroutine_fn call_and_vote(QuorumCall *c, QuorumFn *fn, QuorumOpType type)
{
    g_autofree int *ret = NULL;
    int result;

    c->set = quorum_set_enter(c->n->state);
    ret = g_new0(int, c->set->n);
    quorum_all(c, fn, ret);
    result = quorum_vote_results(c, type, ret);
    quorum_set_leave(c->set);
    return result;
}

/* ---- requests ---- */

static int coroutine_fn write_child(const QuorumCall *c, unsigned child)
{
    return edge_pwritev(c->set->child[child], c->r, c->offset, c->iov, c->flags);
}

static int coroutine_fn zero_child(const QuorumCall *c, unsigned child)
{
    return edge_pwrite_zeroes(c->set->child[child], c->r, c->offset, c->bytes, c->flags);
}

static int coroutine_fn flush_child(const QuorumCall *c, unsigned child)
{
    return edge_flush(c->set->child[child], c->r);
}

static int coroutine_fn write_locked(QuorumCall *c, QuorumFn *fn)
{
    QuorumState *s = c->n->state;
    CoRange range;
    int ret;

    co_range_lock(&s->lock, &range, c->offset.v, c->bytes, false);
    ret = call_and_vote(c, fn, QUORUM_OP_TYPE_WRITE);
    co_range_unlock(&s->lock, &range);
    return ret;
}

static int coroutine_fn quorum_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                       unsigned flags)
{
    QuorumCall c = {
        .n = n, .r = r, .offset = offset, .bytes = iov->size, .iov = iov, .flags = flags};

    return write_locked(&c, write_child);
}

static int coroutine_fn quorum_pwrite_zeroes(Node *n, Request *r, GuestOffset offset,
                                             uint64_t bytes, unsigned flags)
{
    /* Where a child has to write them, it does; a refusal would be a vote. */
    QuorumCall c = {.n = n,
                    .r = r,
                    .offset = offset,
                    .bytes = bytes,
                    .flags = flags & ~(unsigned)REQ_NO_FALLBACK};

    return flags & REQ_NO_FALLBACK ? -ENOTSUP : write_locked(&c, zero_child);
}

static int coroutine_fn quorum_flush(Node *n, Request *r)
{
    QuorumCall c = {.n = n, .r = r, .bytes = 0};

    return call_and_vote(&c, flush_child, QUORUM_OP_TYPE_FLUSH);
}

/* Bytes that all children have. */
static uint64_t common_size(const QuorumSet *set)
{
    uint64_t size = UINT64_MAX;

    for (unsigned i = 0; i < set->n; i++) {
        const Node *child = atomic_load_explicit(&set->child[i]->node, memory_order_acquire);

        size = MIN(size, atomic_load(&child->size));
    }
    return size;
}

/* Every child has to follow; the disk is as large as the smallest. */
static int coroutine_fn quorum_truncate(Node *n, Request *r, uint64_t size, bool exact)
{
    QuorumState *s = n->state;
    QuorumSet *set = quorum_set_enter(s);
    int ret = 0;

    if (size < atomic_load(&n->size)) {
        atomic_store(&n->size, size);
    }
    for (unsigned i = 0; i < set->n && ret >= 0; i++) {
        ret = edge_truncate(set->child[i], r, size, exact);
    }
    atomic_store(&n->size, common_size(set));
    quorum_set_leave(set);
    return ret < 0 ? ret : 0;
}

/* Zero is what all children know to be zero. */
static int coroutine_fn quorum_block_status(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                            unsigned flags, bool precise, uint64_t *ret_bytes,
                                            HostOffset *ret_map)
{
    QuorumSet *set = quorum_set_enter(n->state);
    uint64_t zero = bytes, data = 0;

    (void)precise;
    *ret_map = (HostOffset){0};
    for (unsigned i = 0; i < set->n; i++) {
        uint64_t len;
        int ret = edge_block_status_above(set->child[i], r, offset, bytes, flags, &len, NULL);

        if (ret < 0 || !(ret & STATUS_ZERO)) {
            data = MAX(data, ret < 0 ? bytes : MIN(len, bytes));
        } else {
            zero = MIN(zero, len);
        }
    }
    quorum_set_leave(set);
    *ret_bytes = data ? data : zero;
    return (data ? STATUS_DATA : STATUS_ZERO) | STATUS_ALLOCATED;
}

/* ---- control ---- */

static bool invalid(const Node *n, const char *text, Error **errp)
{
    error_set(errp, ERROR_INVALID, n->name, "open", "%s", text);
    return false;
}

static bool check_options(const Node *n, const BlockdevOptionsQuorum *o, unsigned count,
                          Error **errp)
{
    bool verify = o->has_blkverify && o->blkverify;

    if (count < 1) {
        return invalid(n, "Number of provided children must be 1 or more", errp);
    }
    if (o->vote_threshold < 1) {
        return invalid(n, "Parameter 'vote-threshold' expects a value >= 1", errp);
    }
    if ((uint64_t)o->vote_threshold > count) {
        return invalid(n, "threshold may not exceed children count", errp);
    }
    if (verify && (count != 2 || o->vote_threshold != 2)) {
        return invalid(
            n,
            "blkverify=on can only be set if there are exactly two files and vote-threshold is 2",
            errp);
    }
    if (verify && o->has_rewrite_corrupted && o->rewrite_corrupted) {
        return invalid(n, "rewrite-corrupted=on cannot be used with blkverify=on", errp);
    }
    return true;
}

static bool coroutine_fn open_children(Node *n, const BlockdevOptionsQuorum *o, QuorumSet *set,
                                       Error **errp)
{
    QuorumState *s = n->state;

    for (const BlockdevRefList *l = o->children; l; l = l->next) {
        g_autofree char *name = g_strdup_printf("children.%u", s->next_index);
        bool ok = node_open_child(n, l->value, name, EDGE_FILTERED, errp);

        n->file = NULL; /* none of them is the disk */
        if (!ok) {
            return false;
        }
        set->child[s->next_index++] = g_ptr_array_index(n->children, n->children->len - 1);
    }
    return true;
}

bool quorum_check_size(const Node *n, const Node *first, const Node *child, Error **errp)
{
    if (atomic_load(&((Node *)child)->size) != atomic_load(&((Node *)first)->size)) {
        error_set(errp, ERROR_INVALID, n->name, "open",
                  "Children '%s' and '%s' of a quorum differ in size", first->name, child->name);
        return false;
    }
    return true;
}

static bool check_children(Node *n, const QuorumSet *set, Error **errp)
{
    Node *first = set->child[0]->target;

    for (unsigned i = 0; i < set->n; i++) {
        const Node *child = set->child[i]->target;

        if (!quorum_check_size(n, first, child, errp)) {
            return false;
        }
        if (n->auto_read_only && node_is_read_only(child)) {
            atomic_store(&n->read_only, true);
        }
    }
    atomic_store(&n->size, atomic_load(&first->size));
    return true;
}

static bool coroutine_fn quorum_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    const BlockdevOptionsQuorum *o = &options->u.quorum;
    QuorumState *s = n->state;
    unsigned count = 0;
    QuorumSet *set;

    for (const BlockdevRefList *l = o->children; l; l = l->next) {
        count++;
    }
    if (!check_options(n, o, count, errp)) {
        return false;
    }
    node_take_place(n); /* lists of nodes have it before its children */
    set = quorum_set_new(NULL, count);
    s->threshold = (unsigned)o->vote_threshold;
    s->blkverify = o->has_blkverify && o->blkverify;
    s->rewrite_corrupted = o->has_rewrite_corrupted && o->rewrite_corrupted;
    s->fifo = o->has_read_pattern && o->read_pattern == QUORUM_READ_PATTERN_FIFO;
    atomic_store(&s->rewrites, s->rewrite_corrupted);
    if (!open_children(n, o, set, errp) || !check_children(n, set, errp)) {
        quorum_set_leave(set);
        quorum_set_free(set);
        return false;
    }
    atomic_store_explicit(&s->set, set, memory_order_release);
    co_range_lock_init(&s->lock);
    return true;
}

static void coroutine_fn quorum_close(Node *n)
{
    QuorumState *s = n->state;
    QuorumSet *set = atomic_load(&s->set);

    co_range_lock_destroy(&s->lock);
    quorum_set_leave(set);
    quorum_set_free(set);
}

/* Who wrote to one child beside us would make it differ. */
static void quorum_child_perm(const Node *n, EdgeRole role, unsigned parent_perm,
                              unsigned parent_shared, unsigned *perm, unsigned *shared)
{
    QuorumState *s = n->state;

    (void)role;
    *perm = parent_perm;
    if (atomic_load(&s->rewrites)) {
        *perm |=
            PERM_WRITE; /* also if n is read-only: what is put right does not change the disk */
    }
    *shared = (parent_shared & PERM_CONSISTENT_READ) | PERM_WRITE_UNCHANGED;
}

/* Q2 */
static void coroutine_fn quorum_ro_commit(Node *n)
{
    QuorumState *s = n->state;
    CoRange range;

    atomic_store_explicit(&s->rewrites, false, memory_order_seq_cst);
    co_range_lock(&s->lock, &range, 0, BLOCK_MAX_SIZE, false);
    co_range_unlock(&s->lock, &range);
}

/* It is the disk again. */
static bool coroutine_fn quorum_rw_begin(Node *n, Error **errp)
{
    QuorumState *s = n->state;

    atomic_store(&s->rewrites, s->rewrite_corrupted);
    if (s->rewrite_corrupted && !perm_refresh(n, errp)) {
        atomic_store(&s->rewrites, false);
        return false;
    }
    return true;
}

const BlockDriver driver_quorum = {
    .name = "quorum",
    .replicates = true,
    .state_size = sizeof(QuorumState),
    .open = quorum_open,
    .close = quorum_close,
    .child_perm = quorum_child_perm,
    .ro_commit = quorum_ro_commit,
    .rw_begin = quorum_rw_begin,
    .add_child = quorum_add_child,
    .remove_child = quorum_remove_child,
    .preadv = quorum_preadv,
    .pwritev = quorum_pwritev,
    .has_fua = true, /* passed on */
    .pwrite_zeroes = quorum_pwrite_zeroes,
    .flush = quorum_flush,
    .truncate = quorum_truncate,
    .block_status = quorum_block_status,
};

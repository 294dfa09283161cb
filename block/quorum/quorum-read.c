/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reads of a quorum.
 *
 * Pattern quorum: all children are read at once into memory of our own (a guest may write into its own meanwhile), and what at least
 * `threshold` of them agree on is the data.  A write that is under way may have reached some of them and others not yet; so a read that finds
 * differences looks again with its range locked, and only what differs then is bad.  Rewriting happens under the same lock: it never
 * brings old data back.
 *
 * Pattern fifo: the first child that can be read has the data.
 */
#include "quorum.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int coroutine_fn read_child(const QuorumCall *c, unsigned child)
{
    return edge_pread(c->set->child[child], c->r, c->offset, c->bufs[child], c->bytes, c->flags);
}

static bool all_same(const QuorumCall *c, const int *ret)
{
    int first = -1;

    for (unsigned i = 0; i < c->set->n; i++) {
        if (ret[i] < 0) {
            continue;
        }
        if (first < 0) {
            first = (int)i;
        } else if (memcmp(c->bufs[first], c->bufs[i], c->bytes) != 0) {
            return false;
        }
    }
    return true;
}

/* The child whose data most others have too, the first of them; *ret_votes: how many have it. */
static unsigned winner_of(const QuorumCall *c, const int *ret, unsigned *ret_votes)
{
    unsigned winner = 0;

    *ret_votes = 0;
    for (unsigned i = 0; i < c->set->n; i++) {
        unsigned votes = 0;

        for (unsigned j = i; ret[i] >= 0 && j < c->set->n; j++) {
            votes += ret[j] >= 0 && memcmp(c->bufs[i], c->bufs[j], c->bytes) == 0;
        }
        if (votes > *ret_votes) {
            *ret_votes = votes;
            winner = i;
        }
    }
    return winner;
}

/* The range is locked.  What fails here was reported as bad already and will be again. */
static void coroutine_fn rewrite(const QuorumCall *c, unsigned child, unsigned winner)
{
    if (edge_pwrite(c->set->child[child], c->r, c->offset, c->bufs[winner], c->bytes, 0) < 0) {
        quorum_report_bad(c->set->child[child], QUORUM_OP_TYPE_WRITE, c->offset.v, c->bytes, -EIO);
    }
}

static bool get_buffers(QuorumCall *c)
{
    bool ok = true;

    c->bufs = g_new0(void *, c->set->n);
    for (unsigned i = 0; i < c->set->n && ok; i++) {
        c->bufs[i] = block_try_alloc(c->bytes);
        ok = c->bufs[i] != NULL;
    }
    return ok;
}

static void free_buffers(QuorumCall *c)
{
    for (unsigned i = 0; c->bufs && i < c->set->n; i++) {
        free(c->bufs[i]);
    }
    g_free(c->bufs);
}

/* The range is locked.  rewrites: what loses is put right. */
static int coroutine_fn count_votes(const QuorumCall *c, bool rewrites, unsigned *ret_winner)
{
    const QuorumState *s = c->n->state;
    g_autofree int *ret = g_new0(int, c->set->n);
    unsigned votes;
    int result;

    quorum_all(c, read_child, ret);
    result = quorum_vote_results(c, QUORUM_OP_TYPE_READ, ret);
    if (result < 0) {
        return result;
    }
    *ret_winner = winner_of(c, ret, &votes);
    if (votes < s->threshold) {
        quorum_report_failure(c->n, c->offset.v, c->bytes);
        return -EIO;
    }
    for (unsigned i = 0; i < c->set->n; i++) {
        if (ret[i] >= 0 && memcmp(c->bufs[i], c->bufs[*ret_winner], c->bytes) != 0) {
            quorum_report_bad(c->set->child[i], QUORUM_OP_TYPE_READ, c->offset.v, c->bytes, 0);
            if (rewrites) {
                rewrite(c, i, *ret_winner);
            }
        }
    }
    return 0;
}

/* Once more, with the range locked.  By a request of its own: the first one may have decided for children that were snapshotted since, and what is
 * read there must not be written to where guests write now. */
static int coroutine_fn look_again(const QuorumCall *first, const IoVector *to)
{
    QuorumState *s = first->n->state;
    QuorumCall c = *first;
    unsigned winner = 0;
    CoRange range;
    bool rewrites;
    Request r;
    int ret;

    co_range_lock(&s->lock, &range, c.offset.v, c.bytes, false);
    rewrites = atomic_load_explicit(&s->rewrites, memory_order_seq_cst);
    request_begin(&r, rewrites ? REQUEST_WRITE : REQUEST_READ);
    r.passes_holds = true;
    r.behalf = first->r;
    c.r = &r;
    if (rewrites) {
        c.flags &= ~(unsigned)REQ_BELOW_COW; /* it counts as a write */
    }
    c.set = quorum_set_enter(s);
    ret = get_buffers(&c) ? count_votes(&c, rewrites, &winner) : -ENOMEM;
    if (ret == 0) {
        iov_from_buf(to, 0, c.bufs[winner], c.bytes);
    }
    free_buffers(&c);
    quorum_set_leave(c.set);
    request_end(&r);
    co_range_unlock(&s->lock, &range);
    return ret;
}

static int coroutine_fn read_first(const QuorumCall *c, const IoVector *iov)
{
    int ret = -EIO;

    for (unsigned i = 0; i < c->set->n; i++) {
        ret = edge_preadv(c->set->child[i], c->r, c->offset, iov, c->flags);
        if (ret >= 0) {
            return ret;
        }
        quorum_report_bad(c->set->child[i], QUORUM_OP_TYPE_READ, c->offset.v, c->bytes, ret);
    }
    return ret;
}

static int coroutine_fn read_all(QuorumCall *c, const IoVector *iov)
{
    g_autofree int *ret = g_new0(int, c->set->n);
    unsigned votes;
    int result;

    if (!get_buffers(c)) {
        free_buffers(c);
        return -ENOMEM;
    }
    quorum_all(c, read_child, ret);
    if (all_same(c, ret)) {
        unsigned winner = winner_of(c, ret, &votes);

        result = quorum_vote_results(c, QUORUM_OP_TYPE_READ, ret);
        if (result == 0) {
            iov_from_buf(iov, 0, c->bufs[winner], c->bytes);
        }
    } else {
        result = look_again(c, iov);
    }
    free_buffers(c);
    return result;
}

int coroutine_fn quorum_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                               unsigned flags)
{
    QuorumState *s = n->state;
    QuorumCall c = {.n = n, .r = r, .offset = offset, .bytes = iov->size, .flags = flags};
    int ret;

    c.set = quorum_set_enter(s);
    ret = s->fifo ? read_first(&c, iov) : read_all(&c, iov);
    quorum_set_leave(c.set);
    return ret;
}

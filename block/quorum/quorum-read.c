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
    const QuorumState *s = c->n->state;

    return edge_pread(s->children[child], c->r, c->offset, c->bufs[child], c->bytes, c->flags);
}

static bool all_same(const QuorumCall *c, const int *ret)
{
    const QuorumState *s = c->n->state;
    int first = -1;

    for (unsigned i = 0; i < s->nchildren; i++) {
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
    const QuorumState *s = c->n->state;
    unsigned winner = 0;

    *ret_votes = 0;
    for (unsigned i = 0; i < s->nchildren; i++) {
        unsigned votes = 0;

        for (unsigned j = i; ret[i] >= 0 && j < s->nchildren; j++) {
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
    const QuorumState *s = c->n->state;
    Request r;

    if (atomic_load_explicit(&c->n->read_only, memory_order_seq_cst)) {
        return;
    }
    request_begin(&r, REQUEST_WRITE);
    r.passes_holds = true;
    if (edge_pwrite(s->children[child], &r, c->offset, c->bufs[winner], c->bytes, 0) < 0) {
        quorum_report_bad(c->n, child, QUORUM_OP_TYPE_WRITE, c->offset.v, c->bytes, -EIO);
    }
    request_end(&r);
}

/* The range is locked. */
static int coroutine_fn look_again(const QuorumCall *c, int *ret, unsigned *ret_winner)
{
    const QuorumState *s = c->n->state;
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
    for (unsigned i = 0; i < s->nchildren; i++) {
        if (ret[i] >= 0 && memcmp(c->bufs[i], c->bufs[*ret_winner], c->bytes) != 0) {
            quorum_report_bad(c->n, i, QUORUM_OP_TYPE_READ, c->offset.v, c->bytes, 0);
            if (s->rewrite_corrupted) {
                rewrite(c, i, *ret_winner);
            }
        }
    }
    return 0;
}

static int coroutine_fn vote(const QuorumCall *c, unsigned *ret_winner)
{
    QuorumState *s = c->n->state;
    g_autofree int *ret = g_new0(int, s->nchildren);
    unsigned votes;
    CoRange range;
    int result;

    quorum_all(c, read_child, ret);
    if (all_same(c, ret)) {
        *ret_winner = winner_of(c, ret, &votes);
        return quorum_vote_results(c, QUORUM_OP_TYPE_READ, ret);
    }
    co_range_lock(&s->lock, &range, c->offset.v, c->bytes, false);
    result = look_again(c, ret, ret_winner);
    co_range_unlock(&s->lock, &range);
    return result;
}

static int coroutine_fn read_first(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                   unsigned flags)
{
    const QuorumState *s = n->state;
    int ret = -EIO;

    for (unsigned i = 0; i < s->nchildren; i++) {
        ret = edge_preadv(s->children[i], r, offset, iov, flags);
        if (ret >= 0) {
            return ret;
        }
        quorum_report_bad(n, i, QUORUM_OP_TYPE_READ, offset.v, iov->size, ret);
    }
    return ret;
}

int coroutine_fn quorum_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                               unsigned flags)
{
    const QuorumState *s = n->state;
    QuorumCall c = {.n = n, .r = r, .offset = offset, .bytes = iov->size, .flags = flags};
    unsigned winner = 0;
    int ret = 0;

    if (s->fifo) {
        return read_first(n, r, offset, iov, flags);
    }
    c.bufs = g_new0(void *, s->nchildren);
    for (unsigned i = 0; i < s->nchildren && ret == 0; i++) {
        c.bufs[i] = block_try_alloc(iov->size);
        ret = c.bufs[i] ? 0 : -ENOMEM;
    }
    if (ret == 0) {
        ret = vote(&c, &winner);
    }
    if (ret == 0) {
        iov_from_buf(iov, 0, c.bufs[winner], iov->size);
    }
    for (unsigned i = 0; i < s->nchildren; i++) {
        free(c.bufs[i]);
    }
    g_free(c.bufs);
    return ret;
}

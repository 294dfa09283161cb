/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Committing a disk into its backing image once, for who waits for it (the console's `commit`): the disk stays what it is, on top of its backing.
 *
 * It is an active commit that nobody sees among the jobs.  When base has all that top has, and is durable, top is emptied where nobody has written
 * since: what it has there and what base has is the same.
 *
 *   one table of top after another: writes that come wait (gate.c), those inside end; what is marked as written since stays; the entries are emptied,
 *   in memory, and writes go on.  If that takes more than EMPTY_NS it is tried again, a few times: no guest waits longer at once.
 */
#include "../gate.h"
#include "../node-internal.h"
#include "block/io.h"
#include "block/transaction.h"
#include "commit.h"
#include "job-internal.h"
#include "qapi-types.h"
#include "util/log.h"
#include <errno.h>

#define EMPTY_NS    INT64_C(50000000)
#define EMPTY_TRIES 5u

typedef struct Emptying {
    CommitJob *c;
    bool dirty; /* somebody has written there */
} Emptying;

/* Everything that takes time is done, no write is in top. */
static bool claim(void *opaque, uint64_t offset, uint64_t bytes)
{
    Emptying *e = opaque;
    uint64_t at, len;

    e->dirty = dirty_bitmap_next(e->c->copy.todo, offset, 1, &at, &len) && at < offset + bytes;
    return !e->dirty && gate_claim(e->c->top);
}

static int coroutine_fn empty_piece(CommitJob *c, uint64_t offset, uint64_t bytes)
{
    Emptying e = {.c = c};
    int ret = -ETIMEDOUT;

    gate_close_writes(c->top, clock_ns() + EMPTY_NS);
    if (gate_wait_writes(c->top)) {
        Request r;

        request_begin(&r, REQUEST_WRITE);
        r.passes_gates = true;
        ret = c->top->driver->make_empty(c->top, &r, guest(offset), bytes, claim, &e);
        request_end(&r);
        if (ret == -ECANCELED && !e.dirty) {
            ret = -ETIMEDOUT;
        }
    }
    gate_open(c->top);
    return ret;
}

/* What comes at offset: is there something to empty in the next *ret_bytes?  So that its table is in memory, too. */
static int coroutine_fn look(CommitJob *c, uint64_t offset, uint64_t *ret_bytes)
{
    Request r;
    int ret;

    request_begin(&r, REQUEST_READ);
    ret = edge_block_status(c->top_edge, &r, guest(offset), atomic_load(&c->top->size) - offset, 0,
                            false, ret_bytes, NULL);
    request_end(&r);
    return ret < 0 ? ret : (ret & STATUS_ALLOCATED) != 0;
}

static void coroutine_fn empty(CommitJob *c)
{
    uint64_t size = atomic_load(&c->top->size), bytes;
    int ret = 0;

    for (uint64_t offset = 0; offset < size && ret >= 0; offset += bytes) {
        ret = job_is_cancelled(&c->job) ? -ECANCELED : look(c, offset, &bytes);
        if (ret <= 0) {
            continue;
        }
        bytes = MIN(bytes, c->top->driver->empty_max(c->top, guest(offset)));
        for (unsigned tries = 0; tries < EMPTY_TRIES; tries++) {
            ret = empty_piece(c, offset, bytes);
            if (ret != -ETIMEDOUT) {
                break;
            }
            co_sleep_ns(EMPTY_NS);
        }
        if (ret == -ETIMEDOUT || ret == -ECANCELED) {
            ret = 0; /* it stays; what is in it is right */
        }
    }
    if (ret < 0) {
        log_info("%s: was not emptied after it was committed: %s", c->top->name, g_strerror(-ret));
    }
}

bool coroutine_fn commit_once_end(CommitJob *c, Error **errp)
{
    Transaction *hold;

    if (!c->top->driver->make_empty) {
        return true;
    }
    hold = reservation_new();
    if (reservation_add(hold, c->top)) {
        empty(c);
    }
    reservation_end(hold);
    return node_write_out(c->top, errp);
}

bool coroutine_fn job_commit_once(Node *n, Error **errp)
{
    Node *base = chain_backing(n);
    BlockCommitArg arg = {.device = n->name};
    CommitJob *c;
    bool ok;

    if (!base) {
        error_set_errno(errp, ENOTSUP, n->name, "commit", "There is no backing image");
        return false;
    }
    arg.base_node = base->name;
    chain_lock();
    ok = commit_start(&arg, true, &c, errp);
    chain_unlock();
    if (!ok) {
        return false;
    }
    job_wait_gone(&c->job);
    ok = !c->job.err;
    if (!ok) {
        error_set(errp, ERROR_IO, arg.device, "commit", "%s", c->job.err->message);
    }
    job_unref(&c->job);
    return ok;
}

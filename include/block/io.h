/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests: how I/O enters nodes.
 *
 * A client's request (one NBD command, one step of a job) is a Request: begun, used for any number of calls below, ended, all by
 * coroutines of one thread.  The first call through an edge *decides* for a node (old or new, when a change is pending) and
 * *pins* it: every further call of the same Request through that edge goes to the same node, until the Request ends.  Drivers hand
 * the Request they were given on to their children; so a split, a read-modify-write or a copy can never be half old
 * and half new.  I/O that belongs to no client's request (metadata written back by a driver) begins a Request of its own.
 *
 * All functions return 0 (or what they say) or a negative errno: -EINVAL for a range that is too long or overflows, -EIO for one
 * beyond the end of the node, -EPERM for a write-like call to a read-only node, what the driver said otherwise.
 * Ranges are bytes of any alignment; padding to the node's limits is done here.  Coroutines of any loop.
 */
#ifndef BLOCK_IO_H
#define BLOCK_IO_H

#include "block/node.h"

typedef enum RequestKind {
    REQUEST_READ,
    REQUEST_WRITE, /* write-like; also any that may write on the way */
    REQUEST_FLUSH,
    REQUEST_PASSED, /* only in counts: write-like, came through a fresh filter (Edge.fresh) */
} RequestKind;

typedef struct Pin {
    Edge *edge;
    Node *node;
    uint8_t counted; /* RequestKind under which the node counts it */
} Pin;

#define REQUEST_PINS 6
struct Request {
    RequestKind kind;
    unsigned slot; /* loop_slot_self() */
    unsigned npins;
    bool passes_gates; /* the driver's own I/O while its node changes */
    bool
        passes_holds; /* counts as a write, but changes nothing that anybody reads: a read may be waiting for it */
    const Request *
        behalf; /* what waits for this one; where that is let in already, this is too; NULL: none */
    Pin pins[REQUEST_PINS];
    GArray *more; /* of Pin: deep chains */
};

void request_begin(Request *r, RequestKind kind);
/* Drops the pins; the request is over when this returns. */
void request_end(Request *r);

/* The node that r goes to through e; decides and pins at first use. */
Node *edge_enter(Edge *e, Request *r);

int coroutine_fn edge_preadv(Edge *e, Request *r, GuestOffset offset, const IoVector *iov,
                             unsigned flags);
int coroutine_fn edge_pwritev(Edge *e, Request *r, GuestOffset offset, const IoVector *iov,
                              unsigned flags);
int coroutine_fn edge_pwrite_zeroes(Edge *e, Request *r, GuestOffset offset, uint64_t bytes,
                                    unsigned flags);
int coroutine_fn edge_pdiscard(Edge *e, Request *r, GuestOffset offset, uint64_t bytes);
/* As driver->copy_up(); -ENOTSUP: the driver has no such thing. */
int coroutine_fn edge_copy_up(Edge *e, Request *r, GuestOffset offset, uint64_t bytes, bool zero,
                              bool skip_zeroes);
/* As driver->is_contended(). */
bool coroutine_fn edge_is_contended(Edge *e, Request *r);
/* Durable: all that was completed before, in this node, in what it uses, and in an old node below it that is not known
 * flushed. */
int coroutine_fn edge_flush(Edge *e, Request *r);
/* Resizes; new space reads as zeroes, unless edge_grows_zero() says otherwise.  exact: may not be larger than asked.  -ENOTSUP: it has one size, or
 * no more than it has. */
int coroutine_fn edge_truncate(Edge *e, Request *r, uint64_t size, bool exact);

/* Same with flat memory. */
int coroutine_fn edge_pread(Edge *e, Request *r, GuestOffset offset, void *buf, size_t len,
                            unsigned flags);
int coroutine_fn edge_pwrite(Edge *e, Request *r, GuestOffset offset, const void *buf, size_t len,
                             unsigned flags);

/* Status of [offset, offset + *pnum) of this node's layer alone.  In: bytes > 0 asked for.  Out: *ret_bytes >= 1, a prefix
 * with one answer; *ret_map the offset in the node below if STATUS_OFFSET_VALID (may be NULL).  Returns an or of BlockStatus.
 * precise: look for holes below too, where that costs little. */
int coroutine_fn edge_block_status(Edge *e, Request *r, GuestOffset offset, uint64_t bytes,
                                   unsigned flags, bool precise, uint64_t *ret_bytes,
                                   HostOffset *ret_map);
/* The same through the whole chain: never "unallocated" (then it is STATUS_ZERO); STATUS_DATA, STATUS_ZERO, or neither: there is nothing of
 * use, but it need not read as zeroes.
 * *ret_depth (may be NULL): 0 nowhere, 1 in the node itself, 2 in its backing, ... */
int coroutine_fn edge_block_status_above(Edge *e, Request *r, GuestOffset offset, uint64_t bytes,
                                         unsigned flags, uint64_t *ret_bytes, int *ret_depth);

/* What the nodes from e's down to `last` decide: STATUS_ALLOCATED with STATUS_DATA or STATUS_ZERO, or 0: none
 * of them has the range.  Where a node in between is too short to tell, it is zero. */
int coroutine_fn edge_block_status_until(Edge *e, Request *r, const Node *last, GuestOffset offset,
                                         uint64_t bytes, unsigned flags, uint64_t *ret_bytes);

/* For format drivers: reads what `n`'s backing chain has for the range; zeroes where there is no backing or beyond its end.
 * With REQ_COPY it waits as "copies wait" demands. */
int coroutine_fn backing_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                unsigned flags);
/* STATUS_ZERO if the backing chain is known to read as zeroes for the whole range (or there is none); else STATUS_DATA. */
int coroutine_fn backing_is_zero(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                 unsigned flags);

/* Bytes the edge's node has now. */
uint64_t edge_size(Edge *e, Request *r);
/* False: space that edge_truncate() brings may have old data in it (a device). */
bool edge_grows_zero(Edge *e, Request *r);

/* Memory fit for any node: aligned to 4 KiB; NULL if there is none.  Free with free(). */
void *block_try_alloc(size_t len);

#endif

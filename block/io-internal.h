/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests inside a node, after edge_enter(); private to block/.
 */
#ifndef BLOCK_IO_INTERNAL_H
#define BLOCK_IO_INTERNAL_H

#include "block/driver.h"
#include "block/io.h"

int coroutine_fn node_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                             unsigned flags);
/* Flushes this node and what it stores in, not its backing chain.  0 or a negative errno. */
int coroutine_fn node_flush_self(Node *n, Request *r);
/* edge_enter() for a call with these flags: REQ_BELOW_COW counts as a read. */
Node *edge_enter_flags(Edge *e, Request *r, unsigned flags);
/* Waits as "copies wait" demands before anything is read or decided through e for a copy. */
void coroutine_fn edge_copy_barrier(Edge *e);

/* 0 if [offset, offset + bytes) lies within n, -EINVAL or -EIO otherwise. */
int node_check_range(const Node *n, GuestOffset offset, uint64_t bytes);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What filters have in common: an operation that a filter does nothing about goes to its child, n->file, as it came.
 *
 * A filter has the size of its child, and limits of its own only where it says so: what the child's driver wants of requests is seen to at the
 * edge that leads there.  It answers no block status: who asks looks through it (block/status.c).
 * All of this may stand in a BlockDriver; who calls it is written in block/driver.h.
 */
#ifndef BLOCK_FILTER_FILTER_H
#define BLOCK_FILTER_FILTER_H

#include "block/driver.h"
#include "block/reopen.h"

/* For open(): opens the child that `file` names; the node takes its size, and is read-only with it if that is allowed.
 * Errors: those of the child. */
bool coroutine_fn filter_open_file(Node *n, const struct BlockdevRef *file, Error **errp);

bool coroutine_fn filter_reopen_prepare(Node *n, Reopen *r, Error **errp);
void coroutine_fn filter_reopen_switch(Node *n, Reopen *r);
void coroutine_fn filter_reopen_end(Node *n, Reopen *r, bool done);
void filter_child_resized(Node *n);

int coroutine_fn filter_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                               unsigned flags);
int coroutine_fn filter_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                unsigned flags);
int coroutine_fn filter_pwrite_zeroes(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                      unsigned flags);
int coroutine_fn filter_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes);
int coroutine_fn filter_copy_up(Node *n, Request *r, GuestOffset offset, uint64_t bytes, bool zero,
                                bool skip_zeroes);
int coroutine_fn filter_truncate(Node *n, Request *r, uint64_t size, bool exact);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Operations of filters that pass to the child; see filter.h.
 */
#include "filter.h"

bool coroutine_fn filter_open_file(Node *n, const struct BlockdevRef *file, Error **errp)
{
    if (!node_open_child(n, file, "file", EDGE_FILTERED, errp)) {
        return false;
    }
    filter_child_resized(n);
    if (n->auto_read_only && atomic_load(&n->file->target->read_only)) {
        atomic_store(&n->read_only, true);
    }
    return true;
}

void filter_child_resized(Node *n)
{
    atomic_store(&n->size, atomic_load(&n->file->target->size));
}

bool coroutine_fn filter_reopen_prepare(Node *n, Reopen *r, Error **errp)
{
    (void)n;
    (void)errp;
    if (r->auto_read_only && node_will_be_read_only(r->file->target)) {
        r->read_only = true;
    }
    return true;
}

void coroutine_fn filter_reopen_switch(Node *n, Reopen *r)
{
    atomic_store(&n->size, atomic_load(&r->file->target->size));
}

void coroutine_fn filter_reopen_end(Node *n, Reopen *r, bool done)
{
    (void)n;
    (void)r;
    (void)done;
}

int coroutine_fn filter_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                               unsigned flags)
{
    return edge_preadv(n->file, r, offset, iov, flags);
}

int coroutine_fn filter_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                unsigned flags)
{
    return edge_pwritev(n->file, r, offset, iov, flags);
}

int coroutine_fn filter_pwrite_zeroes(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                      unsigned flags)
{
    return edge_pwrite_zeroes(n->file, r, offset, bytes, flags);
}

int coroutine_fn filter_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    return edge_pdiscard(n->file, r, offset, bytes);
}

int coroutine_fn filter_copy_up(Node *n, Request *r, GuestOffset offset, uint64_t bytes, bool zero,
                                bool skip_zeroes)
{
    return edge_copy_up(n->file, r, offset, bytes, zero, skip_zeroes);
}

int coroutine_fn filter_truncate(Node *n, Request *r, uint64_t size, bool exact)
{
    int ret;

    if (size < atomic_load(&n->size)) {
        atomic_store(&n->size, size);
    }
    ret = edge_truncate(n->file, r, size, exact);
    atomic_store(&n->size, edge_size(n->file, r));
    return ret;
}

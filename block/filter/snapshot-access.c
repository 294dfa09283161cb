/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver `snapshot-access`: the disk that a copy-before-write filter keeps, to read from: what it was at the filter's instant.
 *
 * What is read can be given back by a discard: it is then neither kept nor readable any more.  Errors: -EACCES for what is not (or no longer) kept,
 * -ENOTSUP over a node that keeps nothing.
 */
#include "../io-internal.h"
#include "../node-internal.h"
#include "block/driver.h"
#include "qapi-types.h"
#include <errno.h>

static bool coroutine_fn access_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    if (!node_open_child(n, options->u.snapshot_access.file, "file", EDGE_STORAGE, errp)) {
        return false;
    }
    n->limits = n->file->target->limits;
    atomic_store(&n->size, atomic_load(&n->file->target->size));
    return true;
}

static void access_child_perm(const Node *n, EdgeRole role, unsigned parent_perm,
                              unsigned parent_shared, unsigned *perm, unsigned *shared)
{
    (void)n;
    (void)role;
    (void)parent_perm;
    (void)parent_shared;
    /* The filter sees to it that what is read stays as it is. */
    *perm = PERM_NONE;
    *shared = PERM_ALL;
}

static int coroutine_fn access_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                      unsigned flags)
{
    Node *below = edge_enter(n->file, r);

    return below->driver->snapshot_preadv
               ? below->driver->snapshot_preadv(below, r, offset, iov, flags)
               : -ENOTSUP;
}

static int coroutine_fn access_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                       unsigned flags)
{
    (void)n;
    (void)r;
    (void)offset;
    (void)iov;
    (void)flags;
    return -ENOTSUP;
}

static int coroutine_fn access_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    Node *below = edge_enter(n->file, r);

    return below->driver->snapshot_pdiscard
               ? below->driver->snapshot_pdiscard(below, r, offset, bytes)
               : -ENOTSUP;
}

static int coroutine_fn access_block_status(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                            unsigned flags, bool precise, uint64_t *ret_bytes,
                                            HostOffset *ret_map)
{
    Node *below = edge_enter(n->file, r);
    int ret;

    (void)precise;
    if (ret_map) {
        *ret_map = host(0);
    }
    if (!below->driver->snapshot_block_status) {
        return -ENOTSUP;
    }
    ret = below->driver->snapshot_block_status(below, r, offset, bytes, flags, ret_bytes);
    return ret < 0 ? ret : (ret & (STATUS_DATA | STATUS_ZERO)) | STATUS_ALLOCATED;
}

static int coroutine_fn access_flush(Node *n, Request *r)
{
    (void)n;
    (void)r;
    return 0; /* nothing is written here */
}

const BlockDriver driver_snapshot_access = {
    .name = "snapshot-access",
    .reads_snapshot = true,
    .state_size = 0,
    .open = access_open,
    .child_perm = access_child_perm,
    .preadv = access_preadv,
    .pwritev = access_pwritev,
    .pdiscard = access_pdiscard,
    .block_status = access_block_status,
    .flush = access_flush,
};

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Internal snapshots: only where their tables are, so that no data is ever written over them.  Their contents are protected by
 * refcounts: what a snapshot shares has no COPIED flag and is copied when it is written.
 *
 * A snapshot table is a row of entries of variable length; everything in it is checked before it is used.
 */
#include "qcow2.h"
#include <inttypes.h>
#include <stdlib.h>

#define ENTRY_HEAD 40u
#define EXTRA_MAX  1024u

static void add_range(Qcow2 *q, HostOffset at, uint64_t bytes)
{
    MetaRange m = {.start = at.v >> q->cluster_bits,
                   .end = cluster_ceil(q, at.v + bytes) >> q->cluster_bits};

    g_array_append_val(q->snapshot_ranges, m);
}

static bool bad(Qcow2 *q, Error **errp, const char *what)
{
    error_set(errp, ERROR_CORRUPT, q->node->name, "open", "Could not read snapshots: %s", what);
    return false;
}

/* One entry at `at`; *ret_len is its length. */
static bool coroutine_fn read_entry(Qcow2 *q, Request *r, HostOffset at, uint64_t file_size,
                                    uint64_t *ret_len, Error **errp)
{
    uint8_t head[ENTRY_HEAD];
    HostOffset l1;
    uint64_t extra, l1_bytes;
    int ret;

    if (at.v > file_size || file_size - at.v < ENTRY_HEAD) {
        return bad(q, errp, "The snapshot table reaches beyond the end of the file");
    }
    ret = edge_pread(q->file, r, host_to_child(at), head, sizeof(head), 0);
    if (ret < 0) {
        error_set_errno(errp, -ret, q->node->name, "open", "Could not read snapshots");
        return false;
    }
    l1 = host(get_be64(head));
    l1_bytes = (uint64_t)get_be32(head + 8) * 8;
    extra = get_be32(head + 36);
    if (extra > EXTRA_MAX) {
        return bad(q, errp, "Too much extra metadata in snapshot table entry");
    }
    if (l1_bytes > QCOW2_MAX_L1_BYTES) {
        return bad(q, errp, "Snapshot L1 table too large");
    }
    if (in_cluster(q, l1.v) || l1.v > BLOCK_MAX_SIZE - l1_bytes) {
        return bad(q, errp, "Snapshot L1 table offset invalid");
    }
    add_range(q, l1, l1_bytes);
    *ret_len = (ENTRY_HEAD + extra + (head[12] << 8 | head[13]) + (head[14] << 8 | head[15]) + 7) &
               ~UINT64_C(7);
    return true;
}

bool coroutine_fn snapshots_open(Qcow2 *q, Request *r, Error **errp)
{
    uint64_t file_size = edge_size(q->file, r), len = 0;
    HostOffset at = q->header.snapshots_offset;

    for (uint32_t i = 0; i < q->header.nb_snapshots; i++) {
        if (!read_entry(q, r, at, file_size, &len, errp)) {
            return false;
        }
        at = host_add(at, len);
        if (at.v - q->header.snapshots_offset.v > QCOW2_MAX_SNAP_BYTES) {
            return bad(q, errp, "Snapshot table is too large");
        }
    }
    if (q->header.nb_snapshots > 0) {
        add_range(q, q->header.snapshots_offset, at.v - q->header.snapshots_offset.v);
    }
    return true;
}

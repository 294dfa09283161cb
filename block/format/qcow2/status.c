/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block status: what this layer has for a range.  Host offsets are told for data and for preallocated zeroes.
 */
#include "qcow2.h"

static int status_of(const Qcow2 *q, const Mapping *m)
{
    /* A place in the data file is none in the file that is asked for. */
    int placed = q->external ? 0 : STATUS_OFFSET_VALID;

    switch (m->type) {
    case MAP_UNALLOCATED:
        return 0;
    case MAP_ZERO:
        return STATUS_ZERO | STATUS_ALLOCATED;
    case MAP_ZERO_ALLOC:
        return STATUS_ZERO | STATUS_ALLOCATED | placed;
    case MAP_DATA:
        return STATUS_DATA | STATUS_ALLOCATED | placed;
    case MAP_COMPRESSED:
        break;
    }
    return STATUS_DATA | STATUS_ALLOCATED | STATUS_COMPRESSED;
}

int coroutine_fn qcow2_block_status(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                    unsigned flags, bool precise, uint64_t *ret_bytes,
                                    HostOffset *ret_map)
{
    Qcow2 *q = qcow2_of(n);
    unsigned phase = use_begin(q, r->slot);
    uint64_t done;
    Mapping m, next;
    int ret = qcow2_lookup(n, r, offset.v, bytes, flags, &m);

    (void)precise;
    /* What has no place in the file goes on over the ends of tables, and compressed clusters over one another. */
    for (done = m.bytes; ret == 0 && done < bytes; done += next.bytes) {
        if (status_of(q, &m) & STATUS_OFFSET_VALID) {
            break;
        }
        ret = qcow2_lookup(n, r, offset.v + done, bytes - done, flags, &next);
        if (ret < 0 || next.type != m.type) {
            break;
        }
    }
    use_end(q, r->slot, phase);
    if (ret < 0) {
        return ret;
    }
    *ret_bytes = done;
    if (ret_map) {
        *ret_map = m.host;
    }
    return status_of(q, &m);
}

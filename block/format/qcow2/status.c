/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block status, and facts about the image.
 */
#include "qapi-types.h"
#include "qcow2.h"

int coroutine_fn qcow2_block_status(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                    unsigned flags, bool precise, uint64_t *ret_bytes,
                                    HostOffset *ret_map)
{
    Qcow2 *q = qcow2_of(n);
    unsigned phase = use_begin(q, r->slot);
    Mapping m;
    int ret = qcow2_lookup(n, r, offset.v, bytes, &m);

    (void)flags;
    (void)precise;
    use_end(q, r->slot, phase);
    if (ret < 0) {
        return ret;
    }
    *ret_bytes = m.bytes;
    switch (m.type) {
    case MAP_UNALLOCATED:
        return 0;
    case MAP_ZERO:
        return STATUS_ZERO | STATUS_ALLOCATED;
    case MAP_ZERO_ALLOC:
        *ret_map = m.host;
        return STATUS_ZERO | STATUS_ALLOCATED | STATUS_OFFSET_VALID;
    case MAP_COMPRESSED:
        return STATUS_DATA | STATUS_ALLOCATED | STATUS_COMPRESSED;
    default:
        *ret_map = m.host;
        return STATUS_DATA | STATUS_ALLOCATED | STATUS_OFFSET_VALID;
    }
}

bool qcow2_facts(Node *n, ImageFacts *ret_facts, Error **errp)
{
    Qcow2 *q = qcow2_of(n);
    ImageInfoSpecific *info = g_new0(ImageInfoSpecific, 1);
    ImageInfoSpecificQCow2 *d = g_new0(ImageInfoSpecificQCow2, 1);

    (void)errp;
    d->compat = g_strdup(q->version < 3 ? "0.10" : "1.1");
    d->refcount_bits = 1 << q->refcount_order;
    d->compression_type =
        q->compression == QCOW2_ZSTD ? QCOW2_COMPRESSION_TYPE_ZSTD : QCOW2_COMPRESSION_TYPE_ZLIB;
    if (q->version >= 3) {
        d->has_lazy_refcounts = d->has_corrupt = d->has_extended_l2 = true;
        d->lazy_refcounts = q->header.compatible & COMPAT_LAZY;
        d->corrupt = q->header.incompatible & INCOMPAT_CORRUPT;
    }
    info->type = IMAGE_INFO_SPECIFIC_KIND_QCOW2;
    info->u.qcow2.data = d;
    *ret_facts = (ImageFacts){
        .cluster_size = q->cluster_size,
        .actual_size = -1,
        .has_dirty = true,
        .dirty = q->header.incompatible & INCOMPAT_DIRTY,
        .backing_file = g_strdup(q->header.backing_file),
        .backing_format = g_strdup(q->header.backing_format),
        .specific = info,
    };
    return true;
}

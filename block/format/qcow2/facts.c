/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What queries say about a qcow2 image.
 */
#include "qapi-types.h"
#include "qcow2.h"

static ImageInfoSpecific *specific(const Qcow2 *q)
{
    ImageInfoSpecific *i = g_new0(ImageInfoSpecific, 1);
    ImageInfoSpecificQCow2 *v = g_new0(ImageInfoSpecificQCow2, 1);

    i->type = IMAGE_INFO_SPECIFIC_KIND_QCOW2;
    i->u.qcow2.data = v;
    v->compat = g_strdup(q->version < 3 ? "0.10" : "1.1");
    v->compression_type =
        q->compression == QCOW2_ZSTD ? QCOW2_COMPRESSION_TYPE_ZSTD : QCOW2_COMPRESSION_TYPE_ZLIB;
    v->refcount_bits = INT64_C(1) << q->refcount_order;
    if (q->version >= 3) {
        v->has_lazy_refcounts = true;
        v->lazy_refcounts = q->header.compatible & COMPAT_LAZY;
        v->has_corrupt = true;
        v->corrupt = atomic_load(&((Qcow2 *)q)->corrupt);
        v->has_extended_l2 = true;
        v->extended_l2 = false;
    }
    return i;
}

bool qcow2_facts(Node *n, ImageFacts *ret_facts, Error **errp)
{
    const Qcow2 *q = qcow2_of(n);

    (void)errp;
    ret_facts->cluster_size = q->cluster_size;
    ret_facts->has_dirty = true;
    ret_facts->dirty = q->opened_dirty;
    ret_facts->backing_file = g_strdup(q->header.backing_file);
    ret_facts->backing_format = g_strdup(q->header.backing_format);
    ret_facts->specific = specific(q);
    return true;
}

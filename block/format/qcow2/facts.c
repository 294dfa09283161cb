/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What queries say about a qcow2 image.
 */
#include "bitmap.h"
#include "block/internal-snapshot.h"
#include "qapi-types.h"

static Qcow2BitmapInfoList *stored_bitmaps(const Qcow2 *q)
{
    Qcow2BitmapInfoList *list = NULL, **tail = &list;

    for (guint i = 0; i < q->stored->len; i++) {
        const StoredBitmap *b = g_ptr_array_index(q->stored, i);
        Qcow2BitmapInfo *info = g_new0(Qcow2BitmapInfo, 1);
        Qcow2BitmapInfoFlagsList **flag = &info->flags;

        info->name = g_strdup(b->name);
        info->granularity = UINT32_C(1) << b->granularity_bits;
        for (unsigned bit = BITMAP_IN_USE; bit <= BITMAP_AUTO; bit <<= 1) {
            if (b->flags & bit) {
                *flag = g_new0(Qcow2BitmapInfoFlagsList, 1);
                (*flag)->value = bit == BITMAP_AUTO ? QCOW2_BITMAP_INFO_FLAGS_AUTO
                                                    : QCOW2_BITMAP_INFO_FLAGS_IN_USE;
                flag = &(*flag)->next;
            }
        }
        *tail = g_new0(Qcow2BitmapInfoList, 1);
        (*tail)->value = info;
        tail = &(*tail)->next;
    }
    return list;
}

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
        v->data_file = data_file_name(&q->header);
        v->has_data_file_raw = q->external;
        v->data_file_raw = q->raw_data;
        v->has_extended_l2 = true;
        v->extended_l2 = q->extended;
        v->bitmaps = stored_bitmaps(q);
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
    ret_facts->snapshots = qcow2_snapshot_ops.list(n);
    return true;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * New images in memory; see include/block/new-image.h.
 */
#include "block/new-image.h"
#include <string.h>

void new_image_init(NewImage *image)
{
    *image = (NewImage){.pieces = g_array_new(false, false, sizeof(ImagePiece))};
}

void new_image_clear(NewImage *image)
{
    for (guint i = 0; image->pieces && i < image->pieces->len; i++) {
        g_free(g_array_index(image->pieces, ImagePiece, i).data);
    }
    g_clear_pointer(&image->pieces, g_array_unref);
    image->size = 0;
}

void new_image_add(NewImage *image, uint64_t offset, void *data, size_t len)
{
    ImagePiece piece = {.offset = offset, .len = len, .data = data};

    g_array_append_val(image->pieces, piece);
}

void new_image_read(const NewImage *image, uint64_t offset, void *buf, size_t len)
{
    memset(buf, 0, len);
    for (guint i = 0; i < image->pieces->len; i++) {
        const ImagePiece *p = &g_array_index(image->pieces, ImagePiece, i);
        uint64_t from = MAX(offset, p->offset), to = MIN(offset + len, p->offset + p->len);

        if (from < to) {
            memcpy((uint8_t *)buf + (from - offset), (uint8_t *)p->data + (from - p->offset),
                   to - from);
        }
    }
}

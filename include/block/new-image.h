/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A new image in memory: what its file will hold, laid out by a format driver and written by whoever makes the file.
 *
 * The file has `size` bytes, all zero but for the pieces, which do not overlap.  They are written in their order: what makes the file
 * an image comes last.  Any thread; one at a time for one NewImage.
 */
#ifndef BLOCK_NEW_IMAGE_H
#define BLOCK_NEW_IMAGE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct ImagePiece {
    uint64_t offset; /* host offset in the file, bytes */
    size_t len;
    void *data; /* the image's own; g_free() */
} ImagePiece;

typedef struct NewImage {
    uint64_t size;  /* bytes */
    GArray *pieces; /* ImagePiece */
} NewImage;

void new_image_init(NewImage *image);
/* Frees the pieces.  An image that is all zero bytes may be cleared too. */
void new_image_clear(NewImage *image);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(NewImage, new_image_clear)

/* What the file has there.  Beyond its end: zeroes. */
void new_image_read(const NewImage *image, uint64_t offset, void *buf, size_t len);

/* Takes over `data`. */
void new_image_add(NewImage *image, uint64_t offset, void *data, size_t len);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Somebody may want to tell users that a command made an image file.
 */
#ifndef BLOCK_IMAGE_CREATED_H
#define BLOCK_IMAGE_CREATED_H

#include "block/driver.h"

/* Called on the control thread, outside of any lock, for every image that a snapshot makes, in the order of the actions. */
typedef void ImageCreatedFn(const char *filename, const char *format, const CreateSpec *spec);
/* NULL: nobody (the default). */
void image_created_set_listener(ImageCreatedFn *fn);
void image_created(const char *filename, const char *format, const CreateSpec *spec);

#endif

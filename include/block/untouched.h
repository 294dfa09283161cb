/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Is a file still the image that a snapshot made, as it was made?  For recovery after a crash, which may delete only that.
 */
#ifndef BLOCK_UNTOUCHED_H
#define BLOCK_UNTOUCHED_H

#include <stdbool.h>
#include <stdint.h>

/* uuid: as g_uuid_string_random() writes it. */
void uuid_from_text(const char *text, uint8_t *ret_16_bytes);

/* True if the open file is a qcow2 image with the group's UUID in its header and no allocated data cluster or internal snapshot; or, if
 * `unfinished`, what a crash can leave of one that was being made.  Blocks.  False also if it cannot be read. */
bool image_is_untouched(int fd, const char *group_uuid, bool unfinished);

#endif

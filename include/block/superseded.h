/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Asked before a user's node is opened: does a recorded snapshot group forbid it?
 */
#ifndef BLOCK_SUPERSEDED_H
#define BLOCK_SUPERSEDED_H

#include "util/error.h"

struct BlockdevOptions;

/* Options that would open a superseded disk for writing are refused: "Disk '%s' was superseded by '%s' in snapshot group '%s': …"; or,
 * with follow=on, *ret_instead (the caller's) opens the newest overlay.  Control thread. */
bool superseded_check(const struct BlockdevOptions *options, struct BlockdevOptions **ret_instead,
                      Error **errp);

#endif

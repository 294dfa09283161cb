/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which options of a node may change; private to block/reopen/.
 */
#ifndef BLOCK_REOPEN_OPTIONS_H
#define BLOCK_REOPEN_OPTIONS_H

#include "block/node.h"
#include "qapi-types.h"

/* Compares what a node was opened with and what it shall have.  *ret_same: nothing at all differs but names and children.  Errors: "Cannot change
 * the option '%s'", "Option '%s' cannot be reset to its default value". */
bool reopen_check_options(const Node *n, const BlockdevOptions *given, bool *ret_same,
                          Error **errp);

/* The option for the backing image; NULL: not said, or the driver has none. */
const BlockdevRefOrNull *reopen_backing_option(const BlockdevOptions *o);

#endif

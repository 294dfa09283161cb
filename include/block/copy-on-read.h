/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Copying up what a read is about to read from backing images.
 */
#ifndef BLOCK_COPY_ON_READ_H
#define BLOCK_COPY_ON_READ_H

#include "block/io.h"

/* Copies the range, as far as the first image below `e` does not have it, up into that image; a request of its own, for which e has
 * PERM_WRITE_UNCHANGED.  bottom: the last layer to copy from, held by this edge; NULL: all.  passes_holds: the caller is a request of a node
 * above e that changes of the graph wait for.  Errors end it: a read has no business with the space of an image. */
void coroutine_fn edge_copy_range_up(Edge *e, const Edge *bottom, GuestOffset offset,
                                     uint64_t bytes, bool passes_holds);

#endif

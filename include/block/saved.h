/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What would be lost if this process were killed, and the machine went on: for those whose clients can outlive it.
 */
#ifndef BLOCK_SAVED_H
#define BLOCK_SAVED_H

#include "block/file.h"
#include "block/io.h"

/* True if the node that r goes to through e has changes of completed requests in memory that the file below does not have yet
 * (metadata of formats).  A flush brings them there.  Coroutines of any loop. */
bool coroutine_fn edge_unsaved(Edge *e, Request *r);

/* The file in which a node's newest data lies; false: it is none, or cannot be told.  The caller keeps n.  Any thread. */
bool node_file_identity(const Node *n, FileIdentity *ret);

#endif

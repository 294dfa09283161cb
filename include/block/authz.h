/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who may: objects that decide by a name.
 */
#ifndef BLOCK_AUTHZ_H
#define BLOCK_AUTHZ_H

#include "util/coroutine.h"
#include "util/error.h"

/* Whether the object `id` permits `identity`.  False with *errp: it does not, or there is no such object.  It may take 10 s.  A coroutine of any
 * loop. */
bool coroutine_fn authz_permits(const char *id, const char *identity, Error **errp);

#endif

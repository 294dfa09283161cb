/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who may: objects that decide by a name.
 */
#ifndef BLOCK_AUTHZ_H
#define BLOCK_AUTHZ_H

#include "util/error.h"

/* Whether the object `id` permits `identity`.  False with *errp: it does not, or there is no such object.  Control thread; other
 * threads ask through authz_permits_co(). */
bool authz_permits(const char *id, const char *identity, Error **errp);
/* The same from a coroutine of any thread. */
bool authz_permits_co(const char *id, const char *identity, Error **errp);

#endif

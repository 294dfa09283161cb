/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Asking PAM; private to block/object/.
 */
#ifndef BLOCK_OBJECT_AUTHZ_PAM_H
#define BLOCK_OBJECT_AUTHZ_PAM_H

#include "util/coroutine.h"
#include "util/error.h"

/* Whether the account management of a PAM service permits `identity`.  False with *errp: it does not, or has not answered within 10 s.  A
 * coroutine of any loop. */
bool coroutine_fn authz_pam_ask(const char *service, const char *identity, Error **errp);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Throttle groups by name: those of objects, and those of backends (backend-limits.h).  Control thread.
 */
#ifndef BLOCK_THROTTLE_OBJECTS_H
#define BLOCK_THROTTLE_OBJECTS_H

#include "block/throttle.h"

/* A reference for the caller; NULL: there is no such group. */
ThrottleGroup *throttle_group_lookup(const char *id);

#endif

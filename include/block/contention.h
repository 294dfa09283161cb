/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How a job writes to storage that guests write to at the same time (driver->is_contended()): so much at a time, then a rest, which is when guests
 * have their turn.  The bounds are what a job has for certain, however much guests write, once storage lets its pieces through: CONTENDED_PIECE in
 * the time of a piece and CONTENDED_REST_MAX.
 */
#ifndef BLOCK_CONTENTION_H
#define BLOCK_CONTENTION_H

#include <glib.h>
#include <stdint.h>

/* The most that is written at a time, bytes. */
#define CONTENDED_PIECE    (128u * 1024)
#define CONTENDED_REST_MIN INT64_C(500000) /* ns */
#define CONTENDED_REST_MAX INT64_C(2000000)

/* How long to rest after a piece that took so long; both in ns. */
static inline int64_t contended_rest(int64_t took)
{
    return CLAMP(took, CONTENDED_REST_MIN, CONTENDED_REST_MAX);
}

#endif

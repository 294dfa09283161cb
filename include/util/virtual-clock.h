/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The time by which limits of drives and statistics go: clock_ns(), or a clock that stands still but for steps (a machine under test, -accel qtest).
 *
 * Under a clock that stands every request is counted as one of VIRTUAL_LATENCY_NS, so that tests know what to expect.
 */
#ifndef UTIL_VIRTUAL_CLOCK_H
#define UTIL_VIRTUAL_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

#define VIRTUAL_LATENCY_NS INT64_C(1000000)

/* Nanoseconds.  Any thread. */
int64_t virtual_clock_ns(void);
/* From now on it stands, at 0.  Once, before the first request. */
void virtual_clock_stop(void);
bool virtual_clock_stands(void); /* any thread */
/* Moves a clock that stands; ns >= 0.  It does not go beyond INT64_MAX.  Control thread. */
void virtual_clock_step(int64_t ns);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A clock that can stand still; see virtual-clock.h.
 */
#include "util/virtual-clock.h"
#include "util/loop.h"
#include <stdatomic.h>

static atomic_bool stands;
static _Atomic int64_t now;

bool virtual_clock_stands(void)
{
    return atomic_load_explicit(&stands, memory_order_relaxed);
}

int64_t virtual_clock_ns(void)
{
    return virtual_clock_stands() ? atomic_load_explicit(&now, memory_order_relaxed) : clock_ns();
}

void virtual_clock_stop(void)
{
    atomic_store(&stands, true);
}

void virtual_clock_step(int64_t ns)
{
    int64_t old = atomic_load(&now);

    atomic_store(&now, ns > INT64_MAX - old ? INT64_MAX : old + ns);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Grace periods and the asymmetric barrier.
 *
 * liburcu, memb flavour.  Every loop's thread is registered by the loop itself.  A read section never spans a co_yield().
 *
 * barrier_light() / barrier_heavy() are a pair: a thread that stores A, calls barrier_light(), loads B, and one that stores B,
 * calls barrier_heavy(), loads A, cannot both miss the other's store.  The light side costs nothing where membarrier(2) is
 * permitted (a compiler barrier); where it is forbidden, and under TSan, both are full fences.
 */
#ifndef UTIL_RCU_H
#define UTIL_RCU_H

#include "util/coroutine.h"
#include <stdatomic.h>
#include <stdbool.h>

/* Once, at the start of the process, before any thread. */
void rcu_init_process(void);
/* The calling thread takes part (loops and workers that read call this). */
void rcu_thread_register(void);
void rcu_thread_unregister(void);

void rcu_begin(void);
void rcu_end(void);

/* Waits for all read sections that have begun.  Blocks the thread: not for loops' threads. */
void rcu_synchronize(void);
/* The same for a coroutine: waits on a worker. */
void coroutine_fn co_rcu_synchronize(void);

extern bool barrier_light_is_fence; /* private to barrier_light() */
static inline void barrier_light(void)
{
    if (__builtin_expect(barrier_light_is_fence, 0)) {
        atomic_thread_fence(memory_order_seq_cst);
    } else {
        atomic_signal_fence(memory_order_seq_cst);
    }
}
void barrier_heavy(void);

#endif

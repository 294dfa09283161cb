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

/* Private to the barriers.  TSan does not know fences: there a read-modify-write of one variable orders both sides. */
extern bool barrier_light_is_fence;
extern _Atomic unsigned barrier_dummy;
#if defined(__SANITIZE_THREAD__)
#define BARRIER_IS_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define BARRIER_IS_TSAN 1
#endif
#endif
#ifdef BARRIER_IS_TSAN
static inline void barrier_fence(void)
{
    atomic_fetch_add_explicit(&barrier_dummy, 1, memory_order_seq_cst);
}
#else
#define BARRIER_IS_TSAN 0
static inline void barrier_fence(void)
{
    atomic_thread_fence(memory_order_seq_cst);
}
#endif

static inline void barrier_light(void)
{
    if (__builtin_expect(barrier_light_is_fence, 0)) {
        barrier_fence();
    } else {
        atomic_signal_fence(memory_order_seq_cst);
    }
}
void barrier_heavy(void);

#endif

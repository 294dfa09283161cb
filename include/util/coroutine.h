/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Coroutines: requests and commands that read top to bottom.
 *
 * A coroutine belongs to one loop (util/loop.h) from its start to its end and runs only on that loop's thread: it never
 * migrates, so what it counts per thread stays on that thread.  It has a stack of its own with a guard page below, taken
 * from a pool of its thread.
 *
 * The rule of wake-ups: every co_yield() is answered by exactly one co_wake().  co_wake() never runs the coroutine
 * inline: it queues it on its home loop, so waking before the yield is safe, from any thread.
 *
 * `coroutine_fn` marks functions that may yield and must be called inside a coroutine.
 */
#ifndef UTIL_COROUTINE_H
#define UTIL_COROUTINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define coroutine_fn

typedef struct Coroutine Coroutine;
typedef struct Loop Loop;
typedef void CoroutineFn(void *opaque);

/* Bytes of stack a coroutine has: address space; memory only as far as it is touched.  Room for values nested 1024 deep. */
#define CO_STACK_SIZE (1024 * 1024)

/* Starts fn(opaque) as a coroutine on the calling thread's loop, at once; returns when it first yields or ends.
 * May be called inside a coroutine (which then continues after the new one yields). */
void co_start(CoroutineFn *fn, void *opaque);

/* Starts fn(opaque) as a coroutine on `loop`, soon.  Any thread. */
void co_spawn(Loop *loop, CoroutineFn *fn, void *opaque);

/* Gives the thread back to the loop (or to whom started or resumed us) until co_wake(). */
void coroutine_fn co_yield(void);

/* Queues `co` to continue after its current or next co_yield().  Any thread; exactly once per yield. */
void co_wake(Coroutine *co);

/* Lets everything else that is ready on this loop run first. */
void coroutine_fn co_reschedule(void);

/* The running coroutine; NULL outside of one. */
Coroutine *co_self(void);
/* What the running coroutine works for, a pointer of the caller's meaning; coroutines that it starts by co_start() inherit it.  NULL: nothing, also
 * outside of coroutines. */
void co_set_purpose(const void *purpose);
const void *co_purpose(void);
/* The loop a coroutine belongs to. */
Loop *co_loop(Coroutine *co);

/* Frees the pooled stacks of the calling thread (loops do it when they end). */
void co_pool_drain(void);

#endif

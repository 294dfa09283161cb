/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Switching between stacks; private to coroutine.c.
 *
 * A CoContext is where a stack that does not run will continue.  co_context_switch() saves what the
 * calling convention says a callee must preserve and nothing else: no signal mask, no system call.
 * The x87 and SSE control words belong to that; they are the same in all coroutines (nobody here
 * changes rounding or masks exceptions), so they are not saved either.
 *
 * x86-64 and aarch64 have a few lines of assembly; CONFIG_COROUTINE_UCONTEXT, and other machines, use
 * swapcontext(3), which costs two system calls a switch.
 */
#ifndef UTIL_CO_SWITCH_H
#define UTIL_CO_SWITCH_H

#include <stddef.h>

#if !defined(CONFIG_COROUTINE_UCONTEXT) && !defined(__x86_64__) && !defined(__aarch64__)
#define CONFIG_COROUTINE_UCONTEXT
#endif

#ifdef CONFIG_COROUTINE_UCONTEXT
#include <ucontext.h>
typedef struct CoContext {
    ucontext_t uc;
} CoContext;
#else
typedef struct CoContext {
    void *sp;
} CoContext;
#endif

/* The first switch to c calls entry() at the top of the stack; it must never return. */
void co_context_make(CoContext *c, void *stack, size_t size, void (*entry)(void));
void co_context_switch(CoContext *from, const CoContext *to);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Coroutines: stacks and switching.
 *
 * A coroutine has a stack of CO_STACK_SIZE bytes with an inaccessible page below it, so that an overflow faults instead of
 * corrupting a neighbour.  Stacks are kept in a pool per thread when their coroutine ends.
 *
 * Switching saves what the calling convention says a callee must preserve, and nothing else: no signal mask, no system call.
 * x86-64 and aarch64 have a few lines of assembly; other machines use swapcontext(3).
 *
 * A coroutine is resumed by its loop (or started by another coroutine) and yields to whoever resumed it.  ASan and TSan are
 * told of every switch.
 */
#include "util/coroutine.h"
#include "loop-internal.h"
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define CO_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CO_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define CO_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CO_TSAN 1
#endif
#endif
#ifdef CO_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef CO_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#define POOL_MAX 256

/* ---- switching ---- */

#if defined(__x86_64__)
typedef struct Context {
    void *sp;
} Context;

void co_switch_asm(void **save_sp, void *load_sp);
__asm__(".text\n"
        ".type co_switch_asm, @function\n"
        ".globl co_switch_asm\n"
        ".hidden co_switch_asm\n"
        "co_switch_asm:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    subq $8, %rsp\n"
        "    stmxcsr (%rsp)\n"
        "    fnstcw 4(%rsp)\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    ldmxcsr (%rsp)\n"
        "    fldcw 4(%rsp)\n"
        "    addq $8, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size co_switch_asm, .-co_switch_asm\n");

static void context_make(Context *c, void *stack, size_t size, void (*entry)(void))
{
    uint64_t *sp = (uint64_t *)((char *)stack + size);
    uint32_t control[2] = {0x1f80, 0x037f}; /* MXCSR and x87 control word as the ABI has them at start */

    *--sp = 0; /* the "return address" of entry, which never returns; the stack is aligned as after a call */
    *--sp = (uint64_t)entry;
    sp -= 7;
    for (unsigned i = 1; i < 7; i++) {
        sp[i] = 0;
    }
    memcpy(sp, control, sizeof(control));
    c->sp = sp;
}

static void context_switch(Context *from, Context *to)
{
    co_switch_asm(&from->sp, to->sp);
}
#else
#include <ucontext.h>
typedef struct Context {
    ucontext_t uc;
} Context;

static void context_make(Context *c, void *stack, size_t size, void (*entry)(void))
{
    getcontext(&c->uc);
    c->uc.uc_stack.ss_sp = stack;
    c->uc.uc_stack.ss_size = size;
    c->uc.uc_link = NULL;
    makecontext(&c->uc, entry, 0);
}

static void context_switch(Context *from, Context *to)
{
    swapcontext(&from->uc, &to->uc);
}
#endif

/* Whoever runs: a coroutine, or the thread itself at the bottom. */
typedef struct Fiber {
    Context context;
#ifdef CO_ASAN
    const void *stack_bottom;
    size_t stack_size;
    void *fake_stack;
#endif
#ifdef CO_TSAN
    void *tsan;
#endif
} Fiber;

struct Coroutine {
    Fiber fiber;
    Fiber *resumer;
    Coroutine *resumer_co; /* NULL: the thread */
    Loop *loop;
    Coroutine *next; /* in a queue of its loop */
    CoroutineFn *fn;
    void *opaque;
    void *stack; /* above the guard page */
    bool ended;
};

static __thread Coroutine *current;
static __thread Fiber thread_fiber;
static __thread Coroutine *pool;
static __thread unsigned pool_size;

static void switch_to(Fiber *from, Fiber *to, bool ending)
{
#ifdef CO_TSAN
    if (!from->tsan) {
        from->tsan = __tsan_get_current_fiber();
    }
    __tsan_switch_to_fiber(to->tsan, 0);
#endif
#ifdef CO_ASAN
    __sanitizer_start_switch_fiber(ending ? NULL : &from->fake_stack, to->stack_bottom, to->stack_size);
#endif
    (void)ending;
    context_switch(&from->context, &to->context);
#ifdef CO_ASAN
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

static void entry(void)
{
    Coroutine *co = current;

#ifdef CO_ASAN
    /* The first time, this tells where the stack of the resumer lies. */
    __sanitizer_finish_switch_fiber(NULL, &co->resumer->stack_bottom, &co->resumer->stack_size);
#endif
    for (;;) {
        co->fn(co->opaque);
        co->ended = true;
        co_yield();
    }
}

static Coroutine *coroutine_new(void)
{
    size_t page = sysconf(_SC_PAGESIZE);
    Coroutine *co = pool;
    char *memory;

    if (co) {
        pool = co->next;
        pool_size--;
        co->next = NULL;
        co->ended = false;
        return co;
    }
    memory = mmap(NULL, CO_STACK_SIZE + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) < 0) {
        g_error("no memory for a coroutine's stack");
    }
    co = g_new0(Coroutine, 1);
    co->stack = memory + page;
    context_make(&co->fiber.context, co->stack, CO_STACK_SIZE, entry);
#ifdef CO_ASAN
    co->fiber.stack_bottom = co->stack;
    co->fiber.stack_size = CO_STACK_SIZE;
#endif
#ifdef CO_TSAN
    co->fiber.tsan = __tsan_create_fiber(0);
#endif
    return co;
}

static void coroutine_delete(Coroutine *co)
{
    size_t page = sysconf(_SC_PAGESIZE);

#ifdef CO_TSAN
    __tsan_destroy_fiber(co->fiber.tsan);
#endif
    munmap((char *)co->stack - page, CO_STACK_SIZE + page);
    g_free(co);
}

void co_pool_drain(void)
{
    while (pool) {
        Coroutine *co = pool;

        pool = co->next;
        coroutine_delete(co);
    }
    pool_size = 0;
}

void coroutine_resume(Coroutine *co)
{
    co->resumer = current ? &current->fiber : &thread_fiber;
    co->resumer_co = current;
    current = co;
    switch_to(co->resumer, &co->fiber, false);
    current = co->resumer_co;
    if (co->ended) {
        if (pool_size < POOL_MAX) {
            co->next = pool;
            pool = co;
            pool_size++;
        } else {
            coroutine_delete(co);
        }
    }
}

void co_start(CoroutineFn *fn, void *opaque)
{
    Coroutine *co = coroutine_new();

    co->fn = fn;
    co->opaque = opaque;
    co->loop = loop_current();
    g_assert(co->loop);
    coroutine_resume(co);
}

void coroutine_fn co_yield(void)
{
    Coroutine *co = current;

    g_assert(co);
    switch_to(&co->fiber, co->resumer, false);
}

void co_wake(Coroutine *co)
{
    loop_queue_coroutine(co->loop, co);
}

void coroutine_fn co_reschedule(void)
{
    co_wake(current);
    co_yield();
}

Coroutine *co_self(void)
{
    return current;
}

Loop *co_loop(Coroutine *co)
{
    return co->loop;
}

Coroutine **coroutine_link(Coroutine *co)
{
    return &co->next;
}

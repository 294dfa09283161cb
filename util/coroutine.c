/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Coroutines: stacks, starting, suspending, waking.
 *
 * Stacks.  Each has inaccessible pages below it, so that an overflow faults instead of corrupting a
 * neighbour.  Where the kernel has guard markers (MADV_GUARD_INSTALL) they are used, since they do not
 * split the mapping: the number of mappings of a process is limited, and that of coroutines should not
 * be.  The Coroutine lies at the top of its stack.
 *
 * Pool.  A coroutine that ends goes to its thread's pool as it is: its stack waits in main_loop() for
 * the next function.  So starting one costs two switches and no allocation.
 *
 * Who resumes whom.  A coroutine is resumed by its loop or started by a coroutine, and yields to whoever
 * that was (`resumer`).  Loops run items only outside of coroutines, so a coroutine whose item comes up
 * has yielded, whenever it was woken.
 *
 * Sanitizers and valgrind are told of the stacks and of every switch.
 */
#include "util/coroutine.h"
#include "co-switch.h"
#include "loop-internal.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define CO_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define CO_TSAN 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define CO_ASAN 1
#endif
#ifdef __SANITIZE_THREAD__
#define CO_TSAN 1
#endif

#ifdef CO_ASAN
#include <sanitizer/common_interface_defs.h>
/* Functions that live across a switch have no frame on ASan's own stack, which a switch may replace. */
#define NO_ASAN __attribute__((no_sanitize_address, noinline))
#else
#define NO_ASAN __attribute__((noinline))
#endif
#ifdef CO_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#ifdef CONFIG_VALGRIND
#include <valgrind/valgrind.h>
#endif

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

/* Instrumented frames are larger. */
#if defined(CO_ASAN) || defined(CO_TSAN)
#define STACK_SIZE (2 * CO_STACK_SIZE)
#else
#define STACK_SIZE CO_STACK_SIZE
#endif
#define GUARD_SIZE (64 * 1024) /* any page size divides it */
#define POOL_MAX   1024

/* Whatever can be switched to: a coroutine, or what the thread does outside of them. */
typedef struct Fiber {
    CoContext context;
#ifdef CO_ASAN
    const void *stack_bottom;
    size_t stack_size;
    void *fake_stack;
#endif
#ifdef CO_TSAN
    void *tsan;
#endif
} Fiber;

struct __attribute__((aligned(64))) Coroutine {
    LoopItem item; /* queued on the loop: will be resumed */
    Fiber fiber;
    Fiber *resumer;
    Coroutine *resumer_co; /* NULL: the thread */
    Loop *loop;
    CoroutineFn *fn; /* NULL: has ended */
    void *opaque;
    const void *purpose;
    _Atomic bool queued; /* between co_wake() and the resumption */
    Coroutine *next_pooled;
#ifdef CONFIG_VALGRIND
    unsigned valgrind_id;
#endif
};

static __thread Coroutine *current;
static __thread Fiber thread_fiber;
static __thread Coroutine *pool;
static __thread unsigned pool_size;

/* ---- switching ---- */

/* ending: nothing on the present stack is needed any more. */
NO_ASAN static void switch_to(Fiber *from, Fiber *to, bool ending)
{
#ifdef CO_TSAN
    if (!from->tsan) {
        from->tsan = __tsan_get_current_fiber();
    }
    __tsan_switch_to_fiber(to->tsan, 0);
#endif
#ifdef CO_ASAN
    __sanitizer_start_switch_fiber(ending ? NULL : &from->fake_stack, to->stack_bottom,
                                   to->stack_size);
#endif
    co_context_switch(&from->context, &to->context);
#ifdef CO_ASAN
    __sanitizer_finish_switch_fiber(ending ? NULL : from->fake_stack, NULL, NULL);
#else
    (void)ending;
#endif
}

/* Gives the thread back to whoever resumed or started co. */
NO_ASAN static void leave(Coroutine *co, bool ending)
{
    current = co->resumer_co;
    switch_to(&co->fiber, co->resumer, ending);
}

NO_ASAN static void main_loop(void)
{
    Coroutine *co = current;

#ifdef CO_ASAN
    /* The first time this tells where the stack of the resumer is; of a thread nobody else does. */
    __sanitizer_finish_switch_fiber(NULL, &co->resumer->stack_bottom, &co->resumer->stack_size);
#endif
    for (;;) {
        co->fn(co->opaque);
        co->fn = NULL;
        leave(co, true);
    }
}

/* ---- stacks ---- */

static char *stack_bottom(Coroutine *co)
{
    return (char *)(co + 1) - STACK_SIZE;
}

static Coroutine *coroutine_new(void)
{
    char *memory = mmap(NULL, GUARD_SIZE + STACK_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    Coroutine *co;

    if (memory == MAP_FAILED || (madvise(memory, GUARD_SIZE, MADV_GUARD_INSTALL) < 0 &&
                                 mprotect(memory, GUARD_SIZE, PROT_NONE) < 0)) {
        g_error("no memory for the stack of a coroutine: %s", g_strerror(errno));
    }
    /* Stacks lie side by side; a huge page would make a few used bytes into 2 MiB. */
    madvise(memory, GUARD_SIZE + STACK_SIZE, MADV_NOHUGEPAGE);
    co = (Coroutine *)(memory + GUARD_SIZE + STACK_SIZE) - 1;
    co_context_make(&co->fiber.context, stack_bottom(co), STACK_SIZE - sizeof(Coroutine),
                    main_loop);
#ifdef CO_ASAN
    co->fiber.stack_bottom = stack_bottom(co);
    co->fiber.stack_size = STACK_SIZE - sizeof(Coroutine);
#endif
#ifdef CO_TSAN
    co->fiber.tsan = __tsan_create_fiber(0);
#endif
#ifdef CONFIG_VALGRIND
    co->valgrind_id = VALGRIND_STACK_REGISTER(stack_bottom(co), co);
#endif
    return co;
}

static void coroutine_delete(Coroutine *co)
{
#ifdef CO_TSAN
    __tsan_destroy_fiber(co->fiber.tsan);
#endif
#ifdef CONFIG_VALGRIND
    VALGRIND_STACK_DEREGISTER(co->valgrind_id);
#endif
    munmap(stack_bottom(co) - GUARD_SIZE, GUARD_SIZE + STACK_SIZE);
}

static Coroutine *pool_take(void)
{
    Coroutine *co = pool;

    if (co) {
        pool = co->next_pooled;
        pool_size--;
    }
    return co;
}

static void pool_put(Coroutine *co)
{
    if (pool_size == POOL_MAX) {
        coroutine_delete(co);
        return;
    }
    co->next_pooled = pool;
    pool = co;
    pool_size++;
}

void co_pool_drain(void)
{
    Coroutine *co;

    while ((co = pool_take())) {
        coroutine_delete(co);
    }
}

/* ---- running ---- */

NO_ASAN static void resume(Coroutine *co)
{
    Coroutine *resumer = current;

    co->resumer_co = resumer;
    co->resumer = resumer ? &resumer->fiber : &thread_fiber;
    current = co;
    switch_to(co->resumer, &co->fiber, false);
    if (!co->fn) {
        /* A wake-up that nobody waits for would resume whoever has the stack next. */
        g_assert(!atomic_load_explicit(&co->queued, memory_order_relaxed));
        co->loop->coroutines--;
        pool_put(co);
    }
}

static void run_item(LoopItem *item)
{
    Coroutine *co = (Coroutine *)item;

    atomic_store_explicit(&co->queued, false, memory_order_relaxed);
    resume(co);
}

void co_set_purpose(const void *purpose)
{
    current->purpose = purpose;
}

const void *co_purpose(void)
{
    return current ? current->purpose : NULL;
}

void co_start(CoroutineFn *fn, void *opaque)
{
    Coroutine *co = pool_take();

    if (!co) {
        co = coroutine_new();
    }
    co->loop = loop_current();
    g_assert(co->loop);
    co->loop->coroutines++;
    co->item.run = run_item;
    co->fn = fn;
    co->opaque = opaque;
    co->purpose = co_purpose();
    resume(co);
}

void coroutine_fn co_yield(void)
{
    g_assert(current);
    leave(current, false);
}

void co_wake(Coroutine *co)
{
    bool twice = atomic_exchange_explicit(&co->queued, true, memory_order_relaxed);

    g_assert(!twice);
    loop_post(co->loop, &co->item);
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

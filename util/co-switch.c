/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Switching between stacks; see the header.
 *
 * In the assembly versions a suspended stack holds, from its pointer upwards, the callee-saved registers
 * and the address at which to continue.  A new stack is made to look like that, with entry as the
 * address; the frame pointer and the return address of entry are zero, where debuggers stop.
 */
#include "co-switch.h"
#include <stdint.h>

#ifdef CONFIG_COROUTINE_UCONTEXT

void co_context_make(CoContext *c, void *stack, size_t size, void (*entry)(void))
{
    getcontext(&c->uc);
    c->uc.uc_stack.ss_sp = stack;
    c->uc.uc_stack.ss_size = size;
    c->uc.uc_link = NULL;
    makecontext(&c->uc, entry, 0);
}

void co_context_switch(CoContext *from, const CoContext *to)
{
    swapcontext(&from->uc, &to->uc);
}

#elif defined(__x86_64__)

__asm__(".text\n"
        ".p2align 4\n"
        ".globl co_context_switch\n"
        ".hidden co_context_switch\n"
        ".type co_context_switch, @function\n"
        "co_context_switch:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq (%rsi), %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size co_context_switch, .-co_context_switch\n");

void co_context_make(CoContext *c, void *stack, size_t size, void (*entry)(void))
{
    uint64_t *sp = (uint64_t *)((uintptr_t)((char *)stack + size) & ~(uintptr_t)15);

    *--sp = 0;               /* entry's return address; then the stack is aligned as after a call */
    *--sp = (uint64_t)entry; /* where "ret" goes */
    for (unsigned i = 0; i < 6; i++) {
        *--sp = 0;
    }
    c->sp = sp;
}

#elif defined(__aarch64__)

__asm__(".text\n"
        ".p2align 4\n"
        ".globl co_context_switch\n"
        ".hidden co_context_switch\n"
        ".type co_context_switch, %function\n"
        "co_context_switch:\n"
        "    stp x29, x30, [sp, #-160]!\n"
        "    stp x19, x20, [sp, #16]\n"
        "    stp x21, x22, [sp, #32]\n"
        "    stp x23, x24, [sp, #48]\n"
        "    stp x25, x26, [sp, #64]\n"
        "    stp x27, x28, [sp, #80]\n"
        "    stp d8, d9, [sp, #96]\n"
        "    stp d10, d11, [sp, #112]\n"
        "    stp d12, d13, [sp, #128]\n"
        "    stp d14, d15, [sp, #144]\n"
        "    mov x2, sp\n"
        "    str x2, [x0]\n"
        "    ldr x2, [x1]\n"
        "    mov sp, x2\n"
        "    ldp x19, x20, [sp, #16]\n"
        "    ldp x21, x22, [sp, #32]\n"
        "    ldp x23, x24, [sp, #48]\n"
        "    ldp x25, x26, [sp, #64]\n"
        "    ldp x27, x28, [sp, #80]\n"
        "    ldp d8, d9, [sp, #96]\n"
        "    ldp d10, d11, [sp, #112]\n"
        "    ldp d12, d13, [sp, #128]\n"
        "    ldp d14, d15, [sp, #144]\n"
        "    ldp x29, x30, [sp], #160\n"
        "    ret\n"
        ".size co_context_switch, .-co_context_switch\n");

void co_context_make(CoContext *c, void *stack, size_t size, void (*entry)(void))
{
    uint64_t *sp = (uint64_t *)((uintptr_t)((char *)stack + size) & ~(uintptr_t)15);

    for (unsigned i = 0; i < 20; i++) {
        *--sp = 0;
    }
    sp[1] = (uint64_t)entry; /* x30, where "ret" goes */
    c->sp = sp;
}

#endif

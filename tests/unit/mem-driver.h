/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk in memory with a backing chain, for tests of the graph and of the cut.
 *
 * It is the smallest thing that behaves like an overlay: clusters of 4 KiB are allocated or not; a write of less than a cluster to an
 * unallocated one copies the rest up from the backing node.  `gate` lets a test hold requests inside the driver.
 */
#ifndef TESTS_MEM_DRIVER_H
#define TESTS_MEM_DRIVER_H

#include "block/driver.h"

#define MEM_CLUSTER 4096u

typedef struct MemState {
    uint8_t *data;
    _Atomic uint8_t *allocated; /* a flag a cluster */
    CoRangeLock lock;           /* clusters being allocated */
    _Atomic bool gate_closed;   /* writes and flushes wait inside */
    _Atomic unsigned waiting;   /* how many do */
    _Atomic unsigned flushes;
    _Atomic int flush_result;
    _Atomic unsigned writes_after_ro; /* must stay 0 (T2) */
    bool yield_in_write; /* lets other requests of the thread run in the middle of a write */
} MemState;

extern const BlockDriver mem_driver;

static inline MemState *mem(const Node *n)
{
    return n->state;
}

/* A node of `size` bytes (a multiple of MEM_CLUSTER), all allocated if base, else an empty overlay.  Control thread, any context. */
Node *mem_node_new(const char *name, uint64_t size, bool base);
/* What the chain reads at a byte, straight from memory; no requests may run. */
uint8_t mem_peek(const Node *n, uint64_t offset);

extern const EdgeOwner mem_owner;

#endif

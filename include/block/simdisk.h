/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Simulated disks, for crash tests (driver `simdisk`; only in builds with CONFIG_TEST_DRIVERS).
 *
 * Words
 *  machine    what loses power at one instant: all its disks together.
 *  disk       a number of 512-byte sectors in memory, with a volatile write cache.
 *  operation  a write, write zeroes, discard, truncate or flush of any disk of the machine.  Reads
 *             are not operations.  Operations are numbered 1, 2, 3, ... in the order in which they
 *             are issued, over all disks.
 *  time       the machine's own clock: it ticks when an operation is issued and when one completes.
 *
 * What a running disk does
 *  - An operation takes effect at one moment between its issue and its completion; reads see it
 *    from then on.
 *  - A discard makes sectors zero.  Growing adds zero sectors; shrinking forgets what is cut off.
 *  - simmachine_fail(): operation k completes with an error and has no effect.  A flush that fails
 *    leaves every write that it should have made durable in doubt for ever: no later flush makes
 *    those durable.
 *  - simmachine_stop(): when operation k has completed, the power fails.  Operations issued later,
 *    and those under way, complete with -EIO and have no effect; so do reads.
 *
 * What a power failure at time t leaves (simmachine_rebuild)
 *  - A flush of a disk that completed by t, with success, has made durable every operation of that
 *    disk that completed before the flush was issued.  (A flush of one disk says nothing of
 *    another.)
 *  - Every other operation that was issued by t and did not fail is *in doubt*: all its sectors,
 *    none of them, the first ones, the last ones, or any subset of them reached the medium,
 *    independently of all others.  Sectors are never torn.
 *  - Where operations in doubt overlap, each sector has the content of one of those that reached
 *    it: the later, if one had completed before the other was issued; either, if they were under
 *    way together.  Where none reached it, it has the durable content.
 *  - What was overwritten durably never comes back.
 *  - The size behaves like one more sector, changed by truncates.  What lies beyond the size is not
 *    there.
 *  - Nothing issued after t leaves a trace.
 *
 * So: flushes are kept exactly and nothing else is promised.  Which of the permitted results comes
 * out is decided by a seed alone: the same record, time and seed give the same bytes.  Different
 * seeds try different kinds of failure (nothing in doubt survives; all does; all but one; one
 * alone; each by chance; torn ones).
 *
 * All functions: any thread, but for simmachine_free(): no disk is in use.  They never suspend.
 */
#ifndef BLOCK_SIMDISK_H
#define BLOCK_SIMDISK_H

#include "util/error.h"
#include <stdint.h>

#define SIM_SECTOR 512u
/* Largest disk, bytes: its contents and its record are memory. */
#define SIM_SIZE_MAX (UINT64_C(1) << 40)

typedef struct SimMachine SimMachine;

typedef enum SimOpKind { SIM_WRITE, SIM_ZERO, SIM_DISCARD, SIM_TRUNCATE, SIM_FLUSH } SimOpKind;

/* What the record says of an operation. */
typedef struct SimOp {
    uint64_t index;   /* k */
    const char *disk; /* valid until simmachine_free() */
    SimOpKind kind;
    uint64_t offset, bytes; /* truncate: bytes is the new size */
    uint64_t issued;        /* time */
    uint64_t completed;     /* time; 0: not yet */
    int result;             /* 0 or a negative errno, when completed */
} SimOp;

/* The machine whose disks the driver's nodes are. */
SimMachine *simmachine_default(void);
/* Others, for tests of the model itself. */
SimMachine *simmachine_new(void);
void simmachine_free(SimMachine *m);
/* Forgets all disks, the record, and what was set below.  No node of the driver is open. */
void simmachine_reset(SimMachine *m);

/* ---- what goes wrong ---- */

/* Operation k (counted from 1) fails with err (a positive errno); k = 0: none. */
void simmachine_fail(SimMachine *m, uint64_t k, int err);
/* Power fails when operation k has completed; k = 0: never. */
void simmachine_stop(SimMachine *m, uint64_t k);
/* Power fails now. */
void simmachine_stop_now(SimMachine *m);
bool simmachine_stopped(SimMachine *m);
/* Operations and reads of nodes wait a random time up to max_ns before and after they take effect,
 * and let others run; 0: off. */
void simmachine_set_latency(SimMachine *m, int64_t max_ns, uint64_t seed);
/* Where a line is written for each operation when it completes; NULL: nowhere. */
bool simmachine_set_log(SimMachine *m, const char *path, Error **errp);

/* ---- the record ---- */

uint64_t simmachine_ops(SimMachine *m);
/* Operation k: 1 <= k <= simmachine_ops(). */
void simmachine_op(SimMachine *m, uint64_t k, SimOp *ret);
/* Now.  What was acknowledged by a time t, a power failure at or after t must not lose if it was
 * flushed by then. */
uint64_t simmachine_time(SimMachine *m);
/* The time at which operation k completed; the time of its issue if it has not. */
uint64_t simmachine_time_of(SimMachine *m, uint64_t k);
/* Names of all disks, oldest first; free with g_strfreev(). */
char **simmachine_disks(SimMachine *m);
/* Size now, bytes; false: there is no such disk. */
bool simmachine_size(SimMachine *m, const char *disk, uint64_t *ret_size);

/* ---- images in files: sparse, raw, as qemu-img reads them ---- */

/* What `disk` has after a power failure at time t (from simmachine_time() or simmachine_time_of()).
 * */
bool simmachine_rebuild(SimMachine *m, uint64_t t, uint64_t seed, const char *disk,
                        const char *path, Error **errp);
/* What a reader of the running disk sees now. */
bool simmachine_save(SimMachine *m, const char *disk, const char *path, Error **errp);
/* Makes (or replaces the content of) a disk that is not in use, durably. */
bool simmachine_load(SimMachine *m, const char *disk, const char *path, Error **errp);

/* ---- the disks themselves, below the driver: for tests of the model ---- */

typedef struct SimDisk SimDisk;

/* Finds or makes a disk of that name; size counts for a new one. */
SimDisk *simdisk_get(SimMachine *m, const char *name, uint64_t size, Error **errp);
uint64_t simdisk_size(SimDisk *d);

/* An operation under way.  Every sim_issue() is followed by one sim_apply() and one sim_complete().
 * */
typedef struct SimTicket {
    uint64_t index;
} SimTicket;
/* offset and bytes: whole sectors, inside the disk; data: `bytes` of it for SIM_WRITE, copied. */
SimTicket sim_issue(SimDisk *d, SimOpKind kind, uint64_t offset, uint64_t bytes, const void *data);
void sim_apply(SimDisk *d, SimTicket t);
/* 0 or a negative errno. */
int sim_complete(SimDisk *d, SimTicket t);
/* 0, or -EIO without power. */
int sim_read(SimDisk *d, uint64_t offset, void *buf, uint64_t bytes);

#endif

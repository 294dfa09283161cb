/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * For tests of qcow2 and power failures: writers on two I/O threads, and what each sector may have at any time.
 *
 * A *story* keeps, for every sector of the disk, what was written and when, on the clock of the simulated machine, and the flushes that
 * completed.
 */
#ifndef TESTS_QCOW2_STORY_H
#define TESTS_QCOW2_STORY_H

#include "block/simdisk.h"
#include "qcow2-test.h"

typedef struct Write {
    uint64_t id;           /* what is in the sector; 0: zeroes */
    uint64_t begun, ended; /* time; 0: not ended */
} Write;

typedef struct Flush {
    uint64_t begun, ended;
} Flush;

typedef struct Story {
    SimMachine *m;
    uint64_t sectors;
    GArray **writes;      /* of Write, a list for each sector, its first contents at first */
    GArray *flushes;      /* of Flush: completed ones */
    pthread_mutex_t lock; /* of flushes */
    _Atomic uint64_t last_id;
    _Atomic bool expect_errors;
    bool compresses; /* some of the writes are compressed */
} Story;

void story_init(Story *s, uint64_t size);
void story_clear(Story *s);
/* A sector gets new contents (id 0: zeroes). */
void story_write(Story *s, uint64_t sector, uint64_t id);
/* What a sector with that id looks like: the id and its number, over and over. */
void story_put_sector(uint8_t *p, uint64_t sector, uint64_t id);
/* n writers with that many requests each: writes, zeroes, discards, reads that are compared, flushes. */
void coroutine_fn story_run_writers(Story *s, Edge *edge, uint64_t cluster, unsigned n,
                                    unsigned requests, uint32_t seed);
/* Can a sector have this at time t, if what ended before `covered` must not be missing? */
bool story_may_have(const Story *s, uint64_t sector, uint64_t t, uint64_t covered,
                    const uint8_t *have);
/* When the last flush began that had completed by t. */
uint64_t story_covered(const Story *s, uint64_t t);

#endif

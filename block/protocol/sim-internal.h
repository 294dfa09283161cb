/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Simulated disks: what the parts of the model share; private to block/protocol.
 * include/block/simdisk.h defines the model.
 *
 *   sim-machine.c   machines, disks, operations, the record
 *   sim-image.c     contents of disks
 *   sim-rebuild.c   what a power failure leaves
 *   simdisk.c       the driver
 *
 * One lock a machine protects everything in it; it is a leaf, held for moments.
 */
#ifndef BLOCK_PROTOCOL_SIM_INTERNAL_H
#define BLOCK_PROTOCOL_SIM_INTERNAL_H

#include "block/simdisk.h"
#include <pthread.h>
#include <stdio.h>

/* ---- sim-image.c: sparse contents; what was never written is zero ---- */

#define SIM_PAGE 4096u

typedef struct SimImage {
    uint64_t size;     /* bytes, whole sectors */
    GHashTable *pages; /* number of the page -> SIM_PAGE bytes */
} SimImage;

void sim_image_init(SimImage *i, uint64_t size);
void sim_image_clear(SimImage *i);
void sim_image_copy(SimImage *to, const SimImage *from);
/* Pages beyond a smaller size are forgotten. */
void sim_image_resize(SimImage *i, uint64_t size);
/* Clipped to the size. */
void sim_image_write(SimImage *i, uint64_t offset, const uint8_t *data, uint64_t bytes);
void sim_image_zero(SimImage *i, uint64_t offset, uint64_t bytes);
void sim_image_read(const SimImage *i, uint64_t offset, uint8_t *buf, uint64_t bytes);
/* Whether data may be there at offset (a multiple of SIM_SECTOR), and for how many of `bytes` the
 * answer is the same. */
bool sim_image_has_data(const SimImage *i, uint64_t offset, uint64_t bytes, uint64_t *ret_len);
bool sim_image_save(const SimImage *i, const char *path, Error **errp);
bool sim_image_load(SimImage *i, const char *path, Error **errp);

/* ---- sim-machine.c ---- */

typedef struct SimRecord {
    uint64_t index;
    SimDisk *disk;
    SimOpKind kind;
    uint64_t offset, bytes;
    uint8_t *data; /* SIM_WRITE */
    uint64_t issued;
    uint64_t applied;   /* order among all that took effect, from 1; 0: has not */
    uint64_t old_size;  /* SIM_TRUNCATE, once applied */
    uint64_t completed; /* 0: has not */
    int err;            /* injected, positive; 0: none */
    int result;
} SimRecord;

struct SimDisk {
    SimMachine *machine;
    char *name;
    SimImage initial, now;
    GPtrArray *ops;    /* of SimRecord, as issued */
    uint64_t max_size; /* it ever had */
    unsigned users;
};

struct SimMachine {
    pthread_mutex_t lock;
    GPtrArray *disks;
    GPtrArray *ops; /* owns them */
    uint64_t clock, applied;
    uint64_t fail_at, stop_at;
    int fail_err;
    bool stopped;
    int64_t latency_max;
    uint64_t random;
    FILE *log;
};

SimDisk *sim_find(SimMachine *m, const char *name);
/* A random wait, ns; 0: none at all. */
int64_t sim_latency(SimMachine *m);
/* One more user; false: it has one already. */
bool sim_take(SimDisk *d);
void sim_give_back(SimDisk *d);
bool sim_has_data(SimDisk *d, uint64_t offset, uint64_t bytes, uint64_t *ret_len);

/* splitmix64 */
static inline uint64_t sim_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * For tests of the qcow2 driver: a flat model of a disk beside the disk, random requests from two I/O threads, and qemu-img as the
 * judge of what is in the file.
 */
#ifndef TESTS_QCOW2_TEST_H
#define TESTS_QCOW2_TEST_H

#include "node-test.h"

#define QCOW2_RW (PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE)

/* Runs a shell command made of the format; expects exit status 0, or returns it. */
void shell(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
int shell_status(const char *fmt, ...) G_GNUC_PRINTF(1, 2);

typedef struct Model {
    uint8_t *data;
    uint64_t size;
} Model;

typedef enum FuzzOps {
    FUZZ_ZERO = 1 << 0,
    FUZZ_DISCARD = 1 << 1,
    FUZZ_FLUSH = 1 << 2,
    FUZZ_TINY = 1 << 3, /* requests of any alignment */
} FuzzOps;

typedef struct Fuzz {
    Edge *edge;
    Model *model;
    uint64_t cluster;  /* what discards work on */
    unsigned ops;      /* of FuzzOps */
    unsigned workers;  /* coroutines, spread over the I/O threads */
    unsigned requests; /* each */
    uint32_t seed;
    bool discard_shows_backing; /* version 2: discards are not sent */
} Fuzz;

/* Random requests; the workers' own parts of the disk are not aligned to clusters, so that they meet in them; a part of
 * the disk is interleaved sector by sector.  Every read is compared. */
void coroutine_fn fuzz_run(const Fuzz *f);
/* Reads the whole disk. */
void coroutine_fn model_compare(Edge *e, const Model *m);
/* The image's contents, as qemu-img sees them; and that it finds nothing wrong, leaks included. */
void model_judge(const char *image, const Model *m);
void model_load(Model *m, const char *image, const char *format);
void model_clear(Model *m);

#endif

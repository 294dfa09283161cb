/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * For fuzz targets that need the block layer: a process with a control loop and drivers, bodies as coroutines of the control thread, and a
 * disk in memory whose bytes are the fuzzer's.
 */
#ifndef TESTS_FUZZ_UTIL_H
#define TESTS_FUZZ_UTIL_H

#include "block/driver.h"
#include <glib.h>
#include <stdlib.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As g_error(), with a signal that libFuzzer keeps the input for. */
#define FUZZ_FAIL(...) (g_printerr(__VA_ARGS__), g_printerr("\n"), abort())

/* Once, from LLVMFuzzerInitialize(): loops and drivers; the log is silent. */
void fuzz_init(void);
/* Runs body(opaque) as a coroutine of the control thread, and the loop until it has ended. */
void fuzz_run(void coroutine_fn (*body)(void *opaque), void *opaque);

/* A protocol node of its own, named `name`, that holds a copy of the bytes.  It grows to FUZZ_DISK_MAX at most.  The caller owns
 * one reference. */
#define FUZZ_DISK_MAX (UINT64_C(32) << 20)
Node *fuzz_disk_new(const char *name, const uint8_t *data, size_t size);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * For fuzz targets with the commands of the whole daemon: a directory of the fuzzer's own, which is the working directory, and taking down what
 * commands have made.
 */
#ifndef TESTS_FUZZ_DAEMON_H
#define TESTS_FUZZ_DAEMON_H

#include "fuzz-util.h"
#include "util/coroutine.h"

/* Once, from LLVMFuzzerInitialize(), instead of fuzz_init(). */
void fuzz_daemon_init(void);
/* Ends everything that commands have made, and fails if something is left; deletes the files. */
void coroutine_fn fuzz_daemon_take_down(void);

#endif

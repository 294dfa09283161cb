/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Help for the tests of util/: bodies that run as coroutines of the control loop, and of I/O threads.
 */
#ifndef TESTS_UNIT_UTIL_TEST_H
#define TESTS_UNIT_UTIL_TEST_H

#include "util/iothread.h"

#if defined(__SANITIZE_ADDRESS__)
#define UTIL_TEST_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define UTIL_TEST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UTIL_TEST_ASAN 1
#elif __has_feature(thread_sanitizer)
#define UTIL_TEST_TSAN 1
#endif
#endif

/* How much of something there shall be: normally, under ASan, under TSan (to which each coroutine is a
 * thread, and which has room for about 8,000 at a time). */
#if defined(UTIL_TEST_ASAN)
#define UTIL_TEST_AMOUNT(plain, asan, tsan) (asan)
#elif defined(UTIL_TEST_TSAN)
#define UTIL_TEST_AMOUNT(plain, asan, tsan) (tsan)
#else
#define UTIL_TEST_AMOUNT(plain, asan, tsan) (plain)
#endif

/* g_test_init(), RCU, control loop, and what ends a test that hangs. */
void util_test_init(int *argc, char ***argv);
/* Adds a test whose body is a coroutine of the control loop. */
void util_test_add(const char *path, CoroutineFn *body);
/* Adds a test whose body runs as a coroutine of each kind of loop: path/control and path/io. */
void util_test_add_loops(const char *path, CoroutineFn *body);

/* Runs fn(opaque) as a coroutine of `loop` and waits for its end, in a coroutine. */
void coroutine_fn util_test_run_on(Loop *loop, CoroutineFn *fn, void *opaque);
/* Fails the test if there is none. */
IOThread *util_test_iothread(void);

/* Waits in steps until the condition holds; a test that waits too long is ended by its alarm. */
#define co_wait_until(condition)                                                                   \
    do {                                                                                           \
        while (!(condition)) {                                                                     \
            co_sleep_ns(200000);                                                                   \
        }                                                                                          \
    } while (0)

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * For tests of drivers: bodies as coroutines of the control thread, nodes from JSON, edges, and
 * requests on any loop.
 */
#ifndef TESTS_NODE_TEST_H
#define TESTS_NODE_TEST_H

#include "block/graph.h"
#include "block/io.h"
#include "util/iothread.h"

/* First in main(), before g_test_init(): rights are given up (permissions mean something then),
 * then loops, drivers and two I/O threads are set up. */
void node_test_init(void);
/* Last. */
void node_test_end(void);

/* A GTest whose body runs as a coroutine of the control thread.  It fails if a node is left open,
 * or a descriptor. */
void node_test_add(const char *path, void coroutine_fn (*body)(void));

/* A directory of the test's own, removed in the end; and the name of a file in it (not freed by the
 * caller). */
const char *node_test_dir(void);
const char *node_test_file(const char *name);

/* Options as JSON, with single quotes for double ones. */
Node *coroutine_fn node_test_open(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
/* Opening fails with exactly this text. */
void coroutine_fn node_test_refused(const char *text, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* Expects success. */
Edge *coroutine_fn node_test_attach(Node *n, unsigned perm, unsigned shared);
extern const EdgeOwner node_test_owner;

/* ---- one request, on a loop chosen by node_test_use() ---- */

typedef enum TestLoop { TEST_CONTROL, TEST_THREAD_0, TEST_THREAD_1 } TestLoop;
void node_test_use(TestLoop loop);
Loop *test_loop(TestLoop loop);
/* The body again for every loop. */
void coroutine_fn node_test_on_each_loop(void coroutine_fn (*body)(void));

int coroutine_fn test_write(Edge *e, uint64_t offset, const void *buf, size_t len);
int coroutine_fn test_read(Edge *e, uint64_t offset, void *buf, size_t len);
int coroutine_fn test_fill(Edge *e, uint64_t offset, uint8_t byte, size_t len); /* writes */
int coroutine_fn test_zero(Edge *e, uint64_t offset, uint64_t len, unsigned flags);
int coroutine_fn test_discard(Edge *e, uint64_t offset, uint64_t len);
int coroutine_fn test_flush(Edge *e);
int coroutine_fn test_truncate(Edge *e, uint64_t size);
/* An or of BlockStatus, precise. */
int coroutine_fn test_status(Edge *e, uint64_t offset, uint64_t len, uint64_t *ret_len,
                             uint64_t *ret_map);
/* Reads, and expects `byte` everywhere. */
void coroutine_fn test_expect(Edge *e, uint64_t offset, uint8_t byte, size_t len);

/* Runs argv (ended by NULL); returns its exit status; *ret_err: what it wrote to stderr, if not
 * NULL. */
int test_spawn(const char *const *argv, char **ret_err);

#endif

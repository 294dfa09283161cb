/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The drivers `null-co` and `null-aio`.
 */
#include "node-test.h"
#include <errno.h>

static void coroutine_fn requests(const char *driver)
{
    Node *n = node_test_open("{'driver': '%s', 'node-name': 'n'}", driver);
    Edge *e = node_test_attach(n, PERM_ALL, PERM_ALL);
    g_autofree char *name = g_strdup_printf("%s://", driver);
    uint64_t len;

    g_assert_cmpint(atomic_load(&n->size), ==, 1 << 30);
    g_assert_cmpstr(n->filename, ==, name);
    g_assert_cmpint(test_fill(e, 4096, 'x', 100000), ==, 0);
    test_expect(e, 0, 0, 200000); /* never what the memory had before */
    g_assert_cmpint(test_zero(e, 0, 1 << 30, 0), ==, 0);
    g_assert_cmpint(test_discard(e, 0, 1 << 30), ==, 0);
    g_assert_cmpint(test_flush(e), ==, 0);
    g_assert_cmpint(test_fill(e, 1 << 30, 'x', 1), ==, -EIO);
    g_assert_cmphex(test_status(e, 512, 1 << 30, &len, NULL), ==,
                    STATUS_DATA | STATUS_ALLOCATED | STATUS_OFFSET_VALID | STATUS_EOF);
    g_assert_cmpint(len, ==, (1 << 30) - 512);
    g_assert_cmpint(test_truncate(e, 1000), ==, 0);
    g_assert_cmpint(atomic_load(&n->size), ==, 1024);
    edge_detach(e);
    node_unref(n);
    node_wait_all_closed();
}

static void coroutine_fn both_drivers(void)
{
    requests("null-co");
    requests("null-aio");
}

static void coroutine_fn test_requests(void)
{
    node_test_on_each_loop(both_drivers);
}

static void coroutine_fn test_options(void)
{
    Node *n = node_test_open(
        "{'driver': 'null-co', 'size': 1000, 'read-zeroes': true, 'latency-ns': 30000000}");
    Edge *e = node_test_attach(n, PERM_ALL, PERM_ALL);
    int64_t start = clock_ns();
    uint64_t len;

    g_assert_cmpint(atomic_load(&n->size), ==, 1024);
    g_assert_cmphex(test_status(e, 0, 1024, &len, NULL), ==,
                    STATUS_ZERO | STATUS_ALLOCATED | STATUS_OFFSET_VALID | STATUS_EOF);
    g_assert_cmpint(clock_ns() - start, <, 30000000);
    g_assert_cmpint(test_fill(e, 0, 'x', 512), ==, 0);
    g_assert_cmpint(clock_ns() - start, >=, 30000000);
    test_expect(e, 0, 0, 512);
    g_assert_cmpint(clock_ns() - start, >=, 60000000);
    g_assert_cmpint(test_flush(e), ==, 0);
    g_assert_cmpint(clock_ns() - start, >=, 90000000);
    edge_detach(e);
    node_unref(n);

    n = node_test_open("{'driver': 'null-aio', 'size': 0}");
    g_assert_cmpint(atomic_load(&n->size), ==, 0);
    node_unref(n);
}

static void coroutine_fn test_refused(void)
{
    node_test_refused("Parameter 'size' expects a number of bytes from 0 to 9223372036854771712",
                      "{'driver': 'null-co', 'size': -1}");
    node_test_refused("Parameter 'size' expects a number of bytes from 0 to 9223372036854771712",
                      "{'driver': 'null-aio', 'size': 9223372036854775807}");
    node_test_refused("latency-ns is invalid",
                      "{'driver': 'null-co', 'latency-ns': 18446744073709551615}");
}

int main(int argc, char **argv)
{
    int ret;

    node_test_init();
    g_test_init(&argc, &argv, NULL);
    node_test_add("/null/requests", test_requests);
    node_test_add("/null/options", test_options);
    node_test_add("/null/refused", test_refused);
    ret = g_test_run();
    node_test_end();
    return ret;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The format `raw`: the whole child, and windows of it.
 */
#include "node-test.h"
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define RW (PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE)

static const char *image;
static Node *below; /* the child, opened by itself */
static Edge *peek;

static void make_file(const char *path, size_t size)
{
    g_autofree char *data = g_malloc(size + 1);

    for (size_t i = 0; i < size; i++) {
        data[i] = 'a' + i / 512 % 26;
    }
    g_assert_true(g_file_set_contents(path, data, size, NULL));
}

/* A raw node with these options over a file of 8192 bytes. */
static Node *coroutine_fn open_raw(const char *options)
{
    make_file(image, 8192);
    below = node_test_open(
        "{'driver': 'file', 'node-name': 'below', 'filename': '%s', 'discard': 'unmap'}", image);
    peek = node_test_attach(below, PERM_CONSISTENT_READ, PERM_ALL);
    return node_test_open(
        "{'driver': 'raw', 'node-name': 'r', 'file': 'below', 'discard': 'unmap'%s}", options);
}

static void coroutine_fn done(Node *n, Edge *e)
{
    edge_detach(e);
    node_unref(n);
    edge_detach(peek);
    node_unref(below);
    node_wait_all_closed();
}

static void coroutine_fn whole(void)
{
    Node *n = open_raw("");
    Edge *e = node_test_attach(n, RW, PERM_ALL);
    uint64_t len, map;

    g_assert_cmpint(atomic_load(&n->size), ==, 8192);
    g_assert_cmpstr(n->filename, ==, image);
    test_expect(e, 512, 'b', 512);
    g_assert_cmpint(test_fill(e, 100, 'X', 50), ==, 0);
    test_expect(peek, 0, 'a', 100);
    test_expect(peek, 100, 'X', 50);
    g_assert_cmpint(test_flush(e), ==, 0);
    g_assert_cmphex(test_status(e, 0, 8192, &len, &map), ==,
                    STATUS_DATA | STATUS_ALLOCATED | STATUS_OFFSET_VALID | STATUS_EOF);
    g_assert_cmpint(len, ==, 8192);
    g_assert_cmpint(map, ==, 0);
    g_assert_cmpint(test_zero(e, 4096, 4096, REQ_MAY_UNMAP), ==, 0);
    test_expect(peek, 4096, 0, 4096);
    g_assert_cmphex(test_status(e, 4096, 4096, &len, &map), ==,
                    STATUS_ZERO | STATUS_ALLOCATED | STATUS_OFFSET_VALID | STATUS_EOF);
    g_assert_cmpint(test_truncate(e, 65536), ==, 0);
    g_assert_cmpint(atomic_load(&n->size), ==, 65536);
    g_assert_cmpint(atomic_load(&below->size), ==, 65536);
    test_expect(e, 8192, 0, 65536 - 8192);
    g_assert_cmpint(test_truncate(e, 1024), ==, 0);
    g_assert_cmpint(atomic_load(&n->size), ==, 1024);
    done(n, e);
}

static void coroutine_fn window(void)
{
    Node *n = open_raw(", 'offset': 1024, 'size': 2048");
    Edge *e = node_test_attach(n, PERM_CONSISTENT_READ | PERM_WRITE, PERM_ALL);
    uint64_t len, map;

    g_assert_cmpint(atomic_load(&n->size), ==, 2048);
    test_expect(e, 0, 'c', 512);
    test_expect(e, 2048 - 512, 'f', 512);
    g_assert_cmpint(test_fill(e, 0, 'X', 2048), ==, 0);
    test_expect(peek, 512, 'b', 512);
    test_expect(peek, 1024, 'X', 2048);
    test_expect(peek, 3072, 'g', 512);
    g_assert_cmpint(test_fill(e, 2047, 'Y', 2), ==, -EIO);
    g_assert_cmpint(test_zero(e, 2048, 512, 0), ==, -EIO);
    g_assert_cmpint(test_discard(e, 0, 4096), ==, -EIO);
    g_assert_cmpint(test_zero(e, 512, 512, 0), ==, 0);
    test_expect(peek, 1024, 'X', 512);
    test_expect(peek, 1536, 0, 512);
    test_expect(peek, 2048, 'X', 1024);
    g_assert_cmphex(test_status(e, 1024, 512, &len, &map), ==,
                    STATUS_DATA | STATUS_ALLOCATED | STATUS_OFFSET_VALID);
    g_assert_cmpint(map, ==, 2048);
    g_assert_cmpint(test_truncate(e, 1024), ==, -ENOTSUP);
    g_assert_cmpint(atomic_load(&n->size), ==, 2048);
    done(n, e);
}

static void coroutine_fn offset_only(void)
{
    Node *n = open_raw(", 'offset': 512");
    Edge *e = node_test_attach(n, RW, PERM_ALL);
    char edge[3] = "???";

    g_assert_cmpint(atomic_load(&n->size), ==, 8192 - 512);
    test_expect(e, 0, 'b', 512);
    g_assert_cmpint(test_truncate(e, 512), ==, 0);
    g_assert_cmpint(atomic_load(&below->size), ==, 1024);
    g_assert_cmpint(test_truncate(e, BLOCK_MAX_SIZE), ==, -EFBIG);
    g_assert_cmpint(atomic_load(&n->size), ==, 512);
    test_expect(e, 0, 'b', 512);
    done(n, e);

    n = open_raw(", 'offset': 100"); /* the last sector is there in part */
    e = node_test_attach(n, RW, PERM_ALL);
    g_assert_cmpint(atomic_load(&n->size), ==, 8192);
    test_expect(e, 412, 'b', 512);
    test_expect(e, 8192 - 612, 'p', 512);
    test_expect(e, 8192 - 100, 0, 100);
    test_expect(e, 8192 - 50, 0, 50);
    g_assert_cmpint(test_read(e, 8192 - 101, edge, 3), ==, 0);
    g_assert_cmpmem(edge, 3, "p\0\0", 3);
    done(n, e);
}

static void coroutine_fn everything(void)
{
    whole();
    window();
    offset_only();
}

static void coroutine_fn test_requests(void)
{
    node_test_on_each_loop(everything);
}

static void coroutine_fn test_refused(void)
{
    static const struct {
        const char *options, *text;
    } cases[] = {
        {", 'offset': 8704",
         "Offset (8704) cannot be greater than size of the containing file (8192)"},
        {", 'offset': 512, 'size': 8192",
         "The sum of offset (512) and size (8192) has to be smaller or equal to the  "
         "actual size of the containing file (8192)"},
        {", 'size': 8704",
         "The sum of offset (0) and size (8704) has to be smaller or equal to the  actual size of "
         "the containing file (8192)"},
        {", 'size': 100", "Specified size is not multiple of 512"},
        {", 'offset': -1", "Parameter 'offset' expects a non-negative number of bytes"},
        {", 'size': -512", "Parameter 'size' expects a non-negative number of bytes"},
        {", 'offset': 9223372036854775807, 'size': 512",
         "Offset (9223372036854775807) cannot be greater than size of the containing file (8192)"},
    };

    make_file(image, 8192);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        node_test_refused(cases[i].text,
                          "{'driver': 'raw', 'file': {'driver': 'file', 'filename': '%s'}%s}",
                          image, cases[i].options);
    }
    node_test_refused("Cannot find device='none' nor node-name='none'",
                      "{'driver': 'raw', 'file': 'none'}");
}

/* A fixed window must not be resized below. */
static void coroutine_fn test_permissions(void)
{
    g_autoptr(Error) err = NULL;
    Node *n = open_raw(", 'size': 8192");
    Edge *e = node_test_attach(n, RW, PERM_ALL);

    g_assert_cmphex(n->file->perm, ==, PERM_CONSISTENT_READ | PERM_WRITE);
    g_assert_cmphex(n->file->shared & PERM_RESIZE, ==, 0);
    g_assert_false(edge_set_perm(peek, PERM_RESIZE, PERM_ALL, &err));
    g_assert_cmpstr(
        err->message, ==,
        "Permission conflict on node 'below': permissions 'resize' are both required by a test "
        "(uses node "
        "'below' as 'root' child) and unshared by node 'r' (uses node 'below' as 'file' child).");
    done(n, e);

    n = open_raw("");
    e = node_test_attach(n, RW, PERM_CONSISTENT_READ);
    g_assert_cmphex(n->file->perm, ==, RW);
    g_assert_cmphex(n->file->shared & (PERM_WRITE | PERM_RESIZE), ==, 0);
    done(n, e);
}

/* auto-read-only reaches through, and back. */
static void coroutine_fn test_read_only_file(void)
{
    g_autoptr(Error) err = NULL;
    Node *n;

    make_file(image, 512);
    g_assert_cmpint(chmod(image, 0444), ==, 0);
    n = node_test_open(
        "{'driver': 'raw', 'auto-read-only': true, 'file': {'driver': 'file', 'filename': '%s'}}",
        image);
    g_assert_true(atomic_load(&n->read_only));
    g_assert_null(
        edge_attach(n, NULL, &node_test_owner, NULL, "root", EDGE_ROOT, RW, PERM_ALL, &err));
    g_assert_cmpstr(err->message, ==, "Block node is read-only");
    node_unref(n);
    node_wait_all_closed();
    chmod(image, 0644);
}

int main(int argc, char **argv)
{
    int ret;

    node_test_init();
    g_test_init(&argc, &argv, NULL);
    image = node_test_file("image");
    node_test_add("/raw/requests", test_requests);
    node_test_add("/raw/refused", test_refused);
    node_test_add("/raw/permissions", test_permissions);
    node_test_add("/raw/read-only-file", test_read_only_file);
    ret = g_test_run();
    node_test_end();
    return ret;
}

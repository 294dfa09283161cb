/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver `file`: opening and its errors, requests from every kind of loop, locks and
 * descriptors as permissions change.
 *
 * What other processes see of the locks is judged by qemu-io; test-file-no-gap.c has the rest.
 */
#include "node-test.h"
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define RW         (PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE)
#define SHARE_READ (PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED)

static const char *image;

static void make_file(const char *path, off_t size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, size), ==, 0);
    close(fd);
}

static off_t file_size(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return st.st_size;
}

static off_t file_space(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return st.st_blocks * 512;
}

static Node *coroutine_fn open_image(const char *more)
{
    return node_test_open("{'driver': 'file', 'node-name': 'f', 'filename': '%s'%s}", image, more);
}

static void coroutine_fn done(Node *n, Edge *e)
{
    edge_detach(e);
    node_unref(n);
    node_wait_all_closed();
}

/* ---- opening ---- */

static void coroutine_fn refused(const char *reason, const char *file, const char *more)
{
    g_autofree char *text = g_strdup_printf(reason, file);

    node_test_refused(text, "{'driver': 'file', 'filename': '%s'%s}", file, more);
}

static void coroutine_fn test_refused(void)
{
    const char *fifo = node_test_file("fifo"), *loop = node_test_file("loop"),
               *sock = node_test_file("sock");
    const char *secret = node_test_file("secret"), *read_only = node_test_file("ro");
    g_autofree char *below = g_build_filename(image, "x", NULL);
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(sa.sun_path, sock, sizeof(sa.sun_path));
    g_assert_cmpint(bind(s, (struct sockaddr *)&sa, sizeof(sa)), ==, 0);
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    g_assert_cmpint(symlink(loop, loop), ==, 0);
    make_file(image, 512);
    make_file(secret, 512);
    make_file(read_only, 512);
    g_chmod(secret, 0);
    g_chmod(read_only, 0444);

    refused("Could not open '%s': No such file or directory", node_test_file("none"), "");
    refused("Could not open '%s': Not a directory", below, "");
    refused("Could not open '%s': Is a directory", node_test_dir(), "");
    refused("'file' driver requires '%s' to be a regular file", node_test_dir(),
            ", 'read-only': true");
    refused("'file' driver requires '%s' to be a regular file", fifo, "");
    refused("'file' driver requires '%s' to be a regular file", fifo, ", 'read-only': true");
    refused("'file' driver requires '%s' to be a regular file", "/dev/null", "");
    refused("Could not open '%s': No such device or address", sock, "");
    refused("Could not open '%s': Too many levels of symbolic links", loop, "");
    refused("Could not open '%s': Permission denied", secret, "");
    refused("Could not open '%s': Permission denied", secret, ", 'read-only': true");
    refused("Could not open '%s': Permission denied", read_only, "");
    refused("The 'file' block driver requires a file name", "", "");
    refused("aio=native was specified, but it requires cache.direct=on, which was not specified.",
            image, ", 'aio': 'native'");
    close(s);
}

static void coroutine_fn accepts(const char *more)
{
    Node *n = open_image(more);

    g_assert_cmpint(atomic_load(&n->size), ==, 4096);
    node_unref(n);
    node_wait_all_closed();
}

static void coroutine_fn test_options(void)
{
    make_file(image, 4096);
    accepts(", 'aio': 'threads', 'aio-max-batch': 7, 'drop-cache': false");
    accepts(", 'aio': 'io_uring', 'locking': 'on'");
    accepts(", 'aio': 'native', 'cache': {'direct': true}");
    accepts(", 'x-check-cache-dropped': true, 'locking': 'off'");
    accepts(", 'read-only': true, 'force-share': true");
}

/* ---- requests ---- */

static void coroutine_fn read_write(void)
{
    Node *n;
    Edge *e;

    make_file(image, 1 << 20);
    n = open_image("");
    e = node_test_attach(n, RW, PERM_ALL);
    g_assert_cmpint(test_fill(e, 0, 'a', 4096), ==, 0);
    g_assert_cmpint(test_fill(e, 4000, 'b', 100), ==, 0);
    g_assert_cmpint(test_fill(e, (1 << 20) - 1, 'c', 1), ==, 0);
    g_assert_cmpint(test_flush(e), ==, 0);
    test_expect(e, 0, 'a', 4000);
    test_expect(e, 4000, 'b', 100);
    test_expect(e, 4100, 0, (1 << 20) - 1 - 4100);
    test_expect(e, (1 << 20) - 1, 'c', 1);
    g_assert_cmpint(test_fill(e, 1 << 20, 'd', 1), ==, -EIO);
    g_assert_cmpint(test_fill(e, (1 << 20) - 1, 'd', 2), ==, -EIO);
    test_expect(e, (1 << 20) - 1, 'c', 1);
    done(n, e);
}

static void coroutine_fn test_read_write(void)
{
    node_test_on_each_loop(read_write);
}

/* More pieces than one system call takes, and memory of any alignment. */
static void coroutine_fn direct(void)
{
    g_autofree uint8_t *buf = g_malloc(70001), *back = g_malloc(70001);
    Node *n;
    Edge *e;

    for (unsigned i = 0; i < 70001; i++) {
        buf[i] = i * 7 + i / 256;
    }
    make_file(image, (1 << 20) + 1000); /* ends inside a block */
    n = open_image(", 'cache': {'direct': true}");
    g_assert_cmpint(n->limits.request_alignment, >=, 512);
    e = node_test_attach(n, RW, PERM_ALL);
    g_assert_cmpint(test_write(e, 12345, buf, 70001), ==, 0);
    g_assert_cmpint(test_read(e, 12345, back, 70001), ==, 0);
    g_assert_cmpmem(buf, 70001, back, 70001);
    test_expect(e, 0, 0, 12345);
    test_expect(e, 12345 + 70001, 0, 4096);
    test_expect(e, 1 << 20, 0, 1024);
    g_assert_cmpint(test_fill(e, (1 << 20) + 500, 'x', 3), ==, 0);
    test_expect(e, 1 << 20, 0, 500);
    test_expect(e, (1 << 20) + 500, 'x', 3);
    test_expect(e, (1 << 20) + 503, 0, 521);
    g_assert_cmpint(test_flush(e), ==, 0);
    done(n, e);
}

static void coroutine_fn test_direct(void)
{
    node_test_on_each_loop(direct);
}

static void coroutine_fn ends(void)
{
    Node *n;
    Edge *e;

    make_file(image, 1000);
    n = open_image("");
    g_assert_cmpint(atomic_load(&n->size), ==, 1024);
    e = node_test_attach(n, RW, PERM_ALL);
    test_expect(e, 0, 0, 1024);
    test_expect(e, 1010, 0, 14);
    g_assert_cmpint(test_fill(e, 900, 'x', 100), ==, 0);
    test_expect(e, 900, 'x', 100);
    test_expect(e, 1000, 0, 24);
    g_assert_cmpint(file_size(image), ==, 1000); /* reading has not made it longer */
    done(n, e);

    make_file(image, 0);
    n = open_image("");
    g_assert_cmpint(atomic_load(&n->size), ==, 0);
    e = node_test_attach(n, RW, PERM_ALL);
    g_assert_cmpint(test_fill(e, 0, 'x', 1), ==, -EIO);
    done(n, e);
}

static void coroutine_fn test_ends(void)
{
    node_test_on_each_loop(ends);
}

/* Another process makes the file shorter under our hands. */
static void coroutine_fn test_shrunk_by_another(void)
{
    uint8_t buf[8192];
    Node *n;
    Edge *e;

    make_file(image, 65536);
    n = open_image("");
    e = node_test_attach(n, RW, PERM_ALL);
    g_assert_cmpint(test_fill(e, 0, 'x', 65536), ==, 0);
    g_assert_cmpint(truncate(image, 4096), ==, 0);
    test_expect(e, 0, 'x', 4096);
    g_assert_cmpint(test_read(e, 4096, buf, 512), ==, -EIO);
    g_assert_cmpint(test_read(e, 0, buf, 8192), ==, -EIO);
    g_assert_cmpint(test_fill(e, 65536 - 512, 'y', 512), ==,
                    0); /* writing makes it as long again */
    test_expect(e, 4096, 0, 4096);
    done(n, e);
}

static void coroutine_fn zeroes(void)
{
    Node *n;
    Edge *e;

    make_file(image, 1 << 20);
    n = open_image(", 'discard': 'unmap'");
    e = node_test_attach(n, RW, PERM_ALL);
    g_assert_cmpint(test_fill(e, 0, 'x', 1 << 20), ==, 0);
    g_assert_cmpint(test_zero(e, 100, 200000, 0), ==, 0);
    test_expect(e, 0, 'x', 100);
    test_expect(e, 100, 0, 200000);
    test_expect(e, 200100, 'x', 1000);
    g_assert_cmpint(test_flush(e), ==, 0);
    g_assert_cmpint(file_space(image), >=, 1 << 20); /* the space is kept */
    g_assert_cmpint(test_zero(e, 0, 1 << 19, REQ_MAY_UNMAP), ==, 0);
    test_expect(e, 0, 0, 1 << 19);
    g_assert_cmpint(file_space(image), <=, 600 * 1024); /* or given back */
    g_assert_cmpint(test_discard(e, 1 << 19, 1 << 18), ==, 0);
    g_assert_cmpint(file_space(image), <=, 300 * 1024);
    test_expect(e, (1 << 20) - (1 << 18), 'x', 1 << 18);
    g_assert_cmpint(file_size(image), ==, 1 << 20);
    done(n, e);

    n = open_image("");
    e = node_test_attach(n, RW, PERM_ALL);
    g_assert_cmpint(test_discard(e, 0, 1 << 20), ==, 0); /* discard=ignore */
    test_expect(e, (1 << 20) - (1 << 18), 'x', 1 << 18);
    done(n, e);
}

static void coroutine_fn test_zeroes(void)
{
    node_test_on_each_loop(zeroes);
}

/* The end of a file that is no whole sector. */
static void coroutine_fn test_zeroes_at_the_end(void)
{
    Node *n;
    Edge *e;

    make_file(image, 1000);
    n = open_image(", 'discard': 'unmap'");
    e = node_test_attach(n, RW, PERM_ALL);
    for (unsigned flags = 0; flags <= REQ_MAY_UNMAP; flags += REQ_MAY_UNMAP) {
        g_assert_cmpint(test_fill(e, 0, 'x', 1024), ==, 0);
        g_assert_cmpint(truncate(image, 1000), ==, 0);
        g_assert_cmpint(test_zero(e, 512, 512, flags), ==, 0);
        test_expect(e, 0, 'x', 512);
        test_expect(e, 512, 0, 512);
    }
    done(n, e);
}

/* A file system that cannot zero a range, only punch holes: tmpfs. */
static void coroutine_fn zeroes_on_tmpfs(void)
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    g_autofree char *name = g_strdup_printf("/proc/self/fd/%d", fd);
    Node *n;
    Edge *e;

    g_assert_cmpint(ftruncate(fd, 1 << 20), ==, 0);
    n = node_test_open("{'driver': 'file', 'filename': '%s', 'discard': 'unmap'}", name);
    e = node_test_attach(n, RW, PERM_ALL);
    for (unsigned i = 0; i < 2; i++) { /* the second time the refusal is remembered */
        g_assert_cmpint(test_fill(e, 0, 'x', 1 << 20), ==, 0);
        g_assert_cmpint(test_zero(e, 4096, 1 << 19, 0), ==, 0);
        test_expect(e, 0, 'x', 4096);
        test_expect(e, 4096, 0, 1 << 19);
        test_expect(e, 4096 + (1 << 19), 'x', 4096);
        g_assert_cmpint(file_space(name), ==, 1 << 20);
    }
    g_assert_cmpint(test_zero(e, 0, 1 << 20, REQ_MAY_UNMAP), ==, 0);
    g_assert_cmpint(file_space(name), ==, 0);
    done(n, e);
    close(fd);
}

static void coroutine_fn test_zeroes_on_tmpfs(void)
{
    node_test_on_each_loop(zeroes_on_tmpfs);
}

/* The kernel writes what it can, and says why not more when asked for the rest. */
static void coroutine_fn short_write(void)
{
    struct rlimit old, low;
    Node *n;
    Edge *e;

    make_file(image, 1 << 20);
    n = open_image("");
    e = node_test_attach(n, RW, PERM_ALL);
    getrlimit(RLIMIT_FSIZE, &old);
    low = old;
    low.rlim_cur = 10000;
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &low), ==, 0);
    g_assert_cmpint(test_fill(e, 8192, 'x', 65536), ==, -EFBIG);
    g_assert_cmpint(setrlimit(RLIMIT_FSIZE, &old), ==, 0);
    test_expect(e, 8192, 'x', 10000 - 8192);
    test_expect(e, 10000, 0, 512);
    done(n, e);
}

static void coroutine_fn test_short_write(void)
{
    signal(SIGXFSZ, SIG_IGN);
    node_test_on_each_loop(short_write);
}

static void coroutine_fn resize(void)
{
    Node *n;
    Edge *e;

    make_file(image, 4096);
    n = open_image("");
    e = node_test_attach(n, RW, PERM_ALL);
    g_assert_cmpint(test_fill(e, 0, 'x', 4096), ==, 0);
    g_assert_cmpint(test_truncate(e, 10000), ==, 0);
    g_assert_cmpint(file_size(image), ==, 10000);
    g_assert_cmpint(atomic_load(&n->size), ==, 10240);
    test_expect(e, 0, 'x', 4096);
    test_expect(e, 4096, 0, 10240 - 4096);
    g_assert_cmpint(test_truncate(e, 1024), ==, 0);
    g_assert_cmpint(file_size(image), ==, 1024);
    g_assert_cmpint(test_truncate(e, 4096), ==, 0);
    test_expect(e, 0, 'x', 1024);
    test_expect(e, 1024, 0, 3072);
    g_assert_cmpint(test_truncate(e, BLOCK_MAX_SIZE), ==, -EFBIG);
    g_assert_cmpint(atomic_load(&n->size), ==, 4096);
    done(n, e);
}

static void coroutine_fn test_resize(void)
{
    node_test_on_each_loop(resize);
}

static void coroutine_fn expect_status(Edge *e, uint64_t offset, uint64_t len, int status,
                                       uint64_t want_len)
{
    uint64_t got, map;

    g_assert_cmphex(test_status(e, offset, len, &got, &map), ==,
                    status | STATUS_ALLOCATED | STATUS_OFFSET_VALID);
    g_assert_cmpint(got, ==, want_len);
    g_assert_cmpint(map, ==, offset);
}

static void coroutine_fn status(void)
{
    Node *n;
    Edge *e;
    uint64_t got;

    make_file(image, 1 << 20);
    n = open_image(", 'discard': 'unmap'");
    e = node_test_attach(n, RW, PERM_ALL);
    g_assert_cmpint(test_fill(e, 65536, 'x', 131072), ==, 0);
    g_assert_cmpint(test_flush(e), ==, 0);
    expect_status(e, 0, 1 << 20, STATUS_ZERO | 0, 65536);
    expect_status(e, 4096, 8192, STATUS_ZERO, 8192);
    expect_status(e, 65536, 1 << 19, STATUS_DATA, 131072);
    expect_status(e, 65536 + 4096, 4096, STATUS_DATA, 4096); /* remembered */
    expect_status(e, 65536 + 131072, (1 << 20) - 65536 - 131072, STATUS_ZERO | STATUS_EOF,
                  (1 << 20) - 65536 - 131072);
    /* What is remembered is forgotten when space is freed. */
    expect_status(e, 65536, 1 << 19, STATUS_DATA, 131072);
    g_assert_cmpint(test_discard(e, 65536, 65536), ==, 0);
    expect_status(e, 65536, 65536, STATUS_ZERO, 65536);
    expect_status(e, 131072, 65536, STATUS_DATA, 65536);
    g_assert_cmpint(test_zero(e, 131072, 65536, REQ_MAY_UNMAP), ==, 0);
    expect_status(e, 131072, 65536, STATUS_ZERO, 65536);
    g_assert_cmpint(test_fill(e, 131072, 'y', 65536), ==, 0);
    expect_status(e, 131072, 65536, STATUS_DATA, 65536);
    g_assert_cmpint(test_truncate(e, 131072 + 4096), ==, 0);
    g_assert_cmpint(test_truncate(e, 1 << 20), ==, 0);
    expect_status(e, 131072, 65536, STATUS_DATA, 4096);
    g_assert_cmphex(test_status(e, 1 << 20, 512, &got, NULL), ==, STATUS_ZERO | STATUS_EOF);
    done(n, e);
}

static void coroutine_fn test_status_of_ranges(void)
{
    node_test_on_each_loop(status);
}

/* cache.no-flush, and errors of flushes. */
static void coroutine_fn test_flushes(void)
{
    Node *n;
    Edge *e;

    make_file(image, 4096);
    n = open_image(", 'cache': {'no-flush': true}");
    e = node_test_attach(n, RW, PERM_ALL);
    g_assert_cmpint(test_fill(e, 0, 'x', 4096), ==, 0);
    g_assert_cmpint(test_flush(e), ==, 0);
    done(n, e);
}

static void coroutine_fn test_facts(void)
{
    g_auto(ImageFacts) facts = {0};
    g_autoptr(Error) err = NULL;
    Node *n;

    make_file(image, 1 << 20);
    n = open_image("");
    g_assert_true(n->driver->facts(n, &facts, &err));
    g_assert_cmpint(facts.actual_size, ==, file_space(image));
    g_assert_cmpstr(n->filename, ==, image);
    node_unref(n);
}

/* ---- locks ---- */

static int locked_bytes(void)
{
    int fd = open(image, O_RDONLY | O_CLOEXEC), mask = 0;

    for (int k = 0; k < 8; k++) {
        struct flock fl = {.l_type = F_WRLCK, .l_start = (k < 4 ? 100 : 196) + k, .l_len = 1};

        g_assert_cmpint(fcntl(fd, F_OFD_GETLK, &fl), ==, 0);
        mask |= (fl.l_type != F_UNLCK) << k;
    }
    close(fd);
    return mask;
}

/* As they should be, from what a node uses and shares. */
static void expect_locks(unsigned perm, unsigned shared)
{
    g_assert_cmphex(locked_bytes(), ==, (int)(perm | (~shared & PERM_ALL) << 4));
}

static int image_descriptor(void)
{
    struct stat want, st;
    int found = -1;

    g_assert_cmpint(stat(image, &want), ==, 0);
    for (int fd = 0; fd < 1000; fd++) {
        if (fstat(fd, &st) == 0 && st.st_ino == want.st_ino && st.st_dev == want.st_dev) {
            g_assert_cmpint(found, ==, -1); /* there is one only */
            found = fd;
        }
    }
    return found;
}

static int access_mode(int fd)
{
    return fcntl(fd, F_GETFL) & O_ACCMODE;
}

static void coroutine_fn test_locks_follow_permissions(void)
{
    g_autoptr(Error) err = NULL;
    Node *n;
    Edge *a, *b;

    make_file(image, 4096);
    n = open_image("");
    expect_locks(0, PERM_ALL);
    a = node_test_attach(n, RW, SHARE_READ);
    expect_locks(RW, SHARE_READ);
    b = node_test_attach(n, PERM_CONSISTENT_READ, PERM_ALL);
    expect_locks(RW, SHARE_READ);
    g_assert_true(edge_set_perm(a, PERM_CONSISTENT_READ, PERM_ALL & ~PERM_RESIZE, &err));
    expect_locks(PERM_CONSISTENT_READ, PERM_ALL & ~PERM_RESIZE);
    edge_detach(a);
    expect_locks(PERM_CONSISTENT_READ, PERM_ALL);
    edge_detach(b);
    expect_locks(0, PERM_ALL);
    node_unref(n);
}

static void coroutine_fn test_no_locks(void)
{
    Node *n;
    Edge *e;

    make_file(image, 4096);
    n = open_image(", 'locking': 'off'");
    e = node_test_attach(n, RW, PERM_NONE);
    expect_locks(0, PERM_ALL);
    done(n, e);
    n = open_image(", 'read-only': true, 'force-share': true");
    e = node_test_attach(n, PERM_CONSISTENT_READ, PERM_NONE);
    expect_locks(PERM_CONSISTENT_READ, PERM_ALL);
    done(n, e);
}

/* Two nodes of one process exclude each other too; a failed attempt leaves everything as it was. */
static void coroutine_fn test_conflict(void)
{
    g_autoptr(Error) err = NULL, err2 = NULL;
    Node *n, *other;
    Edge *a, *b;

    make_file(image, 4096);
    n = open_image("");
    a = node_test_attach(n, PERM_CONSISTENT_READ, PERM_CONSISTENT_READ);
    other = node_test_open("{'driver': 'file', 'node-name': 'g', 'filename': '%s'}", image);
    g_assert_null(
        edge_attach(other, NULL, &node_test_owner, NULL, "root", EDGE_ROOT, RW, PERM_ALL, &err));
    g_assert_cmpstr(err->message, ==, "Failed to get \"write\" lock");
    g_assert_cmpint(err->kind, ==, ERROR_BUSY);
    expect_locks(PERM_CONSISTENT_READ, PERM_CONSISTENT_READ);
    b = node_test_attach(other, PERM_CONSISTENT_READ, PERM_ALL);
    g_assert_false(edge_set_perm(b, PERM_CONSISTENT_READ, PERM_ALL & ~PERM_CONSISTENT_READ, &err2));
    g_assert_cmpstr(err2->message, ==, "Failed to get shared \"consistent read\" lock");
    expect_locks(PERM_CONSISTENT_READ, PERM_CONSISTENT_READ);
    g_assert_cmpint(b->shared, ==, PERM_ALL);
    done(other, b);
    expect_locks(PERM_CONSISTENT_READ, PERM_CONSISTENT_READ);
    done(n, a);
}

static int qemu_io(const char *mode, char **ret_err)
{
    const char *const argv[] = {"qemu-io", "-f", "qcow2", "-c", "length", image, mode, NULL};

    return test_spawn(argv, ret_err);
}

static void coroutine_fn make_qcow2(void)
{
    const char *const argv[] = {"qemu-img", "create", "-q", "-f", "qcow2", image, "1M", NULL};

    g_unlink(image);
    g_assert_cmpint(test_spawn(argv, NULL), ==, 0);
}

static void coroutine_fn test_qemu_refuses(void)
{
    g_autofree char *e1 = NULL, *e2 = NULL, *e3 = NULL;
    g_autoptr(Error) err = NULL;
    Node *n;
    Edge *e;

    make_qcow2();
    n = open_image("");
    g_assert_cmpint(qemu_io(NULL, NULL), ==, 0); /* open, but nobody uses it */
    e = node_test_attach(n, RW, SHARE_READ);
    g_assert_cmpint(qemu_io(NULL, &e1), ==, 1);
    g_assert_nonnull(strstr(e1, "Failed to get \"write\" lock"));
    g_assert_cmpint(qemu_io("-r", &e2), ==, 1);
    g_assert_nonnull(strstr(e2, "Failed to get shared \"write\" lock"));
    g_assert_cmpint(qemu_io("-rU", NULL), ==, 0);
    g_assert_true(edge_set_perm(e, PERM_CONSISTENT_READ, SHARE_READ, &err));
    g_assert_cmpint(qemu_io("-r", NULL), ==, 0);
    g_assert_cmpint(qemu_io(NULL, &e3), ==, 1);
    edge_detach(e);
    g_assert_cmpint(qemu_io(NULL, NULL), ==, 0);
    node_unref(n);
}

/* ---- one descriptor ---- */

static void coroutine_fn test_auto_read_only(void)
{
    g_autoptr(Error) err = NULL;
    Node *n;
    Edge *a, *b;
    int fd;

    make_file(image, 4096);
    n = open_image(", 'auto-read-only': true");
    g_assert_false(atomic_load(&n->read_only));
    fd = image_descriptor();
    g_assert_cmpint(access_mode(fd), ==, O_RDONLY);
    a = node_test_attach(n, PERM_CONSISTENT_READ, PERM_ALL);
    g_assert_cmpint(access_mode(fd), ==, O_RDONLY);
    b = node_test_attach(n, RW, SHARE_READ);
    g_assert_cmpint(image_descriptor(), ==, fd);
    g_assert_cmpint(access_mode(fd), ==, O_RDWR);
    g_assert_cmpint(fcntl(fd, F_GETFD), ==, FD_CLOEXEC);
    expect_locks(RW, SHARE_READ);
    g_assert_cmpint(test_fill(b, 0, 'x', 512), ==, 0);
    test_expect(a, 0, 'x', 512);
    edge_detach(b);
    g_assert_cmpint(image_descriptor(), ==, fd);
    g_assert_cmpint(access_mode(fd), ==, O_RDONLY);
    expect_locks(PERM_CONSISTENT_READ, PERM_ALL);
    test_expect(a, 0, 'x', 512);
    /* A file that has lost its name and its right to be written. */
    g_chmod(image, 0444);
    g_assert_null(
        edge_attach(n, NULL, &node_test_owner, NULL, "root", EDGE_ROOT, RW, SHARE_READ, &err));
    g_assert_nonnull(strstr(err->message, "Permission denied"));
    expect_locks(PERM_CONSISTENT_READ, PERM_ALL);
    g_chmod(image, 0644);
    g_assert_cmpint(rename(image, node_test_file("moved")), ==, 0);
    make_file(image, 8192); /* another file of the name */
    b = node_test_attach(n, RW, SHARE_READ);
    g_assert_cmpint(test_fill(b, 0, 'y', 512), ==, 0);
    g_assert_cmpint(file_space(image), ==, 0);
    edge_detach(b);
    done(n, a);

    g_chmod(image, 0444);
    n = open_image(", 'auto-read-only': true");
    g_assert_true(atomic_load(&n->read_only));
    node_unref(n);
    g_chmod(image, 0644);
}

static void coroutine_fn test_ro_commit(void)
{
    g_autoptr(Error) err = NULL;
    Node *n;
    Edge *e, *other;
    int fd;

    make_file(image, 4096);
    n = open_image("");
    e = node_test_attach(n, RW, SHARE_READ);
    fd = image_descriptor();
    g_assert_cmpint(test_fill(e, 0, 'x', 512), ==, 0);

    g_assert_true(node_ro_prepare(n, &err));
    g_assert_cmpint(test_fill(e, 512, 'y', 512), ==, 0); /* writes go on */
    node_ro_abort(n);
    g_assert_cmpint(image_descriptor(), ==, fd);
    expect_locks(RW, SHARE_READ);

    g_assert_true(node_ro_prepare(n, &err));
    node_ro_commit(n);
    g_assert_cmpint(image_descriptor(), ==, fd);
    g_assert_cmpint(access_mode(fd), ==, O_RDONLY);
    expect_locks(PERM_CONSISTENT_READ, SHARE_READ);
    test_expect(e, 512, 'y', 512);
    g_assert_cmpint(test_fill(e, 0, 'z', 512), ==, -EPERM);
    /* Its parent still has its old permissions, and others come and go. */
    other = node_test_attach(n, PERM_CONSISTENT_READ, PERM_ALL & ~PERM_WRITE_UNCHANGED);
    expect_locks(PERM_CONSISTENT_READ, PERM_CONSISTENT_READ);
    g_assert_cmpint(access_mode(fd), ==, O_RDONLY);
    edge_detach(other);
    expect_locks(PERM_CONSISTENT_READ, SHARE_READ);
    g_assert_true(edge_set_perm(e, PERM_CONSISTENT_READ, PERM_ALL, &err));
    expect_locks(PERM_CONSISTENT_READ, PERM_ALL);

    /* Writable again, as a commit job makes it. */
    atomic_store(&n->read_only, false);
    g_assert_true(edge_set_perm(e, RW, SHARE_READ, &err));
    g_assert_cmpint(image_descriptor(), ==, fd);
    g_assert_cmpint(access_mode(fd), ==, O_RDWR);
    expect_locks(RW, SHARE_READ);
    g_assert_cmpint(test_fill(e, 0, 'z', 512), ==, 0);
    done(n, e);
}

/* ---- the end of locks ---- */

/* A request in flight keeps the description it began with; the locks must not stay as long. */
static void coroutine_fn test_locks_end_at_once(void)
{
    g_autoptr(Error) err = NULL;
    int in_flight;
    Node *n;
    Edge *e;

    make_file(image, 4096);
    n = open_image(", 'auto-read-only': true");
    e = node_test_attach(n, RW, SHARE_READ);
    in_flight = dup(image_descriptor());
    g_assert_true(node_ro_prepare(n, &err));
    node_ro_commit(n);
    expect_locks(PERM_CONSISTENT_READ, SHARE_READ);
    close(in_flight);

    in_flight = dup(image_descriptor());
    atomic_store(&n->read_only, false);
    g_assert_true(edge_set_perm(e, RW, SHARE_READ, &err));
    close(in_flight);
    in_flight = dup(image_descriptor());
    g_assert_true(edge_set_perm(e, PERM_CONSISTENT_READ, PERM_ALL, &err));
    expect_locks(PERM_CONSISTENT_READ, PERM_ALL);
    close(in_flight);

    in_flight = dup(image_descriptor());
    done(n, e);
    expect_locks(0, PERM_ALL);
    close(in_flight);
}

int main(int argc, char **argv)
{
    int ret;

    node_test_init();
    g_test_init(&argc, &argv, NULL);
    image = node_test_file("image");
    node_test_add("/file/refused", test_refused);
    node_test_add("/file/options", test_options);
    node_test_add("/file/read-write", test_read_write);
    node_test_add("/file/direct", test_direct);
    node_test_add("/file/ends", test_ends);
    node_test_add("/file/shrunk-by-another", test_shrunk_by_another);
    node_test_add("/file/zeroes", test_zeroes);
    node_test_add("/file/zeroes-at-the-end", test_zeroes_at_the_end);
    node_test_add("/file/zeroes-on-tmpfs", test_zeroes_on_tmpfs);
    node_test_add("/file/short-write", test_short_write);
    node_test_add("/file/resize", test_resize);
    node_test_add("/file/status", test_status_of_ranges);
    node_test_add("/file/flushes", test_flushes);
    node_test_add("/file/facts", test_facts);
    node_test_add("/file/locks-follow-permissions", test_locks_follow_permissions);
    node_test_add("/file/no-locks", test_no_locks);
    node_test_add("/file/conflict", test_conflict);
    node_test_add("/file/qemu-refuses", test_qemu_refuses);
    node_test_add("/file/auto-read-only", test_auto_read_only);
    node_test_add("/file/ro-commit", test_ro_commit);
    node_test_add("/file/locks-end-at-once", test_locks_end_at_once);
    ret = g_test_run();
    node_test_end();
    return ret;
}

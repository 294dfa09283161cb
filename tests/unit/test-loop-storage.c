/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Storage calls of every kind of loop against a file: results, errors, short transfers, and more of them at
 * once than the queues of io_uring have room for.
 */
#include "util-test.h"
#include "util/co-lock.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *path;

static int open_test_file(int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static off_t size_of(int fd)
{
    struct stat st;

    g_assert_cmpint(fstat(fd, &st), ==, 0);
    return st.st_size;
}

static ssize_t coroutine_fn read_at(int fd, void *buf, size_t len, off_t offset)
{
    struct iovec iov = {buf, len};

    return co_preadv(fd, &iov, 1, offset);
}

static ssize_t coroutine_fn write_at(int fd, const void *buf, size_t len, off_t offset)
{
    struct iovec iov = {(void *)buf, len};

    return co_pwritev(fd, &iov, 1, offset);
}

static void coroutine_fn test_results(void *opaque)
{
    int fd = open_test_file(O_RDWR | O_TRUNC);
    char a[10], b[20];
    struct iovec two[] = {{a, sizeof(a)}, {b, sizeof(b)}};
    const off_t far = INT64_C(5) << 30; /* beyond 32 bits */

    (void)opaque;
    g_assert_cmpint(read_at(fd, a, sizeof(a), 0), ==, 0);
    g_assert_cmpint(write_at(fd, "0123456789", 10, 5), ==, 10);
    g_assert_cmpint(read_at(fd, a, sizeof(a), 5), ==, 10);
    g_assert_cmpmem(a, 10, "0123456789", 10);
    g_assert_cmpint(read_at(fd, a, sizeof(a), 12), ==, 3); /* short */
    g_assert_cmpint(read_at(fd, a, sizeof(a), 100), ==, 0);

    memset(a, 'a', sizeof(a));
    memset(b, 'b', sizeof(b));
    g_assert_cmpint(co_pwritev(fd, two, 2, 0), ==, 30);
    memset(a, 0, sizeof(a));
    memset(b, 0, sizeof(b));
    g_assert_cmpint(co_preadv(fd, two, 2, 1), ==, 29);
    g_assert_cmpmem(a, 10, "aaaaaaaaab", 10);
    g_assert_cmpint(b[18], ==, 'b');
    g_assert_cmpint(b[19], ==, 0);

    g_assert_cmpint(write_at(fd, "x", 1, far), ==, 1);
    g_assert_cmpint(read_at(fd, a, 10, far), ==, 1);
    g_assert_cmpint(a[0], ==, 'x');
    g_assert_cmpint(size_of(fd), ==, far + 1);

    g_assert_cmpint(co_fdatasync(fd), ==, 0);
    g_assert_cmpint(co_fsync(fd), ==, 0);
    g_assert_cmpint(co_ftruncate(fd, 100000), ==, 0);
    g_assert_cmpint(size_of(fd), ==, 100000);
    g_assert_cmpint(co_fallocate(fd, 0, 0, 200000), ==, 0);
    g_assert_cmpint(size_of(fd), ==, 200000);
    g_assert_cmpint(co_fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), ==, 0);
    g_assert_cmpint(read_at(fd, a, 10, 0), ==, 10);
    g_assert_cmpmem(a, 10, "\0\0\0\0\0\0\0\0\0", 10);
    close(fd);
}

static void coroutine_fn test_errors(void *opaque)
{
    int fd = open_test_file(O_RDONLY), pipes[2];
    char buf[10];

    (void)opaque;
    g_assert_cmpint(write_at(fd, "x", 1, 0), ==, -EBADF);
    g_assert_cmpint(read_at(fd, buf, 10, -1), ==, -EINVAL);
    g_assert_cmpint(co_ftruncate(fd, 5), ==, -EINVAL);
    g_assert_cmpint(co_fallocate(fd, 0, 0, 10), ==, -EBADF);
    g_assert_cmpint(read_at(fd, (void *)16, 10, 0), ==, -EFAULT);
    close(fd);
    g_assert_cmpint(read_at(-1, buf, 10, 0), ==, -EBADF);
    g_assert_cmpint(co_fsync(-1), ==, -EBADF);
    g_assert_cmpint(co_fdatasync(-1), ==, -EBADF);
    g_assert_cmpint(co_poll(9999, 1, -1), ==, -EBADF);
    g_assert_cmpint(pipe2(pipes, O_CLOEXEC), ==, 0);
    g_assert_cmpint(co_fdatasync(pipes[0]), ==, -EINVAL);
    close(pipes[0]);
    close(pipes[1]);
    fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    g_assert_cmpint(write_at(fd, "x", 1, 0), ==, -ENOSPC);
    close(fd);
    fd = open("/", O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(read_at(fd, buf, 10, 0), ==, -EISDIR);
    close(fd);
}

/* ---- coroutines that are always ready do not shut out completions ---- */

static void coroutine_fn reads_and_tells(void *opaque)
{
    int fd = open_test_file(O_RDONLY);
    char buf[10];

    g_assert_cmpint(read_at(fd, buf, 10, 0), >=, 0);
    close(fd);
    *(volatile bool *)opaque = true;
}

static void coroutine_fn test_turns(void *opaque)
{
    volatile bool done = false;

    (void)opaque;
    co_start(reads_and_tells, (void *)&done);
    for (unsigned i = 0; !done; i++) {
        g_assert_cmpuint(i, <, 10000000);
        co_reschedule();
    }
}

/* ---- many at once ---- */

#define BLOCK 512
#define MANY  UTIL_TEST_AMOUNT(3000u, 3000u, 600u)

typedef struct Many {
    int fd;
    unsigned next;
    CoGroup group;
} Many;

static void block_fill(uint32_t *buf, unsigned number)
{
    for (unsigned i = 0; i < BLOCK / 4; i++) {
        buf[i] = number * 1000 + i;
    }
}

/* Writes, syncs now and then, reads back what it and another one wrote. */
static void coroutine_fn one_of_many(void *opaque)
{
    Many *m = opaque;
    unsigned number = m->next++;
    uint32_t buf[BLOCK / 4], expected[BLOCK / 4];
    struct iovec halves[] = {{buf, BLOCK / 2}, {(char *)buf + BLOCK / 2, BLOCK / 2}};

    block_fill(expected, number);
    memcpy(buf, expected, BLOCK);
    g_assert_cmpint(write_at(m->fd, buf, BLOCK, (off_t)number * BLOCK), ==, BLOCK);
    if (number % 500 == 0) {
        g_assert_cmpint(co_fdatasync(m->fd), ==, 0);
    }
    memset(buf, 0, BLOCK);
    g_assert_cmpint(co_preadv(m->fd, halves, 2, (off_t)number * BLOCK), ==, BLOCK);
    g_assert_cmpmem(buf, BLOCK, expected, BLOCK);
    co_group_done(&m->group);
}

static void coroutine_fn test_many(void *opaque)
{
    Many m = {.fd = open_test_file(O_RDWR | O_TRUNC)};

    (void)opaque;
    co_group_init(&m.group);
    co_group_add(&m.group, MANY);
    for (unsigned i = 0; i < MANY; i++) {
        co_start(one_of_many, &m);
    }
    co_group_wait(&m.group);
    co_group_destroy(&m.group);
    g_assert_cmpint(size_of(m.fd), ==, MANY * BLOCK);
    close(m.fd);
}

/* Several loops and the workers use one descriptor. */
static void coroutine_fn test_many_loops(void *opaque)
{
    IOThread *t = util_test_iothread();

    (void)opaque;
    iothread_set_params(t, &(IOThreadParams){.aio_max_batch = 7, .thread_pool_max = 64}, NULL);
    for (unsigned i = 0; i < 3; i++) {
        util_test_run_on(iothread_loop(t), test_many, NULL);
    }
    iothread_free(t);
}

/* ---- reads of what is cached ---- */

static void coroutine_fn notes(void *opaque)
{
    *(bool *)opaque = true;
}

/* They are done at once, without a thread, but not so many in a row that nobody else gets a turn. */
static void coroutine_fn test_cached(void *opaque)
{
    int fd = open(path, O_RDWR | O_TRUNC | O_CLOEXEC);
    g_autofree char *buf = g_malloc0(65536);
    struct iovec iov = {buf, 65536};
    bool others = false;

    (void)opaque;
    g_assert_cmpint(pwrite(fd, buf, 65536, 0), ==, 65536);
    if (preadv2(fd, &iov, 1, 0, RWF_NOWAIT) == 65536) { /* else the file system cannot */
        co_spawn(loop_current(), notes, &others);
        g_assert_cmpint(co_preadv(fd, &iov, 1, 0), ==, 65536);
        g_assert_false(others);
        for (unsigned i = 0; i < 100; i++) {
            g_assert_cmpint(co_preadv(fd, &iov, 1, 0), ==, 65536);
        }
        g_assert_true(others);
    }
    g_assert_cmpint(co_preadv(fd, &iov, 1, 65530), ==, 6);
    g_assert_cmpint(co_preadv(fd, &iov, 1, 65536), ==, 0);
    close(fd);
}

int main(int argc, char **argv)
{
    g_autofree char *name = g_build_filename(g_get_tmp_dir(), "test-loop-XXXXXX", NULL);
    int fd = g_mkstemp(name), ret;

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    path = name;
    util_test_init(&argc, &argv);
    util_test_add_loops("/loop-storage/results", test_results);
    util_test_add_loops("/loop-storage/errors", test_errors);
    util_test_add_loops("/loop-storage/turns", test_turns);
    util_test_add_loops("/loop-storage/many", test_many);
    util_test_add("/loop-storage/small-batches", test_many_loops);
    util_test_add("/loop-storage/cached", test_cached);
    ret = g_test_run();
    unlink(path);
    return ret;
}

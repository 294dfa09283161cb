/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Image locks: the bytes, the conflicts, the texts, and that QEMU's tools and we refuse each other.
 */
#include "block/protocol/file-lock.h"
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char *path;

static int open_image(void)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static bool byte_locked(int fd, off_t byte)
{
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    g_assert_cmpint(fcntl(fd, F_OFD_GETLK, &fl), ==, 0);
    return fl.l_type != F_UNLCK;
}

static void expect_locked(FileLocks locks)
{
    int fd = open_image();

    for (int k = 0; k < 4; k++) {
        g_assert_cmpint(byte_locked(fd, 100 + k), ==, !!(locks.used & (1 << k)));
        g_assert_cmpint(byte_locked(fd, 200 + k), ==, !!(locks.unshared & (1 << k)));
    }
    g_assert_false(byte_locked(fd, 99));
    g_assert_false(byte_locked(fd, 104));
    g_assert_false(byte_locked(fd, 199));
    g_assert_false(byte_locked(fd, 204));
    close(fd);
}

static void take(int fd, unsigned used, unsigned unshared)
{
    g_autoptr(Error) err = NULL;

    g_assert_true(file_lock_take(fd, path, (FileLocks){used, unshared}, &err));
    g_assert_null(err);
}

static void expect_conflict(int fd, unsigned used, unsigned unshared, const char *text)
{
    g_autoptr(Error) err = NULL;
    bool free = file_lock_check(fd, path, (FileLocks){used, unshared}, &err);

    if (!text) {
        g_assert_true(free);
        g_assert_null(err);
        return;
    }
    g_assert_false(free);
    g_assert_cmpstr(err->message, ==, text);
    g_assert_cmpint(err->kind, ==, ERROR_BUSY);
    g_assert_cmpint(err->cls, ==, ERROR_CLASS_GENERIC_ERROR);
    g_autofree char *hint = g_strdup_printf("Is another process using the image [%s]?", path);
    g_assert_cmpstr(err->hint, ==, hint);
}

static void test_bytes(void)
{
    int fd = open_image();

    expect_locked((FileLocks){0});
    take(fd, PERM_CONSISTENT_READ | PERM_RESIZE, PERM_WRITE | PERM_WRITE_UNCHANGED);
    expect_locked(
        (FileLocks){PERM_CONSISTENT_READ | PERM_RESIZE, PERM_WRITE | PERM_WRITE_UNCHANGED});
    file_lock_drop(fd, path, (FileLocks){PERM_RESIZE, PERM_WRITE});
    expect_locked((FileLocks){PERM_CONSISTENT_READ, PERM_WRITE_UNCHANGED});
    take(fd, PERM_ALL, PERM_ALL);
    expect_locked((FileLocks){PERM_ALL, PERM_ALL});
    close(fd);
    expect_locked((FileLocks){0});
}

static void test_conflicts(void)
{
    static const struct {
        unsigned perm;
        const char *used, *shared;
    } cases[] = {
        {PERM_CONSISTENT_READ, "Failed to get \"consistent read\" lock",
         "Failed to get shared \"consistent read\" lock"},
        {PERM_WRITE, "Failed to get \"write\" lock", "Failed to get shared \"write\" lock"},
        {PERM_WRITE_UNCHANGED, "Failed to get \"write unchanged\" lock",
         "Failed to get shared \"write unchanged\" lock"},
        {PERM_RESIZE, "Failed to get \"resize\" lock", "Failed to get shared \"resize\" lock"},
    };
    int a = open_image(), b = open_image();

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        unsigned p = cases[i].perm;

        take(a, 0, p);
        expect_conflict(b, p, 0, cases[i].used);
        expect_conflict(b, PERM_ALL & ~p, PERM_ALL, NULL);
        expect_conflict(a, PERM_ALL, PERM_ALL, NULL); /* its own do not count */
        file_lock_drop(a, path, (FileLocks){0, p});

        take(a, p, 0);
        expect_conflict(b, 0, p, cases[i].shared);
        expect_conflict(b, PERM_ALL, PERM_ALL & ~p, NULL);
        expect_conflict(a, PERM_ALL, PERM_ALL, NULL);
        file_lock_drop(a, path, (FileLocks){p, 0});
        expect_conflict(b, PERM_ALL, PERM_ALL, NULL);
    }
    /* What is used is looked at before what is not shared. */
    take(a, PERM_WRITE, PERM_RESIZE);
    expect_conflict(b, PERM_RESIZE, PERM_WRITE, "Failed to get \"resize\" lock");
    close(a);
    close(b);
}

static void test_duplicates(void)
{
    int a = open_image(), copy = dup(a), b = open_image();

    take(a, PERM_WRITE, PERM_WRITE);
    close(a);
    expect_conflict(b, PERM_WRITE, 0, "Failed to get \"write\" lock");
    expect_conflict(copy, PERM_WRITE, PERM_WRITE, NULL);
    file_lock_drop(copy, path, (FileLocks){PERM_WRITE, PERM_WRITE});
    expect_conflict(b, PERM_WRITE, PERM_WRITE, NULL);
    close(copy);
    close(b);
}

/* A description that cannot have read locks gets none, also not some. */
static void test_take_fails(void)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    g_autoptr(Error) err = NULL;

    g_assert_true(file_lock_supported(fd));
    g_assert_false(file_lock_take(fd, path, (FileLocks){PERM_WRITE, PERM_WRITE}, &err));
    g_assert_true(g_str_has_prefix(err->message, "Failed to lock byte 101: "));
    g_assert_cmpint(err->err, ==, EBADF);
    close(fd);
}

/* ---- QEMU's tools ---- */

/* Exit status of qemu-io; what it says must have `text` in it (NULL: any). */
static int run_qemu_io(const char *mode, const char *text)
{
    const char *argv[] = {"qemu-io", "-f", "qcow2", "-c", "length", path, mode, NULL};
    g_autofree char *out = NULL, *errors = NULL;
    int status;

    g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out,
                               &errors, &status, NULL));
    if (text) {
        g_assert_nonnull(strstr(errors, text));
    }
    return status;
}

static void test_qemu_refuses(void)
{
    int fd = open_image();

    g_assert_cmpint(run_qemu_io(NULL, NULL), ==, 0);
    take(fd, PERM_CONSISTENT_READ | PERM_WRITE, PERM_WRITE | PERM_RESIZE);
    g_assert_cmpint(run_qemu_io(NULL, "Failed to get \"write\" lock"), !=, 0);
    g_assert_cmpint(run_qemu_io("-r", "Failed to get shared \"write\" lock"), !=, 0);
    g_assert_cmpint(run_qemu_io("-rU", NULL), ==, 0);
    /* A reader of ours beside a reader of theirs. */
    file_lock_drop(fd, path, (FileLocks){PERM_WRITE, 0});
    g_assert_cmpint(run_qemu_io("-r", NULL), ==, 0);
    g_assert_cmpint(run_qemu_io(NULL, "Failed to get \"write\" lock"), !=, 0);
    close(fd);
}

typedef struct Holder {
    GPid pid;
    int in, out;
} Holder;

static void holder_start(Holder *h, const char *mode)
{
    char *argv[] = {(char *)"qemu-io", (char *)"-f", (char *)"qcow2", path, (char *)mode, NULL};
    char buf[256];
    size_t len = 0;

    g_assert_true(g_spawn_async_with_pipes(NULL, argv, NULL,
                                           G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, NULL,
                                           NULL, &h->pid, &h->in, &h->out, NULL, NULL));
    g_assert_cmpint(write(h->in, "length\n", 7), ==, 7);
    /* The answer says that the image is open. */
    while (!g_strstr_len(buf, len, "MiB")) {
        ssize_t n = read(h->out, buf + len, sizeof(buf) - len);

        g_assert_cmpint(n, >, 0);
        len += n;
    }
}

static void holder_stop(Holder *h)
{
    int status;

    close(h->in);
    g_assert_cmpint(waitpid(h->pid, &status, 0), ==, h->pid);
    g_assert_cmpint(status, ==, 0);
    close(h->out);
}

static void test_we_refuse(void)
{
    int fd = open_image();
    Holder h;

    holder_start(&h, NULL);
    expect_conflict(fd, PERM_WRITE, 0, "Failed to get \"write\" lock");
    expect_conflict(fd, 0, PERM_WRITE, "Failed to get shared \"write\" lock");
    holder_stop(&h);
    holder_start(&h, "-r");
    expect_conflict(fd, PERM_WRITE, 0, "Failed to get \"write\" lock");
    expect_conflict(fd, PERM_CONSISTENT_READ, PERM_WRITE | PERM_RESIZE, NULL);
    holder_stop(&h);
    expect_conflict(fd, PERM_ALL, PERM_ALL, NULL);
    close(fd);
}

static void make_image(void)
{
    char *argv[] = {(char *)"qemu-img", (char *)"create",
                    (char *)"-q",       (char *)"-f",
                    (char *)"qcow2",    path,
                    (char *)"1M",       NULL};
    int status;

    g_assert_true(
        g_spawn_sync(NULL, argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, NULL, NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

int main(int argc, char **argv)
{
    g_autofree char *dir = g_dir_make_tmp("test-file-lock-XXXXXX", NULL);
    int ret;

    g_test_init(&argc, &argv, NULL);
    path = g_build_filename(dir, "image", NULL);
    make_image();
    g_test_add_func("/file-lock/bytes", test_bytes);
    g_test_add_func("/file-lock/conflicts", test_conflicts);
    g_test_add_func("/file-lock/duplicates", test_duplicates);
    g_test_add_func("/file-lock/take-fails", test_take_fails);
    g_test_add_func("/file-lock/qemu-refuses", test_qemu_refuses);
    g_test_add_func("/file-lock/we-refuse", test_we_refuse);
    ret = g_test_run();
    g_unlink(path);
    g_rmdir(dir);
    g_free(path);
    return ret;
}

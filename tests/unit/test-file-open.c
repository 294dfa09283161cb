/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Descriptors of image files: only regular files are ever opened, a file is found again whatever
 * became of its name, and what O_DIRECT demands is found out also where the kernel does not say it.
 */
#include "block/protocol/file-open.h"
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char *dir, *path;

static void make_file(const char *data)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    g_assert_cmpint(write(fd, data, 1), ==, 1);
    g_assert_cmpint(ftruncate(fd, 65536), ==, 0);
    close(fd);
}

static void expect_first(int fd, char c)
{
    char have;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(pread(fd, &have, 1, 0), ==, 1);
    g_assert_cmpint(have, ==, c);
}

static void test_open(void)
{
    g_autofree char *link = g_strconcat(path, ".link", NULL),
                    *fifo = g_strconcat(path, ".fifo", NULL);
    struct stat st;
    int fd, at;

    make_file("a");
    g_assert_cmpint(symlink(path, link), ==, 0);
    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    fd = file_open_regular(AT_FDCWD, link, O_RDWR, &st);
    expect_first(fd, 'a');
    g_assert_cmpint(fcntl(fd, F_GETFD), ==, FD_CLOEXEC);
    g_assert_cmpint(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK | O_PATH), ==, O_RDWR);
    close(fd);
    at = open(dir, O_PATH | O_CLOEXEC);
    fd = file_open_regular(at, "image", O_RDONLY, &st);
    expect_first(fd, 'a');
    close(fd);
    close(at);
    g_assert_cmpint(file_open_regular(AT_FDCWD, link, O_RDWR | O_NOFOLLOW, &st), ==,
                    FILE_NOT_REGULAR);
    g_assert_true(S_ISLNK(st.st_mode));
    g_assert_cmpint(file_open_regular(AT_FDCWD, fifo, O_RDONLY, &st), ==,
                    FILE_NOT_REGULAR); /* does not block */
    g_assert_true(S_ISFIFO(st.st_mode));
    g_assert_cmpint(file_open_regular(AT_FDCWD, dir, O_RDONLY, &st), ==, FILE_NOT_REGULAR);
    g_assert_true(S_ISDIR(st.st_mode));
    g_assert_cmpint(file_open_regular(AT_FDCWD, "/nowhere", O_RDONLY, &st), ==, -ENOENT);
    g_assert_cmpint(file_open_regular(AT_FDCWD, "", O_RDONLY, &st), ==, -ENOENT);
    g_unlink(link);
    g_unlink(fifo);
}

static void test_reopen(void)
{
    g_autofree char *moved = g_strconcat(path, ".moved", NULL);
    int fd, again;

    make_file("a");
    fd = open(path, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(rename(path, moved), ==, 0);
    make_file("b"); /* another file of the same name */
    again = file_reopen(fd, path, O_RDWR);
    expect_first(again, 'a');
    g_assert_cmpint(fcntl(again, F_GETFL) & O_ACCMODE, ==, O_RDWR);
    close(again);
    g_unlink(moved);
    again = file_reopen(fd, path, O_RDONLY); /* without any name */
    expect_first(again, 'a');
    close(again);
    close(fd);
    g_assert_cmpint(file_reopen(-1, path, O_RDONLY), ==, -EBADF);
}

static void forbid(int nr, int err)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)nr, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)err),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {.len = G_N_ELEMENTS(filter), .filter = filter};

    g_assert_cmpint(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), ==, 0);
    g_assert_cmpint(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), ==, 0);
}

/* What is said to be enough is enough. */
static void try_alignment(int fd)
{
    uint32_t request = 0, memory = 0;
    uint8_t *buf = NULL;

    file_direct_alignment(fd, &request, &memory);
    g_assert_cmpint(request, >=, 512);
    g_assert_cmpint(request & (request - 1), ==, 0);
    g_assert_cmpint(memory & (memory - 1), ==, 0);
    g_assert_cmpint(posix_memalign((void **)&buf, 65536, 3 * 65536), ==, 0);
    g_assert_cmpint(pwrite(fd, buf + memory, request, request), ==, request);
    g_assert_cmpint(pread(fd, buf + memory, request, 2 * request), ==, request);
    free(buf);
}

static void test_direct(void)
{
    int fd, status;
    pid_t pid;

    make_file("a");
    fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    try_alignment(fd);
    pid = fork();
    if (pid == 0) {
        forbid(SYS_statx, ENOSYS);
        try_alignment(fd);
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(status, ==, 0);
    close(fd);
}

int main(int argc, char **argv)
{
    int ret;

    g_test_init(&argc, &argv, NULL);
    dir = g_dir_make_tmp("test-file-open-XXXXXX", NULL);
    path = g_build_filename(dir, "image", NULL);
    g_test_add_func("/file-open/open", test_open);
    g_test_add_func("/file-open/reopen", test_reopen);
    g_test_add_func("/file-open/direct", test_direct);
    ret = g_test_run();
    g_unlink(path);
    g_rmdir(dir);
    g_free(path);
    g_free(dir);
    return ret;
}

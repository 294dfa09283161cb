/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Going to the background, and the file with the process id.
 *
 * The fork comes before any thread is started.  The parent stays until the child says through a pipe that it is ready; if the child
 * dies before, the parent passes on its status (the child's messages went to the same stderr).
 */
#include "daemon.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int ready_fd = -1;
static char *pidfile;
static int pidfile_fd = -1;

static G_GNUC_NORETURN void parent(pid_t child, int fd)
{
    int status;
    char byte;

    ssize_t n;

    do {
        n = read(fd, &byte, 1);
    } while (n < 0 && errno == EINTR);
    if (n == 1) {
        _exit(0);
    }
    if (waitpid(child, &status, 0) == child && WIFEXITED(status)) {
        /* It ended before it was ready; a signal may have made it do so without an error. */
        _exit(WEXITSTATUS(status) ? WEXITSTATUS(status) : 1);
    }
    fprintf(stderr, "%s: the daemon died before it was ready\n", g_get_prgname());
    _exit(1);
}

void daemonize_fork(void)
{
    int fds[2];
    pid_t pid;

    if (pipe2(fds, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
        fprintf(stderr, "%s: cannot daemonize: %s\n", g_get_prgname(), strerror(errno));
        exit(1);
    }
    if (pid > 0) {
        close(fds[1]);
        parent(pid, fds[0]);
    }
    close(fds[0]);
    ready_fd = fds[1];
    setsid();
}

void daemonize_ready(void)
{
    int null;

    if (ready_fd < 0) {
        return;
    }
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (chdir("/") < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0 ||
        dup2(null, STDOUT_FILENO) < 0 || dup2(null, STDERR_FILENO) < 0) {
        fprintf(stderr, "%s: cannot detach: %s\n", g_get_prgname(), strerror(errno));
        exit(1);
    }
    close(null);
    if (write(ready_fd, "", 1) != 1) {
        exit(1);
    }
    close(ready_fd);
    ready_fd = -1;
}

bool pidfile_create(const char *path, Error **errp)
{
    g_autofree char *text = g_strdup_printf("%d\n", (int)getpid());
    g_autofree char *tmp = g_strdup_printf("%s.%d.tmp", path, (int)getpid());
    g_autofree char *absolute = g_canonicalize_filename(path, NULL);
    int old = open(path, O_RDWR | O_CLOEXEC), fd;

    /* A running daemon holds a lock on its file. */
    if (old >= 0) {
        bool locked = flock(old, LOCK_EX | LOCK_NB) < 0;

        close(old);
        if (locked) {
            error_set(
                errp, ERROR_BUSY, path, "pidfile",
                "cannot create PID file: Failed to lock '%s': it belongs to a running process",
                path);
            return false;
        }
    }
    /* Complete when it appears under its name. */
    fd = open(tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) {
        error_set_errno(errp, errno, path, "pidfile",
                        "cannot create PID file: Could not create '%s'", path);
        return false;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 ||
        write(fd, text, strlen(text)) != (ssize_t)strlen(text) || rename(tmp, path) < 0) {
        error_set_errno(errp, errno, path, "pidfile",
                        "cannot create PID file: Could not write '%s'", path);
        unlink(tmp);
        close(fd);
        return false;
    }
    pidfile_fd = fd;
    pidfile = g_steal_pointer(&absolute);
    return true;
}

void pidfile_remove(void)
{
    struct stat ours, there;

    if (!pidfile) {
        return;
    }
    if (fstat(pidfile_fd, &ours) == 0 && stat(pidfile, &there) == 0 &&
        ours.st_ino == there.st_ino && ours.st_dev == there.st_dev) {
        unlink(pidfile);
    }
    close(pidfile_fd);
    g_clear_pointer(&pidfile, g_free);
}

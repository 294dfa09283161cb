/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Mounting and unmounting: names can lead to file systems that do not answer, so all of it is done by workers.
 *
 * Unmounting takes two steps.  First the session's descriptor is made to be one of a pipe that nobody reads, by which the kernel's connection ends
 * and every process that waits for an answer gets an error; requests that are still running answer into nothing, and the number cannot become that of
 * another file under their hands.  Then the mount point is taken off the tree, open files or not.  libfuse, which is told to unmount when all
 * requests have ended, finds a descriptor with an error (POLLERR), which it takes to mean that nothing is mounted, and only frees what it has.
 *
 * A process that was killed leaves a mount point that fails with ENOTCONN.  Our own kind (type fuse.cutpoint) is taken away when its place is
 * to be used again.
 */
#include "fuse-internal.h"
#include "util/log.h"
#include "util/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define FSTYPE "fuse.cutpoint"

/* Taking a mount off is not for everybody; fusermount3 does it for the rest. */
static int detach(const char *path)
{
    const char *argv[] = {"fusermount3", "-u", "-q", "-z", "--", path, NULL};
    int status;

    if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
        return 0;
    }
    if (errno != EPERM) {
        return -errno;
    }
    if (!g_spawn_sync(NULL, (char **)argv, NULL,
                      G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL | G_SPAWN_STDERR_TO_DEV_NULL,
                      NULL, NULL, NULL, NULL, &status, NULL)) {
        return -EPERM;
    }
    return g_spawn_check_wait_status(status, NULL) ? 0 : -EPERM;
}

/* ---- the mount point ---- */

typedef struct Find {
    const char *name;
    char *path;
    struct stat st;
} Find;

/* What the last entry of the table says to be mounted on path is of our kind. */
static bool is_ours(const char *path)
{
    g_autofree char *table = NULL, *want = g_strdup_printf(" %s ", path);
    g_auto(GStrv) lines = NULL;
    bool ours = false;

    if (!g_file_get_contents("/proc/self/mountinfo", &table, NULL, NULL)) {
        return false;
    }
    lines = g_strsplit(table, "\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        const char *type = strstr(lines[i], " - ");

        if (type && g_strstr_len(lines[i], type - lines[i], want)) {
            ours = g_str_has_prefix(type, " - " FSTYPE " ");
        }
    }
    return ours;
}

static int find_on_worker(void *opaque)
{
    Find *f = opaque;

    f->path = g_canonicalize_filename(f->name, NULL);
    if (stat(f->path, &f->st) < 0) {
        if (errno != ENOTCONN || !is_ours(f->path)) {
            return -errno;
        }
        log_info("%s: an earlier process has left its mount point: taken away", f->path);
        detach(f->path);
        if (stat(f->path, &f->st) < 0) {
            return -errno;
        }
    }
    if (S_ISREG(f->st.st_mode)) {
        char *real = realpath(f->path, NULL);

        if (real) {
            g_free(f->path);
            f->path = g_strdup(real);
            free(real);
        }
    }
    return 0;
}

char *coroutine_fn fuse_find_mountpoint(const char *name, dev_t *ret_dev, Error **errp)
{
    Find f = {.name = name};
    int ret = worker_run(WORKERS_CONTROL, find_on_worker, &f);

    if (ret < 0) {
        error_set_errno(errp, -ret, name, "block-export-add", "Failed to stat '%s'", name);
    } else if (!S_ISREG(f.st.st_mode)) {
        error_set(errp, ERROR_INVALID, name, "block-export-add", "'%s' is not a regular file",
                  name);
    } else {
        *ret_dev = f.st.st_dev;
        return f.path;
    }
    g_free(f.path);
    return NULL;
}

/* ---- mounting ---- */

/* What libfuse says while this thread mounts; NULL: nobody listens. */
static _Thread_local char **said;

static void note(enum fuse_log_level level, const char *fmt, va_list args)
{
    g_autofree char *text = g_strdup_vprintf(fmt, args);

    g_strchomp(text);
    if (said) {
        g_free(*said);
        *said = g_strdup(text);
    } else if (level <= FUSE_LOG_WARNING) {
        log_warn_limited("%s", text);
    }
}

typedef struct Mount {
    FuseExport *exp;
    bool allow_other;
    char *said;
} Mount;

static struct fuse_session *new_session(const Mount *m)
{
    g_autofree char *options =
        g_strdup_printf("fsname=%s,subtype=cutpoint,default_permissions,nosuid,nodev,noatime%s",
                        m->exp->base.id, m->allow_other ? ",allow_other" : "");
    char *argv[] = {(char *)"cutpoint", (char *)"-o", options, NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, argv);
    struct fuse_session *s =
        fuse_session_new(&args, &fuse_operations, sizeof(fuse_operations), m->exp);

    fuse_opt_free_args(&args);
    return s;
}

static int mount_on_worker(void *opaque)
{
    Mount *m = opaque;
    struct fuse_session *s;
    struct statx sx;
    int fd, ret = -EIO;

    fuse_set_log_func(note);
    said = &m->said;
    s = new_session(m);
    if (s && fuse_session_mount(s, m->exp->path) == 0) {
        fd = fuse_session_fd(s);
        if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) {
            ret = -errno;
            fuse_session_unmount(s);
        } else {
            /* From what the kernel knows: nobody answers questions yet. */
            if (statx(AT_FDCWD, m->exp->path, AT_STATX_DONT_SYNC, 0, &sx) == 0) {
                m->exp->dev = makedev(sx.stx_dev_major, sx.stx_dev_minor);
            }
            ret = 0;
        }
    }
    said = NULL;
    if (ret < 0 && s) {
        fuse_session_destroy(s);
    } else {
        m->exp->session = s;
    }
    return ret;
}

bool coroutine_fn fuse_mount_session(FuseExport *e, int allow_other, Error **errp)
{
    Mount m = {.exp = e, .allow_other = allow_other != 0};
    int ret = worker_run(WORKERS_CONTROL, mount_on_worker, &m);

    if (ret < 0 && allow_other < 0) {
        m.allow_other = false; /* /etc/fuse.conf may not permit it */
        ret = worker_run(WORKERS_CONTROL, mount_on_worker, &m);
    }
    if (ret < 0) {
        error_set(errp, ERROR_IO, e->path, "mount", "Failed to mount FUSE session to export%s%s",
                  m.said ? ": " : "", m.said ? m.said : "");
    }
    e->allow_other = m.allow_other;
    g_free(m.said);
    return ret == 0;
}

/* ---- unmounting ---- */

static int end_connection(const FuseExport *e)
{
    int ends[2], ret;

    if (pipe2(ends, O_CLOEXEC) < 0) {
        return -errno;
    }
    do {
        ret = dup3(ends[1], fuse_session_fd(e->session), O_CLOEXEC);
    } while (ret < 0 && (errno == EINTR || errno == EBUSY));
    ret = ret < 0 ? -errno : 0;
    close(ends[0]);
    close(ends[1]);
    return ret;
}

static int unmount_on_worker(void *opaque)
{
    FuseExport *e = opaque;
    struct statx sx;
    bool mounted = !atomic_load(&e->unmounted) &&
                   statx(AT_FDCWD, e->path, AT_STATX_DONT_SYNC, 0, &sx) == 0 &&
                   makedev(sx.stx_dev_major, sx.stx_dev_minor) == e->dev;
    int ret;

    ret = end_connection(e);
    if (ret < 0) {
        log_warn("export '%s': its connection to the kernel stays: %s", e->base.id,
                 g_strerror(-ret));
    }
    ret = mounted ? detach(e->path) : 0;
    if (ret < 0) {
        log_warn("export '%s': could not unmount '%s': %s", e->base.id, e->path, g_strerror(-ret));
    }
    return 0;
}

void coroutine_fn fuse_unmount_session(FuseExport *e)
{
    worker_run(WORKERS_CONTROL, unmount_on_worker, e);
}

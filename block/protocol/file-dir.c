/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Directories of files; see file-dir.h.
 *
 * A snapshot of many disks puts many files into one directory and makes each of them durable.  One sync of the directory serves all that
 * ask while the one before it is under way: whoever comes first then does it, the others wait for it.
 */
#include "file-dir.h"
#include "block/file.h"
#include "util/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

/* As many symbolic links as the kernel follows. */
#define LINKS_MAX 40

static int open_dir(int at, const char *path, bool *ret_can_sync)
{
    int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    *ret_can_sync = fd >= 0;
    if (fd < 0 && errno == EACCES) {
        fd = openat(at, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    }
    return fd < 0 ? -errno : fd;
}

void file_place_clear(FilePlace *p)
{
    if (p->dir >= 0) {
        close(p->dir);
    }
    g_free(p->name);
    *p = (FilePlace){.dir = -1};
}

/* One step: the directory part of `path`, seen from `from`; the rest is the name. */
static int enter(int from, const char *path, FilePlace *ret)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    g_autofree char *dir = slash == path ? g_strdup("/")
                           : slash       ? g_strndup(path, slash - path)
                                         : g_strdup(".");
    int fd;

    if (path[0] == '\0') {
        return -ENOENT;
    }
    if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        return -EISDIR;
    }
    fd = open_dir(from, dir, &ret->can_sync);
    if (fd < 0) {
        return fd;
    }
    ret->dir = fd;
    ret->name = g_strdup(name);
    return 0;
}

int file_place_find(const char *path, FilePlace *ret)
{
    FilePlace p = {.dir = -1};
    int err = enter(AT_FDCWD, path, &p);

    for (int links = 0; err == 0; links++) {
        g_autofree char *target = g_malloc(PATH_MAX);
        ssize_t len = readlinkat(p.dir, p.name, target, PATH_MAX);
        FilePlace next = {.dir = -1};

        if (len < 0) {
            /* EINVAL: not a link; the others are for who uses the name to find out. */
            *ret = p;
            return 0;
        }
        if (len == PATH_MAX || links == LINKS_MAX) {
            err = len == PATH_MAX ? -ENAMETOOLONG : -ELOOP;
            break;
        }
        target[len] = '\0';
        err = enter(p.dir, target, &next);
        file_place_clear(&p);
        p = next;
    }
    file_place_clear(&p);
    return err;
}

/* ---- making names durable ---- */

/* A sync of one directory.  One that has begun may be too early for who comes now; one that has not, serves him too. */
typedef struct DirSync {
    dev_t dev;
    ino_t ino;
    bool begun, done;
    int ret;
    unsigned users;
} DirSync;

static pthread_mutex_t sync_lock = PTHREAD_MUTEX_INITIALIZER; /* outside of those of workers */
static pthread_cond_t sync_done = PTHREAD_COND_INITIALIZER;
static GQueue syncs = G_QUEUE_INIT; /* DirSync *: those not done, of one directory at most two */

/* With the lock. */
static DirSync *find_sync(const struct stat *st, bool begun)
{
    for (GList *l = syncs.head; l; l = l->next) {
        DirSync *s = l->data;

        if (s->dev == st->st_dev && s->ino == st->st_ino && s->begun == begun) {
            return s;
        }
    }
    return NULL;
}

static int sync_dir(int dir)
{
    struct stat st;
    DirSync *s;
    int ret;

    if (fstat(dir, &st) < 0) {
        return -errno;
    }
    pthread_mutex_lock(&sync_lock);
    s = find_sync(&st, false);
    if (!s) {
        s = g_new0(DirSync, 1);
        s->dev = st.st_dev;
        s->ino = st.st_ino;
        g_queue_push_tail(&syncs, s);
    }
    s->users++;
    if (find_sync(&st, true)) {
        worker_wait_begin();
        while (!s->done && (s->begun || find_sync(&st, true))) {
            pthread_cond_wait(&sync_done, &sync_lock);
        }
        worker_wait_end();
    }
    if (!s->done) {
        s->begun = true;
        pthread_mutex_unlock(&sync_lock);
        ret = fsync(dir) < 0 ? -errno : 0;
        pthread_mutex_lock(&sync_lock);
        s->ret = ret;
        s->done = true;
        g_queue_remove(&syncs, s);
        pthread_cond_broadcast(&sync_done);
    }
    ret = s->ret;
    if (--s->users == 0) {
        g_free(s);
    }
    pthread_mutex_unlock(&sync_lock);
    return ret;
}

int file_place_sync(const FilePlace *p)
{
    int fd, ret;

    if (p->can_sync) {
        return sync_dir(p->dir);
    }
    /* Any file of the file system will do, but not a descriptor opened with O_PATH. */
    fd = openat(p->dir, p->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) {
        sync();
        return 0;
    }
    ret = syncfs(fd) < 0 ? -errno : 0;
    close(fd);
    return ret;
}

bool file_place_is(const FilePlace *p, const char *name, const struct stat *st)
{
    struct stat now;

    return fstatat(p->dir, name, &now, AT_SYMLINK_NOFOLLOW) == 0 && now.st_dev == st->st_dev &&
           now.st_ino == st->st_ino;
}

bool file_sync_parent_dir(const char *path, Error **errp)
{
    FilePlace p = {.dir = -1};
    int ret = file_place_find(path, &p);

    if (ret == 0) {
        ret = file_place_sync(&p);
        file_place_clear(&p);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, path, "sync", "Could not sync the directory of '%s'", path);
    }
    return ret == 0;
}

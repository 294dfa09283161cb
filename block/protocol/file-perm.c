/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Permissions of the driver `file`: locks on the file, and a descriptor that can write only while
 * it must.
 *
 * What is held follows the cumulative permissions in two steps.  prepare takes what the new state
 * needs beside what the old one has, and looks for conflicts; commit gives up what the new state no
 * longer needs, or abort what prepare took.
 *
 * If the file is to be opened anew (writable for the first writer, read-only again after the last:
 * auto-read-only; read-only for an old node after its cut), the new description first takes all
 * locks that the number's description holds, without looking for conflicts (it would find our own),
 * and only then takes its place.  So at no instant is the file without any lock that both states
 * have, seen from another process.
 *
 *     conflicts are looked for on      the description in use, whose own locks do not count
 *     the new description gets         held | extra               prepare
 *     dup3() over the number           old description lives on in requests in flight
 *     locks of the old one dropped     by a duplicate, so it does not matter when those end
 */
#include "block/reopen.h"
#include "file-internal.h"
#include "file-open.h"
#include "util/log.h"
#include "util/worker.h"
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#define WRITE_LIKE (PERM_WRITE | PERM_WRITE_UNCHANGED | PERM_RESIZE)

static bool will_be_direct(const Node *n)
{
    return n->reopening ? n->reopening->cache_direct : n->cache_direct;
}

int file_open_flags(const Node *n, bool writable)
{
    return (writable ? O_RDWR : O_RDONLY) | (will_be_direct(n) ? O_DIRECT : 0);
}

/* A read-only node writes nothing, also while its parents have not given up yet (an old node after
 * its cut). */
static unsigned needed(const Node *n, unsigned perm)
{
    return node_will_be_read_only(n) ? perm & ~WRITE_LIKE : perm;
}

static FileLocks locks_for(const Node *n, unsigned perm, unsigned shared)
{
    return (FileLocks){.used = needed(n, perm) & PERM_ALL,
                       .unshared = n->force_share ? 0 : ~shared & PERM_ALL};
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

/* A new description of the file and a duplicate of the one in use; a negative errno leaves none. */
static int open_beside(Node *n, bool writable, int *ret_fd, int *ret_dup)
{
    FileState *s = n->state;
    int fd, copy;

    fd = file_reopen(s->fd, n->filename, file_open_flags(n, writable));
    if (fd < 0) {
        return fd;
    }
    copy = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
        int err = errno;

        close(fd);
        return -err;
    }
    *ret_fd = fd;
    *ret_dup = copy;
    return 0;
}

/* Puts fd under the node's number; it has its locks.  Those of the old description are given up.
 * Both fd and old_dup are consumed. False: all is as before, fd closed. */
static bool take_over(Node *n, int fd, int old_dup, FileLocks old_locks)
{
    FileState *s = n->state;
    int ret;

    do {
        ret = dup3(fd, s->fd, O_CLOEXEC);
    } while (ret < 0 && (errno == EINTR || errno == EBUSY));
    if (ret < 0) {
        log_warn("%s: cannot change to another descriptor: %s", n->filename, strerror(errno));
    } else if (s->locking) {
        file_lock_drop(old_dup, n->filename, old_locks);
    }
    close(fd);
    close(old_dup);
    return ret >= 0;
}

/* ---- permissions ---- */

typedef struct PermJob {
    Node *node;
    FileLocks want;
    bool write;
    Error **errp;
} PermJob;

/* Must the file be opened anew? */
static bool wants_next(const PermJob *j)
{
    const Node *n = j->node;
    const FileState *s = n->state;

    if (n->reopening) {
        return j->write != s->writable || n->reopening->cache_direct != n->cache_direct;
    }
    return j->write != s->writable && (j->write || n->auto_read_only);
}

static bool open_next(PermJob *j)
{
    Node *n = j->node;
    FileState *s = n->state;
    bool direct_changes = will_be_direct(n) != n->cache_direct;
    int ret;

    if (!wants_next(j)) {
        return true;
    }
    ret = open_beside(n, j->write, &s->next_fd, &s->old_dup);
    if (ret < 0 && !j->write && !direct_changes) {
        return true; /* then it stays writable */
    }
    if (ret == -EINVAL && direct_changes) {
        error_set(j->errp, ERROR_UNSUPPORTED, n->filename, "open",
                  "Could not open '%s': filesystem does not support O_DIRECT", n->filename);
        return false;
    }
    if (ret < 0) {
        error_set_errno(j->errp, -ret, n->filename, "open", "Could not open '%s'", n->filename);
        return false;
    }
    if (j->write && !file_device_writable(s->next_fd)) {
        file_not_writable(n, j->errp);
        close_fd(&s->next_fd);
        close_fd(&s->old_dup);
        return false;
    }
    s->next_writable = j->write;
    s->next_limits = file_limits(n, s->next_fd, will_be_direct(n));
    if (s->locking &&
        !file_lock_take(s->next_fd, n->filename, file_locks_or(s->held, s->extra), j->errp)) {
        close_fd(&s->next_fd);
        close_fd(&s->old_dup);
        return false;
    }
    return true;
}

static FileLocks to_take(const PermJob *j)
{
    const FileState *s = j->node->state;

    return s->locking ? file_locks_minus(j->want, s->held) : (FileLocks){0};
}

static int perm_prepare_on_worker(void *opaque)
{
    PermJob *j = opaque;
    Node *n = j->node;
    FileState *s = n->state;

    s->extra = (FileLocks){0};
    if (s->locking) {
        FileLocks extra = to_take(j);

        if (!file_lock_get(s->fd, n->filename, extra, j->errp)) {
            return -1;
        }
        s->extra = extra;
    }
    if (!open_next(j)) {
        if (s->locking) {
            file_lock_drop(s->fd, n->filename, s->extra);
        }
        return -1;
    }
    return 0;
}

/* Conflicts are looked for only of what is new.  What we hold nobody else can have got; but
 * somebody who tries has his locks for a moment before he finds ours, and that must not fail us. */
bool coroutine_fn file_perm_prepare(Node *n, unsigned perm, unsigned shared, Error **errp)
{
    FileState *s = n->state;
    PermJob j = {.node = n, .errp = errp};
    FileLocks extra;

    co_mutex_lock(&s->control_lock); /* until commit or abort */
    j.want = locks_for(n, perm, shared);
    j.write = needed(n, perm) & WRITE_LIKE;
    if (n->reopening && !n->reopening->read_only && !n->reopening->auto_read_only) {
        j.write = true; /* as at opening: now or not at all */
    }
    extra = to_take(&j);
    if (file_locks_empty(extra) && !wants_next(&j)) {
        s->extra = extra; /* nothing that could block or fail */
    } else if (worker_run(WORKERS_CONTROL, perm_prepare_on_worker, &j) < 0) {
        co_mutex_unlock(&s->control_lock);
        return false;
    }
    s->preparing = true;
    s->next = j.want;
    return true;
}

void file_perm_commit(Node *n, unsigned perm, unsigned shared)
{
    FileState *s = n->state;
    FileLocks all = file_locks_or(s->held, s->extra);

    (void)perm;
    (void)shared;
    g_assert(s->preparing);
    if (s->next_fd >= 0 && take_over(n, s->next_fd, s->old_dup, all)) {
        s->writable = s->next_writable;
    }
    s->next_fd = s->old_dup = -1;
    if (s->locking) {
        file_lock_drop(s->fd, n->filename, file_locks_minus(all, s->next));
        s->held = s->next;
    }
    s->extra = (FileLocks){0};
    s->preparing = false;
    co_mutex_unlock(&s->control_lock);
}

void file_perm_abort(Node *n)
{
    FileState *s = n->state;

    g_assert(s->preparing);
    if (s->locking) {
        file_lock_drop(s->fd, n->filename, s->extra);
    }
    close_fd(&s->next_fd);
    close_fd(&s->old_dup);
    s->extra = (FileLocks){0};
    s->preparing = false;
    co_mutex_unlock(&s->control_lock);
}

/* ---- read-only without a pause ---- */

static int ro_open_on_worker(void *opaque)
{
    Node *n = opaque;
    FileState *s = n->state;

    return open_beside(n, false, &s->ro_fd, &s->ro_dup);
}

bool coroutine_fn file_ro_prepare(Node *n, Error **errp)
{
    FileState *s = n->state;
    int ret;

    g_assert(s->ro_fd < 0);
    co_mutex_lock(&s->control_lock);
    ret = worker_run(WORKERS_CONTROL, ro_open_on_worker, n);
    co_mutex_unlock(&s->control_lock);
    if (ret < 0) {
        error_set_errno(errp, -ret, n->filename, "open", "Could not open '%s'", n->filename);
        return false;
    }
    return true;
}

static int ro_commit_on_worker(void *opaque)
{
    Node *n = opaque;
    FileState *s = n->state;
    FileLocks keep = file_locks_minus(s->held, (FileLocks){.used = WRITE_LIKE});
    g_autoptr(Error) err = NULL;

    if (!s->writable) {
        close_fd(&s->ro_fd);
        close_fd(&s->ro_dup);
    } else if (s->locking && !file_lock_take(s->ro_fd, n->filename, keep, &err)) {
        log_warn("%s: stays open for writing, though nobody writes: %s", n->filename, err->message);
        close_fd(&s->ro_fd);
        close_fd(&s->ro_dup);
    } else if (dup3(s->fd, s->ro_dup, O_CLOEXEC) < 0) {
        log_warn("%s: stays open for writing, though nobody writes: %s", n->filename,
                 strerror(errno));
        close_fd(&s->ro_fd);
        close_fd(&s->ro_dup);
    } else if (take_over(n, s->ro_fd, s->ro_dup, s->held)) {
        s->writable = false;
        s->held = keep;
    }
    s->ro_fd = s->ro_dup = -1;
    if (s->locking) {
        /* Whichever description it is: it writes no more. */
        file_lock_drop(s->fd, n->filename, file_locks_minus(s->held, keep));
        s->held = keep;
    }
    return 0;
}

void coroutine_fn file_ro_commit(Node *n)
{
    FileState *s = n->state;

    if (s->ro_fd < 0) {
        return;
    }
    co_mutex_lock(&s->control_lock);
    worker_run(WORKERS_CONTROL, ro_commit_on_worker, n);
    co_mutex_unlock(&s->control_lock);
}

void coroutine_fn file_ro_abort(Node *n)
{
    FileState *s = n->state;

    close_fd(&s->ro_fd);
    close_fd(&s->ro_dup);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Files of snapshots after a crash: taking back what was announced (file-create.c).
 *
 * A crash can come between any two steps, and anything can have happened to the names since.  So every step first looks whether the
 * file under a name is the one that was announced; deleting and emptying also asks whether it is ours beyond doubt.  In
 * doubt nothing is touched, and the message says what lies where.
 */
#include "block/file.h"
#include "block/types.h"
#include "block/untouched.h"
#include "file-create-internal.h"
#include "file-lock.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct Recovery {
    const SnapshotFileInfo *info;
    const char *uuid;
    int dir;
    char *name;
    char **done, **message;
} Recovery;

typedef enum Found { OURS, GONE, NOT_OURS } Found;

static void G_GNUC_PRINTF(2, 3) tell(char **where, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    if (!*where) {
        *where = g_strdup_vprintf(fmt, ap);
    }
    va_end(ap);
}

static bool has_identity(const Recovery *r, const char *name, const FileIdentity *id)
{
    FileIdentity now;

    return name && file_identity_at(r->dir, name, &now) == 0 && file_identity_equal(&now, id);
}

/* NULL: it is ours beyond doubt.  renamed: by us, which counts as a change. */
static const char *doubt(const Recovery *r, int fd, bool renamed)
{
    const SnapshotFileInfo *i = r->info;
    g_autoptr(Error) err = NULL;
    FileIdentity now;
    struct stat st;

    if (file_identity(fd, &now) < 0 || !file_identity_equal(&now, &i->id)) {
        return "is another file now";
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        return "is not a regular file";
    }
    if (st.st_nlink != 1) {
        return "has another name too";
    }
    if (i->changed != 0 &&
        ((uint64_t)st.st_size != i->size ||
         (!renamed &&
          st.st_ctim.tv_sec * INT64_C(1000000000) + st.st_ctim.tv_nsec != i->changed))) {
        return "was changed since";
    }
    if (file_lock_supported(fd) && !file_lock_get(fd, i->path, file_create_locks, &err)) {
        return "is in use";
    }
    return image_is_untouched(fd, r->uuid, i->changed == 0) ? NULL : "has other contents";
}

/* OURS: *ret_fd is open and locked. */
static Found find_ours(const Recovery *r, const char *name, bool renamed, int *ret_fd)
{
    int fd = openat(r->dir, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    const char *why = NULL;

    if (fd < 0) {
        if (errno != ENOENT) {
            tell(r->message, "'%s' cannot be looked at: %s", r->info->path, g_strerror(errno));
        }
        return errno == ENOENT ? GONE : NOT_OURS;
    }
    why = doubt(r, fd, renamed);
    if (why) {
        tell(r->message, "'%s' %s, and stays", r->info->path, why);
        close(fd);
        return NOT_OURS;
    }
    *ret_fd = fd;
    return OURS;
}

static void undo_created(const Recovery *r)
{
    int fd;

    if (find_ours(r, r->name, false, &fd) != OURS) {
        return;
    }
    if (unlinkat(r->dir, r->name, 0) < 0) {
        tell(r->message, "'%s' cannot be removed: %s", r->info->path, g_strerror(errno));
    } else {
        tell(r->done, "removed '%s'", r->info->path);
    }
    close(fd);
}

static void undo_filled(const Recovery *r)
{
    struct stat st;
    int fd;

    if (find_ours(r, r->name, false, &fd) != OURS) {
        return;
    }
    if (fstat(fd, &st) == 0 && st.st_size == 0) {
        close(fd);
        return;
    }
    if (ftruncate(fd, 0) < 0 || fsync(fd) < 0) {
        tell(r->message, "'%s' cannot be emptied: %s", r->info->path, g_strerror(errno));
    } else {
        tell(r->done, "emptied '%s'", r->info->path);
    }
    close(fd);
}

/* Ours under the name `aside`, which it can have only before the exchange, or after it was taken back. */
static void remove_aside(const Recovery *r, const char *aside)
{
    int fd;

    if (aside && find_ours(r, aside, true, &fd) == OURS) {
        if (unlinkat(r->dir, aside, 0) < 0) {
            tell(r->message, "'%s' beside '%s' cannot be removed: %s", aside, r->info->path,
                 g_strerror(errno));
        }
        close(fd);
    }
}

static void put_back(const Recovery *r, const char *aside)
{
    int fd, ret;
    Found f = find_ours(r, r->name, false, &fd);

    if (f == NOT_OURS) {
        tell(r->message, "the former file '%s' lies in '%s'", r->info->path, aside);
        return;
    }
    ret = renameat2(r->dir, aside, r->dir, r->name, f == GONE ? RENAME_NOREPLACE : RENAME_EXCHANGE);
    if (ret < 0) {
        tell(r->message, "the former file '%s' lies in '%s' and cannot be put back: %s",
             r->info->path, aside, g_strerror(errno));
    } else {
        tell(r->done, "put the former file '%s' back", r->info->path);
    }
    if (f == OURS) {
        close(fd); /* its lock, which remove_aside() wants */
        if (ret == 0) {
            remove_aside(r, aside);
        }
    }
}

static void undo_replaced(const Recovery *r)
{
    const SnapshotFileInfo *i = r->info;

    if (has_identity(r, r->name, &i->aside)) {
        /* Not exchanged yet, or exchanged again by an undo that did not get further. */
        remove_aside(r, i->first_name);
        remove_aside(r, i->aside_name);
    } else if (has_identity(r, i->aside_name, &i->aside)) {
        put_back(r, i->aside_name);
    } else if (has_identity(r, i->first_name, &i->aside)) {
        put_back(r, i->first_name);
    } else {
        tell(r->message, "the former file '%s', set aside as '%s', is not there any more", i->path,
             i->aside_name);
    }
}

static bool enter(Recovery *r)
{
    g_autofree char *dir = g_path_get_dirname(r->info->path);

    r->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r->dir < 0) {
        tell(r->message, "the directory of '%s' cannot be opened: %s", r->info->path,
             g_strerror(errno));
        return false;
    }
    r->name = g_path_get_basename(r->info->path);
    return true;
}

static void leave(Recovery *r)
{
    if (fsync(r->dir) < 0) {
        tell(r->message, "the directory of '%s' cannot be synced: %s", r->info->path,
             g_strerror(errno));
    }
    close(r->dir);
    g_free(r->name);
}

void snapshot_file_recover_undo(const SnapshotFileInfo *info, const char *group_uuid,
                                char **ret_done, char **ret_message)
{
    Recovery r = {.info = info, .uuid = group_uuid, .done = ret_done, .message = ret_message};

    *ret_done = *ret_message = NULL;
    if (!enter(&r)) {
        return;
    }
    switch (info->how) {
    case FILE_CREATED:
        undo_created(&r);
        break;
    case FILE_FILLED:
        undo_filled(&r);
        break;
    case FILE_REPLACED:
        undo_replaced(&r);
        break;
    }
    leave(&r);
}

void snapshot_file_recover_commit(const SnapshotFileInfo *info, char **ret_message)
{
    Recovery r = {.info = info, .message = ret_message};

    *ret_message = NULL;
    if (info->how != FILE_REPLACED || !enter(&r)) {
        return;
    }
    if (has_identity(&r, info->aside_name, &info->aside) &&
        unlinkat(r.dir, info->aside_name, 0) < 0) {
        tell(ret_message, "the former file '%s' cannot be removed: %s", info->aside_name,
             g_strerror(errno));
    }
    leave(&r);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Files that snapshots make; include/block/file.h says what for, and what each state means.
 *
 * Invariants
 *  - `fd` is open on the file under the name from MADE on; `aside_fd` on the one that was set
 *    aside.
 *  - Every rename is an exchange, or goes to a name that nobody else can have (it has a fresh
 *    UUID): nothing is ever overwritten.
 *  - A step that fails takes back what the steps before it did, newest first.
 */
#include "block/file.h"
#include "block/types.h"
#include "file-create-internal.h"
#include "file-dir.h"
#include "file-lock.h"
#include "file-open.h"
#include "util/log.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

typedef enum State { NEW, MADE, DURABLE, DONE } State;

struct SnapshotFile {
    char *path;
    SnapshotFileAnnounce *announce; /* NULL: nobody wants to know */
    void *announce_opaque;
    const NewImage *image; /* until prepare ends; NULL: the file stays empty */
    bool lend;             /* wanted */
    bool lendable;         /* fd has lent.locks, and lent.size bytes are in the file */
    FileLent lent;
    char *found; /* absolute path of `place`, for snapshot_file_info() */
    State state;
    SnapshotFileHow how;
    FilePlace place;
    int fd; /* -1: none */
    struct stat st;
    /* FILE_REPLACED */
    int aside_fd; /* -1: none */
    struct stat aside_st;
    char *aside_name;
};

const FileLocks file_create_locks = {.used = PERM_WRITE | PERM_RESIZE, .unshared = PERM_RESIZE};

/* What a format that writes takes of its file: the node has nothing to add. */
static const FileLocks lent_locks = {.used = PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE,
                                     .unshared = PERM_WRITE | PERM_RESIZE};

SnapshotFile *snapshot_file_new(const char *path)
{
    SnapshotFile *f = g_new0(SnapshotFile, 1);

    f->path = g_strdup(path);
    f->place.dir = f->fd = f->aside_fd = -1;
    return f;
}

const char *snapshot_file_path(const SnapshotFile *f)
{
    return f->path;
}

static void close_all(SnapshotFile *f)
{
    if (f->fd >= 0) {
        close(f->fd);
    }
    if (f->aside_fd >= 0) {
        close(f->aside_fd);
    }
    f->fd = f->aside_fd = -1;
    file_place_clear(&f->place);
    g_clear_pointer(&f->aside_name, g_free);
}

void snapshot_file_free(SnapshotFile *f)
{
    if (!f) {
        return;
    }
    close_all(f);
    g_free(f->path);
    g_free(f->found);
    g_free(f);
}

bool snapshot_file_replaces(const SnapshotFile *f)
{
    return (f->state == MADE || f->state == DURABLE) && f->how == FILE_REPLACED;
}

/* ---- prepare ---- */

static bool refuse(const SnapshotFile *f, int err, Error **errp)
{
    error_set_errno(errp, err, f->path, "create", "Could not create '%s'", f->path);
    return false;
}

static bool lock_for_create(const SnapshotFile *f, int fd, Error **errp)
{
    return !file_lock_supported(fd) || file_lock_get(fd, f->path, file_create_locks, errp);
}

static void unlock(const SnapshotFile *f, int fd)
{
    if (file_lock_supported(fd)) {
        file_lock_drop(fd, f->path, file_create_locks);
    }
}

/* "<name>.cutpoint-<uuid>.<what>"; a long name is shortened so that this one is not too long. */
static char *sibling_name(const SnapshotFile *f, const char *uuid, const char *what)
{
    return g_strdup_printf("%.190s.cutpoint-%s.%s", f->place.name, uuid, what);
}

/* Access control and labels; what we are not permitted to copy is left as new files have it. */
static void copy_attributes(int from, int to, const struct stat *st)
{
    ssize_t len = flistxattr(from, NULL, 0);
    g_autofree char *names = len > 0 ? g_malloc(len) : NULL;

    if (fchown(to, st->st_uid, st->st_gid) < 0 && fchown(to, -1, st->st_gid) < 0) {
        log_debug("cannot give a file to its former owner: %s", g_strerror(errno));
    }
    len = names ? flistxattr(from, names, len) : 0;
    for (char *name = names; name && name < names + len; name += strlen(name) + 1) {
        ssize_t size = fgetxattr(from, name, NULL, 0);
        g_autofree char *value = size > 0 ? g_malloc(size) : NULL;

        size = value ? fgetxattr(from, name, value, size) : size;
        if (size >= 0 && fsetxattr(to, name, value ? value : "", size, 0) < 0) {
            log_debug("cannot copy attribute %s: %s", name, g_strerror(errno));
        }
    }
    if (fchmod(to, st->st_mode & 07777) < 0) {
        log_debug("cannot copy a file's mode: %s", g_strerror(errno));
    }
}

/* The absolute name of what is called `name` in the directory. */
static char *absolute(const SnapshotFile *f, const char *name)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", f->place.dir);
    g_autofree char *dir = g_file_read_link(link, NULL);

    return g_build_filename(dir ? dir : ".", name, NULL);
}

/* Tells who wants to know that `fd` will have the name. */
static bool announce(SnapshotFile *f, SnapshotFileHow how, int fd, const char *first_name,
                     const char *aside_name, Error **errp)
{
    SnapshotFileInfo info = {.how = how, .first_name = first_name, .aside_name = aside_name};
    int ret;

    if (!f->announce) {
        return true;
    }
    g_free(f->found);
    f->found = absolute(f, f->place.name);
    info.path = f->found;
    ret = file_identity(fd, &info.id);
    if (ret == 0 && aside_name) {
        ret = file_identity(f->aside_fd, &info.aside);
    }
    if (ret < 0) {
        error_set_errno(errp, -ret, f->path, "create", "Could not create '%s'", f->path);
        return false;
    }
    return f->announce(&info, f->announce_opaque, errp);
}

/* A new file that has no name yet.  -EOPNOTSUPP: the file system cannot do that. */
static int create_nameless(const SnapshotFile *f, mode_t mode)
{
    int fd = openat(f->place.dir, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, mode);

    if (fd < 0 && (errno == EISDIR || errno == ENOENT || errno == EINVAL)) {
        return -EOPNOTSUPP;
    }
    return fd < 0 ? -errno : fd;
}

static int give_name(const SnapshotFile *f, int fd, const char *name)
{
    g_autofree char *self = g_strdup_printf("/proc/self/fd/%d", fd);

    return linkat(AT_FDCWD, self, f->place.dir, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

static int exchange(const SnapshotFile *f, const char *a, const char *b)
{
    return renameat2(f->place.dir, a, f->place.dir, b, RENAME_EXCHANGE) < 0 ? -errno : 0;
}

static int rename_unused(const SnapshotFile *f, const char *from, const char *to)
{
    return renameat2(f->place.dir, from, f->place.dir, to, RENAME_NOREPLACE) < 0 ? -errno : 0;
}

static bool refuse_exchange(const SnapshotFile *f, int err, Error **errp)
{
    if (err == EINVAL || err == ENOSYS || err == EOPNOTSUPP) {
        error_set(
            errp, ERROR_UNSUPPORTED, f->path, "create",
            "Could not create '%s': the file is not empty, and its file system cannot set it aside",
            f->path);
        return false;
    }
    return refuse(f, err, errp);
}

/* Puts the new file, now called new_name, in the place of the old one. */
static bool put_in_place(SnapshotFile *f, const char *new_name, const char *old_name, Error **errp)
{
    const char *name = f->place.name;
    int ret = exchange(f, new_name, name);

    if (ret < 0) {
        return refuse_exchange(f, -ret, errp);
    }
    if (file_place_is(&f->place, name, &f->st) &&
        file_place_is(&f->place, new_name, &f->aside_st)) {
        ret = rename_unused(f, new_name, old_name);
    } else {
        ret = -EBUSY; /* somebody put another file there since we looked */
    }
    if (ret == 0) {
        return true;
    }
    if (exchange(f, new_name, name) < 0) {
        log_error("%s: cannot put the former file back: it is called '%s' now", f->path, new_name);
    }
    return refuse(f, -ret, errp);
}

/* Makes the file under `name`, which nobody has, announced if somebody wants to know.  How the announcement and the name come: the
 * file is born without a name, announced, then named; a crash leaves nothing that is not known.  Where files cannot be born without
 * a name, a crash between the two leaves an empty file.
 * The descriptor, or a negative errno; -ECANCELED: errp says why. */
static int make_file(SnapshotFile *f, const char *name, mode_t mode, SnapshotFileHow how,
                     const char *first_name, const char *aside_name, Error **errp)
{
    int fd = f->announce ? create_nameless(f, mode) : -EOPNOTSUPP, ret;

    if (fd >= 0) {
        ret = announce(f, how, fd, first_name, aside_name, errp) ? give_name(f, fd, name)
                                                                 : -ECANCELED;
        if (ret < 0) {
            close(fd);
            return ret;
        }
        return fd;
    }
    if (fd != -EOPNOTSUPP) {
        return fd;
    }
    fd = openat(f->place.dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0) {
        return -errno;
    }
    if (!announce(f, how, fd, first_name, aside_name, errp)) {
        struct stat st;

        if (fstat(fd, &st) == 0 && file_place_is(&f->place, name, &st)) {
            unlinkat(f->place.dir, name, 0);
        }
        close(fd);
        return -ECANCELED;
    }
    return fd;
}

/* 1: the file is ours; 0: there is one already; -1: error. */
static int try_create(SnapshotFile *f, Error **errp)
{
    int fd;

    if (faccessat(f->place.dir, f->place.name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
        return 0; /* spares the announcement of what will not be */
    }
    fd = make_file(f, f->place.name, 0644, FILE_CREATED, NULL, NULL, errp);
    if (fd < 0) {
        if (fd == -EEXIST) {
            return 0;
        }
        if (fd != -ECANCELED) {
            refuse(f, -fd, errp);
        }
        return -1;
    }
    if (fstat(fd, &f->st) < 0 || !file_place_is(&f->place, f->place.name, &f->st)) {
        /* Somebody has moved it away at once: nothing that we could still find by its name is ours.
         * */
        refuse(f, EBUSY, errp);
        close(fd);
        return -1;
    }
    f->fd = fd;
    f->how = FILE_CREATED;
    return 1;
}

/* The file with data is open and locked as aside_fd. */
static bool set_aside(SnapshotFile *f, Error **errp)
{
    g_autofree char *uuid = g_uuid_string_random();
    g_autofree char *new_name = sibling_name(f, uuid, "new");
    g_autofree char *old_name = sibling_name(f, uuid, "old");

    f->fd = make_file(f, new_name, 0600, FILE_REPLACED, new_name, old_name, errp);
    if (f->fd < 0) {
        if (f->fd != -ECANCELED) {
            error_set_errno(
                errp, -f->fd, f->path, "create",
                "Could not create '%s': the file is not empty, and no new one can be put beside it",
                f->path);
        }
        f->fd = -1;
        return false;
    }
    copy_attributes(f->aside_fd, f->fd, &f->aside_st);
    if (fstat(f->fd, &f->st) < 0) {
        refuse(f, errno, errp);
    } else if (put_in_place(f, new_name, old_name, errp)) {
        f->aside_name = g_steal_pointer(&old_name);
        f->how = FILE_REPLACED;
        return true;
    }
    if (file_place_is(&f->place, new_name, &f->st)) {
        unlinkat(f->place.dir, new_name, 0);
    }
    close(f->fd);
    f->fd = -1;
    return false;
}

/* A descriptor of a file that exists; -1: error; -2: it is not there any more. */
static int open_existing(const SnapshotFile *f, Error **errp)
{
    struct stat st;
    int fd = file_open_regular(f->place.dir, f->place.name, O_RDWR | O_NOFOLLOW, &st);

    if (fd == -ENOENT || fd == -ESTALE || (fd == FILE_NOT_REGULAR && S_ISLNK(st.st_mode))) {
        return -2; /* changed since we followed links: look again */
    }
    if (fd == FILE_NOT_REGULAR && !S_ISDIR(st.st_mode)) {
        error_set(errp, ERROR_UNSUPPORTED, f->path, "create",
                  "Could not create '%s': it exists and is not a regular file", f->path);
        return -1;
    }
    if (fd < 0) {
        refuse(f, fd == FILE_NOT_REGULAR ? EISDIR : -fd, errp);
        return -1;
    }
    return fd;
}

/* 1: done; 0: the file is not there any more or another one; -1: error. */
static int use_existing(SnapshotFile *f, Error **errp)
{
    int fd = open_existing(f, errp);
    struct stat st;

    if (fd < 0) {
        return fd == -2 ? 0 : -1;
    }
    if (!lock_for_create(f, fd, errp)) {
        close(fd);
        return -1;
    }
    /* Under the lock: no image tool fills it any more. */
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
        !file_place_is(&f->place, f->place.name, &st)) {
        close(fd);
        return 0;
    }
    if (st.st_size == 0) {
        if (!announce(f, FILE_FILLED, fd, NULL, NULL, errp)) {
            unlock(f, fd);
            close(fd);
            return -1;
        }
        f->fd = fd;
        f->st = st;
        f->how = FILE_FILLED;
        return 1;
    }
    f->aside_fd = fd;
    f->aside_st = st;
    if (set_aside(f, errp)) {
        return 1;
    }
    close(fd);
    f->aside_fd = -1;
    return -1;
}

static bool refuse_image(int err, const SnapshotFile *f, Error **errp)
{
    error_set_errno(errp, err, f->path, "create", "Could not write the new image");
    return false;
}

static bool fill_and_lend(SnapshotFile *f, Error **errp)
{
    bool locking = file_lock_supported(f->fd);
    int ret;

    if (locking && !file_lock_get(f->fd, f->path, lent_locks, errp)) {
        return false;
    }
    ret = file_fill(f->fd, f->image);
    if (ret < 0) {
        return refuse_image(-ret, f, errp);
    }
    f->lent = (FileLent){.fd = -1, .size = f->image->size, .locking = locking};
    if (locking) {
        f->lent.locks = lent_locks;
    }
    f->lendable = true;
    return true;
}

/* What others would take for an image of theirs that is being made; so the lock is held.  A file that was filled in place has it. */
static bool write_image(SnapshotFile *f, Error **errp)
{
    int ret;

    if (f->how == FILE_CREATED && f->lend) {
        return fill_and_lend(f, errp);
    }
    if (f->how != FILE_FILLED && !lock_for_create(f, f->fd, errp)) {
        return false;
    }
    ret = file_fill(f->fd, f->image);
    if (f->how != FILE_FILLED) {
        unlock(f, f->fd);
    }
    return ret == 0 || refuse_image(-ret, f, errp);
}

void snapshot_file_set_image(SnapshotFile *f, const NewImage *image)
{
    g_assert(f->state == NEW);
    f->image = image;
}

void snapshot_file_set_lend(SnapshotFile *f)
{
    g_assert(f->state == NEW);
    f->lend = true;
}

bool snapshot_file_lend(SnapshotFile *f, FileLent *ret)
{
    if (!f->lendable) {
        return false;
    }
    f->lendable = false;
    *ret = f->lent;
    ret->fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
    if (ret->fd < 0) {
        ret->fd = -errno;
    }
    return true;
}

bool snapshot_file_prepare(SnapshotFile *f, Error **errp)
{
    bool ok;
    int done = 0;

    g_assert(f->state == NEW);
    /* Each round that does not end is one in which somebody else created or removed the file under
     * our hands. */
    for (int round = 0; round < 20 && done == 0; round++) {
        int ret;

        file_place_clear(&f->place);
        ret = file_place_find(f->path, &f->place);
        if (ret < 0) {
            return refuse(f, -ret, errp);
        }
        done = try_create(f, errp);
        if (done == 0) {
            done = use_existing(f, errp);
        }
    }
    if (done == 0) {
        refuse(f, EBUSY, errp);
    }
    if (done != 1) {
        close_all(f);
        return false;
    }
    f->state = MADE;
    ok = !f->image || write_image(f, errp);
    f->image = NULL;
    if (f->how == FILE_FILLED) {
        unlock(f, f->fd);
    }
    if (!ok) {
        snapshot_file_undo(f);
    }
    return ok;
}

void snapshot_file_set_announce(SnapshotFile *f, SnapshotFileAnnounce *fn, void *opaque)
{
    g_assert(f->state == NEW);
    f->announce = fn;
    f->announce_opaque = opaque;
}

bool snapshot_file_info(SnapshotFile *f, SnapshotFileInfo *ret, Error **errp)
{
    struct stat st;
    int err;

    g_assert(f->state == MADE || f->state == DURABLE);
    if (!f->found) {
        f->found = absolute(f, f->place.name);
    }
    *ret = (SnapshotFileInfo){.how = f->how, .path = f->found, .aside_name = f->aside_name};
    err = file_identity(f->fd, &ret->id);
    if (err == 0 && f->aside_name) {
        err = file_identity(f->aside_fd, &ret->aside);
    }
    if (err == 0 && fstat(f->fd, &st) < 0) {
        err = -errno;
    }
    if (err < 0) {
        error_set_errno(errp, -err, f->path, "sync", "Could not sync '%s'", f->path);
        return false;
    }
    ret->size = st.st_size;
    ret->changed = st.st_ctim.tv_sec * INT64_C(1000000000) + st.st_ctim.tv_nsec;
    return true;
}

/* ---- finish ---- */

bool snapshot_file_finish(SnapshotFile *f, Error **errp)
{
    int ret;

    g_assert(f->state == MADE);
    ret = fsync(f->fd) < 0 ? -errno : file_place_sync(&f->place);
    if (ret < 0) {
        error_set_errno(errp, -ret, f->path, "sync", "Could not sync '%s'", f->path);
        return false;
    }
    f->state = DURABLE;
    return true;
}

/* ---- undo ---- */

static void undo_created(SnapshotFile *f)
{
    if (faccessat(f->place.dir, f->place.name, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT) {
        return; /* somebody else has removed it */
    }
    if (!file_place_is(&f->place, f->place.name, &f->st)) {
        log_warn("%s: is another file now than the one a snapshot made, and stays", f->path);
    } else if (unlinkat(f->place.dir, f->place.name, 0) < 0) {
        log_error("%s: cannot remove what an aborted snapshot made: %s", f->path,
                  g_strerror(errno));
    }
}

static void undo_filled(SnapshotFile *f)
{
    g_autoptr(Error) err = NULL;

    if (!lock_for_create(f, f->fd, &err)) {
        log_warn("%s: cannot be emptied again after an aborted snapshot: %s", f->path,
                 err->message);
        return;
    }
    if (ftruncate(f->fd, 0) < 0 || fsync(f->fd) < 0) {
        log_error("%s: cannot be emptied again after an aborted snapshot: %s", f->path,
                  g_strerror(errno));
    }
    unlock(f, f->fd);
}

static void undo_replaced(SnapshotFile *f)
{
    const char *name = f->place.name;
    int ret;

    if (!file_place_is(&f->place, f->aside_name, &f->aside_st)) {
        log_error("%s: the file set aside as '%s' is not there any more", f->path, f->aside_name);
        return;
    }
    ret = rename_unused(f, f->aside_name, name);
    if (ret == -EEXIST && file_place_is(&f->place, name, &f->st)) {
        ret = exchange(f, f->aside_name, name);
        if (ret == 0 && file_place_is(&f->place, f->aside_name, &f->st)) {
            unlinkat(f->place.dir, f->aside_name, 0);
        } else if (ret == 0) {
            /* In the moment since we looked somebody put another file there: that one goes back. */
            exchange(f, f->aside_name, name);
            ret = -EEXIST;
        }
    }
    if (ret < 0) {
        log_error("%s: cannot put the former file back: %s; it lies in '%s'", f->path,
                  g_strerror(-ret), f->aside_name);
    }
}

void snapshot_file_undo(SnapshotFile *f)
{
    int ret;

    if (f->state != MADE && f->state != DURABLE) {
        return;
    }
    switch (f->how) {
    case FILE_CREATED:
        undo_created(f);
        break;
    case FILE_FILLED:
        undo_filled(f);
        break;
    case FILE_REPLACED:
        undo_replaced(f);
        break;
    }
    ret = file_place_sync(&f->place);
    if (ret < 0) {
        log_warn("%s: cannot sync its directory: %s", f->path, g_strerror(-ret));
    }
    close_all(f);
    f->state = DONE;
}

/* ---- commit ---- */

void snapshot_file_commit(SnapshotFile *f)
{
    if (f->state != MADE && f->state != DURABLE) {
        return;
    }
    if (f->how == FILE_REPLACED) {
        if (!file_place_is(&f->place, f->aside_name, &f->aside_st)) {
            log_warn("%s: the file set aside as '%s' is not there any more", f->path,
                     f->aside_name);
        } else if (unlinkat(f->place.dir, f->aside_name, 0) < 0) {
            log_warn("%s: cannot remove the former file '%s': %s", f->path, f->aside_name,
                     g_strerror(errno));
        }
    }
    close_all(f);
    f->state = DONE;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The drivers `file`, a disk in a regular file, and `host_device`, a device that is a disk.  This part: options, opening, closing.
 *
 * read-only=on           opened read-only
 * read-only=off          opened writable, or not at all
 * auto-read-only=on      opened read-only, and made writable when the first parent wants to write
 *                        (file-perm.c); a file that cannot be written makes the node read-only
 *
 * aio, aio-max-batch: every value is accepted; how requests are carried out is a matter of the loop
 *                        they come from
 * drop-cache, x-check-cache-dropped: have a meaning only for migration between hosts
 */
#include "block/file.h"
#include "file-create-internal.h"
#include "file-internal.h"
#include "file-open.h"
#include "qapi-types.h"
#include "util/log.h"
#include "util/passed-fd.h"
#include "util/worker.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

typedef struct OpenJob {
    Node *node;
    bool read_only;
    OnOffAuto locking;
    bool cannot_write; /* out: auto-read-only, and the file is not writable */
    struct stat st;
    int64_t size;
    NodeLimits limits;
    Error **errp;
} OpenJob;

static bool open_failed(const OpenJob *j, int ret, bool writable)
{
    const char *name = j->node->filename;

    if (ret == FILE_NOT_REGULAR) {
        if (S_ISDIR(j->st.st_mode) && writable) {
            ret = -EISDIR;
        } else if (file_state(j->node)->device && !S_ISSOCK(j->st.st_mode)) {
            error_set(j->errp, ERROR_UNSUPPORTED, name, "open",
                      "'host_device' driver requires '%s' to be either a character or block device",
                      name);
            return false;
        } else if (S_ISSOCK(j->st.st_mode)) {
            ret = -ENXIO;
        } else {
            error_set(j->errp, ERROR_UNSUPPORTED, name, "open",
                      "'file' driver requires '%s' to be a regular file", name);
            return false;
        }
    }
    if (ret == -EINVAL && j->node->cache_direct) {
        error_set(j->errp, ERROR_UNSUPPORTED, name, "open",
                  "Could not open '%s': filesystem does not support O_DIRECT", name);
        return false;
    }
    error_set_errno(j->errp, -ret, name, "open", "Could not open '%s'", name);
    return false;
}

bool file_can_write(const char *name, int fd)
{
    char proc[32];

    if (fdset_is_name(name)) {
        int other = fdset_open(name, O_RDWR);

        return other >= 0 && close(other) == 0;
    }
    g_snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
    return file_device_writable(fd) && faccessat(AT_FDCWD, proc, W_OK, AT_EACCESS) == 0;
}

static bool find_locking(OpenJob *j, int fd)
{
    FileState *s = j->node->state;
    bool can = file_lock_supported(fd);

    if (j->locking == ON_OFF_AUTO_ON && !can) {
        error_set(j->errp, ERROR_UNSUPPORTED, j->node->filename, "open",
                  "locking=on was specified for '%s', but its file system has no OFD locks",
                  j->node->filename);
        return false;
    }
    s->locking = can && j->locking != ON_OFF_AUTO_OFF;
    return true;
}

static int open_on_worker(void *opaque)
{
    OpenJob *j = opaque;
    Node *n = j->node;
    FileState *s = n->state;
    bool writable = !j->read_only && !n->auto_read_only;
    int fd = file_open_kind(AT_FDCWD, n->filename, file_open_flags(n, writable),
                            s->device ? FILE_KIND_DEVICE : FILE_KIND_REGULAR, &j->st);

    if (fd < 0) {
        open_failed(j, fd, writable);
        return -1;
    }
    j->size = file_length(n, fd);
    if (j->size < 0 || (uint64_t)j->size > BLOCK_MAX_SIZE) {
        open_failed(j, j->size < 0 ? (int)j->size : -EFBIG, writable);
    } else if (writable && !file_device_writable(fd)) {
        file_not_writable(n, j->errp);
    } else if (find_locking(j, fd)) {
        j->limits = file_limits(n, fd, n->cache_direct);
        s->sector = MAX(j->limits.write_zeroes_alignment, 1);
        j->cannot_write = !j->read_only && n->auto_read_only && !file_can_write(n->filename, fd);
        s->writable = writable;
        s->fd = fd;
        return 0;
    }
    close(fd);
    return -1;
}

/* A file that was made for this node comes with its descriptor and locks.  False: it is to be opened like any other. */
static bool take_lent(OpenJob *j, bool *ret_ok)
{
    Node *n = j->node;
    FileState *s = n->state;
    FileLent lent;

    if (!n->made || j->read_only || n->auto_read_only || n->cache_direct ||
        j->locking == ON_OFF_AUTO_OFF || !snapshot_file_lend(n->made, &lent)) {
        return false;
    }
    if (lent.fd < 0) {
        *ret_ok = open_failed(j, lent.fd, true);
        return true;
    }
    s->fd = lent.fd;
    s->writable = true;
    s->locking = lent.locking;
    s->held = lent.locks;
    s->sector = 1;
    j->size = (int64_t)lent.size;
    j->limits = file_limits(n, lent.fd, false);
    *ret_ok = true;
    return true;
}

static bool check_options(const Node *n, const BlockdevOptionsFile *o, Error **errp)
{
    if (!o->filename || o->filename[0] == '\0') {
        error_set(errp, ERROR_INVALID, n->name, "open",
                  "The '%s' block driver requires a file name", n->driver->name);
        return false;
    }
    if (o->has_aio && o->aio == BLOCKDEV_AIO_OPTIONS_NATIVE && !n->cache_direct) {
        error_set(
            errp, ERROR_INVALID, n->name, "open",
            "aio=native was specified, but it requires cache.direct=on, which was not specified.");
        return false;
    }
    return true;
}

static bool coroutine_fn file_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    const BlockdevOptionsFile *o = &options->u.file; /* of both drivers */
    FileState *s = n->state;
    OpenJob j = {
        .node = n,
        .read_only = atomic_load(&n->read_only),
        .locking = o->has_locking ? o->locking : ON_OFF_AUTO_AUTO,
        .errp = errp,
    };
    bool ok;

    s->device = n->driver->is_device;
    s->fd = s->next_fd = s->old_dup = s->ro_fd = s->ro_dup = -1;
    if (!check_options(n, o, errp)) {
        return false;
    }
    n->filename = g_strdup(o->filename);
    if (!take_lent(&j, &ok)) {
        ok = worker_run(WORKERS_CONTROL, open_on_worker, &j) == 0;
    }
    if (!ok) {
        return false;
    }
    pthread_mutex_init(&s->status_lock, NULL);
    co_mutex_init(&s->resize_lock);
    co_mutex_init(&s->control_lock);
    n->limits = j.limits;
    atomic_store(&n->size, file_node_size(j.size));
    if (j.cannot_write) {
        atomic_store(&n->read_only, true);
    }
    return true;
}

static int close_on_worker(void *opaque)
{
    Node *n = opaque;
    FileState *s = n->state;

    if (s->locking) {
        /* Requests may keep the description for a moment; its locks end now. */
        file_lock_drop(s->fd, n->filename, s->held);
    }
    return close(s->fd) < 0 ? -errno : 0;
}

static void coroutine_fn file_close(Node *n)
{
    FileState *s = n->state;
    int ret;

    file_ro_abort(n);
    if (atomic_load(&n->write_gen) != atomic_load(&n->flushed_gen) && !n->cache_no_flush) {
        /* Who opens it next begins with a clean slate: its flushes will not ask for our writes. */
        ret = co_fdatasync(s->fd);
        if (ret < 0) {
            log_error("%s: flush on close: %s", n->filename, strerror(-ret));
        }
    }
    ret = worker_run(WORKERS_CONTROL, close_on_worker, n);
    if (ret < 0) {
        log_warn("%s: close: %s", n->filename, strerror(-ret));
    }
    co_mutex_destroy(&s->control_lock);
    co_mutex_destroy(&s->resize_lock);
    pthread_mutex_destroy(&s->status_lock);
}

static bool file_facts(Node *n, ImageFacts *ret_facts, Error **errp)
{
    struct stat st;

    if (fstat(file_state(n)->fd, &st) < 0) {
        error_set_errno(errp, errno, n->filename, "query", "Could not read the state of '%s'",
                        n->filename);
        return false;
    }
    *ret_facts = (ImageFacts){.actual_size = (int64_t)st.st_blocks * 512, .has_dirty = true};
    return true;
}

static bool file_node_identity(const Node *n, FileIdentity *ret)
{
    struct stat st;

    if (!file_state(n)->device) {
        return file_identity(file_state(n)->fd, ret) == 0;
    }
    /* However many names a device has.  Until the next start of the machine. */
    if (fstat(file_state(n)->fd, &st) < 0) {
        return false;
    }
    *ret = (FileIdentity){.dev = st.st_rdev};
    return true;
}

/* What both drivers are; tables of functions. */
#define FILE_OPERATIONS                                                                            \
    .is_protocol = true, .state_size = sizeof(FileState), .open = file_open, .close = file_close,  \
    .reopen_options = file_reopen_options, .reopen_prepare = file_reopen_prepare,                  \
    .reopen_load = file_reopen_load, .reopen_switch = file_reopen_switch,                          \
    .perm_prepare = file_perm_prepare, .perm_commit = file_perm_commit,                            \
    .perm_abort = file_perm_abort, .ro_prepare = file_ro_prepare, .ro_commit = file_ro_commit,     \
    .ro_abort = file_ro_abort, .facts = file_facts, .preadv = file_preadv,                         \
    .pwritev = file_pwritev, .pwrite_zeroes = file_pwrite_zeroes, .stats = file_stats,             \
    .pdiscard = file_pdiscard, .flush = file_flush, .identity = file_node_identity,                \
    .write_out = file_write_out, .write_behind = file_write_behind,                                \
    .is_contended = file_is_contended, .truncate = file_truncate,                                  \
    .block_status = file_block_status

const BlockDriver driver_file = {
    .name = "file",
    FILE_OPERATIONS,
};

const BlockDriver driver_host_device = {
    .name = "host_device",
    .is_device = true,
    FILE_OPERATIONS,
};

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The export `fuse`: a disk as a regular file, mounted over one.
 *
 * Removal: readers read no more, requests that are running end (for END_NS; after that nobody waits for their answers any more, but the export
 * waits for them to let go of the disk), then the mount goes.  Who has the file open gets errors from then on.  When somebody else unmounts it, the
 * export is removed.
 */
#include "fuse-internal.h"
#include "qapi-types.h"
#include "util/log.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define END_NS       INT64_C(3000000000)
#define MAX_RUNNING  128u /* requests of a reader */
#define KEEP_BUFFERS 16u  /* of a reader, each of the largest request's size */
#define TURN         32u  /* requests read until others on the loop get their turn */

static GPtrArray *all; /* FuseExport *, those that are mounted or about to be */

/* ---- readers ---- */

typedef struct FuseBuffer {
    struct fuse_buf buf; /* mem: libfuse's way of allocating, freed by free() */
    FuseReader *reader;
} FuseBuffer;

static FuseBuffer *get_buffer(FuseReader *r)
{
    FuseBuffer *b;

    if (r->buffers->len > 0) {
        return g_ptr_array_steal_index_fast(r->buffers, r->buffers->len - 1);
    }
    b = g_new0(FuseBuffer, 1);
    b->reader = r;
    return b;
}

static void free_buffer(void *opaque)
{
    FuseBuffer *b = opaque;

    free(b->buf.mem);
    g_free(b);
}

static void put_buffer(FuseBuffer *b)
{
    if (b->reader->buffers->len < KEEP_BUFFERS) {
        g_ptr_array_add(b->reader->buffers, b);
    } else {
        free_buffer(b);
    }
}

static void coroutine_fn request_main(void *opaque)
{
    FuseBuffer *b = opaque;
    FuseReader *r = b->reader;

    fuse_session_process_buf(r->exp->session, &b->buf);
    put_buffer(b);
    r->running--;
    if (r->waiter) {
        co_wake(g_steal_pointer(&r->waiter));
    }
}

static void coroutine_fn wait_for_end(FuseReader *r)
{
    r->waiter = co_self();
    co_yield();
}

/* One request; false: there will be none any more. */
static bool coroutine_fn read_one(FuseReader *r)
{
    FuseBuffer *b = get_buffer(r);
    int ret = fuse_session_receive_buf(r->exp->session, &b->buf);

    if (ret > 0) {
        r->running++;
        co_start(request_main, b);
        return true;
    }
    put_buffer(b);
    if (ret == -EAGAIN) {
        co_poll(r->poll_fd, POLLIN, -1);
        return true;
    }
    return ret == -EINTR || ret == -ENOMEM;
}

static bool stopped(const FuseReader *r)
{
    struct pollfd p = {.fd = r->stop_fd, .events = POLLIN};

    return poll(&p, 1, 0) > 0;
}

static void reader_gone(void *opaque)
{
    FuseReader *r = opaque;
    FuseExport *e = r->exp;

    if (--e->reading == 0 && e->waiter) {
        co_wake(g_steal_pointer(&e->waiter));
    }
}

static void was_unmounted(void *opaque)
{
    export_ended(opaque);
}

static void coroutine_fn reader_main(void *opaque)
{
    FuseReader *r = opaque;

    for (unsigned n = 1; !stopped(r); n++) {
        if (r->running >= MAX_RUNNING) {
            wait_for_end(r);
        } else if (!read_one(r)) {
            atomic_store(&r->exp->unmounted, true);
            loop_call(loop_control(), was_unmounted, r->exp);
            break;
        }
        if (n % TURN == 0) {
            co_reschedule();
        }
    }
    while (r->running > 0) {
        wait_for_end(r);
    }
    loop_call(loop_control(), reader_gone, r);
}

static bool watch(const FuseReader *r, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};

    return epoll_ctl(r->poll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

static bool reader_init(FuseReader *r, FuseExport *e, unsigned i)
{
    *r = (FuseReader){
        .exp = e,
        .loop = iothread_loop(e->base.iothreads[i]),
        .poll_fd = epoll_create1(EPOLL_CLOEXEC),
        .stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
        .buffers = g_ptr_array_new_with_free_func(free_buffer),
    };
    return r->poll_fd >= 0 && r->stop_fd >= 0 && watch(r, r->stop_fd) &&
           watch(r, fuse_session_fd(e->session));
}

static void reader_clear(FuseReader *r)
{
    if (!r->exp) {
        return;
    }
    if (r->poll_fd >= 0) {
        close(r->poll_fd);
    }
    if (r->stop_fd >= 0) {
        close(r->stop_fd);
    }
    g_ptr_array_free(r->buffers, true);
}

/* ---- the export ---- */

static bool is_taken(const char *path, dev_t dev)
{
    for (guint i = 0; i < all->len; i++) {
        const FuseExport *e = g_ptr_array_index(all, i);

        if (strcmp(e->path, path) == 0 || (dev && e->dev == dev)) {
            return true;
        }
    }
    return false;
}

static void init(FuseExport *e, const BlockExportOptionsFuse *o)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    e->growable = o->has_growable && o->growable;
    e->mode = S_IFREG | S_IRUSR | (e->base.writable ? S_IWUSR : 0);
    e->uid = geteuid();
    e->gid = getegid();
    e->atime = e->mtime = e->ctime = now;
    co_mutex_init(&e->size_lock);
    pthread_mutex_init(&e->lock, NULL);
}

static void clear(FuseExport *e)
{
    if (all) {
        g_ptr_array_remove(all, e);
    }
    for (unsigned i = 0; e->readers && i < e->base.niothreads; i++) {
        reader_clear(&e->readers[i]);
    }
    if (e->session) {
        fuse_session_unmount(e->session); /* it was: fuse_unmount_session() */
        fuse_session_destroy(e->session);
    }
    g_free(e->readers);
    g_free(e->path);
    co_mutex_destroy(&e->size_lock);
    pthread_mutex_destroy(&e->lock);
}

static bool start_reading(FuseExport *e, Error **errp)
{
    unsigned n = e->base.niothreads;

    e->readers = g_new0(FuseReader, n);
    for (unsigned i = 0; i < n; i++) {
        if (!reader_init(&e->readers[i], e, i)) {
            error_set_errno(errp, errno, e->base.id, "block-export-add",
                            "Failed to make descriptors for export '%s'", e->base.id);
            return false;
        }
    }
    e->reading = n;
    for (unsigned i = 0; i < n; i++) {
        co_spawn(e->readers[i].loop, reader_main, &e->readers[i]);
    }
    return true;
}

static bool coroutine_fn start(FuseExport *e, const BlockExportOptionsFuse *o, Error **errp)
{
    FuseExportAllowOther allow = o->has_allow_other ? o->allow_other : FUSE_EXPORT_ALLOW_OTHER_AUTO;
    g_autofree char *path = g_canonicalize_filename(o->mountpoint, NULL);
    dev_t dev = 0;

    if (!all) {
        all = g_ptr_array_new();
    }
    /* First by name: looking at the file of an export that hangs would take long. */
    if (!is_taken(path, 0)) {
        g_free(path);
        path = fuse_find_mountpoint(o->mountpoint, &dev, errp);
        if (!path) {
            return false;
        }
    }
    if (is_taken(path, dev)) {
        error_set(errp, ERROR_EXISTS, o->mountpoint, "block-export-add",
                  "There already is a FUSE export on '%s'", o->mountpoint);
        return false;
    }
    e->path = g_steal_pointer(&path);
    g_ptr_array_add(all, e);
    if (!fuse_mount_session(e,
                            allow == FUSE_EXPORT_ALLOW_OTHER_AUTO ? -1
                            : allow == FUSE_EXPORT_ALLOW_OTHER_ON ? 1
                                                                  : 0,
                            errp)) {
        return false;
    }
    fuse_look_at_disk(e);
    if (!start_reading(e, errp)) {
        fuse_unmount_session(e);
        return false;
    }
    return true;
}

static bool coroutine_fn fuse_create(Export *base, const BlockExportOptions *options, Error **errp)
{
    FuseExport *e = fuse_export_of(base);

    init(e, &options->u.fuse);
    if (!start(e, &options->u.fuse, errp)) {
        clear(e);
        return false;
    }
    return true;
}

static unsigned fuse_permissions(const BlockExportOptions *options)
{
    return options->u.fuse.has_growable && options->u.fuse.growable && options->has_writable &&
                   options->writable
               ? PERM_RESIZE
               : 0;
}

/* Nobody is connected: who has the file open cannot be told from who has just closed it.  Removal waits for requests. */
static unsigned fuse_clients(const Export *base)
{
    (void)base;
    return 0;
}

static void coroutine_fn fuse_shutdown(Export *base)
{
    FuseExport *e = fuse_export_of(base);
    int64_t deadline = clock_ns() + END_NS;
    uint64_t one = 1;

    for (unsigned i = 0; i < base->niothreads; i++) {
        (void)!write(e->readers[i].stop_fd, &one, sizeof(one));
    }
    while (e->reading > 0 && clock_ns() < deadline) {
        co_sleep_ns(INT64_C(1000000));
    }
    if (e->reading > 0) {
        log_warn("export '%s': requests do not end; it is unmounted without them", base->id);
    }
    fuse_unmount_session(e);
    if (e->reading > 0) {
        e->waiter = co_self();
        co_yield();
    }
}

static void fuse_cleanup(Export *base)
{
    clear(fuse_export_of(base));
}

const ExportDriver export_driver_fuse = {
    .name = "fuse",
    .many_threads = true,
    .size = sizeof(FuseExport),
    .permissions = fuse_permissions,
    .create = fuse_create,
    .clients = fuse_clients,
    .shutdown = fuse_shutdown,
    .cleanup = fuse_cleanup,
};

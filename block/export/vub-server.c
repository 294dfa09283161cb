/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The export: its socket, and the one front end at a time that it serves.
 *
 * The control thread listens; while a front end is connected, others wait in the socket's queue.
 */
#include "qapi-types.h"
#include "util/log.h"
#include "util/passed-fd.h"
#include "vub-internal.h"
#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DEFAULT_SERIAL "vhost_user_blk"
#define SHUTDOWN_NS    INT64_C(3000000000)

static VubExport *vub_of(const Export *base)
{
    return (VubExport *)base;
}

/* ---- sessions ---- */

static void listen_again(VubExport *e);

static void session_gone(void *opaque)
{
    VubSession *s = opaque;
    VubExport *e = s->exp;

    pthread_mutex_lock(&e->lock);
    e->session = NULL;
    pthread_mutex_unlock(&e->lock);
    close(s->fd);
    g_free(s);
    for (guint i = 0; i < e->waiters->len; i++) {
        co_wake(g_ptr_array_index(e->waiters, i));
    }
    g_ptr_array_set_size(e->waiters, 0);
    if (!e->base.shutting_down) {
        listen_again(e);
    }
}

static void coroutine_fn session_main(void *opaque)
{
    VubSession *s = opaque;

    vub_session_run(s);
    loop_call(loop_control(), session_gone, s);
}

static gboolean on_accept(gint fd, GIOCondition condition, gpointer opaque)
{
    VubExport *e = opaque;
    int peer = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    VubSession *s;

    (void)condition;
    if (peer < 0) {
        return G_SOURCE_CONTINUE;
    }
    s = g_new0(VubSession, 1);
    s->exp = e;
    s->fd = peer;
    pthread_mutex_lock(&e->lock);
    e->session = s;
    pthread_mutex_unlock(&e->lock);
    g_clear_pointer(&e->listener, g_source_unref);
    co_spawn(iothread_loop(e->base.iothread), session_main, s);
    return G_SOURCE_REMOVE;
}

static void listen_again(VubExport *e)
{
    e->listener = g_unix_fd_source_new(e->listen_fd, G_IO_IN);
    g_source_set_callback(e->listener, G_SOURCE_FUNC(on_accept), e, NULL);
    g_source_attach(e->listener, NULL);
}

/* ---- the socket ---- */

static bool listen_inherited(VubExport *e, const FdSocketAddress *a, Error **errp)
{
    int fd = passed_fd_socket(a->str, errp), listening = 0, domain = 0;
    socklen_t len = sizeof(int);

    if (fd < 0) {
        return false;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || !listening ||
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX) {
        close(fd);
        error_set(errp, ERROR_INVALID, a->str, "listen",
                  "File descriptor '%s' is not a listening UNIX socket", a->str);
        return false;
    }
    g_unix_set_fd_nonblocking(fd, true, NULL);
    e->listen_fd = fd;
    return true;
}

static bool listen_at(VubExport *e, const SocketAddress *addr, Error **errp)
{
    switch (addr->type) {
    case SOCKET_ADDRESS_TYPE_UNIX:
        e->listen_fd = unix_listener_open(&e->socket_file, &addr->u.q_unix, 1, errp);
        return e->listen_fd >= 0;
    case SOCKET_ADDRESS_TYPE_FD:
        return listen_inherited(e, &addr->u.fd, errp);
    default:
        error_set(errp, ERROR_UNSUPPORTED, e->base.id, "block-export-add",
                  "Only UNIX sockets can carry vhost-user");
        return false;
    }
}

static void stop_listening(VubExport *e)
{
    if (e->listener) {
        g_source_destroy(e->listener);
        g_clear_pointer(&e->listener, g_source_unref);
    }
    if (e->listen_fd >= 0) {
        close(e->listen_fd);
        e->listen_fd = -1;
    }
    unix_listener_remove(&e->socket_file);
}

/* ---- the export ---- */

static bool take_options(VubExport *e, const BlockExportOptionsVhostUserBlk *o, Error **errp)
{
    int64_t block_size = o->has_logical_block_size ? o->logical_block_size : 512;
    int64_t num_queues = o->has_num_queues ? o->num_queues : 1;

    if (block_size < 512 || block_size > 32768 || (block_size & (block_size - 1))) {
        error_set(errp, ERROR_INVALID, e->base.id, "block-export-add",
                  "logical-block-size must be a power of 2 between 512 and 32768");
        return false;
    }
    if (num_queues < 1 || num_queues > VUB_MAX_QUEUES) {
        error_set(errp, ERROR_INVALID, e->base.id, "block-export-add",
                  "num-queues must be between 1 and %u", VUB_MAX_QUEUES);
        return false;
    }
    if (o->serial && strlen(o->serial) > VUB_ID_BYTES) {
        error_set(errp, ERROR_LIMIT, e->base.id, "block-export-add",
                  "serial is longer than %u bytes", VUB_ID_BYTES);
        return false;
    }
    e->block_size = block_size;
    e->num_queues = num_queues;
    g_strlcpy(e->serial, o->serial ? o->serial : DEFAULT_SERIAL, sizeof(e->serial));
    e->metadata_writethrough = o->has_metadata_writethrough && o->metadata_writethrough;
    return true;
}

static bool coroutine_fn vub_create(Export *base, const BlockExportOptions *options, Error **errp)
{
    const BlockExportOptionsVhostUserBlk *o = &options->u.vhost_user_blk;
    VubExport *e = vub_of(base);

    e->listen_fd = e->backend_fd = -1;
    if (!take_options(e, o, errp) || !listen_at(e, o->addr, errp)) {
        return false;
    }
    pthread_mutex_init(&e->lock, NULL);
    co_mutex_init(&e->kept_lock);
    e->waiters = g_ptr_array_new();
    e->queues = g_new0(VubQueue, e->num_queues);
    for (unsigned i = 0; i < e->num_queues; i++) {
        vub_queue_init(&e->queues[i], e, i, iothread_loop(base->iothreads[i % base->niothreads]));
    }
    listen_again(e);
    return true;
}

static unsigned vub_clients(const Export *base)
{
    VubExport *e = vub_of(base);
    unsigned n;

    pthread_mutex_lock(&e->lock);
    n = e->session ? 1 : 0;
    pthread_mutex_unlock(&e->lock);
    return n;
}

static void shutdown_timeout(void *opaque)
{
    VubExport *e = opaque;

    if (e->session) {
        shutdown(e->session->fd, SHUT_RDWR);
    }
}

static void coroutine_fn vub_shutdown(Export *base)
{
    VubExport *e = vub_of(base);
    Timer timer;

    stop_listening(e);
    /* For a front end that does not take its answers. */
    timer_init(&timer, shutdown_timeout, e);
    timer_arm(&timer, clock_ns() + SHUTDOWN_NS);
    while (vub_clients(base) > 0) {
        /* Only this thread frees it.  The front end notices when all is answered and the session closes. */
        shutdown(e->session->fd, SHUT_RD);
        g_ptr_array_add(e->waiters, co_self());
        co_yield();
    }
    timer_cancel(&timer);
}

static void vub_cleanup(Export *base)
{
    VubExport *e = vub_of(base);

    g_ptr_array_free(e->waiters, true);
    g_free(e->queues);
    co_mutex_destroy(&e->kept_lock);
    pthread_mutex_destroy(&e->lock);
}

/* The guest learns of a new size: its front end asks for the configuration when we say that it has changed. */
static void vub_resized(Export *base)
{
    VubExport *e = vub_of(base);
    VubHeader h = {.request = VUB_BACKEND_CONFIG_CHANGE, .flags = VUB_VERSION};

    atomic_store(&e->known_node, 0); /* look again, whatever has changed */
    pthread_mutex_lock(&e->lock);
    if (e->backend_fd >= 0 &&
        send(e->backend_fd, &h, sizeof(h), MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof(h)) {
        log_warn_limited("export '%s': the front end could not be told of the new size", base->id);
    }
    pthread_mutex_unlock(&e->lock);
}

const ExportDriver export_driver_vhost_user_blk = {
    .name = "vhost-user-blk",
    .many_threads = true,
    .size = sizeof(VubExport),
    .create = vub_create,
    .clients = vub_clients,
    .shutdown = vub_shutdown,
    .cleanup = vub_cleanup,
    .resized = vub_resized,
};

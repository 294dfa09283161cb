/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control loop: GLib's default main context drives the queues and timers through one source.
 */
#include "loop-internal.h"
#include <errno.h>
#include <glib-unix.h>
#include <poll.h>

typedef struct ControlSource {
    GSource source;
    Loop *loop;
} ControlSource;

static gboolean source_prepare(GSource *source, gint *timeout)
{
    Loop *l = ((ControlSource *)source)->loop;
    int64_t ns = loop_timeout(l);

    *timeout = ns < 0 ? -1 : (gint)MIN((ns + 999999) / 1000000, G_MAXINT);
    return ns == 0 || loop_has_work(l);
}

static gboolean source_check(GSource *source)
{
    Loop *l = ((ControlSource *)source)->loop;

    return loop_timeout(l) == 0 || loop_has_work(l);
}

static gboolean source_dispatch(GSource *source, GSourceFunc callback, gpointer data)
{
    (void)callback;
    (void)data;
    loop_turn(((ControlSource *)source)->loop);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs source_funcs = {
    .prepare = source_prepare,
    .check = source_check,
    .dispatch = source_dispatch,
};

static bool control_init(Loop *l, Error **errp)
{
    GSource *s = g_source_new(&source_funcs, sizeof(ControlSource));

    (void)errp;
    ((ControlSource *)s)->loop = l;
    g_source_set_name(s, "cutpoint control loop");
    g_source_attach(s, NULL);
    l->impl = s;
    return true;
}

static void control_cleanup(Loop *l)
{
    g_source_destroy(l->impl);
    g_source_unref(l->impl);
}

static void control_kick(Loop *l)
{
    (void)l;
    g_main_context_wakeup(NULL);
}

typedef struct FdWait {
    Coroutine *co;
    GSource *source;
    Timer timer;
    int ret;
    bool woken;
} FdWait;

static void fd_wake(FdWait *w, int ret)
{
    if (!w->woken) {
        w->woken = true;
        w->ret = ret;
        co_wake(w->co);
    }
}

static gboolean fd_ready(gint fd, GIOCondition condition, gpointer opaque)
{
    (void)fd;
    fd_wake(opaque, condition);
    return G_SOURCE_REMOVE;
}

static void fd_timeout(void *opaque)
{
    fd_wake(opaque, 0);
}

static int coroutine_fn control_poll(int fd, short events, int64_t timeout_ns)
{
    FdWait w = {.co = co_self()};

    w.source = g_unix_fd_source_new(fd, events | G_IO_ERR | G_IO_HUP);
    g_source_set_callback(w.source, G_SOURCE_FUNC(fd_ready), &w, NULL);
    g_source_attach(w.source, NULL);
    timer_init(&w.timer, fd_timeout, &w);
    if (timeout_ns >= 0) {
        timer_arm(&w.timer, clock_ns() + timeout_ns);
    }
    co_yield();
    timer_cancel(&w.timer);
    g_source_destroy(w.source);
    g_source_unref(w.source);
    return w.ret;
}

const LoopOps loop_ops_control = {
    .backend = LOOP_CONTROL,
    .init = control_init,
    .cleanup = control_cleanup,
    .kick = control_kick,
    .preadv = blocking_preadv,
    .pwritev = blocking_pwritev,
    .fsync = blocking_fsync,
    .fallocate = blocking_fallocate,
    .ftruncate = blocking_ftruncate,
    .poll = control_poll,
};

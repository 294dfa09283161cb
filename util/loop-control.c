/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control loop: GLib's default main context drives queue and timers through one source.
 *
 * A dispatch runs what is queued when it begins, so that other sources (monitors) get their turn between
 * coroutines that keep rescheduling themselves.  The source does not recurse: a coroutine must not run a
 * main loop inside.
 */
#include "loop-internal.h"
#include <errno.h>
#include <glib-unix.h>
#include <poll.h>

typedef struct ControlSource {
    GSource source;
    Loop *loop;
} ControlSource;

/* GLib may skip prepare and check when another source is ready; it never sleeps then. */
static gboolean source_prepare(GSource *source, gint *timeout)
{
    Loop *l = ((ControlSource *)source)->loop;
    int64_t ns = loop_timeout(l);

    *timeout = ns < 0 ? -1 : (gint)MIN((ns + 999999) / 1000000, G_MAXINT);
    return !loop_prepare_sleep(l) || ns == 0;
}

static gboolean source_check(GSource *source)
{
    Loop *l = ((ControlSource *)source)->loop;

    loop_awake(l);
    return loop_has_work(l) || loop_timeout(l) == 0;
}

static gboolean source_dispatch(GSource *source, GSourceFunc callback, gpointer data)
{
    Loop *l = ((ControlSource *)source)->loop;

    (void)callback;
    (void)data;
    loop_awake(l);
    loop_run_ready(l);
    loop_run_timers(l);
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
    g_source_set_name(s, "control loop");
    g_source_attach(s, NULL);
    l->impl = s;
    return true;
}

static void control_cleanup(Loop *l)
{
    GSource *s = l->impl;

    g_source_destroy(s);
    g_source_unref(s);
}

static void control_kick(Loop *l)
{
    (void)l;
    g_main_context_wakeup(NULL);
}

/* ---- readiness ---- */

typedef struct FdWait {
    Coroutine *co;
    GSource *source;
    Timer timer;
    int ret;
} FdWait;

static void finish(FdWait *w, int ret)
{
    timer_cancel(&w->timer);
    g_source_destroy(w->source);
    w->ret = ret;
    co_wake(w->co);
}

static gboolean fd_ready(gint fd, GIOCondition condition, gpointer opaque)
{
    (void)fd;
    finish(opaque, condition & G_IO_NVAL ? -EBADF : (int)condition);
    return G_SOURCE_REMOVE;
}

static void timed_out(void *opaque)
{
    finish(opaque, 0);
}

static int coroutine_fn control_poll(int fd, short events, int64_t timeout_ns)
{
    FdWait w = {.co = co_self()};

    /* GIOCondition has poll(2)'s bits. */
    w.source = g_unix_fd_source_new(
        fd, (GIOCondition)((unsigned short)events | G_IO_ERR | G_IO_HUP | G_IO_NVAL));
    g_source_set_callback(w.source, G_SOURCE_FUNC(fd_ready), &w, NULL);
    g_source_attach(w.source, NULL);
    timer_init(&w.timer, timed_out, &w);
    if (timeout_ns >= 0) {
        timer_arm(&w.timer, clock_ns() + MIN(timeout_ns, INT64_MAX / 2));
    }
    co_yield();
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

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * I/O threads.
 *
 * The loop is made by its own thread (a ring belongs to the thread that made it); iothread_new() waits for
 * that and passes its error on.
 *
 * Lock: IOThread.lock, innermost, protects `phase` and with it what the thread hands over.
 */
#include "util/iothread.h"
#include "loop-internal.h"
#include "util/log.h"
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#define END_SECONDS 5

struct IOThread {
    char *id;
    pthread_t thread;
    Loop *loop;
    pid_t tid;
    unsigned users;
    IOThreadParams params;
    Error *err; /* why there is no loop */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum { STARTING, RUNNING, ENDED } phase;
};

static void set_phase(IOThread *t, int phase)
{
    pthread_mutex_lock(&t->lock);
    t->phase = phase;
    pthread_cond_signal(&t->changed);
    pthread_mutex_unlock(&t->lock);
}

static void *iothread_main(void *opaque)
{
    IOThread *t = opaque;
    Loop *l = loop_new_io(&t->err);

    t->loop = l;
    t->tid = gettid();
    set_phase(t, l ? RUNNING : ENDED);
    if (l) {
        loop_run(l);
        loop_free(l);
        set_phase(t, ENDED);
    }
    return NULL;
}

static void iothread_delete(IOThread *t)
{
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->lock);
    g_free(t->id);
    g_free(t);
}

/* Signals are for the control thread, but for the one that memory raises which others have taken away: who touches it must get it. */
static int start(IOThread *t)
{
    sigset_t all, old;
    int ret;

    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    ret = pthread_create(&t->thread, NULL, iothread_main, t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return ret;
}

IOThread *iothread_new(const char *id, Error **errp)
{
    IOThread *t = g_new0(IOThread, 1);
    pthread_condattr_t attr;
    char name[16];
    int ret;

    t->id = g_strdup(id);
    iothread_params_init(&t->params);
    pthread_mutex_init(&t->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&t->changed, &attr);
    pthread_condattr_destroy(&attr);
    ret = start(t);
    if (ret) {
        error_set_errno(errp, ret, id, "iothread", "Could not start a thread");
        iothread_delete(t);
        return NULL;
    }
    g_snprintf(name, sizeof(name), "IO %s", id);
    pthread_setname_np(t->thread, name);
    pthread_mutex_lock(&t->lock);
    while (t->phase == STARTING) {
        pthread_cond_wait(&t->changed, &t->lock);
    }
    pthread_mutex_unlock(&t->lock);
    if (!t->loop) {
        pthread_join(t->thread, NULL);
        error_move(errp, &t->err);
        iothread_delete(t);
        return NULL;
    }
    return t;
}

IOThread *iothread_ref(IOThread *t)
{
    t->users++;
    return t;
}

void iothread_unref(IOThread *t)
{
    g_assert(t->users > 0);
    t->users--;
}

unsigned iothread_users(const IOThread *t)
{
    return t->users;
}

static bool wait_end(IOThread *t)
{
    struct timespec limit;
    bool ended;

    clock_gettime(CLOCK_MONOTONIC, &limit);
    limit.tv_sec += END_SECONDS;
    pthread_mutex_lock(&t->lock);
    while (t->phase != ENDED && pthread_cond_timedwait(&t->changed, &t->lock, &limit) == 0) {
    }
    ended = t->phase == ENDED;
    pthread_mutex_unlock(&t->lock);
    return ended;
}

void iothread_free(IOThread *t)
{
    g_assert(t->users == 0);
    loop_stop(t->loop);
    if (!wait_end(t)) {
        log_error("I/O thread '%s' does not end: requests on it have not ended", t->id);
        pthread_detach(t->thread); /* which goes on using *t */
        return;
    }
    pthread_join(t->thread, NULL);
    iothread_delete(t);
}

const char *iothread_id(const IOThread *t)
{
    return t->id;
}

pid_t iothread_tid(const IOThread *t)
{
    return t->tid;
}

Loop *iothread_loop(const IOThread *t)
{
    return t->loop;
}

/* ---- properties ---- */

void iothread_params_init(IOThreadParams *ret_params)
{
    *ret_params = (IOThreadParams){.thread_pool_max = 64};
}

void iothread_get_params(const IOThread *t, IOThreadParams *ret_params)
{
    *ret_params = t->params;
}

bool iothread_set_params(IOThread *t, const IOThreadParams *params, Error **errp)
{
    const struct {
        const char *name;
        int64_t value;
    } positive[] = {
        {"poll-max-ns", params->poll_max_ns},
        {"poll-grow", params->poll_grow},
        {"poll-shrink", params->poll_shrink},
        {"aio-max-batch", params->aio_max_batch},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(positive); i++) {
        if (positive[i].value < 0) {
            error_set(errp, ERROR_INVALID, t->id, "iothread",
                      "%s value must be in range [0, %" PRId64 "]", positive[i].name, INT64_MAX);
            return false;
        }
    }
    if (params->thread_pool_min < 0 || params->thread_pool_max < 1 ||
        params->thread_pool_min > params->thread_pool_max || params->thread_pool_max > INT_MAX) {
        error_set(errp, ERROR_INVALID, t->id, "iothread",
                  "bad thread-pool-min/thread-pool-max values");
        return false;
    }
    t->params = *params;
    atomic_store_explicit(&t->loop->max_batch, MIN(params->aio_max_batch, UINT_MAX),
                          memory_order_relaxed);
    return true;
}

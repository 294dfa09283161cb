/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * I/O threads.
 *
 * The loop is made by its own thread (a ring belongs to the thread that made it); iothread_new() waits for that and passes its
 * error on.
 */
#include "util/iothread.h"
#include "loop-internal.h"
#include "util/log.h"
#include <errno.h>
#include <signal.h>

struct IOThread {
    char *id;
    pthread_t thread;
    Loop *loop;
    unsigned users;
    /* while starting */
    pthread_mutex_t lock;
    pthread_cond_t ready;
    bool started;
    Error *err;
};

static Loop *make_loop(Error **errp)
{
    LoopChoice choice = loop_choice();
    g_autoptr(Error) err = NULL;
    Loop *l;

    if (choice == LOOP_CHOICE_POLL) {
        return loop_new(&loop_ops_poll, errp);
    }
    l = loop_new(&loop_ops_uring, &err);
    if (l || choice == LOOP_CHOICE_IO_URING || err->kind == ERROR_LIMIT) {
        error_move(errp, &err);
        return l;
    }
    log_info("%s; using poll and worker threads", err->message);
    return loop_new(&loop_ops_poll, errp);
}

static void *iothread_main(void *opaque)
{
    IOThread *t = opaque;
    Loop *l;

    pthread_mutex_lock(&t->lock);
    l = t->loop = make_loop(&t->err);
    t->started = true;
    if (l) {
        loop_enter_thread(l);
    }
    pthread_cond_signal(&t->ready);
    pthread_mutex_unlock(&t->lock);
    if (l) {
        loop_run(l);
        loop_enter_thread(NULL);
        loop_free(l);
    }
    return NULL;
}

static void iothread_delete(IOThread *t)
{
    pthread_cond_destroy(&t->ready);
    pthread_mutex_destroy(&t->lock);
    g_free(t->id);
    g_free(t);
}

IOThread *iothread_new(const char *id, Error **errp)
{
    IOThread *t = g_new0(IOThread, 1);
    sigset_t all, old;
    char name[16];
    int ret;

    t->id = g_strdup(id);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->ready, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    ret = pthread_create(&t->thread, NULL, iothread_main, t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (ret) {
        error_set_errno(errp, ret, id, "iothread", "Could not start a thread");
        iothread_delete(t);
        return NULL;
    }
    pthread_mutex_lock(&t->lock);
    while (!t->started) {
        pthread_cond_wait(&t->ready, &t->lock);
    }
    pthread_mutex_unlock(&t->lock);
    if (!t->loop) {
        pthread_join(t->thread, NULL);
        error_move(errp, &t->err);
        iothread_delete(t);
        return NULL;
    }
    g_snprintf(name, sizeof(name), "IO %s", id);
    pthread_setname_np(t->thread, name);
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

void iothread_free(IOThread *t)
{
    g_assert(t->users == 0);
    loop_stop(t->loop);
    pthread_join(t->thread, NULL);
    iothread_delete(t);
}

const char *iothread_id(const IOThread *t)
{
    return t->id;
}

Loop *iothread_loop(const IOThread *t)
{
    return t->loop;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Worker threads: two pools of threads that come when needed and go when idle.
 *
 * Lock: each pool's, innermost.
 */
#include "util/worker.h"
#include "util/loop.h"
#include <glib.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#define IDLE_SECONDS 10

typedef struct Job {
    WorkerFn *fn;
    void (*done)(void *opaque, int value);
    void *opaque;
    struct Job *next;
} Job;

typedef struct Pool {
    pthread_mutex_t lock;
    pthread_cond_t work;
    Job *head, **tail;
    unsigned queued, threads, idle, max;
} Pool;

static Pool pools[] = {
    [WORKERS_GUEST] = {.lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER, .max = 64},
    [WORKERS_CONTROL] = {.lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER, .max = 64},
};

static Job *take(Pool *p)
{
    Job *j = p->head;

    if (j) {
        p->head = j->next;
        if (!p->head) {
            p->tail = &p->head;
        }
        p->queued--;
    }
    return j;
}

static void *worker_main(void *opaque)
{
    Pool *p = opaque;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        Job *j = take(p);
        int value;

        if (!j) {
            struct timespec limit;
            int ret;

            clock_gettime(CLOCK_REALTIME, &limit);
            limit.tv_sec += IDLE_SECONDS;
            p->idle++;
            ret = pthread_cond_timedwait(&p->work, &p->lock, &limit);
            p->idle--;
            if (ret == 0 || p->head) {
                continue;
            }
            break;
        }
        pthread_mutex_unlock(&p->lock);
        value = j->fn(j->opaque);
        if (j->done) {
            j->done(j->opaque, value);
        }
        g_free(j);
        pthread_mutex_lock(&p->lock);
    }
    p->threads--;
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static bool start_thread(Pool *p)
{
    pthread_attr_t attr;
    sigset_t all, old;
    pthread_t thread;
    int ret;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    ret = pthread_create(&thread, &attr, worker_main, p);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return ret == 0;
}

void worker_submit(WorkerPool pool, WorkerFn *fn, void (*done)(void *opaque, int value), void *opaque)
{
    Pool *p = &pools[pool];
    Job *j = g_new0(Job, 1);

    j->fn = fn;
    j->done = done;
    j->opaque = opaque;
    pthread_mutex_lock(&p->lock);
    if (!p->tail) {
        p->tail = &p->head;
    }
    *p->tail = j;
    p->tail = &j->next;
    p->queued++;
    if (p->queued > p->idle && p->threads < p->max) {
        p->threads++;
        if (!start_thread(p)) {
            p->threads--;
            if (p->threads == 0) {
                g_error("no worker thread can be started");
            }
        }
    }
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
}

void worker_set_max(WorkerPool pool, unsigned max)
{
    pthread_mutex_lock(&pools[pool].lock);
    pools[pool].max = MAX(max, 1);
    pthread_mutex_unlock(&pools[pool].lock);
}

typedef struct Run {
    WorkerFn *fn;
    void *opaque;
    Coroutine *co;
    int value;
} Run;

static int run_fn(void *opaque)
{
    Run *r = opaque;

    return r->fn(r->opaque);
}

static void run_done(void *opaque, int value)
{
    Run *r = opaque;

    r->value = value;
    co_wake(r->co);
}

int coroutine_fn worker_run(WorkerPool pool, WorkerFn *fn, void *opaque)
{
    Run r = {.fn = fn, .opaque = opaque, .co = co_self()};

    worker_submit(pool, run_fn, run_done, &r);
    co_yield();
    return r.value;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Worker threads: two pools of threads that come when they are needed and go when they were idle for a
 * while.
 *
 * A job is in its pool's queue until a thread takes it.  The job of worker_run() is on the stack of the
 * coroutine, which waits for it: nothing is allocated.  A thread is started when more jobs wait than
 * threads are idle.  Where the system has no more threads, those that there are do the work, and if
 * there is none the calling thread does: late is better than never.
 *
 * Lock: each pool's own, innermost.
 */
#include "util/worker.h"
#include "util/log.h"
#include "util/loop.h"
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#define IDLE_SECONDS 10
#define MAX_DEFAULT  64

typedef struct Job {
    struct Job *next;
    void (*run)(struct Job *job); /* job is gone when this returns */
} Job;

typedef struct Pool {
    const char *name;
    pthread_mutex_t lock;
    pthread_cond_t work;
    Job *head, **tail;
    unsigned queued, threads, idle, max;
} Pool;

static Pool pools[] = {
    [WORKERS_GUEST] = {.name = "guest worker", .max = MAX_DEFAULT},
    [WORKERS_CONTROL] = {.name = "control worker", .max = MAX_DEFAULT},
};

static void init_pools(void)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    for (unsigned i = 0; i < G_N_ELEMENTS(pools); i++) {
        pthread_mutex_init(&pools[i].lock, NULL);
        pthread_cond_init(&pools[i].work, &attr);
        pools[i].tail = &pools[i].head;
    }
    pthread_condattr_destroy(&attr);
}

static Pool *get_pool(WorkerPool pool)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, init_pools);
    return &pools[pool];
}

/* The lock is held.  NULL: time to go. */
static Job *next_job(Pool *p)
{
    struct timespec limit;
    Job *job;

    clock_gettime(CLOCK_MONOTONIC, &limit);
    limit.tv_sec += IDLE_SECONDS;
    while (!p->head && p->threads <= p->max) {
        int ret;

        p->idle++;
        ret = pthread_cond_timedwait(&p->work, &p->lock, &limit);
        p->idle--;
        if (ret && !p->head) {
            return NULL;
        }
    }
    job = p->head;
    if (job) {
        p->head = job->next;
        p->queued--;
        if (!p->head) {
            p->tail = &p->head;
        }
    }
    return job;
}

static void *worker_main(void *opaque)
{
    Pool *p = opaque;
    char name[16];
    Job *job;

    g_strlcpy(name, p->name, sizeof(name));
    pthread_setname_np(pthread_self(), name);
    pthread_mutex_lock(&p->lock);
    while ((job = next_job(p))) {
        pthread_mutex_unlock(&p->lock);
        job->run(job);
        pthread_mutex_lock(&p->lock);
    }
    p->threads--;
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Signals are for the control thread. */
static int start_thread(Pool *p)
{
    pthread_attr_t attr;
    sigset_t all, old;
    pthread_t thread;
    int ret;

    sigfillset(&all);
    sigdelset(&all, SIGBUS);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    ret = pthread_create(&thread, &attr, worker_main, p);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return ret;
}

static void submit(Pool *p, Job *job)
{
    bool inline_run = false;
    int ret = 0;

    pthread_mutex_lock(&p->lock);
    if (p->queued >= p->idle && p->threads < p->max) {
        ret = start_thread(p);
        p->threads += ret == 0;
        inline_run = p->threads == 0;
    }
    if (!inline_run) {
        job->next = NULL;
        *p->tail = job;
        p->tail = &job->next;
        p->queued++;
        pthread_cond_signal(&p->work);
    }
    pthread_mutex_unlock(&p->lock);
    if (ret) {
        log_warn_limited("could not start a %s thread: %s", p->name, g_strerror(ret));
    }
    if (inline_run) {
        job->run(job);
    }
}

void worker_set_max(WorkerPool pool, unsigned max)
{
    Pool *p = get_pool(pool);

    pthread_mutex_lock(&p->lock);
    p->max = MAX(max, 1);
    pthread_cond_broadcast(&p->work); /* those that are too many */
    pthread_mutex_unlock(&p->lock);
}

unsigned worker_threads(WorkerPool pool)
{
    Pool *p = get_pool(pool);
    unsigned n;

    pthread_mutex_lock(&p->lock);
    n = p->threads;
    pthread_mutex_unlock(&p->lock);
    return n;
}

/* ---- with a coroutine that waits ---- */

typedef struct Run {
    Job job;
    WorkerFn *fn;
    void *opaque;
    Coroutine *co;
    int value;
} Run;

static void run_and_wake(Job *job)
{
    Run *r = (Run *)job;

    r->value = r->fn(r->opaque);
    co_wake(r->co);
}

int coroutine_fn worker_run(WorkerPool pool, WorkerFn *fn, void *opaque)
{
    Run r = {.job.run = run_and_wake, .fn = fn, .opaque = opaque, .co = co_self()};

    g_assert(r.co);
    submit(get_pool(pool), &r.job);
    co_yield();
    return r.value;
}

/* ---- on its own ---- */

typedef struct Submission {
    Job job;
    WorkerFn *fn;
    void (*done)(void *opaque, int value);
    void *opaque;
} Submission;

static void run_and_free(Job *job)
{
    Submission s = *(Submission *)job;
    int value;

    g_free(job);
    value = s.fn(s.opaque);
    if (s.done) {
        s.done(s.opaque, value);
    }
}

void worker_submit(WorkerPool pool, WorkerFn *fn, void (*done)(void *opaque, int value),
                   void *opaque)
{
    Submission *s = g_new(Submission, 1);

    *s = (Submission){.job.run = run_and_free, .fn = fn, .done = done, .opaque = opaque};
    submit(get_pool(pool), &s->job);
}

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
 * Commands on many disks make many jobs at once.  On storage that answers quickly a thread for each of them is a crowd that competes for
 * the processors, with guests too, and is done later than a few would be; on storage that is slow, or does not answer, all
 * of them have to wait at the same time.  So in the control pool only `eager` threads work at once as long as no job waits longer
 * than PATIENCE.  While jobs wait and so many work, one idle thread watches: it takes the job that has waited so long,
 * and has another thread watch in its place.  A job that waits for another thread, not for storage or a processor, says so
 * (worker_wait_begin()) and does not count: many that wait for one durable write shall be served by one.
 *
 * Lock: each pool's own, innermost.
 */
#include "util/worker.h"
#include "util/log.h"
#include "util/loop.h"
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#define IDLE_SECONDS 10
#define MAX_DEFAULT  64
#define PATIENCE_NS  INT64_C(2000000)

typedef struct Job {
    struct Job *next;
    int64_t since;                /* when it was queued */
    void (*run)(struct Job *job); /* job is gone when this returns */
} Job;

typedef struct Pool {
    const char *name;
    pthread_mutex_t lock;
    pthread_cond_t work;
    Job *head, **tail;
    unsigned queued, threads, idle, max;
    unsigned waiting; /* threads whose jobs wait for other threads */
    unsigned eager;   /* threads that work at once, whether jobs have waited or not */
    bool watched;     /* by an idle thread */
} Pool;

static Pool pools[] = {
    [WORKERS_GUEST] = {.name = "guest worker", .max = MAX_DEFAULT},
    [WORKERS_CONTROL] = {.name = "control worker", .max = MAX_DEFAULT},
};

unsigned worker_eager(void)
{
    return 2 + 4 * g_get_num_processors();
}

static void init_pools(void)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    for (unsigned i = 0; i < G_N_ELEMENTS(pools); i++) {
        pthread_mutex_init(&pools[i].lock, NULL);
        pthread_cond_init(&pools[i].work, &attr);
        pools[i].tail = &pools[i].head;
        pools[i].eager = UINT_MAX;
    }
    pools[WORKERS_CONTROL].eager = worker_eager();
    pthread_condattr_destroy(&attr);
}

static Pool *get_pool(WorkerPool pool)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, init_pools);
    return &pools[pool];
}

static int start_thread(Pool *p);

static __thread Pool *own_pool; /* a worker's */

/* With the lock. */
static unsigned working(const Pool *p)
{
    return p->threads - p->idle - p->waiting;
}

/* With the lock. */
static bool crowded(const Pool *p)
{
    return working(p) >= p->eager;
}

/* With the lock; jobs wait.  Sees to it that somebody takes the last one, or watches. */
static int rouse(Pool *p)
{
    bool enough = crowded(p);
    int ret = 0;

    if (enough && p->watched) {
        return 0;
    }
    if (p->threads < p->max && (enough ? p->idle == 0 : p->queued > p->idle)) {
        ret = start_thread(p);
        p->threads += ret == 0;
    }
    pthread_cond_signal(&p->work);
    return ret;
}

/* With the lock.  The calling thread counts as one that works. */
static bool may_take(const Pool *p)
{
    return p->head && (working(p) <= p->eager || clock_ns() >= p->head->since + PATIENCE_NS);
}

/* The lock is held.  False: nobody needed us for so long. */
static bool wait_for_job(Pool *p, int64_t idle_until)
{
    bool watch = p->head && !p->watched;
    int64_t until = watch ? p->head->since + PATIENCE_NS : idle_until;
    struct timespec limit = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
    int ret;

    p->watched |= watch;
    p->idle++;
    ret = pthread_cond_timedwait(&p->work, &p->lock, &limit);
    p->idle--;
    if (watch) {
        p->watched = false;
        return true;
    }
    return !ret || p->head;
}

/* The lock is held.  NULL: time to go. */
static Job *next_job(Pool *p)
{
    int64_t idle_until = clock_ns() + IDLE_SECONDS * INT64_C(1000000000);
    Job *job;

    while (!may_take(p) && p->threads <= p->max) {
        if (!wait_for_job(p, idle_until)) {
            return NULL;
        }
    }
    job = p->head;
    if (job) {
        p->head = job->next;
        p->queued--;
        if (!p->head) {
            p->tail = &p->head;
        } else if (crowded(p)) {
            (void)rouse(p); /* it may have been us who watched */
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
    own_pool = p;
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
    job->next = NULL;
    job->since = clock_ns();
    *p->tail = job;
    p->tail = &job->next;
    p->queued++;
    ret = rouse(p);
    if (p->threads == 0) {
        /* It is the only one: who was queued before found a thread, or is gone as well. */
        p->head = NULL;
        p->tail = &p->head;
        p->queued = 0;
        inline_run = true;
    }
    pthread_mutex_unlock(&p->lock);
    if (ret) {
        log_warn_limited("could not start a %s thread: %s", p->name, g_strerror(ret));
    }
    if (inline_run) {
        job->run(job);
    }
}

void worker_wait_begin(void)
{
    Pool *p = own_pool;

    if (p) {
        pthread_mutex_lock(&p->lock);
        p->waiting++;
        if (p->head) {
            (void)rouse(p);
        }
        pthread_mutex_unlock(&p->lock);
    }
}

void worker_wait_end(void)
{
    Pool *p = own_pool;

    if (p) {
        pthread_mutex_lock(&p->lock);
        p->waiting--;
        pthread_mutex_unlock(&p->lock);
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

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pausing, cancelling and slowing down the coroutines of a job.
 *
 * Those that work are counted (active); those of them that have stopped at a point too (parked).  When all have, the job *is* paused,
 * which the control thread finds: at once when the last one stops there, by a call when it stops on an I/O thread.  A job none
 * of whose coroutines works (it waits for something) is paused at once.
 *
 * Lock: Job.lock is innermost.
 */
#include "job-internal.h"
#include "qapi-events.h"
#include "qapi-types.h"

/* Longest sleep of a worker that the speed limit slows down, ns: so long may pausing and cancelling take. */
#define NAP_NS INT64_C(50000000)

/* Control thread: makes "paused" the status if it is the truth. */
static void look(Job *j)
{
    bool all;

    pthread_mutex_lock(&j->lock);
    all = j->parked == j->active;
    pthread_mutex_unlock(&j->lock);
    if (!all || j->done || !atomic_load(&j->pause_wanted)) {
        return;
    }
    if (j->status == JOB_STATUS_RUNNING) {
        job_set_status(j, JOB_STATUS_PAUSED);
    } else if (j->status == JOB_STATUS_READY) {
        job_set_status(j, JOB_STATUS_STANDBY);
    }
}

static void look_later(void *opaque)
{
    Job *j = opaque;

    look(j);
    job_unref(j);
}

/* Any thread, lock not held. */
static void tell_control(Job *j)
{
    if (loop_is_self(loop_control())) {
        look(j);
    } else {
        atomic_fetch_add(&j->refs, 1);
        loop_call(loop_control(), look_later, j);
    }
}

bool coroutine_fn job_point(Job *j)
{
    bool last;

    while (G_UNLIKELY(atomic_load_explicit(&j->pause_wanted, memory_order_acquire))) {
        pthread_mutex_lock(&j->lock);
        last = ++j->parked == j->active;
        pthread_mutex_unlock(&j->lock);
        if (last) {
            tell_control(j);
        }
        pthread_mutex_lock(&j->lock);
        if (atomic_load(&j->pause_wanted)) {
            co_queue_wait(&j->points, &j->lock);
        }
        j->parked--;
        pthread_mutex_unlock(&j->lock);
    }
    return !job_is_cancelled(j);
}

void job_enter(Job *j)
{
    pthread_mutex_lock(&j->lock);
    j->active++;
    pthread_mutex_unlock(&j->lock);
}

void job_leave(Job *j)
{
    bool last;

    pthread_mutex_lock(&j->lock);
    last = --j->active == j->parked;
    pthread_mutex_unlock(&j->lock);
    if (last && atomic_load(&j->pause_wanted)) {
        tell_control(j);
    }
}

/* ---- control thread ---- */

void job_hold(Job *j)
{
    if (j->pause_count++ == 0) {
        atomic_store(&j->pause_wanted, true);
        look(j);
    }
}

static void go_on(Job *j)
{
    if (j->status == JOB_STATUS_PAUSED) {
        job_set_status(j, JOB_STATUS_RUNNING);
    } else if (j->status == JOB_STATUS_STANDBY) {
        job_set_status(j, JOB_STATUS_READY);
    }
    atomic_store(&j->pause_wanted, false);
    pthread_mutex_lock(&j->lock);
    co_queue_wake_all(&j->points);
    pthread_mutex_unlock(&j->lock);
    job_kick(j);
}

void job_release(Job *j)
{
    g_assert(j->pause_count > 0);
    if (--j->pause_count == 0) {
        go_on(j);
    }
}

void job_release_all(Job *j)
{
    j->pause_count = 0;
    go_on(j);
}

bool coroutine_fn job_idle(Job *j)
{
    job_leave(j);
    if (!j->kicked && !job_is_cancelled(j)) {
        j->idle = co_self();
        co_yield();
    }
    j->kicked = false;
    job_enter(j);
    return job_point(j);
}

void job_kick(Job *j)
{
    Coroutine *co = j->idle;

    j->kicked = true;
    if (co) {
        j->idle = NULL;
        co_wake(co);
    }
}

typedef struct Worker {
    Job *job;
    JobWorkerFn *fn;
    void *opaque;
    unsigned index;
    CoGroup *group;
} Worker;

static void coroutine_fn worker_main(void *opaque)
{
    Worker w = *(Worker *)opaque;

    g_free(opaque);
    w.fn(w.opaque, w.index);
    job_leave(w.job);
    co_group_done(w.group);
}

void coroutine_fn job_run_workers(Job *j, Loop *loop, unsigned n, JobWorkerFn *fn, void *opaque)
{
    CoGroup group;

    co_group_init(&group);
    co_group_add(&group, n);
    pthread_mutex_lock(&j->lock);
    j->active += n - 1; /* we stop counting */
    pthread_mutex_unlock(&j->lock);
    for (unsigned i = 0; i < n; i++) {
        Worker *w = g_new(Worker, 1);

        *w = (Worker){.job = j, .fn = fn, .opaque = opaque, .index = i, .group = &group};
        co_spawn(loop, worker_main, w);
    }
    co_group_wait(&group);
    co_group_destroy(&group);
    job_enter(j);
    job_point(j);
}

/* ---- speed ---- */

void job_change_speed(Job *j, int64_t speed)
{
    pthread_mutex_lock(&j->lock);
    atomic_store(&j->speed, speed);
    j->rate_next = clock_ns();
    pthread_mutex_unlock(&j->lock);
}

uint64_t job_piece(const Job *j, uint64_t min, uint64_t max)
{
    uint64_t speed = atomic_load(&((Job *)j)->speed), piece = max;

    while (speed && piece > min && piece > speed / 8) {
        piece /= 2;
    }
    return MAX(piece, min);
}

bool coroutine_fn job_throttle(Job *j, uint64_t bytes)
{
    for (;;) {
        int64_t wait = 0, now = clock_ns();
        uint64_t speed;

        if (!job_point(j)) {
            return false;
        }
        pthread_mutex_lock(&j->lock);
        speed = atomic_load(&j->speed);
        if (speed && j->rate_next > now) {
            wait = MIN(j->rate_next - now, NAP_NS);
        } else if (speed) {
            double cost = (double)bytes * 1e9 / (double)speed;

            j->rate_next = now + (int64_t)MIN(cost, 3600e9);
        }
        pthread_mutex_unlock(&j->lock);
        if (wait == 0) {
            return true;
        }
        co_sleep_ns(wait);
    }
}

/* ---- errors of storage ---- */

typedef struct StorageError {
    Job *job;
    JobOnError policy;
    bool is_read;
    int err;
    JobErrorAction action;
    Coroutine *co;
} StorageError;

static void decide(void *opaque)
{
    static const BlockErrorAction told[] = {
        [JOB_ACTION_REPORT] = BLOCK_ERROR_ACTION_REPORT,
        [JOB_ACTION_IGNORE] = BLOCK_ERROR_ACTION_IGNORE,
        [JOB_ACTION_STOP] = BLOCK_ERROR_ACTION_STOP,
    };
    StorageError *e = opaque;
    Job *j = e->job;

    switch (e->policy) {
    case JOB_ON_ERROR_IGNORE:
        e->action = JOB_ACTION_IGNORE;
        break;
    case JOB_ON_ERROR_STOP:
        e->action = JOB_ACTION_STOP;
        break;
    case JOB_ON_ERROR_ENOSPC:
    case JOB_ON_ERROR_AUTO:
        e->action = e->err == -ENOSPC ? JOB_ACTION_STOP : JOB_ACTION_REPORT;
        break;
    case JOB_ON_ERROR_REPORT:
        e->action = JOB_ACTION_REPORT;
        break;
    }
    if (job_is_cancelled(j) && !atomic_load(&j->soft)) {
        e->action = JOB_ACTION_REPORT;
    } else {
        qapi_event_send_block_job_error(
            j->id, e->is_read ? IO_OPERATION_TYPE_READ : IO_OPERATION_TYPE_WRITE, told[e->action]);
        if (e->action == JOB_ACTION_STOP) {
            atomic_store(&j->io_status, e->err == -ENOSPC ? BLOCK_DEVICE_IO_STATUS_NOSPACE
                                                          : BLOCK_DEVICE_IO_STATUS_FAILED);
            if (!j->user_paused) {
                j->user_paused = true;
                job_hold(j);
            }
        }
    }
    if (e->co) {
        co_wake(e->co);
    }
}

JobErrorAction coroutine_fn job_storage_error(Job *j, JobOnError policy, bool is_read, int err)
{
    StorageError e = {.job = j, .policy = policy, .is_read = is_read, .err = err};

    if (loop_is_self(loop_control())) {
        decide(&e);
    } else {
        e.co = co_self();
        loop_call(loop_control(), decide, &e);
        co_yield();
    }
    return e.action;
}

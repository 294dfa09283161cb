/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Groups of jobs (job transactions): all take their last step together, or none does.
 *
 *   every job waits           all become pending; unless one of them waits for job-finalize, all are finalized
 *   finalize                  prepare of all, then each commits, newest first
 *   one fails, is cancelled   the others are cancelled; when all have come to an end, all are concluded, newest first
 *
 * A job alone has a group of its own.
 */
#include "job-internal.h"
#include "qapi-types.h"

struct JobGroup {
    GPtrArray *jobs; /* Job *, newest first */
    unsigned refs;
    bool failed;     /* one has failed: none will succeed */
    bool concluding; /* the last step is under way */
};

static GPtrArray *waiters; /* Coroutine *: for some job's end */

JobGroup *job_group_new(void)
{
    JobGroup *g = g_new0(JobGroup, 1);

    g->jobs = g_ptr_array_new();
    return g; /* refs: those who job_group_ref() it, and its jobs */
}

JobGroup *job_group_ref(JobGroup *g)
{
    g->refs++;
    return g;
}

void job_group_unref(JobGroup *g)
{
    g_assert(g->refs > 0);
    if (--g->refs == 0 && g->jobs->len == 0) {
        g_ptr_array_free(g->jobs, true);
        g_free(g);
    }
}

void job_group_add(JobGroup *g, Job *j)
{
    g_assert(!g->failed && !g->concluding);
    g_ptr_array_insert(g->jobs, 0, j);
}

void job_group_remove(Job *j)
{
    JobGroup *g = j->group;

    j->group = NULL;
    g_ptr_array_remove(g->jobs, j);
    if (g->refs == 0 && g->jobs->len == 0) {
        g_ptr_array_free(g->jobs, true);
        g_free(g);
    }
}

static bool all_done(const JobGroup *g)
{
    for (guint i = 0; i < g->jobs->len; i++) {
        if (!((Job *)g_ptr_array_index(g->jobs, i))->done) {
            return false;
        }
    }
    return true;
}

static void coroutine_fn conclude_all(JobGroup *g)
{
    g->refs++; /* it shall not go with its last job */
    g->concluding = true;
    while (g->jobs->len > 0) {
        job_conclude(g_ptr_array_index(g->jobs, 0));
    }
    job_group_unref(g);
}

void coroutine_fn job_group_failed(JobGroup *g, Job *j)
{
    if (g->concluding) {
        return; /* who concludes sees its error */
    }
    g->failed = true;
    for (guint i = 0; i < g->jobs->len; i++) {
        Job *other = g_ptr_array_index(g->jobs, i);

        if (other->done) {
            atomic_store(&other->soft, false);
            if (other != j && !other->err) {
                atomic_store(&other->cancelled, true);
                job_set_cancelled_error(other);
            }
        } else {
            job_cancel_async(other, true);
        }
    }
    if (all_done(g)) {
        conclude_all(g);
    }
}

void coroutine_fn job_group_finalize(JobGroup *g)
{
    bool ok = true;

    g->refs++;
    for (guint i = 0; i < g->jobs->len; i++) {
        ((Job *)g_ptr_array_index(g->jobs, i))->finalizing = true;
    }
    g->concluding = true;
    for (guint i = 0; i < g->jobs->len && ok; i++) {
        Job *j = g_ptr_array_index(g->jobs, i);
        Error *err = NULL;

        if (j->driver->prepare && !j->driver->prepare(j, &err)) {
            job_fail(j, err);
            job_set_status(j, JOB_STATUS_ABORTING);
            ok = false;
        }
    }
    for (guint i = 0; i < g->jobs->len && !ok; i++) {
        Job *j = g_ptr_array_index(g->jobs, i);

        if (!j->err) {
            atomic_store(&j->cancelled, true);
            job_set_cancelled_error(j);
        }
    }
    conclude_all(g);
    job_group_unref(g);
}

void coroutine_fn job_group_waits(JobGroup *g)
{
    bool automatic = true;

    if (g->failed) {
        for (guint i = 0; i < g->jobs->len; i++) {
            Job *j = g_ptr_array_index(g->jobs, i);

            if (j->done && !j->err) {
                atomic_store(&j->cancelled, true);
                job_set_cancelled_error(j);
            }
        }
    }
    if (!all_done(g)) {
        return;
    }
    if (g->failed) {
        conclude_all(g);
        return;
    }
    for (guint i = 0; i < g->jobs->len; i++) {
        Job *j = g_ptr_array_index(g->jobs, i);

        job_set_status(j, JOB_STATUS_PENDING);
        if (!j->auto_finalize) {
            automatic = false;
            block_job_pending(j);
        }
    }
    if (automatic) {
        job_group_finalize(g);
    }
}

/* ---- shutdown ---- */

void job_wake_waiters(void)
{
    for (guint i = 0; waiters && i < waiters->len; i++) {
        co_wake(g_ptr_array_index(waiters, i));
    }
    if (waiters) {
        g_ptr_array_set_size(waiters, 0);
    }
}

void coroutine_fn job_wait_gone(const Job *j)
{
    while (j->status != JOB_STATUS_NULL) {
        if (!waiters) {
            waiters = g_ptr_array_new();
        }
        g_ptr_array_add(waiters, co_self());
        co_yield();
    }
}

static bool any_unfinished(void)
{
    GPtrArray *jobs = job_list();

    for (guint i = 0; i < jobs->len; i++) {
        if (((Job *)g_ptr_array_index(jobs, i))->status != JOB_STATUS_CONCLUDED) {
            return true;
        }
    }
    return false;
}

static void wait_timeout(void *opaque)
{
    (void)opaque;
    job_wake_waiters();
}

static void forget_concluded(void)
{
    GPtrArray *jobs = job_list();

    for (guint i = jobs->len; i-- > 0;) {
        Job *j = g_ptr_array_index(jobs, i);
        g_autoptr(Error) err = NULL;

        if (j->status == JOB_STATUS_CONCLUDED) {
            (void)job_dismiss(j, &err);
        }
    }
}

bool coroutine_fn job_cancel_all(int64_t deadline_ns)
{
    g_autoptr(GPtrArray) all = g_ptr_array_copy(job_list(), NULL, NULL);
    Timer timer;

    for (guint i = 0; i < all->len; i++) {
        atomic_fetch_add(&((Job *)g_ptr_array_index(all, i))->refs, 1);
    }
    for (guint i = 0; i < all->len; i++) {
        g_autoptr(Error) err = NULL;

        (void)job_cancel(g_ptr_array_index(all, i), true, &err); /* refused: it is ending */
        job_unref(g_ptr_array_index(all, i));
    }
    if (!waiters) {
        waiters = g_ptr_array_new();
    }
    timer_init(&timer, wait_timeout, NULL);
    while (any_unfinished() && clock_ns() < deadline_ns) {
        timer_arm(&timer, deadline_ns);
        g_ptr_array_add(waiters, co_self());
        co_yield();
    }
    timer_cancel(&timer);
    forget_concluded();
    return !any_unfinished();
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The life of a job: statuses, verbs, groups.
 *
 *   CREATED --job_start--> RUNNING <-> PAUSED            (job-point.c)
 *                          RUNNING --job_ready--> READY <-> STANDBY
 *   RUNNING, READY --run returned well--> WAITING --all of the group wait--> PENDING --finalize--> CONCLUDED --dismiss--> NULL
 *   anything up to PENDING --failed or cancelled--> ABORTING --taken back--> CONCLUDED
 *
 * What must hold
 *  J1  a status changes in set_status() only, which sends the event before anything else can happen.
 *  J2  a job is in the list from job_new() until it is dismissed, so its id stays taken while it can be asked about.
 *  J3  the functions of a driver run in its main, or in the coroutine of the command that finalizes it; never two at a time.
 *  J4  of a group either every job commits or none does.  Of those that succeed, the newest commits first.
 */
#include "job-internal.h"
#include "block/driver.h"
#include "qapi-events.h"
#include "qapi-types.h"
#include <string.h>

static GPtrArray *jobs; /* Job *, newest first */

/* ---- statuses and verbs ---- */

#define BIT(s) (1u << JOB_STATUS_##s)

static const unsigned successors[] = {
    [JOB_STATUS_UNDEFINED] = BIT(CREATED),
    [JOB_STATUS_CREATED] = BIT(RUNNING) | BIT(ABORTING) | BIT(NULL),
    [JOB_STATUS_RUNNING] = BIT(PAUSED) | BIT(READY) | BIT(WAITING) | BIT(ABORTING),
    [JOB_STATUS_PAUSED] = BIT(RUNNING),
    [JOB_STATUS_READY] = BIT(STANDBY) | BIT(WAITING) | BIT(ABORTING),
    [JOB_STATUS_STANDBY] = BIT(READY),
    [JOB_STATUS_WAITING] = BIT(PENDING) | BIT(ABORTING),
    [JOB_STATUS_PENDING] = BIT(ABORTING) | BIT(CONCLUDED),
    [JOB_STATUS_ABORTING] = BIT(ABORTING) | BIT(CONCLUDED),
    [JOB_STATUS_CONCLUDED] = BIT(NULL),
    [JOB_STATUS_NULL] = 0,
};

typedef enum Verb {
    VERB_CANCEL,
    VERB_PAUSE,
    VERB_RESUME,
    VERB_SET_SPEED,
    VERB_COMPLETE,
    VERB_FINALIZE,
    VERB_DISMISS,
    VERB_CHANGE,
} Verb;

#define AT_WORK (BIT(CREATED) | BIT(RUNNING) | BIT(PAUSED) | BIT(READY) | BIT(STANDBY))

static const struct {
    const char *name;
    unsigned accepted_by;
} verbs[] = {
    [VERB_CANCEL] = {"cancel", AT_WORK | BIT(WAITING) | BIT(PENDING)},
    [VERB_PAUSE] = {"pause", AT_WORK},
    [VERB_RESUME] = {"resume", AT_WORK},
    [VERB_SET_SPEED] = {"set-speed", AT_WORK},
    [VERB_COMPLETE] = {"complete", BIT(READY) | BIT(STANDBY)},
    [VERB_FINALIZE] = {"finalize", BIT(PENDING)},
    [VERB_DISMISS] = {"dismiss", BIT(CONCLUDED)},
    [VERB_CHANGE] = {"change", AT_WORK},
};

static bool accepts(const Job *j, Verb v, Error **errp)
{
    if ((verbs[v].accepted_by >> j->status & 1) && !j->finalizing) {
        return true;
    }
    error_set(errp, ERROR_INVALID, j->id, verbs[v].name,
              "Job '%s' in state '%s' cannot accept command verb '%s'", j->id,
              qapi_enum_JobStatus(j->status), verbs[v].name);
    return false;
}

void job_set_status(Job *j, int status)
{
    g_assert(successors[j->status] >> status & 1);
    if (j->status != status) {
        j->status = status;
        if (j->unseen) {
            return;
        }
        qapi_event_send_job_status_change(j->id, status);
    }
}

/* ---- finding, making, freeing ---- */

Job *job_find(const char *id)
{
    for (guint i = 0; jobs && i < jobs->len; i++) {
        Job *j = g_ptr_array_index(jobs, i);

        if (!j->unseen && strcmp(j->id, id) == 0) {
            return j;
        }
    }
    return NULL;
}

GPtrArray *job_list(void)
{
    if (!jobs) {
        jobs = g_ptr_array_new();
    }
    return jobs;
}

static bool check_args(const JobArgs *args, Error **errp)
{
    const char *id = args->id ? args->id : "";
    bool good = g_ascii_isalpha(id[0]);

    for (const char *p = id; good && *p; p++) {
        good = g_ascii_isalnum(*p) || strchr("-._", *p);
    }
    if (!good) {
        error_set(errp, ERROR_INVALID, id, "job", "Invalid job ID '%s'", id);
    } else if (job_find(id)) {
        error_set(errp, ERROR_EXISTS, id, "job", "Job ID '%s' already in use", id);
        good = false;
    } else if (args->speed < 0) {
        error_set(errp, ERROR_INVALID, id, "job", "Parameter 'speed' expects a non-negative value");
        good = false;
    }
    return good;
}

Job *job_new(const JobDriver *driver, const JobArgs *args, Error **errp)
{
    Job *j;

    if (!args->unseen && !check_args(args, errp)) {
        return NULL;
    }
    j = g_malloc0(driver->size);
    j->driver = driver;
    j->unseen = args->unseen;
    j->id = j->unseen ? g_strdup("#unseen") : g_strdup(args->id);
    j->auto_finalize = !args->manual_finalize;
    j->auto_dismiss = !args->manual_dismiss;
    j->edges = g_ptr_array_new();
    atomic_init(&j->refs, 1);
    atomic_init(&j->speed, args->speed);
    pthread_mutex_init(&j->lock, NULL);
    co_queue_init(&j->points);
    j->group = args->group ? args->group : job_group_new();
    job_group_add(j->group, j);
    g_ptr_array_insert(job_list(), 0, j);
    job_set_status(j, JOB_STATUS_CREATED);
    return j;
}

void job_ref(Job *j)
{
    atomic_fetch_add(&j->refs, 1);
}

void job_unref(Job *j)
{
    if (atomic_fetch_sub(&j->refs, 1) > 1) {
        return;
    }
    g_assert(j->edges->len == 0 && !j->group);
    if (j->driver->free) {
        j->driver->free(j);
    }
    g_ptr_array_free(j->edges, true);
    pthread_mutex_destroy(&j->lock);
    error_free(j->err);
    g_free(j->id);
    g_free(j);
}

static void forget(Job *j)
{
    job_set_status(j, JOB_STATUS_NULL);
    g_ptr_array_remove(jobs, j);
    job_unref(j);
    job_wake_waiters();
}

/* ---- the end ---- */

void job_fail(Job *j, Error *err)
{
    if (j->err) {
        error_free(err);
    } else {
        j->err = err;
    }
}

void job_set_cancelled_error(Job *j)
{
    if (!j->err) {
        error_set(&j->err, ERROR_CANCELLED, j->id, "cancel", "%s", g_strerror(ECANCELED));
    }
}

void coroutine_fn job_conclude(Job *j)
{
    const JobDriver *d = j->driver;
    bool failed = j->err;

    j->finalizing = true;
    if (failed) {
        if (j->status != JOB_STATUS_ABORTING) {
            job_set_status(j, JOB_STATUS_ABORTING);
        }
        if (d->abort) {
            d->abort(j);
        }
    } else if (d->commit) {
        d->commit(j);
    }
    if (d->clean) {
        d->clean(j);
    }
    job_remove_nodes(j);
    job_group_remove(j);
    block_job_ended(j);
    j->finalizing = false;
    job_set_status(j, JOB_STATUS_CONCLUDED);
    if (j->auto_dismiss) {
        forget(j);
    } else {
        job_wake_waiters();
    }
}

static void coroutine_fn job_main(void *opaque)
{
    Job *j = opaque;
    Error *err = NULL;
    bool ok = job_point(j) && j->driver->run(j, &err);

    j->done = true;
    if (job_is_cancelled(j) && !atomic_load(&j->soft)) {
        error_free(err);
        job_set_cancelled_error(j);
    } else if (!ok) {
        job_fail(j, err);
    }
    if (j->err) {
        job_set_status(j, JOB_STATUS_ABORTING);
        job_group_failed(j->group, j);
    } else {
        job_set_status(j, JOB_STATUS_WAITING);
        job_group_waits(j->group);
    }
}

void job_start(Job *j)
{
    job_set_status(j, JOB_STATUS_RUNNING);
    job_enter(j);
    co_spawn(loop_control(), job_main, j);
}

void coroutine_fn job_discard(Job *j)
{
    g_assert(j->status == JOB_STATUS_CREATED);
    j->auto_dismiss = true;
    j->done = true;
    job_set_cancelled_error(j);
    job_set_status(j, JOB_STATUS_ABORTING);
    job_remove_nodes(j);
    job_group_remove(j);
    job_set_status(j, JOB_STATUS_CONCLUDED);
    forget(j);
}

void coroutine_fn job_drop(Job *j)
{
    g_assert(j->status == JOB_STATUS_CREATED);
    job_remove_nodes(j);
    job_group_remove(j);
    forget(j);
}

/* ---- verbs ---- */

bool job_pause(Job *j, Error **errp)
{
    if (!accepts(j, VERB_PAUSE, errp)) {
        return false;
    }
    if (j->user_paused) {
        error_set(errp, ERROR_INVALID, j->id, "pause", "Job is already paused");
        return false;
    }
    j->user_paused = true;
    job_hold(j);
    return true;
}

bool job_resume(Job *j, Error **errp)
{
    if (j->pause_count == 0 || !j->user_paused) {
        error_set(errp, ERROR_INVALID, j->id, "resume", "Can't resume a job that was not paused");
        return false;
    }
    if (!accepts(j, VERB_RESUME, errp)) {
        return false;
    }
    atomic_store(&j->io_status, BLOCK_DEVICE_IO_STATUS_OK);
    j->user_paused = false;
    job_release(j);
    return true;
}

/* A target that is waited for keeps a cancelled job, for nothing.  Some jobs write by their filter's edge and hold the target by one of their own. */
static void stop_waiting_for_targets(const Job *j)
{
    for (guint i = 0; i < j->edges->len; i++) {
        const Edge *e = g_ptr_array_index(j->edges, i);
        bool written = (e->perm & PERM_WRITE) || strcmp(e->name, "target") == 0;

        for (Node *n = written ? e->target : NULL; n; n = n->file ? n->file->target : NULL) {
            if (n->driver->stop_waiting) {
                n->driver->stop_waiting(n);
            }
        }
    }
}

void job_cancel_async(Job *j, bool force)
{
    if (!force && j->driver->soft_cancel && j->driver->soft_cancel(j)) {
        atomic_store(&j->soft, true);
    } else {
        atomic_store(&j->soft, false);
    }
    atomic_store(&j->io_status, BLOCK_DEVICE_IO_STATUS_OK);
    j->user_paused = false;
    j->ending = true;
    atomic_store(&j->cancelled, true);
    if (!atomic_load(&j->soft)) {
        stop_waiting_for_targets(j);
    }
    job_release_all(j);
}

bool coroutine_fn job_cancel(Job *j, bool force, Error **errp)
{
    if (!accepts(j, VERB_CANCEL, errp)) {
        return false;
    }
    if (j->done) {
        atomic_store(&j->soft, false);
        atomic_store(&j->cancelled, true);
        job_set_cancelled_error(j);
        job_group_failed(j->group, j);
    } else {
        job_cancel_async(j, force);
    }
    return true;
}

bool job_complete(Job *j, Error **errp)
{
    if (!accepts(j, VERB_COMPLETE, errp)) {
        return false;
    }
    if (job_is_cancelled(j) || !j->driver->complete) {
        error_set(errp, ERROR_INVALID, j->id, "complete",
                  "The active block job '%s' cannot be completed", j->id);
        return false;
    }
    j->ending = j->driver->complete(j, errp);
    return j->ending;
}

bool coroutine_fn job_finalize(Job *j, Error **errp)
{
    if (!accepts(j, VERB_FINALIZE, errp)) {
        return false;
    }
    job_group_finalize(j->group);
    return true;
}

bool job_dismiss(Job *j, Error **errp)
{
    if (!accepts(j, VERB_DISMISS, errp)) {
        return false;
    }
    forget(j);
    return true;
}

bool job_set_speed(Job *j, int64_t speed, Error **errp)
{
    if (!accepts(j, VERB_SET_SPEED, errp)) {
        return false;
    }
    if (speed < 0) {
        error_set(errp, ERROR_INVALID, j->id, "set-speed",
                  "Parameter 'speed' expects a non-negative value");
        return false;
    }
    job_change_speed(j, speed);
    return true;
}

bool job_change(Job *j, const BlockJobChangeOptions *o, Error **errp)
{
    if (!accepts(j, VERB_CHANGE, errp)) {
        return false;
    }
    if (!j->driver->change) {
        error_set(errp, ERROR_UNSUPPORTED, j->id, "change", "Job type does not support change");
        return false;
    }
    if ((int)o->type != job_type(j)) {
        error_set(errp, ERROR_INVALID, j->id, "change", "Job '%s' is '%s' job, expected '%s'",
                  j->id, qapi_enum_JobType(job_type(j)), qapi_enum_JobType(o->type));
        return false;
    }
    return j->driver->change(j, o, errp);
}

/* ---- ready ---- */

void job_ready(Job *j)
{
    job_set_status(j, JOB_STATUS_READY);
    block_job_ready(j);
}

bool job_is_ready(const Job *j)
{
    return j->status == JOB_STATUS_READY || j->status == JOB_STATUS_STANDBY;
}

/* ---- queries ---- */

JobInfoList *job_query(void)
{
    JobInfoList *list = NULL, **tail = &list;

    for (guint i = 0; i < job_list()->len; i++) {
        Job *j = g_ptr_array_index(jobs, i);
        JobInfo *info;

        if (j->unseen) {
            continue;
        }
        info = g_new0(JobInfo, 1);
        info->id = g_strdup(j->id);
        info->type = job_type(j);
        info->status = j->status;
        info->current_progress = atomic_load(&j->progress);
        info->total_progress = atomic_load(&j->total);
        info->error = j->err ? g_strdup(j->err->message) : NULL;
        *tail = g_new0(JobInfoList, 1);
        (*tail)->value = info;
        tail = &(*tail)->next;
    }
    return list;
}

int job_type(const Job *j)
{
    static const int types[] = {
        [JOB_COMMIT] = JOB_TYPE_COMMIT, [JOB_STREAM] = JOB_TYPE_STREAM,
        [JOB_CREATE] = JOB_TYPE_CREATE, [JOB_MIRROR] = JOB_TYPE_MIRROR,
        [JOB_BACKUP] = JOB_TYPE_BACKUP,
    };

    return types[j->driver->kind];
}

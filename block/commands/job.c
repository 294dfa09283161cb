/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commands about jobs: the family job-*, and block-job-*, which is older and knows only jobs that work on nodes.
 */
#include "block/job.h"
#include "qapi-commands.h"

static Job *find_job(const char *id, Error **errp)
{
    Job *j = job_find(id);

    if (!j) {
        error_set(errp, ERROR_NOT_FOUND, id, "job", "Job not found");
    }
    return j;
}

static Job *find_block_job(const char *id, Error **errp)
{
    Job *j = job_find(id);

    if (!j || !j->driver->block_job) {
        error_set_class(errp, ERROR_CLASS_DEVICE_NOT_ACTIVE, ERROR_NOT_FOUND, id, "job",
                        "Block job '%s' not found", id);
        return NULL;
    }
    return j;
}

/* ---- job-* ---- */

bool coroutine_fn qmp_job_pause(const JobPauseArg *arg, Error **errp)
{
    Job *j = find_job(arg->id, errp);

    return j && job_pause(j, errp);
}

bool coroutine_fn qmp_job_resume(const JobResumeArg *arg, Error **errp)
{
    Job *j = find_job(arg->id, errp);

    return j && job_resume(j, errp);
}

bool coroutine_fn qmp_job_cancel(const JobCancelArg *arg, Error **errp)
{
    Job *j = find_job(arg->id, errp);

    return j && job_cancel(j, true, errp);
}

bool coroutine_fn qmp_job_complete(const JobCompleteArg *arg, Error **errp)
{
    Job *j = find_job(arg->id, errp);

    return j && job_complete(j, errp);
}

bool coroutine_fn qmp_job_dismiss(const JobDismissArg *arg, Error **errp)
{
    Job *j = find_job(arg->id, errp);

    return j && job_dismiss(j, errp);
}

bool coroutine_fn qmp_job_finalize(const JobFinalizeArg *arg, Error **errp)
{
    Job *j = find_job(arg->id, errp);

    return j && job_finalize(j, errp);
}

bool coroutine_fn qmp_query_jobs(JobInfoList **ret_out, Error **errp)
{
    (void)errp;
    *ret_out = job_query();
    return true;
}

/* ---- block-job-* ---- */

bool coroutine_fn qmp_query_block_jobs(BlockJobInfoList **ret_out, Error **errp)
{
    (void)errp;
    *ret_out = job_query_block();
    return true;
}

bool coroutine_fn qmp_block_job_set_speed(const BlockJobSetSpeedArg *arg, Error **errp)
{
    Job *j = find_block_job(arg->device, errp);

    return j && job_set_speed(j, arg->speed, errp);
}

bool coroutine_fn qmp_block_job_cancel(const BlockJobCancelArg *arg, Error **errp)
{
    Job *j = find_block_job(arg->device, errp);
    bool force = arg->has_force && arg->force;

    if (j && j->user_paused && !force) {
        error_set(errp, ERROR_BUSY, j->id, "cancel",
                  "The block job for device '%s' is currently paused", arg->device);
        return false;
    }
    return j && job_cancel(j, force, errp);
}

bool coroutine_fn qmp_block_job_pause(const BlockJobPauseArg *arg, Error **errp)
{
    Job *j = find_block_job(arg->device, errp);

    return j && job_pause(j, errp);
}

bool coroutine_fn qmp_block_job_resume(const BlockJobResumeArg *arg, Error **errp)
{
    Job *j = find_block_job(arg->device, errp);

    return j && job_resume(j, errp);
}

bool coroutine_fn qmp_block_job_complete(const BlockJobCompleteArg *arg, Error **errp)
{
    Job *j = find_block_job(arg->device, errp);

    return j && job_complete(j, errp);
}

bool coroutine_fn qmp_block_job_dismiss(const BlockJobDismissArg *arg, Error **errp)
{
    Job *j = find_block_job(arg->id, errp);

    return j && job_dismiss(j, errp);
}

bool coroutine_fn qmp_block_job_finalize(const BlockJobFinalizeArg *arg, Error **errp)
{
    Job *j = find_block_job(arg->id, errp);

    return j && job_finalize(j, errp);
}

bool coroutine_fn qmp_block_job_change(const BlockJobChangeOptions *arg, Error **errp)
{
    Job *j = find_block_job(arg->id, errp);

    return j && job_change(j, arg, errp);
}

/* ---- blockdev-create ---- */

bool coroutine_fn qmp_blockdev_create(const BlockdevCreateArg *arg, Error **errp)
{
    return job_create_start(arg->job_id, arg->options, errp);
}

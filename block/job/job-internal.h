/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of the job core share; private to block/job/.
 */
#ifndef BLOCK_JOB_JOB_INTERNAL_H
#define BLOCK_JOB_JOB_INTERNAL_H

#include "block/job.h"

/* ---- job.c ---- */

/* Newest first. */
GPtrArray *job_list(void);
/* Moves to a successor of the present status and sends the event. */
void job_set_status(Job *j, int status);
void job_ref(Job *j);
void job_unref(Job *j);
/* Takes err; the first one counts. */
void job_fail(Job *j, Error *err);
void job_set_cancelled_error(Job *j);
/* Commits or aborts (by j->err), cleans up, concludes; may free j. */
void coroutine_fn job_conclude(Job *j);
/* The job will find itself cancelled. */
void job_cancel_async(Job *j, bool force);
/* JobType of the schema. */
int job_type(const Job *j);

/* ---- job-point.c ---- */

/* One more reason to be paused / one less / none any more. */
void job_hold(Job *j);
void job_release(Job *j);
void job_release_all(Job *j);
/* The caller begins / ends to count as working. */
void job_enter(Job *j);
void job_leave(Job *j);
void job_change_speed(Job *j, int64_t speed);

/* ---- job-group.c ---- */

void job_group_add(JobGroup *g, Job *j);
void job_group_remove(Job *j);
/* A job has succeeded: goes on if all have. */
void coroutine_fn job_group_waits(JobGroup *g);
/* All take their last step. */
void coroutine_fn job_group_finalize(JobGroup *g);
/* j has failed (j->err): all others are cancelled, and all are concluded. */
void coroutine_fn job_group_failed(JobGroup *g, Job *j);
void job_wake_waiters(void);
/* Returns when the job, which the caller has a reference to, is in no list any more. */
void coroutine_fn job_wait_gone(const Job *j);

/* ---- block-job.c ---- */

void block_job_ready(Job *j);
void block_job_pending(Job *j);
void block_job_ended(Job *j);

#endif

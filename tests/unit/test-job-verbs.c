/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Every verb in every status: which are accepted, and what is said of the others.
 *
 * A job is really brought into the status each time, by what brings jobs there: its driver does what the test says (ready; end), pauses, a job of
 * the same group that is not done yet.  The status null is nothing that a verb can meet: the job is no longer found.
 */
#include "block/job/job-internal.h"
#include "node-test.h"
#include "qapi-types.h"

typedef struct TestJob {
    Job job;
    bool ready, end; /* what its run shall do next */
} TestJob;

static bool coroutine_fn run(Job *j, Error **errp)
{
    TestJob *t = (TestJob *)j;

    (void)errp;
    while (!t->end && !job_is_cancelled(j)) {
        if (t->ready) {
            t->ready = false;
            job_ready(j);
        }
        job_idle(j);
    }
    return true;
}

static bool complete(Job *j, Error **errp)
{
    (void)errp;
    ((TestJob *)j)->end = true;
    job_kick(j);
    return true;
}

/* In the midst of its end. */
static void coroutine_fn abort_try_verbs(Job *j);

static const JobDriver driver = {
    .kind = JOB_CREATE,
    .size = sizeof(TestJob),
    .run = run,
    .complete = complete,
};
static const JobDriver aborting_driver = {
    .kind = JOB_CREATE,
    .size = sizeof(TestJob),
    .run = run,
    .abort = abort_try_verbs,
};

/* ---- verbs ---- */

static bool coroutine_fn cancel(Job *j, Error **errp)
{
    return job_cancel(j, true, errp);
}

static bool set_speed(Job *j, Error **errp)
{
    return job_set_speed(j, 1000, errp);
}

typedef enum Verb { CANCEL, PAUSE, RESUME, SET_SPEED, COMPLETE, FINALIZE, DISMISS, VERBS } Verb;

static const struct {
    const char *name;
    bool coroutine_fn (*call)(Job *j, Error **errp);
} verbs[VERBS] = {
    [CANCEL] = {"cancel", cancel},           [PAUSE] = {"pause", job_pause},
    [RESUME] = {"resume", job_resume},       [SET_SPEED] = {"set-speed", set_speed},
    [COMPLETE] = {"complete", job_complete}, [FINALIZE] = {"finalize", job_finalize},
    [DISMISS] = {"dismiss", job_dismiss},
};

/* ---- statuses ---- */

typedef struct Scene {
    Job *job;
    Job *other; /* of its group, at work; NULL: none */
} Scene;

static Job *new_job(const char *id, JobGroup *group)
{
    JobArgs args = {.id = id, .manual_finalize = true, .manual_dismiss = true, .group = group};
    g_autoptr(Error) err = NULL;
    Job *j = job_new(&driver, &args, &err);

    g_assert_nonnull(j);
    return j;
}

/* Lets everybody run who can. */
static void coroutine_fn settle(void)
{
    for (int i = 0; i < 10; i++) {
        co_reschedule();
    }
}

static void coroutine_fn end(Job *j)
{
    ((TestJob *)j)->end = true;
    job_kick(j);
    settle();
}

static void coroutine_fn be_created(Scene *s)
{
    s->job = new_job("j", NULL);
}

static void coroutine_fn be_running(Scene *s)
{
    be_created(s);
    job_start(s->job);
    settle();
}

static void coroutine_fn pause_it(Scene *s)
{
    g_autoptr(Error) err = NULL;

    g_assert_true(job_pause(s->job, &err));
    settle();
}

static void coroutine_fn be_paused(Scene *s)
{
    be_running(s);
    pause_it(s);
}

static void coroutine_fn be_ready(Scene *s)
{
    be_running(s);
    ((TestJob *)s->job)->ready = true;
    job_kick(s->job);
    settle();
}

static void coroutine_fn be_standby(Scene *s)
{
    be_ready(s);
    pause_it(s);
}

static void coroutine_fn be_waiting(Scene *s)
{
    JobGroup *g = job_group_new();

    s->job = new_job("j", g);
    s->other = new_job("other", g);
    job_start(s->job);
    job_start(s->other);
    settle();
    end(s->job);
}

static void coroutine_fn be_pending(Scene *s)
{
    be_running(s);
    end(s->job);
}

static void coroutine_fn be_concluded(Scene *s)
{
    g_autoptr(Error) err = NULL;

    be_pending(s);
    g_assert_true(job_finalize(s->job, &err));
    settle();
}

#define V(verb) (1u << (verb))
#define AT_WORK (V(CANCEL) | V(PAUSE) | V(RESUME) | V(SET_SPEED))

/* As QEMU's.  Resuming what is not paused is refused with a text of its own, whatever the status is. */
static const struct {
    int status;
    void coroutine_fn (*enter)(Scene *s);
    bool paused;
    unsigned accepted;
} table[] = {
    {JOB_STATUS_CREATED, be_created, false, AT_WORK},
    {JOB_STATUS_RUNNING, be_running, false, AT_WORK},
    {JOB_STATUS_PAUSED, be_paused, true, AT_WORK},
    {JOB_STATUS_READY, be_ready, false, AT_WORK | V(COMPLETE)},
    {JOB_STATUS_STANDBY, be_standby, true, AT_WORK | V(COMPLETE)},
    {JOB_STATUS_WAITING, be_waiting, false, V(CANCEL)},
    {JOB_STATUS_PENDING, be_pending, false, V(CANCEL) | V(FINALIZE)},
    {JOB_STATUS_CONCLUDED, be_concluded, false, V(DISMISS)},
};

static void coroutine_fn try_verb(Job *j, Verb v, bool paused, bool accepted)
{
    const char *status = qapi_enum_JobStatus(j->status);
    g_autofree char *refusal = g_strdup_printf(
        "Job '%s' in state '%s' cannot accept command verb '%s'", j->id, status, verbs[v].name);
    g_autoptr(Error) err = NULL;
    int before = j->status;
    bool ok;

    g_test_message("%s, %s", status, verbs[v].name);
    ok = verbs[v].call(j, &err);
    if (v == RESUME && !paused) {
        g_assert_false(ok);
        g_assert_cmpstr(err->message, ==, "Can't resume a job that was not paused");
    } else if (v == PAUSE && paused) {
        g_assert_false(ok);
        g_assert_cmpstr(err->message, ==, "Job is already paused");
    } else if (accepted) {
        g_assert_true(ok);
        return;
    } else {
        g_assert_false(ok);
        g_assert_cmpstr(err->message, ==, refusal);
    }
    g_assert_cmpint(j->status, ==, before);
}

/* Whatever has become of it. */
static void coroutine_fn finish(const char *id)
{
    g_autoptr(Error) err = NULL;
    Job *j = job_find(id);

    if (j && j->status == JOB_STATUS_CREATED) {
        job_discard(j);
        return;
    }
    if (j && j->status != JOB_STATUS_CONCLUDED) {
        /* Refused: it is ending. */
        (void)job_cancel(j, true, &err);
        settle();
    }
    if (j) {
        g_autoptr(Error) none = NULL;

        g_assert_true(job_dismiss(j, &none));
    }
    g_assert_null(job_find(id));
}

static void coroutine_fn test_table(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        for (Verb v = 0; v < VERBS; v++) {
            Scene s = {0};

            table[i].enter(&s);
            g_assert_cmpstr(qapi_enum_JobStatus(s.job->status), ==,
                            qapi_enum_JobStatus(table[i].status));
            try_verb(s.job, v, table[i].paused, table[i].accepted & V(v));
            settle();
            finish("other");
            finish("j");
        }
    }
}

/* What accepted verbs lead to. */
static void coroutine_fn test_effects(void)
{
    g_autoptr(Error) err = NULL;
    Scene s = {0};

    be_standby(&s);
    g_assert_true(job_resume(s.job, &err));
    settle();
    g_assert_cmpint(s.job->status, ==, JOB_STATUS_READY);
    g_assert_true(job_complete(s.job, &err));
    settle();
    g_assert_cmpint(s.job->status, ==, JOB_STATUS_PENDING);
    g_assert_true(job_cancel(s.job, false, &err));
    settle();
    g_assert_cmpint(s.job->status, ==, JOB_STATUS_CONCLUDED);
    g_assert_cmpstr(s.job->err->message, ==, "Operation canceled");
    g_assert_true(job_dismiss(s.job, &err));
    g_assert_null(job_find("j"));
}

/* ---- aborting ---- */

static unsigned aborts;

static void coroutine_fn abort_try_verbs(Job *j)
{
    g_assert_cmpint(j->status, ==, JOB_STATUS_ABORTING);
    for (Verb v = 0; v < VERBS; v++) {
        try_verb(j, v, false, false);
    }
    aborts++;
}

static void coroutine_fn test_aborting(void)
{
    JobArgs args = {.id = "j", .manual_dismiss = true};
    g_autoptr(Error) err = NULL;
    Job *j = job_new(&aborting_driver, &args, &err);

    g_assert_nonnull(j);
    job_start(j);
    settle();
    g_assert_true(job_cancel(j, true, &err));
    settle();
    g_assert_cmpint(aborts, ==, 1);
    finish("j");
}

int main(int argc, char **argv)
{
    int ret;

    node_test_init();
    g_test_init(&argc, &argv, NULL);
    node_test_add("/job-verbs/table", test_table);
    node_test_add("/job-verbs/aborting", test_aborting);
    node_test_add("/job-verbs/effects", test_effects);
    ret = g_test_run();
    node_test_end();
    return ret;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Jobs: work that goes on after the reply of the command that began it.
 *
 * Words
 *  status     as in QMP (JobStatus): created, running, paused, ready, standby, waiting, pending, aborting, concluded, null.
 *  verb       a command to a job; which status accepts which verb says the table in block/job/job.c.
 *  main       the job's coroutine on the control thread; it runs the driver's functions and does all changes of the graph.
 *  worker     a coroutine that the main starts on an I/O thread to carry data.
 *  point      where a main or a worker stops while the job is paused, and learns that it is cancelled: job_point().
 *  idle       a main that waits for something else than its own work does not count for "has everybody stopped?".
 *  group      a job transaction: jobs that finalize together or not at all.
 *
 * Every change of the status sends JOB_STATUS_CHANGE at once, from the control thread: events are in order with replies.
 *
 * Functions belong to the control thread unless they say otherwise.
 */
#ifndef BLOCK_JOB_H
#define BLOCK_JOB_H

#include "block/node.h"
#include "util/co-lock.h"

typedef struct Job Job;
typedef struct JobGroup JobGroup;
struct BlockJobChangeOptions;
struct BlockJobInfo;
struct BlockJobInfoList;
struct JobInfoList;

typedef enum JobKind {
    JOB_COMMIT,
    JOB_STREAM,
    JOB_CREATE,
    JOB_MIRROR,
    JOB_BACKUP,
} JobKind;

/* What to do about an error of storage; as BlockdevOnError. */
typedef enum JobOnError {
    JOB_ON_ERROR_REPORT,
    JOB_ON_ERROR_IGNORE,
    JOB_ON_ERROR_ENOSPC,
    JOB_ON_ERROR_STOP,
    JOB_ON_ERROR_AUTO,
} JobOnError;
typedef enum JobErrorAction {
    JOB_ACTION_REPORT, /* the job ends with the error */
    JOB_ACTION_IGNORE, /* go on */
    JOB_ACTION_STOP,   /* the job is being paused: stop at the next point, then try again */
} JobErrorAction;

/* What a kind of job provides; all but run may be NULL.  Coroutines of the control thread, in this order: run; then, if it succeeded and so did
 * the rest of the group, prepare; then commit, or abort if anything failed or the job was cancelled; then clean. */
typedef struct JobDriver {
    JobKind kind;
    size_t size;    /* of the structure that begins with Job */
    bool block_job; /* BLOCK_JOB_* events, query-block-jobs, block-job-* commands */
    /* The work.  True also after a cancel that the driver took as "end here" (soft). */
    bool coroutine_fn (*run)(Job *j, Error **errp);
    bool coroutine_fn (*prepare)(Job *j, Error **errp);
    void coroutine_fn (*commit)(Job *j);
    void coroutine_fn (*abort)(Job *j);
    void coroutine_fn (*clean)(Job *j);
    /* Verb complete.  NULL: "The active block job '…' cannot be completed". */
    bool (*complete)(Job *j, Error **errp);
    /* Is a cancel without force one that the job can end well with?  NULL: never. */
    bool (*soft_cancel)(Job *j);
    /* Verb change.  NULL: "Job type does not support change". */
    bool (*change)(Job *j, const struct BlockJobChangeOptions *o, Error **errp);
    /* Fills in what query-block-jobs tells of this kind only. */
    void (*query)(const Job *j, struct BlockJobInfo *info);
    void (*free)(Job *j); /* memory of its own */
} JobDriver;

struct Job {
    const JobDriver *driver;
    char *id;
    int status; /* JobStatus of the schema */
    bool auto_finalize, auto_dismiss;
    bool unseen;
    bool finalizing; /* prepare .. clean: no verbs */
    bool done;       /* run has returned */
    bool ending;     /* told to complete, or cancelled: soon it gives up its nodes */
    bool user_paused;
    unsigned pause_count;
    JobGroup *group;
    Error *err;       /* why it failed; set: it did */
    GPtrArray *edges; /* Edge *: nodes it holds */
    Coroutine *idle;  /* main, in job_idle() */
    bool kicked;
    _Atomic unsigned refs;
    /* ---- any thread ---- */
    _Atomic bool pause_wanted, cancelled;
    _Atomic bool soft;                /* cancelled, but to end well */
    _Atomic uint64_t progress, total; /* bytes, or steps */
    _Atomic int io_status;            /* BlockDeviceIoStatus */
    _Atomic int64_t speed;            /* bytes a second, 0: no limit */
    pthread_mutex_t lock;             /* innermost */
    unsigned active,
        parked;        /* under lock: coroutines that work, and how many of them have stopped */
    CoQueue points;    /* under lock */
    int64_t rate_next; /* under lock: clock_ns() from which the next piece may go */
};

typedef struct JobArgs {
    const char *id; /* NULL: there is no default: an error */
    int64_t speed;  /* negative: "Parameter 'speed' expects a non-negative value" */
    bool manual_finalize, manual_dismiss;
    JobGroup *group; /* NULL: one of its own */
    bool unseen;     /* in no query, without events, no verb finds it; it has a name of its own */
} JobArgs;

/* ---- life ---- */

/* A job in status created.  Errors: "Invalid job ID '…'", "Job ID '…' already in use". */
Job *job_new(const JobDriver *driver, const JobArgs *args, Error **errp);
/* Status running; its main begins when the caller yields. */
void job_start(Job *j);
/* For a job that was not started: created -> aborting -> concluded -> null; frees it. */
void coroutine_fn job_discard(Job *j);
/* For a job that could not be set up: created -> null; frees it. */
void coroutine_fn job_drop(Job *j);
Job *job_find(const char *id);
/* Cancels all jobs and waits for their ends, at most until clock_ns() passes the deadline.  False: one has not ended. */
bool coroutine_fn job_cancel_all(int64_t deadline_ns);

JobGroup *job_group_new(void);
JobGroup *job_group_ref(JobGroup *g);
void job_group_unref(JobGroup *g);

/* ---- verbs ---- */

bool job_pause(Job *j, Error **errp);
bool job_resume(Job *j, Error **errp);
bool coroutine_fn job_cancel(Job *j, bool force, Error **errp);
bool job_complete(Job *j, Error **errp);
bool coroutine_fn job_finalize(Job *j, Error **errp);
bool job_dismiss(Job *j, Error **errp);
bool job_set_speed(Job *j, int64_t speed, Error **errp);
bool job_change(Job *j, const struct BlockJobChangeOptions *o, Error **errp);

/* ---- for drivers: main ---- */

/* Status ready. */
void job_ready(Job *j);
bool job_is_ready(const Job *j);
/* Suspends until job_kick() (also by cancel, resume, complete); then passes a point.  False: cancelled. */
bool coroutine_fn job_idle(Job *j);
void job_kick(Job *j);
/* Runs n workers fn(opaque, index) on `loop`; returns when all have ended. */
typedef void coroutine_fn JobWorkerFn(void *opaque, unsigned index);
void coroutine_fn job_run_workers(Job *j, Loop *loop, unsigned n, JobWorkerFn *fn, void *opaque);

/* Holds a node for the job: nobody snapshots, resizes or deletes it meanwhile.  NULL: *errp. */
Edge *coroutine_fn job_add_node(Job *j, Node *n, const char *name, unsigned perm, unsigned shared,
                                Error **errp);
void coroutine_fn job_remove_nodes(Job *j);
/* For who takes a disk away: cancels, without force and without waiting, the jobs that hold n or a node of its chain. */
void coroutine_fn job_cancel_of_disk(Node *n);
/* For who wants to delete n: waits while a job that is about to end holds it, at most for a second. */
void coroutine_fn job_wait_ending(Node *n);

/* ---- for drivers: main and workers, any loop ---- */

static inline bool job_is_cancelled(const Job *j)
{
    return atomic_load_explicit(&((Job *)j)->cancelled, memory_order_acquire);
}
/* Stops here while the job is paused.  False: cancelled. */
bool coroutine_fn job_point(Job *j);
/* Waits until `bytes` more may be carried; as job_point(). */
bool coroutine_fn job_throttle(Job *j, uint64_t bytes);
/* The largest piece that the speed limit lets go at a time, bytes; at least min. */
uint64_t job_piece(const Job *j, uint64_t min, uint64_t max);
static inline void job_progress(Job *j, uint64_t bytes)
{
    atomic_fetch_add_explicit(&j->progress, bytes, memory_order_relaxed);
}
static inline void job_set_total(Job *j, uint64_t bytes)
{
    atomic_store_explicit(&j->total, bytes, memory_order_relaxed);
}
/* An error of storage (err: negative errno): tells it (BLOCK_JOB_ERROR) and what to do. */
JobErrorAction coroutine_fn job_storage_error(Job *j, JobOnError policy, bool is_read, int err);

/* ---- queries ---- */

struct JobInfoList *job_query(void);
struct BlockJobInfoList *job_query_block(void);

/* ---- for those above ---- */

/* Called before the disk in `file` stops to be what some other one is on top of (overlay NULL), or becomes what `overlay` is on top of;
 * NULL: nobody wants to know.  False: then it stays as it is. */
typedef bool coroutine_fn JobRelink(const char *file, const char *overlay, Error **errp);
extern JobRelink *job_relink;

/* A job is about to move all users of the disk in the file `from` to that in the file `to`.  NULL: nobody wants to know. */
typedef struct JobPivotJournal {
    /* Writes to `from` are held, both have the same data, `to` is durable and at rest (node_come_to_rest()).  Until one of the others has returned
     * nothing but the users writes to `to`, and Node.flush_times is set for it.  *ret_recorded: one of the others has to follow. */
    bool coroutine_fn (*begin)(const char *from, const char *to, bool *ret_recorded, Error **errp);
    /* They have been moved; `from` is at rest.  On failure it stays in doubt, but comes out right after a crash. */
    bool coroutine_fn (*done)(const char *from, const char *to, Error **errp);
    /* They have not. */
    bool coroutine_fn (*give_up)(const char *to, Error **errp);
} JobPivotJournal;
extern const JobPivotJournal *job_pivot_journal;

/* ---- the jobs ---- */

struct BlockCommitArg;
struct BlockStreamArg;
/* Commits n into its backing node, and empties it where it can; guests go on.  Returns when it is done.  Errors: there is none, n is in use, storage. */
bool coroutine_fn job_commit_once(Node *n, Error **errp);
bool coroutine_fn job_commit_start(const struct BlockCommitArg *arg, Error **errp);
/* The header of the image of node `image`, in the chain of `device`, names `file`. */
bool coroutine_fn job_change_backing_file(const char *device, const char *image, const char *file,
                                          Error **errp);
bool coroutine_fn job_stream_start(const struct BlockStreamArg *arg, Error **errp);

struct BlockdevMirrorArg;
bool coroutine_fn job_mirror_start(const struct BlockdevMirrorArg *arg, Error **errp);
struct DriveMirrorArg;
bool coroutine_fn job_drive_mirror_start(const struct DriveMirrorArg *arg, Error **errp);

struct BlockdevCreateOptions;
bool coroutine_fn job_create_start(const char *id, const struct BlockdevCreateOptions *options,
                                   Error **errp);

#endif

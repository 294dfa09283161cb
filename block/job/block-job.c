/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Jobs that work on nodes: what they hold, the events BLOCK_JOB_*, query-block-jobs.
 *
 * A job holds a node by a root edge that is marked as a job's.  It keeps the node alive and says what the job needs and lets others do;
 * changes of the graph leave such edges where they are.
 */
#include "block/driver.h"
#include "job-internal.h"
#include "qapi-events.h"
#include "qapi-types.h"
#include <string.h>

/* ---- nodes ---- */

static char *describe(void *opaque)
{
    const Job *j = opaque;

    return g_strdup_printf("%s job '%s'", qapi_enum_JobType(job_type(j)), j->id);
}

static char *name_of(void *opaque)
{
    return g_strdup(((const Job *)opaque)->id);
}

static const EdgeOwner owners[] = {
    [JOB_COMMIT] = {.describe = describe, .is_job = true, .job_type = "commit", .name = name_of},
    [JOB_STREAM] = {.describe = describe, .is_job = true, .job_type = "stream", .name = name_of},
    [JOB_CREATE] = {.describe = describe, .is_job = true, .job_type = "create", .name = name_of},
    [JOB_MIRROR] = {.describe = describe, .is_job = true, .job_type = "mirror", .name = name_of},
    [JOB_BACKUP] = {.describe = describe, .is_job = true, .job_type = "backup", .name = name_of},
};

Edge *coroutine_fn job_add_node(Job *j, Node *n, const char *name, unsigned perm, unsigned shared,
                                Error **errp)
{
    Edge *e =
        edge_attach(n, NULL, &owners[j->driver->kind], j, name, EDGE_ROOT, perm, shared, errp);

    if (e) {
        g_ptr_array_add(j->edges, e);
    }
    return e;
}

void coroutine_fn job_remove_nodes(Job *j)
{
    while (j->edges->len > 0) {
        edge_detach(g_ptr_array_steal_index(j->edges, j->edges->len - 1));
    }
}

#define ENDING_NS INT64_C(1000000000)
#define LOOK_NS   INT64_C(2000000)

static bool is_about_to_end(const Job *j)
{
    return j->ending && j->pause_count == 0 && (j->finalizing || j->status != JOB_STATUS_PENDING);
}

void coroutine_fn job_wait_ending(Node *n)
{
    int64_t deadline = clock_ns() + ENDING_NS;
    bool waits = true;

    node_ref(n);
    while (waits && clock_ns() < deadline) {
        waits = false;
        for (guint i = 0; i < n->parents->len; i++) {
            const Edge *e = g_ptr_array_index(n->parents, i);

            waits |= edge_is_job(e) && is_about_to_end(e->owner_opaque);
        }
        if (waits) {
            co_sleep_ns(LOOK_NS);
        }
    }
    node_unref(n);
}

void coroutine_fn job_cancel_of_disk(Node *n)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new_with_free_func(g_free);

    while (n) {
        const Edge *backing = atomic_load_explicit(&n->backing, memory_order_acquire);

        for (guint i = 0; i < n->parents->len; i++) {
            const Edge *e = g_ptr_array_index(n->parents, i);

            if (edge_is_job(e)) {
                g_ptr_array_add(ids, g_strdup(((const Job *)e->owner_opaque)->id));
            }
        }
        n = backing ? backing->target : n->driver->is_filter && n->file ? n->file->target : NULL;
    }
    /* One that has gone meanwhile, or cannot be cancelled any more, is about to end. */
    for (guint i = 0; i < ids->len; i++) {
        Job *j = job_find(g_ptr_array_index(ids, i));
        g_autoptr(Error) ignored = NULL;

        if (j && !job_is_cancelled(j)) {
            (void)job_cancel(j, false, &ignored);
        }
    }
}

/* ---- events ---- */

typedef struct Progress {
    int64_t len, offset, speed;
} Progress;

static Progress progress_of(const Job *j)
{
    return (Progress){
        .len = atomic_load(&((Job *)j)->total),
        .offset = atomic_load(&((Job *)j)->progress),
        .speed = atomic_load(&((Job *)j)->speed),
    };
}

void block_job_ready(Job *j)
{
    Progress p = progress_of(j);

    if (j->driver->block_job && !j->unseen) {
        qapi_event_send_block_job_ready(job_type(j), j->id, p.len, p.offset, p.speed);
    }
}

void block_job_pending(Job *j)
{
    if (j->driver->block_job && !j->unseen) {
        qapi_event_send_block_job_pending(job_type(j), j->id);
    }
}

void block_job_ended(Job *j)
{
    Progress p = progress_of(j);

    if (!j->driver->block_job || j->unseen) {
        return;
    }
    if (j->err && job_is_cancelled(j)) {
        qapi_event_send_block_job_cancelled(job_type(j), j->id, p.len, p.offset, p.speed);
    } else {
        qapi_event_send_block_job_completed(job_type(j), j->id, p.len, p.offset, p.speed,
                                            j->err ? j->err->message : NULL);
    }
}

/* ---- query ---- */

BlockJobInfoList *job_query_block(void)
{
    GPtrArray *jobs = job_list();
    BlockJobInfoList *list = NULL, **tail = &list;

    for (guint i = 0; i < jobs->len; i++) {
        Job *j = g_ptr_array_index(jobs, i);
        BlockJobInfo *info;
        Progress p = progress_of(j);

        if (!j->driver->block_job || j->unseen) {
            continue;
        }
        info = g_new0(BlockJobInfo, 1);
        info->type = job_type(j);
        info->device = g_strdup(j->id);
        info->len = p.len;
        info->offset = p.offset;
        info->busy = !j->done && j->status != JOB_STATUS_PAUSED &&
                     j->status != JOB_STATUS_STANDBY && !j->idle;
        info->paused = j->pause_count > 0;
        info->speed = p.speed;
        info->io_status = atomic_load(&j->io_status);
        info->ready = job_is_ready(j);
        info->status = j->status;
        info->auto_finalize = j->auto_finalize;
        info->auto_dismiss = j->auto_dismiss;
        info->error = j->err ? g_strdup(j->err->message) : NULL;
        if (j->driver->query) {
            j->driver->query(j, info);
        }
        *tail = g_new0(BlockJobInfoList, 1);
        (*tail)->value = info;
        tail = &(*tail)->next;
    }
    return list;
}

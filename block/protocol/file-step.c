/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The steps of a SnapshotFile, for coroutines of the control thread: each runs on a worker, since all of them block.
 */
#include "block/file.h"
#include "util/worker.h"

typedef struct Step {
    SnapshotFileStep *fn;
    SnapshotFileEnd *end;
    SnapshotFile *file;
    Error *err;
} Step;

static int run(void *opaque)
{
    Step *s = opaque;

    if (s->end) {
        s->end(s->file);
        return 0;
    }
    return s->fn(s->file, &s->err) ? 0 : -1;
}

bool coroutine_fn snapshot_file_step(SnapshotFileStep *fn, SnapshotFile *f, Error **errp)
{
    Step s = {.fn = fn, .file = f};

    if (worker_run(WORKERS_CONTROL, run, &s) < 0) {
        error_move(errp, &s.err);
        return false;
    }
    return true;
}

void coroutine_fn snapshot_file_end(SnapshotFileEnd *fn, SnapshotFile *f)
{
    Step s = {.end = fn, .file = f};

    worker_run(WORKERS_CONTROL, run, &s);
}

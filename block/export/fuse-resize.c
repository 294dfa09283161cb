/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sizes of disks that are files: changed by truncate(2), fallocate(2) and, if the export is growable, by writes behind the end.
 *
 * Another size is for the control thread to give, which asks everybody concerned (export_resize()).
 */
#include "fuse-internal.h"
#include "util/log.h"
#include <errno.h>

#define SECTOR   UINT64_C(512)
#define FRESH_NS INT64_C(1000000000)

typedef struct ResizeJob {
    FuseExport *exp;
    uint64_t size;
    int ret;
    Coroutine *waiter;
} ResizeJob;

static int errno_of(const Error *err)
{
    switch (err->kind) {
    case ERROR_BUSY:
        return EBUSY;
    case ERROR_PERMISSION:
        return EPERM;
    case ERROR_UNSUPPORTED:
        return ENOTSUP;
    case ERROR_LIMIT:
        return EFBIG;
    case ERROR_NO_SPACE:
        return ENOSPC;
    case ERROR_TIMEOUT:
        return ETIMEDOUT;
    case ERROR_INVALID:
        return EINVAL;
    default:
        return err->err ? err->err : EIO;
    }
}

static void coroutine_fn resize_main(void *opaque)
{
    ResizeJob *j = opaque;
    g_autoptr(Error) err = NULL;

    if (!export_resize(&j->exp->base, j->size, &err)) {
        log_info("export '%s': no other size: %s", j->exp->base.id, err->message);
        j->ret = -errno_of(err);
    }
    co_wake(j->waiter);
}

int coroutine_fn fuse_resize(FuseExport *e, uint64_t size)
{
    ResizeJob j = {.exp = e, .waiter = co_self()};

    if (size > BLOCK_MAX_SIZE) {
        return -EFBIG;
    }
    j.size = (size + SECTOR - 1) / SECTOR * SECTOR;
    co_spawn(loop_control(), resize_main, &j);
    co_yield();
    atomic_store(&e->looked_at, 0);
    return j.ret;
}

/* ---- what it takes on disk ---- */

static void look(void *opaque)
{
    FuseExport *e = export_find(opaque) ? fuse_export_of(export_find(opaque)) : NULL;
    int64_t bytes;

    if (e && e->base.driver == &export_driver_fuse) {
        bytes = export_bytes_on_disk(&e->base);
        atomic_store(&e->on_disk, bytes < 0 ? UINT64_MAX : (uint64_t)bytes);
    }
    g_free(opaque);
}

void fuse_look_at_disk(FuseExport *e)
{
    int64_t before = atomic_load(&e->looked_at), now = clock_ns();

    if ((before == 0 || now - before > FRESH_NS) &&
        atomic_compare_exchange_strong(&e->looked_at, &before, now)) {
        loop_call(loop_control(), look, g_strdup(e->base.id)); /* it may be gone by then */
    }
}

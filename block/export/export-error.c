/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * BLOCK_IO_ERROR: a client's request failed for a reason of the storage.
 *
 * The request's thread describes what happened, the control thread sends it.  A disk that fails may fail a hundred thousand requests a second,
 * so of an export no more than one description is under way; the monitor sends one event a second for each export.
 */
#include "block/backend.h"
#include "block/export.h"
#include "block/io.h"
#include "qapi-events.h"
#include <errno.h>
#include <string.h>

typedef struct Failure {
    char *id, *node;
    bool is_write;
    int err;
} Failure;

/* Not for what the request asked: its range, its kind, a disk that may not be written to. */
static bool is_of_storage(int err)
{
    static const int others[] = {EINVAL, ENOTSUP, EPERM, EROFS, EOVERFLOW, ESHUTDOWN, ECANCELED};

    for (unsigned i = 0; i < G_N_ELEMENTS(others); i++) {
        if (err == others[i]) {
            return false;
        }
    }
    return true;
}

static void coroutine_fn tell(void *opaque)
{
    Failure *f = opaque;
    Export *e = export_find(f->id);
    const Node *n = node_find(f->node);

    if (e) {
        atomic_store(&e->telling_error, false);
    }
    qapi_event_send_block_io_error(f->id, n ? node_backend_name(n) : "", f->node,
                                   f->is_write ? IO_OPERATION_TYPE_WRITE : IO_OPERATION_TYPE_READ,
                                   BLOCK_ERROR_ACTION_REPORT, true,
                                   f->err == ENOSPC || f->err == EDQUOT, g_strerror(f->err));
    g_free(f->id);
    g_free(f->node);
    g_free(f);
}

void coroutine_fn export_io_failed(Export *e, Request *r, bool is_write, int ret)
{
    Failure *f;

    if (!is_of_storage(-ret) || atomic_exchange(&e->telling_error, true)) {
        return;
    }
    f = g_new0(Failure, 1);
    f->id = g_strdup(e->id);
    f->node = g_strdup(edge_enter(e->edge, r)->name);
    f->is_write = is_write;
    f->err = -ret;
    co_spawn(loop_control(), tell, f);
}

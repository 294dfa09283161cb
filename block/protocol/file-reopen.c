/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reopening a file: the descriptor comes with the permissions (file-perm.c), which look at what the node will be; here is the rest.
 */
#include "block/reopen.h"
#include "file-internal.h"
#include "qapi-types.h"
#include "util/worker.h"
#include <errno.h>
#include <sys/stat.h>

const char *const file_reopen_options[] = {"drop-cache", "x-check-cache-dropped", NULL};

static int ask_on_worker(void *opaque)
{
    Node *n = opaque;

    return file_can_write(n->filename, file_state(n)->fd);
}

bool coroutine_fn file_reopen_prepare(Node *n, Reopen *r, Error **errp)
{
    const BlockdevOptionsFile *o = &r->options->u.file;

    if (o->has_aio && o->aio == BLOCKDEV_AIO_OPTIONS_NATIVE && !r->cache_direct) {
        error_set(errp, ERROR_INVALID, n->name, "reopen",
                  "aio=native was specified, but it requires cache.direct=on, which was not "
                  "specified.");
        return false;
    }
    if (!r->read_only && r->auto_read_only && !worker_run(WORKERS_CONTROL, ask_on_worker, n)) {
        r->read_only = true;
    }
    return true;
}

static int size_on_worker(void *opaque)
{
    Node *n = opaque;
    int64_t size = file_length(n, file_state(n)->fd);

    if (size < 0) {
        return size;
    }
    if ((uint64_t)size > BLOCK_MAX_SIZE) {
        return -EFBIG;
    }
    atomic_store(&n->size, file_node_size(size));
    return 0;
}

/* While it was inactive another process may have made it longer or shorter.  Its size is what it is, also if it does not become active. */
bool coroutine_fn file_reopen_load(Node *n, Reopen *r, Error **errp)
{
    int ret = r->reload ? worker_run(WORKERS_CONTROL, size_on_worker, n) : 0;

    if (ret < 0) {
        error_set_errno(errp, -ret, n->filename, "reopen", "Could not read the state of '%s'",
                        n->filename);
    }
    return ret == 0;
}

void coroutine_fn file_reopen_switch(Node *n, Reopen *r)
{
    if (r->cache_direct != n->cache_direct) {
        n->limits = file_state(n)->next_limits; /* of the descriptor that has just taken over */
    }
}

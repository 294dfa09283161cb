/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Writing cached data out ahead of a flush, gently.
 *
 * A flush of much cached data hands all of it to the device at once; while its queue is full, the kernel holds locks on pages that guests
 * write to, and their requests wait as long as the flush takes.  Before a cut that is nothing that anybody asked for.  So data
 * is written out in small pieces, one file at a time over all nodes: each piece locks little and is done in a moment, and the
 * flush that follows has little left.
 */
#include "block/driver.h"
#include "file-internal.h"
#include "util/worker.h"
#include <errno.h>
#include <fcntl.h>

#define PIECE (UINT64_C(1) << 20) /* bytes */
#define MAX_STEPS                                                                                  \
    UINT64_C(65536) /* for sparse giants the pieces are larger; what they hold is what counts */

typedef struct WriteOut {
    int fd;
    uint64_t size;
} WriteOut;

static int write_out(void *opaque)
{
    const WriteOut *w = opaque;
    uint64_t piece = MAX(PIECE, w->size / MAX_STEPS);

    for (uint64_t at = 0; at < w->size; at += piece) {
        if (sync_file_range(w->fd, at, piece,
                            SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                SYNC_FILE_RANGE_WAIT_AFTER) < 0) {
            return -errno;
        }
    }
    return 0;
}

void coroutine_fn file_write_out(Node *n)
{
    static CoMutex one = {.guard = PTHREAD_MUTEX_INITIALIZER};
    FileState *s = n->state;
    int ret;
    WriteOut w = {.fd = s->fd, .size = atomic_load_explicit(&n->size, memory_order_acquire)};

    if (n->cache_direct || n->cache_no_flush) {
        return;
    }
    co_mutex_lock(&one);
    ret = worker_run(WORKERS_CONTROL, write_out, &w);
    co_mutex_unlock(&one);
    /* Not every file system can do this, and that is no harm.  But a write-back error that was told here is not told again
     * by fdatasync(2) on this descriptor: it sticks, as if the flush had found it. */
    if (ret == -EIO || ret == -ENOSPC || ret == -EDQUOT) {
        node_flush_failed(n, ret);
    }
}

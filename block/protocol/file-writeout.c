/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Writing cached data out ahead of a flush, gently.
 *
 * A flush of much cached data hands all of it to the device at once; while its queue is full, the kernel holds locks on pages that guests
 * write to, and their requests wait as long as the flush takes.  Before a cut that is nothing that anybody asked for.  So data
 * is written out in small pieces, of a few files at a time over all nodes: each piece locks little and is done in a moment, and the
 * flush that follows has little left.  A file with no more than a piece in the cache is written out at once.
 */
#include "block/driver.h"
#include "file-internal.h"
#include "util/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PIECE (UINT64_C(1) << 20) /* bytes */
#define MAX_STEPS                                                                                  \
    UINT64_C(65536) /* for sparse giants the pieces are larger; what they hold is what counts */

#define WRITERS 4u

#ifdef SYS_cachestat
#define SYS_CACHESTAT SYS_cachestat
#else
#define SYS_CACHESTAT 451 /* the same everywhere */
#endif

typedef struct WriteOut {
    int fd;
    uint64_t size;
    int ret;
    Coroutine *waiter;
} WriteOut;

/* The files that wait for their turn.  A few workers take them one after another: a wake-up for each would cost more than the writing
 * of a file that has little to write. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static GQueue waiting = G_QUEUE_INIT; /* WriteOut * */
static unsigned writers;

/* Bytes of the file that are dirty or under way; UINT64_MAX: the kernel (before 6.5) cannot tell. */
static uint64_t cached_bytes(int fd)
{
    struct {
        uint64_t offset, len;
    } range = {0, 0}; /* to the end */
    struct {
        uint64_t cached, dirty, writeback, evicted, recently_evicted; /* pages */
    } pages = {0};

    if (syscall(SYS_CACHESTAT, fd, &range, &pages, 0) < 0) {
        return UINT64_MAX;
    }
    return (pages.dirty + pages.writeback) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int write_range(int fd, uint64_t at, uint64_t len)
{
    return sync_file_range(fd, at, len,
                           SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                               SYNC_FILE_RANGE_WAIT_AFTER) < 0
               ? -errno
               : 0;
}

static int write_out(const WriteOut *w)
{
    uint64_t piece = MAX(PIECE, w->size / MAX_STEPS);
    int ret = 0;

    if (cached_bytes(w->fd) <= PIECE) {
        return write_range(w->fd, 0, 0); /* to the end */
    }
    for (uint64_t at = 0; at < w->size && ret == 0; at += piece) {
        ret = write_range(w->fd, at, piece);
    }
    return ret;
}

static WriteOut *next(void)
{
    WriteOut *w;

    pthread_mutex_lock(&lock);
    w = g_queue_pop_head(&waiting);
    writers -= w == NULL;
    pthread_mutex_unlock(&lock);
    return w;
}

static int drain(void *opaque)
{
    WriteOut *w;

    (void)opaque;
    while ((w = next())) {
        w->ret = write_out(w);
        co_wake(w->waiter);
    }
    return 0;
}

static void coroutine_fn wait_for_turn(WriteOut *w)
{
    bool start;

    pthread_mutex_lock(&lock);
    g_queue_push_tail(&waiting, w);
    start = writers < WRITERS;
    writers += start;
    pthread_mutex_unlock(&lock);
    if (start) {
        worker_submit(WORKERS_CONTROL, drain, NULL, NULL);
    }
    co_yield();
}

void coroutine_fn file_write_out(Node *n)
{
    FileState *s = n->state;
    WriteOut w = {
        .fd = s->fd,
        .size = atomic_load_explicit(&n->size, memory_order_acquire),
        .waiter = co_self(),
    };

    if (n->cache_direct || n->cache_no_flush) {
        return;
    }
    wait_for_turn(&w);
    /* Not every file system can do this, and that is no harm.  But a write-back error that was told here is not told again
     * by fdatasync(2) on this descriptor: it sticks, as if the flush had found it. */
    if (w.ret == -EIO || w.ret == -ENOSPC || w.ret == -EDQUOT) {
        node_flush_failed(n, w.ret);
    }
}

/* ---- behind a writer ---- */

/* All that the file has in the cache; but while guests write to it, only what the job has written (file-beside.c), a piece at a time: theirs is
 * dirty again at once, and its pages are locked meanwhile. */
typedef struct Behind {
    int fd;
    bool whole; /* the file; else: */
    FileRange arrive, start;
} Behind;

static int sync_range(int fd, uint64_t start, uint64_t end, unsigned flags)
{
    return sync_file_range(fd, start, end - start, flags) < 0 ? -errno : 0;
}

static int write_behind(void *opaque)
{
    const Behind *b = opaque;
    int ret = 0;

    if (b->whole) {
        return sync_range(b->fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE);
    }
    if (b->arrive.end) {
        ret = sync_range(b->fd, b->arrive.start, b->arrive.end, SYNC_FILE_RANGE_WAIT_BEFORE);
    }
    for (uint64_t at = b->start.start; at < b->start.end && ret == 0; at += PIECE) {
        ret = sync_range(b->fd, at, MIN(at + PIECE, b->start.end), SYNC_FILE_RANGE_WRITE);
    }
    return ret;
}

void coroutine_fn file_write_behind(Node *n)
{
    FileState *s = n->state;
    Behind b = {.fd = s->fd};
    int ret;

    if (n->cache_direct || n->cache_no_flush) {
        return;
    }
    pthread_mutex_lock(&s->status_lock);
    b.arrive = s->behind;
    b.start = s->behind = s->beside;
    s->beside = (FileRange){0};
    pthread_mutex_unlock(&s->status_lock);
    b.whole = !file_is_contended(n, NULL);
    ret = worker_run(WORKERS_CONTROL, write_behind, &b);
    if (ret == -EIO || ret == -ENOSPC || ret == -EDQUOT) {
        node_flush_failed(n, ret); /* as above */
    }
}

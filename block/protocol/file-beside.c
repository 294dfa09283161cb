/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Writes of jobs into a file that guests write to.
 *
 * File systems let one write at a time into a file.  Who finds it taken sleeps, and who has just written and writes again comes before him: a guest's
 * 4 KiB beside a job that writes without a pause wait for milliseconds.  So while guests write to the file, what comes from a loop that works
 * in the background is written in short pieces with rests between them, which is when guests have their turn.
 *
 * Most of what a write of new data takes is finding memory for it in the page cache.  That can be done before, while guests' writes go on: the
 * kernel is told that the range will be read, which for a hole means memory full of zeroes and nothing else.  (What is data it reads: the job
 * writes a little later, and guests do not wait for it.)
 *
 * Guests are there as long as the count of their writes has changed within the last NEAR_NS.  The background loops look at it:
 * what a guest's write costs is one addition.
 */
#include "block/contention.h"
#include "file-internal.h"
#include "util/coroutine.h"
#include "util/worker.h"
#include <fcntl.h>

#define NEAR_NS INT64_C(10000000)

void file_beside_count(FileState *s)
{
    if (loop_current() != loop_control()) {
        atomic_fetch_add_explicit(&s->guest_writes, 1, memory_order_relaxed);
    }
}

bool coroutine_fn file_is_contended(Node *n, Request *r)
{
    FileState *s = n->state;
    uint64_t writes = atomic_load_explicit(&s->guest_writes, memory_order_relaxed);
    int64_t now = clock_ns();

    (void)r;
    if (n->cache_direct || s->device) {
        return false; /* nobody sleeps on a lock of the whole disk there */
    }
    if (writes != atomic_load_explicit(&s->writes_seen, memory_order_relaxed)) {
        atomic_store_explicit(&s->writes_seen, writes, memory_order_relaxed);
        atomic_store_explicit(&s->contended_until, now + NEAR_NS, memory_order_relaxed);
        return true;
    }
    return now < atomic_load_explicit(&s->contended_until, memory_order_relaxed);
}

typedef struct Warm {
    int fd;
    off_t offset, len;
} Warm;

static int warm(void *opaque)
{
    const Warm *w = opaque;

    return posix_fadvise(w->fd, w->offset, w->len, POSIX_FADV_WILLNEED); /* a hint */
}

/* What write-behind shall hand to storage; guests' own data stays as long as it would. */
static void remember(FileState *s, uint64_t start, uint64_t end)
{
    pthread_mutex_lock(&s->status_lock);
    s->beside.start = s->beside.end ? MIN(s->beside.start, start) : start;
    s->beside.end = MAX(s->beside.end, end);
    pthread_mutex_unlock(&s->status_lock);
}

int coroutine_fn file_write_beside(Node *n, GuestOffset offset, const IoVector *iov)
{
    FileState *s = n->state;
    size_t done = 0;

    remember(s, offset.v, offset.v + iov->size);
    while (done < iov->size) {
        bool contended = file_is_contended(n, NULL);
        size_t len = MIN(iov->size - done, contended ? CONTENDED_PIECE : SIZE_MAX);
        g_auto(IoVector) part = {0};
        int64_t began = clock_ns();
        ssize_t ret;

        if (contended) {
            Warm w = {.fd = s->fd, .offset = offset.v + done, .len = len};

            worker_run(WORKERS_GUEST, warm, &w);
        }
        iov_init_slice(&part, iov, done, len);
        ret = co_pwritev(s->fd, part.iov, part.niov, offset.v + done);
        if (ret != (ssize_t)len) {
            return ret < 0 ? (int)ret : file_write_rest(n, offset, iov, done + ret);
        }
        done += len;
        if (done < iov->size) {
            co_sleep_ns(contended_rest(clock_ns() - began));
        }
    }
    return 0;
}

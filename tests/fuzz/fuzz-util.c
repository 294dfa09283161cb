/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * See fuzz-util.h.
 */
#include "fuzz-util.h"
#include "block/node-internal.h"
#include "util/log.h"
#include "util/rcu.h"
#include <errno.h>
#include <string.h>

typedef struct DiskState {
    GByteArray *bytes;
} DiskState;

static GByteArray *bytes_of(Node *n)
{
    return ((DiskState *)n->state)->bytes;
}

static int coroutine_fn disk_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                    unsigned flags)
{
    GByteArray *b = bytes_of(n);

    (void)r;
    (void)flags;
    if (offset.v > b->len || iov->size > b->len - offset.v) {
        return -EIO;
    }
    iov_from_buf(iov, 0, b->data + offset.v, iov->size);
    return 0;
}

static int grow(Node *n, uint64_t size)
{
    GByteArray *b = bytes_of(n);
    guint old = b->len;

    if (size > FUZZ_DISK_MAX) {
        return -ENOSPC;
    }
    g_byte_array_set_size(b, size);
    if (size > old) {
        memset(b->data + old, 0, size - old);
    }
    atomic_store(&n->size, size);
    return 0;
}

static int coroutine_fn disk_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                     unsigned flags)
{
    GByteArray *b = bytes_of(n);
    int ret = 0;

    (void)r;
    (void)flags;
    if (offset.v + iov->size > b->len) {
        ret = grow(n, offset.v + iov->size);
    }
    if (ret == 0) {
        iov_to_buf(iov, 0, b->data + offset.v, iov->size);
    }
    return ret;
}

static int coroutine_fn disk_truncate(Node *n, Request *r, uint64_t size, bool exact)
{
    (void)r;
    (void)exact;
    return grow(n, size);
}

static int coroutine_fn disk_flush(Node *n, Request *r)
{
    (void)n;
    (void)r;
    return 0;
}

static void coroutine_fn disk_close(Node *n)
{
    g_byte_array_unref(bytes_of(n));
}

static const BlockDriver disk_driver = {
    .name = "file", /* in the graph it stands for one */
    .is_protocol = true,
    .state_size = sizeof(DiskState),
    .close = disk_close,
    .preadv = disk_preadv,
    .pwritev = disk_pwritev,
    .flush = disk_flush,
    .truncate = disk_truncate,
};

Node *fuzz_disk_new(const char *name, const uint8_t *data, size_t size)
{
    Node *n = node_alloc(&disk_driver, name);
    DiskState *s = n->state;

    s->bytes = g_byte_array_new();
    g_byte_array_append(s->bytes, data, size);
    atomic_store(&n->size, size);
    n->filename = g_strdup(name);
    node_register(n);
    return n;
}

/* Instead of util/log.c: lines are made, so that what they are made of is looked at, and dropped. */
void log_line(LogLevel level, const char *fmt, ...)
{
    va_list ap;

    (void)level;
    va_start(ap, fmt);
    g_free(g_strdup_vprintf(fmt, ap));
    va_end(ap);
}

bool log_limit_pass(LogLimit *limit)
{
    (void)limit;
    return true;
}

void log_init(const char *name, LogLevel level)
{
    (void)name;
    (void)level;
}

void fuzz_init(void)
{
    rcu_init_process();
    loop_control_init();
    driver_register_all();
}

typedef struct Body {
    void (*fn)(void *opaque);
    void *opaque;
    bool done;
} Body;

static void coroutine_fn body_main(void *opaque)
{
    Body *b = opaque;

    b->fn(b->opaque);
    b->done = true;
}

void fuzz_run(void coroutine_fn (*body)(void *opaque), void *opaque)
{
    Body b = {.fn = body, .opaque = opaque};

    co_spawn(loop_control(), body_main, &b);
    while (!b.done) {
        g_main_context_iteration(NULL, true);
    }
}

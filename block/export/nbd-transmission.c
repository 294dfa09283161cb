/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Transmission: reading requests, running them side by side, answering.
 *
 * Per connection, all on one thread:
 *   reader   fills a buffer with as much as the socket has, parses requests out of it, starts a coroutine for each;
 *            the data of large writes goes straight from the socket into the request's buffer
 *   requests one coroutine each (nbd-request.c)
 *   writer   sleeps until answers wait, then sends all there are with one call
 *
 * A request's buffers come from the connection's pool.  What a client can make us hold is bounded: MAX_RUNNING requests and
 * MAX_BYTES of data; beyond that its requests stay in the socket.
 *
 * The end, whoever caused it: the reader stops; requests that run end and are answered or dropped; the writer ends; then the
 * connection is freed.
 */
#include "nbd-internal.h"
#include "util/log.h"
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define IN_SIZE     (256u * 1024)
#define MAX_RUNNING 256
#define MAX_BYTES   (64u << 20)
#define POOL_BUFFER (64u * 1024) /* larger buffers are not kept */
#define MAX_IOV     128

typedef struct __attribute__((packed)) RequestHeader {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t length;
} RequestHeader;

/* ---- requests' memory ---- */

static NbdRequest *request_new(NbdConn *c)
{
    NbdRequest *q = c->pool;

    if (q) {
        c->pool = q->next;
    } else {
        q = g_new0(NbdRequest, 1);
        q->conn = c;
    }
    q->next = NULL;
    q->error = 0;
    q->head_len = q->data_len = 0;
    return q;
}

bool nbd_request_reserve(NbdRequest *q, size_t len)
{
    if (q->buf_size < len) {
        void *buf;

        len = MAX(len, 4096);
        if (posix_memalign(&buf, 4096, len) != 0) {
            return false;
        }
        free(q->buf);
        q->buf = buf;
        q->buf_size = len;
    }
    return true;
}

static void request_free(NbdRequest *q)
{
    g_clear_pointer(&q->chunks, g_byte_array_unref);
    if (q->buf_size > POOL_BUFFER) {
        g_clear_pointer(&q->buf, free);
        q->buf_size = 0;
    }
    q->next = q->conn->pool;
    q->conn->pool = q;
}

static void pool_free(NbdConn *c)
{
    while (c->pool) {
        NbdRequest *q = c->pool;

        c->pool = q->next;
        free(q->buf);
        g_free(q);
    }
}

/* ---- writer ---- */

static size_t memory_of(const NbdRequest *q)
{
    return q->type == NBD_CMD_READ || q->type == NBD_CMD_WRITE ? q->length : 0;
}

static void answered(NbdConn *c, NbdRequest *q)
{
    c->running--;
    c->running_bytes -= memory_of(q);
    request_free(q);
    if (c->reader_waiting) {
        co_wake(c->reader_waiting);
        c->reader_waiting = NULL;
    }
}

static void queue_answer(NbdRequest *q)
{
    NbdConn *c = q->conn;

    q->next = NULL;
    *c->done_tail = q;
    c->done_tail = &q->next;
    if (c->writer_idle) {
        /* Woken, not run: what else completes in this turn of the loop goes out with it. */
        c->writer_idle = false;
        co_wake(c->writer);
    }
}

static unsigned add_iov(struct iovec *iov, unsigned n, void *p, size_t len)
{
    if (len) {
        iov[n++] = (struct iovec){p, len};
    }
    return n;
}

/* Sends the answers of a batch, which it takes from the queue. */
static void coroutine_fn send_batch(NbdConn *c)
{
    NbdRequest *first = c->done_head, *last = NULL;
    struct iovec iov[MAX_IOV];
    unsigned n = 0;

    for (NbdRequest *q = first; q && n + 2 <= MAX_IOV; q = q->next) {
        if (q->chunks) {
            n = add_iov(iov, n, q->chunks->data, q->chunks->len);
        } else {
            n = add_iov(iov, n, q->head, q->head_len);
            n = add_iov(iov, n, q->buf, q->data_len);
        }
        last = q;
    }
    c->done_head = last->next;
    if (!c->done_head) {
        c->done_tail = &c->done_head;
    }
    last->next = NULL;
    if (!c->broken && nbd_send_all(c, iov, n) < 0) {
        c->broken = true;
        shutdown(c->fd, SHUT_RDWR); /* ends the reader */
    }
    while (first) {
        NbdRequest *q = first;

        first = q->next;
        answered(c, q);
    }
}

static void coroutine_fn writer_main(void *opaque)
{
    NbdConn *c = opaque;

    c->writer = co_self();
    for (;;) {
        if (c->done_head) {
            send_batch(c);
        } else if (c->reading_over && c->running == 0) {
            break;
        } else {
            c->writer_idle = true;
            co_yield();
        }
    }
    c->writer = NULL;
    if (c->reader_waiting) {
        co_wake(c->reader_waiting);
        c->reader_waiting = NULL;
    }
}

/* ---- reader ---- */

static void coroutine_fn request_main(void *opaque)
{
    NbdRequest *q = opaque;

    nbd_request_run(q);
    queue_answer(q);
}

/* Makes at least `need` bytes available in the buffer; false: the connection has ended. */
static bool coroutine_fn fill(NbdConn *c, size_t need)
{
    while (c->in_end - c->in_start < need) {
        ssize_t n;

        if (c->in_start > 0) {
            memmove(c->in, c->in + c->in_start, c->in_end - c->in_start);
            c->in_end -= c->in_start;
            c->in_start = 0;
        }
        n = nbd_recv(c, c->in + c->in_end, IN_SIZE - c->in_end);
        if (n <= 0) {
            return false;
        }
        c->in_end += n;
    }
    return true;
}

/* The data of a write: what the buffer has of it, the rest straight from the socket. */
static bool coroutine_fn read_payload(NbdConn *c, NbdRequest *q)
{
    size_t have = MIN(c->in_end - c->in_start, q->length);

    memcpy(q->buf, c->in + c->in_start, have);
    c->in_start += have;
    return have == q->length || nbd_read(c, q->buf + have, q->length - have) == 0;
}

static void coroutine_fn wait_for_room(NbdConn *c, size_t bytes)
{
    while (c->running > 0 && (c->running >= MAX_RUNNING || c->running_bytes + bytes > MAX_BYTES)) {
        c->reader_waiting = co_self();
        co_yield();
    }
}

/* One request; false: the connection is to end. */
static bool coroutine_fn read_request(NbdConn *c)
{
    RequestHeader h;
    NbdRequest *q;

    if (!fill(c, sizeof(h))) {
        return false;
    }
    memcpy(&h, c->in + c->in_start, sizeof(h));
    c->in_start += sizeof(h);
    if (be32toh(h.magic) != NBD_REQUEST_MAGIC) {
        log_warn_limited("NBD client %s: bad magic of a request: disconnected", c->peer);
        return false;
    }
    if (be16toh(h.type) == NBD_CMD_DISC) {
        return false;
    }
    if (be16toh(h.type) == NBD_CMD_WRITE && be32toh(h.length) > NBD_MAX_REQUEST) {
        log_warn_limited("NBD client %s: a write of %u bytes: disconnected", c->peer,
                         be32toh(h.length));
        return false;
    }
    wait_for_room(c, be16toh(h.type) == NBD_CMD_READ || be16toh(h.type) == NBD_CMD_WRITE
                         ? MIN(be32toh(h.length), NBD_MAX_REQUEST)
                         : 0);
    q = request_new(c);
    q->cookie = h.cookie; /* goes back as it came */
    q->type = be16toh(h.type);
    q->flags = be16toh(h.flags);
    q->offset = be64toh(h.offset);
    q->length = be32toh(h.length);
    if (q->type == NBD_CMD_READ && q->length > NBD_MAX_REQUEST) {
        q->length = 0;
        c->running++;
        nbd_request_fail(q, NBD_EINVAL);
        queue_answer(q);
        return true;
    }
    c->running++;
    c->running_bytes += memory_of(q);
    if (memory_of(q) && !nbd_request_reserve(q, q->length)) {
        log_warn_limited("NBD client %s: no memory for a request: disconnected", c->peer);
        answered(c, q);
        return false;
    }
    if (q->type == NBD_CMD_WRITE && !read_payload(c, q)) {
        answered(c, q);
        return false;
    }
    co_start(request_main, q);
    return true;
}

void coroutine_fn nbd_transmission(NbdConn *c)
{
    c->in = g_malloc(IN_SIZE);
    c->done_tail = &c->done_head;
    co_start(writer_main, c);
    while (!c->broken && read_request(c)) {
    }
    c->reading_over = true;
    if (c->writer_idle) {
        c->writer_idle = false;
        co_wake(c->writer);
    }
    while (c->writer) {
        c->reader_waiting = co_self();
        co_yield();
    }
    pool_free(c);
    g_free(c->in);
}

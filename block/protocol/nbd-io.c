/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NBD client: requests.
 *
 * A request hands its command to libnbd on its own thread, which sends it at once if the socket takes it, and sleeps until the session's
 * coroutine has read the answer.  A command that was under way when the connection was lost is sent again on the next one: every
 * command may be carried out twice.
 *
 * What the server cannot do: FUA is a flush after the write; without flush there is nothing to flush, as the protocol has it; write zeroes is
 * left to the caller; trim may be ignored.
 */
#include "nbd-client.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef enum NbdCommandType {
    NBD_READ,
    NBD_WRITE,
    NBD_FLUSH,
    NBD_TRIM,
    NBD_CACHE,
    NBD_ZEROES,
    NBD_STATUS,
} NbdCommandType;

typedef struct NbdCommand {
    NbdCommandType type;
    uint64_t offset, bytes;
    void *buf;
    uint32_t flags;
    /* one attempt */
    NbdSession *session;
    Coroutine *co;
    int error;
    uint64_t got; /* bytes that a read was answered with */
    /* the first extent of our context */
    const char *context;
    uint32_t extent_bytes, extent_flags;
} NbdCommand;

static NbdClient *client_of(const Node *n)
{
    return n->state;
}

/* ---- libnbd's callbacks: its lock is held ---- */

static int on_answer(void *opaque, int *error)
{
    NbdCommand *cmd = opaque;

    /* A server that ends an answer early has not told what is in the rest. */
    cmd->error = *error == 0 && cmd->type == NBD_READ && cmd->got != cmd->bytes ? EIO : *error;
    co_wake(cmd->co);
    return 1;
}

static int on_chunk(void *opaque, const void *buf, size_t bytes, uint64_t offset, unsigned status,
                    int *error)
{
    NbdCommand *cmd = opaque;

    (void)buf;
    (void)offset;
    (void)error;
    if (status != LIBNBD_READ_ERROR) {
        cmd->got += bytes;
    }
    return 0;
}

static int on_extents(void *opaque, const char *context, uint64_t offset, uint32_t *entries,
                      size_t n, int *error)
{
    NbdCommand *cmd = opaque;

    (void)error;
    if (strcmp(context, cmd->context) == 0 && offset == cmd->offset && n >= 2) {
        cmd->extent_bytes = entries[0];
        cmd->extent_flags = entries[1];
    }
    return 0;
}

/* ---- commands ---- */

static int64_t issue(NbdCommand *cmd)
{
    struct nbd_handle *h = cmd->session->h;
    nbd_completion_callback done = {.callback = on_answer, .user_data = cmd};
    nbd_chunk_callback chunks = {.callback = on_chunk, .user_data = cmd};
    nbd_extent_callback extents = {.callback = on_extents, .user_data = cmd};

    switch (cmd->type) {
    case NBD_READ:
        return nbd_aio_pread_structured(h, cmd->buf, cmd->bytes, cmd->offset, chunks, done,
                                        cmd->flags);
    case NBD_WRITE:
        return nbd_aio_pwrite(h, cmd->buf, cmd->bytes, cmd->offset, done, cmd->flags);
    case NBD_FLUSH:
        return nbd_aio_flush(h, done, cmd->flags);
    case NBD_TRIM:
        return nbd_aio_trim(h, cmd->bytes, cmd->offset, done, cmd->flags);
    case NBD_CACHE:
        return nbd_aio_cache(h, cmd->bytes, cmd->offset, done, cmd->flags);
    case NBD_ZEROES:
        return nbd_aio_zero(h, cmd->bytes, cmd->offset, done, cmd->flags);
    default:
        return nbd_aio_block_status(h, cmd->bytes, cmd->offset, extents, done, cmd->flags);
    }
}

/* False: the connection was lost meanwhile. */
static bool coroutine_fn attempt(NbdCommand *cmd, int *ret)
{
    cmd->co = co_self();
    cmd->error = 0;
    cmd->got = 0;
    cmd->extent_bytes = 0;
    if (issue(cmd) < 0) {
        /* Not taken: the connection has ended, or libnbd finds fault with the command. */
        *ret = nbd_get_errno() ? -nbd_get_errno() : -EIO;
        return nbd_aio_is_dead(cmd->session->h) != 1 && nbd_aio_is_closed(cmd->session->h) != 1;
    }
    nbd_session_kick(cmd->session);
    co_yield();
    *ret = -cmd->error;
    return cmd->error != ENOTCONN;
}

static int coroutine_fn run(NbdClient *c, NbdCommand *cmd)
{
    int64_t first_loss = -1;

    for (;;) {
        bool answered;
        int ret;

        cmd->session = nbd_client_enter(c);
        if (!cmd->session) {
            return -EIO;
        }
        answered = attempt(cmd, &ret);
        if (!answered) {
            nbd_client_lost(c, cmd->session);
        }
        nbd_session_unref(cmd->session);
        if (answered) {
            return ret;
        }
        if (first_loss < 0) {
            first_loss = clock_ns();
        } else if (clock_ns() - first_loss > c->reconnect_ns) {
            return -EIO;
        }
    }
}

/* What the server of the moment can do; false: there is none. */
static bool coroutine_fn facts_now(NbdClient *c, NbdFacts *ret)
{
    NbdSession *s = nbd_client_enter(c);

    if (s) {
        *ret = s->facts;
        nbd_session_unref(s);
    }
    return s;
}

/* ---- the driver's requests ---- */

int coroutine_fn nbd_node_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                 unsigned flags)
{
    NbdClient *c = client_of(n);
    NbdCommand cmd = {.type = NBD_READ, .offset = offset.v, .bytes = iov->size};
    void *bounce = NULL;
    NbdFacts f;
    int ret;

    (void)r;
    if (flags & REQ_PREFETCH) {
        if (!facts_now(c, &f)) {
            return -EIO;
        }
        cmd.type = f.cache ? NBD_CACHE : NBD_READ;
    }
    if (cmd.type == NBD_READ && iov->niov == 1) {
        cmd.buf = iov->iov[0].iov_base;
    } else if (cmd.type == NBD_READ) {
        cmd.buf = bounce = block_try_alloc(iov->size);
        if (!bounce) {
            return -ENOMEM;
        }
    }
    ret = run(c, &cmd);
    if (bounce) {
        if (ret == 0) {
            iov_from_buf(iov, 0, bounce, iov->size);
        }
        free(bounce);
    }
    return ret;
}

static int coroutine_fn flush(NbdClient *c)
{
    NbdCommand cmd = {.type = NBD_FLUSH};
    NbdFacts f;

    if (!facts_now(c, &f)) {
        return -EIO;
    }
    return f.flush ? run(c, &cmd) : 0;
}

int coroutine_fn nbd_node_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                  unsigned flags)
{
    NbdClient *c = client_of(n);
    NbdCommand cmd = {.type = NBD_WRITE, .offset = offset.v, .bytes = iov->size};
    bool fua = flags & REQ_FUA;
    void *bounce = NULL;
    NbdFacts f;
    int ret;

    (void)r;
    if (fua) {
        if (!facts_now(c, &f)) {
            return -EIO;
        }
        cmd.flags = f.fua ? LIBNBD_CMD_FLAG_FUA : 0;
        fua = !f.fua;
    }
    if (iov->niov == 1) {
        cmd.buf = iov->iov[0].iov_base;
    } else {
        cmd.buf = bounce = block_try_alloc(iov->size);
        if (!bounce) {
            return -ENOMEM;
        }
        iov_to_buf(iov, 0, bounce, iov->size);
    }
    ret = run(c, &cmd);
    free(bounce);
    return ret == 0 && fua ? flush(c) : ret;
}

int coroutine_fn nbd_node_pwrite_zeroes(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                        unsigned flags)
{
    NbdClient *c = client_of(n);
    NbdCommand cmd = {.type = NBD_ZEROES, .offset = offset.v, .bytes = bytes};
    NbdFacts f;

    (void)r;
    if (!facts_now(c, &f)) {
        return -EIO;
    }
    if (!f.zero || ((flags & REQ_NO_FALLBACK) && !f.fast_zero)) {
        return -ENOTSUP;
    }
    cmd.flags = (flags & REQ_MAY_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE) |
                (flags & REQ_NO_FALLBACK ? LIBNBD_CMD_FLAG_FAST_ZERO : 0);
    return run(c, &cmd);
}

int coroutine_fn nbd_node_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    NbdClient *c = client_of(n);
    NbdCommand cmd = {.type = NBD_TRIM, .offset = offset.v, .bytes = bytes};
    NbdFacts f;

    (void)r;
    if (!facts_now(c, &f)) {
        return -EIO;
    }
    return f.trim ? run(c, &cmd) : -ENOTSUP;
}

int coroutine_fn nbd_node_flush(Node *n, Request *r)
{
    (void)r;
    return flush(client_of(n));
}

int coroutine_fn nbd_node_block_status(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                       unsigned flags, bool precise, uint64_t *ret_bytes,
                                       HostOffset *ret_map)
{
    NbdClient *c = client_of(n);
    uint64_t max = UINT32_MAX & ~(uint64_t)(MAX(n->limits.request_alignment, 4096) - 1);
    NbdCommand cmd = {.type = NBD_STATUS,
                      .offset = offset.v,
                      .bytes = MIN(bytes, max),
                      .context = c->target.context,
                      .flags = LIBNBD_CMD_FLAG_REQ_ONE};
    uint64_t align = n->limits.request_alignment;
    NbdFacts f;
    int ret;

    (void)r;
    (void)flags;
    (void)precise;
    if (!facts_now(c, &f)) {
        return -EIO;
    }
    *ret_bytes = bytes;
    if (ret_map) {
        *ret_map = host(offset.v);
    }
    if (!f.context) {
        return STATUS_DATA | STATUS_ALLOCATED | STATUS_OFFSET_VALID;
    }
    ret = run(c, &cmd);
    if (ret < 0) {
        return ret;
    }
    if (cmd.extent_bytes == 0) {
        return -EIO; /* no answer for our context */
    }
    *ret_bytes = MIN(cmd.extent_bytes, cmd.bytes);
    if (*ret_bytes < align) {
        /* Less than it may say; what is in one block of ours together has to be read. */
        *ret_bytes = align;
        return STATUS_DATA | STATUS_ALLOCATED | STATUS_OFFSET_VALID;
    }
    *ret_bytes -= *ret_bytes % align;
    if (c->shows_depth) {
        /* 0: in no layer, so zeroes; 1: in the top layer, told like a marked part of a bitmap; more: further down. */
        return (cmd.extent_flags == 0   ? STATUS_ZERO
                : cmd.extent_flags == 1 ? 0
                                        : STATUS_DATA) |
               STATUS_ALLOCATED | STATUS_OFFSET_VALID;
    }
    return (cmd.extent_flags & LIBNBD_STATE_ZERO ? STATUS_ZERO : 0) |
           (cmd.extent_flags & LIBNBD_STATE_HOLE ? 0 : STATUS_DATA) | STATUS_ALLOCATED |
           STATUS_OFFSET_VALID;
}

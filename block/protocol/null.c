/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The drivers `null-co` and `null-aio`: a disk that forgets what is written to it.
 *
 * Two names of one thing: here requests are always coroutines.  Reading gives zeroes whether or not
 * read-zeroes says so: to leave the reader's memory as it is would show a client what somebody else
 * had in it.  read-zeroes=on only lets block status say that it is so.
 */
#include "block/driver.h"
#include "qapi-types.h"
#include <inttypes.h>

#define NULL_DEFAULT_SIZE (UINT64_C(1) << 30)
#define NULL_SECTOR       UINT64_C(512)

/* Constant after open, but for the node's size. */
typedef struct NullState {
    int64_t latency_ns;
    bool read_zeroes;
} NullState;

static bool coroutine_fn null_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    const BlockdevOptionsNull *o =
        options->driver == BLOCKDEV_DRIVER_NULL_AIO ? &options->u.null_aio : &options->u.null_co;
    NullState *s = n->state;

    if (o->has_size && (uint64_t)o->size > BLOCK_MAX_SIZE) {
        error_set(errp, ERROR_INVALID, n->name, "open",
                  "Parameter 'size' expects a number of bytes from 0 to %" PRIu64, BLOCK_MAX_SIZE);
        return false;
    }
    if (o->has_latency_ns && (uint64_t)o->latency_ns > INT64_MAX) {
        error_set(errp, ERROR_INVALID, n->name, "open", "latency-ns is invalid");
        return false;
    }
    s->latency_ns = o->has_latency_ns ? (int64_t)o->latency_ns : 0;
    s->read_zeroes = o->has_read_zeroes && o->read_zeroes;
    atomic_store(&n->size, o->has_size ? ((uint64_t)o->size + NULL_SECTOR - 1) & ~(NULL_SECTOR - 1)
                                       : NULL_DEFAULT_SIZE);
    n->filename = g_strdup_printf("%s://", n->driver->name);
    return true;
}

static int coroutine_fn wait_latency(const Node *n)
{
    const NullState *s = n->state;

    if (s->latency_ns > 0) {
        co_sleep_ns(s->latency_ns);
    }
    return 0;
}

static int coroutine_fn null_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                    unsigned flags)
{
    (void)r;
    (void)offset;
    (void)flags;
    iov_memset(iov, 0, 0, iov->size);
    return wait_latency(n);
}

static int coroutine_fn null_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                     unsigned flags)
{
    (void)r;
    (void)offset;
    (void)iov;
    (void)flags;
    return wait_latency(n);
}

static int coroutine_fn null_pwrite_zeroes(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                           unsigned flags)
{
    (void)r;
    (void)offset;
    (void)bytes;
    (void)flags;
    return wait_latency(n);
}

static int coroutine_fn null_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    (void)r;
    (void)offset;
    (void)bytes;
    return wait_latency(n);
}

static int coroutine_fn null_flush(Node *n, Request *r)
{
    (void)r;
    return wait_latency(n);
}

static int coroutine_fn null_truncate(Node *n, Request *r, uint64_t size, bool exact)
{
    (void)r;
    (void)exact;
    atomic_store(&n->size, (size + NULL_SECTOR - 1) & ~(NULL_SECTOR - 1));
    return 0;
}

static int coroutine_fn null_block_status(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                          unsigned flags, bool precise, uint64_t *ret_bytes,
                                          HostOffset *ret_map)
{
    const NullState *s = n->state;

    (void)r;
    (void)flags;
    (void)precise;
    *ret_bytes = bytes;
    if (ret_map) {
        *ret_map = host(offset.v);
    }
    return (s->read_zeroes ? STATUS_ZERO | STATUS_ALLOCATED : STATUS_DATA | STATUS_ALLOCATED) |
           STATUS_OFFSET_VALID;
}

static bool null_facts(Node *n, ImageFacts *ret_facts, Error **errp)
{
    (void)n;
    (void)errp;
    *ret_facts = (ImageFacts){.actual_size = 0};
    return true;
}

/* "null-co://" */
static struct json_object *null_parse_name(const char *name, Error **errp)
{
    g_autofree char *driver = g_strndup(name, strchr(name, ':') - name);
    struct json_object *o = json_object_new_object();

    (void)errp;
    json_object_object_add(o, "driver", json_object_new_string(driver));
    return o;
}

/* Nothing of its own can change. */
static bool coroutine_fn null_reopen_prepare(Node *n, struct Reopen *r, Error **errp)
{
    (void)n;
    (void)r;
    (void)errp;
    return true;
}

#define NULL_DRIVER(name_, protocols_)                                                             \
    {                                                                                              \
        .name = name_, .is_protocol = true, .protocols = protocols_,                               \
        .parse_name = null_parse_name, .state_size = sizeof(NullState), .open = null_open,         \
        .reopen_prepare = null_reopen_prepare, .preadv = null_preadv, .pwritev = null_pwritev,     \
        .has_fua = true, .pwrite_zeroes = null_pwrite_zeroes, .pdiscard = null_pdiscard,           \
        .flush = null_flush, .truncate = null_truncate, .block_status = null_block_status,         \
        .facts = null_facts,                                                                       \
    }

static const char *const co_protocols[] = {"null-co", NULL};
static const char *const aio_protocols[] = {"null-aio", NULL};

const BlockDriver driver_null_co = NULL_DRIVER("null-co", co_protocols);
const BlockDriver driver_null_aio = NULL_DRIVER("null-aio", aio_protocols);

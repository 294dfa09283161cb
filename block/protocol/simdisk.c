/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver `simdisk`: nodes on the disks of the default simulated machine
 * (include/block/simdisk.h).
 *
 *   size        bytes of a new disk
 *   filename    a file of the host: a new disk has its content; when the node is closed the disk's
 *               is written back to it - what a reader sees, or, once the power has failed, what the
 *               failure left (with seed 0)
 *   log         a file for the record, a line an operation
 *   fail-after  the machine's operation of that number fails, with fail-errno (EIO)
 *   stop-after  the power fails when that operation has completed
 *
 * A disk's name is `filename`, or the node's name.  It outlives its node: a node opened later under
 * the same name finds it as it was.
 */
#include "block/driver.h"
#include "qapi-types.h"
#include "sim-internal.h"
#include "util/log.h"
#include "util/worker.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define SIM_DEFAULT_SIZE (UINT64_C(64) << 20)

typedef struct SimState {
    SimDisk *disk;
    CoMutex resize_lock;
} SimState;

static SimDisk *disk_of(const Node *n)
{
    return ((SimState *)n->state)->disk;
}

/* ---- opening ---- */

typedef struct OpenJob {
    const Node *node;
    const BlockdevOptionsSimdisk *o;
    SimDisk *disk;
    Error **errp;
} OpenJob;

static uint64_t round_up(uint64_t v)
{
    return (v + SIM_SECTOR - 1) & ~(uint64_t)(SIM_SECTOR - 1);
}

static bool has_disk(SimMachine *m, const char *name)
{
    uint64_t size;

    return simmachine_size(m, name, &size);
}

static int open_on_worker(void *opaque)
{
    OpenJob *j = opaque;
    SimMachine *m = simmachine_default();
    const char *name = j->o->filename ? j->o->filename : j->node->name;
    uint64_t size = j->o->has_size ? round_up(j->o->size) : SIM_DEFAULT_SIZE;

    if (j->o->filename && !has_disk(m, name) && access(name, F_OK) == 0 &&
        !simmachine_load(m, name, name, j->errp)) {
        return -1;
    }
    if (j->o->log && !simmachine_set_log(m, j->o->log, j->errp)) {
        return -1;
    }
    j->disk = simdisk_get(m, name, size, j->errp);
    if (!j->disk) {
        return -1;
    }
    if (!sim_take(j->disk)) {
        error_set(j->errp, ERROR_BUSY, name, "open", "Simulated disk '%s' has another node", name);
        return -1;
    }
    return 0;
}

static bool coroutine_fn sim_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    const BlockdevOptionsSimdisk *o = &options->u.simdisk;
    OpenJob j = {.node = n, .o = o, .errp = errp};
    SimState *s = n->state;

    if (o->has_fail_errno && (o->fail_errno <= 0 || o->fail_errno > 4095)) {
        error_set(errp, ERROR_INVALID, n->name, "open",
                  "Parameter 'fail-errno' expects an errno value");
        return false;
    }
    if (o->has_size && (o->size < 0 || (uint64_t)o->size > SIM_SIZE_MAX)) {
        error_set(errp, ERROR_INVALID, n->name, "open",
                  "Parameter 'size' expects a number of bytes from 0 to %" PRIu64, SIM_SIZE_MAX);
        return false;
    }
    if (worker_run(WORKERS_CONTROL, open_on_worker, &j) < 0) {
        return false;
    }
    if (o->has_fail_after) {
        simmachine_fail(simmachine_default(), o->fail_after,
                        o->has_fail_errno ? o->fail_errno : EIO);
    }
    if (o->has_stop_after) {
        simmachine_stop(simmachine_default(), o->stop_after);
    }
    s->disk = j.disk;
    co_mutex_init(&s->resize_lock);
    n->filename = g_strdup_printf("simdisk:%s", o->filename ? o->filename : n->name);
    n->limits.request_alignment = SIM_SECTOR;
    atomic_store(&n->size, simdisk_size(s->disk));
    return true;
}

/* ---- requests ---- */

static void coroutine_fn linger(const Node *n)
{
    int64_t ns = sim_latency(disk_of(n)->machine);

    if (ns > 0) {
        co_sleep_ns(ns);
    }
}

static int coroutine_fn operate(Node *n, SimOpKind kind, uint64_t offset, uint64_t bytes,
                                const void *data)
{
    SimDisk *d = disk_of(n);
    SimTicket t = sim_issue(d, kind, offset, bytes, data);

    linger(n);
    sim_apply(d, t);
    linger(n);
    return sim_complete(d, t);
}

static int coroutine_fn sim_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                   unsigned flags)
{
    g_autofree uint8_t *buf = g_try_malloc(iov->size);
    int ret;

    (void)r;
    (void)flags;
    if (!buf) {
        return -ENOMEM;
    }
    linger(n);
    ret = sim_read(disk_of(n), offset.v, buf, iov->size);
    linger(n);
    if (ret == 0) {
        iov_from_buf(iov, 0, buf, iov->size);
    }
    return ret;
}

static int coroutine_fn sim_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                    unsigned flags)
{
    g_autofree uint8_t *buf = g_try_malloc(iov->size);

    (void)r;
    (void)flags;
    if (!buf) {
        return -ENOMEM;
    }
    iov_to_buf(iov, 0, buf, iov->size);
    return operate(n, SIM_WRITE, offset.v, iov->size, buf);
}

static int coroutine_fn sim_pwrite_zeroes(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                          unsigned flags)
{
    (void)r;
    (void)flags;
    return operate(n, SIM_ZERO, offset.v, bytes, NULL);
}

static int coroutine_fn sim_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    (void)r;
    return operate(n, SIM_DISCARD, offset.v, bytes, NULL);
}

static int coroutine_fn sim_flush(Node *n, Request *r)
{
    (void)r;
    return operate(n, SIM_FLUSH, 0, 0, NULL);
}

static int coroutine_fn sim_truncate(Node *n, Request *r, uint64_t size, bool exact)
{
    SimState *s = n->state;
    int ret;

    (void)r;
    (void)exact;
    size = round_up(size);
    if (size > SIM_SIZE_MAX) {
        return -EFBIG;
    }
    co_mutex_lock(&s->resize_lock);
    if (size < atomic_load(&n->size)) {
        atomic_store(&n->size, size);
    }
    ret = operate(n, SIM_TRUNCATE, 0, size, NULL);
    atomic_store(&n->size, simdisk_size(s->disk));
    co_mutex_unlock(&s->resize_lock);
    return ret;
}

static int coroutine_fn sim_block_status(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                         unsigned flags, bool precise, uint64_t *ret_bytes,
                                         HostOffset *ret_map)
{
    bool data = sim_has_data(disk_of(n), offset.v, bytes, ret_bytes);

    (void)r;
    (void)flags;
    (void)precise;
    if (ret_map) {
        *ret_map = host(offset.v);
    }
    return (data ? STATUS_DATA : STATUS_ZERO) | STATUS_ALLOCATED | STATUS_OFFSET_VALID;
}

/* ---- closing ---- */

static int save_on_worker(void *opaque)
{
    const char *name = opaque;
    SimMachine *m = simmachine_default();
    g_autoptr(Error) err = NULL;
    bool ok;

    if (simmachine_stopped(m)) {
        ok = simmachine_rebuild(m, simmachine_time(m), 0, name, name, &err);
    } else {
        ok = simmachine_save(m, name, name, &err);
    }
    if (!ok) {
        log_error("%s", err->message);
    }
    return 0;
}

static void coroutine_fn sim_close(Node *n)
{
    SimState *s = n->state;

    if (atomic_load(&n->write_gen) != atomic_load(&n->flushed_gen)) {
        operate(n, SIM_FLUSH, 0, 0, NULL);
    }
    if (n->options->u.simdisk.filename && !n->user_read_only) {
        worker_run(WORKERS_CONTROL, save_on_worker, n->options->u.simdisk.filename);
    }
    sim_give_back(s->disk);
    co_mutex_destroy(&s->resize_lock);
}

const BlockDriver driver_simdisk = {
    .name = "simdisk",
    .is_protocol = true,
    .state_size = sizeof(SimState),
    .open = sim_open,
    .close = sim_close,
    .preadv = sim_preadv,
    .pwritev = sim_pwritev,
    .pwrite_zeroes = sim_pwrite_zeroes,
    .pdiscard = sim_pdiscard,
    .flush = sim_flush,
    .truncate = sim_truncate,
    .block_status = sim_block_status,
};

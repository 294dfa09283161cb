/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The filter `blklogwrites`: what was written, flushed and discarded goes into a log, from which every state that a crash could have
 * left can be made again.
 *
 * The log has the format of the Linux kernel's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst).  All numbers are little
 * endian; everything begins at a multiple of the log's sector size:
 *
 *     superblock   magic (8 bytes), version 1 (8), number of entries (8), sector size (4)
 *     entry        sector (8), number of sectors (8), flags (8), length of the data (8); the data follows in the next sector
 *
 * Invariants
 *  L1  an entry is made when its request has ended, before its client is told; so what is before a flush in the log is what the flush covers,
 *      or ended while it was under way.
 *  L2  writes that overlap are in the log in the order in which they reached the file: each holds its range until it is in the log.
 *  L3  the superblock counts no entry that is not written completely; after a flush it counts all, durably.
 *
 * Lock order: ranges, log_lock, the locks of the children.
 */
#include "filter.h"
#include "qapi-types.h"
#include "util/log.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_MAGIC        UINT64_C(0x6a736677736872)
#define LOG_VERSION      1
#define LOG_FLUSH        (1u << 0)
#define LOG_FUA          (1u << 1)
#define LOG_DISCARD      (1u << 2)
#define SECTOR_MIN       512u
#define SECTOR_MAX       (8u << 20)
#define SUPER_LENGTH     28
#define ENTRY_LENGTH     32
#define DEFAULT_INTERVAL 4096

typedef struct LogState {
    /* ---- constant after open ---- */
    Edge *log;
    uint32_t sector; /* bytes, a power of two */
    uint64_t interval;
    CoRangeLock ranges;
    CoMutex log_lock;
    /* ---- log_lock ---- */
    bool begun;      /* there is a superblock */
    uint64_t next;   /* where the next entry goes, bytes */
    uint64_t count;  /* entries */
    uint64_t stated; /* of them, in the superblock */
} LogState;

static void put64(uint8_t *at, uint64_t v)
{
    v = GUINT64_TO_LE(v);
    memcpy(at, &v, sizeof(v));
}

static uint64_t get64(const uint8_t *at)
{
    uint64_t v;

    memcpy(&v, at, sizeof(v));
    return GUINT64_FROM_LE(v);
}

static uint64_t round_up(const LogState *s, uint64_t v)
{
    return (v + s->sector - 1) & ~(uint64_t)(s->sector - 1);
}

/* ---- the log ---- */

/* With log_lock.  A file that is too short becomes longer; space that is not given is an error. */
static int coroutine_fn log_pwritev(LogState *s, Request *r, uint64_t at, const IoVector *iov)
{
    uint64_t end = at + iov->size;
    int ret = 0;

    if (end > edge_size(s->log, r)) {
        ret = edge_truncate(s->log, r, end, false);
        ret = ret == -ENOTSUP ? -ENOSPC : ret;
    }
    return ret < 0 ? ret : edge_pwritev(s->log, r, guest(at), iov, 0);
}

/* One sector that begins with `len` bytes. */
static int coroutine_fn write_sector(LogState *s, Request *r, uint64_t at, const void *data,
                                     size_t len)
{
    uint8_t *buf = block_try_alloc(s->sector);
    IoVector v;
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    memset(buf, 0, s->sector);
    memcpy(buf, data, len);
    iov_init_buf(&v, buf, s->sector);
    ret = log_pwritev(s, r, at, &v);
    free(buf);
    return ret;
}

/* With log_lock. */
static int coroutine_fn write_super(LogState *s, Request *r)
{
    uint8_t super[SUPER_LENGTH] = {0};
    uint32_t sector = GUINT32_TO_LE(s->sector);
    int ret;

    put64(super, LOG_MAGIC);
    put64(super + 8, LOG_VERSION);
    put64(super + 16, s->count);
    memcpy(super + 24, &sector, sizeof(sector));
    ret = write_sector(s, r, 0, super, sizeof(super));
    if (ret == 0) {
        s->begun = true;
        s->stated = s->count;
    }
    return ret;
}

/* With log_lock.  iov: NULL: no data, or zeroes if `bytes` of data are there all the same. */
static int coroutine_fn write_entry(LogState *s, Request *r, uint64_t offset, uint64_t bytes,
                                    unsigned flags, const IoVector *iov)
{
    uint64_t data = flags & LOG_DISCARD ? 0 : bytes;
    uint8_t entry[ENTRY_LENGTH];
    int ret = s->begun ? 0 : write_super(s, r);

    put64(entry, offset / s->sector);
    put64(entry + 8, bytes / s->sector);
    put64(entry + 16, flags);
    put64(entry + 24, data);
    ret = ret < 0 ? ret : write_sector(s, r, s->next, entry, sizeof(entry));
    if (ret == 0 && iov) {
        ret = log_pwritev(s, r, s->next + s->sector, iov);
    } else if (ret == 0 && data > 0) {
        if (s->next + s->sector + data > edge_size(s->log, r)) {
            ret = edge_truncate(s->log, r, s->next + s->sector + data, false);
        }
        ret = ret < 0
                  ? ret
                  : edge_pwrite_zeroes(s->log, r, guest(s->next + s->sector), data, REQ_MAY_UNMAP);
    }
    if (ret == 0) {
        s->next += s->sector + round_up(s, data);
        s->count++;
    }
    return ret;
}

/* What ended goes into the log. */
static int coroutine_fn log_request(Node *n, Request *r, uint64_t offset, uint64_t bytes,
                                    unsigned flags, const IoVector *iov)
{
    LogState *s = n->state;
    bool durable = flags & (LOG_FLUSH | LOG_FUA);
    int ret;

    co_mutex_lock(&s->log_lock);
    ret = write_entry(s, r, offset, bytes, flags, iov);
    if (ret == 0 && (durable || s->count - s->stated >= s->interval)) {
        ret = write_super(s, r);
    }
    co_mutex_unlock(&s->log_lock);
    return ret == 0 && durable ? edge_flush(s->log, r) : ret;
}

/* ---- opening ---- */

static bool invalid(const Node *n, Error **errp, const char *what, uint64_t v)
{
    error_set(errp, ERROR_INVALID, n->name, "open", "%s %" G_GUINT64_FORMAT, what, v);
    return false;
}

static bool sector_is_valid(uint64_t v)
{
    return v >= SECTOR_MIN && v < SECTOR_MAX && (v & (v - 1)) == 0;
}

static bool coroutine_fn read_log(Node *n, Request *r, uint64_t at, uint8_t *buf, size_t len,
                                  Error **errp)
{
    LogState *s = n->state;
    int ret =
        at + len > edge_size(s->log, r) ? -EIO : edge_pread(s->log, r, guest(at), buf, len, 0);

    if (ret < 0) {
        error_set_errno(errp, -ret, n->name, "open", "Could not read the log at %" G_GUINT64_FORMAT,
                        at);
    }
    return ret == 0;
}

/* Behind the last entry. */
static bool coroutine_fn find_end(Node *n, Request *r, uint64_t count, Error **errp)
{
    LogState *s = n->state;
    uint64_t size = edge_size(s->log, r);
    uint8_t entry[ENTRY_LENGTH];

    s->next = s->sector;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t data;

        if (!read_log(n, r, s->next, entry, sizeof(entry), errp)) {
            return false;
        }
        data = get64(entry + 16) & LOG_DISCARD ? 0 : get64(entry + 24);
        if (data > size || s->next + s->sector + round_up(s, data) > round_up(s, size)) {
            return invalid(n, errp, "Log ends inside of entry", i);
        }
        s->next += s->sector + round_up(s, data);
    }
    s->count = s->stated = count;
    s->begun = true;
    return true;
}

static bool coroutine_fn continue_log(Node *n, Request *r, Error **errp)
{
    LogState *s = n->state;
    uint8_t super[SUPER_LENGTH];
    uint32_t sector;

    if (!read_log(n, r, 0, super, sizeof(super), errp)) {
        return false;
    }
    if (get64(super) != LOG_MAGIC) {
        error_set(errp, ERROR_INVALID, n->name, "open", "Invalid log superblock magic");
        return false;
    }
    if (get64(super + 8) != LOG_VERSION) {
        return invalid(n, errp, "Unsupported log version", get64(super + 8));
    }
    memcpy(&sector, super + 24, sizeof(sector));
    s->sector = GUINT32_FROM_LE(sector);
    if (!sector_is_valid(s->sector)) {
        return invalid(n, errp, "Invalid log sector size", s->sector);
    }
    return find_end(n, r, get64(super + 16), errp);
}

static bool check_options(const Node *n, const BlockdevOptionsBlklogwrites *o, Error **errp)
{
    if (o->has_log_append && o->log_append && o->has_log_sector_size) {
        error_set(errp, ERROR_INVALID, n->name, "open",
                  "log-append and log-sector-size are mutually exclusive");
        return false;
    }
    if (o->has_log_sector_size && !sector_is_valid(o->log_sector_size)) {
        return invalid(n, errp, "Invalid log sector size", o->log_sector_size);
    }
    if (o->has_log_super_update_interval && o->log_super_update_interval == 0) {
        return invalid(n, errp, "Invalid log superblock update interval", 0);
    }
    return true;
}

static bool coroutine_fn begin_log(Node *n, const BlockdevOptionsBlklogwrites *o, Error **errp)
{
    LogState *s = n->state;
    Request r;
    bool ok = true;

    s->sector = o->has_log_sector_size ? (uint32_t)o->log_sector_size : SECTOR_MIN;
    s->interval =
        o->has_log_super_update_interval ? o->log_super_update_interval : DEFAULT_INTERVAL;
    request_begin(&r, REQUEST_WRITE);
    if (o->has_log_append && o->log_append) {
        ok = continue_log(n, &r, errp);
    } else {
        s->next = s->sector;
        if (!atomic_load(&n->read_only)) {
            int ret = write_super(s, &r);

            if (ret < 0) {
                error_set_errno(errp, -ret, n->name, "open", "Could not write the log");
                ok = false;
            }
        }
    }
    request_end(&r);
    n->limits.request_alignment = s->sector;
    return ok;
}

static bool coroutine_fn log_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    const BlockdevOptionsBlklogwrites *o = &options->u.blklogwrites;
    LogState *s = n->state;

    if (!check_options(n, o, errp) || !filter_open_file(n, o->file, errp) ||
        !node_open_child(n, o->log, "log", EDGE_STORAGE, errp)) {
        return false;
    }
    s->log = g_ptr_array_index(n->children, n->children->len - 1);
    if (!begin_log(n, o, errp)) {
        return false;
    }
    co_range_lock_init(&s->ranges);
    co_mutex_init(&s->log_lock);
    return true;
}

static void coroutine_fn log_close(Node *n)
{
    LogState *s = n->state;
    Request r;
    int ret = 0;

    if (!atomic_load(&n->read_only) && s->stated != s->count) {
        request_begin(&r, REQUEST_WRITE);
        ret = write_super(s, &r);
        request_end(&r);
    }
    if (ret < 0) {
        log_warn("%s: the number of entries could not be written into the log: %s", n->name,
                 g_strerror(-ret));
    }
    co_mutex_destroy(&s->log_lock);
    co_range_lock_destroy(&s->ranges);
}

static void log_child_perm(const Node *n, EdgeRole role, unsigned parent_perm,
                           unsigned parent_shared, unsigned *perm, unsigned *shared)
{
    if (role == EDGE_FILTERED) {
        filter_child_perm(n, role, parent_perm, parent_shared, perm, shared);
        return;
    }
    *perm = PERM_CONSISTENT_READ;
    if (!node_will_be_read_only(n)) {
        *perm |= PERM_WRITE | PERM_RESIZE;
    }
    *shared = PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED;
}

/* ---- requests ---- */

static int coroutine_fn log_pwritev_request(Node *n, Request *r, GuestOffset offset,
                                            const IoVector *iov, unsigned flags)
{
    LogState *s = n->state;
    void *buf = block_try_alloc(iov->size); /* the log gets what the file gets */
    IoVector flat;
    CoRange range;
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    iov_to_buf(iov, 0, buf, iov->size);
    iov_init_buf(&flat, buf, iov->size);
    co_range_lock(&s->ranges, &range, offset.v, iov->size, false);
    ret = edge_pwritev(n->file, r, offset, &flat, flags);
    if (ret == 0) {
        ret = log_request(n, r, offset.v, iov->size, flags & REQ_FUA ? LOG_FUA : 0, &flat);
    }
    co_range_unlock(&s->ranges, &range);
    free(buf);
    return ret;
}

static int coroutine_fn log_pwrite_zeroes(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                          unsigned flags)
{
    LogState *s = n->state;
    CoRange range;
    int ret;

    co_range_lock(&s->ranges, &range, offset.v, bytes, false);
    ret = edge_pwrite_zeroes(n->file, r, offset, bytes, flags);
    if (ret == 0) {
        ret = log_request(n, r, offset.v, bytes, flags & REQ_FUA ? LOG_FUA : 0, NULL);
    }
    co_range_unlock(&s->ranges, &range);
    return ret;
}

static int coroutine_fn log_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    LogState *s = n->state;
    CoRange range;
    int ret;

    co_range_lock(&s->ranges, &range, offset.v, bytes, false);
    ret = edge_pdiscard(n->file, r, offset, bytes);
    if (ret == 0) {
        ret = log_request(n, r, offset.v, bytes, LOG_DISCARD, NULL);
    }
    co_range_unlock(&s->ranges, &range);
    return ret;
}

/* The flush first, then its entry (L1); the one that follows has nothing left to do. */
static int coroutine_fn log_flush(Node *n, Request *r)
{
    int ret = edge_flush(n->file, r);

    return ret < 0 ? ret : log_request(n, r, 0, 0, LOG_FLUSH, NULL);
}

const BlockDriver driver_blklogwrites = {
    .name = "blklogwrites",
    .is_filter = true,
    .state_size = sizeof(LogState),
    .open = log_open,
    .close = log_close,
    .child_perm = log_child_perm,
    .child_resized = filter_child_resized,
    .preadv = filter_preadv,
    .pwritev = log_pwritev_request,
    .has_fua = true, /* passed on */
    .pwrite_zeroes = log_pwrite_zeroes,
    .pdiscard = log_pdiscard,
    .flush = log_flush,
    .truncate = filter_truncate,
};

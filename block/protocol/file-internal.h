/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver `file`: what its parts share; private to block/protocol.
 *
 *   file.c       options, opening and closing
 *   file-perm.c  locks and descriptors that follow permissions
 *   file-io.c    requests
 *   file-reopen.c  other options
 *   file-device.c  what is different if the file is a device: the driver `host_device`
 *   file-beside.c  jobs' writes beside guests'
 *
 * The one descriptor number.  `fd` is a number that stays the same from open to close.  When the
 * file is to be used read-only or writable from now on, a new description of it is made beside,
 * gets its locks, and is put under the same number by dup3(2).  So requests, which use the number,
 * need no lock, and those in flight end on the description they began with.
 *
 * Lock order: control_lock; resize_lock; status_lock (innermost, never across a yield).
 */
#ifndef BLOCK_PROTOCOL_FILE_INTERNAL_H
#define BLOCK_PROTOCOL_FILE_INTERNAL_H

#include "block/driver.h"
#include "file-lock.h"
#include <fcntl.h>

/* Sizes of nodes are whole sectors; what a file has less of the last one reads as zeroes. */
#define FILE_SECTOR 512u

typedef struct FileRange {
    uint64_t start, end; /* end 0: nothing */
} FileRange;

typedef struct FileState {
    /* ---- any thread ---- */
    int fd;                     /* constant */
    bool device;                /* constant: the driver is host_device */
    uint32_t sector;            /* constant; of a device, bytes */
    _Atomic bool no_zero_range; /* the file system refused it once */
    _Atomic bool no_punch_hole;
    _Atomic bool no_discard;                               /* of a device */
    _Atomic uint64_t discards, discards_failed, discarded; /* statistics: requests; bytes */
    _Atomic uint64_t shape_seq;  /* changes when an operation that frees space begins or ends */
    pthread_mutex_t status_lock; /* protects: */
    uint64_t data_start, data_end, data_seq; /* a range of data, as of shape_seq == data_seq */
    FileRange beside;    /* what background loops have written since write-behind was asked for */
    FileRange behind;    /* what it handed to storage then */
    CoMutex resize_lock; /* one truncate at a time */
    /* file-beside.c: background loops' ... */
    _Atomic uint64_t writes_seen;    /* of guest_writes */
    _Atomic int64_t contended_until; /* clock_ns() */
    char apart[64];                  /* ... and what guests' threads write */
    _Atomic uint64_t guest_writes;
    /* ---- control thread and its workers ---- */
    CoMutex control_lock; /* from perm_prepare to its commit or abort; during ro_commit */
    bool locking;
    bool writable; /* fd can write */
    FileLocks held;
    /* from perm_prepare to its commit or abort */
    bool preparing;
    FileLocks next;  /* what will be held */
    FileLocks extra; /* of it, what is taken beside held */
    int next_fd;     /* to be put under fd; holds held | extra; -1: fd stays as it is */
    int old_dup; /* duplicate of fd, by which its locks are given up in the end; -1: as next_fd */
    bool next_writable;
    NodeLimits next_limits;
    /* from ro_prepare to its commit or abort */
    int ro_fd;  /* -1: none */
    int ro_dup; /* a number for what fd is open on at commit; -1: none */
} FileState;

static inline FileState *file_state(const Node *n)
{
    return n->state;
}

/* ---- file-device.c ---- */
/* Bytes in what fd is open on, or a negative errno.  Blocks. */
int64_t file_length(const Node *n, int fd);
/* False: the device says that it cannot be written. */
bool file_device_writable(int fd);
void file_not_writable(const Node *n, Error **errp);
/* What fd demands of requests, opened with O_DIRECT if direct.  Blocks. */
NodeLimits file_limits(const Node *n, int fd, bool direct);
int coroutine_fn file_device_discard(Node *n, uint64_t offset, uint64_t bytes);
int coroutine_fn file_device_truncate(Node *n, Request *r, uint64_t size, bool exact);

/* ---- file-stats.c ---- */
struct BlockStatsSpecific *file_stats(const Node *n);

/* ---- file-perm.c ---- */
int file_open_flags(const Node *n, bool writable);
bool coroutine_fn file_perm_prepare(Node *n, unsigned perm, unsigned shared, Error **errp);
void file_perm_commit(Node *n, unsigned perm, unsigned shared);
void file_perm_abort(Node *n);
bool coroutine_fn file_ro_prepare(Node *n, Error **errp);
void coroutine_fn file_ro_commit(Node *n);
void coroutine_fn file_ro_abort(Node *n);

/* ---- file-reopen.c ---- */
extern const char *const file_reopen_options[];
bool coroutine_fn file_reopen_prepare(Node *n, struct Reopen *r, Error **errp);
bool coroutine_fn file_reopen_load(Node *n, struct Reopen *r, Error **errp);
void coroutine_fn file_reopen_switch(Node *n, struct Reopen *r);
/* True if the file that fd is open on may be opened for writing. */
bool file_can_write(const char *name, int fd);

/* ---- file-io.c ---- */
uint64_t file_node_size(uint64_t file_size);
int coroutine_fn file_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                             unsigned flags);
int coroutine_fn file_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                              unsigned flags);
int coroutine_fn file_pwrite_zeroes(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                    unsigned flags);
int coroutine_fn file_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes);
int coroutine_fn file_write_rest(Node *n, GuestOffset offset, const IoVector *iov, size_t done);

/* ---- file-beside.c ---- */
/* Before a write of a loop that does not work in the background. */
void file_beside_count(FileState *s);
/* See driver->is_contended(). */
bool coroutine_fn file_is_contended(Node *n, Request *r);
/* file_pwritev() of one that does. */
int coroutine_fn file_write_beside(Node *n, GuestOffset offset, const IoVector *iov);

/* file-writeout.c */
void coroutine_fn file_write_out(Node *n);
void coroutine_fn file_write_behind(Node *n);
int coroutine_fn file_flush(Node *n, Request *r);
int coroutine_fn file_truncate(Node *n, Request *r, uint64_t size, bool exact);
int coroutine_fn file_block_status(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                   unsigned flags, bool precise, uint64_t *ret_bytes,
                                   HostOffset *ret_map);

#endif

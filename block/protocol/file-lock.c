/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Locks on image files; file-lock.h has the scheme.
 */
#include "file-lock.h"
#include "block/file.h"
#include "util/log.h"
#include "util/loop.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#define BYTE_USED     100
#define BYTE_UNSHARED 200
#define PERM_COUNT    4

static const char *const perm_text[PERM_COUNT] = {
    "consistent read",
    "write",
    "write unchanged",
    "resize",
};

/* 0 or a negative errno. */
static int lock_byte(int fd, int type, off_t byte)
{
    struct flock fl = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int ret;

    do {
        ret = fcntl(fd, F_OFD_SETLK, &fl);
    } while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : 0;
}

/* 1: nobody else has a lock on the byte; 0: somebody has; or a negative errno. */
static int byte_is_free(int fd, off_t byte)
{
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int ret;

    do {
        ret = fcntl(fd, F_OFD_GETLK, &fl);
    } while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : fl.l_type == F_UNLCK;
}

bool file_lock_supported(int fd)
{
    return byte_is_free(fd, BYTE_USED) >= 0;
}

/* The k-th lock of all: first the used ones, then the unshared ones; -1 if `locks` does not have
 * it. */
static off_t nth_byte(FileLocks locks, unsigned k)
{
    bool unshared = k >= PERM_COUNT;
    unsigned p = k % PERM_COUNT;

    if (!((unshared ? locks.unshared : locks.used) & (1u << p))) {
        return -1;
    }
    return (unshared ? BYTE_UNSHARED : BYTE_USED) + (off_t)p;
}

bool file_lock_take(int fd, const char *filename, FileLocks locks, Error **errp)
{
    for (unsigned k = 0; k < 2 * PERM_COUNT; k++) {
        off_t byte = nth_byte(locks, k);
        int ret = byte < 0 ? 0 : lock_byte(fd, F_RDLCK, byte);

        if (ret < 0) {
            while (k-- > 0) {
                off_t taken = nth_byte(locks, k);

                if (taken >= 0) {
                    lock_byte(fd, F_UNLCK, taken);
                }
            }
            error_set_errno(errp, -ret, filename, "lock", "Failed to lock byte %d", (int)byte);
            return false;
        }
    }
    return true;
}

void file_lock_drop(int fd, const char *filename, FileLocks locks)
{
    for (unsigned k = 0; k < 2 * PERM_COUNT; k++) {
        off_t byte = nth_byte(locks, k);
        int ret = byte < 0 ? 0 : lock_byte(fd, F_UNLCK, byte);

        if (ret < 0) {
            log_warn("%s: failed to unlock byte %d: %s", filename, (int)byte, strerror(-ret));
        }
    }
}

bool file_lock_check(int fd, const char *filename, FileLocks locks, Error **errp)
{
    for (unsigned k = 0; k < 2 * PERM_COUNT; k++) {
        bool unshared = k >= PERM_COUNT;
        off_t opposite;
        int ret;

        if (nth_byte(locks, k) < 0) {
            continue;
        }
        opposite = (unshared ? BYTE_USED : BYTE_UNSHARED) + (off_t)(k % PERM_COUNT);
        ret = byte_is_free(fd, opposite);
        if (ret == 1) {
            continue;
        }
        if (ret < 0) {
            error_set_errno(errp, -ret, filename, "lock", "Failed to get %s\"%s\" lock",
                            unshared ? "shared " : "", perm_text[k % PERM_COUNT]);
        } else {
            error_set(errp, ERROR_BUSY, filename, "lock", "Failed to get %s\"%s\" lock",
                      unshared ? "shared " : "", perm_text[k % PERM_COUNT]);
        }
        error_hint(errp, "Is another process using the image [%s]?", filename);
        return false;
    }
    return true;
}

/* ---- waiting while the process starts ---- */

#define RETRY_US 20000

static _Atomic int64_t wait_deadline; /* clock_ns() value; 0: nobody waits */

void file_locks_wait_until(int64_t deadline)
{
    atomic_store_explicit(&wait_deadline, deadline, memory_order_relaxed);
}

bool file_locks_wait(void)
{
    if (clock_ns() >= atomic_load_explicit(&wait_deadline, memory_order_relaxed)) {
        return false;
    }
    g_usleep(RETRY_US);
    return true;
}

bool file_lock_get(int fd, const char *filename, FileLocks locks, Error **errp)
{
    for (;;) {
        g_autoptr(Error) err = NULL;

        if (!file_lock_take(fd, filename, locks, errp)) {
            return false;
        }
        if (file_lock_check(fd, filename, locks, &err)) {
            return true;
        }
        /* Not held while waiting: of two processes that start at once, one gets through. */
        file_lock_drop(fd, filename, locks);
        if (err->kind != ERROR_BUSY || !file_locks_wait()) {
            error_move(errp, &err);
            return false;
        }
    }
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * crashshim: an LD_PRELOAD library that ends a process at its k-th call that changes files, or makes that call fail or hang, and keeps
 * what is needed to play a power failure afterwards (tests/functional/lib/powerfail.py).
 *
 * CRASH_CONTROL names a file that is mapped and shared with the test:
 *   u64 armed    the test sets it: calls are counted and logged from here on
 *   u64 count    calls so far
 *   u64 at       the process kills itself before call number `at` (0: never)
 *   u64 used     bytes of the log that follows at offset 4096; records are written before the call they tell of
 *   u64 fail_at  call number `fail_at` is not made: it fails (0: none) ...
 *   u64 error    ... with this errno
 *   u64 control  not 0: calls of threads that serve guests are not counted
 *   u64 hold_at  call number `hold_at` is not made until the test changes this (0: none); then, while it hangs:
 *   u64 held     its number
 *   u64 ino      its file (0: the call has none)
 *   char what[]  its name
 *   u64 reads    not 0: calls that read files at an offset are counted, and no others
 *
 * Records: u32 kind, u32 length of the whole record (multiple of 8), then what the kind says:
 *   WRITE     u64 dev, ino, offset, old size, length, then old bytes (as many as there were), then new bytes
 *   TRUNCATE  u64 dev, ino, old size, new size, then the bytes that are cut off
 *   SYNC      u64 dev, ino          (a file or a directory)
 *   CREATE, UNLINK, LINK, RENAME    u64 dev, ino of the directory, u64 flags, then names, each ended by a zero byte
 * A file that is unlinked gets a name in CRASH_GRAVEYARD first, so that the unlinking can be lost.
 *
 * Only what libc's functions do is seen: the daemon has to run with CUTPOINT_LOOP=epoll.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define LOG_SIZE (UINT64_C(1) << 30) /* sparse */

enum Kind { WRITE = 1, TRUNCATE, SYNC, CREATE, UNLINK, LINK, RENAME };

typedef struct Control {
    volatile uint64_t armed;
    uint64_t count, at, used, fail_at, error, control;
    volatile uint64_t hold_at, held;
    uint64_t ino;
    char what[32];
    uint64_t reads;
} Control;

enum { NOT_COUNTED, COUNTED, FAILS };

static Control *control;
static uint8_t *record_log;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name)                                                                                 \
    static __typeof__(name) *real;                                                                 \
    if (!real) {                                                                                   \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);                                        \
    }

static void __attribute__((constructor)) init(void)
{
    const char *path = getenv("CRASH_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *map = fd < 0 ? MAP_FAILED
                       : mmap(NULL, 4096 + LOG_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (map == MAP_FAILED) {
        return;
    }
    record_log = (uint8_t *)map + 4096;
    control = map;
}

/* Hangs, without the lock: others go on. */
static void hold(uint64_t number, const char *what, int fd)
{
    struct stat st = {0};

    if (fd >= 0) {
        fstat(fd, &st);
    }
    control->ino = st.st_ino;
    snprintf(control->what, sizeof(control->what), "%s", what);
    control->held = number;
    pthread_mutex_unlock(&lock);
    while (control->hold_at == number) {
        usleep(1000);
    }
    pthread_mutex_lock(&lock);
}

/* Counts a call, and ends the process or hangs if it is the one.  The lock is held until the call is done: calls happen in the order of
 * their records. */
static int enter_kind(const char *what, int fd, bool reading)
{
    char name[16] = "";
    uint64_t number;

    if (!control || !control->armed || reading != (control->reads != 0)) {
        return NOT_COUNTED;
    }
    if (control->control && pthread_getname_np(pthread_self(), name, sizeof(name)) == 0 &&
        (strncmp(name, "guest", 5) == 0 || strncmp(name, "IO ", 3) == 0)) {
        return NOT_COUNTED;
    }
    pthread_mutex_lock(&lock);
    number = ++control->count;
    if (number == control->at) {
        kill(getpid(), SIGKILL);
        for (;;) {
            pause();
        }
    }
    if (number == control->hold_at) {
        hold(number, what, fd);
    }
    return number == control->fail_at ? FAILS : COUNTED;
}

static int enter(const char *what, int fd)
{
    return enter_kind(what, fd, false);
}

static void leave(int entered)
{
    int err = errno;

    if (entered) {
        pthread_mutex_unlock(&lock);
    }
    errno = err;
}

static void __attribute__((noreturn)) fail(const char *what)
{
    dprintf(STDERR_FILENO, "crashshim: %s: %s\n", what, strerror(errno));
    abort();
}

static uint8_t *begin_record(uint32_t kind, uint64_t len)
{
    uint64_t whole = (8 + len + 7) & ~UINT64_C(7);
    uint8_t *p = record_log + control->used;

    if (control->used + whole > LOG_SIZE) {
        fail("the log is full");
    }
    memcpy(p, &kind, 4);
    memcpy(p + 4, &(uint32_t){whole}, 4);
    control->used += whole;
    return p + 8;
}

static uint8_t *put(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
    return p + 8;
}

static int is_file(int fd, struct stat *st)
{
    return fstat(fd, st) == 0 && S_ISREG(st->st_mode);
}

static void log_write(int fd, const struct iovec *iov, int n, uint64_t offset)
{
    uint64_t len = 0, old;
    struct stat st;
    uint8_t *p;

    if (!is_file(fd, &st)) {
        return;
    }
    for (int i = 0; i < n; i++) {
        len += iov[i].iov_len;
    }
    old = (uint64_t)st.st_size <= offset        ? 0
          : (uint64_t)st.st_size - offset < len ? st.st_size - offset
                                                : len;
    p = begin_record(WRITE, 40 + old + len);
    p = put(put(put(put(put(p, st.st_dev), st.st_ino), offset), st.st_size), len);
    if (old) {
        char self[64];
        int again;

        /* the descriptor may be one that cannot read */
        snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
        again = open(self, O_RDONLY | O_CLOEXEC);
        if (again < 0 || pread(again, p, old, offset) != (ssize_t)old) {
            fail("cannot read what is overwritten");
        }
        close(again);
        p += old;
    }
    for (int i = 0; i < n; i++) {
        memcpy(p, iov[i].iov_base, iov[i].iov_len);
        p += iov[i].iov_len;
    }
}

static void log_truncate(int fd, uint64_t size)
{
    struct stat st;
    uint64_t cut;
    uint8_t *p;

    if (!is_file(fd, &st)) {
        return;
    }
    cut = (uint64_t)st.st_size > size ? st.st_size - size : 0;
    p = begin_record(TRUNCATE, 32 + cut);
    p = put(put(put(put(p, st.st_dev), st.st_ino), st.st_size), size);
    if (cut && pread(fd, p, cut, size) != (ssize_t)cut) {
        fail("cannot read what is cut off");
    }
}

/* After the sync: what it did not cover is not safe. */
static void log_sync(int fd)
{
    struct stat st;

    if (fstat(fd, &st) == 0) {
        put(put(begin_record(SYNC, 16), st.st_dev), st.st_ino);
    }
}

static void log_names(uint32_t kind, int dirfd, const char *a, const char *b, uint64_t flags)
{
    struct stat st = {0};
    uint8_t *p;

    if (a[0] == '/' || dirfd == AT_FDCWD) {
        char dir[4096];
        char *slash;

        snprintf(dir, sizeof(dir), "%s", a);
        slash = strrchr(dir, '/');
        if (slash) {
            slash[slash == dir] = '\0';
        }
        stat(slash ? dir : ".", &st);
    } else {
        fstat(dirfd, &st);
    }
    p = put(put(put(begin_record(kind, 24 + 8192), st.st_dev), st.st_ino), flags);
    snprintf((char *)p, 4096, "%s", a);
    snprintf((char *)p + 4096, 4096, "%s", b ? b : "");
}

/* The absolute name, for records that are read by another process. */
static const char *absolute(int dirfd, const char *name, char *buf)
{
    char self[64];
    ssize_t len;

    if (name[0] == '/') {
        return name;
    }
    if (dirfd == AT_FDCWD) {
        if (!getcwd(buf, 2048)) {
            return name;
        }
        len = strlen(buf);
    } else {
        snprintf(self, sizeof(self), "/proc/self/fd/%d", dirfd);
        len = readlink(self, buf, 2048);
        if (len < 0) {
            return name;
        }
    }
    snprintf(buf + len, 2048, "/%s", name);
    return buf;
}

/* ---- data ---- */

#define CALL(expr)                                                                                 \
    do {                                                                                           \
        if (in == FAILS) {                                                                         \
            errno = control->error;                                                                \
            ret = -1;                                                                              \
        } else {                                                                                   \
            ret = (expr);                                                                          \
        }                                                                                          \
        leave(in);                                                                                 \
        return ret;                                                                                \
    } while (0)

ssize_t preadv64(int fd, const struct iovec *iov, int n, off64_t offset)
{
    REAL(preadv64);
    int in = enter_kind("preadv64", fd, true);
    ssize_t ret;

    CALL(real(fd, iov, n, offset));
}

ssize_t preadv(int fd, const struct iovec *iov, int n, off_t offset)
{
    return preadv64(fd, iov, n, offset);
}

/* Reads of what is cached are tried first, and may do nothing: so that every read is one of the calls that count, they never do. */
ssize_t preadv64v2(int fd, const struct iovec *iov, int n, off64_t offset, int flags)
{
    REAL(preadv64v2);

    if (flags & RWF_NOWAIT) {
        errno = EAGAIN;
        return -1;
    }
    return real(fd, iov, n, offset, flags);
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off64_t offset)
{
    REAL(pwrite64);
    int in = enter("pwrite64", fd);
    ssize_t ret;

    if (in == COUNTED) {
        log_write(fd, &(struct iovec){(void *)buf, len}, 1, offset);
    }
    CALL(real(fd, buf, len, offset));
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t offset)
{
    return pwrite64(fd, buf, len, offset);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int n, off64_t offset)
{
    REAL(pwritev64);
    int in = enter("pwritev64", fd);
    ssize_t ret;

    if (in == COUNTED) {
        log_write(fd, iov, n, offset);
    }
    CALL(real(fd, iov, n, offset));
}

ssize_t pwritev(int fd, const struct iovec *iov, int n, off_t offset)
{
    return pwritev64(fd, iov, n, offset);
}

ssize_t pwritev64v2(int fd, const struct iovec *iov, int n, off64_t offset, int flags)
{
    REAL(pwritev64v2);
    int in = enter("pwritev64v2", fd);
    ssize_t ret;

    if (in == COUNTED) {
        log_write(fd, iov, n, offset);
    }
    CALL(real(fd, iov, n, offset, flags));
}

ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
    return pwritev64v2(fd, iov, n, offset, flags);
}

int ftruncate64(int fd, off64_t size)
{
    REAL(ftruncate64);
    int in = enter("ftruncate64", fd), ret;

    if (in == COUNTED) {
        log_truncate(fd, size);
    }
    CALL(real(fd, size));
}

int ftruncate(int fd, off_t size)
{
    return ftruncate64(fd, size);
}

#define SYNC_CALL(name)                                                                            \
    int name(int fd)                                                                               \
    {                                                                                              \
        REAL(name);                                                                                \
        int in = enter(#name, fd), ret = -1;                                                       \
                                                                                                   \
        if (in == FAILS) {                                                                         \
            errno = control->error;                                                                \
        } else {                                                                                   \
            ret = real(fd);                                                                        \
        }                                                                                          \
        if (in && ret == 0) {                                                                      \
            log_sync(fd);                                                                          \
        }                                                                                          \
        leave(in);                                                                                 \
        return ret;                                                                                \
    }
SYNC_CALL(fsync)
SYNC_CALL(fdatasync)

/* ---- names ---- */

static int open_any(int dirfd, const char *path, int flags, mode_t mode)
{
    REAL(openat64);
    int creates = (flags & O_CREAT) && faccessat(dirfd, path, F_OK, AT_SYMLINK_NOFOLLOW) < 0;
    int in = creates ? enter("open", -1) : 0, ret;
    char buf[8192];

    if (in == COUNTED) {
        log_names(CREATE, dirfd, absolute(dirfd, path, buf), NULL, 0);
    }
    CALL(real(dirfd, path, flags, mode));
}

#define OPEN_MODE                                                                                  \
    mode_t mode = 0;                                                                               \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                                         \
        va_list ap;                                                                                \
        va_start(ap, flags);                                                                       \
        mode = va_arg(ap, mode_t);                                                                 \
        va_end(ap);                                                                                \
    }

int open64(const char *path, int flags, ...)
{
    OPEN_MODE
    return open_any(AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    OPEN_MODE
    return open_any(AT_FDCWD, path, flags, mode);
}

int openat64(int dirfd, const char *path, int flags, ...)
{
    OPEN_MODE
    return open_any(dirfd, path, flags, mode);
}

int openat(int dirfd, const char *path, int flags, ...)
{
    OPEN_MODE
    return open_any(dirfd, path, flags, mode);
}

int linkat(int from_dir, const char *from, int dirfd, const char *path, int flags)
{
    REAL(linkat);
    int in = enter("linkat", -1), ret;
    char buf[8192];

    if (in == COUNTED) {
        log_names(LINK, dirfd, absolute(dirfd, path, buf), NULL, 0);
    }
    CALL(real(from_dir, from, dirfd, path, flags));
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    REAL(renameat2);
    int in = enter("renameat2", -1), ret;
    char a[8192], b[8192];

    if (in == COUNTED) {
        log_names(RENAME, from_dir, absolute(from_dir, from, a), absolute(to_dir, to, b), flags);
    }
    CALL(real(from_dir, from, to_dir, to, flags));
}

int unlinkat(int dirfd, const char *path, int flags)
{
    REAL(unlinkat);
    int in = enter("unlinkat", -1), ret;
    char buf[8192], grave[4096];

    if (in == COUNTED) {
        snprintf(grave, sizeof(grave), "%s/%llu", getenv("CRASH_GRAVEYARD"),
                 (unsigned long long)control->count);
        if (syscall(SYS_linkat, dirfd, path, AT_FDCWD, grave, 0) == 0) {
            log_names(UNLINK, dirfd, absolute(dirfd, path, buf), grave, 0);
        }
    }
    CALL(real(dirfd, path, flags));
}

int unlink(const char *path)
{
    return unlinkat(AT_FDCWD, path, 0);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The init process, and all there is, of the guests that tests boot.
 *
 * Writes records in an order that can be checked from outside: each is written after the one before it was answered.  A chain goes round
 * over all disks; record `seq` of a chain of n disks with s slots lies on disk seq % n, in slot seq / n % s.  Before a slot is written
 * again it is read, and must hold what was written to it last.
 *
 * The kernel's command line (what the kernel does not know becomes environment of init):
 *   DISKS=vda,vdb,...   records go to the bare device, from 1 MiB on
 *   EXT4=vdc,...        of these: disks with a file system; records go to the file `records` on it
 *   CHAINS=n SLOTS=n    chains at a time, slots of each on a disk
 *   SYNC=n              every n-th record is followed by a flush
 *   BENCH=read|write    no chains: CHAINS threads read or write 4 KiB somewhere in the first 256 MiB of the first disk
 *   PING=vda | PONG=vda a record every time a number comes over ttyS1; it is sent on when the record is written; PING adds one.
 *                       Who runs both starts with 0, when both are READY
 *
 * On ttyS0: READY; SIZE <bytes> when that of the first disk has changed; every 100 ms "STAT <requests> <longest, us> <longest of the chains' flushes, us>"; MISMATCH or FAILED with what was
 * wrong; DONE after a line was received.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define BLOCK    4096u
#define MAGIC    UINT64_C(0x64726f6365726370)
#define MAX_DISK 16
#define PING_AT  (UINT64_C(8) << 20)

typedef struct Record {
    uint64_t magic, chain, seq, disk, fill[BLOCK / 8 - 4];
} Record;

static int fds[MAX_DISK];
static uint64_t start_at[MAX_DISK];
static unsigned ndisks, slots, sync_every;
static _Atomic uint64_t requests, longest, longest_flush;
static _Atomic int stopping;

static void say(const char *fmt, ...)
{
    char line[256];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
    va_end(ap);
    line[n++] = '\n';
    if (write(1, line, n) != n) {
        abort();
    }
}

static uint64_t now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * UINT64_C(1000000) + ts.tv_nsec / 1000;
}

static void took(_Atomic uint64_t *max, uint64_t since)
{
    uint64_t us = now_us() - since, old = atomic_load(max);

    while (us > old && !atomic_compare_exchange_weak(max, &old, us)) {
    }
    atomic_fetch_add(&requests, 1);
}

static void fill(Record *r, uint64_t chain, uint64_t seq, uint64_t disk)
{
    *r = (Record){.magic = MAGIC, .chain = chain, .seq = seq, .disk = disk};
    for (unsigned i = 0; i < sizeof(r->fill) / 8; i++) {
        r->fill[i] = seq * 0x9e3779b97f4a7c15u + i;
    }
}

static void *chain_main(void *opaque)
{
    uint64_t chain = (uintptr_t)opaque;
    Record *buf, *expect;

    if (posix_memalign((void **)&buf, BLOCK, BLOCK) ||
        posix_memalign((void **)&expect, BLOCK, BLOCK)) {
        abort();
    }
    for (uint64_t seq = 0; !atomic_load(&stopping); seq++) {
        unsigned d = seq % ndisks;
        uint64_t at = start_at[d] + (chain * slots + seq / ndisks % slots) * BLOCK, t;

        if (seq >= (uint64_t)ndisks * slots) {
            fill(expect, chain, seq - (uint64_t)ndisks * slots, d);
            t = now_us();
            if (pread(fds[d], buf, BLOCK, at) != BLOCK) {
                say("FAILED read disk %u errno %d", d, errno);
                return NULL;
            }
            took(&longest, t);
            if (memcmp(buf, expect, BLOCK)) {
                say("MISMATCH disk %u chain %lu: %lu instead of %lu", d, (unsigned long)chain,
                    (unsigned long)buf->seq, (unsigned long)expect->seq);
                return NULL;
            }
        }
        fill(buf, chain, seq, d);
        t = now_us();
        if (pwrite(fds[d], buf, BLOCK, at) != BLOCK) {
            say("FAILED write disk %u errno %d", d, errno);
            return NULL;
        }
        took(&longest, t);
        if (sync_every && seq % sync_every == 0) {
            t = now_us();
            if (fdatasync(fds[d])) {
                say("FAILED flush disk %u errno %d", d, errno);
                return NULL;
            }
            took(&longest_flush, t);
        }
    }
    return NULL;
}

/* ---- speed ---- */

static void *bench_main(void *opaque)
{
    unsigned seed = (uintptr_t)opaque + 1;
    int writes = strcmp(getenv("BENCH"), "write") == 0;
    void *buf;

    if (posix_memalign(&buf, BLOCK, BLOCK)) {
        abort();
    }
    memset(buf, 'b', BLOCK);
    while (!atomic_load(&stopping)) {
        uint64_t at = (rand_r(&seed) & 0xffff) * (uint64_t)BLOCK, t = now_us();
        ssize_t n = writes ? pwrite(fds[0], buf, BLOCK, at) : pread(fds[0], buf, BLOCK, at);

        if (n != BLOCK) {
            say("FAILED bench errno %d", errno);
            return NULL;
        }
        took(&longest, t);
    }
    return NULL;
}

/* ---- two guests ---- */

static void raw_tty(int fd)
{
    struct termios t;

    if (tcgetattr(fd, &t) == 0) {
        cfmakeraw(&t);
        tcsetattr(fd, TCSANOW, &t);
    }
}

typedef struct Pong {
    int disk, tty;
    int first;
} Pong;

static void *pong_main(void *opaque)
{
    const Pong *p = opaque;
    FILE *in = fdopen(p->tty, "r");
    Record *buf;
    char line[64];

    if (!in || posix_memalign((void **)&buf, BLOCK, BLOCK)) {
        abort();
    }
    while (fgets(line, sizeof(line), in)) {
        unsigned long seq = strtoul(line, NULL, 10) + p->first;

        fill(buf, 99, seq, 0);
        if (pwrite(p->disk, buf, BLOCK, PING_AT) != BLOCK) {
            say("FAILED ping write errno %d", errno);
            return NULL;
        }
        dprintf(p->tty, "%lu\n", seq);
    }
    return NULL;
}

/* ---- start ---- */

static unsigned number(const char *name, unsigned fallback)
{
    const char *v = getenv(name);

    return v ? strtoul(v, NULL, 10) : fallback;
}

static void load_modules(void)
{
    char path[64];

    for (int i = 0; i < 100; i++) {
        int fd;

        snprintf(path, sizeof(path), "/modules/%02d.ko", i);
        fd = open(path, O_RDONLY);
        if (fd < 0) {
            return;
        }
        if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST) {
            say("FAILED module %d errno %d", i, errno);
        }
        close(fd);
    }
}

static int open_patiently(const char *name, int flags)
{
    char path[64];
    int fd = -1;

    snprintf(path, sizeof(path), "/dev/%s", name);
    for (int i = 0; i < 2000 && (fd = open(path, flags)) < 0; i++) {
        usleep(10000);
    }
    if (fd < 0) {
        say("FAILED open %s errno %d", name, errno);
    }
    return fd;
}

/* A file of its own on the disk's file system; made whole before records go to it. */
static int open_file(const char *name, uint64_t size)
{
    char device[64], dir[64], path[128];
    static char zeroes[1 << 16];
    int fd;

    snprintf(device, sizeof(device), "/dev/%s", name);
    snprintf(dir, sizeof(dir), "/mnt-%s", name);
    snprintf(path, sizeof(path), "%s/records", dir);
    mkdir(dir, 0755);
    close(open_patiently(name, O_RDONLY));
    if (mount(device, dir, "ext4", 0, "")) {
        say("FAILED mount %s errno %d", name, errno);
        return -1;
    }
    fd = open(path, O_RDWR | O_CREAT, 0644);
    for (uint64_t at = 0; at < size; at += sizeof(zeroes)) {
        if (pwrite(fd, zeroes, sizeof(zeroes), at) < 0) {
            say("FAILED fill %s errno %d", name, errno);
        }
    }
    fsync(fd);
    close(fd);
    sync();
    return open(path, O_RDWR | O_DIRECT);
}

static void tell_size(void)
{
    static uint64_t known;
    uint64_t size;

    if (ndisks && ioctl(fds[0], BLKGETSIZE64, &size) == 0 && size != known) {
        say("SIZE %lu", (unsigned long)size);
        known = size;
    }
}

static int has_word(const char *list, const char *word)
{
    size_t n = strlen(word);

    for (const char *p = list; p && (p = strstr(p, word)); p += n) {
        if ((p == list || p[-1] == ',') && (p[n] == 0 || p[n] == ',')) {
            return 1;
        }
    }
    return 0;
}

static void open_disks(unsigned chains)
{
    char *list = strdup(getenv("DISKS") ? getenv("DISKS") : ""), *save = NULL;
    uint64_t size = ((uint64_t)chains * slots * BLOCK + 65535) & ~UINT64_C(65535);

    for (char *d = strtok_r(list, ",", &save); d && ndisks < MAX_DISK;
         d = strtok_r(NULL, ",", &save)) {
        int ext4 = has_word(getenv("EXT4"), d);

        start_at[ndisks] = ext4 ? 0 : 1 << 20;
        fds[ndisks++] = ext4 ? open_file(d, size) : open_patiently(d, O_RDWR | O_DIRECT);
    }
}

int main(void)
{
    static Pong pong;
    const char *ping = getenv("PING") ? getenv("PING") : getenv("PONG");
    unsigned chains = number("CHAINS", 1);
    pthread_t t;
    char c;

    slots = number("SLOTS", 64);
    sync_every = number("SYNC", 16);
    mount("dev", "/dev", "devtmpfs", 0, "");
    load_modules();
    open_disks(chains);
    if (ping) {
        pong.disk = open_patiently(ping, O_RDWR | O_DIRECT);
        pong.first = getenv("PING") != NULL;
        /* Open before READY: what comes earlier is lost. */
        pong.tty = open("/dev/ttyS1", O_RDWR | O_NOCTTY);
        raw_tty(pong.tty);
        pthread_create(&t, NULL, pong_main, &pong);
    }
    for (uintptr_t i = 0; ndisks && i < chains; i++) {
        pthread_create(&t, NULL, getenv("BENCH") ? bench_main : chain_main, (void *)i);
    }
    say("READY");
    fcntl(0, F_SETFL, O_NONBLOCK);
    raw_tty(0);
    while (read(0, &c, 1) != 1) {
        usleep(100000);
        tell_size();
        say("STAT %lu %lu %lu", (unsigned long)atomic_exchange(&requests, 0),
            (unsigned long)atomic_exchange(&longest, 0),
            (unsigned long)atomic_exchange(&longest_flush, 0));
    }
    atomic_store(&stopping, 1);
    usleep(300000);
    sync();
    say("DONE");
    usleep(200000);
    reboot(RB_POWER_OFF);
    return 0;
}

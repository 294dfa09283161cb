/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The vhost-user-blk server, as a front end and a guest find it: a real socket, real threads, whatever messages and memory.
 *
 * The server must close the connection or go on; every 64th time a well-behaved front end follows, and reads the disk.
 *
 * The first byte says what is done, the second with which ring (bit 0: packed, 1: event index, 2: indirect descriptors):
 *   0  messages: records of { request u8, length u8, flags u8 (bit 0: with a descriptor, bit 1: wants an answer) }, payload
 *   1  a ring whose memory is the rest
 *   2  a ring with descriptors made of records of 8 bytes, so that addresses and lengths are mostly possible ones
 *   3  an in-flight buffer that begins with the rest, and an empty ring
 * Rings run twice, the second time with the memory as the first run left it.
 */
#include "block/export.h"
#include "fuzz-util.h"
#include "qapi-types.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DISK_SIZE (1u << 20)
#define MEMORY    65536u
#define NUM       16u
#define AVAIL_AT  256u
#define USED_AT   512u
#define USER      UINT64_C(0x700000000000)

static char socket_name[64]; /* abstract */

/* ---- the server ---- */

static void coroutine_fn start_server(void *unused)
{
    g_autofree uint8_t *zeroes = g_malloc0(DISK_SIZE);
    g_autofree char *text = g_strdup_printf(
        "{\"type\": \"vhost-user-blk\", \"id\": \"e\", \"node-name\": \"disk\", \"writable\": "
        "true, "
        "\"num-queues\": 2, \"addr\": {\"type\": \"unix\", \"path\": \"%s\", \"abstract\": true}}",
        socket_name);
    g_autoptr(BlockExportOptions) options = NULL;
    g_autoptr(Error) err = NULL;
    struct json_object *o = json_tokener_parse(text);

    (void)unused;
    memcpy(zeroes + DISK_SIZE - 512, "polite!!", 8);
    fuzz_disk_new("disk", zeroes, DISK_SIZE);
    g_assert_true(qapi_parse_BlockExportOptions(o, &options, &err));
    json_object_put(o);
    if (!export_add(options, &err)) {
        FUZZ_FAIL("%s", err->message);
    }
}

/* ---- the front end; on a thread of its own, since the server's control loop has to run ---- */

typedef struct Front {
    const uint8_t *data;
    size_t size;
    unsigned mode, ring;
    bool polite;
    int fd, memory_fd, kick, call;
    uint8_t *memory;
    bool gone;
    _Atomic bool done;
} Front;

static int server_connect(void)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    socklen_t len = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(socket_name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(sa.sun_path + 1, socket_name, strlen(socket_name));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&sa, len), ==, 0);
    return fd;
}

static void tell(Front *f, uint32_t request, uint32_t flags, const void *payload, uint32_t len,
                 int with)
{
    uint8_t buf[12 + 1024];
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov = {buf, 12 + len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    memcpy(buf, &request, 4);
    memcpy(buf + 4, &flags, 4);
    memcpy(buf + 8, &len, 4);
    if (len > 0) {
        memcpy(buf + 12, payload, len);
    }
    if (with >= 0) {
        msg.msg_control = &control;
        msg.msg_controllen = sizeof(control);
        control.align.cmsg_level = SOL_SOCKET;
        control.align.cmsg_type = SCM_RIGHTS;
        control.align.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.align), &with, sizeof(int));
    }
    if (!f->gone && sendmsg(f->fd, &msg, MSG_NOSIGNAL) < 0) {
        f->gone = true;
    }
}

/* Waits for an answer; *ret_fd (may be NULL): a descriptor that came along. */
static void hear(Front *f, void *payload, size_t len, int *ret_fd)
{
    uint8_t buf[2048];
    union {
        char space[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov = {buf, sizeof(buf)};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof(control)};
    struct pollfd p = {f->fd, POLLIN, 0};
    ssize_t n;

    if (f->gone) {
        return;
    }
    if (poll(&p, 1, 30000) <= 0) {
        FUZZ_FAIL("the server neither answers nor closes");
    }
    n = recvmsg(f->fd, &msg, MSG_CMSG_CLOEXEC);
    if (n <= 0) {
        f->gone = true;
        return;
    }
    memcpy(payload, buf + 12, MIN(len, (size_t)MAX(n - 12, 0)));
    if (CMSG_FIRSTHDR(&msg)) {
        int fd;

        memcpy(&fd, CMSG_DATA(&control.align), sizeof(int));
        if (ret_fd) {
            *ret_fd = fd;
        } else {
            close(fd);
        }
    }
}

static void tell_u64(Front *f, uint32_t request, uint64_t v, int with)
{
    tell(f, request, 1, &v, sizeof(v), with);
}

static void tell_state(Front *f, uint32_t request, uint32_t index, uint32_t num)
{
    uint32_t state[2] = {index, num};

    tell(f, request, 1, state, sizeof(state), -1);
}

static void set_up(Front *f)
{
    uint64_t table[5] = {1, 0, MEMORY, USER, 0};
    uint64_t features = (UINT64_C(1) << 32) | (1u << 30) | (1u << 9) | (1u << 13) | (1u << 14);

    features |= f->ring & 1 ? UINT64_C(1) << 34 : 0;
    features |= f->ring & 2 ? UINT64_C(1) << 29 : 0;
    features |= f->ring & 4 ? UINT64_C(1) << 28 : 0;
    tell_u64(f, 16, (1u << 3) | (1u << 9) | (1u << 12), -1);
    tell_u64(f, 2, features, -1);
    tell(f, 5, 1, table, sizeof(table), f->memory_fd);
}

static uint32_t run_ring(Front *f, uint32_t base)
{
    struct {
        uint32_t index, flags;
        uint64_t desc, used, avail, log;
    } addr = {0, 0, USER, USER + USED_AT, USER + AVAIL_AT, 0};
    uint32_t state[2] = {0, base};

    tell_state(f, 8, 0, NUM);
    tell_state(f, 10, 0, base);
    tell(f, 9, 1, &addr, sizeof(addr), -1);
    tell_u64(f, 13, 0, f->call);
    tell_u64(f, 12, 0, f->kick);
    tell_state(f, 18, 0, 1);
    tell_state(f, 11, 0, 0);
    hear(f, state, sizeof(state), NULL);
    return state[1];
}

/* Descriptors from 8 bytes each: address, length, flags, next. */
static void make_descriptors(Front *f)
{
    for (unsigned i = 0; i < NUM && f->size >= 8; i++, f->data += 8, f->size -= 8) {
        uint64_t addr = 1024u + (f->data[0] | (f->data[1] & 0x81u) << 8) * 16u;
        uint32_t len = f->data[2] & 0x80 ? (f->data[2] & 0x7fu) * 512u : f->data[2];
        uint16_t flags = f->data[3] & 7, other = f->data[4] % (NUM + 1);
        uint16_t available = f->data[5] & 0x80 ? 0x8000 : 0x80;
        uint8_t *d = f->memory + i * 16;

        memcpy(d, &addr, 8);
        memcpy(d + 8, &len, 4);
        flags |= f->ring & 1 ? available : 0;
        memcpy(d + 12, f->ring & 1 ? &other : &flags, 2);
        memcpy(d + 14, f->ring & 1 ? &flags : &other, 2);
        f->memory[AVAIL_AT + 4 + 2 * i] = f->data[6] % (NUM + 1);
        f->memory[AVAIL_AT + 2] = f->data[7] % (NUM + 2);
        /* A header, perhaps. */
        if (addr + 16 < MEMORY) {
            f->memory[addr] = f->data[5] & 15;
            f->memory[addr + 8] = f->data[6];
        }
    }
    memcpy(f->memory + 1024, f->data, MIN(f->size, MEMORY - 1024u));
}

static void messages(Front *f)
{
    while (f->size >= 3 && !f->gone) {
        uint32_t len = MIN((size_t)f->data[1] * 2, f->size - 3), flags = f->data[2];
        int with = flags & 1 ? (flags & 4 ? f->kick : f->memory_fd) : -1;
        struct pollfd p = {f->fd, POLLIN, 0};
        uint8_t sink[2048];

        tell(f, f->data[0] % 48, 1 | (flags & 2 ? 8 : 0), f->data + 3, MIN(len, 1024u), with);
        f->data += 3 + len;
        f->size -= 3 + len;
        while (!f->gone && poll(&p, 1, 0) > 0) {
            hear(f, sink, sizeof(sink), NULL);
        }
    }
}

static void inflight(Front *f)
{
    struct {
        uint64_t size, offset;
        uint16_t queues, queue_size;
        uint32_t pad;
    } info = {0, 0, 2, NUM, 0};
    int fd = -1;
    void *map;

    tell(f, 31, 1, &info, sizeof(info), -1);
    hear(f, &info, sizeof(info), &fd);
    if (fd < 0) {
        return;
    }
    map = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    g_assert_true(map != MAP_FAILED);
    memcpy(map, f->data, MIN(f->size, (size_t)512)); /* the first queue's region */
    munmap(map, info.size);
    tell(f, 32, 1, &info, sizeof(info), fd);
    close(fd);
}

/* A read of the last sector; the status must be there. */
static void make_polite(Front *f)
{
    static const struct {
        uint64_t addr;
        uint32_t len;
        uint16_t flags, next;
    } chain[] = {{1024, 16, 1, 1}, {2048, 512, 3, 2}, {1040, 1, 2, 0}};
    uint64_t sector = DISK_SIZE / 512 - 1;

    memcpy(f->memory, chain, sizeof(chain));
    memcpy(f->memory + 1032, &sector, 8);
    f->memory[1040] = 0xff;
    f->memory[AVAIL_AT + 2] = 1;
}

static void talk(Front *f)
{
    uint32_t base = f->ring & 1 ? 0x80008000 : 0;

    set_up(f);
    switch (f->mode) {
    case 0:
        messages(f);
        return;
    case 1:
        memcpy(f->memory, f->data, MIN(f->size, (size_t)MEMORY));
        break;
    case 2:
        make_descriptors(f);
        break;
    default:
        inflight(f);
        break;
    }
    if (f->polite) {
        make_polite(f);
    }
    base = run_ring(f, base);
    if (f->polite && (f->memory[1040] != 0 || memcmp(f->memory + 2048, "polite!!", 8) != 0)) {
        FUZZ_FAIL("a good request was not answered");
    }
    run_ring(f, base);
}

static void *front_main(void *opaque)
{
    Front *f = opaque;

    f->fd = server_connect();
    f->memory_fd = memfd_create("guest", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(f->memory_fd, MEMORY), ==, 0);
    f->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, f->memory_fd, 0);
    g_assert_true(f->memory != MAP_FAILED);
    f->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    f->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    talk(f);
    close(f->kick);
    close(f->call);
    munmap(f->memory, MEMORY);
    close(f->memory_fd);
    close(f->fd);
    atomic_store(&f->done, true);
    g_main_context_wakeup(NULL);
    return NULL;
}

static void run_front(Front *f)
{
    pthread_t t;

    g_assert_cmpint(pthread_create(&t, NULL, front_main, f), ==, 0);
    while (!atomic_load(&f->done)) {
        g_main_context_iteration(NULL, true);
    }
    pthread_join(t, NULL);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_init();
    g_snprintf(socket_name, sizeof(socket_name), "cutpoint-fuzz-vub-%d", (int)getpid());
    fuzz_run(start_server, NULL);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned runs;

    if (size >= 2) {
        Front f = {.data = data + 2, .size = size - 2, .mode = data[0] % 4, .ring = data[1] & 7};

        run_front(&f);
    }
    if (++runs % 64 == 0) {
        static const uint8_t nothing[1];
        Front f = {.data = nothing, .size = 0, .mode = 1, .polite = true};

        run_front(&f);
    }
    return 0;
}

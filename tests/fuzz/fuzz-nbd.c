/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NBD server, as a client finds it: a real socket, real threads, whatever bytes.
 *
 * The server must close the connection in the end, whatever was sent; and it goes on serving: every 64th time a well-behaved client
 * follows, and gets what it asks for.
 *
 * The first byte says what is sent:
 *   0  the rest, from the first byte of the handshake on
 *   1  a good handshake, then the rest
 *   2  a good handshake, then requests that are well formed but for what they ask: records of 12 bytes
 *      { flags u8, type u8, offset u32 (in units of 512), length u32, data u16 } are made into requests; writes carry their data
 * Its bit 7: the client goes on without reading what it is answered, and closes.
 */
#include "block/export.h"
#include "block/iothread-objects.h"
#include "block/nbd-server.h"
#include "fuzz-util.h"
#include "qapi-types.h"
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DISK_SIZE (4u << 20)

static char socket_name[64]; /* abstract */

/* ---- the server ---- */

#define PARSE(T, text, ret)                                                                        \
    do {                                                                                           \
        g_autoptr(Error) err_ = NULL;                                                              \
        struct json_object *o_ = json_tokener_parse(text);                                         \
        g_assert_true(qapi_parse_##T(o_, ret, &err_));                                             \
        json_object_put(o_);                                                                       \
    } while (0)

static void coroutine_fn start_server(void *unused)
{
    g_autofree uint8_t *zeroes = g_malloc0(DISK_SIZE);
    g_autofree char *address = g_strdup_printf(
        "{\"type\": \"unix\", \"data\": {\"path\": \"%s\", \"abstract\": true}}", socket_name);
    g_autoptr(SocketAddressLegacy) addr = NULL;
    g_autoptr(Error) err = NULL;

    (void)unused;
    memset(zeroes, 'x', DISK_SIZE / 2);
    fuzz_disk_new("disk", zeroes, DISK_SIZE);
    PARSE(SocketAddressLegacy, address, &addr);
    g_assert_true(nbd_server_start(addr, &(NbdServerConfig){.handshake_seconds = 20}, &err));
    nbd_server_serve();
    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(BlockExportOptions) options = NULL;
        g_autofree char *text = g_strdup_printf(
            "{\"type\": \"nbd\", \"id\": \"e%u\", \"name\": \"%s\", \"node-name\": \"disk\", "
            "\"writable\": %s, \"description\": \"what it is\", \"allocation-depth\": true}",
            i, i ? "ro" : "d", i ? "false" : "true");

        PARSE(BlockExportOptions, text, &options);
        if (!export_add(options, &err)) {
            FUZZ_FAIL("%s", err->message);
        }
    }
}

/* ---- the client ---- */

static int server_connect(void)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    socklen_t len = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(socket_name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(sa.sun_path + 1, socket_name, strlen(socket_name));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&sa, len), ==, 0);
    return fd;
}

static void put(GByteArray *b, const void *p, size_t len)
{
    g_byte_array_append(b, p, len);
}

static void put_be(GByteArray *b, uint64_t v, unsigned bytes)
{
    uint64_t be = htobe64(v);

    put(b, (uint8_t *)&be + 8 - bytes, bytes);
}

static void put_option(GByteArray *b, uint32_t option, const void *data, uint32_t len)
{
    put(b, "IHAVEOPT", 8);
    put_be(b, option, 4);
    put_be(b, len, 4);
    put(b, data, len);
}

static void good_handshake(GByteArray *b)
{
    g_autoptr(GByteArray) contexts = g_byte_array_new();

    put_be(contexts, 1, 4);
    put(contexts, "d", 1);
    put_be(contexts, 2, 4);
    put_be(contexts, 15, 4);
    put(contexts, "base:allocation", 15);
    put_be(contexts, 21, 4);
    put(contexts, "qemu:allocation-depth", 21);
    put_be(b, 3, 4); /* fixed newstyle, no zeroes */
    put_option(b, 8, "", 0);
    put_option(b, 10, contexts->data, contexts->len);
    put_option(b, 7, "\0\0\0\1d\0\0", 7);
}

static void put_requests(GByteArray *b, const uint8_t *p, size_t size)
{
    for (; size >= 12; p += 12, size -= 12) {
        uint32_t offset, length;
        uint8_t type = p[1] % 10;

        memcpy(&offset, p + 2, 4);
        memcpy(&length, p + 6, 4);
        if (type == 1) {
            length %= 200000; /* its data follows */
        }
        put_be(b, 0x25609513, 4);
        put_be(b, p[0], 2);
        put_be(b, type, 2);
        put(b, p, 8);
        put_be(b, offset % (DISK_SIZE / 256) * UINT64_C(512), 8);
        put_be(b, length, 4);
        if (type == 1) {
            guint at = b->len;

            g_byte_array_set_size(b, at + length);
            memset(b->data + at, p[10], length);
        }
    }
}

/* Sends all, reading what comes meanwhile, and reads to the end; the client has its own thread, since the server's control loop
 * has to run. */
typedef struct Client {
    GByteArray *send;
    GByteArray *received; /* NULL: what comes is dropped */
    bool rude;
    _Atomic bool done;
} Client;

static void talk(int fd, const Client *c)
{
    static __thread char sink[65536];
    size_t sent = 0;
    bool sending = true;

    for (;;) {
        struct pollfd p = {fd, POLLIN | (sending ? POLLOUT : 0), 0};

        if (poll(&p, 1, 30000) <= 0) {
            FUZZ_FAIL("the server neither answers nor closes");
        }
        if (sending && (p.revents & POLLOUT)) {
            ssize_t n =
                send(fd, c->send->data + sent, c->send->len - sent, MSG_DONTWAIT | MSG_NOSIGNAL);

            sent += n > 0 ? n : 0;
            if (sent == c->send->len || (n < 0 && errno != EAGAIN)) {
                if (c->rude) {
                    return;
                }
                sending = false;
                shutdown(fd, SHUT_WR);
            }
        }
        if (p.revents & (POLLIN | POLLHUP | POLLERR)) {
            ssize_t n = recv(fd, sink, sizeof(sink), MSG_DONTWAIT);

            if (n == 0 || (n < 0 && errno != EAGAIN)) {
                return;
            }
            if (n > 0 && c->received) {
                put(c->received, sink, n);
            }
        }
    }
}

static void *client_main(void *opaque)
{
    Client *c = opaque;
    int fd = server_connect();

    talk(fd, c);
    close(fd);
    atomic_store(&c->done, true);
    g_main_context_wakeup(NULL);
    return NULL;
}

static void run_client(GByteArray *bytes, bool rude, GByteArray *received)
{
    Client c = {.send = bytes, .received = received, .rude = rude};
    pthread_t t;

    g_assert_cmpint(pthread_create(&t, NULL, client_main, &c), ==, 0);
    while (!atomic_load(&c.done)) {
        g_main_context_iteration(NULL, true);
    }
    pthread_join(t, NULL);
}

static void polite_client(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new(), received = g_byte_array_new();

    good_handshake(b);
    put_be(b, 0x25609513, 4);
    put_be(b, 0, 4); /* read */
    put(b, "polite!!", 8);
    put_be(b, 0, 8);
    put_be(b, 512, 4);
    run_client(b, false, received);
    g_assert_nonnull(memmem(received->data, received->len, "polite!!", 8));
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_init();
    g_snprintf(socket_name, sizeof(socket_name), "cutpoint-fuzz-nbd-%d", (int)getpid());
    fuzz_run(start_server, NULL);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    unsigned mode = size ? (data[0] & 0x7f) % 3 : 0;
    static unsigned runs;

    if (size == 0) {
        return 0;
    }
    if (mode == 0) {
        put(b, data + 1, size - 1);
    } else {
        good_handshake(b);
        if (mode == 1) {
            put(b, data + 1, size - 1);
        } else {
            put_requests(b, data + 1, size - 1);
        }
    }
    run_client(b, data[0] & 0x80, NULL);
    if (++runs % 64 == 0) {
        polite_client();
    }
    return 0;
}

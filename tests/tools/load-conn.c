/* SPDX-License-Identifier: BSD-3-Clause */
#include "load-conn.h"
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define NBD_MAGIC         0x4e42444d41474943u
#define NBD_OPTION_MAGIC  0x49484156454f5054u
#define NBD_OPTION_REPLY  0x0003e889045565a9u
#define NBD_REQUEST_MAGIC 0x25609513u
#define NBD_REPLY_MAGIC   0x67446698u

enum {
    FIXED_NEWSTYLE = 1,
    NO_ZEROES = 2,
    OPT_GO = 7,
    REP_ACK = 1,
    REP_INFO = 3,
    INFO_EXPORT = 0,
    REQUEST_BYTES = 28,
    REPLY_BYTES = 16,
};

typedef struct __attribute__((packed)) Request {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t handle, offset;
    uint32_t length;
} Request;

typedef struct __attribute__((packed)) Reply {
    uint32_t magic, error;
    uint64_t handle;
} Reply;

void load_die(const char *fmt, ...)
{
    va_list args;

    fputs("nbdload: ", stderr);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputc('\n', stderr);
    exit(1);
}

/* ---- negotiation, blocking ---- */

static void read_all(int fd, void *to, size_t n)
{
    char *p = to;

    while (n > 0) {
        ssize_t got = read(fd, p, n);

        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            load_die("the server closed the connection while negotiating");
        }
        p += got;
        n -= (size_t)got;
    }
}

static void write_all(int fd, const void *from, size_t n)
{
    const char *p = from;

    while (n > 0) {
        ssize_t put = send(fd, p, n, MSG_NOSIGNAL);

        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put <= 0) {
            load_die("cannot send to the server: %s", strerror(errno));
        }
        p += put;
        n -= (size_t)put;
    }
}

static void choose_export(LoadConn *c, const char *name)
{
    uint32_t name_length = (uint32_t)strlen(name);
    struct __attribute__((packed)) {
        uint64_t magic;
        uint32_t option, length, name_length;
    } go = {htobe64(NBD_OPTION_MAGIC), htobe32(OPT_GO), htobe32(4 + name_length + 2),
            htobe32(name_length)};
    uint16_t no_requests = 0;
    bool have_size = false;

    write_all(c->fd, &go, sizeof go);
    write_all(c->fd, name, name_length);
    write_all(c->fd, &no_requests, sizeof no_requests);
    for (;;) {
        struct __attribute__((packed)) {
            uint64_t magic;
            uint32_t option, type, length;
        } reply;
        unsigned char data[4096];
        uint32_t length, type;

        read_all(c->fd, &reply, sizeof reply);
        type = be32toh(reply.type);
        length = be32toh(reply.length);
        if (be64toh(reply.magic) != NBD_OPTION_REPLY || length > sizeof data) {
            load_die("not a reply to an option");
        }
        read_all(c->fd, data, length);
        if (type & 0x80000000u) {
            load_die("export '%s': refused with error %#x: %.*s", name, type, (int)length,
                     (const char *)data);
        }
        if (type == REP_INFO && length >= 12 && data[0] == 0 && data[1] == INFO_EXPORT) {
            uint64_t size;

            memcpy(&size, data + 2, sizeof size);
            c->size = be64toh(size);
            have_size = true;
        }
        if (type == REP_ACK) {
            break;
        }
    }
    if (!have_size) {
        load_die("export '%s': the server did not tell its size", name);
    }
}

void load_conn_open(LoadConn *c, const char *socket_path, const char *export_name,
                    const uint32_t *reply_bytes)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct __attribute__((packed)) {
        uint64_t magic, option_magic;
        uint16_t flags;
    } hello;
    uint32_t flags = htobe32(FIXED_NEWSTYLE | NO_ZEROES);

    if (strlen(socket_path) >= sizeof address.sun_path) {
        load_die("socket path is too long: %s", socket_path);
    }
    strcpy(address.sun_path, socket_path);
    memset(c, 0, sizeof *c);
    c->reply_bytes = reply_bytes;
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0) {
        load_die("cannot connect to %s: %s", socket_path, strerror(errno));
    }
    read_all(c->fd, &hello, sizeof hello);
    if (be64toh(hello.magic) != NBD_MAGIC || be64toh(hello.option_magic) != NBD_OPTION_MAGIC) {
        load_die("%s: not a newstyle NBD server", socket_path);
    }
    write_all(c->fd, &flags, sizeof flags);
    choose_export(c, export_name);
    if (fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0) {
        load_die("fcntl: %s", strerror(errno));
    }
    c->in_space = 256 * 1024;
    c->in = malloc(c->in_space);
    if (!c->in) {
        load_die("out of memory");
    }
}

/* ---- requests ---- */

void load_conn_queue(LoadConn *c, unsigned type, uint32_t handle, uint64_t offset, uint32_t length,
                     const void *payload)
{
    size_t need = REQUEST_BYTES + (payload ? length : 0);
    Request r = {htobe32(NBD_REQUEST_MAGIC),
                 0,
                 htobe16((uint16_t)type),
                 htobe64(handle),
                 htobe64(offset),
                 htobe32(length)};

    if (c->out_begin > 0 && c->out_end + need > c->out_space) {
        memmove(c->out, c->out + c->out_begin, c->out_end - c->out_begin);
        c->out_end -= c->out_begin;
        c->out_begin = 0;
    }
    if (c->out_end + need > c->out_space) {
        c->out_space = (c->out_end + need) * 2;
        c->out = realloc(c->out, c->out_space);
        if (!c->out) {
            load_die("out of memory");
        }
    }
    memcpy(c->out + c->out_end, &r, sizeof r);
    c->out_end += sizeof r;
    if (payload) {
        memcpy(c->out + c->out_end, payload, length);
        c->out_end += length;
    }
}

bool load_conn_send(LoadConn *c)
{
    while (c->out_begin < c->out_end) {
        ssize_t put = send(c->fd, c->out + c->out_begin, c->out_end - c->out_begin, MSG_NOSIGNAL);

        if (put < 0 && errno == EINTR) {
            continue;
        }
        if (put < 0 && errno == EAGAIN) {
            return false;
        }
        if (put < 0) {
            load_lost(strerror(errno));
        }
        c->out_begin += (size_t)put;
    }
    c->out_begin = c->out_end = 0;
    return true;
}

static bool parse_reply(LoadConn *c, void (*done)(void *opaque, uint32_t handle, uint32_t error),
                        void *opaque)
{
    Reply r;
    uint32_t handle, error;
    size_t need = REPLY_BYTES;

    if (c->in_end - c->in_begin < need) {
        return false;
    }
    memcpy(&r, c->in + c->in_begin, sizeof r);
    if (be32toh(r.magic) != NBD_REPLY_MAGIC) {
        load_die("reply has magic %#x", be32toh(r.magic));
    }
    handle = (uint32_t)be64toh(r.handle);
    error = be32toh(r.error);
    if (error == 0) {
        need += c->reply_bytes[handle];
    }
    if (need > c->in_space) {
        load_die("reply is larger than the buffer");
    }
    if (c->in_end - c->in_begin < need) {
        return false;
    }
    c->in_begin += need;
    done(opaque, handle, error);
    return true;
}

void load_conn_receive(LoadConn *c, void (*done)(void *opaque, uint32_t handle, uint32_t error),
                       void *opaque)
{
    ssize_t got;

    if (c->in_begin > 0) {
        memmove(c->in, c->in + c->in_begin, c->in_end - c->in_begin);
        c->in_end -= c->in_begin;
        c->in_begin = 0;
    }
    got = recv(c->fd, c->in + c->in_end, c->in_space - c->in_end, 0);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) {
        return;
    }
    if (got <= 0) {
        load_lost(got < 0 ? strerror(errno) : "closed by the server");
    }
    c->in_end += (size_t)got;
    while (parse_reply(c, done, opaque)) {
    }
}

void load_conn_close(LoadConn *c)
{
    Request r = {htobe32(NBD_REQUEST_MAGIC), 0, htobe16(NBD_CMD_DISC), 0, 0, 0};

    (void)!send(c->fd, &r, sizeof r, MSG_NOSIGNAL);
    close(c->fd);
    free(c->out);
    free(c->in);
}

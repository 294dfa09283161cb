/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One NBD connection of the load generator: fixed newstyle, NBD_OPT_GO, simple replies (NBD proto.md).  Not blocking once it is open.
 * A connection belongs to one thread.  Whatever goes wrong ends the program: a load that lost a request measures nothing.
 */
#ifndef TESTS_TOOLS_LOAD_CONN_H
#define TESTS_TOOLS_LOAD_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NBD_CMD_READ = 0, NBD_CMD_WRITE = 1, NBD_CMD_DISC = 2, NBD_CMD_FLUSH = 3 };

typedef struct LoadConn {
    int fd;
    uint64_t size; /* of the export, bytes */
    char *out;     /* what is still to be sent: [out_begin, out_end) */
    size_t out_begin, out_end, out_space;
    char *in; /* what came and is not parsed yet: [in_begin, in_end) */
    size_t in_begin, in_end, in_space;
    const uint32_t *reply_bytes; /* by handle: payload that a successful reply carries */
    bool want_write;             /* epoll waits for room */
} LoadConn;

/* Connects to a Unix socket and chooses the export; reply_bytes must outlive the connection. */
void load_conn_open(LoadConn *c, const char *socket_path, const char *export_name,
                    const uint32_t *reply_bytes);

/* Queues a request; handle < number of reply_bytes.  Nothing is sent before load_conn_send(). */
void load_conn_queue(LoadConn *c, unsigned type, uint32_t handle, uint64_t offset, uint32_t length,
                     const void *payload);

/* Sends what the socket takes; true: all is sent. */
bool load_conn_send(LoadConn *c);

/* Reads what has come; calls done(opaque, handle, error) for each reply. */
void load_conn_receive(LoadConn *c, void (*done)(void *opaque, uint32_t handle, uint32_t error),
                       void *opaque);

/* Says goodbye and closes. */
void load_conn_close(LoadConn *c);

/* Prints one line on stderr and ends the program with status 1. */
void load_die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* The program's answer to a connection that is lost under load: it ends, with or without an error. */
void load_lost(const char *why) __attribute__((noreturn));

#endif

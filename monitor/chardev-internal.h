/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The parts of character devices; private to monitor/.
 *
 * A device (chardev.c) is of a kind (chardev-<kind>.c) and has users.  Kinds that talk through descriptors do so with a Stream
 * (chardev-stream.c).
 */
#ifndef MONITOR_CHARDEV_INTERNAL_H
#define MONITOR_CHARDEV_INTERNAL_H

#include "monitor/chardev.h"
#include "util/tls.h"
#include <glib-unix.h>
#include <sys/types.h>

struct ChardevBackend;
struct SocketAddressLegacy;

typedef struct ChardevKind {
    const char *name; /* as in ChardevBackendKind */
    size_t size;      /* of the structure that begins with Chardev */
    /* Takes what the backend's branch says. */
    bool coroutine_fn (*open)(Chardev *c, const struct ChardevBackend *b, Error **errp);
    /* There is a user now, and devices are served: from here on chardev_opened() may be called. */
    void (*start)(Chardev *c);
    void (*write)(Chardev *c, const char *data, size_t len);
    /* What follows may be NULL: nothing waits, nothing can be held up, there is no connection to end, nothing to free. */
    size_t (*queued)(const Chardev *c);
    void (*set_reading)(Chardev *c, bool on);
    void (*disconnect)(Chardev *c);
    /* Everything but the structure; also after open() has failed. */
    void (*close)(Chardev *c);
    char *(*describe)(const Chardev *c); /* NULL: the kind's name */
} ChardevKind;

struct Chardev {
    const ChardevKind *kind;
    char *id;
    const ChardevUser *user; /* NULL: none */
    void *opaque;
    bool started;
    int log_fd; /* -1: none */
    bool log_times, log_in_line;
};

extern const ChardevKind chardev_kind_file, chardev_kind_pipe, chardev_kind_socket,
    chardev_kind_null, chardev_kind_mux, chardev_kind_stdio, chardev_kind_ringbuf,
    chardev_kind_memory;

/* For kinds: what happened. */
static inline void chardev_opened(Chardev *c)
{
    c->user->opened(c->opaque);
}
static inline void chardev_received(Chardev *c, const char *data, size_t len)
{
    c->user->received(c->opaque, data, len);
}
static inline void chardev_closed(Chardev *c)
{
    c->user->closed(c->opaque);
}
/* All of fds are consumed. */
void chardev_descriptors(Chardev *c, const int *fds, unsigned n);

/* Makes a device; takes the id's place in the list only if it is free.  prefix_errors: errors begin with what failed. */
bool coroutine_fn chardev_make(const char *id, const struct ChardevBackend *b, bool prefix_errors,
                               Error **errp);
/* Whether waiting for clients is over: the daemon ends. */
bool chardev_is_stopping(void);

/* chardev-options.c: --chardev's options as a backend.  NULL with *errp. */
struct ChardevBackend *chardev_parse(struct json_object *options, bool *ret_mux, Error **errp);

/* chardev-mux.c: a further user; false with *errp: there are too many. */
bool chardev_mux_attach(Chardev *c, const ChardevUser *user, void *opaque, Error **errp);

/* ---- descriptors that are talked through ---- */

typedef struct Stream {
    Chardev *device;
    void (*ended)(struct Stream *s); /* the peer is gone, or must go */
    int in, out;                     /* -1: none; non-blocking */
    bool socket, telnet, reading;
    bool finished; /* nothing more comes: the end is told when all has been sent */
    TlsSession *tls;
    unsigned telnet_state;
    GSource *read_source, *write_source;
    GByteArray *queue; /* what has not been sent; `sent` bytes of it have */
    guint sent;
} Stream;

void stream_init(Stream *s, Chardev *device, void (*ended)(Stream *s));
/* Begins to talk; the descriptors stay the caller's to close, after stream_stop(). */
void stream_start(Stream *s, int in, int out);
/* Forgets the descriptors and what has not been sent; flush: tries to send it first. */
void stream_stop(Stream *s, bool flush);
void stream_cleanup(Stream *s);
void stream_write(Stream *s, const char *data, size_t len);
size_t stream_queued(const Stream *s);
void stream_set_reading(Stream *s, bool on);
/* A watch on a descriptor; destroyed and forgotten by source_remove(). */
GSource *source_watch(int fd, GIOCondition condition, GUnixFDSourceFunc fn, gpointer opaque);
void source_remove(GSource **s);

/* chardev-telnet.c: takes commands out of what was received, in place; returns what is left. */
size_t telnet_filter(unsigned *state, char *data, size_t len);
/* What a server says first. */
extern const char telnet_hello[];

/* ---- making sockets (chardev-socket.c); descriptors are non-blocking and close-on-exec; -1 with *errp ---- */

/* The file of a listening socket: removed at the end, if it still is the one that was made. */
typedef struct SocketFile {
    char *path; /* absolute; NULL: none */
    dev_t dev;
    ino_t ino;
} SocketFile;

int socket_listen(const struct SocketAddressLegacy *a, SocketFile *ret_file, Error **errp);
void socket_file_remove(SocketFile *f);
/* Blocks. */
int socket_connect(const struct SocketAddressLegacy *a, Error **errp);
/* Small messages leave at once (TCP; nothing to do for others). */
void socket_set_nodelay(int fd);
/* "unix:/path", "tcp:host:port"; listening: a port that the system has chosen is told. */
char *socket_describe(const struct SocketAddressLegacy *a, int listen_fd, bool telnet);

#endif

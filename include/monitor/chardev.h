/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Character devices: where monitors talk.
 *
 * A device has at most one user (a monitor), which is told of connections, bytes and their end; a mux has several.  A socket server
 * serves one client at a time; others wait in the listen queue.  Control thread.
 */
#ifndef MONITOR_CHARDEV_H
#define MONITOR_CHARDEV_H

#include "util/coroutine.h"
#include "util/error.h"
#include <json-c/json.h>

typedef struct Chardev Chardev;
struct ChardevBackend;

typedef struct ChardevUser {
    void (*opened)(void *opaque);
    /* Descriptors came with the bytes that follow; all are the callee's.  NULL: they are closed. */
    void (*descriptors)(void *opaque, const int *fds, unsigned n);
    void (*received)(void *opaque, const char *data, size_t len);
    /* All that waited to be sent has been sent; not called from chardev_write().  May be NULL. */
    void (*drained)(void *opaque);
    /* The peer is gone; what was queued for it is dropped. */
    void (*closed)(void *opaque);
} ChardevUser;

/* Makes a device from options as --chardev takes them (strings; from JSON booleans and numbers too).  Errors are those of the command line.
 * A server waits here for its first client unless wait=off (default, but for fd=, where nobody knows of it yet). */
bool coroutine_fn chardev_new(struct json_object *options, Error **errp);
/* The name of the i-th kind of device; NULL behind the last. */
const char *chardev_kind_name(unsigned i);
/* Prints the options of a kind, or of all (NULL).  False: there is none of that name. */
bool chardev_print_help(const char *kind);
/* As chardev-add, -change and -remove do it; errors are theirs. */
bool coroutine_fn chardev_add(const char *id, const struct ChardevBackend *b, Error **errp);
bool coroutine_fn chardev_change(const char *id, const struct ChardevBackend *b, Error **errp);
bool chardev_remove(const char *id, Error **errp);
/* From now on chardev_new() waits for no client: it fails. */
void chardev_stop_waiting(void);
Chardev *chardev_find(const char *id);
/* Newest first; what: as query-chardev tells it. */
void chardev_foreach(void (*fn)(void *opaque, const char *id, const char *what, bool used),
                     void *opaque);
/* Whether a monitor on it can offer out-of-band execution. */
bool chardev_offers_oob(const Chardev *c);
/* Whether a peer is talked to by a socket, and can be cut off. */
bool chardev_is_socket(const Chardev *c);
/* Starts talking; opened() follows when (or if) there is a peer. */
bool chardev_attach(Chardev *c, const ChardevUser *user, void *opaque, Error **errp);
/* The user goes; he is told nothing more. */
void chardev_detach(Chardev *c);
/* Until this is called nobody is served: who connects while the daemon starts waits.  Once. */
void chardev_serve(void);
/* Queues bytes. */
void chardev_write(Chardev *c, const char *data, size_t len);
/* Text for the process's standard output, in order with what a character device on it writes. */
void chardev_write_stdout(const char *data, size_t len);
/* The user edits lines itself: a terminal hands on every key, and shows nothing by itself. */
void chardev_set_raw(Chardev *c);
/* Bytes queued and not sent yet. */
size_t chardev_queued(const Chardev *c);
/* Stops or resumes reading: back-pressure. */
void chardev_set_reading(Chardev *c, bool on);
/* Ends the connection (closed() is called). */
void chardev_disconnect(Chardev *c);
/* Shutdown: sends what is queued, to peers that read it within a second; closes, removes sockets. */
void chardev_close_all(void);

#endif

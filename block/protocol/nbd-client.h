/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NBD client's parts; private to block/protocol/.
 *
 * Words
 *  session   one connection to the server, from the end of its handshake to its loss: a handle of libnbd, and two coroutines that move its
 *            bytes on the client's loop.  Requests of any thread hand their commands to the handle, which has a lock of its own.
 *  client    what a node has: the address, and the session of the moment.
 *
 * What must hold
 *  C1  a request waits for the server's answer, or for a session until `wait_until`, and for nothing else.
 *  C2  no descriptor number is used again while somebody may still poll it: a session polls a duplicate that it closes itself.
 *
 * Lock order: NbdClient.lock, NbdSession.lock; libnbd's lock is innermost: its callbacks take none of ours.
 */
#ifndef BLOCK_PROTOCOL_NBD_CLIENT_H
#define BLOCK_PROTOCOL_NBD_CLIENT_H

#include "block/driver.h"
#include "util/iothread.h"
#include "util/tls.h"
#include <libnbd.h>

struct SocketAddress;

/* The longest that a connection attempt may take, connecting and handshake together, unless open-timeout says more. */
#define NBD_CONNECT_NS (INT64_C(10) * 1000000000)

typedef struct NbdSession NbdSession;
typedef struct NbdTls NbdTls;

/* Where to go and what to ask for; constant, but for fd. */
typedef struct NbdTarget {
    struct SocketAddress *server;
    char *export;
    char *context;        /* the meta context that block status is about */
    TlsCreds *creds;      /* NULL: plain */
    char *tls_hostname;   /* what the server's certificate must say; NULL: not looked at */
    char *shown;          /* for messages */
    int fd;               /* type fd: the socket, until it is used; -1 */
    _Atomic bool stopped; /* attempts end as soon as they see it */
} NbdTarget;

/* What a server says of an export. */
typedef struct NbdFacts {
    uint64_t size;
    bool read_only, flush, fua, trim, zero, fast_zero, cache, context;
    uint32_t min_block, preferred_block, max_block; /* bytes, never 0 */
} NbdFacts;

struct NbdSession {
    struct nbd_handle *h;
    int fd; /* C2 */
    NbdFacts facts;
    NbdTls *tls; /* NULL: plain */
    _Atomic unsigned refs;
    pthread_mutex_t lock;
    CoQueue writer;  /* the coroutine that sends, while there is nothing to send */
    bool want_write; /* there is */
    bool over;
};

typedef struct NbdClient {
    NbdTarget target; /* constant */
    IOThread *thread; /* a user of it */
    int64_t reconnect_ns;
    bool shows_depth; /* the context is qemu:allocation-depth: numbers, not flags */
    char *name;       /* of the node, for the log */
    pthread_mutex_t lock;
    NbdSession *session; /* NULL: there is none now */
    int64_t wait_until;  /* without a session: requests wait for one until then (clock_ns()) */
    CoQueue waiting;
    bool stopped;    /* no session any more */
    CoGroup manager; /* the coroutine that keeps the session */
    Timer waiting_over;
} NbdClient;

/* ---- nbd-connect.c; coroutines of any loop ---- */

/* Connects to target->server.  A descriptor that the caller owns, or -1. */
int coroutine_fn nbd_client_socket(NbdTarget *t, int64_t deadline_ns, Error **errp);
/* Connects and shakes hands.  One reference for the caller; NULL: *errp. */
NbdSession *coroutine_fn nbd_client_connect(NbdTarget *t, int64_t deadline_ns, Error **errp);
/* Waits for events on fd in short steps: 1, or 0: the deadline passed or the target is stopped; or a negative errno. */
int coroutine_fn nbd_client_poll(const NbdTarget *t, int fd, short events, int64_t deadline_ns);

/* ---- nbd-tls.c ---- */

/* Asks the server on fd (consumed, also on failure) for TLS and stands between it and libnbd: *ret_fd is a socket that speaks the protocol from
 * its beginning, in the clear. */
NbdTls *coroutine_fn nbd_tls_start(const NbdTarget *t, int fd, int64_t deadline_ns, int *ret_fd,
                                   Error **errp);
/* Ends it and frees it; returns when its coroutines have ended, which does not wait for the peer.  On the loop that started it. */
void coroutine_fn nbd_tls_end(NbdTls *tls);

/* ---- nbd-session.c ---- */

NbdSession *nbd_session_ref(NbdSession *s);
void nbd_session_unref(NbdSession *s);
/* There may be something to send; any thread. */
void nbd_session_kick(NbdSession *s);
/* The first session, and the coroutine that keeps it.  Tries until open_ns have passed; 0: once.  Control thread. */
bool coroutine_fn nbd_client_start(NbdClient *c, int64_t open_ns, NbdFacts *ret_facts,
                                   Error **errp);
/* Requests that wait fail, and so do later ones.  Any thread. */
void nbd_client_stop(NbdClient *c);
/* Requests that wait for a session fail now.  Any thread. */
void nbd_client_stop_waiting(NbdClient *c);
/* Takes leave of the server.  No request runs.  Control thread. */
void coroutine_fn nbd_client_end(NbdClient *c);
/* A reference to the session; waits for one (C1).  NULL: there is none. */
NbdSession *coroutine_fn nbd_client_enter(NbdClient *c);
/* The connection of s is no good any more. */
void nbd_client_lost(NbdClient *c, NbdSession *s);

/* ---- nbd-io.c ---- */

int coroutine_fn nbd_node_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                 unsigned flags);
int coroutine_fn nbd_node_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                  unsigned flags);
int coroutine_fn nbd_node_pwrite_zeroes(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                        unsigned flags);
int coroutine_fn nbd_node_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes);
int coroutine_fn nbd_node_flush(Node *n, Request *r);
int coroutine_fn nbd_node_block_status(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                       unsigned flags, bool precise, uint64_t *ret_bytes,
                                       HostOffset *ret_map);

/* ---- nbd-name.c ---- */

extern const char *const nbd_protocols[];
/* As BlockDriver.parse_name. */
struct json_object *nbd_parse_name(const char *name, Error **errp);
/* The name that opens the same export; NULL: it has none.  Freed by the caller. */
char *nbd_make_name(const struct SocketAddress *server, const char *export);
/* "host:port" or "/path", for messages.  Freed by the caller. */
char *nbd_show_address(const struct SocketAddress *server);

#endif

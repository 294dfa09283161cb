/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * TLS over sockets, by GnuTLS: credentials and sessions.
 *
 * Credentials are made once (control thread) and then read by sessions of any thread; they are counted.  A session belongs to
 * one thread at a time; its descriptor is non-blocking, and no call here waits: -EAGAIN says that the descriptor must be
 * ready first, for what tls_wants() tells.
 */
#ifndef UTIL_TLS_H
#define UTIL_TLS_H

#include "util/error.h"
#include <stdbool.h>
#include <sys/types.h>

typedef enum TlsKind { TLS_ANON, TLS_PSK, TLS_X509 } TlsKind;

/* Strings may be NULL where a default or nothing is meant; they are not kept. */
typedef struct TlsOptions {
    TlsKind kind;
    bool server, verify_peer;
    const char *dir;
    const char *priority;
    const char *username; /* PSK, client */
    bool sanity_check;    /* x509 */
    const char *password; /* x509: of the key */
} TlsOptions;

typedef struct TlsCreds TlsCreds;
typedef struct TlsSession TlsSession;

/* Reads the files.  Errors: "Unable to access credentials <file>: <errno>" and such. */
TlsCreds *tls_creds_new(const TlsOptions *o, Error **errp);
TlsCreds *tls_creds_ref(TlsCreds *c); /* any thread */
void tls_creds_unref(TlsCreds *c);    /* any thread; NULL: nothing happens */
bool tls_creds_is_server(const TlsCreds *c);

/* A session on fd, which stays the caller's.  hostname: clients only, what the certificate must say; NULL: not looked at. */
TlsSession *tls_session_new(TlsCreds *c, const char *hostname, int fd, Error **errp);
void tls_session_free(TlsSession *s);
/* 0: done; -EAGAIN; or another negative errno with *errp. */
int tls_handshake(TlsSession *s, Error **errp);
/* Who the peer is: the subject of his certificate, or the name of his key; NULL: unknown.  The session's. */
const char *tls_peer(const TlsSession *s);
/* Bytes; recv: 0 at the end. */
ssize_t tls_recv(TlsSession *s, void *buf, size_t len);
ssize_t tls_send(TlsSession *s, const void *buf, size_t len);
/* Bytes that have been received and can be had without the descriptor. */
size_t tls_pending(const TlsSession *s);
/* POLLIN or POLLOUT: what the last call that gave -EAGAIN waits for. */
short tls_wants(const TlsSession *s);
/* Tells the peer, if that does not wait, that nothing more comes. */
void tls_bye(TlsSession *s);

#endif

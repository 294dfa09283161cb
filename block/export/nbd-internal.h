/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NBD server's parts; private to block/export/.
 *
 * A connection lives on its export's I/O thread once it has chosen one; the handshake runs on the default one.  Names follow
 * the protocol's document (proto.md).
 */
#ifndef BLOCK_EXPORT_NBD_INTERNAL_H
#define BLOCK_EXPORT_NBD_INTERNAL_H

#include "block/export.h"
#include "block/io.h"
#include "util/tls.h"

/* ---- protocol constants ---- */

#define NBD_MAGIC              UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC       UINT64_C(0x49484156454F5054) /* "IHAVEOPT" */
#define NBD_OPTION_REPLY_MAGIC UINT64_C(0x3e889045565a9)
#define NBD_REQUEST_MAGIC      0x25609513u
#define NBD_SIMPLE_REPLY_MAGIC 0x67446698u
#define NBD_STRUCTURED_MAGIC   0x668e33efu

enum { NBD_FLAG_FIXED_NEWSTYLE = 1, NBD_FLAG_NO_ZEROES = 2 };

enum {
    NBD_FLAG_HAS_FLAGS = 1 << 0,
    NBD_FLAG_READ_ONLY = 1 << 1,
    NBD_FLAG_SEND_FLUSH = 1 << 2,
    NBD_FLAG_SEND_FUA = 1 << 3,
    NBD_FLAG_SEND_TRIM = 1 << 5,
    NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
    NBD_FLAG_SEND_DF = 1 << 7,
    NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
    NBD_FLAG_SEND_CACHE = 1 << 10,
    NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
};

enum {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
};

#define NBD_REP_ERR(n) (UINT32_C(0x80000000) + (n))
enum {
    NBD_REP_ACK = 1,
    NBD_REP_SERVER = 2,
    NBD_REP_INFO = 3,
    NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERR_UNSUP    NBD_REP_ERR(1)
#define NBD_REP_ERR_POLICY   NBD_REP_ERR(2)
#define NBD_REP_ERR_INVALID  NBD_REP_ERR(3)
#define NBD_REP_ERR_TLS_REQD NBD_REP_ERR(5)
#define NBD_REP_ERR_UNKNOWN  NBD_REP_ERR(6)
#define NBD_REP_ERR_TOO_BIG  NBD_REP_ERR(9)

enum { NBD_INFO_EXPORT = 0, NBD_INFO_NAME = 1, NBD_INFO_DESCRIPTION = 2, NBD_INFO_BLOCK_SIZE = 3 };

enum {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};
enum {
    NBD_CMD_FLAG_FUA = 1 << 0,
    NBD_CMD_FLAG_NO_HOLE = 1 << 1,
    NBD_CMD_FLAG_DF = 1 << 2,
    NBD_CMD_FLAG_REQ_ONE = 1 << 3,
    NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
};

enum { NBD_REPLY_FLAG_DONE = 1 };
enum {
    NBD_REPLY_TYPE_NONE = 0,
    NBD_REPLY_TYPE_OFFSET_DATA = 1,
    NBD_REPLY_TYPE_OFFSET_HOLE = 2,
    NBD_REPLY_TYPE_BLOCK_STATUS = 5,
    NBD_REPLY_TYPE_ERROR = 0x8001,
};
enum { NBD_STATE_HOLE = 1, NBD_STATE_ZERO = 2 };

enum {
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108
};

#define NBD_MAX_REQUEST (32u * 1024 * 1024)
#define NBD_MAX_NAME    4096u
#define NBD_MAX_OPTION  (64u * 1024)

enum { NBD_STATE_DIRTY = 1 };

/* Our numbers for meta contexts; those of bitmaps follow, in the export's order. */
enum { NBD_CONTEXT_ALLOCATION = 1, NBD_CONTEXT_DEPTH = 2, NBD_CONTEXT_BITMAPS = 3 };

/* ---- connections ---- */

typedef struct NbdExport NbdExport;
typedef struct NbdConn NbdConn;
typedef struct NbdRequest NbdRequest;

struct NbdExport {
    Export base;
    uint64_t unique; /* no other export of this process has it, or ever had */
    char *name, *description;
    bool allocation_depth;
    struct NbdBitmaps *bitmaps; /* NULL: none; constant */
    GPtrArray *conns;           /* NbdConn *; control thread */
    GPtrArray *idle_waiters;    /* Coroutine * */
};

struct NbdConn {
    int fd;
    char *peer;      /* for the log */
    TlsCreds *creds; /* NULL: no TLS is offered; else nothing is served without */
    char *authz;     /* object that says which peers may; NULL: all */
    TlsSession *tls; /* NULL: plain */
    NbdExport *exp;
    /* handshake */
    bool no_zeroes, structured;
    GArray *contexts;    /* of uint32_t: numbers of the meta contexts that the client has chosen */
    uint64_t ctx_unique; /* of the export that they were chosen of */
    unsigned handshake_seconds;
    Timer handshake_timer;
    /* transmission, on the export's thread (nbd-transmission.c) */
    uint8_t *in; /* received and not parsed: bytes [in_start, in_end) */
    size_t in_start, in_end;
    unsigned running;          /* requests that are not answered */
    size_t running_bytes;      /* of their buffers */
    Coroutine *reader_waiting; /* for room, or for the last request */
    Coroutine *writer;         /* NULL: it has ended */
    bool writer_idle, reading_over, broken;
    NbdRequest *done_head, **done_tail; /* to be answered, in order */
    NbdRequest *pool;
};

/* ---- meta contexts of bitmaps: nbd-bitmaps.c ---- */

struct BlockDirtyBitmapOrStrList;
typedef struct NbdBitmaps NbdBitmaps;

/* Takes the bitmaps that options name into use, for an export of n.  Control thread.  NULL with *errp unset: there are none. */
NbdBitmaps *coroutine_fn nbd_bitmaps_new(Node *n, bool writable,
                                         const struct BlockDirtyBitmapOrStrList *names,
                                         Error **errp);
void nbd_bitmaps_free(NbdBitmaps *b);
/* "qemu:dirty-bitmap:NAME" of each; the caller frees them. */
char **nbd_bitmaps_contexts(const NbdBitmaps *b);
/* What the i-th says from offset on, at most `bytes`.  Any thread. */
bool nbd_bitmaps_next(const NbdBitmaps *b, unsigned i, uint64_t offset, uint64_t bytes,
                      uint64_t *ret_bytes);

/* nbd-handshake.c: true when the client is to be served c->exp; false: it has gone or must go. */
bool coroutine_fn nbd_handshake(NbdConn *c);
/* nbd-transmission.c: serves until the client is gone and its requests have ended. */
void coroutine_fn nbd_transmission(NbdConn *c);

/* What a handshake tells of an export. */
typedef struct NbdExportFacts {
    uint64_t unique, size;
    uint16_t flags;
    bool allocation_depth;
    /* the caller's to free */
    char *description;
    char **bitmap_contexts;
} NbdExportFacts;
void nbd_export_facts_clear(NbdExportFacts *f);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(NbdExportFacts, nbd_export_facts_clear)

/* One request of a client; its buffers are kept for the next one. */
struct NbdRequest {
    NbdConn *conn;
    NbdRequest *next;
    uint64_t cookie, offset;
    uint32_t length;
    uint16_t flags, type;
    uint8_t *buf; /* data; aligned */
    size_t buf_size;
    /* the answer */
    uint32_t error; /* of the protocol; 0: none */
    size_t head_len, data_len;
    uint8_t head[32];   /* header, and what comes before the data */
    GByteArray *chunks; /* instead of both: whole chunks (block status) */
};

/* What each piece of a structured answer begins with. */
typedef struct __attribute__((packed)) NbdChunkHeader {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie;
    uint32_t length;
} NbdChunkHeader;
NbdChunkHeader nbd_chunk_header(const NbdRequest *q, bool done, uint16_t type, uint32_t length);

/* nbd-request.c: carries it out and fills in the answer. */
void coroutine_fn nbd_request_run(NbdRequest *q);
/* nbd-status.c: the answer to a request for block status. */
int coroutine_fn nbd_block_status_run(NbdRequest *q, Edge *e, Request *r);
/* Makes the answer to what was found wrong before it could be run. */
void nbd_request_fail(NbdRequest *q, uint32_t error);
/* Room for len bytes of data; false: no memory. */
bool nbd_request_reserve(NbdRequest *q, size_t len);

/* nbd-server.c: the exports that clients may choose. */
bool nbd_export_look(const char *name, NbdExportFacts *ret_facts);
/* Makes c a client of the export; from here on the export waits for it. */
NbdExport *nbd_export_enter(const char *name, NbdConn *c);
/* Calls fn for every export's name and description. */
void nbd_export_foreach(void (*fn)(void *opaque, const char *name, const char *description),
                        void *opaque);

/* nbd-channel.c: the connection's bytes, with TLS or without.  Reading and writing each by one coroutine, on one thread. */

/* Bytes, 0 at the end, or a negative errno. */
ssize_t coroutine_fn nbd_recv(NbdConn *c, void *buf, size_t len);
/* Sends all of it (changes iov); 0 or a negative errno. */
int coroutine_fn nbd_send_all(NbdConn *c, struct iovec *iov, int niov);
/* The server's side of a TLS handshake, and the question whether the peer may.  False: it has been logged. */
bool coroutine_fn nbd_start_tls(NbdConn *c);
/* Reads exactly len bytes; 0 or a negative errno (-ECONNRESET at the end). */
int coroutine_fn nbd_read(NbdConn *c, void *buf, size_t len);
uint16_t nbd_export_flags(const NbdExport *e);

#endif

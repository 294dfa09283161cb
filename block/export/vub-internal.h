/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The vhost-user-blk server's parts; private to block/export/.
 *
 * Written from the vhost-user protocol's document and the virtio 1.2 specification, whose words are used: the *front end* (a
 * virtual machine monitor) shares the guest's memory with the *back end* (us); the *driver* is the guest's.
 *
 * Who runs where
 *  session   one connection to a front end: reads messages, one after the other, on the export's first I/O thread
 *  queue     one virtqueue: its ring is touched on the queue's own I/O thread only, by code that does not yield
 *  request   a coroutine of the queue's thread
 * The session changes a queue by running a function on the queue's thread and waiting for it (vub_queue_call).
 *
 * What the front end and the guest say is checked before it is used, and read from shared memory once only.  A ring that makes no
 * sense is *broken*: its queue takes nothing more until the front end starts it anew; nobody else notices.
 */
#ifndef BLOCK_EXPORT_VUB_INTERNAL_H
#define BLOCK_EXPORT_VUB_INTERNAL_H

#include "block/export.h"
#include "block/file.h"
#include "block/io.h"
#include "unix-listener.h"
#include <pthread.h>
#include <stdatomic.h>

/* ---- protocol constants ---- */

enum {
    VUB_GET_FEATURES = 1,
    VUB_SET_FEATURES = 2,
    VUB_SET_OWNER = 3,
    VUB_RESET_OWNER = 4,
    VUB_SET_MEM_TABLE = 5,
    VUB_SET_LOG_BASE = 6,
    VUB_SET_LOG_FD = 7,
    VUB_SET_VRING_NUM = 8,
    VUB_SET_VRING_ADDR = 9,
    VUB_SET_VRING_BASE = 10,
    VUB_GET_VRING_BASE = 11,
    VUB_SET_VRING_KICK = 12,
    VUB_SET_VRING_CALL = 13,
    VUB_SET_VRING_ERR = 14,
    VUB_GET_PROTOCOL_FEATURES = 15,
    VUB_SET_PROTOCOL_FEATURES = 16,
    VUB_GET_QUEUE_NUM = 17,
    VUB_SET_VRING_ENABLE = 18,
    VUB_SET_BACKEND_REQ_FD = 21,
    VUB_GET_CONFIG = 24,
    VUB_SET_CONFIG = 25,
    VUB_GET_INFLIGHT_FD = 31,
    VUB_SET_INFLIGHT_FD = 32,
    VUB_GET_MAX_MEM_SLOTS = 36,
    VUB_ADD_MEM_REG = 37,
    VUB_REM_MEM_REG = 38,
};
enum { VUB_BACKEND_CONFIG_CHANGE = 2 };

#define VUB_VERSION      1u /* in the flags of a message */
#define VUB_VERSION_MASK 3u
#define VUB_REPLY        4u
#define VUB_NEED_REPLY   8u

#define VUB_VRING_INDEX_MASK 0xffu
#define VUB_VRING_NOFD       0x100u

#define BIT64(n)                    (UINT64_C(1) << (n))
#define VUB_F_LOG_ALL               BIT64(26)
#define VUB_F_INDIRECT              BIT64(28)
#define VUB_F_EVENT_IDX             BIT64(29)
#define VUB_F_PROTOCOL_FEATURES     BIT64(30)
#define VUB_F_VERSION_1             BIT64(32)
#define VUB_F_RING_PACKED           BIT64(34)
#define VUB_PROTOCOL_MQ             BIT64(0)
#define VUB_PROTOCOL_LOG_SHMFD      BIT64(1)
#define VUB_PROTOCOL_REPLY_ACK      BIT64(3)
#define VUB_PROTOCOL_BACKEND_REQ    BIT64(5)
#define VUB_PROTOCOL_CONFIG         BIT64(9)
#define VUB_PROTOCOL_INFLIGHT_SHMFD BIT64(12)
#define VUB_PROTOCOL_MEM_SLOTS      BIT64(15)

#define VUB_VRING_F_LOG 1u

#define VUB_MAX_REGIONS_IN_TABLE 8u
#define VUB_MAX_REGIONS          509u
#define VUB_MAX_FDS              8u
#define VUB_MAX_PAYLOAD          1024u
#define VUB_MAX_QUEUES           256u /* a kick message has 8 bits for the index */
#define VUB_MAX_QUEUE_SIZE       32768u
#define VUB_MAX_DESCRIPTORS      1024u /* of a chain */
#define VUB_SECTOR_BITS          9
#define VUB_ID_BYTES             20u
#define VUB_LOG_PAGE             4096u

typedef struct __attribute__((packed)) VubHeader {
    uint32_t request, flags, size;
} VubHeader;

typedef struct VubVringState {
    uint32_t index, num;
} VubVringState;

typedef struct VubVringAddr {
    uint32_t index, flags;
    uint64_t desc, used, avail; /* of the front end's address space */
    uint64_t log;               /* of the dirty log's */
} VubVringAddr;

typedef struct VubRegionInfo {
    uint64_t guest_addr, size, user_addr, mmap_offset;
} VubRegionInfo;

typedef struct VubInflightInfo {
    uint64_t mmap_size, mmap_offset;
    uint16_t num_queues, queue_size;
    uint32_t pad;
} VubInflightInfo;

/* ---- addresses ---- */

/* Of the guest's physical memory, and of the front end's address space. */
typedef struct GuestPhys {
    uint64_t v;
} GuestPhys;
typedef struct UserAddr {
    uint64_t v;
} UserAddr;

/* ---- guest memory (vub-memory.c) ---- */

typedef struct VubRegion {
    _Atomic unsigned refs;
    uint64_t guest_addr, user_addr, size;
    uint8_t *host; /* of the first byte */
    void *map;
    size_t map_len;
} VubRegion;

/* A table of regions, sorted by guest address; never changed.  Shared by queues and requests of one thread or several: counted. */
typedef struct VubMemory {
    _Atomic unsigned refs;
    unsigned n;
    VubRegion *region[];
} VubMemory;

VubMemory *vub_memory_new(void); /* empty */
VubMemory *vub_memory_ref(VubMemory *m);
void vub_memory_unref(VubMemory *m); /* NULL: nothing */
/* A new table: what `old` has, and one region more, mapped from fd (which stays the caller's).  NULL with errp: regions that overlap,
 * are empty, wrap, or do not lie in the file. */
VubMemory *vub_memory_add(const VubMemory *old, const VubRegionInfo *info, int fd, Error **errp);
/* Without the region of that guest address, user address and size. */
VubMemory *vub_memory_remove(const VubMemory *old, const VubRegionInfo *info, Error **errp);
/* Memory at the address; *ret_len: how much of len lies in one piece (> 0).  NULL: not the guest's.  Any thread. */
void *vub_memory_guest(const VubMemory *m, GuestPhys addr, uint64_t len, uint64_t *ret_len);
/* All of len in one piece, and addr a multiple of align; else NULL. */
void *vub_memory_user(const VubMemory *m, UserAddr addr, uint64_t len, unsigned align);
/* The guest's address of memory that one of the above returned; false: not in the table. */
bool vub_memory_reverse(const VubMemory *m, const void *p, GuestPhys *ret);
/* Copies out of guest memory, over several regions if need be. */
bool vub_memory_read(const VubMemory *m, GuestPhys addr, void *buf, size_t len);

/* The dirty log of a live migration: a bit for every page of guest memory. */
typedef struct VubLog {
    void *map;
    size_t map_len;
    uint8_t *bits;
    uint64_t size; /* bytes */
} VubLog;
VubLog *vub_log_new(int fd, uint64_t size, uint64_t offset, Error **errp);
void vub_log_free(VubLog *l); /* NULL: nothing */
/* Marks what [addr, addr + len) touches; beyond the log's end: nothing. */
void vub_log_mark(VubLog *l, uint64_t addr, uint64_t len);

/* Memory that others can make shorter while we have it mapped: touching what is gone must not end the process (vub-fault.c).
 * After add, a touch finds zeroes there instead.  False: too many mappings.  Any thread. */
bool vub_fault_guard(void *map, size_t len);
void vub_fault_unguard(void *map);

/* ---- what outlives us (vub-inflight.c) ---- */

/* Layouts of the protocol's document: requests that were taken from a ring and not answered. */
typedef struct VubDescSplit {
    uint8_t inflight, padding[5];
    uint16_t next;
    uint64_t counter;
} VubDescSplit;
typedef struct VubRegionSplit {
    uint64_t features;
    uint16_t version, desc_num, last_batch_head, used_idx;
    VubDescSplit desc[];
} VubRegionSplit;
typedef struct VubDescPacked {
    uint8_t inflight, padding;
    uint16_t next, last, num;
    uint64_t counter;
    uint16_t id, flags;
    uint32_t len;
    uint64_t addr;
} VubDescPacked;
typedef struct VubRegionPacked {
    uint64_t features;
    uint16_t version, desc_num, free_head, old_free_head, used_idx, old_used_idx;
    uint8_t used_wrap_counter, old_used_wrap_counter, padding[7];
    VubDescPacked desc[];
} VubRegionPacked;

/* Ours, behind the queues' regions: what the next process must know of this one. */
typedef struct VubKept {
    uint64_t magic;
    uint64_t instance;      /* the process that answers from here */
    _Atomic uint64_t acked; /* answered writes whose metadata was in our memory only ... */
    _Atomic uint64_t saved; /* ... and how many of them have got into the file since */
    uint64_t dev, ino;      /* the image that writes go to; 0: not a file */
    int64_t birth;
    uint8_t wce; /* write cache as the guest chose it */
} VubKept;

typedef struct VubInflight {
    void *map;
    size_t map_len;
    uint8_t *base;
    unsigned num_queues, queue_size;
    size_t region_size;
    VubKept *kept;
} VubInflight;

/* Makes a buffer; *ret_fd is the caller's.  info: num_queues and queue_size are read, the rest filled in. */
VubInflight *vub_inflight_new(VubInflightInfo *info, int *ret_fd, Error **errp);
/* One that the front end kept for us. */
VubInflight *vub_inflight_open(const VubInflightInfo *info, int fd, Error **errp);
void vub_inflight_free(VubInflight *f);                          /* NULL: nothing */
void *vub_inflight_region(const VubInflight *f, unsigned queue); /* NULL: it has none */

/* ---- rings ---- */

typedef struct VubRing VubRing;
typedef struct VubChain VubChain;

/* One request of the driver as it lies in guest memory. */
struct VubChain {
    uint16_t head;   /* split: head's index; packed: buffer id */
    uint16_t ndescs; /* packed: ring entries it took */
    uint16_t slot;   /* packed, with an inflight region: its first entry there */
    struct iovec *iov;
    unsigned nout, nin; /* pieces that we read, then those that we write */
    unsigned room;      /* of iov */
    struct iovec local[8];
};
void vub_chain_init(VubChain *c);
void vub_chain_clear(VubChain *c);

typedef struct VubRingOps {
    /* Takes over from the front end: base as of SET_VRING_BASE; finds what a predecessor left.  False with errp: nonsense. */
    bool (*start)(VubRing *r, uint32_t base, Error **errp);
    /* Takes the next request: 1; 0: there is none; -1: broken (r->why). */
    int (*pop)(VubRing *r, VubChain *c);
    /* Answers it: len bytes were written.  The driver is to see it by the next publish(). */
    void (*push)(VubRing *r, const VubChain *c, uint32_t len);
    /* Makes pushed answers visible; true: the driver wants to be called. */
    bool (*publish)(VubRing *r);
    /* Asks for kicks, or not.  After enabling, look once more for requests. */
    void (*want_kicks)(VubRing *r, bool on);
    uint32_t (*base)(const VubRing *r); /* as of GET_VRING_BASE */
    /* Bytes of the three parts, and their alignment. */
    uint64_t (*part_size)(const VubRing *r, unsigned part);
} VubRingOps;
enum {
    VUB_PART_DESC,
    VUB_PART_AVAIL,
    VUB_PART_USED
}; /* packed: ring, driver's event, device's event */
extern const VubRingOps vub_split_ops, vub_packed_ops;

struct VubRing {
    const VubRingOps *ops;
    VubMemory *mem; /* not counted here */
    VubLog *log;    /* of the used ring, from log_addr on; NULL: none */
    uint64_t log_addr;
    VubLog *data_log; /* of everything else; NULL: none */
    unsigned num;
    bool event_idx, indirect;
    void *desc, *avail, *used;
    void *inflight;   /* this queue's region; NULL: none */
    const char *why;  /* broken: what was wrong */
    uint8_t *scratch; /* an indirect table */
    unsigned running; /* requests taken and not answered */
    uint64_t counter; /* order of inflight entries */
    /* split */
    uint16_t last_avail, used_idx, pushed_idx, signalled;
    bool signalled_valid;
    unsigned long *busy; /* heads that are running */
    /* packed */
    uint16_t next, used_next; /* positions */
    bool wrap, used_wrap;
    unsigned running_descs, unsignalled;
    /* left by a predecessor, in their order */
    GArray *resubmit; /* of uint16_t: heads (split) or slots (packed) */
    unsigned resubmitted;
};

/* Common to both: adds what a descriptor says to the chain; false: r->why says what is wrong. */
bool vub_ring_add(VubRing *r, VubChain *c, uint64_t addr, uint32_t len, bool writable);
/* Copies an indirect table into r->scratch; its number of descriptors, 0: r->why. */
unsigned vub_ring_indirect(VubRing *r, uint64_t addr, uint32_t len);
void vub_ring_init(VubRing *r);
void vub_ring_clear(VubRing *r);
/* Marks the part of the used ring. */
void vub_ring_log(VubRing *r, const void *p, size_t len);

static inline bool vub_need_event(uint16_t event, uint16_t now, uint16_t old)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

/* ---- export, sessions, queues ---- */

typedef struct VubExport VubExport;
typedef struct VubSession VubSession;
typedef struct VubQueue VubQueue;
typedef struct VubRequest VubRequest;

/* A memory table in use on one thread. */
typedef struct VubView {
    VubMemory *mem;
    unsigned users; /* the queue and its requests */
} VubView;

struct VubQueue {
    VubExport *exp;
    unsigned index;
    Loop *loop;
    /* ---- what the front end said; session ---- */
    uint32_t num, base;
    VubVringAddr addr;
    bool has_addr, enabled;
    int kick_fd, call_fd, err_fd; /* -1: none */
    /* ---- queue's thread ---- */
    VubRing ring;
    VubView *view;
    bool started; /* between start and stop */
    bool broken, stopping;
    bool publishing; /* vub_queue_publish() will run */
    bool poller_runs;
    VubRequest *pool;
    VubSession *session;
};

/* What a request has and needs; memory is kept for the next one. */
struct VubRequest {
    VubQueue *queue;
    VubView *view;
    VubRequest *next;
    VubChain chain;
    /* vub-blk.c */
    uint32_t type;
    uint64_t sector;
    struct iovec *data; /* what lies between header and status, either direction */
    unsigned ndata;
    uint64_t data_len, in_len;
    uint8_t *status;
};

struct VubExport {
    Export base;
    unsigned num_queues;
    uint32_t block_size;
    char serial[VUB_ID_BYTES + 1];
    bool metadata_writethrough;
    int listen_fd;
    UnixListener socket_file;
    GSource *listener;  /* NULL while a client is connected */
    GPtrArray *waiters; /* Coroutine *: for the session to be gone; control thread */
    VubQueue *queues;
    pthread_mutex_t lock;        /* innermost: */
    VubSession *session;         /* the one client; changed by the control thread */
    int backend_fd;              /* requests to the front end go there; -1: none */
    _Atomic uint64_t known_node; /* Node.unique of the one whose image `kept` names; any thread */
    CoMutex kept_lock;           /* before anything: VubSession.inflight's kept fields */
};

struct VubSession {
    VubExport *exp;
    int fd;
    uint64_t features, protocol_features;
    _Atomic bool wce;
    _Atomic bool flush_negotiated; /* the driver can flush */
    VubMemory *mem;
    VubLog *log;
    VubInflight *inflight;
};

/* vub-session.c: serves a front end until it has gone; a coroutine of the export's first I/O thread. */
void coroutine_fn vub_session_run(VubSession *s);

/* A message and its answer. */
typedef struct VubMessage {
    VubHeader head;
    union {
        uint8_t raw[VUB_MAX_PAYLOAD];
        uint64_t u64;
        VubVringState state;
        VubVringAddr addr;
        VubInflightInfo inflight;
        struct {
            uint32_t n, padding;
            VubRegionInfo region[VUB_MAX_REGIONS_IN_TABLE];
        } table;
        struct {
            uint64_t padding;
            VubRegionInfo region;
        } slot;
        struct {
            uint64_t size, offset;
        } log;
        struct {
            uint32_t offset, size, flags;
            uint8_t data[256];
        } config;
    };
    int fds[VUB_MAX_FDS]; /* -1: taken, or none */
    unsigned nfds;
    int reply_fd; /* to send with the answer and close; -1: none */
} VubMessage;

/* vub-message.c: does what it says.  *ret_reply: m->head.size bytes of m are the answer.  False with errp: the session must end. */
bool coroutine_fn vub_message_run(VubSession *s, VubMessage *m, bool *ret_reply, Error **errp);
uint64_t vub_features(const VubExport *e);

/* vub-queue.c */
void vub_queue_init(VubQueue *q, VubExport *e, unsigned index, Loop *loop);
/* Runs fn on the queue's thread, as a coroutine, and waits for it. */
typedef void coroutine_fn VubQueueFn(VubQueue *q, void *opaque);
void coroutine_fn vub_queue_call(VubQueue *q, VubQueueFn *fn, void *opaque);
/* Session's coroutine: starts the ring if all is known that it takes, and it is enabled.  False with errp: nonsense. */
bool coroutine_fn vub_queue_start(VubQueue *q, VubSession *s, Error **errp);
/* Takes no more requests; returns when those taken are answered.  *ret_base (may be NULL): the position. */
void coroutine_fn vub_queue_stop(VubQueue *q, uint32_t *ret_base);
/* The session's memory, log or addresses have changed under a running ring. */
bool coroutine_fn vub_queue_update(VubQueue *q, VubSession *s, Error **errp);
/* Queue's thread: answers a request. */
void vub_queue_answer(VubRequest *r, uint32_t written);
/* Queue's thread: takes nothing more; one line in the log. */
void vub_queue_break(VubQueue *q, const char *why);

/* vub-blk.c */
/* Takes header and status apart from the data of what was popped; false: they are not there. */
bool vub_request_prepare(VubRequest *r);
/* Carries out a virtio-blk request; a coroutine of the queue's thread. */
void coroutine_fn vub_request_main(void *opaque);
/* The device's configuration space; len bytes from offset. */
#define VUB_CONFIG_SIZE 256u
void vub_config_get(VubExport *e, const VubSession *s, uint8_t ret_config[VUB_CONFIG_SIZE]);
bool vub_config_set(VubSession *s, uint32_t offset, const uint8_t *data, uint32_t len,
                    Error **errp);

/* vub-kept.c: what was answered and what is in the files. */
/* Before answers that follow from requests to n: the front end's memory says which image that is. */
void coroutine_fn vub_kept_node(VubSession *s, const Node *n);
/* The buffer is there: takes over what it says.  False with errp: the guest must not go on with our disk. */
bool coroutine_fn vub_kept_adopt(VubSession *s, bool fresh, Error **errp);
/* A write-like request has ended well, by r: before it is answered. */
int coroutine_fn vub_kept_written(VubSession *s, Request *r);
/* Flushes; what had been answered before is in the files then. */
int coroutine_fn vub_kept_flush(VubSession *s, Request *r);
void vub_kept_wce(VubSession *s, bool wce);

#endif

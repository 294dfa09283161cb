/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The graph: nodes and edges.
 *
 * Words
 *  node    one driver instance with a virtual disk: a protocol (file, null-co), a format (qcow2, raw) or a filter.
 *  edge    the link by which one parent uses one node.  All I/O enters a node through an edge.  Parents are nodes, or owners
 *          outside of the graph (exports, jobs); those have "root" edges.
 *  target  what the control thread says an edge leads to.
 *
 * Who may touch what
 *  - The shape of the graph (lists, names, permissions, flags, `target`) belongs to the control thread: no lock.
 *  - I/O threads read an edge's `node`, `pending`, `next` (in a read section, see request.c), a node's driver state and the
 *    fields marked "any thread".
 *  - A node lives while it is referenced: by the edges that lead to it, by the monitor (blockdev-add), by a transaction, and
 *    until the counts of requests on it are zero.
 *
 * Invariants
 *  N1  node names are unique; a name is taken from the moment a transaction reserves it.
 *  N2  the cumulative permissions of a node are the or of its edges' perm and the and of their shared; every edge's perm is
 *      within what all the others share.
 *  N3  a hidden node (an overlay of a running prepare) is in no list and no query.
 *  N4  an inactive node (blockdev-set-active) is read_only, takes no more of its children than to read them, and lets others do with them what
 *      they want, other processes too; no node above it is active.
 */
#ifndef BLOCK_NODE_H
#define BLOCK_NODE_H

#include "block/types.h"
#include "util/co-lock.h"
#include "util/error.h"
#include "util/iov.h"
#include "util/loop.h"
#include <glib.h>
#include <stdatomic.h>

typedef struct BlockDriver BlockDriver;
typedef struct Change Change;
typedef struct Edge Edge;
typedef struct EdgeGuard EdgeGuard;
typedef struct Node Node;
typedef struct Recorders Recorders;
typedef struct Request Request;
typedef struct Transaction Transaction;

/* What a link means to its parent; decides permissions and how requests are counted. */
typedef enum EdgeRole {
    EDGE_ROOT,     /* an export, a job: a user of the disk */
    EDGE_STORAGE,  /* "file" of a format node: data and metadata */
    EDGE_FILTERED, /* the child of a filter, or of raw: same data */
    EDGE_COW,      /* "backing": read where this layer has nothing */
} EdgeRole;

/* The owner of a root edge. */
typedef struct EdgeOwner {
    /* For permission errors and the graph query: "block device 'x'", "an unnamed block device", "commit job 'j'".
     * The string is freed by the caller. */
    char *(*describe)(void *opaque);
    /* "block-backend" or "block-job" in x-debug-query-block-graph. */
    bool is_job;
    const char *job_type; /* jobs: "commit" */
    /* The name shown there; freed by the caller. */
    char *(*name)(void *opaque);
    /* What tells the user apart in query-blockstats (qdev); freed by the caller.  NULL: nothing. */
    char *(*id)(void *opaque);
    /* The node's size changed, or the edge leads to another node.  Control thread. */
    void (*resized)(void *opaque);
    /* May the node be inactive?  Then this user has no permissions on it meanwhile, whatever his edge says.  NULL: no. */
    bool (*bears_inactive)(void *opaque);
} EdgeOwner;

/* A user without a name: "an unnamed block device". */
extern const EdgeOwner edge_owner_unnamed;
/* Its parts, for owners that have more to say. */
char *edge_owner_unnamed_describe(void *opaque);
char *edge_owner_unnamed_name(void *opaque);

struct Edge {
    /* ---- any thread ---- */
    _Atomic(Node *) node;      /* where requests go ... */
    _Atomic(Node *) next;      /* ... or will go; valid while pending is set */
    _Atomic(Change *) pending; /* the unsettled change this edge belongs to */
    _Atomic(Node *) barrier;   /* old node whose write-like requests copies wait for; NULL: none */
    /* Of a filter that a change which is not settled yet inserts: its writes are not those that settling waits for. */
    _Atomic bool fresh;
    _Atomic(EdgeGuard *)
        guard; /* EDGE_COW: reads go by it, since what is below changes (guard.h); NULL: none */
    EdgeRole role;
    /* ---- control thread ---- */
    Node *target; /* flips at the cut */
    char *name;   /* "root", "file", "backing" */
    Node *parent; /* NULL for root edges */
    const EdgeOwner *owner;
    void *owner_opaque;
    unsigned perm, shared; /* of Perm */
    struct EdgeStats *
        stats; /* root edges whose owners want them (stats.h); NULL: none.  Set before the first request */
    bool joining; /* not used by its parent yet: a reopen is being prepared */
    bool leaving; /* soon not used any more: the same */
    bool
        unsettled; /* a backing edge of a running transaction: shares everything until its old node has settled */
    bool
        lenient; /* a backing edge inside the chain that a job merges: what it changes below does not show above */
    bool guarded; /* it has, or had, a guard: shares everything */
};

/* Requests in a node that came in by one thread; cache lines of their own. */
typedef struct NodeCount {
    _Alignas(64) _Atomic uint32_t reads;
    _Atomic uint32_t writes; /* write-like: write, write zeroes, discard, resize */
    _Atomic uint32_t flushes;
    /* Since the node was opened (stats.h). */
    _Atomic uint32_t unmap_ops;
    _Atomic uint64_t read_ops, read_bytes, write_ops, write_bytes, flush_ops, unmap_bytes;
    _Atomic uint32_t passed; /* write-like, let through by a filter that is new */
} NodeCount;

/* What requests must look like; set by the driver's open, constant afterwards.  Bytes; 0: no limit. */
typedef struct NodeLimits {
    uint32_t
        request_alignment; /* power of two, at least 1: offsets and lengths of reads and writes */
    uint32_t memory_alignment; /* power of two, at least 1: addresses */
    uint32_t max_transfer;     /* multiple of request_alignment */
    uint32_t max_iov;          /* pieces; at least 1 */
    uint64_t max_write_zeroes, max_discard;
    uint32_t write_zeroes_alignment, discard_alignment; /* preferred */
    uint32_t opt_transfer;
} NodeLimits;

typedef enum DetectZeroes { DETECT_ZEROES_OFF, DETECT_ZEROES_ON, DETECT_ZEROES_UNMAP } DetectZeroes;

struct Node {
    /* ---- constant after open ---- */
    uint64_t unique; /* number that no other node of this process has, or ever had; not 0 */
    const BlockDriver *driver;
    void *state; /* the driver's, driver->state_size zeroed bytes */
    NodeLimits limits;
    bool cache_direct, cache_no_flush;
    bool discard_unmap; /* discard=unmap: pass discards down */
    DetectZeroes detect_zeroes;
    bool force_share;
    /* ---- any thread ---- */
    _Atomic uint64_t size;  /* bytes of the virtual disk */
    _Atomic bool read_only; /* no write-like request gets in: -EROFS/-EPERM */
    _Atomic bool
        inactive; /* N4; what another process may have changed behind our back is not relied on */
    NodeCount count[LOOP_SLOTS];
    _Atomic uint64_t highest_write; /* end of the highest write since it was opened */
    _Atomic uint64_t
        write_threshold; /* the first write that ends behind this offset is told (threshold.c); 0: none */
    _Atomic uint64_t write_gen;   /* write-like requests that have ended */
    _Atomic uint64_t flushed_gen; /* those of them known to be durable */
    _Atomic bool unflushed_old;   /* an old node since its cut: not known flushed (T5) */
    _Atomic int64_t
        longest_wait; /* ns; the longest that the last change with this old node made a request wait */
    _Atomic int flush_error; /* sticky: negative errno of a flush that lost data (protocol nodes) */
    _Atomic unsigned write_waiters; /* coroutines that wait for writes and flushes to end ... */
    _Atomic unsigned idle_waiters;  /* ... or for all requests; who ends a request looks at these */
    _Atomic int gate;               /* not 0: requests that begin wait (gate.c) */
    pthread_mutex_t wait_lock;      /* innermost; protects: */
    CoQueue waiters;
    GQueue gate_held; /* requests that wait at the gate */
    int64_t gate_deadline;
    _Atomic(Recorders *) recorders; /* dirty bitmaps that record it (dirty-bitmap.c); NULL: none */
    _Atomic bool
        flush_times; /* protocols: a flush makes the file's times durable, too (journal-pivot.c) */
    _Atomic int64_t pace_ns, pace_until; /* by how much writes are slowed down, and how long */
    _Atomic(struct WriteFollower *)
        follower;       /* who does more before a write ends (dirty-bitmap.h) */
    CoMutex flush_lock; /* one flush of the driver at a time; before any lock of the driver */
    CoRangeLock
        rmw_lock; /* padded writes exclude overlapping ones; before any lock of the driver */
    Edge *file;   /* primary child: storage or filtered; NULL for protocols; constant after open */
    _Atomic(Edge *) backing; /* EDGE_COW child; NULL: none */
    /* ---- control thread ---- */
    char *name;
    bool auto_name;      /* "#block…" */
    bool implicit;       /* a filter that a job put there: queries of devices see through it */
    bool monitor_owned;  /* by blockdev-add: lives until blockdev-del */
    bool hidden;         /* N3 */
    bool auto_read_only; /* opened read-write only if possible; follows its parents' needs (file) */
    bool user_read_only; /* read-only=on was asked for */
    bool rest_read_only; /* while it is inactive: what read_only will be when it is active again */
    bool backing_overridden; /* `backing` was given, not taken from the header */
    struct BlockdevOptions
        *options; /* as opened, defaults and inherited ones filled in; children's are their own */
    struct BlockdevOptions *given; /* as the user, a header or a snapshot gave them */
    Node *opened_by;               /* the node whose options define this one in place; NULL: none */
    struct Reopen *reopening;      /* while it is reopened: what it will be (reopen.h) */
    Node *opening_for;             /* while it opens: the node whose backing it will be */
    struct SnapshotFile
        *made; /* while it opens: its file, which a snapshot has just made (file.h); NULL: any */
    const struct NewImage *
        new_image; /* formats, while it opens: what lay_out made, which the file has, and nothing else behind it; NULL */
    char *filename; /* plain name, see filename.c; "json:{…}" where there is none */
    /* The header's name by which the backing was opened (NULL: it was not), and what the node was called. */
    char *header_backing, *header_backing_shown;
    GPtrArray *bitmaps; /* UserBitmap *, of its users (bitmaps.h); NULL: none */
    unsigned refs;
    unsigned perm, shared; /* cumulative, N2 */
    GPtrArray *parents;    /* Edge *, target == this */
    GPtrArray *children;   /* Edge *, parent == this */
    GPtrArray *
        parked; /* Edge *: had been `backing`, or a child; requests may still remember them; NULL: none */
    Transaction *reserved_by;
    Change *unsettled; /* the change whose old node this is, until it is settled */
    uint64_t serial;   /* order of creation */
};

/* ---- registry, control thread ---- */

/* The node of that name, hidden ones excepted; NULL if there is none. */
Node *node_find(const char *name);
/* All visible nodes, newest first.  Free the array only. */
GPtrArray *node_list(void);
/* One reference more / less.  At zero the node closes: in a coroutine of its own, after requests in it have ended. */
Node *node_ref(Node *n);
void node_unref(Node *n);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Node, node_unref)
/* True if `name` is a legal node name: a letter, then letters, digits, '-', '.', '_', 31 bytes at most.  Errors:
 * "Invalid node-name: '%s'", "Node name too long". */
bool node_name_check(const char *name, Error **errp);
/* Keeps a name free for its reserver until node_name_release() or until a node takes it with the same reserver.
 * Error: "Duplicate nodes with node-name='%s'". */
bool node_name_reserve(const char *name, const void *reserver, Error **errp);
void node_name_release(const char *name, const void *reserver);

/* ---- opening, coroutines of the control thread; see graph.h for options ---- */

/* Waits until closes that are under way are done (tests, shutdown). */
void coroutine_fn node_wait_all_closed(void);
/* The same, at most until clock_ns() passes the deadline; then false. */
bool coroutine_fn node_wait_all_closed_until(int64_t deadline_ns);

/* ---- edges, control thread ---- */

/* Makes an edge to n and takes a reference.  parent: a node, or NULL with owner.  The permissions are checked against those
 * of the other parents and passed down (locks on files are taken), which may suspend: coroutine.
 * Errors: "Permission conflict on node …", "Block node is read-only", lock errors of drivers. */
Edge *coroutine_fn edge_attach(Node *n, Node *parent, const EdgeOwner *owner, void *opaque,
                               const char *name, EdgeRole role, unsigned perm, unsigned shared,
                               Error **errp);
/* The parent has ended all requests it made through e.  Permissions fall accordingly.  e is freed. */
void coroutine_fn edge_detach(Edge *e);
/* Changes what a parent takes and shares; on error nothing changes. */
bool coroutine_fn edge_set_perm(Edge *e, unsigned perm, unsigned shared, Error **errp);

/* "Inactive '%s' can't be a %s child of active '%s'" if that is what it would be. */
bool node_check_child_active(const Node *parent, const Node *child, const char *name, Error **errp);
/* Nodes that are opened from now on are inactive unless their options say something else.  Control thread. */
void node_set_inactive_by_default(bool on);
/* What Node.read_only is, or will be when the node is active again. */
bool node_is_read_only(const Node *n);

/* Is it one by which a job holds a node? */
bool edge_is_job(const Edge *e);
/* Nobody but the job itself may snapshot, resize, reopen or delete what a job works on.
 * Error: "Node '%s' is busy: block device is in use by block job: %s". */
bool node_check_no_job(const Node *n, Error **errp);
/* The same, but for jobs that fill n and never read it: they do not mind what is below it. */
bool node_check_filled_only(const Node *n, Error **errp);

/* Sum over all threads of one kind of request. */
uint64_t node_count_writes(const Node *n);
uint64_t node_count_all(const Node *n);
/* Suspends until no write-like request (flushes too if with_flushes) is in the node, or clock_ns() passes the deadline
 * (-1: none); false: the deadline passed.  Any loop. */
bool coroutine_fn node_wait_writes(Node *n, bool with_flushes, int64_t deadline_ns);
/* The same for write-like requests but those that a fresh filter lets through (old), or for these alone. */
bool coroutine_fn node_wait_old_writes(Node *n, int64_t deadline_ns);
bool coroutine_fn node_wait_passed(Node *n, int64_t deadline_ns);
/* The same for requests of every kind. */
bool coroutine_fn node_wait_idle(Node *n, int64_t deadline_ns);

#endif

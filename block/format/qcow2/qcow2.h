/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The qcow2 driver: state and inner interfaces.
 *
 * Words
 *  table      a piece of metadata that is contiguous in the file: L1, an L2 table, the refcount table, a refcount block.
 *             In memory as on disk, with a bit for every 512 bytes that differ from the file (dirty).
 *  use        the time between a request's look at the mapping and the end of its I/O on what it found there.
 *  run        host clusters known to be free from which the next allocations are taken.
 *  fresh      said of a cluster that has never been written and reads as zeroes (the file was grown over it).
 *  drop       a reference to host clusters that memory no longer has, but the file may still have.
 *  write-back bringing the file to what memory says, in the order below.
 *
 * The file is never ahead of memory and always consistent but for leaked clusters:
 *  Q1  a refcount is durable before anything durable refers to what it counts.
 *  Q2  data and copied-up data of a cluster are durable before an L2 entry in the file refers to it.
 *  Q3  an L2 table is durable before an L1 entry in the file refers to it; a refcount block before its entry in the refcount table;
 *      a moved table before the header names its new place.
 *  Q4  a dropped cluster keeps its refcount, and is not given out again, until the change that dropped it is durable *and* every use
 *      that may have seen the old mapping has ended.
 *  Q5  tables are written in whole sectors of 512 bytes, each of which is good in its old and in its new state.
 *  Q6  a failure leaves memory as it was, or with clusters allocated that nobody refers to (a leak, given back when possible).
 *
 * Who may touch what
 *  - Entries of L1 and L2 tables are read by any thread inside a read section (util/rcu.h) and changed under `lock`.
 *    A reader holds no pointer to a table across a yield: it takes values.
 *  - A guest cluster gets its mapping changed by whoever holds its range in `ranges`; discards and zero writes as well.
 *  - In-place writes need no lock: they are uses, and Q4 protects what they write to.
 *
 * Lock order: Node.flush_lock, bitmap_lock, resize_lock, flush_lock, ranges, table slot (l2-cache.c), pack_lock, alloc_lock, header_lock, lock.  `lock` is a pthread mutex,
 * held for moments and never across a yield; the others are coroutine locks.
 */
#ifndef QCOW2_QCOW2_H
#define QCOW2_QCOW2_H

#include "block/driver.h"
#include "header.h"
#include "util/rcu.h"

#define SECTOR 512u /* unit of dirtiness, and of tearing */

/* ---- tables ---- */

typedef enum TableKind {
    TABLE_L2,
    TABLE_L1,
    TABLE_REFBLOCK,
    TABLE_REFT
} TableKind; /* decides the order of write-back */

typedef struct Table {
    TableKind kind;
    HostOffset offset;    /* in the file */
    uint32_t size;        /* bytes, a multiple of SECTOR */
    void *data;           /* big endian; aligned as storage likes it */
    unsigned long *dirty; /* under lock: sectors that differ from the file */
    bool queued;          /* under lock: in Qcow2.dirty_tables */
    unsigned writing;     /* under lock: write-backs that have a copy of it */
} Table;

/* Zeroed and clean; false: no memory. */
bool table_init(Table *t, TableKind kind, HostOffset offset, uint32_t size);
void table_clear(Table *t);

typedef struct L2Table {
    Table t;
    uint64_t index;              /* in L1 */
    _Atomic bool recent;         /* used since the cache last looked */
    struct L2Table *prev, *next; /* under lock: resident tables, or those waiting to be freed */
} L2Table;

/* The active L1 table; replaced as a whole when it grows (read sections). */
typedef struct L1 {
    Table t;
    uint32_t entries;        /* as in the header */
    uint32_t covered;        /* entries that the disk's size needs: length of l2 */
    _Atomic(L2Table *) l2[]; /* resident tables */
} L1;

L1 *l1_new(HostOffset offset, uint32_t entries, uint32_t covered); /* zeroed; NULL: no memory */
void l1_free(L1 *l1);

typedef struct RefBlock {
    Table t;
    bool recent; /* under alloc_lock */
    bool pinned; /* likewise: stays in memory */
} RefBlock;

/* Blocks that stay in memory while alloc_lock is held. */
typedef struct RefPins {
    GPtrArray *blocks; /* RefBlock * */
} RefPins;

/* Requests between looking and ending, of one thread, in two phases that alternate. */
typedef struct UseCount {
    _Alignas(64) _Atomic uint32_t n[2];
} UseCount;

typedef enum DropKind { DROP_REQUEST, DROP_OTHER } DropKind; /* decides whether storage is told */
typedef struct Drop {
    ClusterIndex first;
    uint64_t count;
    DropKind kind;
} Drop;

/* What open() was told; constant. */
typedef struct Qcow2Options {
    bool lazy_refcounts;                                   /* accepted, see options.c */
    bool discard_request, discard_snapshot, discard_other; /* pass freed space down */
    bool discard_no_unref;
    uint64_t l2_cache_size, refcount_cache_size; /* bytes */
    unsigned clean_interval;                     /* seconds, 0: never */
} Qcow2Options;

typedef struct Qcow2 {
    Node *node;
    Edge *file; /* the file that this state belongs to; node->file once it is in use */
    Edge *data; /* where guest clusters are: the external data file, or `file` */
    bool
        external; /* there is one: each guest cluster is at its own offset in it, has no refcount and is never moved */
    bool raw_data; /* and it reads the same as the disk, without the image */
    /* ---- constant after open ---- */
    unsigned version, cluster_bits, refcount_order;
    uint64_t cluster_size;
    unsigned l2_bits; /* log2 of the entries of an L2 table */
    bool
        extended; /* L2 entries have a second word: the state of each of 32 subclusters (subcluster.c) */
    uint64_t subcluster_size;
    Qcow2Compression compression;
    uint32_t table_align; /* tables are written in these units; at least SECTOR */
    Qcow2Options opt;
    uint32_t l2_limit, refblock_limit; /* tables kept in memory */
    bool opened_dirty;                 /* dirty bit when it was opened */

    /* ---- any thread ---- */
    UseCount *uses; /* [LOOP_SLOTS] */
    _Atomic unsigned use_phase;
    _Atomic(L1 *) l1;
    _Atomic bool corrupt; /* found to be: no more writes */
    _Atomic bool corruption_told;
    _Atomic uint32_t ndirty;       /* length of dirty_tables; changed under lock */
    _Atomic uint64_t *meta_filter; /* bits: clusters that may hold metadata (overlap.c) */
    uint64_t meta_mask;

    /* ---- flush_lock: one write-back at a time ---- */
    CoMutex flush_lock;
    _Atomic uint64_t
        meta_gen; /* changes that a flush has to make durable (incremented under lock) ... */
    _Atomic uint64_t meta_done; /* ... and how far that has been done */

    CoMutex resize_lock; /* one resize at a time */
    CoRangeLock ranges;  /* guest clusters (bytes) whose mapping changes */

    /* ---- alloc_lock: refcount blocks coming and going, refilling the run ---- */
    CoMutex alloc_lock;
    uint64_t low_hint;   /* no free cluster known below (cluster index) */
    uint64_t tail;       /* from here on nothing has been given out */
    bool grown;          /* we made the file longer ... */
    uint64_t grown_from; /* ... than these bytes */
    uint64_t max_tail;   /* end of the highest cluster given out; under lock too */

    CoMutex pack_lock; /* one place for compressed data at a time */

    CoMutex header_lock; /* changes to the first cluster of the file */
    Qcow2Header header;  /* under header_lock; backing strings also read by the control thread */

    /* ---- lock ---- */
    pthread_mutex_t lock;
    GPtrArray *dirty_tables; /* Table *, queued */
    /* L2 cache */
    L2Table *resident; /* ring, NULL: empty; points at the next candidate for eviction */
    uint32_t nresident;
    L2Table *limbo; /* unlinked, waiting for a grace period */
    uint32_t nlimbo;
    L2Table *orphans;        /* not in use any more, but not in the file yet: for a snapshot */
    struct TableSlot *slots; /* L1 entries whose table is being loaded, made or copied */
    /* refcounts */
    Table reft;
    bool reft_moved; /* the header does not name its place yet */
    uint64_t reft_entries;
    RefBlock **blocks; /* [reft_entries]; changed with alloc_lock held too */
    uint32_t nblocks;
    RefBlock *run_block;
    uint64_t run_next, run_end; /* the run, inside run_block */
    bool run_fresh;
    bool tail_fresh; /* all from tail on was never written to: the image is new */
    HostOffset
        pack_next; /* where compressed data goes next; under pack_lock too, but for its end; 0: nowhere */
    bool l1_moved;      /* the header does not name its place and size yet */
    uint64_t disk_size; /* what the header shall say; under flush_lock */
    /* drops */
    GArray *drops;     /* of Drop: not durable yet */
    GArray *durable;   /* durable, uses not waited for yet */
    GArray *waiting;   /* waiting for uses of the phase before use_phase */
    uint64_t ndropped; /* clusters in all of these */
    /* housekeeping */
    bool keeper_running, keeper_writeback, closing;
    CoQueue keeper_waiters;

    Timer clean_timer; /* control thread */
    /* snapshots: where their tables are */
    GArray *snapshot_ranges; /* of MetaRange */

    /* stored dirty bitmaps (bitmap.h) */
    CoMutex bitmap_lock; /* before all other locks of the driver */
    GPtrArray
        *stored; /* StoredBitmap *, as the file has them; control thread, changed with both locks */
    HostOffset directory;  /* where it lies, if there are any ... */
    bool directory_unsure; /* ... or somewhere else: a header write failed */
    GPtrArray *loaded;     /* UserBitmap *, which the node does not have yet */
    GArray *bitmap_ranges; /* of MetaRange; under lock */
    struct Draft *draft;   /* the snapshot that is being made; NULL: none */

    /* ---- control thread ---- */
    GPtrArray *snapshots; /* Qcow2Snapshot *, as in the file */
} Qcow2;

typedef struct MetaRange {
    uint64_t start, end; /* clusters */
} MetaRange;

static inline Qcow2 *qcow2_of(const Node *n)
{
    return *(Qcow2 **)n->state;
}

static inline uint64_t cluster_floor(const Qcow2 *q, uint64_t v)
{
    return v & ~(q->cluster_size - 1);
}
static inline uint64_t cluster_ceil(const Qcow2 *q, uint64_t v)
{
    return (v + q->cluster_size - 1) & ~(q->cluster_size - 1);
}
static inline uint64_t in_cluster(const Qcow2 *q, uint64_t v)
{
    return v & (q->cluster_size - 1);
}

/* ---- uses (uses.c) ---- */

/* Before looking at the mapping; the value goes to use_end(). */
static inline unsigned use_begin(Qcow2 *q, unsigned slot)
{
    unsigned phase = atomic_load_explicit(&q->use_phase, memory_order_acquire);
    _Atomic uint32_t *n = &q->uses[slot].n[phase];

    atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + 1,
                          memory_order_relaxed);
    barrier_light();
    return phase;
}
static inline void use_end(Qcow2 *q, unsigned slot, unsigned phase)
{
    _Atomic uint32_t *n = &q->uses[slot].n[phase];

    atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) - 1,
                          memory_order_release);
}
/* Under lock: notes that memory no longer refers to these clusters. */
void drop_clusters(Qcow2 *q, ClusterIndex first, uint64_t count, DropKind kind);
/* Under lock: drops what an L2 entry refers to, if anything. */
void drop_entry(Qcow2 *q, uint64_t entry, DropKind kind);
/* The host clusters that an entry refers to; 0: none. */
uint64_t entry_clusters(const Qcow2 *q, uint64_t entry, ClusterIndex *ret_first);
/* Gives back what no use can see any more; true: some is left to wait for. */
bool coroutine_fn drops_reap(Qcow2 *q, Request *r);

/* ---- mapping (lookup.c) ---- */

typedef enum MapType {
    MAP_UNALLOCATED, /* read the backing file */
    MAP_ZERO,        /* reads as zeroes, no host cluster */
    MAP_ZERO_ALLOC,  /* reads as zeroes, has a host cluster */
    MAP_DATA,
    MAP_COMPRESSED,
} MapType;

typedef struct Mapping {
    MapType type;
    bool copied; /* DATA, ZERO_ALLOC: the host cluster is ours alone */
    uint64_t
        bytes; /* guest bytes from the offset on for which this holds; host space is contiguous */
    HostOffset host; /* DATA, ZERO_ALLOC: of the first byte */
    uint64_t entry;  /* COMPRESSED: the L2 entry */
} Mapping;

/* Where [offset, offset + bytes) is; bytes > 0; flags: of the read that wants to know.  0 or a negative errno.  The caller is in a use. */
int coroutine_fn qcow2_lookup(Node *n, Request *r, uint64_t offset, uint64_t bytes, unsigned flags,
                              Mapping *ret);
/* Meaning of one L2 entry; false: it cannot be. */
bool entry_decode(const Qcow2 *q, uint64_t entry, Mapping *ret);

/* ---- L2 tables (l2-cache.c) ---- */

static inline uint64_t table_entry(const Table *t, uint64_t i)
{
    return be64toh(atomic_load_explicit(&((_Atomic uint64_t *)t->data)[i], memory_order_acquire));
}
/* Under lock. */
void table_set_entry(Qcow2 *q, Table *t, uint64_t i, uint64_t value);
void table_mark_dirty(Qcow2 *q, Table *t, uint32_t from, uint32_t bytes);
bool table_is_dirty(const Table *t);

/* An entry of an L2 table: the word that says where, and the states of subclusters. */
typedef struct L2Entry {
    uint64_t v;
    uint64_t
        bits; /* extended entries: 32 times "has data" (low), 32 times "reads as zeroes"; else 0 */
} L2Entry;

/* Words of an entry in a table. */
static inline unsigned entry_words(const Qcow2 *q)
{
    return q->extended ? 2 : 1;
}
static inline L2Entry l2_entry(const Qcow2 *q, const Table *t, uint64_t i)
{
    if (G_LIKELY(!q->extended)) {
        return (L2Entry){table_entry(t, i), 0};
    }
    return (L2Entry){table_entry(t, 2 * i), table_entry(t, 2 * i + 1)};
}
/* Under lock. */
static inline void l2_set_entry(Qcow2 *q, Table *t, uint64_t i, L2Entry e)
{
    if (G_LIKELY(!q->extended)) {
        table_set_entry(q, t, i, e.v);
    } else {
        table_set_entry(q, t, 2 * i, e.v);
        table_set_entry(q, t, 2 * i + 1, e.bits);
    }
}

/* ---- subclusters (subcluster.c): images with extended L2 entries ---- */

#define SUBCLUSTERS       32u
#define SUB_ALL_ALLOCATED UINT64_C(0x00000000ffffffff)
#define SUB_ALL_ZERO      UINT64_C(0xffffffff00000000)

/* Subclusters [first, first + count) as bits of "has data"; shifted by 32 of "reads as zeroes". */
static inline uint64_t sub_mask(unsigned first, unsigned count)
{
    return (count >= SUBCLUSTERS ? SUB_ALL_ALLOCATED : ((UINT64_C(1) << count) - 1)) << first;
}
/* Under lock.  What is at `offset`, which has entry i of t; at most `bytes` more than fits in.  False: it cannot be. */
bool sub_look(const Qcow2 *q, const Table *t, uint64_t i, uint64_t offset, uint64_t bytes,
              Mapping *ret);
/* Writes [offset, offset + part->size), inside one cluster whose range is locked, wherever there is no data yet. */
int coroutine_fn sub_write(Node *n, Request *r, uint64_t offset, const IoVector *part);
/* Whole subclusters of one cluster, whose range is locked, read as zeroes from here on; -ENOTSUP: only by writing. */
int coroutine_fn sub_zero(Node *n, Request *r, uint64_t offset, uint64_t bytes);

/* The L1 table, for whoever is in a read section or holds lock. */
static inline L1 *l1_of(Qcow2 *q)
{
    return atomic_load_explicit(&q->l1, memory_order_acquire);
}
/* Makes the table of L1 entry `index` resident; 0 without a table if the entry is empty. */
int coroutine_fn l2_load(Qcow2 *q, Request *r, uint64_t index, unsigned flags);
/* Makes it resident and ours alone, with one of its own if need be.  A success says nothing about the next moment: look again
 * under lock with l2_writable(). */
int coroutine_fn l2_prepare(Qcow2 *q, Request *r, uint64_t index);
/* Under lock: the table if entries may be changed in it, else NULL: l2_prepare() again. */
L2Table *l2_writable(Qcow2 *q, uint64_t index);
/* Under lock, or in a read section: the table if it is resident. */
L2Table *l2_resident(Qcow2 *q, uint64_t index);
/* If nobody else refers to the table any more it is ours alone again; *ret_own: it is. */
int coroutine_fn l2_adopt(Qcow2 *q, Request *r, uint64_t index, bool *ret_own);
/* Gives up clean tables that nobody used since the last call. */
void l2_clean(Qcow2 *q);
void l2_free_all(Qcow2 *q);
/* Before a request that will dirty tables: waits if too much is unwritten. */
int coroutine_fn l2_throttle(Qcow2 *q, Request *r);

/* ---- refcounts and allocation (refcount.c, alloc.c) ---- */

bool coroutine_fn reft_open(Qcow2 *q, Request *r, Error **errp);
void refcount_free_all(Qcow2 *q);
uint64_t block_entries(const Qcow2 *q);
/* With alloc_lock.  The block that counts the clusters from index * block_entries() on; NULL with 0: there is none. */
int coroutine_fn refblock_get(Qcow2 *q, Request *r, uint64_t index, RefBlock **ret);
/* With alloc_lock.  Makes one; it lies in cluster `at`, a free one in its own range. */
int coroutine_fn refblock_create(Qcow2 *q, Request *r, uint64_t index, ClusterIndex at,
                                 RefBlock **ret);
/* With alloc_lock.  Refcounts of this block are missing: then it must count no metadata either. */
int coroutine_fn refblock_check_range(Qcow2 *q, Request *r, uint64_t index);
/* One reference less for each of count clusters; those that become free may be given out again, and storage is told of them
 * first if `discard`.  Takes alloc_lock; only one at a time. */
int coroutine_fn refcount_release(Qcow2 *q, Request *r, ClusterIndex first, uint64_t count,
                                  bool discard);
/* With alloc_lock, under lock.  `delta` (-1, 0, 1) more references for each of count clusters that are in use; *ret_least is the least that
 * one of them has then.  -EAGAIN: nothing was done, the block *ret_missing has to be in memory first (refcount_pin()).  -EINVAL: more
 * than a refcount can say.  -EIO: one of them has none. */
int refcount_change(Qcow2 *q, ClusterIndex first, uint64_t count, int delta, uint64_t *ret_least,
                    uint64_t *ret_missing);
/* With alloc_lock, which is held until they are unpinned. */
void refcount_pins_init(RefPins *pins);
int coroutine_fn refcount_pin(Qcow2 *q, Request *r, RefPins *pins, uint64_t index);
void refcount_unpin(RefPins *pins);
/* Under lock.  Refcount 1 for count free clusters from entry `from` of the block on. */
void refcount_take(Qcow2 *q, RefBlock *b, uint64_t from, uint64_t count);
/* Under lock.  One reference more for a cluster in use; false: it is not, or cannot be counted. */
bool refcount_add(Qcow2 *q, RefBlock *b, uint64_t i);
/* With alloc_lock.  A larger refcount table at `start`, behind all that the present one covers; q->tail ends behind it. */
int coroutine_fn reft_grow(Qcow2 *q, Request *r, ClusterIndex start);
/* Makes the file at least `bytes` long. */
int coroutine_fn file_grow(Qcow2 *q, Request *r, uint64_t bytes);

/* Between 1 and want contiguous clusters, refcount 1.  *ret_fresh: they read as zeroes. */
int coroutine_fn clusters_alloc(Qcow2 *q, Request *r, uint64_t want, ClusterIndex *ret_first,
                                uint64_t *ret_count, bool *ret_fresh);
/* Exactly count contiguous clusters. */
int coroutine_fn clusters_alloc_exact(Qcow2 *q, Request *r, uint64_t count,
                                      ClusterIndex *ret_first);
/* Clusters that nothing has ever referred to. */
void coroutine_fn clusters_unalloc(Qcow2 *q, Request *r, ClusterIndex first, uint64_t count);
/* An image that was given up for writing is written to again: nothing is taken from what the file was cut off by. */
void coroutine_fn alloc_restart(Qcow2 *q);
/* Lets the file end where the used clusters end, if we grew it.  Takes alloc_lock; requests may run. */
void coroutine_fn file_trim(Qcow2 *q, Request *r);
void coroutine_fn qcow2_writers_gone(Node *n, Request *r);

/* ---- metadata is not overwritten (overlap.c) ---- */

/* When L1 and refcount table are in memory; writable images. */
bool overlap_open(Qcow2 *q, Error **errp);
void overlap_close(Qcow2 *q);
/* Under lock, or while opening: a cluster now holds metadata. */
void overlap_add(Qcow2 *q, ClusterIndex c);
/* Takes the lock.  True if cluster c is part of the header, L1, the refcount table or block, or a snapshot's table. */
bool overlap_fixed(Qcow2 *q, ClusterIndex c);
/* The same without refcount blocks. */
bool overlap_tables(Qcow2 *q, ClusterIndex c);
/* True if a write of data to [host, host + bytes) would hit metadata. */
bool overlap_check(Qcow2 *q, HostOffset at, uint64_t bytes);
/* Takes the lock.  What a cluster holds; NULL: no metadata. */
const char *overlap_kind(Qcow2 *q, ClusterIndex c);

/* ---- an image that is wrong (corrupt.c) ---- */

/* Says what is wrong; in a writable image: stops writing, marks the image.  Returns -EIO. */
int coroutine_fn qcow2_corrupt(Qcow2 *q, Request *r, const char *fmt, ...) G_GNUC_PRINTF(3, 4);
/* The same: a write to `bytes` bytes at `at` would hit metadata. */
int coroutine_fn qcow2_overlap(Qcow2 *q, Request *r, HostOffset at, uint64_t bytes);
/* The same: the L2 entry of a guest cluster cannot be. */
int coroutine_fn qcow2_bad_entry(Qcow2 *q, Request *r, uint64_t entry, uint64_t guest_cluster);

/* ---- write-back (flush.c) ---- */

int coroutine_fn qcow2_flush(Node *n, Request *r);
bool qcow2_unsaved(Node *n);
void coroutine_fn qcow2_warm_up(Node *n, Request *r);
int coroutine_fn qcow2_write_back(Qcow2 *q, Request *r);
/* The same with flush_lock held. */
int coroutine_fn write_back_locked(Qcow2 *q, Request *r);
/* Under lock: something that a flush has to make durable has changed. */
static inline void meta_changed(Qcow2 *q)
{
    atomic_fetch_add_explicit(&q->meta_gen, 1, memory_order_release);
}
/* Starts what has to be done in the background, if anything.  Not under lock. */
void keeper_kick(Qcow2 *q, bool writeback);
/* Control thread: no housekeeping any more. */
void coroutine_fn keeper_stop(Qcow2 *q);
/* Brings everything into the file, drops included.  No requests run, or none that write. */
int coroutine_fn qcow2_make_empty(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                  bool (*claim)(void *opaque, uint64_t offset, uint64_t bytes),
                                  void *opaque);
uint64_t qcow2_empty_max(const Node *n, GuestOffset offset);
int coroutine_fn qcow2_come_to_rest(Node *n, Request *r, bool for_good, int64_t deadline_ns);
int coroutine_fn qcow2_write_everything(Qcow2 *q, Request *r);

/* ---- internal snapshots (snapshots.c, snapshot-draft.c, snapshot-store.c) ---- */

typedef struct Qcow2Snapshot {
    char *id, *name;
    HostOffset l1;
    uint32_t l1_entries;
    uint64_t vm_state_size, disk_size, vm_clock_ns, icount; /* icount: UINT64_MAX: none */
    uint32_t date_sec, date_nsec;
    uint8_t *raw; /* its entry in the file, padding included */
    uint32_t raw_len;
} Qcow2Snapshot;

/* Where snapshots have their tables, and what these say. */
bool coroutine_fn snapshots_open(Qcow2 *q, Request *r, Error **errp);
void snapshot_free(Qcow2Snapshot *s);
/* Fills in raw. */
void snapshot_build(Qcow2Snapshot *s);
/* Makes `list` (of Qcow2Snapshot *) the image's snapshots: durable on return, and q has them.  What the entries refer to is durable.  The
 * previous table is dropped.  flush_lock is held.  On failure nothing has changed (the list is the caller's), or, *ret_unknown, nobody knows which
 * of the two lists the file has. */
int coroutine_fn snapshots_write(Qcow2 *q, Request *r, GPtrArray *list, bool *ret_unknown);

/* Under lock: an entry of the mapping changes.  gone: what it referred to is given up, and was dropped. */
void draft_entry_changes(Qcow2 *q, uint64_t guest_cluster, uint64_t old, bool gone);
/* Under lock: L1 entry `index` gets another table than `old`, which was dropped. */
void draft_table_replaced(Qcow2 *q, uint64_t index, HostOffset old);
/* Under lock: a table has been read from the file; memory says who may write in place. */
void draft_table_loaded(Qcow2 *q, L2Table *l2);
/* Under lock: in a copy of t that goes to the file, what the draft counts is not marked as ours alone. */
void draft_mask(Qcow2 *q, const Table *t, uint32_t from, uint32_t bytes, void *copy);
extern const struct InternalSnapshotOps qcow2_snapshot_ops;

/* A draft, for snapshot-store.c; snapshot-draft.c says what these do. */
typedef struct Draft Draft;
Draft *draft_new(Qcow2 *q);
int coroutine_fn draft_count(Draft *d, Request *r);
int coroutine_fn draft_catch_up(Draft *d, Request *r, int64_t deadline_ns);
void draft_flip(Draft *d);
void coroutine_fn draft_cancel(Draft *d, Request *r);
/* The L1 table of the frozen state, as in the file; NULL: not frozen. */
const void *draft_l1(const Draft *d);
uint32_t draft_l1_entries(const Draft *d);
void draft_free(Draft *d);

/* ---- header (header-update.c) ---- */

/* Number and place of the snapshots; durable on return. */
int coroutine_fn header_write_snapshots(Qcow2 *q, Request *r, uint32_t count, HostOffset offset);
bool coroutine_fn qcow2_set_backing_string(Node *n, const char *file, const char *format,
                                           Error **errp);
/* The extension that says where dirty bitmaps are (24 bytes; NULL: there are none), and its autoclear bit, at once; durable on return.  *ret_tried
 * becomes true if after a failure the file may have this one. */
int coroutine_fn header_write_bitmaps(Qcow2 *q, Request *r, const uint8_t *extension,
                                      bool *ret_tried);
int coroutine_fn header_write_bits(Qcow2 *q, Request *r, uint64_t incompatible, uint64_t autoclear);
/* Size, and where the L1 and the refcount table are: one sector; durable on return. */
int coroutine_fn header_write_tables(Qcow2 *q, Request *r, uint64_t size, const Table *l1,
                                     uint32_t l1_entries, HostOffset reft_offset,
                                     uint32_t reft_clusters);

/* ---- requests ---- */

int coroutine_fn qcow2_preadv(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                              unsigned flags);
int coroutine_fn qcow2_pwritev(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                               unsigned flags);
/* The same, compressing whole clusters. */
int coroutine_fn qcow2_pwritev_compressed(Node *n, Request *r, GuestOffset offset,
                                          const IoVector *iov);
int coroutine_fn qcow2_pwrite_zeroes(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                     unsigned flags);
int coroutine_fn qcow2_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes);
/* Gives up what is in the whole clusters of [from, to), bytes, which the disk no longer has. */
int coroutine_fn qcow2_cut(Node *n, Request *r, uint64_t from, uint64_t to);
int coroutine_fn qcow2_truncate(Node *n, Request *r, uint64_t size, bool exact);
/* With the range locked: clusters from guest cluster `first` on, none of which is allocated, become zeroes.  All in one L2 table. */
int coroutine_fn qcow2_zero_clusters(Node *n, Request *r, uint64_t first, uint64_t count);
int coroutine_fn qcow2_copy_up(Node *n, Request *r, GuestOffset offset, uint64_t bytes, bool zero,
                               bool skip_zeroes);
int coroutine_fn qcow2_block_status(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                    unsigned flags, bool precise, uint64_t *ret_bytes,
                                    HostOffset *ret_map);
/* Bytes the image file has, for a read with these flags. */
uint64_t file_size(Qcow2 *q, Request *r, unsigned flags);
/* Reads from the image file; what lies beyond its end in a cluster that it has in part reads as zeroes. */
int coroutine_fn host_preadv(Qcow2 *q, Request *r, HostOffset at, const IoVector *iov,
                             unsigned flags);
/* Bytes [from, from + iov->size) of a compressed cluster. */
int coroutine_fn qcow2_read_compressed(Qcow2 *q, Request *r, uint64_t entry, uint64_t from,
                                       const IoVector *iov, unsigned flags);

/* ---- external data files (data-file.c) ---- */

/* Opens what the header or the options say, as the node's child "data-file"; sets q->data and q->external. */
bool coroutine_fn data_file_open(Qcow2 *q, const struct BlockdevOptions *options, Error **errp);
/* Another state of the node, with the same data file. */
bool data_file_take(Qcow2 *q, const Qcow2 *from, Error **errp);
/* The name that the header has for it; NULL: none.  Freed by the caller. */
char *data_file_name(const Qcow2Header *h);
/* Reads guest data from where it is. */
int coroutine_fn data_preadv(Qcow2 *q, Request *r, HostOffset at, const IoVector *iov,
                             unsigned flags);
/* External data file: makes it at least `end` bytes long. */
/* The driver's is_contended. */
bool coroutine_fn data_file_is_contended(Node *n, Request *r);
int coroutine_fn data_file_grow(Qcow2 *q, Request *r, uint64_t end);
/* External data file: the guest range will read as zeroes, or what it has is of no interest any more.  Before the mapping says so. */
int coroutine_fn data_file_wipe(Qcow2 *q, Request *r, uint64_t start, uint64_t end, bool zeroes,
                                bool unmap);

bool coroutine_fn qcow2_create(Edge *file, const CreateSpec *spec, Error **errp);
/* Reads metadata from the file; while a new image is opened, from what was laid out for it: reading holes of a new file would
 * fill the page cache with them.  0 or a negative errno. */
int coroutine_fn qcow2_read_start(Qcow2 *q, Request *r, HostOffset at, void *buf, size_t len);
/* Of a node with new_image, when it has been loaded for writing: the room behind the image is free, and fresh. */
void qcow2_new_image_opened(Qcow2 *q);
bool qcow2_lay_out(const CreateSpec *spec, NewImage *ret, Error **errp);
bool qcow2_facts(Node *n, ImageFacts *ret_facts, Error **errp);
bool qcow2_options(Node *n, const struct BlockdevOptions *options, bool discard_unmap,
                   Qcow2Options *ret, Error **errp);
bool qcow2_check_entry_size(const Qcow2 *q, const struct BlockdevOptions *options, Error **errp);
void qcow2_set_cache_limits(Qcow2 *q);

/* ---- open.c, reopen.c: control thread ---- */

/* An empty state; freed when nobody uses it any more. */
Qcow2 *qcow2_state_new(Node *n);
void qcow2_state_free(Qcow2 *q);
/* Reads the image in q->file; q->opt is set.  Writes nothing. */
bool coroutine_fn qcow2_load(Qcow2 *q, Request *r, const struct BlockdevOptions *options,
                             bool writable, Error **errp);
/* What only a writable image needs. */
bool coroutine_fn qcow2_open_writable(Qcow2 *q, Request *r, Error **errp);
/* Before the first write: bits that say something about contents that nobody here knows. */
bool coroutine_fn qcow2_clear_autoclear(Qcow2 *q, Request *r, Error **errp);
void qcow2_set_limits(Node *n, const Qcow2 *q);
/* Starts giving up tables that are not used. */
void qcow2_clean_regularly(Qcow2 *q);
extern const char *const qcow2_reopen_options[];
bool coroutine_fn qcow2_reopen_prepare(Node *n, struct Reopen *r, Error **errp);
bool coroutine_fn qcow2_reopen_quiesce(Node *n, struct Reopen *r, Error **errp);
bool coroutine_fn qcow2_reopen_load(Node *n, struct Reopen *r, Error **errp);
void coroutine_fn qcow2_reopen_switch(Node *n, struct Reopen *r);
void coroutine_fn qcow2_reopen_end(Node *n, struct Reopen *r, bool done);

#endif

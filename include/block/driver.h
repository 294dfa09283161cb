/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a driver provides.
 *
 * Requests arrive validated: inside the node, within and aligned to its limits, write-like ones only if it is not read-only.
 * They arrive from any thread, many at once: a driver has its own locks (util/co-lock.h), their order written where they are
 * declared.  Control functions run as coroutines of the control thread and may do I/O through the node's edges.
 *
 * A driver never keeps Node pointers of other nodes; it keeps edges (n->file, n->backing).
 */
#ifndef BLOCK_DRIVER_H
#define BLOCK_DRIVER_H

#include "block/io.h"
#include "block/new-image.h"
#include "block/node.h"

struct BlockdevOptions;
struct ImageInfoSpecific;
struct BlockdevRef;
struct BlockdevRefOrNull;
struct json_object;
struct Reopen;
struct FileIdentity;

/* What a driver can tell about an image; strings are the caller's to free. */
typedef struct ImageFacts {
    uint64_t cluster_size; /* 0: has none */
    int64_t actual_size;   /* bytes on disk, -1: unknown */
    bool dirty, has_dirty; /* not cleanly shut down; whether the driver can tell */
    bool compressed;
    char *backing_file, *backing_format; /* as in the header; NULL: none */
    struct ImageInfoSpecific *specific;  /* qapi type; NULL: none */
    struct SnapshotInfoList *snapshots;  /* qapi type; NULL: none */
} ImageFacts;
void image_facts_clear(ImageFacts *f);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(ImageFacts, image_facts_clear)

/* What of a new image is allocated in advance: nothing; its tables, and places for all data; these places reserved; written with zeroes. */
typedef enum CreateSpace {
    CREATE_SPACE_NONE,
    CREATE_SPACE_METADATA,
    CREATE_SPACE_RESERVED,
    CREATE_SPACE_FULL,
} CreateSpace;

/* What a new image shall be. */
typedef struct CreateSpec {
    uint64_t size;              /* bytes of the virtual disk */
    const char *backing_file;   /* NULL: none */
    const char *backing_format; /* NULL: none */
    uint64_t cluster_size;      /* 0: the driver's default */
    const char *
        group_uuid; /* the snapshot group that the image is made for, kept in its header; NULL: none */
    /* qcow2; 0: the default */
    unsigned version;       /* 2 or 3 */
    uint64_t refcount_bits; /* any value: what cannot be is an error */
    bool lazy_refcounts;
    bool zstd; /* compression type */
    CreateSpace space;
    bool extended_l2;           /* clusters with subclusters */
    struct Edge *data_file;     /* where its data will be; NULL: in the file itself */
    const char *data_file_name; /* for its header */
    bool written_at_once;       /* lay_out: the file gets room for data behind the image */
    bool data_file_raw; /* it reads the same as the disk, and what it has becomes the disk's */
    /* Called between the pieces of long work, in the coroutine that creates; false: stop, it is not wanted any more.  NULL: it always is. */
    bool coroutine_fn (*go_on)(void *opaque);
    void *go_on_opaque;
} CreateSpec;

struct BlockDriver {
    const char *name; /* as in BlockdevDriver: "qcow2" */
    bool is_protocol, is_filter;
    bool is_device; /* its size is not ours to choose; what it has more of one day is not zero */
    bool supports_backing;
    bool
        grows_ahead; /* of storage: it makes itself larger ahead of need, so small steps cost little */
    bool compresses; /* takes REQ_COMPRESSED; filters: passes it on */
    bool
        replicates; /* n->file is NULL, and every child has the whole disk: all of them are written (quorum) */
    bool reads_snapshot; /* of the filter below, not its disk (snapshot-access) */
    size_t state_size;
    /* Protocols that have names of their own, "nbd:…" or "nbd+unix://…": what stands before the first colon, a list with NULL at the
     * end; and the options that such a name stands for, an object of BlockdevOptions that the caller frees. */
    const char *const *protocols;
    struct json_object *(*parse_name)(const char *name, Error **errp);

    /* ---- control: coroutines of the control thread ---- */

    /* Opens with the options of its branch; children through node_open_child().  Sets n->size, n->limits, n->filename (protocols)
     * and may set n->read_only (auto-read-only).  On failure it has released everything of its own; children attached
     * are detached by the caller. */
    bool coroutine_fn (*open)(Node *n, const struct BlockdevOptions *options, Error **errp);
    /* No request is in the node and none will come; children are still attached.  Writes back what it holds if n is not
     * read-only; failures are logged. */
    void coroutine_fn (*close)(Node *n);

    /* Reopening (reopen.h).  NULL: the driver cannot; options: those of its own that may change, a list with NULL at the end. */
    const char *const *reopen_options;
    /* Checks, with requests running; r->state and r->hold are its to set.  After it, whatever happens, reopen_end. */
    bool coroutine_fn (*reopen_prepare)(Node *n, struct Reopen *r, Error **errp);
    /* No request is in n if r->hold, no write-like one if it will be read-only.  Brings what memory holds into the files that n uses now, if
     * they will be others or n will be read-only; stops what goes on in the background.  Own I/O is by a Request that passes gates. */
    bool coroutine_fn (*reopen_quiesce)(Node *n, struct Reopen *r, Error **errp);
    /* Every node that is being reopened is quiesced, the permissions are at hand.  Reads what the new state needs, through r->file. */
    bool coroutine_fn (*reopen_load)(Node *n, struct Reopen *r, Error **errp);
    /* The new state takes the place of the old one.  n->size, n->limits; the rest of *n is the caller's.  Cannot fail.  NULL: nothing to do. */
    void coroutine_fn (*reopen_switch)(Node *n, struct Reopen *r);
    /* Frees the old state (done) or the new one, and goes on as before. */
    void coroutine_fn (*reopen_end)(Node *n, struct Reopen *r, bool done);

    /* Format and filter: what the node needs from and shares on a child, given what its own parents need and share. */
    void (*child_perm)(const Node *n, EdgeRole role, unsigned parent_perm, unsigned parent_shared,
                       unsigned *perm, unsigned *shared);
    /* Protocols, and filters that write by themselves: cumulative permissions change.  prepare takes what is needed beside what is held (locks; a descriptor that can
     * write) and may fail; then exactly one of commit (drops what is no longer needed) and abort (back to before). */
    bool coroutine_fn (*perm_prepare)(Node *n, unsigned perm, unsigned shared, Error **errp);
    void (*perm_commit)(Node *n, unsigned perm, unsigned shared);
    void (*perm_abort)(Node *n);

    /* Making a node read-only without a pause (an old node after its cut).  prepare gets what commit needs (a read-only
     * descriptor), while requests run.  commit: no write-like request is in the node and n->read_only is set; what the driver
     * holds for writing is flushed before by the caller and given up here, cannot fail; it may suspend.  NULL: nothing to do. */
    bool coroutine_fn (*ro_prepare)(Node *n, Error **errp);
    void coroutine_fn (*ro_commit)(Node *n);
    void coroutine_fn (*ro_abort)(Node *n);
    /* The way back: from here on there may be write-like requests; n->read_only is false and the child can be written.  On failure the
     * driver is as before.  NULL: nothing to do. */
    bool coroutine_fn (*rw_begin)(Node *n, Error **errp);

    /* Other children at run time; both reserved by the caller, requests run.  child has no parent yet; e: of n.  On failure nothing has
     * changed.  Requests that begin when it returns go by the new children; the removed one may yet have requests that hang.  NULL: fixed. */
    bool coroutine_fn (*add_child)(Node *n, Node *child, Error **errp);
    bool coroutine_fn (*remove_child)(Node *n, struct Edge *e, Error **errp);

    /* The last parent that could write has gone; there may be others soon, or already.  For giving back what was set aside for them.  r is a
     * request in n, which keeps n as it is.  Not called for a node that is read-only by then or being reopened. */
    void coroutine_fn (*writers_gone)(Node *n, Request *r);

    /* Protocols over a network: requests that wait for a peer fail, and so do later ones.  For ends that must not wait.  Control thread;
     * does not suspend. */
    void (*abandon)(Node *n);
    /* Protocols over a network: requests that wait for a connection to be made again fail now.  Control thread; does not suspend. */
    void (*stop_waiting)(Node *n);
    /* Protocols whose n->filename is no name of a file: the options that lead to the same disk, without "driver". */
    void (*add_name_options)(const Node *n, struct json_object *to);

    /* From memory, or by a call like fstat(2): must not suspend, or a query could show two states of the graph (T1). */
    bool (*facts)(Node *n, ImageFacts *ret_facts, Error **errp);

    /* What the driver itself counts, for query-blockstats; NULL: nothing.  From memory. */
    struct BlockStatsSpecific *(*stats)(const Node *n);

    /* Internal snapshots (internal-snapshot.h); NULL: the driver has none. */
    const struct InternalSnapshotOps *snapshots;

    /* Formats that record a backing file.  NULL strings: none.  Durable when it returns. */
    bool coroutine_fn (*set_backing_string)(Node *n, const char *file, const char *format,
                                            Error **errp);
    /* Formats that store dirty bitmaps (block/bitmaps.h): they give the node those that the image has when it opens, and store the persistent ones
     * when it is given up for writing.  NULL: they do not.
     * Can one more be stored?  granularity: bytes.  Error: "Can't make bitmap '%s' persistent in '%s': %s".  Must not suspend. */
    bool (*bitmap_can_store)(Node *n, const char *name, uint32_t granularity, Error **errp);
    /* The node has it no longer; nor has the image when it returns.  Failures are logged. */
    void coroutine_fn (*bitmap_removed)(Node *n, const char *name);
    /* Formats: writes a new image into `file` (an empty protocol node opened read-write, reached through an edge), complete and
     * flushed when it returns. */
    bool coroutine_fn (*create)(Edge *file, const CreateSpec *spec, Error **errp);
    /* Formats: the same in memory, for an image of which nothing is allocated in advance (spec->space); what a snapshot makes.  Does not
     * suspend; any thread.  On failure *ret is untouched. */
    bool (*lay_out)(const CreateSpec *spec, NewImage *ret, Error **errp);
    /* True if the first `len` bytes of a file look like this format (probing). */
    bool (*probe)(const uint8_t *buf, size_t len);

    /* ---- requests: coroutines of any loop; iov->size is the length ---- */
    int coroutine_fn (*preadv)(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                               unsigned flags);
    /* flags: REQ_FUA only if has_fua. */
    int coroutine_fn (*pwritev)(Node *n, Request *r, GuestOffset offset, const IoVector *iov,
                                unsigned flags);
    bool has_fua;
    /* -ENOTSUP: the caller writes zeroes instead. */
    int coroutine_fn (*pwrite_zeroes)(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                      unsigned flags);
    /* Formats with backing: what of the range is not allocated here becomes so, with what the backing chain has; the disk reads the same
     * as before, and the same without a backing node.  zero: the chain is known to read as zeroes there; skip_zeroes: what is zero
     * may stay unallocated.  Works on the clusters that the range touches.  Exact beside guests' writes. */
    int coroutine_fn (*copy_up)(Node *n, Request *r, GuestOffset offset, uint64_t bytes, bool zero,
                                bool skip_zeroes);
    /* -ENOTSUP counts as done. */
    int coroutine_fn (*pdiscard)(Node *n, Request *r, GuestOffset offset, uint64_t bytes);
    /* Formats: writes back what they hold into the file below, in the order the format demands; the caller flushes the
     * child n->file afterwards.  Protocols: makes durable. */
    int coroutine_fn (*flush)(Node *n, Request *r);
    /* Protocols that cache: hands written data to storage without disturbing requests.  A flush follows, which tells errors. */
    void coroutine_fn (*write_out)(Node *n);
    /* The same for who writes much and will flush: what was written since the last call is on its way to storage when it returns, what was
     * before has arrived there, nearly.  Keeps the cache from filling up. */
    void coroutine_fn (*write_behind)(Node *n);
    /* Do guests write to the same storage now, so that whoever else does should give them room?  NULL: as n->file says; no if there is none.
     * Called where jobs carry data. */
    bool coroutine_fn (*is_contended)(Node *n, Request *r);
    /* Formats with backing: what of whole clusters in the range is allocated becomes unallocated, so that the backing node shows, if claim() says yes
     * when all that takes time is done; it says what of the range is asked about.  No write-like request is in n from the call of claim() on.  The range
     * is no longer than empty_max().  -ECANCELED: claim() said no. */
    int coroutine_fn (*make_empty)(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                   bool (*claim)(void *opaque, uint64_t offset, uint64_t bytes),
                                   void *opaque);
    /* Bytes from offset on, at least 1, that can be emptied at once. */
    uint64_t (*empty_max)(const Node *n, GuestOffset offset);
    /* Formats: all that follows by itself from requests that have ended is in the file n->file (not flushed) when it returns, so that nothing is written
     * until the next write-like request.  for_good: none is expected; what was set aside for them goes back.  Nobody writes meanwhile.  -ETIMEDOUT:
     * clock_ns() passed the deadline.  NULL: it always is so.  Control thread. */
    int coroutine_fn (*come_to_rest)(Node *n, Request *r, bool for_good, int64_t deadline_ns);
    /* Formats: true if memory has changes of completed requests that the file below does not have yet.  Any thread, must not suspend. */
    bool (*unsaved)(Node *n);
    /* Protocols: which file it is; false: none.  Any thread, does not suspend. */
    bool (*identity)(const Node *n, struct FileIdentity *ret);
    int coroutine_fn (*truncate)(Node *n, Request *r, uint64_t size, bool exact);
    /* The size of the child n->file changed, behind n's back; n->size follows.  Control thread.  NULL: it does not matter. */
    void (*child_resized)(Node *n);
    /* As edge_block_status(). NULL: data, or for filters what the child says. */
    int coroutine_fn (*block_status)(Node *n, Request *r, GuestOffset offset, uint64_t bytes,
                                     unsigned flags, bool precise, uint64_t *ret_bytes,
                                     HostOffset *ret_map);
    /* Filters that keep what their disk was at an instant: that state.  -EACCES: not there (any more). */
    int coroutine_fn (*snapshot_preadv)(Node *n, Request *r, GuestOffset offset,
                                        const IoVector *iov, unsigned flags);
    int coroutine_fn (*snapshot_block_status)(Node *n, Request *r, GuestOffset offset,
                                              uint64_t bytes, unsigned flags, uint64_t *ret_bytes);
    /* It is not needed there any more. */
    int coroutine_fn (*snapshot_pdiscard)(Node *n, Request *r, GuestOffset offset, uint64_t bytes);

    /* Filters for debugging (debug.h).  Something happens here or in the node above; may keep the request waiting. */
    void coroutine_fn (*debug_event)(Node *n, int event); /* BlkdebugEvent */
    const struct DebugOps *debug;                         /* breakpoints; NULL: none */
    /* Filters without block_status: a negative errno fails those who ask through it what is below. */
    int coroutine_fn (*check_status)(Node *n, GuestOffset offset, uint64_t bytes);
};

/* Protocols: data that was written may be lost, as err (a negative errno) tells: every later flush of n fails with it. */
void node_flush_failed(Node *n, int err);

/* Drivers register once at start: all there are (block/drivers.c), or in tests those that are wanted. */
void driver_register_all(void);
void driver_register(const BlockDriver *driver);
const BlockDriver *driver_find(const char *name);
/* Names of all drivers, sorted; free the array only. */
GPtrArray *driver_names(void);
/* The driver of names that begin with `protocol` and a colon; NULL: there is none. */
const BlockDriver *driver_of_protocol(const char *protocol);
/* The format a file's beginning shows; raw if none other does.  buf: at least 512 bytes or the whole file.  NULL with *errp
 * (ERROR_UNSUPPORTED): it is a LUKS volume, whose encrypted bytes must not pass for a guest's disk unasked. */
const BlockDriver *driver_probe(const uint8_t *buf, size_t len, Error **errp);

/* For open(): opens or looks up the child that `ref` names, with options inherited from n as the role demands, and attaches it
 * with the permissions that child_perm() says.  name: "file", "backing".  Sets n->file or n->backing. */
bool coroutine_fn node_open_child(Node *n, const struct BlockdevRef *ref, const char *name,
                                  EdgeRole role, Error **errp);
/* For open() of formats with backing chains: attaches the backing that the options say (a reference, a definition, or null), or, when
 * `option` is NULL, the one that the header names (file may be NULL: none; relative names are resolved against n's own
 * filename; no format: probed, with a warning).  Loops are refused: "Making '…' a backing child of '…' would create a cycle"
 * or, by file name, "Backing file '…' creates an infinite loop." */
bool coroutine_fn node_open_backing(Node *n, const struct BlockdevRefOrNull *option,
                                    const char *file, const char *format, Error **errp);

/* child_perm() for formats (metadata written whenever the node is not read-only) and for filters. */
void format_child_perm(const Node *n, EdgeRole role, unsigned parent_perm, unsigned parent_shared,
                       unsigned *perm, unsigned *shared);
void filter_child_perm(const Node *n, EdgeRole role, unsigned parent_perm, unsigned parent_shared,
                       unsigned *perm, unsigned *shared);

extern const BlockDriver driver_blkdebug;
extern const BlockDriver driver_blklogwrites;
extern const BlockDriver driver_blkverify;
extern const BlockDriver driver_compress;
extern const BlockDriver driver_copy_before_write;
extern const BlockDriver driver_copy_on_read;
extern const BlockDriver driver_file;
extern const BlockDriver driver_host_device;
extern const BlockDriver driver_nbd;
extern const BlockDriver driver_null_aio;
extern const BlockDriver driver_null_co;
extern const BlockDriver driver_qcow2;
extern const BlockDriver driver_preallocate;
extern const BlockDriver driver_quorum;
extern const BlockDriver driver_raw;
extern const BlockDriver driver_snapshot_access;
extern const BlockDriver driver_throttle;
#ifdef CONFIG_TEST_DRIVERS
extern const BlockDriver driver_simdisk;
#endif

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Building and asking the graph.  All functions: control thread; those that may suspend are coroutines.
 */
#ifndef BLOCK_GRAPH_H
#define BLOCK_GRAPH_H

#include "block/driver.h"
#include "block/node.h"

struct BlockdevOptions;
struct BlockDeviceInfo;
struct BlockDeviceInfoList;
struct XDbgBlockGraph;

/* Flags of node_open(). */
typedef enum NodeOpenFlags {
    NODE_OPEN_HIDDEN = 1 << 0,     /* N3; node_show() ends it */
    NODE_OPEN_NO_BACKING = 1 << 1, /* formats: open without the backing that the header names */
    NODE_OPEN_READ_ONLY = 1 << 2,  /* default for read-only when the options do not say */
} NodeOpenFlags;

/* Opens a node and what is below it.  Options are those of blockdev-add; missing node-names are generated ("#block…").
 * `reserver`: whoever reserved the node name, or NULL.  The caller owns one reference. */
Node *coroutine_fn node_open(const struct BlockdevOptions *options, unsigned flags,
                             const void *reserver, Error **errp);
/* A protocol node `file` on a file that was just made, and is kept locked for it if it was lent (snapshot_file_set_lend()). */
Node *coroutine_fn node_open_made(const struct BlockdevOptions *options, unsigned flags,
                                  struct SnapshotFile *made, Error **errp);
/* A format node on such a file, in which `image` is.  If it can be
 * written to, it has got ready what the first writes would otherwise wait for.  NULL: any image. */
Node *coroutine_fn node_open_new_image(const struct BlockdevOptions *options, unsigned flags,
                                       const void *reserver, const struct NewImage *image,
                                       Error **errp);
/* The format of what a protocol node with these options has; it is opened for that, for reading.  NULL: it cannot be
 * read, or the format is known and unsupported (driver_probe()). */
const BlockDriver *coroutine_fn node_probe_format(const struct BlockdevOptions *file, Error **errp);
void node_show(Node *n);
/* The option that says where a format or filter stores; NULL: the driver has none. */
const struct BlockdevRef *options_file(const struct BlockdevOptions *o);
/* Lookup as QMP's (device, node-name) pairs do; a device that exists comes first.  Commands with one argument for both give it twice.
 * Errors: "Cannot find device='%s' nor node-name='%s'", "Device '%s' has no medium". */
Node *node_lookup(const char *device, const char *node_name, Error **errp);
/* Waits (10 s at most) while a running transaction has the node reserved.  Error: "Node '%s' is busy: …" */
bool coroutine_fn node_wait_unreserved(Node *n, Error **errp);

/* "file.qcow2" of "/dir/file.qcow2" is resolved against `relative_to`'s directory; absolute names and names with a protocol
 * prefix stay.  Freed by the caller. */
char *filename_resolve(const char *relative_to, const char *name);
/* The driver of a plain file name: "host_device" if there is a device by that name, else "file".  Constant strings.  May suspend if it is called
 * by a coroutine, else it blocks. */
const char *filename_driver(const char *name);
/* What a name stands for, an object of BlockdevOptions that the caller frees: of the whole node for "json:{…}", else of a protocol node: a file,
 * a device, or what a driver knows (BlockDriver.protocols).  Suspends or blocks as filename_driver().  Errors: "Unknown protocol '%s'", those of the
 * driver. */
struct json_object *filename_options(const char *name, Error **errp);
/* The same for a name in the header of n, for people: an absolute "file:/x" stays as it is.  Freed by the caller. */
char *filename_full(const Node *n, const char *name);
/* n, or what it shows if it is a filter: the first node down from it that is none.  Headers name that: they cannot say what filters need. */
Node *node_skip_filters(Node *n);
/* An edge of that role by which a node uses n, itself or through filters; NULL: none. */
const Edge *node_find_use(const Node *n, EdgeRole role);
/* Can writes with REQ_COMPRESSED go to n? */
bool node_can_compress(const Node *n);
/* What queries call n: a name that opens the same disk again, "json:{…}" if need be.  NULL: nothing does.  Freed by the caller. */
char *node_shown_filename(Node *n);
/* The same for who knows it of n's backing node (NULL: there is none) and goes through a long chain. */
char *node_shown_filename_over(Node *n, const char *backing_shown);

/* Makes n read-only, given up for writing down to the file: ro_prepare, then ro_commit or ro_abort, over the subtree that n
 * alone uses. */
bool coroutine_fn node_ro_prepare(Node *n, Error **errp);
void coroutine_fn node_ro_commit(Node *n);
void coroutine_fn node_ro_abort(Node *n);

/* Hands what was written to storage without disturbing requests, then flushes n.  Error: "Write to node '%s' failed: …". */
bool coroutine_fn node_write_out(Node *n, Error **errp);
/* The same ahead of a flush that follows: what there is to write is written and its errors are found, so that the other one is short; what the
 * format wrote last may be left to it.  n does not count as flushed. */
bool coroutine_fn node_flush_ahead(Node *n, Error **errp);
/* Makes a read-only node writable, with what it stores in, as far as the user did not say that a child of his own be read-only; nobody writes
 * yet.  On failure all is as before.  Errors: those of opening for writing, of locks, "Block node is read-only". */
bool coroutine_fn node_set_writable(Node *n, Error **errp);
/* Read-only again: no parent writes any more.  On failure it is so in memory, but the file stays open for writing. */
bool coroutine_fn node_set_read_only(Node *n, Error **errp);

/* Shutdown: requests that wait for a peer over a network fail from here on (BlockDriver.abandon). */
void graph_abandon_all(void);
/* Shutdown: drops the monitor's references and waits until every node has closed or clock_ns() passed the deadline.
 * False: some node did not close; the log names it. */
bool coroutine_fn graph_close_all(int64_t deadline_ns);

/* Replies of queries; they do not suspend.  flat: no nested backing images. */
struct BlockDeviceInfo *node_query_info(Node *n, bool flat, Error **errp);
struct XDbgBlockGraph *graph_query(void);

#endif

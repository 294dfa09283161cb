/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block backends: named places in which a disk can be.
 *
 * A backend has a name (a "device" in QMP's words) or belongs to a guest device alone; it holds a node by a root edge, or nothing (no
 * medium).  Node names and backend names are one name space.  A snapshot moves the edge: the backend then shows the overlay.
 *
 * A storage daemon has none; the emulator's command line (-drive, -device) makes them.  All functions: control thread; those that may
 * suspend are coroutines.
 */
#ifndef BLOCK_BACKEND_H
#define BLOCK_BACKEND_H

#include "block/stats.h"

typedef struct Backend Backend;
struct BlockInfoList;
struct BackendLimits;

/* What is in a backend. */
typedef struct Medium Medium;

/* What the guest device that uses a backend tells about itself. */
typedef struct BackendDevice {
    const char *qdev; /* path or id of the device, as queries show it; the device's memory */
    bool removable;   /* its medium can be changed */
    bool has_tray;    /* that can be opened and closed: a medium is changed while it is open */
    bool tray_open, locked;
} BackendDevice;

/* How the next medium is opened when nothing else is said: as the last one was, or as the drive's options were. */
typedef struct MediumDefaults {
    bool read_only, cache_direct, cache_no_flush, discard_unmap;
    DetectZeroes detect_zeroes;
} MediumDefaults;

/* A backend without medium.  name: as node_name_check() allows; NULL: anonymous, lives as long as its device.
 * Errors: "Device with id '%s' already exists", "Device name '%s' conflicts with an existing node name", "Invalid device name". */
Backend *backend_new(const char *name, Error **errp);
/* Takes the medium out (suspends) and drops the reference of who made it. */
void coroutine_fn backend_free(Backend *b);
/* Who suspends and uses b after that holds a reference, and asks whether it was freed meanwhile. */
Backend *backend_ref(Backend *b);
void backend_unref(Backend *b);
bool backend_is_gone(const Backend *b);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Backend, backend_unref)
/* All of them; before the graph is closed.  Waits until pinned media have gone, or clock_ns() passed the deadline: false. */
bool coroutine_fn backend_free_all(int64_t deadline_ns);

Backend *backend_find(const char *name);    /* NULL: none of that name */
GPtrArray *backend_list(void);              /* oldest first; free the array only */
const char *backend_name(const Backend *b); /* "" if anonymous */
/* Is it the edge of a backend? */
bool backend_owns(const Edge *e);
/* The edge that leads to the medium; NULL: none inserted. */
Edge *backend_edge(const Backend *b);

/* The name of the first named backend that holds n; "" if none does.  What a job on n is called by default. */
const char *node_backend_name(const Node *n);

/* For who sends requests: the edge of a pinned medium stays, whether or not it is taken out.  NULL: none inserted. */
Medium *backend_pin(Backend *b);
Edge *medium_edge(const Medium *m);
bool medium_is_in(const Medium *m); /* not taken out yet */
Backend *medium_backend(const Medium *m);
void coroutine_fn medium_unpin(Medium *m);

/* Puts a node in; takes a reference by its edge.  Errors: "There already is a medium in the device", "The device was removed", permission
 * errors. */
bool coroutine_fn backend_insert(Backend *b, Node *n, Error **errp);
/* Takes the medium out, if there is one.  Its requests may still be under way. */
void coroutine_fn backend_eject(Backend *b);
MediumDefaults backend_defaults(const Backend *b);
void backend_set_defaults(Backend *b, const MediumDefaults *d);
/* What is taken of and shared on the medium (bits of Perm), now and of later media. */
bool coroutine_fn backend_set_perm(Backend *b, unsigned perm, unsigned shared, Error **errp);
/* Adds to what is taken; for consoles that write to a disk without a device. */
bool coroutine_fn backend_add_perm(Backend *b, unsigned perm, Error **errp);

/* Every write is durable when it completes (cache=writethrough). */
void backend_set_writethrough(Backend *b, bool on);
bool backend_writethrough(const Backend *b);
/* The device lives longer than this or is set to NULL before. */
void backend_set_device(Backend *b, const BackendDevice *d);
const BackendDevice *backend_device(const Backend *b);
/* Its limits on speed: see backend-limits.h. */
struct BackendLimits *backend_limits(const Backend *b);
/* Reads of consoles copy up what they read from backing images (copy-on-read=on). */
void backend_set_copy_on_read(Backend *b, bool on);
bool backend_copy_on_read(const Backend *b);
/* Statistics of its media from the next one on. */
void backend_set_stats(Backend *b, const StatsConfig *config);
/* It goes from the name space; a device that uses it keeps it, anonymous. */
void backend_forget_name(Backend *b);

/* Backends with a name or a device. */
struct BlockInfoList *backend_query(Error **errp);

#endif

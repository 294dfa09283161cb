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

#include "block/node.h"

typedef struct Backend Backend;
struct BlockInfoList;

/* What the guest device that uses a backend tells about itself. */
typedef struct BackendDevice {
    const char *qdev; /* path or id of the device, as queries show it; the device's memory */
    bool removable;   /* has a tray */
    bool tray_open, locked;
} BackendDevice;

/* A backend without medium.  name: as node_name_check() allows; NULL: anonymous, lives as long as its device.
 * Errors: "Device with id '%s' already exists", "Device name '%s' conflicts with an existing node name", "Invalid device name". */
Backend *backend_new(const char *name, Error **errp);
/* Takes the medium out (suspends) and frees it. */
void coroutine_fn backend_free(Backend *b);
/* All of them; before the graph is closed. */
void coroutine_fn backend_free_all(void);

Backend *backend_find(const char *name);    /* NULL: none of that name */
GPtrArray *backend_list(void);              /* oldest first; free the array only */
const char *backend_name(const Backend *b); /* "" if anonymous */
/* The edge that leads to the medium; NULL: none inserted. */
Edge *backend_edge(const Backend *b);

/* The name of the first named backend that holds n; "" if none does.  What a job on n is called by default. */
const char *node_backend_name(const Node *n);

/* Puts a node in; takes a reference by its edge.  Error: "There already is a medium in the device", permission errors. */
bool coroutine_fn backend_insert(Backend *b, Node *n, Error **errp);
void coroutine_fn backend_eject(Backend *b);
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
/* It goes from the name space; a device that uses it keeps it, anonymous. */
void backend_forget_name(Backend *b);

/* Backends with a name or a device. */
struct BlockInfoList *backend_query(Error **errp);

#endif

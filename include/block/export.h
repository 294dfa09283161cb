/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Exports: disks offered to clients.
 *
 * An export has a root edge to its node; a snapshot moves that edge, the export and its clients do not notice.  Requests run on the export's
 * I/O thread, or threads.  All functions: control thread; those that may suspend are coroutines.
 */
#ifndef BLOCK_EXPORT_H
#define BLOCK_EXPORT_H

#include "block/io.h"
#include "util/iothread.h"

typedef struct Export Export;
struct BlockExportOptions;
struct BlockExportInfoList;

/* What a protocol provides. */
typedef struct ExportDriver {
    const char *name;    /* as in BlockExportType */
    bool many_threads;   /* can use more than one I/O thread */
    bool bears_inactive; /* its clients may find the node inactive: writes fail with -EPERM */
    size_t size;         /* of the structure that begins with Export */
    /* Of Perm, what it needs besides reading and writing; NULL: nothing. */
    unsigned (*permissions)(const struct BlockExportOptions *options);
    /* The edge is attached; starts serving. */
    bool coroutine_fn (*create)(Export *e, const struct BlockExportOptions *options, Error **errp);
    /* Clients connected now. */
    unsigned (*clients)(const Export *e);
    /* No new clients from here on; returns when the last one has gone. */
    void coroutine_fn (*shutdown)(Export *e);
    void (*cleanup)(Export *e);
    /* The edge leads to another node, or its size changed. */
    void (*resized)(Export *e);
} ExportDriver;

struct Export {
    const ExportDriver *driver;
    int type; /* of BlockExportType */
    char *id;
    Edge *edge;
    IOThread *iothread;   /* the first of: */
    IOThread **iothreads; /* each counted as a user */
    unsigned niothreads;  /* at least 1 */
    bool writable, writethrough;
    bool allow_inactive;
    char *device; /* it goes when this device's medium does; NULL: it stays */
    bool shutting_down;
    atomic_bool telling_error; /* an event is under way */
};

/* The node is active (blockdev_activate_for_export()), or allow-inactive is set. */
bool coroutine_fn export_add(const struct BlockExportOptions *options, Error **errp);
Export *export_find(const char *id);
/* Removes an export; hard: clients are disconnected, else it is an error if there are any.  Returns at once: the event
 * BLOCK_EXPORT_DELETED tells the end. */
bool coroutine_fn export_del(const char *id, bool hard, Error **errp);
/* The export has come to its end by itself: it is removed. */
void export_ended(Export *e);
/* Another size for the disk, bytes; may suspend.  Done by what export_set_resize() was given, with the name of the node. */
bool coroutine_fn export_resize(Export *e, uint64_t size, Error **errp);
typedef bool coroutine_fn ExportResizeFn(const char *device, const char *node_name, int64_t size,
                                         Error **errp);
void export_set_resize(ExportResizeFn *fn);
/* Bytes that the files of the export's node have, without its backing; -1: unknown. */
int64_t export_bytes_on_disk(const Export *e);
/* A device of that name has lost its medium: exports that were made for it go, as after export_del(). */
void coroutine_fn export_device_ejected(const char *device);
struct BlockExportInfoList *export_query(void);
/* Removes all exports of a driver (NULL: all); returns when they are gone. */
void coroutine_fn export_remove_all(const ExportDriver *driver);
/* For drivers: a request of a client failed (ret: a negative errno).  If the storage is to blame an event tells, BLOCK_IO_ERROR.  Any I/O thread,
 * before request_end(). */
void coroutine_fn export_io_failed(Export *e, Request *r, bool is_write, int ret);
/* Shutdown of the daemon: servers stop, exports go. */
void coroutine_fn export_shutdown_all(void);

extern const ExportDriver export_driver_fuse, export_driver_nbd, export_driver_vhost_user_blk;

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Dirty bitmaps stored in an image.
 *
 * On disk: a header extension (and an autoclear bit, without which it means nothing) names a *directory*; each entry of it a bitmap's name, flags,
 * granularity and *table*; the table, for every cluster full of marks, where that is, or that it is all zero or all one.
 *
 * While the node is writable the marks are in memory (block/bitmaps.h) and every entry in the file says *in use*: what the file has is out of date.
 * Whoever finds that later, after a crash, takes the bitmap for *inconsistent*: it is known by name and has no contents.  When the node is given up for
 * writing, everything is written anew beside what is there; then the header names the new directory.
 *
 * What must hold
 *  B1  every entry is in use, durably, before anything else is written to a writable image.
 *  B2  a directory without the flag is durable only when no write will follow that it does not have marks of.
 *  B3  the extension changes together with the autoclear bit, by one write of one sector: a crash leaves the old directory or the new one.
 *  B4  what a directory refers to is durable, refcounts included, before the header refers to the directory; what the old one referred to is given back
 *      after it.  A crash in between leaks.
 *
 * Control thread.  bitmap_lock: one change of the directory at a time; before all other locks of the driver.
 */
#ifndef QCOW2_BITMAP_H
#define QCOW2_BITMAP_H

#include "qcow2.h"

#define BITMAP_IN_USE           (1u << 0)
#define BITMAP_AUTO             (1u << 1) /* records when the image is written to */
#define BITMAP_EXTRA_COMPATIBLE (1u << 2) /* extra data may be ignored */
#define BITMAP_FLAGS_KNOWN      7u

#define BITMAPS_MAX          65535u
#define BITMAP_MAX_NAME      1023u
#define BITMAP_MIN_GRAN_BITS 9u
#define BITMAP_MAX_GRAN_BITS 31u
#define BITMAP_MAX_BYTES     (UINT64_C(512) << 20) /* of marks, one bitmap */
#define DIRECTORY_MAX_BYTES  (UINT64_C(1024) * BITMAPS_MAX)
#define DIRECTORY_ENTRY_HEAD 24u

/* An entry of the directory. */
typedef struct StoredBitmap {
    char *name;
    uint32_t flags;
    uint8_t granularity_bits;
    HostOffset table;
    uint32_t table_entries; /* at least 1 */
    uint8_t *extra;         /* kept as it is */
    uint32_t extra_len;
} StoredBitmap;

StoredBitmap *stored_bitmap_copy(const StoredBitmap *b);
void stored_bitmap_free(StoredBitmap *b);
/* An empty list that owns its entries. */
GPtrArray *stored_bitmaps_new(void);

/* ---- bitmap-directory.c: bytes to values and back; any thread ---- */

typedef struct DirectoryExtension {
    uint32_t count;
    uint64_t bytes;
    HostOffset offset;
} DirectoryExtension;

#define DIRECTORY_EXTENSION_BYTES 24u
bool directory_extension_parse(const uint8_t *data, uint32_t len, unsigned cluster_bits,
                               DirectoryExtension *ret, Error **errp);
void directory_extension_build(const DirectoryExtension *e, uint8_t *data);

/* Every entry is checked for what can be judged without the rest of the file.  NULL: it is damaged. */
GPtrArray *directory_parse(const uint8_t *buf, const DirectoryExtension *e, unsigned cluster_bits,
                           uint64_t disk_size, Error **errp);
uint64_t directory_bytes(const GPtrArray *entries);
void directory_build(const GPtrArray *entries, uint8_t *buf); /* directory_bytes() of it */

/* ---- bitmap-load.c ---- */

/* Reads the directory and, of what is not in use, the marks.  Writes nothing; the node's bitmaps are as before. */
bool coroutine_fn bitmaps_load(Qcow2 *q, Request *r, Error **errp);
/* Gives the node what was loaded. */
void coroutine_fn bitmaps_adopt(Qcow2 *q);
/* The node has no longer those that its image has: that is another one now, or may be written to by others. */
void coroutine_fn bitmaps_release(Node *n);
/* Host clusters that hold marks, by b's table: *ret of table_entries values, 0: none.  Freed by the caller. */
int coroutine_fn bitmap_read_table(Qcow2 *q, Request *r, const StoredBitmap *b, uint64_t entries,
                                   uint64_t **ret);

/* ---- bitmap-store.c ---- */

/* Has the file any, or will it? */
bool bitmaps_any(const Qcow2 *q);
/* B1; nothing happens when the file says so already. */
bool coroutine_fn bitmaps_mark_in_use(Qcow2 *q, Request *r, Error **errp);
/* B2: nobody writes any more.  On failure the file says what it said before. */
bool coroutine_fn bitmaps_store(Qcow2 *q, Request *r, Error **errp);
/* Under q->lock, or while opening: directory and tables, for overlap.c. */
void bitmaps_note_ranges(Qcow2 *q);
/* For the driver. */
bool qcow2_bitmap_can_store(Node *n, const char *name, uint32_t granularity, Error **errp);
void coroutine_fn qcow2_bitmap_removed(Node *n, const char *name);

#endif

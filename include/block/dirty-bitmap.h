/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Dirty bitmaps: which parts of a disk have been written.
 *
 * Words
 *  granule    the unit that is marked as a whole: a power of two of bytes.
 *  recording  a bitmap records a node while node_record() is in force: every write-like request into the node marks what it covers when
 *             it begins, and again when it ends.
 *
 * What must hold
 *  D1  too much may be marked, never too little: a write that ends while recording is on has been marked after its data was there, and one that
 *      begins while it is on has been marked before.  So who clears a mark and then reads the data sees either all of a write, or its mark.
 *  D2  a bitmap outlives its recording: node_unrecord() returns when no request looks at it any more.
 *
 * Marks are single bits changed atomically: any thread, no lock.
 */
#ifndef BLOCK_DIRTY_BITMAP_H
#define BLOCK_DIRTY_BITMAP_H

#include "block/node.h"

typedef struct DirtyBitmap DirtyBitmap;

/* For `size` bytes, all clear.  granularity: a power of two, at least 512.  NULL: no memory. */
DirtyBitmap *dirty_bitmap_new(uint64_t size, uint32_t granularity);
void dirty_bitmap_free(DirtyBitmap *b);
uint32_t dirty_bitmap_granularity(const DirtyBitmap *b);
uint64_t dirty_bitmap_size(const DirtyBitmap *b); /* bytes, as at dirty_bitmap_new() */

/* ---- any thread; what lies beyond the size is ignored ---- */

/* Marks every granule that the range touches. */
void dirty_bitmap_set(DirtyBitmap *b, uint64_t offset, uint64_t bytes);
/* Clears every granule that the range touches. */
void dirty_bitmap_clear(DirtyBitmap *b, uint64_t offset, uint64_t bytes);
/* Bytes marked, whole granules; exact when nobody marks or clears. */
uint64_t dirty_bitmap_count(const DirtyBitmap *b);
/* The first marked bytes at or after `from` (a multiple of the granularity), at most `max`, not beyond the size.  False: none. */
bool dirty_bitmap_next(const DirtyBitmap *b, uint64_t from, uint64_t max, uint64_t *ret_offset,
                       uint64_t *ret_bytes);

/* Marks as bytes, a bit for every granule, the lowest bit first: how images have them.  `at` is an offset into these bytes, a multiple of 8. */
uint64_t dirty_bitmap_bytes(const DirtyBitmap *b); /* how many there are */
/* Behind the last one there are zeroes. */
void dirty_bitmap_get_bytes(const DirtyBitmap *b, uint64_t at, uint8_t *buf, size_t len);
/* Marks what is set in buf. */
void dirty_bitmap_or_bytes(DirtyBitmap *b, uint64_t at, const uint8_t *buf, size_t len);

/* ---- recording: control thread ---- */

/* When it returns, every write-like request into n that has not ended yet will mark b. */
void coroutine_fn node_record(Node *n, DirtyBitmap *b);
void coroutine_fn node_unrecord(Node *n, DirtyBitmap *b);
/* All recording of a node that no request can enter any more ends. */
void node_forget_recording(Node *n);

/* ---- doing more before a write ends ---- */

/* Called by every write-like request into a node that succeeded, in its coroutine, of any loop, after its data is there and marked and before its client
 * is told.  It holds up the client: it has to return within a bound of its own. */
typedef struct WriteFollower {
    void coroutine_fn (*wrote)(void *opaque, uint64_t offset, uint64_t bytes);
    void *opaque;
    _Atomic bool active; /* false: nobody is called */
    CoGroup inside;      /* private */
} WriteFollower;

/* Control thread; one a node.  f: the caller's memory.  False: there is one. */
bool coroutine_fn node_set_follower(Node *n, WriteFollower *f);
/* Returns when nobody is in f any more and nobody will be. */
void coroutine_fn node_remove_follower(Node *n, WriteFollower *f);

/* ---- slowing down those who write ---- */

/* Until clock_ns() passes `until_ns` every write-like request into n ends ns later than it would (0: no longer; those that wait go on at once).
 * Any thread. */
void node_set_pace(Node *n, int64_t ns, int64_t until_ns);

#endif

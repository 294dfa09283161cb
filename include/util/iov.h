/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * I/O vectors: a request's memory, in pieces.
 *
 * An IoVector describes memory that somebody else owns.  Slices share the memory and, where they fit, live without a heap
 * allocation.  Nothing here may yield; any thread.
 */
#ifndef UTIL_IOV_H
#define UTIL_IOV_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

typedef struct IoVector {
    struct iovec *iov;
    unsigned niov;
    size_t size;           /* bytes, the sum of all lengths */
    struct iovec local[4]; /* where iov points when few pieces suffice */
    struct iovec *heap;    /* where it points otherwise; ours */
} IoVector;

/* One piece of memory. */
void iov_init_buf(IoVector *v, void *buf, size_t len);
/* The caller's array, not copied; it must outlive v. */
void iov_init_external(IoVector *v, struct iovec *iov, unsigned niov);
/* Bytes [offset, offset + len) of src; range checked by assertion. */
void iov_init_slice(IoVector *v, const IoVector *src, size_t offset, size_t len);
void iov_cleanup(IoVector *v);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(IoVector, iov_cleanup)

/* Copies between a vector and flat memory, from byte `offset` of v. */
void iov_from_buf(const IoVector *v, size_t offset, const void *buf, size_t len);
void iov_to_buf(const IoVector *v, size_t offset, void *buf, size_t len);
void iov_memset(const IoVector *v, size_t offset, int c, size_t len);
bool iov_is_zero(const IoVector *v);
/* True when every address and length is a multiple of `align` (a power of two). */
bool iov_is_aligned(const IoVector *v, size_t align);

/* True when len bytes at buf are zero. */
bool buffer_is_zero(const void *buf, size_t len);

#endif

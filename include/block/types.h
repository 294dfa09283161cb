/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Address spaces.
 *
 * Every offset says in its type what it is an offset into, so that mixing two up does not compile:
 *  - GuestOffset: bytes into a node's virtual disk, as its parents see it;
 *  - HostOffset: bytes into the file that a format node lays its data out in;
 *  - ClusterIndex: number of a cluster of that file (host clusters) - a host offset divided by the cluster size.
 * A format node's host offset is the guest offset of the node below: host_to_child() is that step down.
 */
#ifndef BLOCK_TYPES_H
#define BLOCK_TYPES_H

#include <stdbool.h>
#include <stdint.h>

typedef struct GuestOffset {
    uint64_t v;
} GuestOffset;
typedef struct HostOffset {
    uint64_t v;
} HostOffset;
typedef struct ClusterIndex {
    uint64_t v;
} ClusterIndex;

static inline GuestOffset guest(uint64_t v)
{
    return (GuestOffset){v};
}
static inline GuestOffset guest_add(GuestOffset o, uint64_t n)
{
    return (GuestOffset){o.v + n};
}
static inline HostOffset host(uint64_t v)
{
    return (HostOffset){v};
}
static inline HostOffset host_add(HostOffset o, uint64_t n)
{
    return (HostOffset){o.v + n};
}
static inline GuestOffset host_to_child(HostOffset o)
{
    return (GuestOffset){o.v};
}
static inline ClusterIndex cluster_of(HostOffset o, unsigned cluster_bits)
{
    return (ClusterIndex){o.v >> cluster_bits};
}
static inline HostOffset cluster_start(ClusterIndex c, unsigned cluster_bits)
{
    return (HostOffset){c.v << cluster_bits};
}

/* Largest size of a node and largest end of a request: signed 64 bit, whole 4 KiB blocks. */
#define BLOCK_MAX_SIZE ((uint64_t)INT64_MAX & ~(uint64_t)4095)
/* Longest read or write that may be handed to an edge at once (bytes); zero writes and discards may be longer. */
#define BLOCK_MAX_TRANSFER ((uint64_t)INT32_MAX & ~(uint64_t)4095)

/* What a parent wants to do with a node, and lets others do beside it. */
typedef enum Perm {
    PERM_CONSISTENT_READ = 1 << 0,
    PERM_WRITE = 1 << 1,
    PERM_WRITE_UNCHANGED = 1 << 2,
    PERM_RESIZE = 1 << 3,
} Perm;
#define PERM_NONE 0u
#define PERM_ALL  15u

/* Flags of requests. */
typedef enum RequestFlags {
    REQ_FUA = 1 << 0,       /* write: durable before it completes */
    REQ_MAY_UNMAP = 1 << 1, /* write zeroes: may free the space */
    REQ_NO_FALLBACK =
        1 << 2, /* write zeroes: fail with -ENOTSUP rather than write buffers of zeroes */
    REQ_COPY =
        1 << 3, /* read or status: the result will be written ("copies wait", see change.h) */
    REQ_BELOW_COW =
        1 << 5, /* read, status: came through a backing edge; drivers pass flags of reads on */
    REQ_PREFETCH = 1 << 4, /* read: only warm caches; data is thrown away */
    REQ_COMPRESSED =
        1
        << 6, /* write: whole clusters of the format are compressed; only if the driver `compresses` */
    REQ_UNGUARDED = 1 << 7, /* read, status: a guard (guard.h) is passed already */
} RequestFlags;

/* Answer of block status for a range: an or of these. */
typedef enum BlockStatus {
    STATUS_DATA = 1 << 0,      /* has to be read */
    STATUS_ZERO = 1 << 1,      /* reads as zeroes */
    STATUS_ALLOCATED = 1 << 2, /* decided by this layer, not by its backing */
    STATUS_OFFSET_VALID =
        1 << 3, /* the host offset returned is where the data is, in the node below */
    STATUS_COMPRESSED = 1 << 4,
    STATUS_EOF = 1 << 5, /* the range reaches the end of the node */
} BlockStatus;

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The qcow2 format on disk: constants and accessors (docs/interop/qcow2 of QEMU is the specification).
 *
 * All numbers in a file are big endian.  Tables are kept in memory as they are in the file, so that writing back is a copy; the
 * accessors convert.
 *
 * Words
 *  host cluster   2^cluster_bits bytes of the image file; a guest cluster is as long.
 *  entry          64 bits of an L1 table (where an L2 table is) or of an L2 table (where a guest cluster is).
 *  COPIED         bit 63 of an entry: what it refers to has refcount one and may be changed in place.
 */
#ifndef QCOW2_TYPES_H
#define QCOW2_TYPES_H

#include "block/types.h"
#include <endian.h>
#include <string.h>

#define QCOW2_MAGIC             0x514649fbu
#define QCOW2_MIN_CLUSTER_BITS  9u
#define QCOW2_MAX_CLUSTER_BITS  21u
#define QCOW2_MIN_EXTENDED_BITS 14u /* of clusters, with extended L2 entries */
#define QCOW2_DEFAULT_CLUSTER   65536u
#define QCOW2_V2_HEADER         72u
#define QCOW2_V3_HEADER         104u
#define QCOW2_OUR_HEADER        112u /* with compression_type */
#define QCOW2_MAX_BACKING_NAME  1023u
#define QCOW2_MAX_FORMAT_NAME   15u

/* Limits that the field agrees on; an image beyond them is refused. */
#define QCOW2_MAX_L1_BYTES    (UINT64_C(32) << 20)
#define QCOW2_MAX_REFT_BYTES  (UINT64_C(8) << 20)
#define QCOW2_MAX_SNAPSHOTS   65536u
#define QCOW2_MAX_SNAP_BYTES  (UINT64_C(1024) * QCOW2_MAX_SNAPSHOTS)
#define QCOW2_RUN_BYTES       (UINT64_C(16) << 20) /* by so much a file grows at once */
#define QCOW2_MAX_HOST_OFFSET (UINT64_C(1) << 56)  /* tables and clusters lie below */

/* Byte offsets of header fields. */
enum {
    HDR_MAGIC = 0,
    HDR_VERSION = 4,
    HDR_BACKING_OFFSET = 8,
    HDR_BACKING_SIZE = 16,
    HDR_CLUSTER_BITS = 20,
    HDR_SIZE = 24,
    HDR_CRYPT_METHOD = 32,
    HDR_L1_SIZE = 36,
    HDR_L1_OFFSET = 40,
    HDR_REFT_OFFSET = 48,
    HDR_REFT_CLUSTERS = 56,
    HDR_NB_SNAPSHOTS = 60,
    HDR_SNAPSHOTS_OFFSET = 64,
    HDR_INCOMPATIBLE = 72,
    HDR_COMPATIBLE = 80,
    HDR_AUTOCLEAR = 88,
    HDR_REFCOUNT_ORDER = 96,
    HDR_HEADER_LENGTH = 100,
    HDR_COMPRESSION_TYPE = 104,
};

#define INCOMPAT_DIRTY       (UINT64_C(1) << 0)
#define INCOMPAT_CORRUPT     (UINT64_C(1) << 1)
#define INCOMPAT_DATA_FILE   (UINT64_C(1) << 2)
#define INCOMPAT_COMPRESSION (UINT64_C(1) << 3)
#define INCOMPAT_EXTENDED_L2 (UINT64_C(1) << 4)
#define INCOMPAT_KNOWN       UINT64_C(0x1f)
#define COMPAT_LAZY          (UINT64_C(1) << 0)
#define AUTOCLEAR_BITMAPS    (UINT64_C(1) << 0)
#define AUTOCLEAR_RAW_DATA   (UINT64_C(1) << 1)

#define EXT_END            0x00000000u
#define EXT_BACKING_FORMAT 0xe2792acau
#define EXT_FEATURE_NAMES  0x6803f857u
#define EXT_SNAPSHOT_GROUP                                                                         \
    0x43757470u /* ours: UUID (16 bytes) of the snapshot group that the image was made for */
#define EXT_BITMAPS   0x23852875u
#define EXT_CRYPTO    0x0537be77u
#define EXT_DATA_FILE 0x44415441u
#define FEATURE_ENTRY 48u /* type, bit, 46 bytes of name */

typedef enum Qcow2Compression { QCOW2_ZLIB = 0, QCOW2_ZSTD = 1 } Qcow2Compression;

#define ENTRY_COPIED      (UINT64_C(1) << 63)
#define ENTRY_COMPRESSED  (UINT64_C(1) << 62)
#define ENTRY_ZERO        (UINT64_C(1) << 0)
#define ENTRY_OFFSET_MASK UINT64_C(0x00fffffffffffe00)
#define REFT_OFFSET_MASK  UINT64_C(0xfffffffffffffe00)

static inline uint32_t get_be32(const void *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return be32toh(v);
}
static inline uint64_t get_be64(const void *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return be64toh(v);
}
static inline void put_be32(void *p, uint32_t v)
{
    v = htobe32(v);
    memcpy(p, &v, sizeof(v));
}
static inline void put_be64(void *p, uint64_t v)
{
    v = htobe64(v);
    memcpy(p, &v, sizeof(v));
}

static inline uint64_t div_up(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

/* Where the data of a compressed cluster lies; bytes reach to the end of the last 512-byte sector. */
static inline HostOffset compressed_offset(uint64_t entry, unsigned cluster_bits)
{
    unsigned x = 62 - (cluster_bits - 8);
    uint64_t mask = ((UINT64_C(1) << x) - 1) & (QCOW2_MAX_HOST_OFFSET - 1);

    return host(entry & mask);
}
static inline uint64_t compressed_bytes(uint64_t entry, unsigned cluster_bits)
{
    unsigned x = 62 - (cluster_bits - 8);
    uint64_t sectors = ((entry & ~(ENTRY_COPIED | ENTRY_COMPRESSED)) >> x) + 1;

    return sectors * 512 - (compressed_offset(entry, cluster_bits).v & 511);
}

/* The entry of `bytes` of compressed data at `at`. */
static inline uint64_t compressed_entry(HostOffset at, uint64_t bytes, unsigned cluster_bits)
{
    unsigned x = 62 - (cluster_bits - 8);
    uint64_t sectors = ((at.v + bytes - 1) >> 9) - (at.v >> 9);

    return ENTRY_COMPRESSED | sectors << x | at.v;
}

/* Refcounts of 2^order bits in a block; order <= 6. */
uint64_t refcount_get(const uint8_t *block, unsigned order, uint64_t index);
void refcount_put(uint8_t *block, unsigned order, uint64_t index, uint64_t value);

#endif

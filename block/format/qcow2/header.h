/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The header of a qcow2 image: bytes to values and back.  Pure functions on memory; any thread.
 */
#ifndef QCOW2_HEADER_H
#define QCOW2_HEADER_H

#include "types.h"
#include "util/error.h"
#include <glib.h>

/* A header extension that is kept as it is (all but END and the backing format). */
typedef struct HeaderExtension {
    uint32_t type, len;
    uint8_t *data;
} HeaderExtension;

typedef struct Qcow2Header {
    unsigned version;        /* 2 or 3 */
    unsigned cluster_bits;   /* 9..21 */
    unsigned refcount_order; /* 0..6 */
    uint64_t size;           /* of the virtual disk, bytes */
    uint32_t crypt_method;
    uint32_t l1_size; /* entries */
    HostOffset l1_offset;
    HostOffset reft_offset;
    uint32_t reft_clusters;
    uint32_t nb_snapshots;
    HostOffset snapshots_offset;
    uint64_t incompatible, compatible, autoclear;
    uint32_t header_length;
    Qcow2Compression compression;
    uint64_t backing_offset;             /* where its name is; 0: no backing file */
    char *backing_file, *backing_format; /* NULL: none */
    uint64_t extensions_end;             /* byte behind the END extension */
    GArray *extensions;                  /* of HeaderExtension, in their order */
    uint8_t *later_fields;               /* header bytes from QCOW2_OUR_HEADER on */
    uint32_t later_len;
} Qcow2Header;

void header_init(Qcow2Header *h);
void header_clear(Qcow2Header *h);

/* True if buf begins like a qcow2 image of any version. */
bool header_probe(const uint8_t *buf, size_t len);

/* Bytes from the start of the file that header_parse() has to see: a cluster.  0: it is no valid header, header_parse()
 * says why. */
size_t header_cluster_size(const uint8_t *buf, size_t len);

/* Checks everything that can be judged without looking at the rest of the file.  buf: the first cluster, or the whole file if it is
 * shorter.  h was initialised; on failure it has to be cleared as well.  Features that are valid but not
 * supported are left to header_check_supported(). */
bool header_parse(Qcow2Header *h, const uint8_t *buf, size_t len, Error **errp);

/* Refuses, by name, what we cannot handle.  writable: more is refused. */
bool header_check_supported(const Qcow2Header *h, bool writable, Error **errp);

/* Adds the feature name table that images of ours carry. */
void header_add_feature_names(Qcow2Header *h);

/* Adds the UUID (16 bytes) of the snapshot group that the image is made for. */
void header_add_group(Qcow2Header *h, const uint8_t *uuid);
/* Adds the name of the external data file. */
void header_add_data_file(Qcow2Header *h, const char *name);
/* True if the image was made for that group. */
bool header_has_group(const Qcow2Header *h, const uint8_t *uuid);

/* The first extension of that type; NULL: there is none. */
const HeaderExtension *header_find_extension(const Qcow2Header *h, uint32_t type);

/* Bytes that header and extensions take. */
size_t header_length_with_extensions(const Qcow2Header *h);

/* Writes header and extensions to buf, and the name of the backing file at h->backing_offset.  buf: zeroed, one cluster. */
void header_build(const Qcow2Header *h, uint8_t *buf);

#endif

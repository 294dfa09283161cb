/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The header of a qcow2 image.  See header.h.
 *
 * Layout of the first cluster: the header (header_length bytes), extensions (type, length, data, padded to 8 bytes) up to the END
 * extension, the name of the backing file.  Nothing here is trusted: every length and offset is checked against the
 * cluster before it is used.
 */
#include "header.h"
#include <inttypes.h>

static unsigned l2_entry_bytes(const Qcow2Header *h)
{
    return h->incompatible & INCOMPAT_EXTENDED_L2 ? 16 : 8;
}

void header_init(Qcow2Header *h)
{
    memset(h, 0, sizeof(*h));
    h->extensions = g_array_new(false, true, sizeof(HeaderExtension));
}

void header_clear(Qcow2Header *h)
{
    if (h->extensions) {
        for (guint i = 0; i < h->extensions->len; i++) {
            g_free(g_array_index(h->extensions, HeaderExtension, i).data);
        }
        g_array_free(h->extensions, true);
    }
    g_free(h->backing_file);
    g_free(h->backing_format);
    g_free(h->later_fields);
    memset(h, 0, sizeof(*h));
}

bool header_probe(const uint8_t *buf, size_t len)
{
    return len >= QCOW2_V2_HEADER && get_be32(buf) == QCOW2_MAGIC &&
           get_be32(buf + HDR_VERSION) >= 2;
}

size_t header_cluster_size(const uint8_t *buf, size_t len)
{
    uint32_t bits;

    if (!header_probe(buf, len)) {
        return 0;
    }
    bits = get_be32(buf + HDR_CLUSTER_BITS);
    return bits < QCOW2_MIN_CLUSTER_BITS || bits > QCOW2_MAX_CLUSTER_BITS ? 0 : (size_t)1 << bits;
}

static bool bad(Error **errp, const char *text)
{
    error_set(errp, ERROR_CORRUPT, NULL, "open", "%s", text);
    return false;
}

/* ---- extensions ---- */

static bool parse_extension(Qcow2Header *h, uint32_t type, const uint8_t *data, uint32_t len,
                            Error **errp)
{
    HeaderExtension e = {.type = type, .len = len};

    if (type != EXT_BACKING_FORMAT) {
        e.data = g_malloc(MAX(len, 1));
        memcpy(e.data, data, len);
        g_array_append_val(h->extensions, e);
        return true;
    }
    if (len > QCOW2_MAX_FORMAT_NAME) {
        error_set(errp, ERROR_CORRUPT, NULL, "open",
                  "Backing format name too long (%" PRIu32 " bytes)", len);
        return false;
    }
    g_free(h->backing_format);
    h->backing_format = g_strndup((const char *)data, len);
    return true;
}

static bool parse_extensions(Qcow2Header *h, const uint8_t *buf, size_t len, Error **errp)
{
    size_t at = h->header_length, end = MIN(len, h->backing_offset ? h->backing_offset : len);

    while (at < end && end - at >= 8) {
        uint32_t type = get_be32(buf + at), size = get_be32(buf + at + 4);

        at += 8;
        if (type == EXT_END) {
            break;
        }
        if (size > end - at) {
            return bad(errp, "Header extension too large");
        }
        if (!parse_extension(h, type, buf + at, size, errp)) {
            return false;
        }
        at += MIN(((size_t)size + 7) & ~(size_t)7, end - at);
    }
    h->extensions_end = at;
    return true;
}

static bool parse_backing(Qcow2Header *h, const uint8_t *buf, size_t len, Error **errp)
{
    uint32_t size = get_be32(buf + HDR_BACKING_SIZE);

    if (h->backing_offset == 0) {
        return true;
    }
    if (size == 0) { /* an offset, but no name: no backing file */
        return true;
    }
    if (size > QCOW2_MAX_BACKING_NAME ||
        size > ((uint64_t)1 << h->cluster_bits) - h->backing_offset) {
        return bad(errp, "Backing file name too long");
    }
    if (h->backing_offset + size > len) {
        return bad(errp, "Could not read backing file name");
    }
    h->backing_file = g_strndup((const char *)buf + h->backing_offset, size);
    return true;
}

/* ---- fixed fields ---- */

static bool parse_v3(Qcow2Header *h, const uint8_t *buf, size_t len, Error **errp)
{
    if (len < QCOW2_V3_HEADER) {
        return bad(errp, "qcow2 header too short");
    }
    h->incompatible = get_be64(buf + HDR_INCOMPATIBLE);
    h->compatible = get_be64(buf + HDR_COMPATIBLE);
    h->autoclear = get_be64(buf + HDR_AUTOCLEAR);
    h->refcount_order = get_be32(buf + HDR_REFCOUNT_ORDER);
    h->header_length = get_be32(buf + HDR_HEADER_LENGTH);
    if (h->header_length < QCOW2_V3_HEADER) {
        return bad(errp, "qcow2 header too short");
    }
    if (h->header_length > (UINT64_C(1) << h->cluster_bits)) {
        return bad(errp, "qcow2 header exceeds cluster size");
    }
    if (h->header_length % 8) {
        return bad(errp, "qcow2 header length is not a multiple of 8");
    }
    if (h->header_length > len) {
        return bad(errp, "qcow2 header too short");
    }
    if (h->header_length > HDR_COMPRESSION_TYPE) {
        h->compression = buf[HDR_COMPRESSION_TYPE];
    }
    if (h->header_length > QCOW2_OUR_HEADER) {
        h->later_len = h->header_length - QCOW2_OUR_HEADER;
        h->later_fields = g_malloc(h->later_len);
        memcpy(h->later_fields, buf + QCOW2_OUR_HEADER, h->later_len);
    }
    return true;
}

/* A table of `entries` entries at `offset`: short enough, aligned, and within what a file can have. */
static bool check_table(const Qcow2Header *h, HostOffset offset, uint64_t entries,
                        uint64_t entry_bytes, uint64_t max_bytes, const char *name, Error **errp)
{
    if (entries > max_bytes / entry_bytes) {
        error_set(errp, ERROR_LIMIT, NULL, "open", "%s too large", name);
        return false;
    }
    if (offset.v & ((UINT64_C(1) << h->cluster_bits) - 1) ||
        offset.v > BLOCK_MAX_SIZE - entries * entry_bytes) {
        error_set(errp, ERROR_CORRUPT, NULL, "open", "%s offset invalid", name);
        return false;
    }
    return true;
}

static bool check_tables(const Qcow2Header *h, Error **errp)
{
    uint64_t cluster = UINT64_C(1) << h->cluster_bits;
    uint64_t l1_covers =
        cluster * (cluster / l2_entry_bytes(h)); /* bytes of the disk, one entry; at most 2^39 */

    if (h->reft_clusters == 0) {
        return bad(errp, "Image does not contain a reference count table");
    }
    if (!check_table(h, h->reft_offset, h->reft_clusters, cluster, QCOW2_MAX_REFT_BYTES,
                     "Reference count table", errp)) {
        return false;
    }
    if (h->reft_offset.v == 0) {
        return bad(errp, "Reference count table offset invalid");
    }
    if (h->nb_snapshots > 0 && (!check_table(h, h->snapshots_offset, h->nb_snapshots, 1,
                                             QCOW2_MAX_SNAPSHOTS, "Snapshot table", errp) ||
                                !check_table(h, h->snapshots_offset, QCOW2_MAX_SNAP_BYTES, 1,
                                             QCOW2_MAX_SNAP_BYTES, "Snapshot table", errp))) {
        return false;
    }
    if (!check_table(h, h->l1_offset, h->l1_size, 8, QCOW2_MAX_L1_BYTES, "Active L1 table", errp)) {
        return false;
    }
    if (h->size > BLOCK_MAX_SIZE || div_up(h->size, l1_covers) > INT32_MAX) {
        error_set(errp, ERROR_LIMIT, NULL, "open", "Image is too big");
        return false;
    }
    if (h->l1_size < div_up(h->size, l1_covers)) {
        return bad(errp, "L1 table is too small");
    }
    if (h->l1_size > 0 && h->l1_offset.v == 0) {
        return bad(errp, "Active L1 table offset invalid");
    }
    return true;
}

bool header_parse(Qcow2Header *h, const uint8_t *buf, size_t len, Error **errp)
{
    if (len < 8 || get_be32(buf) != QCOW2_MAGIC) {
        return bad(errp, "Image is not in qcow2 format");
    }
    h->version = get_be32(buf + HDR_VERSION);
    if (h->version < 2 || h->version > 3) {
        error_set(errp, ERROR_UNSUPPORTED, NULL, "open", "Unsupported qcow2 version %u",
                  h->version);
        return false;
    }
    if (len < QCOW2_V2_HEADER) {
        return bad(errp, "qcow2 header too short");
    }
    h->cluster_bits = get_be32(buf + HDR_CLUSTER_BITS);
    if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS || h->cluster_bits > QCOW2_MAX_CLUSTER_BITS) {
        error_set(errp, ERROR_UNSUPPORTED, NULL, "open", "Unsupported cluster size: 2^%u",
                  h->cluster_bits);
        return false;
    }
    h->header_length = QCOW2_V2_HEADER;
    h->refcount_order = 4;
    if (h->version >= 3 && !parse_v3(h, buf, len, errp)) {
        return false;
    }
    h->backing_offset = get_be64(buf + HDR_BACKING_OFFSET);
    if (h->backing_offset > (UINT64_C(1) << h->cluster_bits) ||
        (h->backing_offset && h->backing_offset < h->header_length)) {
        return bad(errp, "Invalid backing file offset");
    }
    h->size = get_be64(buf + HDR_SIZE);
    h->crypt_method = get_be32(buf + HDR_CRYPT_METHOD);
    h->l1_size = get_be32(buf + HDR_L1_SIZE);
    h->l1_offset = host(get_be64(buf + HDR_L1_OFFSET));
    h->reft_offset = host(get_be64(buf + HDR_REFT_OFFSET));
    h->reft_clusters = get_be32(buf + HDR_REFT_CLUSTERS);
    h->nb_snapshots = get_be32(buf + HDR_NB_SNAPSHOTS);
    h->snapshots_offset = host(get_be64(buf + HDR_SNAPSHOTS_OFFSET));
    if (h->refcount_order > 6) {
        error_set(errp, ERROR_UNSUPPORTED, NULL, "open",
                  "Reference count entry width too large; may not exceed 64 bits");
        return false;
    }
    if (!parse_extensions(h, buf, len, errp) || !parse_backing(h, buf, len, errp)) {
        return false;
    }
    /* An image with features that nobody here knows may use its tables in other ways: judged first. */
    return (h->incompatible & ~INCOMPAT_KNOWN) || check_tables(h, errp);
}

/* ---- what is supported ---- */

const HeaderExtension *header_find_extension(const Qcow2Header *h, uint32_t type)
{
    for (guint i = 0; i < h->extensions->len; i++) {
        const HeaderExtension *e = &g_array_index(h->extensions, HeaderExtension, i);

        if (e->type == type) {
            return e;
        }
    }
    return NULL;
}

/* Names of the bits that nobody here knows, from the image's own table as far as it has them. */
static char *unknown_features(const Qcow2Header *h, uint64_t bits)
{
    const HeaderExtension *names = header_find_extension(h, EXT_FEATURE_NAMES);
    GString *s = g_string_new(NULL);

    for (uint32_t at = 0; names && at + FEATURE_ENTRY <= names->len; at += FEATURE_ENTRY) {
        const uint8_t *f = names->data + at;

        if (f[0] == 0 && f[1] < 64 && (bits & (UINT64_C(1) << f[1]))) {
            g_autofree char *raw = g_strndup((const char *)f + 2, FEATURE_ENTRY - 2);
            g_autofree char *name = g_utf8_make_valid(raw, -1);

            g_string_append_printf(s, "%s%s", s->len ? ", " : "", name);
            bits &= ~(UINT64_C(1) << f[1]);
        }
    }
    if (bits) {
        g_string_append_printf(s, "%sUnknown incompatible feature: %" PRIx64, s->len ? ", " : "",
                               bits);
    }
    return g_string_free(s, false);
}

static bool check_compression(const Qcow2Header *h, Error **errp)
{
    bool bit = h->incompatible & INCOMPAT_COMPRESSION;

    if ((unsigned)h->compression > QCOW2_ZSTD) {
        error_set(errp, ERROR_UNSUPPORTED, NULL, "open", "qcow2: unknown compression type: %u",
                  (unsigned)h->compression);
        return false;
    }
    if (bit != (h->compression != QCOW2_ZLIB)) {
        error_set(errp, ERROR_CORRUPT, NULL, "open",
                  "qcow2: Compression type incompatible feature bit must %sbe set",
                  bit ? "not " : "");
        return false;
    }
    return true;
}

static bool refuse(Error **errp, const char *text)
{
    error_set(errp, ERROR_UNSUPPORTED, NULL, "open", "%s", text);
    return false;
}

static bool check_writable(const Qcow2Header *h, Error **errp)
{
    if (h->incompatible & INCOMPAT_DATA_FILE && h->nb_snapshots > 0) {
        return refuse(errp, "qcow2: Internal snapshots of an image with an external data file; "
                            "cannot be opened read/write");
    }
    if (h->incompatible & INCOMPAT_CORRUPT) {
        error_set(errp, ERROR_CORRUPT, NULL, "open",
                  "qcow2: Image is corrupt; cannot be opened read/write");
        return false;
    }
    if (h->incompatible & INCOMPAT_DIRTY) {
        return refuse(errp, "qcow2: Image was not closed cleanly and its refcounts need repair; "
                            "cannot be opened read/write before 'qemu-img check -r all'");
    }
    return true;
}

bool header_check_supported(const Qcow2Header *h, bool writable, Error **errp)
{
    if (h->incompatible & ~INCOMPAT_KNOWN) {
        g_autofree char *names = unknown_features(h, h->incompatible & ~INCOMPAT_KNOWN);

        error_set(errp, ERROR_UNSUPPORTED, NULL, "open", "Unsupported qcow2 feature(s): %s", names);
        return false;
    }
    if (h->incompatible & INCOMPAT_EXTENDED_L2 && h->cluster_bits < QCOW2_MIN_EXTENDED_BITS) {
        error_set(errp, ERROR_CORRUPT, NULL, "open",
                  "Extended L2 entries are only supported with cluster sizes of at least %u bytes",
                  1u << QCOW2_MIN_EXTENDED_BITS);
        return false;
    }
    if (h->crypt_method > 2) {
        error_set(errp, ERROR_UNSUPPORTED, NULL, "open", "Unsupported encryption method %" PRIu32,
                  h->crypt_method);
        return false;
    }
    if (h->crypt_method) {
        error_set(errp, ERROR_UNSUPPORTED, NULL, "open",
                  "Unsupported qcow2 feature(s): %s encryption",
                  h->crypt_method == 1 ? "AES" : "LUKS");
        return false;
    }
    return check_compression(h, errp) && (!writable || check_writable(h, errp));
}

/* ---- building ---- */

void header_add_feature_names(Qcow2Header *h)
{
    static const struct {
        uint8_t type, bit;
        const char *name;
    } table[] = {
        {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
        {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
        {2, 0, "bitmaps"},          {2, 1, "raw external data"},
    };
    HeaderExtension e = {.type = EXT_FEATURE_NAMES, .len = G_N_ELEMENTS(table) * FEATURE_ENTRY};

    e.data = g_malloc0(e.len);
    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        uint8_t *f = e.data + i * FEATURE_ENTRY;

        f[0] = table[i].type;
        f[1] = table[i].bit;
        memcpy(f + 2, table[i].name, strlen(table[i].name));
    }
    g_array_append_val(h->extensions, e);
}

void header_add_group(Qcow2Header *h, const uint8_t *uuid)
{
    HeaderExtension e = {.type = EXT_SNAPSHOT_GROUP, .len = 16, .data = g_memdup2(uuid, 16)};

    g_array_append_val(h->extensions, e);
}

void header_add_data_file(Qcow2Header *h, const char *name)
{
    HeaderExtension e = {
        .type = EXT_DATA_FILE, .len = strlen(name), .data = g_memdup2(name, strlen(name))};

    g_array_append_val(h->extensions, e);
}

bool header_has_group(const Qcow2Header *h, const uint8_t *uuid)
{
    const HeaderExtension *e = header_find_extension(h, EXT_SNAPSHOT_GROUP);

    return e && e->len == 16 && memcmp(e->data, uuid, 16) == 0;
}

static size_t extension_bytes(size_t len)
{
    return 8 + ((len + 7) & ~(size_t)7);
}

size_t header_length_with_extensions(const Qcow2Header *h)
{
    size_t n = h->header_length + extension_bytes(0);

    if (h->backing_format) {
        n += extension_bytes(strlen(h->backing_format));
    }
    for (guint i = 0; i < h->extensions->len; i++) {
        n += extension_bytes(g_array_index(h->extensions, HeaderExtension, i).len);
    }
    return n;
}

static size_t put_extension(uint8_t *p, uint32_t type, const void *data, uint32_t len)
{
    put_be32(p, type);
    put_be32(p + 4, len);
    if (len) {
        memcpy(p + 8, data, len);
    }
    return extension_bytes(len);
}

void header_build(const Qcow2Header *h, uint8_t *buf)
{
    uint8_t *p = buf + h->header_length;

    put_be32(buf + HDR_MAGIC, QCOW2_MAGIC);
    put_be32(buf + HDR_VERSION, h->version);
    put_be64(buf + HDR_BACKING_OFFSET, h->backing_file ? h->backing_offset : 0);
    put_be32(buf + HDR_BACKING_SIZE, h->backing_file ? strlen(h->backing_file) : 0);
    put_be32(buf + HDR_CLUSTER_BITS, h->cluster_bits);
    put_be64(buf + HDR_SIZE, h->size);
    put_be32(buf + HDR_CRYPT_METHOD, h->crypt_method);
    put_be32(buf + HDR_L1_SIZE, h->l1_size);
    put_be64(buf + HDR_L1_OFFSET, h->l1_offset.v);
    put_be64(buf + HDR_REFT_OFFSET, h->reft_offset.v);
    put_be32(buf + HDR_REFT_CLUSTERS, h->reft_clusters);
    put_be32(buf + HDR_NB_SNAPSHOTS, h->nb_snapshots);
    put_be64(buf + HDR_SNAPSHOTS_OFFSET, h->snapshots_offset.v);
    if (h->version >= 3) {
        put_be64(buf + HDR_INCOMPATIBLE, h->incompatible);
        put_be64(buf + HDR_COMPATIBLE, h->compatible);
        put_be64(buf + HDR_AUTOCLEAR, h->autoclear);
        put_be32(buf + HDR_REFCOUNT_ORDER, h->refcount_order);
        put_be32(buf + HDR_HEADER_LENGTH, h->header_length);
        if (h->header_length > HDR_COMPRESSION_TYPE) {
            buf[HDR_COMPRESSION_TYPE] = h->compression;
        }
        if (h->later_len) {
            memcpy(buf + QCOW2_OUR_HEADER, h->later_fields, h->later_len);
        }
    }
    if (h->backing_format) {
        p += put_extension(p, EXT_BACKING_FORMAT, h->backing_format, strlen(h->backing_format));
    }
    for (guint i = 0; i < h->extensions->len; i++) {
        const HeaderExtension *e = &g_array_index(h->extensions, HeaderExtension, i);

        p += put_extension(p, e->type, e->data, e->len);
    }
    put_extension(p, EXT_END, NULL, 0);
    if (h->backing_file) {
        memcpy(buf + h->backing_offset, h->backing_file, strlen(h->backing_file));
    }
}

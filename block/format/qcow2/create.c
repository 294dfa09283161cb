/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Creating an image; version 3 with 16-bit refcounts unless told otherwise.
 *
 *   cluster 0        header, extensions, name of the backing file
 *   then             refcount table | refcount blocks | L1 table (all zero: a hole)
 *   preallocated     ... | L1 table | L2 tables | data, in the order of the disk
 *
 * Until the header is there, which is written last, the file is no image.
 *
 * This writes no more than it must: the beginnings of header, refcount table and first blocks, into a file that truncate has made
 * long enough, and one flush at the end.  Snapshots make many images at once: for them the same is laid out in memory (qcow2_lay_out), and who
 * makes the file writes it.
 */
#include "block/untouched.h"
#include "qcow2.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define DEFAULT_REFCOUNT_BITS 16u
#define PIECE                 (UINT64_C(1) << 20) /* of tables and data, bytes written at a time */
#define RESERVE_PIECE         (UINT64_C(1) << 30) /* reserved at a time */

typedef struct Layout {
    unsigned version, cluster_bits, refcount_order;
    uint64_t l1_entries, l1_clusters;
    uint64_t blocks, reft_clusters;
    uint64_t l2_tables, data; /* clusters allocated in advance; 0: none */
    uint64_t clusters;        /* all of the file */
    bool external;            /* data is in another one */
    unsigned entry_words;     /* of an L2 table */
    uint64_t states;          /* of subclusters of clusters that are allocated in advance */
} Layout;

/* What other values than the defaults may be, and together with which. */
static bool check_features(const CreateSpec *spec, Layout *l, Error **errp)
{
    uint64_t bits = spec->refcount_bits ? spec->refcount_bits : DEFAULT_REFCOUNT_BITS;
    const char *text = NULL;

    l->version = spec->version ? spec->version : 3;
    if (bits & (bits - 1) || bits > 64) {
        text = "Refcount width must be a power of two and may not exceed 64 bits";
    } else if (l->version < 3 && bits != DEFAULT_REFCOUNT_BITS) {
        text = "Different refcount widths than 16 bits require compatibility level 1.1 or above "
               "(use version=v3 or greater)";
    } else if (l->version < 3 && spec->lazy_refcounts) {
        text = "Lazy refcounts only supported with compatibility level 1.1 and above (use "
               "version=v3 or greater)";
    } else if (l->version < 3 && spec->zstd) {
        text = "Non-zlib compression type is only supported with compatibility level 1.1 and above "
               "(use version=v3 or greater)";
    } else if (l->version < 3 && spec->data_file) {
        text = "External data files are only supported with compatibility level 1.1 and above (use "
               "version=v3 or greater)";
    } else if (l->version < 3 && spec->extended_l2) {
        text = "Extended L2 entries are only supported with compatibility level 1.1 and above (use "
               "version=v3 or greater)";
    } else if (spec->data_file_raw && !spec->data_file) {
        text = "data-file-raw requires data-file";
    } else if (spec->data_file_raw && spec->backing_file) {
        text = "Backing file and data-file-raw cannot be used at the same time";
    } else if (spec->backing_format && !spec->backing_file) {
        text = "Backing format cannot be used without backing file";
    } else if (spec->backing_file && spec->space != CREATE_SPACE_NONE && !spec->extended_l2) {
        /* Allocated clusters hide what is below. */
        text = "Backing file and preallocation can only be used at the same time if extended_l2 is "
               "on";
    }
    if (text) {
        error_set(errp, ERROR_INVALID, "qcow2", "create", "%s", text);
        return false;
    }
    while (UINT64_C(1) << l->refcount_order < bits) {
        l->refcount_order++;
    }
    return true;
}

static bool too_large(uint64_t cluster, Error **errp)
{
    error_set(errp, ERROR_LIMIT, "qcow2", "create",
              "The image size is too large for file format 'qcow2'%s",
              cluster < 1u << QCOW2_MAX_CLUSTER_BITS ? " (try using a larger cluster size)" : "");
    return false;
}

static bool plan_layout(const CreateSpec *spec, uint64_t size, Layout *ret, Error **errp)
{
    uint64_t cluster = spec->cluster_size ? spec->cluster_size : QCOW2_DEFAULT_CLUSTER;
    uint64_t covers, per_block, content;
    Layout l = {0};

    if (cluster & (cluster - 1) || cluster < 1u << QCOW2_MIN_CLUSTER_BITS ||
        cluster > 1u << QCOW2_MAX_CLUSTER_BITS) {
        error_set(errp, ERROR_INVALID, "qcow2", "create",
                  "Cluster size must be a power of two between %u and %uk",
                  1u << QCOW2_MIN_CLUSTER_BITS, 1u << (QCOW2_MAX_CLUSTER_BITS - 10));
        return false;
    }
    if (!check_features(spec, &l, errp)) {
        return false;
    }
    l.entry_words = spec->extended_l2 ? 2 : 1;
    if (spec->extended_l2 && cluster < 1u << QCOW2_MIN_EXTENDED_BITS) {
        error_set(errp, ERROR_INVALID, "qcow2", "create",
                  "Extended L2 entries are only supported with cluster sizes of at least %u bytes",
                  1u << QCOW2_MIN_EXTENDED_BITS);
        return false;
    }
    covers = cluster * (cluster / (8 * l.entry_words));
    if (size > BLOCK_MAX_SIZE || div_up(size, covers) > QCOW2_MAX_L1_BYTES / 8) {
        return too_large(cluster, errp);
    }
    while (UINT64_C(1) << l.cluster_bits < cluster) {
        l.cluster_bits++;
    }
    l.l1_entries = div_up(size, covers);
    l.l1_clusters = div_up(l.l1_entries * 8, cluster);
    if (spec->space != CREATE_SPACE_NONE || spec->data_file_raw) {
        l.l2_tables = l.l1_entries;
        l.data = div_up(size, cluster);
    }
    l.external = spec->data_file;
    /* What is there counts in a raw data file only; elsewhere nothing hides the backing file, or the zeroes without one. */
    l.states = spec->data_file_raw ? SUB_ALL_ALLOCATED : 0;
    content = 1 + l.l1_clusters + l.l2_tables + (l.external ? 0 : l.data);
    per_block = cluster * 8 >> l.refcount_order;
    do {
        l.clusters = content + l.reft_clusters + l.blocks;
        l.blocks = div_up(l.clusters, per_block);
        l.reft_clusters = div_up(l.blocks * 8, cluster);
    } while (l.clusters != content + l.reft_clusters + l.blocks);
    if (l.reft_clusters << l.cluster_bits > QCOW2_MAX_REFT_BYTES ||
        l.clusters > QCOW2_MAX_HOST_OFFSET >> l.cluster_bits) {
        return too_large(cluster, errp);
    }
    *ret = l;
    return true;
}

/* Where the parts begin, in clusters. */
static uint64_t block_cluster(const Layout *l)
{
    return 1 + l->reft_clusters;
}
static uint64_t l1_cluster(const Layout *l)
{
    return block_cluster(l) + l->blocks;
}
static uint64_t l2_cluster(const Layout *l)
{
    return l1_cluster(l) + l->l1_clusters;
}
static uint64_t data_cluster(const Layout *l)
{
    return l->external ? 0 : l2_cluster(l) + l->l2_tables;
}

static bool build_header(const CreateSpec *spec, uint64_t size, const Layout *l, uint8_t **ret,
                         size_t *ret_len, Error **errp)
{
    uint64_t cluster = UINT64_C(1) << l->cluster_bits,
             name_len = spec->backing_file ? strlen(spec->backing_file) : 0;
    Qcow2Header h;
    uint64_t used;
    guint required;
    bool ok;

    header_init(&h);
    h.version = l->version;
    h.cluster_bits = l->cluster_bits;
    h.refcount_order = l->refcount_order;
    h.size = size;
    h.header_length = l->version < 3 ? QCOW2_V2_HEADER : QCOW2_OUR_HEADER;
    h.compatible = spec->lazy_refcounts ? COMPAT_LAZY : 0;
    if (spec->extended_l2) {
        h.incompatible |= INCOMPAT_EXTENDED_L2;
    }
    if (spec->zstd) {
        h.incompatible |= INCOMPAT_COMPRESSION;
        h.compression = QCOW2_ZSTD;
    }
    h.reft_offset = host(cluster);
    h.reft_clusters = l->reft_clusters;
    h.l1_offset = host(l->l1_entries ? l1_cluster(l) << l->cluster_bits : 0);
    h.l1_size = l->l1_entries;
    h.backing_file = g_strdup(spec->backing_file);
    h.backing_format = spec->backing_file ? g_strdup(spec->backing_format) : NULL;
    if (spec->group_uuid) {
        uint8_t uuid[16];

        /* early: it is in the first sector, then, which is written whole or not at all */
        uuid_from_text(spec->group_uuid, uuid);
        header_add_group(&h, uuid);
    }
    if (spec->data_file) {
        h.incompatible |= INCOMPAT_DATA_FILE;
        h.autoclear = spec->data_file_raw ? AUTOCLEAR_RAW_DATA : 0;
        header_add_data_file(&h, spec->data_file_name);
    }
    required = h.extensions->len;
    if (l->version >= 3) {
        header_add_feature_names(&h);
    }
    if (header_length_with_extensions(&h) + name_len > cluster) {
        /* The table of names is a courtesy; tiny clusters have no room for it. */
        for (guint i = required; i < h.extensions->len; i++) {
            g_free(g_array_index(h.extensions, HeaderExtension, i).data);
        }
        g_array_set_size(h.extensions, required);
    }
    used = header_length_with_extensions(&h);
    ok = name_len <= QCOW2_MAX_BACKING_NAME && used + name_len <= cluster &&
         (!h.backing_format || strlen(h.backing_format) <= QCOW2_MAX_FORMAT_NAME);
    if (ok) {
        h.backing_offset = name_len ? used : 0;
        *ret_len = (used + name_len + SECTOR - 1) & ~(size_t)(SECTOR - 1);
        *ret = g_malloc0(*ret_len);
        header_build(&h, *ret);
    } else if (!spec->backing_file) {
        error_set(errp, ERROR_LIMIT, "qcow2", "create",
                  "The name of the data file is too long: '%s'", spec->data_file_name);
    } else {
        error_set(errp, ERROR_LIMIT, "qcow2", "create",
                  "Could not assign backing file '%s' with format '%s'", spec->backing_file,
                  spec->backing_format ? spec->backing_format : "");
    }
    header_clear(&h);
    return ok;
}

/* ---- writing: -ECANCELED: the user does not want it any more ---- */

/* Between two pieces.  It may take long; meanwhile no request is open. */
static int coroutine_fn go_on(const CreateSpec *spec, Request *r)
{
    bool wanted;

    if (!spec->go_on) {
        return 0;
    }
    request_end(r);
    wanted = spec->go_on(spec->go_on_opaque);
    request_begin(r, REQUEST_WRITE);
    return wanted ? 0 : -ECANCELED;
}

/* Bytes of the counts of n clusters, in whole sectors. */
static size_t count_bytes(uint64_t n, const Layout *l)
{
    return (((n << l->refcount_order) + 7) / 8 + SECTOR - 1) & ~(size_t)(SECTOR - 1);
}

/* n entries that point to clusters, one after the other. */
static void fill_table(uint8_t *piece, uint64_t n, const Layout *l, unsigned words, uint64_t first,
                       uint64_t flags)
{
    for (uint64_t i = 0; i < n; i++) {
        uint8_t *entry = piece + 8 * words * i;

        put_be64(entry, ((first + i) << l->cluster_bits) | flags);
        if (words > 1) {
            put_be64(entry + 8, l->states);
        }
    }
}

/* The counts of n clusters, each used once.  The bytes they take, in whole sectors. */
static size_t fill_counts(uint8_t *piece, uint64_t n, const Layout *l)
{
    for (uint64_t k = 0; k < n; k++) {
        refcount_put(piece, l->refcount_order, k, 1);
    }
    return count_bytes(n, l);
}

/* A table from cluster `at` on, whose entries point to the clusters from `first` on, one after the other. */
static int coroutine_fn write_table(Edge *file, Request *r, const CreateSpec *spec, const Layout *l,
                                    uint64_t at, uint64_t entries, unsigned words, uint64_t first,
                                    uint64_t flags)
{
    uint64_t offset = at << l->cluster_bits, entry = 8 * words;
    size_t len = (MIN(entries * entry, PIECE) + SECTOR - 1) & ~(size_t)(SECTOR - 1);
    g_autofree uint8_t *piece = g_malloc(len);

    for (uint64_t i = 0; i < entries;) {
        uint64_t n = MIN(entries - i, len / entry);
        int ret;

        memset(piece, 0, len);
        fill_table(piece, n, l, words, first + i, flags);
        i += n;
        n = (n * entry + SECTOR - 1) & ~(uint64_t)(SECTOR - 1);
        ret = edge_pwrite(file, r, guest(offset), piece, n, 0);
        offset += n;
        if (ret == 0 && i < entries) {
            ret = go_on(spec, r);
        }
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* Every cluster is used once.  The blocks are neighbours, and so are their counts. */
static int coroutine_fn write_counts(Edge *file, Request *r, const CreateSpec *spec,
                                     const Layout *l)
{
    uint64_t offset = block_cluster(l) << l->cluster_bits;
    uint64_t per_piece = PIECE * 8 >> l->refcount_order;
    size_t len = count_bytes(MIN(l->clusters, per_piece), l);
    g_autofree uint8_t *piece = g_malloc(len);

    for (uint64_t c = 0; c < l->clusters;) {
        uint64_t n = MIN(l->clusters - c, per_piece), bytes;
        int ret;

        memset(piece, 0, len);
        bytes = fill_counts(piece, n, l);
        ret = edge_pwrite(file, r, guest(offset), piece, bytes, 0);
        offset += bytes;
        c += n;
        if (ret == 0 && c < l->clusters) {
            ret = go_on(spec, r);
        }
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* The space of the data in [at, end), which reads as zeroes already. */
static int coroutine_fn take_space(Edge *file, Request *r, const CreateSpec *spec, uint64_t at,
                                   uint64_t end)
{
    bool full = spec->space == CREATE_SPACE_FULL;
    g_autofree uint8_t *zeroes = full ? g_malloc0(PIECE) : NULL;

    while (at < end) {
        uint64_t n = MIN(end - at, full ? PIECE : RESERVE_PIECE);
        int ret = go_on(spec, r);

        if (ret == 0) {
            ret = full ? edge_pwrite(file, r, guest(at), zeroes, n, 0)
                       : edge_pwrite_zeroes(file, r, guest(at), n, 0);
        }
        if (ret < 0) {
            return ret;
        }
        at += n;
    }
    return 0;
}

static int coroutine_fn write_parts(Edge *file, Request *r, const CreateSpec *spec, const Layout *l,
                                    uint64_t size, const uint64_t *data_from)
{
    int ret = write_table(file, r, spec, l, 1, l->blocks, 1, block_cluster(l), 0);

    if (ret == 0) {
        ret = write_counts(file, r, spec, l);
    }
    if (ret == 0) {
        ret = write_table(file, r, spec, l, l1_cluster(l), l->l2_tables, 1, l2_cluster(l),
                          ENTRY_COPIED);
    }
    if (ret == 0) {
        ret = write_table(file, r, spec, l, l2_cluster(l), l->data, l->entry_words, data_cluster(l),
                          ENTRY_COPIED);
    }
    if (ret == 0 && (spec->space == CREATE_SPACE_RESERVED || spec->space == CREATE_SPACE_FULL)) {
        ret = l->external ? take_space(spec->data_file, r, spec, *data_from, size)
                          : take_space(file, r, spec, data_cluster(l) << l->cluster_bits,
                                       l->clusters << l->cluster_bits);
    }
    return ret;
}

/* The data file gets the disk's size.  *ret_from: what is behind it is new.  What a raw one has stays; another one has nothing that counts. */
static int coroutine_fn prepare_data_file(Request *r, const CreateSpec *spec, uint64_t size,
                                          uint64_t *ret_from)
{
    int ret = 0;

    if (!spec->data_file) {
        return 0;
    }
    if (!spec->data_file_raw && spec->space != CREATE_SPACE_NONE) {
        ret = edge_truncate(spec->data_file, r, 0, true);
    }
    if (ret == -ENOTSUP) {
        ret = 0; /* a device: what it has stays, and nothing refers to it */
    }
    *ret_from = MIN(edge_size(spec->data_file, r), size);
    if (ret == 0 && edge_size(spec->data_file, r) < size) {
        ret = edge_truncate(spec->data_file, r, size, false);
    }
    return ret;
}

static uint64_t whole_sectors(uint64_t size)
{
    return size > BLOCK_MAX_SIZE ? size : (size + SECTOR - 1) & ~(uint64_t)(SECTOR - 1);
}

void qcow2_new_image_opened(Qcow2 *q)
{
    const Qcow2Header *h = &q->header;

    if (h->l1_size == 0) {
        return;
    }
    /* The L1 table is the last thing in it; nobody has written to what is behind. */
    q->tail = div_up(h->l1_offset.v + (uint64_t)h->l1_size * 8, q->cluster_size);
    q->tail_fresh = true;
    q->grown = true;
    q->grown_from = q->tail << q->cluster_bits;
}

bool qcow2_lay_out(const CreateSpec *spec, NewImage *ret, Error **errp)
{
    uint64_t size = whole_sectors(spec->size);
    size_t header_len, len;
    uint8_t *header, *piece;
    Layout l;

    g_assert(spec->space == CREATE_SPACE_NONE && !spec->data_file);
    if (!plan_layout(spec, size, &l, errp) ||
        !build_header(spec, size, &l, &header, &header_len, errp)) {
        return false;
    }
    new_image_init(ret);
    ret->size = l.clusters << l.cluster_bits;
    if (spec->written_at_once && l.l1_entries > 0) {
        ret->size += MAX(QCOW2_RUN_BYTES, UINT64_C(1) << l.cluster_bits);
    }
    len = (l.blocks * 8 + SECTOR - 1) & ~(size_t)(SECTOR - 1);
    piece = g_malloc0(len);
    fill_table(piece, l.blocks, &l, 1, block_cluster(&l), 0);
    new_image_add(ret, UINT64_C(1) << l.cluster_bits, piece, len);
    piece = g_malloc0(count_bytes(l.clusters, &l));
    len = fill_counts(piece, l.clusters, &l);
    new_image_add(ret, block_cluster(&l) << l.cluster_bits, piece, len);
    new_image_add(ret, 0, header, header_len);
    return true;
}

bool coroutine_fn qcow2_create(Edge *file, const CreateSpec *spec, Error **errp)
{
    uint64_t size = whole_sectors(spec->size);
    g_autofree uint8_t *header = NULL;
    uint64_t data_from = 0;
    size_t header_len;
    Layout l;
    Request r;
    int ret;

    if (!plan_layout(spec, size, &l, errp) ||
        !build_header(spec, size, &l, &header, &header_len, errp)) {
        return false;
    }
    request_begin(&r, REQUEST_WRITE);
    ret = edge_truncate(file, &r, l.clusters << l.cluster_bits, false);
    if (ret == -ENOTSUP) {
        ret = -ENOSPC;
    }
    if (ret == 0 && !edge_grows_zero(file, &r)) {
        ret = edge_pwrite_zeroes(file, &r, guest(0), l.clusters << l.cluster_bits, REQ_MAY_UNMAP);
    }
    if (ret == 0) {
        ret = prepare_data_file(&r, spec, size, &data_from);
    }
    if (ret == 0) {
        ret = write_parts(file, &r, spec, &l, size, &data_from);
    }
    if (ret == 0 && spec->data_file) {
        ret = edge_flush(spec->data_file, &r);
    }
    if (ret == 0) {
        ret = edge_pwrite(file, &r, guest(0), header, header_len, 0);
    }
    if (ret == 0) {
        ret = edge_flush(file, &r);
    }
    request_end(&r);
    if (ret < 0) {
        error_set_errno(errp, -ret, "qcow2", "create", "Could not write the new image");
    }
    return ret == 0;
}

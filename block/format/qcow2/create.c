/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Making an image.
 *
 * Layout: header | refcount table | refcount blocks | L1 table.  The file is empty and sparse: what reads as zeroes is not written, so it
 * takes a resize, three small writes and one flush.  Until that flush is done nobody uses the image, so order does not matter.
 */
#include "qcow2.h"
#include <stdlib.h>

typedef struct Layout {
    uint64_t cluster, reft_clusters, blocks, l1_clusters, total; /* in clusters, but the first */
} Layout;

static void plan(const Qcow2Header *h, Layout *ret)
{
    Layout l = {.cluster = UINT64_C(1) << h->cluster_bits, .reft_clusters = 1, .blocks = 1};
    uint64_t per_block = l.cluster * 8 >> h->refcount_order, per_table = l.cluster / 8;

    l.l1_clusters = div_up((uint64_t)h->l1_size * 8, l.cluster);
    for (;;) {
        l.total = 1 + l.reft_clusters + l.blocks + l.l1_clusters;
        if (div_up(l.total, per_block) > l.blocks) {
            l.blocks = div_up(l.total, per_block);
        } else if (div_up(l.blocks, per_table) > l.reft_clusters) {
            l.reft_clusters = div_up(l.blocks, per_table);
        } else {
            break;
        }
    }
    *ret = l;
}

static int coroutine_fn write_piece(Edge *file, Request *r, uint64_t at, const uint8_t *buf,
                                    uint64_t used, uint64_t align, uint64_t cluster)
{
    return edge_pwrite(file, r, guest(at), buf, MIN((used + align - 1) & ~(align - 1), cluster), 0);
}

static int coroutine_fn write_image(Edge *file, Request *r, const Qcow2Header *h, const Layout *l,
                                    uint64_t used)
{
    uint64_t align = MAX(file->target->limits.request_alignment, 512),
             per_block = l->cluster * 8 >> h->refcount_order;
    uint64_t size = MAX(l->cluster, 4096);
    uint8_t *buf = block_try_alloc(size);
    int ret = buf ? edge_truncate(file, r, l->total << h->cluster_bits, false) : -ENOMEM;

    if (ret == 0) {
        memset(buf, 0, size);
        header_build(h, buf);
        ret = write_piece(file, r, 0, buf, used, align, l->cluster);
    }
    for (uint64_t t = 0; t < l->reft_clusters && ret == 0; t++) {
        uint64_t from = t * l->cluster / 8, n = MIN(l->blocks - from, l->cluster / 8);

        memset(buf, 0, size);
        for (uint64_t i = 0; i < n; i++) {
            put_be64(buf + i * 8, (1 + l->reft_clusters + from + i) << h->cluster_bits);
        }
        ret = write_piece(file, r, (1 + t) << h->cluster_bits, buf, n * 8, align, l->cluster);
    }
    for (uint64_t b = 0; b < l->blocks && ret == 0; b++) {
        uint64_t from = b * per_block, n = from < l->total ? MIN(l->total - from, per_block) : 0;

        memset(buf, 0, size);
        for (uint64_t i = 0; i < n; i++) {
            refcount_put(buf, h->refcount_order, i, 1);
        }
        if (n > 0) {
            ret = write_piece(file, r, (1 + l->reft_clusters + b) << h->cluster_bits, buf,
                              ((n << h->refcount_order) + 7) / 8, align, l->cluster);
        }
    }
    free(buf);
    return ret == 0 ? edge_flush(file, r) : ret;
}

static bool check_spec(const CreateSpec *spec, Error **errp)
{
    uint64_t cluster = spec->cluster_size ? spec->cluster_size : QCOW2_DEFAULT_CLUSTER;

    if ((cluster & (cluster - 1)) || cluster < UINT64_C(1) << QCOW2_MIN_CLUSTER_BITS ||
        cluster > UINT64_C(1) << QCOW2_MAX_CLUSTER_BITS) {
        error_set(errp, ERROR_INVALID, NULL, "create",
                  "Cluster size must be a power of two between %d and %dk",
                  1 << QCOW2_MIN_CLUSTER_BITS, 1 << (QCOW2_MAX_CLUSTER_BITS - 10));
        return false;
    }
    if (spec->backing_file && strlen(spec->backing_file) > QCOW2_MAX_BACKING_NAME) {
        error_set(errp, ERROR_LIMIT, spec->backing_file, "create", "Backing file name too long");
        return false;
    }
    return true;
}

static bool coroutine_fn create(Edge *file, const CreateSpec *spec, Qcow2Header *h, Error **errp)
{
    uint64_t cluster = spec->cluster_size ? spec->cluster_size : QCOW2_DEFAULT_CLUSTER, l1, used;
    Layout l;
    Request r;
    int ret;

    h->version = 3;
    h->cluster_bits = __builtin_ctzll(cluster);
    h->refcount_order = 4;
    h->size = (spec->size + 511) & ~UINT64_C(511);
    h->header_length = QCOW2_OUR_HEADER;
    h->backing_file = g_strdup(spec->backing_file);
    h->backing_format = spec->backing_file ? g_strdup(spec->backing_format) : NULL;
    header_add_feature_names(h);
    used = header_length_with_extensions(h);
    if (used > cluster) {
        /* Tiny clusters: the names are a comfort, not a need. */
        for (guint i = 0; i < h->extensions->len; i++) {
            g_free(g_array_index(h->extensions, HeaderExtension, i).data);
        }
        g_array_set_size(h->extensions, 0);
        used = header_length_with_extensions(h);
    }
    if (h->backing_file) {
        h->backing_offset = used;
        used += strlen(h->backing_file);
    }
    if (used > cluster) {
        error_set(errp, ERROR_LIMIT, spec->backing_file, "create", "Backing file name too long");
        return false;
    }
    l1 = div_up(h->size, cluster * (cluster / 8));
    if (l1 * 8 > QCOW2_MAX_L1_BYTES) {
        error_set(errp, ERROR_LIMIT, NULL, "create",
                  "The image size is too large for file format 'qcow2' (try using a larger cluster "
                  "size)");
        return false;
    }
    h->l1_size = l1;
    plan(h, &l);
    h->reft_offset = host(cluster);
    h->reft_clusters = l.reft_clusters;
    h->l1_offset = host((1 + l.reft_clusters + l.blocks) * cluster);
    request_begin(&r, REQUEST_WRITE);
    ret = write_image(file, &r, h, &l, used);
    request_end(&r);
    if (ret < 0) {
        error_set_errno(errp, -ret, file->target->filename, "create",
                        "Could not write qcow2 header");
        return false;
    }
    return true;
}

bool coroutine_fn qcow2_create(Edge *file, const CreateSpec *spec, Error **errp)
{
    Qcow2Header h;
    bool ok;

    if (!check_spec(spec, errp)) {
        return false;
    }
    header_init(&h);
    ok = create(file, spec, &h, errp);
    header_clear(&h);
    return ok;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Options of a qcow2 node.
 *
 *  lazy-refcounts          accepted and reported; refcounts are always kept: they cost no flush of their own here, and so no
 *                          image is ever left dirty.
 *  pass-discard-*          which freed space storage is told about: request (default: if discard=unmap), snapshot and other (the rest:
 *                          clusters replaced by copies, moved tables).
 *  discard-no-unref        discards keep the host cluster, so that the file does not fragment.
 *  overlap-check           accepted; the check of overlap.c is cheap and always made.
 *  l2-cache-size           memory for L2 tables, whole tables; default 32 MiB or what covers the disk, if less.
 *  refcount-cache-size     memory for refcount blocks.
 *  cache-size              both together.
 *  l2-cache-entry-size     accepted and checked; tables are cached whole.
 *  cache-clean-interval    seconds after which unused tables are given up; default 600, 0: never.
 */
#include "qapi-types.h"
#include "qcow2.h"

#define DEFAULT_L2_CACHE  (UINT64_C(32) << 20)
#define MIN_L2_TABLES     4u
#define MIN_L2_CACHE      (UINT64_C(16) << 10)
#define MIN_REFBLOCKS     4u
#define DEFAULT_REFBLOCKS (UINT64_C(4) << 20)
#define DEFAULT_CLEAN     600u

static bool invalid(Node *n, Error **errp, const char *text)
{
    error_set(errp, ERROR_INVALID, n->name, "open", "%s", text);
    return false;
}

static bool check_sizes(Node *n, const BlockdevOptionsQcow2 *o, Error **errp)
{
    if ((o->has_cache_size && o->cache_size < 0) ||
        (o->has_l2_cache_size && o->l2_cache_size < 0) ||
        (o->has_refcount_cache_size && o->refcount_cache_size < 0)) {
        return invalid(n, errp, "Cache sizes must not be negative");
    }
    if (o->has_cache_size && o->has_l2_cache_size && o->has_refcount_cache_size) {
        return invalid(
            n, errp,
            "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
    }
    if (o->has_cache_size && o->has_l2_cache_size && o->l2_cache_size > o->cache_size) {
        return invalid(n, errp, "l2-cache-size may not exceed cache-size");
    }
    if (o->has_cache_size && o->has_refcount_cache_size && o->refcount_cache_size > o->cache_size) {
        return invalid(n, errp, "refcount-cache-size may not exceed cache-size");
    }
    if (o->has_cache_clean_interval &&
        (o->cache_clean_interval < 0 || o->cache_clean_interval > UINT32_MAX)) {
        return invalid(n, errp, "Cache clean interval too big");
    }
    return true;
}

bool qcow2_check_entry_size(const Qcow2 *q, const BlockdevOptions *options, Error **errp)
{
    const BlockdevOptionsQcow2 *o = &options->u.qcow2;
    uint64_t v = o->l2_cache_entry_size;

    if (o->has_l2_cache_entry_size &&
        (o->l2_cache_entry_size < 512 || v & (v - 1) || v > q->cluster_size)) {
        error_set(errp, ERROR_INVALID, q->node->name, "open",
                  "L2 cache entry size must be a power of two between 512 and the cluster size "
                  "(%" G_GUINT64_FORMAT ")",
                  q->cluster_size);
        return false;
    }
    return true;
}

bool qcow2_options(Node *n, const BlockdevOptions *options, bool discard_unmap, Qcow2Options *ret,
                   Error **errp)
{
    const BlockdevOptionsQcow2 *o = &options->u.qcow2;
    Qcow2Options v = {
        .lazy_refcounts = o->has_lazy_refcounts && o->lazy_refcounts,
        .discard_request = o->has_pass_discard_request ? o->pass_discard_request : discard_unmap,
        .discard_snapshot = !o->has_pass_discard_snapshot || o->pass_discard_snapshot,
        .discard_other = o->has_pass_discard_other && o->pass_discard_other,
        .discard_no_unref = o->has_discard_no_unref && o->discard_no_unref,
        .l2_cache_size = DEFAULT_L2_CACHE,
        .refcount_cache_size = DEFAULT_REFBLOCKS,
        .clean_interval = o->has_cache_clean_interval ? o->cache_clean_interval : DEFAULT_CLEAN,
    };

    if (!check_sizes(n, o, errp)) {
        return false;
    }
    if (o->has_refcount_cache_size) {
        v.refcount_cache_size = o->refcount_cache_size;
    }
    if (o->has_l2_cache_size) {
        v.l2_cache_size = o->l2_cache_size;
    } else if (o->has_cache_size) {
        v.l2_cache_size =
            o->cache_size - (o->has_refcount_cache_size ? (uint64_t)o->refcount_cache_size : 0);
    }
    *ret = v;
    return true;
}

void qcow2_set_cache_limits(Qcow2 *q)
{
    uint64_t l2 = MAX(q->opt.l2_cache_size, MIN_L2_CACHE) >> q->cluster_bits;

    q->l2_limit = MIN(MAX(l2, MIN_L2_TABLES), UINT32_MAX / 4);
    q->refblock_limit =
        MIN(MAX(q->opt.refcount_cache_size >> q->cluster_bits, MIN_REFBLOCKS), UINT32_MAX / 4);
}

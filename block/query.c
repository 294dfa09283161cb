/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What queries say about nodes: BlockDeviceInfo and ImageInfo.
 *
 * Runs in the control thread, which alone changes the graph: a reply shows one state of it, never part of a group (T1).
 * Nothing here suspends.
 */
#include "block/bitmaps.h"
#include "block/graph.h"
#include "node-internal.h"
#include "qapi-types.h"

static Node *backing_of(const Node *n)
{
    Edge *e = atomic_load_explicit(&((Node *)n)->backing, memory_order_acquire);

    return e ? e->target : NULL;
}

/* What queries show as the image below: the backing, or the child of a filter that a user has made. */
static Node *image_below(const Node *n)
{
    return n->driver->is_filter && n->options && n->file ? n->file->target : backing_of(n);
}

/* What the children of a quorum take together; -1: unknown. */
static int64_t size_of_children(const Node *n);

/* Of a driver that has nothing to tell itself, what the child tells that holds for n too. */
static bool facts_of(Node *n, ImageFacts *f, Error **errp)
{
    g_auto(ImageFacts) below = {.actual_size = -1};
    g_autoptr(Error) ignored = NULL;

    f->actual_size = -1;
    if (n->driver->facts && !n->driver->facts(n, f, errp)) {
        return false;
    }
    if (n->driver->replicates) {
        f->actual_size = size_of_children(n);
    }
    if ((!n->driver->facts || f->actual_size < 0) && n->file &&
        facts_of(n->file->target, &below, &ignored)) {
        f->actual_size = below.actual_size;
        if (!n->driver->facts) {
            f->has_dirty = below.has_dirty;
            f->dirty = below.dirty;
            f->cluster_size = below.cluster_size;
        }
    }
    return true;
}

static int64_t size_of_children(const Node *n)
{
    int64_t sum = 0;

    for (guint i = 0; i < n->children->len; i++) {
        g_auto(ImageFacts) f = {.actual_size = -1};
        g_autoptr(Error) ignored = NULL;

        if (!facts_of(((Edge *)g_ptr_array_index(n->children, i))->target, &f, &ignored) ||
            f.actual_size < 0) {
            return -1;
        }
        sum += f.actual_size;
    }
    return sum;
}

static BlockLimitsInfo *limits_info(const Node *n)
{
    const NodeLimits *l = &n->limits;
    BlockLimitsInfo *i = g_new0(BlockLimitsInfo, 1);

    i->request_alignment = l->request_alignment;
    i->has_max_discard = l->max_discard != 0;
    i->max_discard = l->max_discard;
    i->has_discard_alignment = l->discard_alignment != 0;
    i->discard_alignment = l->discard_alignment;
    i->has_max_write_zeroes = l->max_write_zeroes != 0;
    i->max_write_zeroes = l->max_write_zeroes;
    i->has_write_zeroes_alignment = l->write_zeroes_alignment != 0;
    i->write_zeroes_alignment = l->write_zeroes_alignment;
    i->has_opt_transfer = l->opt_transfer != 0;
    i->opt_transfer = l->opt_transfer;
    i->has_max_transfer = l->max_transfer != 0;
    i->max_transfer = l->max_transfer;
    i->max_iov = l->max_iov;
    i->min_mem_alignment = l->memory_alignment;
    i->opt_mem_alignment = MAX(l->memory_alignment, 4096);
    return i;
}

static ImageInfo *image_info(Node *n, bool flat, Error **errp)
{
    g_auto(ImageFacts) f = {.actual_size = -1};
    g_autoptr(ImageInfo) i = g_new0(ImageInfo, 1);

    if (!facts_of(n, &f, errp)) {
        return NULL;
    }
    i->format = g_strdup(n->driver->name);
    i->virtual_size = atomic_load(&n->size);
    i->has_dirty_flag = f.has_dirty;
    i->dirty_flag = f.dirty;
    i->has_actual_size = f.actual_size >= 0;
    i->actual_size = f.actual_size;
    i->has_cluster_size = f.cluster_size != 0;
    i->cluster_size = f.cluster_size;
    i->has_compressed = f.compressed;
    i->compressed = f.compressed;
    if (f.backing_file) {
        i->backing_filename = g_strdup(f.backing_file);
        i->full_backing_filename = filename_full(n, f.backing_file);
        i->backing_filename_format = g_strdup(f.backing_format);
    }
    i->snapshots = g_steal_pointer(&f.snapshots);
    i->format_specific = g_steal_pointer(&f.specific);
    i->limits = limits_info(n);
    if (!flat && image_below(n)) {
        i->backing_image = image_info(image_below(n), false, errp);
        if (!i->backing_image) {
            return NULL;
        }
    }
    i->filename =
        flat ? node_shown_filename(n)
             : node_shown_filename_over(n, i->backing_image ? i->backing_image->filename : NULL);
    return g_steal_pointer(&i);
}

static BlockdevChildList *children_info(const Node *n)
{
    BlockdevChildList *list = NULL;

    for (guint i = n->children->len; i-- > 0;) {
        Edge *e = g_ptr_array_index(n->children, i);
        BlockdevChildList *item;

        if (e->joining) {
            continue;
        }
        item = g_new0(BlockdevChildList, 1);

        item->value = g_new0(BlockdevChild, 1);
        item->value->child = g_strdup(e->name);
        item->value->node_name = g_strdup(e->target->name);
        item->next = list;
        list = item;
    }
    return list;
}

BlockDeviceInfo *node_query_info(Node *n, bool flat, Error **errp)
{
    g_autoptr(BlockDeviceInfo) i = g_new0(BlockDeviceInfo, 1);
    Node *backing = backing_of(n);

    i->image = image_info(n, flat, errp);
    if (!i->image) {
        return NULL;
    }
    i->file = g_strdup(i->image->filename);
    i->node_name = g_strdup(n->name);
    i->ro = node_is_read_only(n);
    i->drv = g_strdup(n->driver->name);
    i->active = !atomic_load(&n->inactive);
    if (backing) {
        i->backing_file = i->image->backing_image ? g_strdup(i->image->backing_image->filename)
                                                  : node_shown_filename(backing);
    }
    for (Node *b = image_below(n); b && !flat; b = image_below(b)) {
        i->backing_file_depth++;
    }
    i->children = children_info(n);
    i->write_threshold = atomic_load(&n->write_threshold);
    i->detect_zeroes = n->detect_zeroes == DETECT_ZEROES_UNMAP
                           ? BLOCKDEV_DETECT_ZEROES_OPTIONS_UNMAP
                       : n->detect_zeroes == DETECT_ZEROES_ON ? BLOCKDEV_DETECT_ZEROES_OPTIONS_ON
                                                              : BLOCKDEV_DETECT_ZEROES_OPTIONS_OFF;
    i->dirty_bitmaps = node_bitmaps_query(n);
    i->cache = g_new0(BlockdevCacheInfo, 1);
    i->cache->writeback = true;
    i->cache->direct = n->cache_direct;
    i->cache->no_flush = n->cache_no_flush;
    return g_steal_pointer(&i);
}

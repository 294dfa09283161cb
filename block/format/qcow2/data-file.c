/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * External data files: the image has metadata only, guest clusters are in another file.
 *
 * A guest cluster is at its own offset there, always.  So there is nothing to allocate, count or move: only the mapping says what of the file counts.
 * A *raw* data file is, besides, the disk as it is: what reads as zeroes in the disk does so in the file, which takes writing to it where
 * a mapping alone would do.
 *
 * What lies behind the end of the file reads as zeroes; it gets longer when somebody writes there.
 */
#include "block/graph.h"
#include "qapi-types.h"
#include "qcow2.h"
#include <errno.h>
#include <string.h>

char *data_file_name(const Qcow2Header *h)
{
    const HeaderExtension *e = header_find_extension(h, EXT_DATA_FILE);

    return e && e->len > 0 ? g_strndup((const char *)e->data, e->len) : NULL;
}

/* What the name in the header stands for: a file that is written to when somebody writes to the image.  A relative one is relative to where
 * the process runs, as for everybody else who reads such images. */
static BlockdevRef *named(const char *name)
{
    BlockdevRef *ref = g_new0(BlockdevRef, 1);
    BlockdevOptions *o = g_new0(BlockdevOptions, 1);

    o->driver = BLOCKDEV_DRIVER_FILE;
    o->u.file.filename = g_strdup(name);
    o->has_read_only = o->has_auto_read_only = o->auto_read_only = true;
    ref->type = QAPI_KIND_OBJECT;
    ref->u.definition = o;
    return ref;
}

static bool coroutine_fn open_named(Qcow2 *q, Error **errp)
{
    g_autofree char *name = data_file_name(&q->header);
    BlockdevRef *ref;
    bool ok;

    if (!name) {
        error_set(errp, ERROR_INVALID, q->node->name, "open",
                  "'data-file' is required for this image");
        return false;
    }
    ref = named(name);
    ok = node_open_child(q->node, ref, "data-file", EDGE_STORAGE, errp);
    qapi_free_BlockdevRef(ref);
    return ok;
}

static Edge *child(const Node *n)
{
    for (guint i = 0; i < n->children->len; i++) {
        Edge *e = g_ptr_array_index(n->children, i);

        if (strcmp(e->name, "data-file") == 0) {
            return e;
        }
    }
    return NULL;
}

static void set_kind(Qcow2 *q)
{
    q->external = q->header.incompatible & INCOMPAT_DATA_FILE;
    q->raw_data = q->external && q->header.autoclear & AUTOCLEAR_RAW_DATA;
}

bool coroutine_fn data_file_open(Qcow2 *q, const BlockdevOptions *options, Error **errp)
{
    const BlockdevRef *ref = options->u.qcow2.data_file;

    set_kind(q);
    q->data = q->file;
    if (!q->external) {
        if (ref) {
            error_set(errp, ERROR_INVALID, q->node->name, "open",
                      "'data-file' can only be set for images with an external data file");
        }
        return !ref;
    }
    if (ref ? !node_open_child(q->node, ref, "data-file", EDGE_STORAGE, errp)
            : !open_named(q, errp)) {
        return false;
    }
    q->data = child(q->node);
    return true;
}

bool data_file_take(Qcow2 *q, const Qcow2 *from, Error **errp)
{
    set_kind(q);
    q->data = q->external ? from->data : q->file;
    if (q->external != from->external) {
        error_set(errp, ERROR_INVALID, q->node->name, "reopen",
                  "Node '%s' %s an external data file", q->node->name,
                  from->external ? "has" : "does not have");
        return false;
    }
    return true;
}

int coroutine_fn data_preadv(Qcow2 *q, Request *r, HostOffset at, const IoVector *iov,
                             unsigned flags)
{
    g_auto(IoVector) part = {0};
    uint64_t size;
    int ret;

    if (G_LIKELY(!q->external)) {
        return host_preadv(q, r, at, iov, flags);
    }
    size = edge_size(q->data, r);
    if (G_LIKELY(at.v + iov->size <= size)) {
        return edge_preadv(q->data, r, host_to_child(at), iov, flags);
    }
    if (at.v >= size) {
        iov_memset(iov, 0, 0, iov->size);
        return 0;
    }
    iov_init_slice(&part, iov, 0, size - at.v);
    ret = edge_preadv(q->data, r, host_to_child(at), &part, flags);
    iov_memset(iov, part.size, 0, iov->size - part.size);
    return ret;
}

bool coroutine_fn data_file_is_contended(Node *n, Request *r)
{
    return edge_is_contended(qcow2_of(n)->data, r);
}

int coroutine_fn data_file_grow(Qcow2 *q, Request *r, uint64_t end)
{
    int ret = 0;

    if (G_LIKELY(end <= edge_size(q->data, r))) {
        return 0;
    }
    co_mutex_lock(&q->alloc_lock);
    if (end > edge_size(q->data, r)) {
        ret = edge_truncate(q->data, r, end, false);
    }
    co_mutex_unlock(&q->alloc_lock);
    return ret == -ENOTSUP ? -ENOSPC : ret;
}

int coroutine_fn data_file_wipe(Qcow2 *q, Request *r, uint64_t start, uint64_t end, bool zeroes,
                                bool unmap)
{
    uint64_t size = MIN(edge_size(q->data, r), atomic_load(&q->node->size));

    end = MIN(end, size);
    if (start >= end) {
        return 0;
    }
    if (q->raw_data) {
        return edge_pwrite_zeroes(q->data, r, guest(start), end - start, unmap ? REQ_MAY_UNMAP : 0);
    }
    if (!zeroes && unmap && q->opt.discard_request) {
        (void)edge_pdiscard(q->data, r, guest(start), end - start); /* a hint */
    }
    return 0;
}

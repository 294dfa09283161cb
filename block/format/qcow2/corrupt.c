/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What happens when an image turns out to be wrong.
 *
 * In a writable image that is fatal: it takes no more writes, and its header says that it is corrupt.  In a read-only one it is not.  The log and the event
 * BLOCK_IMAGE_CORRUPTED tell the first of each kind; what follows from the same damage is not told again.
 *
 * Texts are those of the field, which tests and people look for.
 */
#include "block/backend.h"
#include "block/graph.h"
#include "qapi-events.h"
#include "qcow2.h"
#include "util/log.h"
#include <errno.h>
#include <stdarg.h>

typedef struct Report {
    char *node, *what;
    bool fatal, has_place;
    int64_t offset, size;
} Report;

/* Control thread: the device's name is known there. */
static void coroutine_fn tell(void *opaque)
{
    Report *p = opaque;
    const Node *n = node_find(p->node);

    qapi_event_send_block_image_corrupted(n ? node_backend_name(n) : "", p->node, p->what,
                                          p->has_place, p->offset, p->has_place, p->size, p->fatal);
    g_free(p->node);
    g_free(p->what);
    g_free(p);
}

/* Is it one that was not told yet? */
static bool is_news(Qcow2 *q, bool fatal)
{
    bool told = atomic_exchange(&q->corruption_told, true);

    return fatal ? !atomic_exchange(&q->corrupt, true) : !told;
}

static int coroutine_fn found(Qcow2 *q, Request *r, bool has_place, HostOffset at, uint64_t bytes,
                              char *what)
{
    bool fatal = !atomic_load_explicit(&q->node->read_only, memory_order_relaxed);
    Report *p;
    int ret;

    if (!is_news(q, fatal)) {
        g_free(what);
        return -EIO;
    }
    if (fatal) {
        log_error("qcow2: Marking image as corrupt: %s; further corruption events will be "
                  "suppressed",
                  what);
    } else {
        log_error("qcow2: Image is corrupt: %s; further non-fatal corruption events will be "
                  "suppressed",
                  what);
    }
    p = g_new0(Report, 1);
    *p = (Report){.node = g_strdup(q->node->name),
                  .what = what,
                  .fatal = fatal,
                  .has_place = has_place,
                  .offset = at.v,
                  .size = bytes};
    co_spawn(loop_control(), tell, p);
    if (fatal && q->version >= 3) {
        ret =
            header_write_bits(q, r, q->header.incompatible | INCOMPAT_CORRUPT, q->header.autoclear);
        if (ret < 0) {
            log_error("%s: could not mark the image as corrupt: %s", q->node->name,
                      g_strerror(-ret));
        }
    }
    return -EIO;
}

int coroutine_fn qcow2_corrupt(Qcow2 *q, Request *r, const char *fmt, ...)
{
    char *what;
    va_list ap;

    va_start(ap, fmt);
    what = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    return found(q, r, false, host(0), 0, what);
}

int coroutine_fn qcow2_overlap(Qcow2 *q, Request *r, HostOffset at, uint64_t bytes)
{
    uint64_t last = (at.v + bytes - 1) >> q->cluster_bits;
    const char *kind = NULL;

    for (uint64_t c = at.v >> q->cluster_bits; c <= last && !kind; c++) {
        kind = overlap_kind(q, (ClusterIndex){c});
    }
    return found(q, r, true, at, bytes,
                 g_strdup_printf("Preventing invalid write on metadata (overlaps with %s)",
                                 kind ? kind : "metadata"));
}

int coroutine_fn qcow2_bad_entry(Qcow2 *q, Request *r, uint64_t entry, uint64_t guest_cluster)
{
    uint64_t index = guest_cluster >> q->l2_bits,
             i = guest_cluster & ((UINT64_C(1) << q->l2_bits) - 1), table;

    pthread_mutex_lock(&q->lock);
    table = table_entry(&l1_of(q)->t, index) & ENTRY_OFFSET_MASK;
    pthread_mutex_unlock(&q->lock);
    if (!in_cluster(q, entry & ENTRY_OFFSET_MASK)) {
        return qcow2_corrupt(q, r,
                             "Invalid cluster entry found (L2 offset: %#" G_GINT64_MODIFIER
                             "x, L2 index: %#" G_GINT64_MODIFIER "x)",
                             table, i);
    }
    if (entry & ENTRY_ZERO) {
        return qcow2_corrupt(q, r,
                             "Preallocated zero cluster offset %#" G_GINT64_MODIFIER
                             "x unaligned (guest offset: %#" G_GINT64_MODIFIER "x)",
                             entry & ENTRY_OFFSET_MASK, guest_cluster << q->cluster_bits);
    }
    return qcow2_corrupt(q, r,
                         "Cluster allocation offset %#" G_GINT64_MODIFIER
                         "x unaligned (L2 offset: %#" G_GINT64_MODIFIER
                         "x, L2 index: %#" G_GINT64_MODIFIER "x)",
                         entry & ENTRY_OFFSET_MASK, table, i);
}

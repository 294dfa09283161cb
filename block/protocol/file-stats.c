/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a file counts itself: discards, which not every file system can carry out.
 */
#include "file-internal.h"
#include "qapi-types.h"

BlockStatsSpecific *file_stats(const Node *n)
{
    FileState *s = file_state(n);
    BlockStatsSpecific *i = g_new0(BlockStatsSpecific, 1);

    /* The branches of both drivers are of one type. */
    i->driver = s->device ? BLOCKDEV_DRIVER_HOST_DEVICE : BLOCKDEV_DRIVER_FILE;
    i->u.file.discard_nb_ok = atomic_load_explicit(&s->discards, memory_order_relaxed);
    i->u.file.discard_nb_failed = atomic_load_explicit(&s->discards_failed, memory_order_relaxed);
    i->u.file.discard_bytes_ok = atomic_load_explicit(&s->discarded, memory_order_relaxed);
    return i;
}

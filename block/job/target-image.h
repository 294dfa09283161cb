/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The image that a job fills, by file name: made, or found; private to block/job/.  Control thread.
 *
 * A file that is in the way of a new image is set aside and comes back if the job cannot begin (block/file.h).
 */
#ifndef BLOCK_JOB_TARGET_IMAGE_H
#define BLOCK_JOB_TARGET_IMAGE_H

#include "block/driver.h"
#include "block/file.h"
#include "block/node.h"

typedef struct TargetImageSpec {
    const char *
        filename; /* or "json:{...}", or of some protocol; a new image only with the name of a file */
    const char *format;    /* NULL: as a look into the file says; a new image has one */
    const char *node_name; /* NULL: a generated one */
    bool existing;
    const Node *like; /* cache and discard are as there */
    /* new images */
    uint64_t size;
    const char *backing_file, *backing_format; /* NULL: none */
    bool with_backing;                         /* the backing that the header names is opened too */
    bool hidden;                               /* node_show() is the caller's to call */
    /* Of a transaction with a journal: the group's UUID, and how the file is announced (block/file.h); NULL: neither. */
    const char *group_uuid;
    SnapshotFileAnnounce *announce;
    void *announce_opaque;
} TargetImageSpec;

typedef struct TargetImage {
    Node *node;            /* reference; opened without a backing node, unless with_backing */
    SnapshotFile *created; /* NULL: it existed */
} TargetImage;

/* On failure nothing is left.  Errors: "Unknown driver '%s'", "Unknown file format '%s'", "Format driver '%s' does not support image creation", "Backing
 * file not supported for file format '%s'", "Error: Trying to create an image with the same filename as the backing file", those of opening, of
 * making files and of image locks. */
bool coroutine_fn target_image_open(const TargetImageSpec *s, TargetImage *ret, Error **errp);
/* The job has begun: what was in the way is gone.  The node's reference goes to the caller. */
Node *coroutine_fn target_image_keep(TargetImage *t);
/* It has not: all is as before.  Nobody uses the node. */
void coroutine_fn target_image_undo(TargetImage *t);

#endif

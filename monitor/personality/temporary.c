/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Temporary overlays: drives that forget what is written (snapshot=on, -snapshot).
 *
 * What the drive's options describe is the backing of an empty image in $TMPDIR (default: /var/tmp).  Its name is taken away as soon as it is
 * open, so that nothing is left however the process ends; what is opened again later is opened through the descriptor (file-open.c).  Nothing
 * in it need be durable: it is opened with cache.no-flush.
 */
#include "block/graph.h"
#include "emulator.h"
#include "qapi-types.h"
#include "util/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int make_file(void *opaque)
{
    int fd = mkostemp(opaque, O_CLOEXEC);

    if (fd < 0) {
        return -errno;
    }
    close(fd);
    return 0;
}

static int remove_file(void *opaque)
{
    unlink(opaque);
    return 0;
}

void coroutine_fn temporary_forget(char *path)
{
    if (path) {
        (void)worker_run(WORKERS_CONTROL, remove_file, path);
        g_free(path);
    }
}

static struct json_object *file_options(const char *path)
{
    struct json_object *file = json_object_new_object();

    json_object_object_add(file, "driver", json_object_new_string("file"));
    json_object_object_add(file, "filename", json_object_new_string(path));
    return file;
}

static void add_no_flush(struct json_object *o)
{
    struct json_object *cache = json_object_new_object();

    json_object_object_add(cache, "direct", json_object_new_boolean(false));
    json_object_object_add(cache, "no-flush", json_object_new_boolean(true));
    json_object_object_add(o, "cache", cache);
}

/* The size of the disk, in bytes.  It is opened for that, and closed. */
static bool coroutine_fn ask_size(const BlockdevOptions *below, uint64_t *ret, Error **errp)
{
    g_autoptr(BlockdevOptions) options = qapi_copy_BlockdevOptions(below);
    Node *n;

    options->has_read_only = options->read_only = true;
    options->has_auto_read_only = false;
    n = node_open(options, NODE_OPEN_HIDDEN, NULL, errp);
    if (n) {
        *ret = atomic_load(&n->size);
        node_unref(n);
    }
    node_wait_all_closed();
    return n;
}

static char *describe_creator(void *opaque)
{
    (void)opaque;
    return g_strdup("image creation");
}

static const EdgeOwner creator = {.describe = describe_creator, .name = describe_creator};

static bool coroutine_fn format_file(const char *path, uint64_t size, Error **errp)
{
    g_autoptr(JsonObject) o = file_options(path);
    g_autoptr(BlockdevOptions) options = NULL;
    CreateSpec spec = {.size = size};
    bool ok = false;
    Node *file;
    Edge *e;

    add_no_flush(o);
    if (!qapi_parse_BlockdevOptions(o, &options, errp)) {
        return false;
    }
    file = node_open(options, NODE_OPEN_HIDDEN, NULL, errp);
    if (file) {
        e = edge_attach(file, NULL, &creator, NULL, "root", EDGE_ROOT,
                        PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE,
                        PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED, errp);
        if (e) {
            ok = driver_qcow2.create(e, &spec, errp);
            edge_detach(e);
        }
        node_unref(file);
    }
    node_wait_all_closed();
    return ok;
}

/* The overlay's definition, with `below` as its backing. */
static BlockdevOptions *overlay_options(const BlockdevOptions *below, const char *path,
                                        Error **errp)
{
    g_autoptr(BlockdevOptions) backing = qapi_copy_BlockdevOptions(below);
    g_autoptr(JsonObject) o = json_object_new_object();
    BlockdevOptions *options = NULL;

    json_object_object_add(o, "driver", json_object_new_string("qcow2"));
    json_object_object_add(o, "file", file_options(path));
    add_no_flush(o);
    if (below->has_read_only) {
        json_object_object_add(o, "read-only", json_object_new_boolean(below->read_only));
    }
    if (below->has_discard) {
        json_object_object_add(
            o, "discard", json_object_new_string(qapi_enum_BlockdevDiscardOptions(below->discard)));
    }
    if (below->has_detect_zeroes) {
        json_object_object_add(
            o, "detect-zeroes",
            json_object_new_string(qapi_enum_BlockdevDetectZeroesOptions(below->detect_zeroes)));
    }
    /* As a backing is opened where nothing is said about it: for reading, and for writing if it is committed into. */
    if (!below->read_only) {
        backing->has_read_only = false;
    }
    backing->has_auto_read_only = false;
    backing->has_detect_zeroes = false;
    json_object_object_add(o, "backing", qapi_serialise_BlockdevOptions(backing));
    return qapi_parse_BlockdevOptions(o, &options, errp) ? options : NULL;
}

BlockdevOptions *coroutine_fn temporary_overlay(const BlockdevOptions *below, char **ret_path,
                                                Error **errp)
{
    const char *directory = g_getenv("TMPDIR");
    char *path = g_strconcat(directory ? directory : "/var/tmp", "/vl.XXXXXX", NULL);
    BlockdevOptions *options = NULL;
    uint64_t size;
    int ret;

    if (!ask_size(below, &size, errp)) {
        g_free(path);
        return NULL;
    }
    ret = worker_run(WORKERS_CONTROL, make_file, path);
    if (ret < 0) {
        error_set_errno(errp, -ret, path, "open", "Could not open temporary file '%s'", path);
        g_free(path);
        return NULL;
    }
    if (format_file(path, size, errp)) {
        options = overlay_options(below, path, errp);
    }
    if (!options) {
        temporary_forget(path);
        return NULL;
    }
    *ret_path = path;
    return options;
}

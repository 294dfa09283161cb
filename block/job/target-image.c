/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Making and opening the image that a job fills; see target-image.h.
 *
 * The file's node is opened first, so that a new image is written through it and the format of an existing one is found through it, whatever the
 * protocol is; then the format node, which owns it.
 */
#include "target-image.h"
#include "block/graph.h"
#include "block/image-created.h"
#include "block/io.h"
#include "qapi-types.h"
#include <errno.h>
#include <string.h>

#define PROBE_BYTES 2048u

/* ---- options ---- */

static void add_default(struct json_object *o, const char *key, struct json_object *value)
{
    if (json_object_object_get_ex(o, key, NULL)) {
        json_object_put(value);
    } else {
        json_object_object_add(o, key, value);
    }
}

static void add_cache(struct json_object *o, const Node *like)
{
    struct json_object *cache = json_object_new_object();

    json_object_object_add(cache, "direct", json_object_new_boolean(like->cache_direct));
    json_object_object_add(cache, "no-flush", json_object_new_boolean(like->cache_no_flush));
    add_default(o, "cache", cache);
}

/* Takes o. */
static Node *coroutine_fn open_node(struct json_object *o, bool with_backing, Error **errp)
{
    g_autoptr(BlockdevOptions) options = NULL;
    Node *n = NULL;

    if (qapi_parse_BlockdevOptions(o, &options, errp)) {
        n = node_open(options, NODE_OPEN_HIDDEN | (with_backing ? 0 : NODE_OPEN_NO_BACKING), NULL,
                      errp);
    }
    json_object_put(o);
    return n;
}

static Node *coroutine_fn open_file(const TargetImageSpec *s, const char *node_name, Error **errp)
{
    struct json_object *o = filename_options(s->filename, errp);

    if (!o) {
        return NULL;
    }
    add_default(o, "discard", json_object_new_string("unmap"));
    add_cache(o, s->like);
    if (node_name) {
        json_object_object_add(o, "node-name", json_object_new_string(node_name));
    }
    return open_node(o, false, errp);
}

static Node *coroutine_fn open_format(const TargetImageSpec *s, const char *format,
                                      const Node *file, Error **errp)
{
    struct json_object *o = json_object_new_object();

    json_object_object_add(o, "driver", json_object_new_string(format));
    json_object_object_add(o, "file", json_object_new_string(file->name));
    if (s->node_name) {
        json_object_object_add(o, "node-name", json_object_new_string(s->node_name));
    }
    json_object_object_add(o, "discard",
                           json_object_new_string(s->like->discard_unmap ? "unmap" : "ignore"));
    add_cache(o, s->like);
    return open_node(o, s->with_backing, errp);
}

/* ---- formats ---- */

static char *describe_user(void *opaque)
{
    (void)opaque;
    return g_strdup("image creation");
}

static const EdgeOwner user = {.describe = describe_user, .name = describe_user};

/* The format that the file's beginning shows. */
static const BlockDriver *coroutine_fn probe(Node *file, Error **errp)
{
    uint64_t len = MIN(atomic_load(&file->size), PROBE_BYTES);
    g_autofree uint8_t *buf = g_malloc(PROBE_BYTES);
    Edge *e = edge_attach(file, NULL, &user, NULL, "root", EDGE_ROOT, PERM_NONE, PERM_ALL, errp);
    Request r;
    int ret;

    if (!e) {
        return NULL;
    }
    request_begin(&r, REQUEST_READ);
    ret = edge_pread(e, &r, guest(0), buf, len, 0);
    request_end(&r);
    edge_detach(e);
    if (ret < 0) {
        error_set_errno(errp, -ret, file->filename, "open",
                        "Could not read image for determining its format");
        return NULL;
    }
    return driver_probe(buf, len, errp);
}

static bool is_raw(const BlockDriver *drv)
{
    return strcmp(drv->name, "raw") == 0 || strcmp(drv->name, "file") == 0;
}

/* What QEMU says of formats and names that cannot be, in its order. */
static const BlockDriver *check_new(const TargetImageSpec *s, Error **errp)
{
    const BlockDriver *drv = driver_find(s->format);

    if (!drv) {
        error_set(errp, ERROR_UNSUPPORTED, s->format, "create", "Unknown file format '%s'",
                  s->format);
        return NULL;
    }
    if (!drv->create && !is_raw(drv)) {
        error_set(errp, ERROR_UNSUPPORTED, s->format, "create",
                  "Format driver '%s' does not support image creation", s->format);
        return NULL;
    }
    if (s->backing_file && !drv->supports_backing) {
        error_set(errp, ERROR_UNSUPPORTED, s->format, "create",
                  "Backing file not supported for file format '%s'", s->format);
        return NULL;
    }
    if (g_strcmp0(s->backing_file, s->filename) == 0) {
        error_set(errp, ERROR_INVALID, s->filename, "create",
                  "Error: Trying to create an image with the same filename as the backing file");
        return NULL;
    }
    return drv;
}

static bool coroutine_fn format_file(const TargetImageSpec *s, const BlockDriver *drv, Node *file,
                                     Error **errp)
{
    CreateSpec spec = {
        .size = s->size,
        .backing_file = s->backing_file,
        .backing_format = s->backing_format,
        .group_uuid = s->group_uuid,
    };
    Edge *e = edge_attach(file, NULL, &user, NULL, "root", EDGE_ROOT,
                          PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE,
                          PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED, errp);
    bool ok;

    if (!e) {
        return false;
    }
    if (drv->create) {
        ok = drv->create(e, &spec, errp);
    } else {
        Request r;
        int ret;

        request_begin(&r, REQUEST_WRITE);
        ret = edge_truncate(e, &r, s->size, true);
        request_end(&r);
        if (ret < 0) {
            error_set_errno(errp, -ret, s->filename, "create", "Could not resize file");
        }
        ok = ret == 0;
    }
    edge_detach(e);
    if (ok) {
        image_created(s->filename, s->format, &spec);
    }
    return ok;
}

/* ---- files ---- */

static bool coroutine_fn make_file(const TargetImageSpec *s, SnapshotFile **ret_created,
                                   Error **errp)
{
    struct json_object *o = filename_options(s->filename, errp), *driver, *filename;
    bool ok = o;

    if (ok && (!json_object_object_get_ex(o, "driver", &driver) ||
               strcmp(json_object_get_string(driver), "file") != 0 ||
               !json_object_object_get_ex(o, "filename", &filename))) {
        error_set(errp, ERROR_UNSUPPORTED, s->filename, "create",
                  "Protocol driver of '%s' does not support image creation", s->filename);
        ok = false;
    }
    if (ok) {
        *ret_created = snapshot_file_new(json_object_get_string(filename));
        if (s->announce) {
            snapshot_file_set_announce(*ret_created, s->announce, s->announce_opaque);
        }
        ok = snapshot_file_step(snapshot_file_prepare, *ret_created, errp);
    }
    json_object_put(o);
    return ok;
}

/* ---- together ---- */

static Node *coroutine_fn open_over(const TargetImageSpec *s, const BlockDriver *drv, bool made,
                                    Error **errp)
{
    bool bare = drv && drv->is_protocol;
    g_autoptr(Node) file = open_file(s, bare ? s->node_name : NULL, errp);

    if (!file || (made && !format_file(s, drv, file, errp))) {
        return NULL;
    }
    if (!drv) {
        drv = probe(file, errp);
    }
    if (!drv) {
        return NULL;
    }
    return bare ? node_ref(file) : open_format(s, drv->name, file, errp);
}

bool coroutine_fn target_image_open(const TargetImageSpec *s, TargetImage *ret, Error **errp)
{
    TargetImage t = {0};
    const BlockDriver *drv = NULL;

    if (s->node_name &&
        (!node_name_check(s->node_name, errp) || !node_name_reserve(s->node_name, s, errp))) {
        return false;
    }
    node_name_release(s->node_name ? s->node_name : "", s);
    if (!s->existing) {
        drv = check_new(s, errp);
        if (!drv || !make_file(s, &t.created, errp)) {
            goto fail;
        }
    } else if (s->format) {
        drv = driver_find(s->format);
        if (!drv) {
            error_set(errp, ERROR_UNSUPPORTED, s->format, "open", "Unknown driver '%s'", s->format);
            return false;
        }
    }
    t.node = open_over(s, drv, t.created, errp);
    if (!t.node || (t.created && !snapshot_file_step(snapshot_file_finish, t.created, errp))) {
        goto fail;
    }
    if (!s->hidden) {
        node_show(t.node);
    }
    *ret = t;
    return true;

fail:
    target_image_undo(&t);
    return false;
}

Node *coroutine_fn target_image_keep(TargetImage *t)
{
    if (t->created) {
        snapshot_file_end(snapshot_file_commit, t->created);
        g_clear_pointer(&t->created, snapshot_file_free);
    }
    return g_steal_pointer(&t->node);
}

void coroutine_fn target_image_undo(TargetImage *t)
{
    g_clear_pointer(&t->node, node_unref);
    node_wait_all_closed(); /* its file must not be locked when it is put back */
    if (t->created) {
        snapshot_file_end(snapshot_file_undo, t->created);
        g_clear_pointer(&t->created, snapshot_file_free);
    }
}

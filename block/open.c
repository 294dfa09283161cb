/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Opening: from options to nodes.
 *
 * Options come from blockdev-add, from the command line, or are made here for what a header names.  A child that is defined in place
 * inherits from its parent what it does not say itself:
 *
 *   file / filtered   cache.direct, cache.no-flush, read-only, auto-read-only, active; discard=unmap below a format
 *   backing           cache.direct, cache.no-flush, active; read-only=on
 *
 * A node gets into the registry when it is open; its name is reserved before anything is suspended.
 * Everything here: coroutines of the control thread.
 */
#include "block/backend.h"
#include "block/file.h"
#include "block/graph.h"
#include "node-internal.h"
#include "qapi-types.h"
#include "util/log.h"
#include "util/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* Takes the name for the node that is being opened. */
static char *take_name(const BlockdevOptions *o, const void *reserver, const void *token,
                       Error **errp)
{
    g_autofree char *name = NULL;

    if (!o->node_name) {
        name = node_generate_name();
    } else if ((reserver && o->node_name[0] == '#') || node_name_check(o->node_name, errp)) {
        /* A generated name that a transaction has chosen is no user's. */
        name = g_strdup(o->node_name);
    } else {
        return NULL;
    }
    if (reserver && o->node_name) {
        node_name_release(name, reserver); /* from here on it is ours */
    }
    return node_name_reserve(name, token, errp) ? g_steal_pointer(&name) : NULL;
}

bool options_flags(const char *name, BlockdevOptions *o, bool read_only_default, NodeFlags *ret,
                   Error **errp)
{
    if (!o->has_read_only) {
        o->has_read_only = true;
        o->read_only = read_only_default;
    }
    *ret = (NodeFlags){
        .read_only = o->read_only,
        .auto_read_only = o->has_auto_read_only && o->auto_read_only,
        .cache_direct = o->cache && o->cache->has_direct && o->cache->direct,
        .cache_no_flush = o->cache && o->cache->has_no_flush && o->cache->no_flush,
        .discard_unmap = o->has_discard && o->discard == BLOCKDEV_DISCARD_OPTIONS_UNMAP,
        .force_share = o->has_force_share && o->force_share,
    };
    if (o->has_detect_zeroes) {
        ret->detect_zeroes =
            o->detect_zeroes == BLOCKDEV_DETECT_ZEROES_OPTIONS_UNMAP ? DETECT_ZEROES_UNMAP
            : o->detect_zeroes == BLOCKDEV_DETECT_ZEROES_OPTIONS_ON  ? DETECT_ZEROES_ON
                                                                     : DETECT_ZEROES_OFF;
    }
    if (ret->detect_zeroes == DETECT_ZEROES_UNMAP && !ret->discard_unmap) {
        error_set(errp, ERROR_INVALID, name, "open",
                  "setting detect-zeroes to unmap is not allowed without setting discard operation "
                  "to unmap");
        return false;
    }
    if (ret->force_share && !ret->read_only) {
        error_set(errp, ERROR_INVALID, name, "open",
                  "force-share=on can only be used with read-only images");
        return false;
    }
    return true;
}

NodeFlags node_flags(const Node *n)
{
    return (NodeFlags){
        .read_only = n->user_read_only,
        .auto_read_only = n->auto_read_only,
        .cache_direct = n->cache_direct,
        .cache_no_flush = n->cache_no_flush,
        .discard_unmap = n->discard_unmap,
        .force_share = n->force_share,
        .inactive = atomic_load(&((Node *)n)->inactive),
        .detect_zeroes = n->detect_zeroes,
    };
}

bool node_is_read_only(const Node *n)
{
    return atomic_load(&((Node *)n)->inactive) ? n->rest_read_only
                                               : atomic_load(&((Node *)n)->read_only);
}

void node_set_flags(Node *n, const NodeFlags *f)
{
    n->user_read_only = f->read_only;
    n->auto_read_only = f->auto_read_only;
    n->cache_direct = f->cache_direct;
    n->cache_no_flush = f->cache_no_flush;
    n->discard_unmap = f->discard_unmap;
    n->force_share = f->force_share;
    n->detect_zeroes = f->detect_zeroes;
}

static bool inactive_by_default;

void node_set_inactive_by_default(bool on)
{
    inactive_by_default = on;
}

static bool apply_options(Node *n, BlockdevOptions *o, unsigned flags, Error **errp)
{
    NodeFlags f;

    if (!options_flags(n->name, o, flags & NODE_OPEN_READ_ONLY, &f, errp)) {
        return false;
    }
    node_set_flags(n, &f);
    n->rest_read_only = f.read_only;
    atomic_store(&n->inactive, o->has_active ? !o->active : inactive_by_default);
    atomic_store(&n->read_only, f.read_only || atomic_load(&n->inactive));
    return true;
}

const BlockdevRef *options_file(const BlockdevOptions *o)
{
    switch (o->driver) {
    case BLOCKDEV_DRIVER_BLKDEBUG:
        return o->u.blkdebug.image;
    case BLOCKDEV_DRIVER_BLKLOGWRITES:
        return o->u.blklogwrites.file;
    case BLOCKDEV_DRIVER_COMPRESS:
        return o->u.compress.file;
    case BLOCKDEV_DRIVER_COPY_BEFORE_WRITE:
        return o->u.copy_before_write.file;
    case BLOCKDEV_DRIVER_COPY_ON_READ:
        return o->u.copy_on_read.file;
    case BLOCKDEV_DRIVER_PREALLOCATE:
        return o->u.preallocate.file;
    case BLOCKDEV_DRIVER_QCOW2:
        return o->u.qcow2.file;
    case BLOCKDEV_DRIVER_RAW:
        return o->u.raw.file;
    case BLOCKDEV_DRIVER_SNAPSHOT_ACCESS:
        return o->u.snapshot_access.file;
    case BLOCKDEV_DRIVER_THROTTLE:
        return o->u.throttle.file;
    default:
        return NULL;
    }
}

/* How a node is opened; options: with what is inherited; given: without. */
typedef struct OpenHow {
    const BlockdevOptions *options, *given;
    unsigned flags; /* NodeOpenFlags */
    const void *reserver;
    Node *opened_by, *opening_for;
    SnapshotFile *made;
    const NewImage *image;
} OpenHow;

static Node *coroutine_fn open_node(const OpenHow *how, Error **errp)
{
    const BlockdevOptions *options = how->options;
    const char *driver_name = qapi_enum_BlockdevDriver(options->driver);
    const BlockDriver *drv = driver_find(driver_name);
    g_autofree char *name = NULL;
    Node *n;
    char token;

    if (!drv) {
        error_set(errp, ERROR_UNSUPPORTED, driver_name, "open", "Unknown driver '%s'", driver_name);
        return NULL;
    }
    name = take_name(options, how->reserver, &token, errp);
    if (!name) {
        return NULL;
    }
    n = node_alloc(drv, name);
    n->auto_name = !options->node_name;
    n->options = qapi_copy_BlockdevOptions(options);
    n->given = qapi_copy_BlockdevOptions(how->given);
    n->opened_by = how->opened_by;
    n->hidden = how->flags & NODE_OPEN_HIDDEN;
    n->opening_for = how->opening_for;
    n->made = how->made;
    n->backing_overridden = how->flags & NODE_OPEN_NO_BACKING;
    n->new_image = how->image;
    if (!apply_options(n, n->options, how->flags, errp) || !drv->open(n, n->options, errp)) {
        node_name_release(name, &token);
        node_discard(n);
        return NULL;
    }
    node_set_filename(n);
    n->opening_for = NULL;
    n->made = NULL;
    n->new_image = NULL;
    node_name_release(name, &token);
    node_register(n);
    return n;
}

Node *coroutine_fn node_open(const BlockdevOptions *options, unsigned flags, const void *reserver,
                             Error **errp)
{
    OpenHow how = {.options = options, .given = options, .flags = flags, .reserver = reserver};

    return open_node(&how, errp);
}

Node *coroutine_fn node_open_made(const BlockdevOptions *options, unsigned flags,
                                  SnapshotFile *made, Error **errp)
{
    OpenHow how = {.options = options, .given = options, .flags = flags, .made = made};

    return open_node(&how, errp);
}

Node *coroutine_fn node_open_new_image(const BlockdevOptions *options, unsigned flags,
                                       const void *reserver, const NewImage *image, Error **errp)
{
    OpenHow how = {
        .options = options, .given = options, .flags = flags, .reserver = reserver, .image = image};

    return open_node(&how, errp);
}

void node_show(Node *n)
{
    n->hidden = false;
    for (guint i = 0; i < n->children->len; i++) {
        Node *child = ((Edge *)g_ptr_array_index(n->children, i))->target;

        if (child->hidden) {
            node_show(child);
        }
    }
}

Node *node_lookup(const char *device, const char *node_name, Error **errp)
{
    const Backend *b = device ? backend_find(device) : NULL;
    Node *n;

    if (b && !backend_edge(b)) {
        error_set(errp, ERROR_NOT_FOUND, device, "lookup", "Device '%s' has no medium", device);
        return NULL;
    }
    n = b ? backend_edge(b)->target : node_name ? node_find(node_name) : NULL;
    if (!n) {
        error_set(errp, ERROR_NOT_FOUND, node_name ? node_name : device, "lookup",
                  "Cannot find device='%s' nor node-name='%s'", device ? device : "",
                  node_name ? node_name : "");
    }
    return n;
}

/* ---- children ---- */

void options_inherit(BlockdevOptions *o, const NodeFlags *parent, EdgeRole role)
{
    if (!o->cache) {
        o->cache = g_new0(BlockdevCacheOptions, 1);
    }
    if (!o->cache->has_direct) {
        o->cache->has_direct = true;
        o->cache->direct = parent->cache_direct;
    }
    if (!o->cache->has_no_flush) {
        o->cache->has_no_flush = true;
        o->cache->no_flush = parent->cache_no_flush;
    }
    if (!o->has_active && (parent->inactive || inactive_by_default)) {
        o->has_active = true;
        o->active = !parent->inactive;
    }
    if (role == EDGE_COW) {
        if (!o->has_read_only) {
            o->has_read_only = o->read_only = true;
        }
        return;
    }
    if (!o->has_read_only) {
        o->has_read_only = true;
        o->read_only = parent->read_only;
    }
    if (!o->has_auto_read_only) {
        o->has_auto_read_only = true;
        o->auto_read_only = parent->auto_read_only;
    }
    if (!o->has_force_share && parent->force_share && o->read_only) {
        o->has_force_share = o->force_share = true;
    }
    if (!o->has_discard) {
        o->has_discard = true;
        o->discard = role == EDGE_STORAGE || parent->discard_unmap
                         ? BLOCKDEV_DISCARD_OPTIONS_UNMAP
                         : BLOCKDEV_DISCARD_OPTIONS_IGNORE;
    }
}

/* Attaches child (whose reference is consumed) below n. */
static bool coroutine_fn attach_child(Node *n, Node *child, const char *name, EdgeRole role,
                                      Error **errp)
{
    unsigned perm, shared;
    Edge *e;

    node_child_perm(n, role, n->perm, n->shared, &perm, &shared);
    e = edge_attach(child, n, NULL, NULL, name, role, perm, shared, errp);
    node_unref(child);
    if (!e) {
        return false;
    }
    if (role == EDGE_COW) {
        atomic_store_explicit(&n->backing, e, memory_order_release);
    } else if (!n->file) {
        n->file = e;
    }
    return true;
}

/* A reference to the node that a child option names. */
static Node *coroutine_fn find_child(Node *n, const char *name, Error **errp)
{
    Node *child = n->hidden ? node_find_any(name) : node_find(name);

    if (!child) {
        return node_lookup(name, name, errp);
    }
    if (!n->hidden && !node_wait_unreserved(child, errp)) {
        return NULL;
    }
    child = n->hidden ? node_find_any(name) : node_lookup(name, name, errp);
    return child ? node_ref(child) : NULL;
}

typedef struct OpenTask {
    OpenHow how;
    Node *node;
    Error **errp;
    CoGroup done;
} OpenTask;

static void coroutine_fn open_task(void *opaque)
{
    OpenTask *t = opaque;

    t->node = open_node(&t->how, t->errp);
    co_group_done(&t->done);
}

/* Opens on a stack of its own: chains may be deep. */
static Node *coroutine_fn open_below(Node *n, const BlockdevOptions *given, EdgeRole role,
                                     Error **errp)
{
    g_autoptr(BlockdevOptions) options = qapi_copy_BlockdevOptions(given);
    NodeFlags flags = node_flags(n);
    OpenTask t = {
        .how = {.options = options,
                .given = given,
                .opened_by = n,
                .flags = n->hidden ? NODE_OPEN_HIDDEN : 0,
                .opening_for = role == EDGE_COW ? n : NULL},
        .errp = errp,
    };

    options_inherit(options, &flags, role);
    co_group_init(&t.done);
    co_group_add(&t.done, 1);
    co_start(open_task, &t);
    co_group_wait(&t.done);
    co_group_destroy(&t.done);
    return t.node;
}

bool coroutine_fn node_open_child(Node *n, const BlockdevRef *ref, const char *name, EdgeRole role,
                                  Error **errp)
{
    Node *child = ref->type == QAPI_KIND_STRING ? find_child(n, ref->u.reference, errp)
                                                : open_below(n, ref->u.definition, role, errp);

    return child && attach_child(n, child, name, role, errp);
}

/* ---- backing files that headers name ---- */

static bool same_file(const char *a, const char *b)
{
    g_autofree char *ra = realpath(a, NULL), *rb = realpath(b, NULL);

    return ra && rb && strcmp(ra, rb) == 0;
}

/* A chain that comes back to a file it already has. */
static bool check_loop(const Node *n, const char *name, const char *file, Error **errp)
{
    for (const Node *p = n; p; p = p->opening_for) {
        if (p->file && p->file->target->filename && same_file(p->file->target->filename, file)) {
            error_set(errp, ERROR_INVALID, name, "open",
                      "Backing file '%s' creates an infinite loop.", name);
            return false;
        }
    }
    return true;
}

#define PROBE_SIZE 2048

static char *describe_prober(void *opaque)
{
    (void)opaque;
    return g_strdup("format probing");
}

static const EdgeOwner prober = {.describe = describe_prober, .name = describe_prober};

static int coroutine_fn probe_read(Edge *e, void *buf, size_t len)
{
    Request r;
    int ret;

    request_begin(&r, REQUEST_READ);
    ret = edge_pread(e, &r, guest(0), buf, len, 0);
    request_end(&r);
    return ret;
}

const BlockDriver *coroutine_fn node_probe_format(const BlockdevOptions *file, Error **errp)
{
    g_autoptr(BlockdevOptions) o = qapi_copy_BlockdevOptions(file);
    g_autofree uint8_t *buf = g_malloc0(PROBE_SIZE);
    g_autoptr(Node) n = NULL;
    size_t len;
    Edge *e;
    int ret;

    g_clear_pointer(&o->node_name, g_free);
    o->has_read_only = o->read_only = o->has_force_share = o->force_share = true;
    n = node_open(o, NODE_OPEN_HIDDEN, NULL, errp);
    e = n ? edge_attach(n, NULL, &prober, NULL, "root", EDGE_ROOT, PERM_CONSISTENT_READ, PERM_ALL,
                        errp)
          : NULL;
    if (!e) {
        return NULL;
    }
    len = MIN(atomic_load(&n->size), PROBE_SIZE);
    ret = len > 0 ? probe_read(e, buf, len) : 0;
    edge_detach(e);
    if (ret < 0) {
        error_set_errno(errp, -ret, n->name, "open",
                        "Could not read image for determining its format");
        return NULL;
    }
    return driver_probe(buf, len, errp);
}

/* The format of a backing file whose header entry does not say it.  NULL: one that is not supported. */
static const char *coroutine_fn probe_format(const Node *n, const char *name,
                                             struct json_object *file, Error **errp)
{
    g_autoptr(BlockdevOptions) o = NULL;
    g_autoptr(Error) err = NULL;
    const BlockDriver *drv =
        qapi_parse_BlockdevOptions(file, &o, &err) ? node_probe_format(o, &err) : NULL;

    if (!drv && err->kind == ERROR_UNSUPPORTED) {
        error_move(errp, &err);
        return NULL;
    }
    if (!drv) {
        return "raw"; /* opening it will say what is wrong */
    }
    log_warn("%s: the format of backing file '%s' is not recorded; it looks like '%s'",
             n->file->target->filename, name, drv->name);
    return drv->name;
}

static BlockdevOptions *coroutine_fn header_options(Node *n, const char *file, const char *format,
                                                    Error **errp)
{
    const char *base = n->file ? n->file->target->filename : NULL;
    g_autofree char *name = filename_resolve(base, file);
    g_autoptr(JsonObject) o = filename_options(name, errp);
    BlockdevOptions *options;
    struct json_object *f;

    if (!o) {
        return NULL;
    }
    if (!g_str_has_prefix(name, "json:")) {
        if (!check_loop(n, file, name, errp)) {
            return NULL;
        }
        if (format && !driver_find(format)) {
            error_set(errp, ERROR_UNSUPPORTED, base, "open", "Unknown driver '%s'", format);
            return NULL;
        }
        if (!format) {
            format = probe_format(n, name, o, errp);
        }
        if (!format) {
            return NULL;
        }
        f = o;
        o = json_object_new_object();
        json_object_object_add(o, "driver", json_object_new_string(format));
        json_object_object_add(o, "file", f);
    }
    return qapi_parse_BlockdevOptions(o, &options, errp) ? options : NULL;
}

static bool coroutine_fn open_from_header(Node *n, const char *file, const char *format,
                                          Error **errp)
{
    g_autoptr(BlockdevOptions) o = header_options(n, file, format, errp);
    Node *child;

    if (o) {
        child = open_below(n, o, EDGE_COW, errp);
        if (child) {
            node_set_header_backing(n, file, child);
            return attach_child(n, child, "backing", EDGE_COW, errp);
        }
    }
    error_prefix(errp, "Could not open backing file: ");
    return false;
}

bool coroutine_fn node_open_backing(Node *n, const BlockdevRefOrNull *option, const char *file,
                                    const char *format, Error **errp)
{
    Node *child;

    node_take_place(n);
    if (n->backing_overridden) {
        return true; /* NODE_OPEN_NO_BACKING */
    }
    if (!option) {
        return !file || open_from_header(n, file, format, errp);
    }
    n->backing_overridden = true;
    switch (option->type) {
    case QAPI_KIND_NULL:
        return true;
    case QAPI_KIND_STRING:
        if (option->u.reference[0] == '\0') {
            return true; /* "" is an older spelling of null */
        }
        child = find_child(n, option->u.reference, errp);
        break;
    default:
        child = open_below(n, option->u.definition, EDGE_COW, errp);
        break;
    }
    return child && attach_child(n, child, "backing", EDGE_COW, errp);
}

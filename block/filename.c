/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What nodes are called by people, and by headers of images.
 *
 *   n->filename     the plain name: of the file that an image is in.  Relative names in its header are relative to this one.
 *   shown filename  what queries tell and what opens the same disk again: the plain name if that is enough, else "json:{...}" with
 *                   the options that decide what is in the disk.
 *
 * The plain name of a format is not enough when its backing is overridden: when opening the file by its name would lead to another
 * backing, or to one where there is none, or to none.  The header names the present backing node if it has the shown filename of it,
 * or if that node was opened because of the very name that the header has: "file:/x" and "/x" are one file, but nobody has
 * looked before it is opened.
 */
#include "block/graph.h"
#include "node-internal.h"
#include "qapi-types.h"
#include "qapi/json-writer.h"
#include "util/worker.h"
#include <string.h>
#include <sys/stat.h>

static bool has_protocol(const char *name)
{
    const char *colon = strchr(name, ':'), *slash = strchr(name, '/');

    return colon && (!slash || colon < slash);
}

char *filename_resolve(const char *relative_to, const char *name)
{
    g_autofree char *dir = NULL;

    if (g_path_is_absolute(name) || g_str_has_prefix(name, "json:")) {
        return g_strdup(name);
    }
    if (g_str_has_prefix(name, "file:")) {
        return filename_resolve(relative_to, name + strlen("file:"));
    }
    if (!relative_to || strchr(name, ':')) {
        /* With a protocol prefix, or nothing to be relative to. */
        const char *colon = strchr(name, ':'), *slash = strchr(name, '/');

        if (!relative_to || !slash || colon < slash) {
            return g_strdup(name);
        }
    }
    dir = g_path_get_dirname(relative_to);
    return strcmp(dir, ".") == 0 && relative_to[0] != '.' ? g_strdup(name)
                                                          : g_build_filename(dir, name, NULL);
}

char *filename_full(const Node *n, const char *name)
{
    const char *path = g_str_has_prefix(name, "file:") ? name + strlen("file:") : name;

    return g_path_is_absolute(path) ? g_strdup(name) : filename_resolve(n->filename, name);
}

static int look(void *opaque)
{
    struct stat st;

    return stat(opaque, &st) == 0 && (S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode));
}

const char *filename_driver(const char *name)
{
    bool device = co_self() ? worker_run(WORKERS_CONTROL, look, (void *)name) : look((void *)name);

    return device ? "host_device" : "file";
}

struct json_object *filename_options(const char *name, Error **errp)
{
    const char *driver = NULL;
    struct json_object *o;

    if (g_str_has_prefix(name, "json:")) {
        o = json_tokener_parse(name + strlen("json:"));
        if (!o || !json_object_is_type(o, json_type_object)) {
            json_object_put(o);
            error_set(errp, ERROR_INVALID, name, "open", "Could not parse the JSON options");
            return NULL;
        }
        return o;
    }
    if (has_protocol(name)) {
        g_autofree char *protocol = g_strndup(name, strchr(name, ':') - name);
        const BlockDriver *drv = driver_of_protocol(protocol);

        if (drv) {
            return drv->parse_name(name, errp);
        }
        if (strcmp(protocol, "file") != 0 && strcmp(protocol, "host_device") != 0) {
            error_set(errp, ERROR_UNSUPPORTED, name, "open", "Unknown protocol '%s'", protocol);
            return NULL;
        }
        driver = protocol[0] == 'f' ? "file" : "host_device";
        name = strchr(name, ':') + 1;
    }
    if (!driver) {
        driver = filename_driver(name);
    }
    o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string(driver));
    json_object_object_add(o, "filename", json_object_new_string(name));
    return o;
}

/* Without looking at files: a link and what it leads to differ. */
static bool same_name(const char *a, const char *b)
{
    g_autofree char *ca = NULL, *cb = NULL;

    if (strcmp(a, b) == 0) {
        return true;
    }
    if (has_protocol(a) || has_protocol(b)) {
        return false;
    }
    ca = g_canonicalize_filename(a, NULL);
    cb = g_canonicalize_filename(b, NULL);
    return strcmp(ca, cb) == 0;
}

/* ---- the backing that the header leads to ---- */

void node_set_header_backing(Node *n, const char *name, Node *backing)
{
    g_free(n->header_backing);
    g_free(n->header_backing_shown);
    n->header_backing = g_strdup(name);
    n->header_backing_shown = node_shown_filename(backing);
}

/* backing_shown: what its backing is called; NULL: it has none, or one without a name. */
static bool backing_overridden(Node *n, const char *backing_shown)
{
    const Edge *e = atomic_load_explicit(&n->backing, memory_order_acquire);
    g_auto(ImageFacts) facts = {.actual_size = -1};
    g_autofree char *named = NULL;
    g_autoptr(Error) ignored = NULL;

    if (!n->driver->supports_backing || !n->driver->facts ||
        !n->driver->facts(n, &facts, &ignored)) {
        return false;
    }
    if (!e || !facts.backing_file) {
        return e || facts.backing_file;
    }
    named = g_strcmp0(n->header_backing, facts.backing_file) == 0
                ? g_strdup(n->header_backing_shown)
                : filename_full(n, facts.backing_file);
    return !named || !backing_shown || !same_name(named, backing_shown);
}

/* ---- options ---- */

static struct json_object *options_of(Node *n, const char *shown);

/* A quorum has no file: its children in their order, and how they vote. */
static void add_quorum_options(const Node *n, struct json_object *to)
{
    const BlockdevOptionsQuorum *o = &n->options->u.quorum;
    struct json_object *children = json_object_new_array();

    for (guint i = 0; i < n->children->len; i++) {
        Node *child = ((Edge *)g_ptr_array_index(n->children, i))->target;
        g_autofree char *shown = node_shown_filename(child);

        json_object_array_add(children, options_of(child, shown));
    }
    json_object_object_add(to, "children", children);
    json_object_object_add(to, "vote-threshold", json_object_new_int64(o->vote_threshold));
    if (o->has_blkverify) {
        json_object_object_add(to, "blkverify", json_object_new_boolean(o->blkverify));
    }
    if (o->has_rewrite_corrupted) {
        json_object_object_add(to, "rewrite-corrupted",
                               json_object_new_boolean(o->rewrite_corrupted));
    }
    if (o->has_read_pattern) {
        json_object_object_add(
            to, "read-pattern",
            json_object_new_string(qapi_enum_QuorumReadPattern(o->read_pattern)));
    }
}

static void add_two(struct json_object *to, const char *list, unsigned i, const char *key,
                    struct json_object *value)
{
    g_autofree char *name = g_strdup_printf("%s.%u.%s", list, i, key);

    json_object_object_add(to, name, value);
}

/* Its rules, each member by itself, as those who read these names expect them. */
static void add_blkdebug_options(const BlockdevOptionsBlkdebug *o, struct json_object *to)
{
    static const char *const inject = "inject-error", *const set = "set-state";
    unsigned i = 0;

    if (o->config) {
        json_object_object_add(to, "config", json_object_new_string(o->config));
    }
    for (const BlkdebugInjectErrorOptionsList *l = o->inject_error; l; l = l->next, i++) {
        const BlkdebugInjectErrorOptions *e = l->value;

        add_two(to, inject, i, "event", json_object_new_string(qapi_enum_BlkdebugEvent(e->event)));
        if (e->has_state) {
            add_two(to, inject, i, "state", json_object_new_int64(e->state));
        }
        if (e->has_iotype) {
            add_two(to, inject, i, "iotype",
                    json_object_new_string(qapi_enum_BlkdebugIOType(e->iotype)));
        }
        if (e->has_q_errno) {
            add_two(to, inject, i, "errno", json_object_new_int64(e->q_errno));
        }
        if (e->has_sector) {
            add_two(to, inject, i, "sector", json_object_new_int64(e->sector));
        }
        if (e->has_once) {
            add_two(to, inject, i, "once", json_object_new_boolean(e->once));
        }
        if (e->has_immediately) {
            add_two(to, inject, i, "immediately", json_object_new_boolean(e->immediately));
        }
    }
    i = 0;
    for (const BlkdebugSetStateOptionsList *l = o->set_state; l; l = l->next, i++) {
        add_two(to, set, i, "event",
                json_object_new_string(qapi_enum_BlkdebugEvent(l->value->event)));
        if (l->value->has_state) {
            add_two(to, set, i, "state", json_object_new_int64(l->value->state));
        }
        add_two(to, set, i, "new_state", json_object_new_int64(l->value->new_state));
    }
}

/* Children that are not n->file, by their names. */
static void add_children(const Node *n, struct json_object *to)
{
    for (guint i = 0; i < n->children->len; i++) {
        const Edge *e = g_ptr_array_index(n->children, i);

        if (e != n->file) {
            g_autofree char *shown = node_shown_filename(e->target);

            json_object_object_add(to, e->name, options_of(e->target, shown));
        }
    }
}

/* Those of the driver that decide what is in the disk; false: there are none. */
static bool add_own_options(const Node *n, struct json_object *to)
{
    const BlockdevOptions *o = n->options;

    if (o && o->driver == BLOCKDEV_DRIVER_RAW) {
        if (o->u.raw.has_offset) {
            json_object_object_add(to, "offset", json_object_new_int64(o->u.raw.offset));
        }
        if (o->u.raw.has_size) {
            json_object_object_add(to, "size", json_object_new_int64(o->u.raw.size));
        }
    } else if (o &&
               (o->driver == BLOCKDEV_DRIVER_NULL_CO || o->driver == BLOCKDEV_DRIVER_NULL_AIO)) {
        const BlockdevOptionsNull *null =
            o->driver == BLOCKDEV_DRIVER_NULL_CO ? &o->u.null_co : &o->u.null_aio;

        if (null->has_size) {
            json_object_object_add(to, "size", json_object_new_int64(null->size));
        }
        if (null->has_read_zeroes) {
            json_object_object_add(to, "read-zeroes", json_object_new_boolean(null->read_zeroes));
        }
    } else if (o && o->driver == BLOCKDEV_DRIVER_THROTTLE) {
        json_object_object_add(to, "throttle-group",
                               json_object_new_string(o->u.throttle.throttle_group));
    } else if (o && o->driver == BLOCKDEV_DRIVER_COPY_ON_READ && o->u.copy_on_read.bottom) {
        json_object_object_add(to, "bottom", json_object_new_string(o->u.copy_on_read.bottom));
    } else if (o && o->driver == BLOCKDEV_DRIVER_PREALLOCATE) {
        if (o->u.preallocate.has_prealloc_align) {
            json_object_object_add(to, "prealloc-align",
                                   json_object_new_int64(o->u.preallocate.prealloc_align));
        }
        if (o->u.preallocate.has_prealloc_size) {
            json_object_object_add(to, "prealloc-size",
                                   json_object_new_int64(o->u.preallocate.prealloc_size));
        }
    }
    if (o && o->driver == BLOCKDEV_DRIVER_QUORUM) {
        add_quorum_options(n, to);
    } else if (o && o->driver == BLOCKDEV_DRIVER_BLKDEBUG) {
        add_blkdebug_options(&o->u.blkdebug, to);
    } else if (o && (o->driver == BLOCKDEV_DRIVER_BLKVERIFY ||
                     o->driver == BLOCKDEV_DRIVER_BLKLOGWRITES)) {
        add_children(n, to);
    }
    return json_object_object_length(to) > 0;
}

/* The child that is not the backing. */
static void add_file(const Node *n, struct json_object *to)
{
    g_autofree char *shown = n->file ? node_shown_filename(n->file->target) : NULL;

    if (n->file) {
        json_object_object_add(to, n->file->name, options_of(n->file->target, shown));
    }
}

/* Text that we printed; it is as deep as the chain is long. */
static struct json_object *parse(const char *text)
{
    struct json_tokener *t;
    struct json_object *o;
    int depth = 1;

    for (const char *c = text; *c; c++) {
        depth += *c == '{';
    }
    t = json_tokener_new_ex(depth);
    o = json_tokener_parse_ex(t, text, -1);
    json_tokener_free(t);
    return o;
}

/* The options that `shown`, its shown filename, stands for. */
static struct json_object *options_of(Node *n, const char *shown)
{
    struct json_object *o;

    if (shown && g_str_has_prefix(shown, "json:") && (!n->driver->is_filter || n->options)) {
        return parse(shown + strlen("json:"));
    }
    o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string(n->driver->name));
    if (!n->driver->is_protocol) {
        add_own_options(n, o);
        add_file(n, o);
    } else if (n->driver->add_name_options) {
        n->driver->add_name_options(n, o);
    } else if (shown && !has_protocol(shown)) {
        json_object_object_add(o, "filename", json_object_new_string(shown));
    }
    return o;
}

static char *json_filename(const Node *n, bool overridden, const char *backing_shown)
{
    const Edge *backing = atomic_load_explicit(&((Node *)n)->backing, memory_order_acquire);
    g_autoptr(JsonObject) o = json_object_new_object();
    g_autofree char *text = NULL;

    add_own_options(n, o);
    json_object_object_add(o, "driver", json_object_new_string(n->driver->name));
    add_file(n, o);
    if (overridden) {
        json_object_object_add(o, "backing",
                               backing ? options_of(backing->target, backing_shown) : NULL);
    }
    text = qapi_json_print(o, false);
    return g_strconcat("json:", text, NULL);
}

/* ---- the shown filename ---- */

static bool is_plain(const char *shown)
{
    return shown && !g_str_has_prefix(shown, "json:");
}

/* "blkdebug:CONFIG:IMAGE", "blkverify:RAW:TEST"; NULL: none, since these names cannot say everything. */
static char *debug_filename(const Node *n)
{
    const BlockdevOptions *o = n->options;

    if (o && o->driver == BLOCKDEV_DRIVER_BLKDEBUG && !o->u.blkdebug.inject_error &&
        !o->u.blkdebug.set_state && n->file) {
        g_autofree char *image = node_shown_filename(n->file->target);
        const char *config = o->u.blkdebug.config ? o->u.blkdebug.config : "";

        return is_plain(image) && !strchr(config, ':')
                   ? g_strdup_printf("blkdebug:%s:%s", config, image)
                   : NULL;
    }
    if (o && o->driver == BLOCKDEV_DRIVER_BLKVERIFY && n->children->len == 2) {
        g_autofree char *raw =
            node_shown_filename(((Edge *)g_ptr_array_index(n->children, 0))->target);
        g_autofree char *test =
            node_shown_filename(((Edge *)g_ptr_array_index(n->children, 1))->target);

        return is_plain(raw) && is_plain(test) && !strchr(raw, ':')
                   ? g_strdup_printf("blkverify:%s:%s", raw, test)
                   : NULL;
    }
    return NULL;
}

char *node_shown_filename_over(Node *n, const char *backing_shown)
{
    g_autoptr(JsonObject) own = json_object_new_object();
    g_autofree char *below = NULL;
    bool overridden;

    if (!n->filename) {
        return NULL;
    }
    below = debug_filename(n);
    if (below) {
        return g_steal_pointer(&below);
    }
    if (n->driver->is_filter && n->options) {
        return json_filename(n, false, NULL);
    }
    if (n->driver->is_filter) { /* of a job: it stands for the node below */
        return n->file ? node_shown_filename(n->file->target) : g_strdup(n->filename);
    }
    overridden = backing_overridden(n, backing_shown);
    if (overridden || add_own_options(n, own)) {
        return json_filename(n, overridden, backing_shown);
    }
    below = n->file ? node_shown_filename(n->file->target) : NULL;
    return !below            ? g_strdup(n->filename)
           : is_plain(below) ? g_steal_pointer(&below)
                             : json_filename(n, false, NULL);
}

char *node_shown_filename(Node *n)
{
    g_autoptr(GPtrArray) chain = g_ptr_array_new();
    char *shown = NULL;

    for (const Edge *e; n; n = e ? e->target : NULL) {
        e = atomic_load_explicit(&n->backing, memory_order_acquire);
        g_ptr_array_add(chain, n);
    }
    for (guint i = chain->len; i-- > 0;) {
        g_autofree char *below = shown;

        shown = node_shown_filename_over(g_ptr_array_index(chain, i), below);
    }
    return shown;
}

void node_set_filename(Node *n)
{
    const BlockdevOptions *o = n->options;

    if (o && (o->driver == BLOCKDEV_DRIVER_QUORUM || o->driver == BLOCKDEV_DRIVER_BLKVERIFY)) {
        n->filename = json_filename(n, false, NULL);
        return;
    }
    if (n->filename || !n->file) {
        return;
    }
    n->filename = o->driver == BLOCKDEV_DRIVER_RAW && (o->u.raw.has_offset || o->u.raw.has_size)
                      ? json_filename(n, false, NULL)
                      : g_strdup(n->file->target->filename);
}

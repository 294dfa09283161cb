/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From the flat options of a drive to a definition of nodes.
 *
 * A drive may say less than blockdev-add demands: no format (it is probed), no driver of the file, and parts of a backing file whose rest
 * the header knows ("backing.node-name=mid").  What is missing is filled in here, from the files, so that opening has complete options.
 */
#include "drive-options.h"
#include "block/graph.h"
#include "emulator.h"
#include "qapi-types.h"
#include "util/log.h"
#include "util/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DEPTH_MAX 200

static const char *text_of(struct json_object *o, const char *key)
{
    struct json_object *v;

    return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_string)
               ? json_object_get_string(v)
               : NULL;
}

static struct json_object *object_of(struct json_object *o, const char *key)
{
    struct json_object *v;

    return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_object) ? v
                                                                                             : NULL;
}

static void set(struct json_object *o, const char *key, const char *value)
{
    json_object_object_add(o, key, json_object_new_string(value));
}

/* JSON has numbers and booleans where option arguments have text. */
static struct json_object *as_text(struct json_object *v)
{
    struct json_object *copy;

    switch (json_object_get_type(v)) {
    case json_type_object:
        copy = json_object_new_object();
        {
            json_object_object_foreach(v, key, value)
            {
                json_object_object_add(copy, key, value ? as_text(value) : NULL);
            }
        }
        return copy;
    case json_type_array:
        copy = json_object_new_object(); /* lists are objects with decimal keys */
        for (size_t i = 0; i < json_object_array_length(v); i++) {
            g_autofree char *key = g_strdup_printf("%zu", i);

            json_object_object_add(copy, key, as_text(json_object_array_get_idx(v, i)));
        }
        return copy;
    case json_type_boolean:
        return json_object_new_string(json_object_get_boolean(v) ? "on" : "off");
    default:
        return json_object_new_string(json_object_get_string(v));
    }
}

struct json_object *drive_parse_filename(const char *filename, Error **errp)
{
    g_autoptr(JsonObject) o = filename_options(filename, errp);

    return o ? as_text(o) : NULL;
}

/* ---- probing ---- */

typedef struct Beginning {
    const char *filename;
    uint8_t buf[2048];
    ssize_t len;
} Beginning;

static int read_beginning(void *opaque)
{
    Beginning *b = opaque;
    int fd = open(b->filename, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        return -errno;
    }
    b->len = pread(fd, b->buf, sizeof(b->buf), 0);
    close(fd);
    return b->len < 0 ? -EIO : 0;
}

static void drop_names(struct json_object *o)
{
    json_object_object_del(o, "node-name");
    json_object_object_foreach(o, key, value)
    {
        (void)key;
        if (json_object_is_type(value, json_type_object)) {
            drop_names(value);
        }
    }
}

/* The same for what is no file of the host.  Its nodes have no names: those are for the ones that stay. */
static const char *coroutine_fn probe_node(struct json_object *file, Error **errp)
{
    g_autoptr(BlockdevOptions) options = NULL;
    g_autoptr(JsonObject) copy = NULL;
    const BlockDriver *drv = NULL;

    if (!drive_options_check(file, errp)) {
        return NULL;
    }
    if (json_object_deep_copy(file, &copy, NULL) != 0) {
        error_set(errp, ERROR_LIMIT, NULL, "open", "Out of memory");
        return NULL;
    }
    drop_names(copy);
    if (qapi_parse(&qapi_type_BlockdevOptions, copy, true, (void **)&options, errp)) {
        drv = node_probe_format(options, errp);
    }
    return drv ? drv->name : NULL;
}

static bool is_file(struct json_object *file)
{
    const char *driver = text_of(file, "driver");

    return g_strcmp0(driver, "file") == 0 || g_strcmp0(driver, "host_device") == 0;
}

/* The format of what a file's options lead to. */
static const char *coroutine_fn probe(struct json_object *file, bool warn, Error **errp)
{
    g_autofree Beginning *b = g_new0(Beginning, 1);
    const BlockDriver *drv;
    int ret;

    b->filename = text_of(file, "filename");
    if (!b->filename || !is_file(file)) {
        return text_of(file, "driver") ? probe_node(file, errp) : "raw";
    }
    ret = worker_run(WORKERS_CONTROL, read_beginning, b);
    if (ret < 0) {
        error_set_errno(errp, -ret, b->filename, "open", "Could not open '%s'", b->filename);
        return NULL;
    }
    drv = driver_probe(b->buf, b->len, errp);
    if (!drv) {
        error_prefix(errp, "Could not open '%s': ", b->filename);
        return NULL;
    }
    if (warn && drv == &driver_raw) {
        fprintf(stderr,
                "WARNING: Image format was not specified for '%s' and probing guessed raw.\n"
                "         Automatically detecting the format is dangerous for raw images, write "
                "operations on block 0 will be restricted.\n"
                "         Specify the 'raw' format explicitly to remove the restrictions.\n",
                b->filename);
    }
    return drv->name;
}

/* What an image's header says of its backing file: an object of file options and its format, or NULL. */
static bool coroutine_fn read_header(struct json_object *o, struct json_object **ret_file,
                                     char **ret_format, Error **errp)
{
    struct json_object *file = object_of(o, "file"), *copy = json_object_new_object(),
                       *file_copy = json_object_new_object();
    g_autoptr(BlockdevOptions) options = NULL;
    g_auto(ImageFacts) facts = {0};
    g_autoptr(Node) n = NULL;
    bool ok;

    while (object_of(file, "image")) { /* what is below a driver for tests */
        file = object_of(file, "image");
    }
    set(file_copy, "driver",
        g_strcmp0(text_of(file, "driver"), "host_device") == 0 ? "host_device" : "file");
    set(file_copy, "filename", text_of(file, "filename") ? text_of(file, "filename") : "");
    set(copy, "driver", text_of(o, "driver"));
    set(copy, "read-only", "on");
    set(copy, "force-share", "on");
    json_object_object_add(copy, "file", file_copy);
    ok = qapi_parse(&qapi_type_BlockdevOptions, copy, true, (void **)&options, errp);
    json_object_put(copy);
    n = ok ? node_open(options, NODE_OPEN_HIDDEN | NODE_OPEN_NO_BACKING, NULL, errp) : NULL;
    if (!n) {
        return false;
    }
    if (n->driver->facts && !n->driver->facts(n, &facts, errp)) {
        return false;
    }
    if (facts.backing_file) {
        g_autofree char *name = filename_resolve(n->filename, facts.backing_file);

        *ret_file = drive_parse_filename(name, errp);
        *ret_format = g_steal_pointer(&facts.backing_format);
        return *ret_file;
    }
    return true;
}

/* ---- completing ---- */

static bool coroutine_fn complete(struct json_object *o, bool warn, unsigned depth, Error **errp);

/* Files that options describe in place, however deep: of one that has a name but no driver it is that of files. */
static void complete_file(struct json_object *o)
{
    static const char *const names[] = {"image", "raw", "log", "test"}; /* beside "file" */

    for (; o; o = object_of(o, "file")) {
        struct json_object *file = object_of(o, "file"), *children = object_of(o, "children");

        if (file && !text_of(file, "driver") && text_of(file, "filename")) {
            set(file, "driver", filename_driver(text_of(file, "filename")));
        }
        for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
            struct json_object *below = object_of(o, names[i]);

            if (below && !text_of(below, "driver") && text_of(below, "filename")) {
                set(below, "driver", filename_driver(text_of(below, "filename")));
            }
            if (below) {
                complete_file(below);
            }
        }
        if (children) { /* a list: its keys are numbers here */
            json_object_object_foreach(children, number, child)
            {
                (void)number;
                if (json_object_is_type(child, json_type_object)) {
                    complete_file(child);
                }
            }
        }
    }
}

/* Older options of nbd: host and port, or path, beside server.*. */
static void complete_server(struct json_object *o)
{
    static const char *const names[] = {"host", "port", "path"};
    struct json_object *server;

    if (g_strcmp0(text_of(o, "driver"), "nbd") != 0 || object_of(o, "server") ||
        (!text_of(o, "host") && !text_of(o, "path"))) {
        return;
    }
    server = json_object_new_object();
    set(server, "type", text_of(o, "host") ? "inet" : "unix");
    if (text_of(o, "host") && !text_of(o, "port")) {
        set(server, "port", "10809");
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        if (text_of(o, names[i])) {
            set(server, names[i], text_of(o, names[i]));
            json_object_object_del(o, names[i]);
        }
    }
    json_object_object_add(o, "server", server);
}

static bool coroutine_fn complete_backing(struct json_object *o, unsigned depth, Error **errp)
{
    struct json_object *backing = object_of(o, "backing"), *file = NULL;
    g_autofree char *format = NULL;
    const BlockDriver *drv = driver_find(text_of(o, "driver"));

    if (!backing) {
        return true;
    }
    if (drv && !drv->supports_backing) {
        error_set(errp, ERROR_INVALID, NULL, "open", "Driver doesn't support backing files");
        return false;
    }
    if (!object_of(backing, "file") && !text_of(backing, "file") && !text_of(backing, "filename")) {
        if (!read_header(o, &file, &format, errp)) {
            return false;
        }
        if (file) {
            json_object_object_add(backing, "file", file);
        }
        if (format && !text_of(backing, "driver")) {
            set(backing, "driver", format);
        }
    }
    if (depth == 0) {
        error_set(errp, ERROR_LIMIT, NULL, "open", "the chain of backing files is too long");
        return false;
    }
    if (!json_object_object_get_ex(backing, "read-only", NULL)) {
        set(backing, "read-only", "on");
    }
    return complete(backing, false, depth - 1, errp);
}

/* The children of a quorum that options describe in place: each is like a drive. */
static bool coroutine_fn complete_children(struct json_object *o, bool warn, unsigned depth,
                                           Error **errp)
{
    for (; o; o = object_of(o, "file")) {
        struct json_object *children = object_of(o, "children");

        if (!children) {
            continue;
        }
        json_object_object_foreach(children, number, child)
        {
            (void)number;
            if (json_object_is_type(child, json_type_object) && object_of(child, "file") &&
                !complete(child, warn, depth, errp)) {
                return false;
            }
        }
    }
    return true;
}

/* The format of the disk that a blkverify node tests, wherever that is. */
static bool coroutine_fn complete_test(struct json_object *o, bool warn, unsigned depth,
                                       Error **errp)
{
    for (; o; o = object_of(o, "file") ? object_of(o, "file") : object_of(o, "image")) {
        struct json_object *test = object_of(o, "test");

        if (test && !complete(test, warn, depth, errp)) {
            return false;
        }
    }
    return true;
}

static bool coroutine_fn complete(struct json_object *o, bool warn, unsigned depth, Error **errp)
{
    complete_file(o);
    if (!complete_children(o, warn, depth, errp) || !complete_test(o, warn, depth, errp)) {
        return false;
    }
    complete_server(object_of(o, "file") ? object_of(o, "file") : o);
    if (!text_of(o, "driver")) {
        struct json_object *file = object_of(o, "file");
        const char *format;

        if (!file) {
            error_set(errp, ERROR_INVALID, NULL, "open", "Parameter 'driver' is missing");
            return false;
        }
        format = probe(file, warn, errp);
        if (!format) {
            return false;
        }
        set(o, "driver", format);
    }
    return complete_backing(o, depth, errp);
}

/* Puts the members of `from` into o where it has none of its own; of members that both have, those within. */
static void merge(struct json_object *o, struct json_object *from)
{
    json_object_object_foreach(from, key, value)
    {
        struct json_object *own;

        if (!json_object_object_get_ex(o, key, &own)) {
            json_object_object_add(o, key, json_object_get(value));
        } else if (json_object_is_type(own, json_type_object) &&
                   json_object_is_type(value, json_type_object)) {
            merge(own, value);
        }
    }
}

/* "blkdebug:…" with driver=blkdebug */
static bool is_named_by(const BlockDriver *drv, const char *name)
{
    g_autofree char *protocol = g_strndup(name, strcspn(name, ":"));

    return drv->protocols && name[strlen(protocol)] == ':' &&
           g_strv_contains(drv->protocols, protocol);
}

/* file=NAME: the name of the file below, or of the node itself if it is a protocol's. */
static bool place_file(const DriveNodes *d, struct json_object *o, Error **errp)
{
    const BlockDriver *drv = d->driver ? driver_find(d->driver) : NULL;
    struct json_object *file;

    if (!d->file || d->file[0] == '\0') {
        return true;
    }
    file = drive_parse_filename(d->file, errp);
    if (!file) {
        return false;
    }
    if (g_str_has_prefix(d->file, "json:")) {
        merge(o, file); /* the whole drive */
    } else if (drv && (drv->is_protocol || is_named_by(drv, d->file))) {
        merge(o, file);
        set(o, "driver", d->driver);
    } else if (object_of(o, "file")) {
        struct json_object *below = object_of(o, "file");

        /* file.driver=qcow2: the name is that of the file below */
        for (;;) {
            const char *name = text_of(below, "driver");
            const BlockDriver *format = name ? driver_find(name) : NULL;

            if (!format || format->is_protocol) {
                break;
            }
            name = format == &driver_blkdebug ? "image" : "file";
            if (!object_of(below, name)) {
                json_object_object_add(below, name, json_object_new_object());
            }
            below = object_of(below, name);
        }
        merge(below, file);
    } else {
        json_object_object_add(o, "file", json_object_get(file));
    }
    json_object_put(file);
    return true;
}

/* aio=native belongs to the node that has the file. */
static bool place_aio(const char *aio, struct json_object *o, Error **errp)
{
    static const char *const known[] = {"threads", "native", "io_uring", NULL};
    struct json_object *file = object_of(o, "file");

    if (!aio) {
        return true;
    }
    if (!g_strv_contains(known, aio)) {
        error_set(errp, ERROR_INVALID, "aio", "drive", "invalid aio option");
        return false;
    }
    complete_file(o);
    if (!file) {
        file = o;
    }
    /* The default is not said: then it need not be said again when the node is reopened. */
    if (strcmp(aio, "threads") != 0 && is_file(file) && !text_of(file, "aio")) {
        set(file, "aio", aio);
    }
    return true;
}

static bool is_on(struct json_object *o, const char *key, bool fallback)
{
    const char *text = o ? text_of(o, key) : NULL;

    return text ? strcmp(text, "on") == 0 : fallback;
}

void drive_options_defaults(const DriveNodes *d, struct json_object *nested, MediumDefaults *ret)
{
    struct json_object *cache = object_of(nested, "cache");
    const char *detect = text_of(nested, "detect-zeroes");

    *ret = (MediumDefaults){
        .read_only = is_on(nested, "read-only", d->read_only),
        .cache_direct = is_on(cache, "direct", false),
        .cache_no_flush = is_on(cache, "no-flush", false),
        .discard_unmap = g_strcmp0(text_of(nested, "discard"), "unmap") == 0,
        .detect_zeroes = g_strcmp0(detect, "unmap") == 0 ? DETECT_ZEROES_UNMAP
                         : g_strcmp0(detect, "on") == 0  ? DETECT_ZEROES_ON
                                                         : DETECT_ZEROES_OFF,
    };
}

bool coroutine_fn drive_options_complete(const DriveNodes *d, struct json_object *nested,
                                         BlockdevOptions **ret_options, Error **errp)
{
    /* What can be said of a medium that will come. */
    static const char *const of_empty[] = {"cache",   "read-only",     "auto-read-only",
                                           "discard", "detect-zeroes", NULL};

    if (d->driver) {
        if (!driver_find(d->driver)) {
            error_set(errp, ERROR_UNSUPPORTED, d->driver, "open", "Unknown driver '%s'", d->driver);
            return false;
        }
        set(nested, "driver", d->driver);
    }
    if (!place_file(d, nested, errp) || !place_aio(d->aio, nested, errp)) {
        return false;
    }
    if (!text_of(nested, "driver") && !json_object_object_get_ex(nested, "file", NULL)) {
        json_object_object_foreach(nested, key, unused)
        {
            (void)unused;
            if (!g_strv_contains(of_empty, key)) {
                error_set(errp, ERROR_INVALID, key, "drive", "Must specify either driver or file");
                return false;
            }
        }
        *ret_options = NULL;
        return true;
    }
    if (!json_object_object_get_ex(nested, "read-only", NULL)) {
        set(nested, "read-only", d->read_only ? "on" : "off");
    }
    if (!json_object_object_get_ex(nested, "auto-read-only", NULL)) {
        set(nested, "auto-read-only", "on");
    }
    return complete(nested, true, DEPTH_MAX, errp) && drive_options_check(nested, errp) &&
           qapi_parse(&qapi_type_BlockdevOptions, nested, true, (void **)ret_options, errp);
}

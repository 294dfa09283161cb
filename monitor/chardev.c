/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Character devices: the list, their users, what all kinds have in common.
 *
 * A device begins to talk when it has a user and the daemon serves (chardev_serve()).  What its user writes can be copied to a log
 * file.
 */
#include "chardev-internal.h"
#include "qapi-types.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static const ChardevKind *const kinds[] = {
    [CHARDEV_BACKEND_KIND_FILE] = &chardev_kind_file,
    [CHARDEV_BACKEND_KIND_PIPE] = &chardev_kind_pipe,
    [CHARDEV_BACKEND_KIND_SOCKET] = &chardev_kind_socket,
    [CHARDEV_BACKEND_KIND_NULL] = &chardev_kind_null,
    [CHARDEV_BACKEND_KIND_MUX] = &chardev_kind_mux,
    [CHARDEV_BACKEND_KIND_STDIO] = &chardev_kind_stdio,
    [CHARDEV_BACKEND_KIND_RINGBUF] = &chardev_kind_ringbuf,
    [CHARDEV_BACKEND_KIND_MEMORY] = &chardev_kind_memory,
};

static GPtrArray *devices; /* Chardev *, oldest first: what is shared comes before what shares it */
static bool serving;       /* chardev_serve() was called */
static bool stopping;      /* chardev_stop_waiting() was called */

static void ignore(void *opaque)
{
    (void)opaque;
}

static void ignore_data(void *opaque, const char *data, size_t len)
{
    (void)opaque;
    (void)data;
    (void)len;
}

/* Who listens to a device that has been started and has lost its user: it can only be removed. */
static const ChardevUser nobody = {.opened = ignore, .received = ignore_data, .closed = ignore};

static bool in_use(const Chardev *c)
{
    return c->user && c->user != &nobody;
}

bool chardev_is_stopping(void)
{
    return stopping;
}

void chardev_stop_waiting(void)
{
    stopping = true;
}

Chardev *chardev_find(const char *id)
{
    for (guint i = 0; devices && i < devices->len; i++) {
        Chardev *c = g_ptr_array_index(devices, i);

        if (strcmp(c->id, id) == 0) {
            return c;
        }
    }
    return NULL;
}

void chardev_foreach(void (*fn)(void *opaque, const char *id, const char *what, bool used),
                     void *opaque)
{
    for (guint i = devices ? devices->len : 0; i > 0; i--) {
        Chardev *c = g_ptr_array_index(devices, i - 1);
        g_autofree char *what = c->kind->describe ? c->kind->describe(c) : g_strdup(c->kind->name);

        fn(opaque, c->id, what, in_use(c));
    }
}

bool chardev_offers_oob(const Chardev *c)
{
    return c->kind != &chardev_kind_mux;
}

bool chardev_is_socket(const Chardev *c)
{
    return c->kind == &chardev_kind_socket;
}

/* ---- making ---- */

static bool open_log(Chardev *c, const ChardevBackend *b, Error **errp)
{
    const ChardevCommon *o = b->u.null.data; /* every branch begins with it */

    if (!o->logfile) {
        return true;
    }
    c->log_fd = open(o->logfile,
                     O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK |
                         (o->has_logappend && o->logappend ? O_APPEND : O_TRUNC),
                     0666);
    if (c->log_fd < 0) {
        error_set_errno(errp, errno, o->logfile, "chardev", "Unable to open logfile %s",
                        o->logfile);
        return false;
    }
    c->log_times = o->has_logtimestamp && o->logtimestamp;
    return true;
}

static void chardev_free(Chardev *c)
{
    if (c->kind->close) {
        c->kind->close(c);
    }
    if (c->log_fd >= 0) {
        close(c->log_fd);
    }
    g_free(c->id);
    g_free(c);
}

static Chardev *coroutine_fn make(const char *id, const ChardevBackend *b, Error **errp)
{
    Chardev *c = g_malloc0(kinds[b->type]->size);

    c->kind = kinds[b->type];
    c->id = g_strdup(id);
    c->log_fd = -1;
    if (!c->kind->open(c, b, errp) || !open_log(c, b, errp)) {
        chardev_free(c);
        return NULL;
    }
    return c;
}

static bool is_free(const char *id, bool command, Error **errp)
{
    if (!chardev_find(id)) {
        return true;
    }
    if (command) {
        error_set(errp, ERROR_EXISTS, id, "chardev", "Chardev with id '%s' already exists", id);
    } else {
        error_set(errp, ERROR_EXISTS, id, "chardev", "Duplicate ID '%s' for chardev", id);
    }
    return false;
}

static bool check_id(const char *id, Error **errp)
{
    bool good = g_ascii_isalpha(id[0]);

    for (const char *p = id; good && *p; p++) {
        good = g_ascii_isalnum(*p) || *p == '-' || *p == '.' || *p == '_';
    }
    if (!good) {
        error_set(errp, ERROR_INVALID, id, "chardev", "Parameter 'id' expects an identifier");
        error_hint(errp, "Identifiers consist of letters, digits, '-', '.', '_', "
                         "starting with a letter.");
    }
    return good;
}

bool coroutine_fn chardev_make(const char *id, const ChardevBackend *b, bool command, Error **errp)
{
    Chardev *c;

    if (!check_id(id, errp) || !is_free(id, command, errp)) {
        return false;
    }
    c = make(id, b, errp);
    if (c && !is_free(id, command, errp)) { /* making it may have suspended us */
        chardev_free(c);
        return false;
    }
    if (!c) {
        if (command) {
            error_prefix(errp, "Failed to add chardev '%s': ", id);
        }
        return false;
    }
    if (!devices) {
        devices = g_ptr_array_new();
    }
    g_ptr_array_add(devices, c);
    return true;
}

bool coroutine_fn chardev_new(struct json_object *options, Error **errp)
{
    g_autoptr(ChardevBackend) b = NULL;
    struct json_object *v;
    const char *id;
    bool mux;

    if (!json_object_is_type(options, json_type_object)) {
        error_set(errp, ERROR_INVALID, NULL, "chardev", "Parameters must be an object");
        return false;
    }
    if (!json_object_object_get_ex(options, "id", &v)) {
        error_set(errp, ERROR_INVALID, NULL, "chardev", "chardev: no id specified");
        return false;
    }
    id = json_object_get_string(v);
    if (!check_id(id, errp)) {
        return false;
    }
    b = chardev_parse(options, &mux, errp);
    if (!b) {
        return false;
    }
    if (mux) {
        g_autofree char *base = g_strconcat(id, "-base", NULL);
        ChardevMux data = {.chardev = base};
        ChardevBackend sharing = {.type = CHARDEV_BACKEND_KIND_MUX, .u.mux.data = &data};

        return chardev_make(base, b, false, errp) && chardev_make(id, &sharing, false, errp);
    }
    return chardev_make(id, b, false, errp);
}

bool coroutine_fn chardev_add(const char *id, const ChardevBackend *b, Error **errp)
{
    return chardev_make(id, b, true, errp);
}

/* ---- changing and removing ---- */

bool chardev_remove(const char *id, Error **errp)
{
    Chardev *c = chardev_find(id);

    if (!c) {
        error_set(errp, ERROR_NOT_FOUND, id, "chardev-remove", "Chardev '%s' not found", id);
        return false;
    }
    if (in_use(c)) {
        error_set(errp, ERROR_BUSY, id, "chardev-remove", "Chardev '%s' is busy", id);
        return false;
    }
    g_ptr_array_remove(devices, c);
    chardev_free(c);
    return true;
}

static Chardev *find_unused(const char *id, Error **errp)
{
    Chardev *c = chardev_find(id);

    if (!c) {
        error_set(errp, ERROR_NOT_FOUND, id, "chardev-change", "Chardev '%s' does not exist", id);
    } else if (c->kind == &chardev_kind_mux) {
        error_set(errp, ERROR_UNSUPPORTED, id, "chardev-change",
                  "Mux device hotswap not supported yet");
    } else if (in_use(c)) {
        error_set(errp, ERROR_UNSUPPORTED, id, "chardev-change",
                  "Chardev user does not support chardev hotswap");
    } else {
        return c;
    }
    return NULL;
}

bool coroutine_fn chardev_change(const char *id, const ChardevBackend *b, Error **errp)
{
    Chardev *next, *old = find_unused(id, errp);
    guint index;

    next = old ? make(id, b, errp) : NULL;
    if (!next) {
        return false;
    }
    old = find_unused(id, errp); /* as it may have become meanwhile */
    if (!old) {
        chardev_free(next);
        return false;
    }
    g_assert(g_ptr_array_find(devices, old, &index));
    g_ptr_array_index(devices, index) = next;
    chardev_free(old);
    return true;
}

/* ---- users ---- */

static void start(Chardev *c)
{
    c->started = true;
    c->kind->start(c);
}

void chardev_serve(void)
{
    serving = true;
    for (guint i = 0; devices && i < devices->len; i++) {
        Chardev *c = g_ptr_array_index(devices, i);

        if (c->user && !c->started) {
            start(c);
        }
    }
}

bool chardev_attach(Chardev *c, const ChardevUser *user, void *opaque, Error **errp)
{
    if (c->kind == &chardev_kind_mux) {
        if (!chardev_mux_attach(c, user, opaque, errp)) {
            return false;
        }
        c->user = user; /* the device is in use; who is told what is the mux's matter */
        c->started = true;
        return true;
    }
    if (c->user) {
        error_set(errp, ERROR_BUSY, c->id, "chardev", "Device '%s' is in use", c->id);
        return false;
    }
    c->user = user;
    c->opaque = opaque;
    if (serving) {
        start(c);
    }
    return true;
}

void chardev_detach(Chardev *c)
{
    c->user = &nobody;
    chardev_disconnect(c);
    if (!c->started) {
        c->user = NULL;
    }
}

void chardev_descriptors(Chardev *c, const int *fds, unsigned n)
{
    if (c->user->descriptors) {
        c->user->descriptors(c->opaque, fds, n);
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        close(fds[i]);
    }
}

/* A log that cannot be written to loses lines, not the device. */
static void log_text(Chardev *c, const char *data, size_t len)
{
    ssize_t n = write(c->log_fd, data, len);

    (void)n;
}

static void log_data(Chardev *c, const char *data, size_t len)
{
    if (!c->log_times) {
        log_text(c, data, len);
        return;
    }
    while (len > 0) {
        const char *end = memchr(data, '\n', len);
        size_t n = end ? (size_t)(end - data) + 1 : len;

        if (!c->log_in_line) {
            g_autoptr(GDateTime) now = g_date_time_new_now_utc();
            g_autofree char *text = g_date_time_format(now, "%Y-%m-%dT%H:%M:%S.%fZ ");

            log_text(c, text, strlen(text));
        }
        log_text(c, data, n);
        c->log_in_line = !end;
        data += n;
        len -= n;
    }
}

void chardev_write(Chardev *c, const char *data, size_t len)
{
    if (c->log_fd >= 0) {
        log_data(c, data, len);
    }
    c->kind->write(c, data, len);
}

size_t chardev_queued(const Chardev *c)
{
    return c->kind->queued ? c->kind->queued(c) : 0;
}

void chardev_set_reading(Chardev *c, bool on)
{
    if (c->kind->set_reading) {
        c->kind->set_reading(c, on);
    }
}

void chardev_disconnect(Chardev *c)
{
    if (c->kind->disconnect) {
        c->kind->disconnect(c);
    }
}

void chardev_close_all(void)
{
    while (devices && devices->len > 0) {
        chardev_free(g_ptr_array_steal_index(devices, devices->len - 1));
    }
    g_clear_pointer(&devices, g_ptr_array_unref);
}

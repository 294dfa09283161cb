/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The options of --chardev, which are older than the schema and named differently, as a backend of the schema.
 *
 * Scalars are strings; from JSON, booleans and numbers are as good.
 */
#include "chardev-internal.h"
#include "qapi-types.h"
#include <stdio.h>
#include <string.h>

static const char *option(struct json_object *o, const char *key)
{
    struct json_object *v;

    return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : NULL;
}

static bool flag(struct json_object *o, const char *key, bool *ret_has, bool *ret, Error **errp)
{
    const char *v = option(o, key);

    if (!v) {
        return true;
    }
    if (strcmp(v, "on") != 0 && strcmp(v, "off") != 0) {
        error_set(errp, ERROR_INVALID, key, "chardev", "Parameter '%s' expects 'on' or 'off'", key);
        return false;
    }
    *ret_has = true;
    *ret = strcmp(v, "on") == 0;
    return true;
}

static bool number(struct json_object *o, const char *key, bool *ret_has, int64_t *ret,
                   Error **errp)
{
    const char *v = option(o, key);

    if (!v) {
        return true;
    }
    if (!g_ascii_string_to_signed(v, 10, 0, G_MAXINT64, ret, NULL)) {
        error_set(errp, ERROR_INVALID, key, "chardev", "Parameter '%s' expects a number", key);
        return false;
    }
    *ret_has = true;
    return true;
}

/* What every kind has. */
static const char *const common[] = {"backend",   "id",           "mux", "logfile",
                                     "logappend", "logtimestamp", NULL};

/* Checks names, and makes all values strings. */
static bool check_known(struct json_object *o, const char *const *known, Error **errp)
{
    json_object_object_foreach(o, key, value)
    {
        if (!g_strv_contains(known, key) && !g_strv_contains(common, key)) {
            error_set(errp, ERROR_INVALID, key, "chardev", "Invalid parameter '%s'", key);
            return false;
        }
        if (json_object_is_type(value, json_type_boolean)) {
            json_object_object_add(
                o, key, json_object_new_string(json_object_get_boolean(value) ? "on" : "off"));
        } else if (!json_object_is_type(value, json_type_string) &&
                   !json_object_is_type(value, json_type_int)) {
            error_set(errp, ERROR_INVALID, key, "chardev",
                      "Invalid parameter type for '%s', expected: string", key);
            return false;
        }
    }
    return true;
}

/* ---- sockets ---- */

/* Where a socket is: exactly one of the three ways to say it. */
static bool check_address(struct json_object *o, Error **errp)
{
    bool path = option(o, "path"), fd = option(o, "fd"),
         inet = option(o, "host") || option(o, "port");

    if (path + fd + inet > 1) {
        error_set(errp, ERROR_INVALID, NULL, "chardev",
                  "None or one of 'path', 'fd' or 'host' option required.");
    } else if (inet && !option(o, "port")) {
        error_set(errp, ERROR_INVALID, "port", "chardev", "chardev: socket: no port given");
    } else if (path + fd + inet == 0) {
        error_set(errp, ERROR_INVALID, NULL, "chardev",
                  "chardev: socket: no path, port or fd given");
    } else {
        return true;
    }
    return false;
}

static bool parse_inet(struct json_object *o, InetSocketAddress *a, Error **errp)
{
    int64_t to = 0;

    a->host = g_strdup(option(o, "host") ? option(o, "host") : "");
    a->port = g_strdup(option(o, "port"));
    if (!number(o, "to", &a->has_to, &to, errp)) {
        return false;
    }
    if (to > 65535) {
        error_set(errp, ERROR_INVALID, "to", "chardev", "Failed to parse port '%s'",
                  option(o, "to"));
        return false;
    }
    a->to = to;
    return flag(o, "ipv4", &a->has_ipv4, &a->ipv4, errp) &&
           flag(o, "ipv6", &a->has_ipv6, &a->ipv6, errp);
}

static bool parse_address(struct json_object *o, SocketAddressLegacy *a, Error **errp)
{
    if (option(o, "path")) {
        UnixSocketAddress *u = a->u.q_unix.data = g_new0(UnixSocketAddress, 1);

        a->type = SOCKET_ADDRESS_TYPE_UNIX;
        u->path = g_strdup(option(o, "path"));
        return flag(o, "abstract", &u->has_abstract, &u->abstract, errp) &&
               flag(o, "tight", &u->has_tight, &u->tight, errp);
    }
    if (option(o, "fd")) {
        a->type = SOCKET_ADDRESS_TYPE_FD;
        a->u.fd.data = g_new0(FdSocketAddress, 1);
        a->u.fd.data->str = g_strdup(option(o, "fd"));
        return true;
    }
    a->type = SOCKET_ADDRESS_TYPE_INET;
    a->u.inet.data = g_new0(InetSocketAddress, 1);
    return parse_inet(o, a->u.inet.data, errp);
}

static const char *const socket_options[] = {
    "path",      "host",   "port",      "fd",        "server",    "wait",         "nodelay",
    "delay",     "ipv4",   "ipv6",      "to",        "abstract",  "tight",        "telnet",
    "websocket", "tn3270", "tls-creds", "tls-authz", "reconnect", "reconnect-ms", NULL};

static bool parse_socket(struct json_object *o, ChardevBackend *b, Error **errp)
{
    ChardevSocket *s = b->u.socket.data = g_new0(ChardevSocket, 1);
    bool has_delay = false, delay = false;

    if (!check_known(o, socket_options, errp) ||
        !flag(o, "server", &s->has_server, &s->server, errp) ||
        !flag(o, "wait", &s->has_wait, &s->wait, errp) ||
        !flag(o, "nodelay", &s->has_nodelay, &s->nodelay, errp) ||
        !flag(o, "delay", &has_delay, &delay, errp) || !check_address(o, errp)) {
        return false;
    }
    if (!s->has_server) {
        s->has_server = true;
        s->server = false;
    }
    if (!s->server && s->has_wait) {
        error_set(errp, ERROR_INVALID, "wait", "chardev",
                  "'wait' option is incompatible with socket in client connect mode");
        return false;
    }
    if (s->server && !s->has_wait) {
        s->has_wait = true;
        s->wait = !option(o, "fd");
    }
    if (!s->has_nodelay) {
        s->has_nodelay = true;
        s->nodelay = !has_delay || !delay;
    }
    s->tls_creds = g_strdup(option(o, "tls-creds"));
    s->tls_authz = g_strdup(option(o, "tls-authz"));
    s->addr = g_new0(SocketAddressLegacy, 1);
    return flag(o, "telnet", &s->has_telnet, &s->telnet, errp) &&
           flag(o, "websocket", &s->has_websocket, &s->websocket, errp) &&
           flag(o, "tn3270", &s->has_tn3270, &s->tn3270, errp) &&
           number(o, "reconnect", &s->has_reconnect, &s->reconnect, errp) &&
           number(o, "reconnect-ms", &s->has_reconnect_ms, &s->reconnect_ms, errp) &&
           parse_address(o, s->addr, errp);
}

/* ---- the others ---- */

static bool required(struct json_object *o, const char *kind, const char *key, char **ret,
                     Error **errp)
{
    *ret = g_strdup(option(o, key));
    if (!*ret) {
        error_set(errp, ERROR_INVALID, key, "chardev", "chardev: %s: no %s given", kind,
                  strcmp(key, "path") == 0 && strcmp(kind, "pipe") == 0 ? "device path"
                  : strcmp(key, "path") == 0                            ? "filename"
                                                                        : key);
    }
    return *ret;
}

static const char *const file_options[] = {"path", "append", "input-path", NULL};

static bool parse_file(struct json_object *o, ChardevBackend *b, Error **errp)
{
    ChardevFile *f = b->u.file.data = g_new0(ChardevFile, 1);

    f->in = g_strdup(option(o, "input-path"));
    return check_known(o, file_options, errp) && required(o, "file", "path", &f->out, errp) &&
           flag(o, "append", &f->has_append, &f->append, errp);
}

static const char *const pipe_options[] = {"path", NULL};

static bool parse_pipe(struct json_object *o, ChardevBackend *b, Error **errp)
{

    b->u.pipe.data = g_new0(ChardevHostdev, 1);
    return check_known(o, pipe_options, errp) &&
           required(o, "pipe", "path", &b->u.pipe.data->device, errp);
}

static const char *const null_options[] = {NULL};

static bool parse_null(struct json_object *o, ChardevBackend *b, Error **errp)
{

    b->u.null.data = g_new0(ChardevCommon, 1);
    return check_known(o, null_options, errp);
}

static const char *const mux_options[] = {"chardev", NULL};

static bool parse_mux(struct json_object *o, ChardevBackend *b, Error **errp)
{

    b->u.mux.data = g_new0(ChardevMux, 1);
    return check_known(o, mux_options, errp) &&
           required(o, "mux", "chardev", &b->u.mux.data->chardev, errp);
}

static const char *const stdio_options[] = {"signal", NULL};

static bool parse_stdio(struct json_object *o, ChardevBackend *b, Error **errp)
{

    b->u.stdio.data = g_new0(ChardevStdio, 1);
    return check_known(o, stdio_options, errp) &&
           flag(o, "signal", &b->u.stdio.data->has_signal, &b->u.stdio.data->signal, errp);
}

static const char *const ringbuf_options[] = {"size", NULL};

static bool parse_ringbuf(struct json_object *o, ChardevBackend *b, Error **errp)
{

    b->u.ringbuf.data = g_new0(ChardevRingbuf, 1);
    return check_known(o, ringbuf_options, errp) &&
           number(o, "size", &b->u.ringbuf.data->has_size, &b->u.ringbuf.data->size, errp);
}

static const struct {
    bool (*parse)(struct json_object *o, ChardevBackend *b, Error **errp);
    const char *const *options;
} kinds[] = {
    [CHARDEV_BACKEND_KIND_FILE] = {parse_file, file_options},
    [CHARDEV_BACKEND_KIND_PIPE] = {parse_pipe, pipe_options},
    [CHARDEV_BACKEND_KIND_SOCKET] = {parse_socket, socket_options},
    [CHARDEV_BACKEND_KIND_NULL] = {parse_null, null_options},
    [CHARDEV_BACKEND_KIND_MUX] = {parse_mux, mux_options},
    [CHARDEV_BACKEND_KIND_STDIO] = {parse_stdio, stdio_options},
    [CHARDEV_BACKEND_KIND_RINGBUF] = {parse_ringbuf, ringbuf_options},
    [CHARDEV_BACKEND_KIND_MEMORY] = {parse_ringbuf, ringbuf_options},
};

const char *chardev_kind_name(unsigned i)
{
    return i < G_N_ELEMENTS(kinds) ? qapi_type_ChardevBackendKind.enum_names[i] : NULL;
}

bool chardev_print_help(const char *kind)
{
    bool found = false;

    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        const char *name = chardev_kind_name(i);
        unsigned column = 20;

        if (kind && strcmp(kind, name) != 0) {
            continue;
        }
        found = true;
        printf("  %-17s id=", name);
        for (const char *const *list = kinds[i].options; list;
             list = list == common ? NULL : common) {
            for (unsigned k = 0; list[k]; k++) {
                if (strcmp(list[k], "backend") == 0 || strcmp(list[k], "id") == 0) {
                    continue;
                }
                if (column + strlen(list[k]) > 70) {
                    column = 20;
                    printf("\n%20s", "");
                } else {
                    printf(" ");
                }
                column += printf("[%s=]", list[k]) + 1;
            }
        }
        printf("\n");
    }
    return found;
}

ChardevBackend *chardev_parse(struct json_object *o, bool *ret_mux, Error **errp)
{
    g_autoptr(ChardevBackend) b = g_new0(ChardevBackend, 1);
    const char *backend = option(o, "backend"), *id = option(o, "id");
    bool has_mux;
    int kind;

    if (!backend) {
        error_set(errp, ERROR_INVALID, NULL, "chardev", "chardev: \"%s\" missing backend", id);
        return NULL;
    }
    kind = qapi_enum_parse(&qapi_type_ChardevBackendKind, backend);
    if (kind < 0) {
        error_set(errp, ERROR_INVALID, backend, "chardev", "'%s' is not a valid char driver name",
                  backend);
        return NULL;
    }
    b->type = kind;
    *ret_mux = false;
    if (!kinds[kind].parse(o, b, errp) || !flag(o, "mux", &has_mux, ret_mux, errp)) {
        return NULL;
    }
    b->u.null.data->logfile = g_strdup(option(o, "logfile")); /* every branch begins with these */
    if (!flag(o, "logappend", &b->u.null.data->has_logappend, &b->u.null.data->logappend, errp) ||
        !flag(o, "logtimestamp", &b->u.null.data->has_logtimestamp, &b->u.null.data->logtimestamp,
              errp)) {
        return NULL;
    }
    return g_steal_pointer(&b);
}

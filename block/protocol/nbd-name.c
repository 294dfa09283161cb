/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Names of NBD exports.
 *
 *   nbd://host[:port]/export     nbd+tcp://...     nbd+unix:///export?socket=/path
 *   nbd:host:port[:exportname=export]              nbd:unix:/path[:exportname=export]
 *
 * The first line is the form of the NBD project's document "uri.md"; the second is older and has no escapes, but is found in headers.
 */
#include "nbd-client.h"
#include "qapi-types.h"
#include <json-c/json.h>
#include <string.h>

#define DEFAULT_PORT "10809"
#define EXPORTNAME   ":exportname="

const char *const nbd_protocols[] = {"nbd", "nbd+tcp", "nbd+unix", NULL};

static void add_text(struct json_object *o, const char *key, const char *value)
{
    json_object_object_add(o, key, json_object_new_string(value));
}

static struct json_object *options_of(struct json_object *server, const char *export)
{
    struct json_object *o = json_object_new_object();

    add_text(o, "driver", "nbd");
    json_object_object_add(o, "server", server);
    if (export && *export) {
        add_text(o, "export", export);
    }
    return o;
}

static struct json_object *unix_server(const char *path)
{
    struct json_object *s = json_object_new_object();

    add_text(s, "type", "unix");
    add_text(s, "path", path);
    return s;
}

static struct json_object *inet_server(const char *host, const char *port)
{
    struct json_object *s = json_object_new_object();

    add_text(s, "type", "inet");
    add_text(s, "host", host);
    add_text(s, "port", port);
    return s;
}

/* ---- URIs ---- */

static struct json_object *bad_uri(const char *name, Error **errp)
{
    error_set(errp, ERROR_INVALID, name, "open", "No valid URL specified");
    return NULL;
}

static struct json_object *parse_uri(const char *name, Error **errp)
{
    /* The query stays encoded: it is taken apart first. */
    g_autoptr(GUri) uri = g_uri_parse(name, G_URI_FLAGS_ENCODED_QUERY, NULL);
    g_autoptr(GHashTable) params = NULL;
    const char *host, *query, *path, *socket;
    g_autofree char *port = NULL;

    if (!uri) {
        return bad_uri(name, errp);
    }
    query = g_uri_get_query(uri);
    params = g_uri_parse_params(query ? query : "", -1, "&", G_URI_PARAMS_NONE, NULL);
    host = g_uri_get_host(uri);
    path = g_uri_get_path(uri);
    path += path[0] == '/';
    socket = params ? g_hash_table_lookup(params, "socket") : NULL;
    if (!params || g_hash_table_size(params) > (socket ? 1 : 0)) {
        return bad_uri(name, errp);
    }
    if (strcmp(g_uri_get_scheme(uri), "nbd+unix") == 0) {
        if ((host && *host) || g_uri_get_port(uri) != -1 || !socket || !*socket) {
            return bad_uri(name, errp);
        }
        return options_of(unix_server(socket), path);
    }
    if (!host || !*host || socket) {
        return bad_uri(name, errp);
    }
    port = g_uri_get_port(uri) > 0 ? g_strdup_printf("%d", g_uri_get_port(uri))
                                   : g_strdup(DEFAULT_PORT);
    return options_of(inet_server(host, port), path);
}

/* ---- the older form ---- */

static struct json_object *parse_old(const char *name, Error **errp)
{
    const char *at = name + strlen("nbd:"), *export = strstr(at, EXPORTNAME);
    g_autofree char *address = export ? g_strndup(at, export - at) : g_strdup(at);
    char *port;

    export = export ? export + strlen(EXPORTNAME) : NULL;
    if (g_str_has_prefix(address, "unix:") && address[strlen("unix:")]) {
        return options_of(unix_server(address + strlen("unix:")), export);
    }
    port = strrchr(address, ':');
    if (!port || port == address || !port[1]) {
        error_set(errp, ERROR_INVALID, name, "open", "error parsing address '%s'", address);
        return NULL;
    }
    *port++ = '\0';
    if (address[0] == '[' && port - address > 3 && port[-2] == ']') {
        port[-2] = '\0';
        return options_of(inet_server(address + 1, port), export);
    }
    return options_of(inet_server(address, port), export);
}

struct json_object *nbd_parse_name(const char *name, Error **errp)
{
    return strstr(name, "://") ? parse_uri(name, errp) : parse_old(name, errp);
}

/* ---- the other way ---- */

char *nbd_make_name(const SocketAddress *server, const char *export)
{
    /* Not escaped, as others show and compare these names. */
    switch (server->type) {
    case SOCKET_ADDRESS_TYPE_UNIX:
        if (server->u.q_unix.has_abstract && server->u.q_unix.abstract) {
            return NULL;
        }
        return *export ? g_strdup_printf("nbd+unix:///%s?socket=%s", export, server->u.q_unix.path)
                       : g_strdup_printf("nbd+unix://?socket=%s", server->u.q_unix.path);
    case SOCKET_ADDRESS_TYPE_INET:
        if (server->u.inet.has_ipv4 || server->u.inet.has_ipv6 || server->u.inet.has_to) {
            return NULL;
        }
        return g_strdup_printf(
            strchr(server->u.inet.host, ':') ? "nbd://[%s]:%s%s%s" : "nbd://%s:%s%s%s",
            server->u.inet.host, server->u.inet.port, *export ? "/" : "", export);
    default:
        return NULL;
    }
}

char *nbd_show_address(const SocketAddress *server)
{
    switch (server->type) {
    case SOCKET_ADDRESS_TYPE_UNIX:
        return g_strdup(server->u.q_unix.path);
    case SOCKET_ADDRESS_TYPE_INET:
        return g_strdup_printf("%s:%s", server->u.inet.host, server->u.inet.port);
    case SOCKET_ADDRESS_TYPE_VSOCK:
        return g_strdup_printf("%s:%s", server->u.vsock.cid, server->u.vsock.port);
    default:
        return g_strdup(server->u.fd.str);
    }
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The driver `nbd`: an export of an NBD server as a disk, by libnbd.
 *
 *   nbd-connect.c   from an address to a session          nbd-tls.c    TLS, between the two
 *   nbd-session.c   keeping a session, and getting a new one
 *   nbd-io.c        requests                              nbd-name.c   names
 *
 * The client's coroutines run on the I/O thread that all exports share which have no thread of their own; requests come from any thread.
 * A server that hangs keeps the requests to this node waiting, and nobody else's; abandon() ends that wait.
 */
#include "block/iothread-objects.h"
#include "block/reopen.h"
#include "block/tls-creds.h"
#include "nbd-client.h"
#include "qapi-types.h"
#include "qapi/json-writer.h"
#include "util/passed-fd.h"
#include <limits.h>
#include <string.h>
#include <unistd.h>

#define MAX_NAME   4096
#define MAX_LENGTH (UINT64_C(1) << 30)
#define SECOND     INT64_C(1000000000)
#define ALLOCATION "base:allocation"
#define DEPTH      "qemu:allocation-depth"

static bool take_credentials(NbdClient *c, const BlockdevOptionsNbd *o, Error **errp)
{
    NbdTarget *t = &c->target;

    if (!o->tls_creds) {
        if (o->tls_hostname && *o->tls_hostname) {
            error_set(errp, ERROR_INVALID, c->name, "open", "TLS hostname requires TLS creds");
            return false;
        }
        return true;
    }
    t->creds = tls_creds_lookup(o->tls_creds, false, errp);
    if (o->tls_hostname) {
        t->tls_hostname = *o->tls_hostname ? g_strdup(o->tls_hostname) : NULL;
    } else if (o->server->type == SOCKET_ADDRESS_TYPE_INET) {
        t->tls_hostname = g_strdup(o->server->u.inet.host);
    }
    return t->creds;
}

static bool make_target(NbdClient *c, const BlockdevOptionsNbd *o, Error **errp)
{
    NbdTarget *t = &c->target;

    t->fd = -1;
    t->server = qapi_copy_SocketAddress(o->server);
    t->export = g_strdup(o->export ? o->export : "");
    t->context = g_strdup(o->x_dirty_bitmap ? o->x_dirty_bitmap : ALLOCATION);
    t->shown = nbd_show_address(o->server);
    if (strlen(t->export) > MAX_NAME) {
        error_set(errp, ERROR_LIMIT, c->name, "open", "export name too long to send to server");
        return false;
    }
    if (strlen(t->context) > MAX_NAME) {
        error_set(errp, ERROR_LIMIT, c->name, "open",
                  "x-dirty-bitmap query too long to send to server");
        return false;
    }
    if (!take_credentials(c, o, errp)) {
        return false;
    }
    if (o->server->type == SOCKET_ADDRESS_TYPE_FD) {
        t->fd = passed_fd_socket(o->server->u.fd.str, errp);
        return t->fd >= 0;
    }
    return true;
}

static void client_free(NbdClient *c)
{
    NbdTarget *t = &c->target;

    qapi_free_SocketAddress(t->server);
    g_free(t->export);
    g_free(t->context);
    g_free(t->tls_hostname);
    g_free(t->shown);
    tls_creds_unref(t->creds);
    if (t->fd >= 0) {
        close(t->fd);
    }
    if (c->thread) {
        iothread_unref(c->thread);
    }
    pthread_mutex_destroy(&c->lock);
    g_free(c->name);
}

static bool check_facts(Node *n, const BlockdevOptionsNbd *o, const NbdFacts *f, Error **errp)
{
    if (o->x_dirty_bitmap && !f->context) {
        error_set(errp, ERROR_NOT_FOUND, n->name, "open", "requested x-dirty-bitmap %s not found",
                  o->x_dirty_bitmap);
        return false;
    }
    if (f->read_only && !atomic_load(&n->read_only)) {
        if (!n->auto_read_only) {
            error_set(errp, ERROR_PERMISSION, n->name, "open", "request on denied write access");
            return false;
        }
        atomic_store(&n->read_only, true);
    }
    return true;
}

static void apply_facts(Node *n, const NbdFacts *f)
{
    uint64_t max = MAX_LENGTH & ~(uint64_t)(f->min_block - 1);

    n->limits = (NodeLimits){
        .request_alignment = f->min_block,
        .memory_alignment = 1,
        .max_transfer = f->max_block,
        .max_iov = IOV_MAX,
        .max_write_zeroes = max,
        .max_discard = max,
        .opt_transfer = f->preferred_block,
    };
    atomic_store(&n->size, f->size);
}

static void nbd_add_name_options(const Node *n, struct json_object *to)
{
    const BlockdevOptionsNbd *o = &n->options->u.nbd;
    const struct {
        const char *key, *value;
    } texts[] = {
        {"export", o->export},
        {"tls-creds", o->tls_creds},
        {"tls-hostname", o->tls_hostname},
    };

    json_object_object_add(to, "server", qapi_serialise_SocketAddress(o->server));
    for (unsigned i = 0; i < G_N_ELEMENTS(texts); i++) {
        if (texts[i].value) {
            json_object_object_add(to, texts[i].key, json_object_new_string(texts[i].value));
        }
    }
}

/* For addresses that no name can hold. */
static char *json_name(const Node *n)
{
    g_autoptr(JsonObject) o = json_object_new_object();
    g_autofree char *text = NULL;

    json_object_object_add(o, "driver", json_object_new_string("nbd"));
    nbd_add_name_options(n, o);
    text = qapi_json_print(o, false);
    return g_strconcat("json:", text, NULL);
}

static bool coroutine_fn nbd_node_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    const BlockdevOptionsNbd *o = &options->u.nbd;
    NbdClient *c = n->state;
    IOThread *thread;
    NbdFacts facts;

    pthread_mutex_init(&c->lock, NULL);
    co_queue_init(&c->waiting);
    c->name = g_strdup(n->name);
    c->reconnect_ns = o->has_reconnect_delay ? o->reconnect_delay * SECOND : 0;
    thread = iothread_default(errp);
    if (!thread || !make_target(c, o, errp)) {
        client_free(c);
        return false;
    }
    c->thread = iothread_ref(thread);
    c->shows_depth = strcmp(c->target.context, DEPTH) == 0;
    if (!nbd_client_start(c, o->has_open_timeout ? o->open_timeout * SECOND : 0, &facts, errp)) {
        client_free(c);
        return false;
    }
    if (!check_facts(n, o, &facts, errp)) {
        nbd_client_end(c);
        client_free(c);
        return false;
    }
    apply_facts(n, &facts);
    n->filename = nbd_make_name(o->server, c->target.export);
    if (!n->filename) {
        n->filename = json_name(n);
    }
    return true;
}

static void coroutine_fn nbd_node_close(Node *n)
{
    NbdClient *c = n->state;

    nbd_client_end(c);
    client_free(c);
}

static void nbd_node_abandon(Node *n)
{
    nbd_client_stop(n->state);
}

static void nbd_node_stop_waiting(Node *n)
{
    nbd_client_stop_waiting(n->state);
}

static bool server_is_read_only(NbdClient *c)
{
    bool ro;

    pthread_mutex_lock(&c->lock);
    ro = c->session && c->session->facts.read_only;
    pthread_mutex_unlock(&c->lock);
    return ro;
}

static bool check_writable(Node *n, Error **errp)
{
    if (server_is_read_only(n->state)) {
        error_set(errp, ERROR_PERMISSION, n->name, "reopen",
                  "Can't reopen read-only mount as read/write");
        return false;
    }
    return true;
}

static bool coroutine_fn nbd_reopen_prepare(Node *n, Reopen *r, Error **errp)
{
    if (!r->read_only && r->auto_read_only && server_is_read_only(n->state)) {
        r->read_only = true;
    }
    return r->read_only || check_writable(n, errp);
}

static bool coroutine_fn nbd_rw_begin(Node *n, Error **errp)
{
    return check_writable(n, errp);
}

const BlockDriver driver_nbd = {
    .name = "nbd",
    .is_protocol = true,
    .state_size = sizeof(NbdClient),
    .protocols = nbd_protocols,
    .parse_name = nbd_parse_name,
    .open = nbd_node_open,
    .close = nbd_node_close,
    .abandon = nbd_node_abandon,
    .stop_waiting = nbd_node_stop_waiting,
    .add_name_options = nbd_add_name_options,
    .reopen_prepare = nbd_reopen_prepare,
    .rw_begin = nbd_rw_begin,
    .preadv = nbd_node_preadv,
    .pwritev = nbd_node_pwritev,
    .has_fua = true,
    .pwrite_zeroes = nbd_node_pwrite_zeroes,
    .pdiscard = nbd_node_pdiscard,
    .flush = nbd_node_flush,
    .block_status = nbd_node_block_status,
};

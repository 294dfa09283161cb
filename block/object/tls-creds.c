/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Objects tls-creds-anon, tls-creds-psk and tls-creds-x509.
 *
 * Files are read when the object is made.  Servers and devices hold a reference to the credentials, so the object can be
 * deleted (and made anew, with other files) while they serve.
 */
#include "block/tls-creds.h"
#include "block/secret.h"
#include "object-internal.h"
#include "qapi-types.h"
#include "util/worker.h"

typedef struct TlsObject {
    Object base;
    TlsCreds *creds;
} TlsObject;

typedef struct LoadJob {
    const TlsOptions *options;
    TlsCreds *creds;
    Error **errp;
} LoadJob;

static int load_on_worker(void *opaque)
{
    LoadJob *j = opaque;

    j->creds = tls_creds_new(j->options, j->errp);
    return 0;
}

static bool coroutine_fn load(Object *o, const TlsOptions *options, Error **errp)
{
    LoadJob j = {.options = options, .errp = errp};

    worker_run(WORKERS_CONTROL, load_on_worker, &j);
    ((TlsObject *)o)->creds = j.creds;
    return j.creds;
}

/* What the three have in common; the generated structures have the same members. */
#define COMMON(p)                                                                                  \
    .server = (p)->has_endpoint && (p)->endpoint == TLS_ENDPOINT_SERVER,                           \
    .verify_peer = !(p)->has_verify_peer || (p)->verify_peer, .dir = (p)->dir,                     \
    .priority = (p)->priority

static bool coroutine_fn anon_create(Object *o, Error **errp)
{
    const TlsCredsAnonProperties *p = &o->options->u.tls_creds_anon;
    const TlsOptions options = {.kind = TLS_ANON, COMMON(p)};

    return load(o, &options, errp);
}

static bool coroutine_fn psk_create(Object *o, Error **errp)
{
    const TlsCredsPskProperties *p = &o->options->u.tls_creds_psk;
    const TlsOptions options = {.kind = TLS_PSK, COMMON(p), .username = p->username};

    if (options.server && p->username) {
        error_set(errp, ERROR_INVALID, o->id, "object-add",
                  "username should not be set when endpoint=server");
        return false;
    }
    return load(o, &options, errp);
}

static bool coroutine_fn x509_create(Object *o, Error **errp)
{
    const TlsCredsX509Properties *p = &o->options->u.tls_creds_x509;
    g_autofree char *password = NULL;
    TlsOptions options = {
        .kind = TLS_X509, COMMON(p), .sanity_check = !p->has_sanity_check || p->sanity_check};

    if (p->passwordid) {
        password = secret_lookup_utf8(p->passwordid, errp);
        if (!password) {
            return false;
        }
    }
    options.password = password;
    return load(o, &options, errp);
}

static void cleanup(Object *o)
{
    tls_creds_unref(((TlsObject *)o)->creds);
}

TlsCreds *tls_creds_lookup(const char *id, bool server, Error **errp)
{
    Object *o = object_find(id);
    TlsCreds *c;

    if (!o) {
        error_set(errp, ERROR_NOT_FOUND, id, "tls", "No TLS credentials with id '%s'", id);
        return NULL;
    }
    if (!object_type_is_a(o->type, "tls-creds")) {
        error_set(errp, ERROR_INVALID, id, "tls", "Object with id '%s' is not TLS credentials", id);
        return NULL;
    }
    c = ((TlsObject *)o)->creds;
    if (tls_creds_is_server(c) != server) {
        error_set(errp, ERROR_INVALID, id, "tls", "Expected TLS credentials for a %s endpoint",
                  server ? "server" : "client");
        return NULL;
    }
    return tls_creds_ref(c);
}

#define COMMON_PROPERTIES                                                                          \
    {"loaded", "bool", "true"}, {"endpoint", "QCryptoTLSCredsEndpoint", "\"client\""},             \
        {"dir", "string", NULL}, {"verify-peer", "bool", "true"},                                  \
    {                                                                                              \
        "priority", "string", NULL                                                                 \
    }

static const ObjectProperty anon_properties[] = {COMMON_PROPERTIES, {0}};
static const ObjectProperty psk_properties[] = {
    COMMON_PROPERTIES, {"username", "string", NULL}, {0}};
static const ObjectProperty x509_properties[] = {
    COMMON_PROPERTIES, {"sanity-check", "bool", "true"}, {"passwordid", "string", NULL}, {0}};

const ObjectClass object_type_tls_creds_anon = {
    .name = "tls-creds-anon",
    .parent = "tls-creds",
    .size = sizeof(TlsObject),
    .properties = anon_properties,
    .create = anon_create,
    .cleanup = cleanup,
};
const ObjectClass object_type_tls_creds_psk = {
    .name = "tls-creds-psk",
    .parent = "tls-creds",
    .size = sizeof(TlsObject),
    .properties = psk_properties,
    .create = psk_create,
    .cleanup = cleanup,
};
const ObjectClass object_type_tls_creds_x509 = {
    .name = "tls-creds-x509",
    .parent = "tls-creds",
    .size = sizeof(TlsObject),
    .properties = x509_properties,
    .create = x509_create,
    .cleanup = cleanup,
};

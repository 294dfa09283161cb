/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * TLS; see tls.h.
 *
 * File names and the meaning of options are those of QEMU's objects, so that existing directories can be used.
 */
#include "util/tls.h"
#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DEFAULT_PRIORITY "NORMAL"
#define DEFAULT_USER     "qemu"

struct TlsCreds {
    TlsKind kind;
    bool server, verify_peer;
    char *priority;
    union {
        gnutls_anon_server_credentials_t anon_server;
        gnutls_anon_client_credentials_t anon_client;
        gnutls_psk_server_credentials_t psk_server;
        gnutls_psk_client_credentials_t psk_client;
        gnutls_certificate_credentials_t x509;
    } u;
    atomic_uint refs;
};

struct TlsSession {
    TlsCreds *creds;
    gnutls_session_t session;
    char *hostname, *peer;
    int fd;
    bool established;
};

/* ---- credentials ---- */

static bool failed(Error **errp, const char *what, int ret)
{
    error_set(errp, ERROR_INVALID, NULL, "tls", "%s: %s", what, gnutls_strerror(ret));
    return false;
}

/* The path of a file in the directory.  NULL without *errp: it is not there, and need not be. */
static char *find_file(const TlsOptions *o, const char *name, bool required, Error **errp)
{
    char *path = g_strdup_printf("%s/%s", o->dir, name);

    if (access(path, R_OK) < 0) {
        if (errno != ENOENT || required) {
            error_set_errno(errp, errno, path, "tls", "Unable to access credentials %s", path);
        }
        g_free(path);
        return NULL;
    }
    return path;
}

static bool check_usage(gnutls_x509_crt_t cert, const char *path, bool server, Error **errp)
{
    const char *wanted = server ? GNUTLS_KP_TLS_WWW_SERVER : GNUTLS_KP_TLS_WWW_CLIENT;
    bool any = false;

    for (unsigned i = 0;; i++) {
        char oid[128];
        size_t len = sizeof(oid);
        int ret = gnutls_x509_crt_get_key_purpose_oid(cert, i, oid, &len, NULL);

        if (ret == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
            break;
        }
        if (ret < 0 || strcmp(oid, wanted) == 0 || strcmp(oid, GNUTLS_KP_ANY) == 0) {
            return true;
        }
        any = true;
    }
    if (any) {
        error_set(errp, ERROR_INVALID, path, "tls",
                  "Certificate %s purpose does not allow use with a TLS %s", path,
                  server ? "server" : "client");
    }
    return !any;
}

static bool check_cert(const char *path, bool server, bool ca, Error **errp)
{
    g_autofree char *text = NULL;
    gnutls_x509_crt_t cert;
    gnutls_datum_t data;
    time_t now = time(NULL);
    gsize len;
    bool ok = false;
    int ret;

    if (!g_file_get_contents(path, &text, &len, NULL)) {
        return true; /* loading it tells */
    }
    gnutls_x509_crt_init(&cert);
    data = (gnutls_datum_t){(unsigned char *)text, len};
    ret = gnutls_x509_crt_import(cert, &data, GNUTLS_X509_FMT_PEM);
    if (ret < 0) {
        error_set(errp, ERROR_CORRUPT, path, "tls", "Unable to import certificate %s: %s", path,
                  gnutls_strerror(ret));
    } else if (gnutls_x509_crt_get_expiration_time(cert) < now) {
        error_set(errp, ERROR_INVALID, path, "tls", "The certificate %s has expired", path);
    } else if (gnutls_x509_crt_get_activation_time(cert) > now) {
        error_set(errp, ERROR_INVALID, path, "tls", "The certificate %s is not yet active", path);
    } else if (ca && gnutls_x509_crt_get_basic_constraints(cert, NULL, NULL, NULL) == 0) {
        error_set(errp, ERROR_INVALID, path, "tls",
                  "The certificate %s basic constraints do not show a CA", path);
    } else {
        ok = ca || check_usage(cert, path, server, errp);
    }
    gnutls_x509_crt_deinit(cert);
    return ok;
}

static bool load_pair(TlsCreds *c, const TlsOptions *o, Error **errp)
{
    const char *side = o->server ? "server" : "client";
    g_autofree char *cert_name = g_strdup_printf("%s-cert.pem", side),
                    *key_name = g_strdup_printf("%s-key.pem", side), *cert = NULL, *key = NULL;
    int ret;

    cert = find_file(o, cert_name, o->server, errp);
    if (!cert) {
        return !*errp;
    }
    key = find_file(o, key_name, true, errp);
    if (!key || (o->sanity_check && !check_cert(cert, o->server, false, errp))) {
        return false;
    }
    ret = gnutls_certificate_set_x509_key_file2(c->u.x509, cert, key, GNUTLS_X509_FMT_PEM,
                                                o->password, 0);
    if (ret < 0) {
        error_set(errp, ERROR_INVALID, cert, "tls", "Cannot load certificate '%s' & key '%s': %s",
                  cert, key, gnutls_strerror(ret));
        return false;
    }
    return true;
}

static bool load_x509(TlsCreds *c, const TlsOptions *o, Error **errp)
{
    g_autofree char *ca = NULL, *crl = NULL;
    int ret = gnutls_certificate_allocate_credentials(&c->u.x509);

    if (ret < 0) {
        return failed(errp, "Cannot allocate credentials", ret);
    }
    /* A server that asks for no certificate needs no authority. */
    ca = find_file(o, "ca-cert.pem", !o->server || o->verify_peer, errp);
    if (*errp || (ca && o->sanity_check && !check_cert(ca, o->server, true, errp))) {
        return false;
    }
    if (ca) {
        ret = gnutls_certificate_set_x509_trust_file(c->u.x509, ca, GNUTLS_X509_FMT_PEM);
        if (ret < 0) {
            error_set(errp, ERROR_INVALID, ca, "tls", "Cannot load CA certificate '%s': %s", ca,
                      gnutls_strerror(ret));
            return false;
        }
    }
    if (!load_pair(c, o, errp)) {
        return false;
    }
    crl = find_file(o, "ca-crl.pem", false, errp);
    if (crl) {
        ret = gnutls_certificate_set_x509_crl_file(c->u.x509, crl, GNUTLS_X509_FMT_PEM);
        if (ret < 0) {
            error_set(errp, ERROR_INVALID, crl, "tls", "Cannot load CRL '%s': %s", crl,
                      gnutls_strerror(ret));
        }
    }
    return !*errp;
}

static bool load_psk_key(TlsCreds *c, const TlsOptions *o, const char *path, Error **errp)
{
    const char *user = o->username ? o->username : DEFAULT_USER;
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    int ret;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        error_set(errp, ERROR_IO, path, "tls", "Cannot read %s", path);
        return false;
    }
    lines = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        char *colon = strchr(lines[i], ':');

        if (colon && strlen(user) == (size_t)(colon - lines[i]) &&
            strncmp(lines[i], user, colon - lines[i]) == 0) {
            char *hex = g_strchomp(colon + 1);
            gnutls_datum_t key = {(unsigned char *)hex, strlen(hex)};

            ret =
                gnutls_psk_set_client_credentials(c->u.psk_client, user, &key, GNUTLS_PSK_KEY_HEX);
            return ret >= 0 || failed(errp, "Cannot set PSK client credentials", ret);
        }
    }
    error_set(errp, ERROR_NOT_FOUND, path, "tls", "Username %s not found in PSK file", user);
    return false;
}

static bool load_psk(TlsCreds *c, const TlsOptions *o, Error **errp)
{
    g_autofree char *path = find_file(o, "keys.psk", true, errp);
    int ret;

    if (!path) {
        return false;
    }
    if (!o->server) {
        ret = gnutls_psk_allocate_client_credentials(&c->u.psk_client);
        return ret < 0 ? failed(errp, "Cannot allocate credentials", ret)
                       : load_psk_key(c, o, path, errp);
    }
    ret = gnutls_psk_allocate_server_credentials(&c->u.psk_server);
    if (ret >= 0) {
        ret = gnutls_psk_set_server_credentials_file(c->u.psk_server, path);
    }
    return ret >= 0 || failed(errp, "Cannot set PSK server credentials", ret);
}

static bool load_anon(TlsCreds *c, const TlsOptions *o, Error **errp)
{
    int ret = o->server ? gnutls_anon_allocate_server_credentials(&c->u.anon_server)
                        : gnutls_anon_allocate_client_credentials(&c->u.anon_client);

    if (ret >= 0 && o->server) {
        ret = gnutls_anon_set_server_known_dh_params(c->u.anon_server, GNUTLS_SEC_PARAM_MEDIUM);
    }
    return ret >= 0 || failed(errp, "Cannot allocate credentials", ret);
}

TlsCreds *tls_creds_new(const TlsOptions *o, Error **errp)
{
    static const char *const more[] = {
        [TLS_ANON] = "+ANON-DH:+ANON-ECDH:-VERS-TLS1.3",
        [TLS_PSK] = "+ECDHE-PSK:+DHE-PSK:+PSK",
        [TLS_X509] = NULL,
    };
    const char *priority = o->priority ? o->priority : DEFAULT_PRIORITY;
    TlsCreds *c;
    bool ok;

    if (!o->dir && o->kind != TLS_ANON) {
        error_set(errp, ERROR_INVALID, NULL, "tls", "Missing 'dir' property value");
        return NULL;
    }
    c = g_new0(TlsCreds, 1);
    atomic_init(&c->refs, 1);
    c->kind = o->kind;
    c->server = o->server;
    c->verify_peer = o->verify_peer;
    c->priority =
        more[o->kind] ? g_strdup_printf("%s:%s", priority, more[o->kind]) : g_strdup(priority);
    ok = o->kind == TLS_ANON  ? load_anon(c, o, errp)
         : o->kind == TLS_PSK ? load_psk(c, o, errp)
                              : load_x509(c, o, errp);
    if (!ok) {
        tls_creds_unref(c);
        return NULL;
    }
    return c;
}

TlsCreds *tls_creds_ref(TlsCreds *c)
{
    atomic_fetch_add(&c->refs, 1);
    return c;
}

static void free_gnutls(TlsCreds *c)
{
    /* All members of the union are pointers, NULL where nothing was allocated. */
    if (!c->u.x509) {
        return;
    }
    if (c->kind == TLS_X509) {
        gnutls_certificate_free_credentials(c->u.x509);
    } else if (c->kind == TLS_PSK && c->server) {
        gnutls_psk_free_server_credentials(c->u.psk_server);
    } else if (c->kind == TLS_PSK) {
        gnutls_psk_free_client_credentials(c->u.psk_client);
    } else if (c->server) {
        gnutls_anon_free_server_credentials(c->u.anon_server);
    } else {
        gnutls_anon_free_client_credentials(c->u.anon_client);
    }
}

void tls_creds_unref(TlsCreds *c)
{
    if (c && atomic_fetch_sub(&c->refs, 1) == 1) {
        free_gnutls(c);
        g_free(c->priority);
        g_free(c);
    }
}

bool tls_creds_is_server(const TlsCreds *c)
{
    return c->server;
}

/* ---- sessions ---- */

static ssize_t push(gnutls_transport_ptr_t opaque, const void *buf, size_t len)
{
    TlsSession *s = opaque;
    ssize_t n = send(s->fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);

    gnutls_transport_set_errno(s->session, n < 0 ? errno : 0);
    return n;
}

static ssize_t pull(gnutls_transport_ptr_t opaque, void *buf, size_t len)
{
    TlsSession *s = opaque;
    ssize_t n = recv(s->fd, buf, len, MSG_DONTWAIT);

    gnutls_transport_set_errno(s->session, n < 0 ? errno : 0);
    return n;
}

static int set_credentials(TlsSession *s)
{
    TlsCreds *c = s->creds;

    switch (c->kind) {
    case TLS_ANON:
        return c->server ? gnutls_credentials_set(s->session, GNUTLS_CRD_ANON, c->u.anon_server)
                         : gnutls_credentials_set(s->session, GNUTLS_CRD_ANON, c->u.anon_client);
    case TLS_PSK:
        return c->server ? gnutls_credentials_set(s->session, GNUTLS_CRD_PSK, c->u.psk_server)
                         : gnutls_credentials_set(s->session, GNUTLS_CRD_PSK, c->u.psk_client);
    default:
        if (c->server) {
            gnutls_certificate_server_set_request(s->session, c->verify_peer ? GNUTLS_CERT_REQUIRE
                                                                             : GNUTLS_CERT_IGNORE);
        }
        return gnutls_credentials_set(s->session, GNUTLS_CRD_CERTIFICATE, c->u.x509);
    }
}

TlsSession *tls_session_new(TlsCreds *c, const char *hostname, int fd, Error **errp)
{
    TlsSession *s = g_new0(TlsSession, 1);
    int ret;

    s->creds = tls_creds_ref(c);
    s->fd = fd;
    s->hostname = g_strdup(hostname);
    ret = gnutls_init(&s->session, (c->server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK |
                                       GNUTLS_NO_SIGNAL);
    if (ret >= 0) {
        ret = gnutls_priority_set_direct(s->session, c->priority, NULL);
    }
    if (ret >= 0) {
        ret = set_credentials(s);
    }
    if (ret >= 0 && hostname && !c->server && !g_hostname_is_ip_address(hostname)) {
        ret = gnutls_server_name_set(s->session, GNUTLS_NAME_DNS, hostname, strlen(hostname));
    }
    if (ret < 0) {
        failed(errp, "Cannot initialize TLS session", ret);
        tls_session_free(s);
        return NULL;
    }
    gnutls_transport_set_ptr(s->session, s);
    gnutls_transport_set_push_function(s->session, push);
    gnutls_transport_set_pull_function(s->session, pull);
    return s;
}

void tls_session_free(TlsSession *s)
{
    if (s) {
        if (s->session) {
            gnutls_deinit(s->session);
        }
        tls_creds_unref(s->creds);
        g_free(s->hostname);
        g_free(s->peer);
        g_free(s);
    }
}

static bool verify_x509(TlsSession *s, Error **errp)
{
    unsigned status = 0, n;
    const gnutls_datum_t *certs = gnutls_certificate_get_peers(s->session, &n);
    gnutls_x509_crt_t cert;
    gnutls_datum_t dn = {0};
    int ret;

    if (s->creds->server && !s->creds->verify_peer) {
        return true;
    }
    ret = s->hostname ? gnutls_certificate_verify_peers3(s->session, s->hostname, &status)
                      : gnutls_certificate_verify_peers2(s->session, &status);
    if (ret < 0 || status || !certs || n == 0) {
        gnutls_datum_t why = {0};

        if (ret >= 0 && status) {
            gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &why, 0);
        }
        error_set(errp, ERROR_PERMISSION, NULL, "tls", "The peer's certificate is not valid: %s",
                  why.data  ? (char *)why.data
                  : ret < 0 ? gnutls_strerror(ret)
                            : "there is none");
        gnutls_free(why.data);
        return false;
    }
    gnutls_x509_crt_init(&cert);
    if (gnutls_x509_crt_import(cert, &certs[0], GNUTLS_X509_FMT_DER) >= 0 &&
        gnutls_x509_crt_get_dn3(cert, &dn, 0) >= 0) {
        s->peer = g_strndup((char *)dn.data, dn.size);
    }
    gnutls_free(dn.data);
    gnutls_x509_crt_deinit(cert);
    return true;
}

int tls_handshake(TlsSession *s, Error **errp)
{
    int ret;

    if (s->established) {
        return 0;
    }
    do {
        ret = gnutls_handshake(s->session);
    } while (ret == GNUTLS_E_INTERRUPTED || ret == GNUTLS_E_WARNING_ALERT_RECEIVED);
    if (ret == GNUTLS_E_AGAIN) {
        return -EAGAIN;
    }
    if (ret < 0) {
        failed(errp, "TLS handshake failed", ret);
        return -EPROTO;
    }
    if (s->creds->kind == TLS_X509 && !verify_x509(s, errp)) {
        return -EACCES;
    }
    if (s->creds->kind == TLS_PSK && s->creds->server) {
        s->peer = g_strdup(gnutls_psk_server_get_username(s->session));
    }
    s->established = true;
    return 0;
}

const char *tls_peer(const TlsSession *s)
{
    return s->peer;
}

static ssize_t result(ssize_t ret)
{
    switch (ret) {
    case GNUTLS_E_AGAIN:
    case GNUTLS_E_INTERRUPTED:
        return -EAGAIN;
    case GNUTLS_E_PREMATURE_TERMINATION:
        return 0;
    default:
        return ret < 0 ? -EIO : ret;
    }
}

ssize_t tls_recv(TlsSession *s, void *buf, size_t len)
{
    ssize_t ret;

    do {
        ret = gnutls_record_recv(s->session, buf, len);
        if (ret == GNUTLS_E_REHANDSHAKE) {
            return -EPROTO; /* nothing here asks for another one */
        }
    } while (ret == GNUTLS_E_INTERRUPTED || ret == GNUTLS_E_WARNING_ALERT_RECEIVED);
    return result(ret);
}

ssize_t tls_send(TlsSession *s, const void *buf, size_t len)
{
    return result(gnutls_record_send(s->session, buf, len));
}

size_t tls_pending(const TlsSession *s)
{
    return gnutls_record_check_pending(s->session);
}

short tls_wants(const TlsSession *s)
{
    return gnutls_record_get_direction(s->session) ? POLLOUT : POLLIN;
}

void tls_bye(TlsSession *s)
{
    if (s->established) {
        (void)gnutls_bye(s->session, GNUTLS_SHUT_WR);
    }
}

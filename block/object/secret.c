/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Objects secret and secret_keyring: passwords and keys.
 *
 * The stored form becomes the plain one when the object is made: it is decoded (format=base64) and decrypted (keyid, iv:
 * AES-256 in CBC mode with PKCS#7 padding; the key is another secret).  An encrypted secret that is given as raw is the encrypted
 * bytes themselves, so it can only be in a file.
 */
#include "block/secret.h"
#include "object-internal.h"
#include "qapi-types.h"
#include <errno.h>
#include <gnutls/crypto.h>
#include <linux/keyctl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KEY_BYTES 32
#define IV_BYTES  16
#define MAX_BYTES (1u << 20)

typedef struct Secret {
    Object base;
    GBytes *plain;
} Secret;

/* What both types have; the generated structures begin with it. */
typedef struct Common {
    bool base64;
    const char *keyid, *iv;
} Common;

static bool is_secret(const Object *o)
{
    return o->type == &object_type_secret || o->type == &object_type_secret_keyring;
}

GBytes *secret_lookup(const char *id, Error **errp)
{
    Object *o = object_find(id);

    if (!o) {
        error_set(errp, ERROR_NOT_FOUND, id, "secret", "No secret with id '%s'", id);
        return NULL;
    }
    if (!is_secret(o)) {
        error_set(errp, ERROR_INVALID, id, "secret", "Object with id '%s' is not a secret", id);
        return NULL;
    }
    return g_bytes_ref(((Secret *)o)->plain);
}

char *secret_lookup_utf8(const char *id, Error **errp)
{
    g_autoptr(GBytes) b = secret_lookup(id, errp);
    gconstpointer data;
    gsize len;

    if (!b) {
        return NULL;
    }
    data = g_bytes_get_data(b, &len);
    if (!data) {
        return g_strdup(""); /* an empty secret has no bytes */
    }
    if (!g_utf8_validate(data, len, NULL)) {
        error_set(errp, ERROR_INVALID, id, "secret", "Data from secret %s is not valid UTF-8", id);
        return NULL;
    }
    return g_strndup(data, len);
}

static GBytes *decode(const guint8 *data, gsize len, Error **errp)
{
    g_autofree char *text = g_strndup((const char *)data, len);
    guchar *plain;
    gsize n;

    if (strlen(text) != len) {
        error_set(errp, ERROR_INVALID, NULL, "secret", "Base64 data is not NUL terminated");
        return NULL;
    }
    if (strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\n") !=
        len) {
        error_set(errp, ERROR_INVALID, NULL, "secret", "Base64 data contains invalid characters");
        return NULL;
    }
    plain = g_base64_decode(text, &n);
    return g_bytes_new_take(plain, n);
}

/* The plain bytes without their padding; false: the padding is none. */
static bool strip_padding(guint8 *data, gsize *len)
{
    unsigned pad = *len > 0 ? data[*len - 1] : 0;

    if (pad == 0 || pad > IV_BYTES || pad > *len) {
        return false;
    }
    for (unsigned i = 1; i <= pad; i++) {
        if (data[*len - i] != pad) {
            return false;
        }
    }
    *len -= pad;
    return true;
}

static GBytes *decrypt(GBytes *in, const Common *c, Error **errp)
{
    g_autoptr(GBytes) key = secret_lookup(c->keyid, errp), iv = NULL;
    gnutls_cipher_hd_t cipher;
    g_autofree guint8 *data = NULL;
    gnutls_datum_t k, v;
    gsize len;
    int ret;

    if (!key) {
        return NULL;
    }
    if (g_bytes_get_size(key) != KEY_BYTES) {
        error_set(errp, ERROR_INVALID, c->keyid, "secret", "Key should be %d bytes in length",
                  KEY_BYTES);
        return NULL;
    }
    if (!c->iv) {
        error_set(errp, ERROR_INVALID, c->keyid, "secret", "IV is required to decrypt secret");
        return NULL;
    }
    iv = decode((const guint8 *)c->iv, strlen(c->iv), errp);
    if (!iv) {
        return NULL;
    }
    if (g_bytes_get_size(iv) != IV_BYTES) {
        error_set(errp, ERROR_INVALID, c->iv, "secret", "IV should be %d bytes in length not %zu",
                  IV_BYTES, g_bytes_get_size(iv));
        return NULL;
    }
    len = g_bytes_get_size(in);
    if (len == 0 || len % IV_BYTES) {
        error_set(errp, ERROR_INVALID, NULL, "secret",
                  "Encrypted data should be a multiple of %d bytes in length", IV_BYTES);
        return NULL;
    }
    data = g_memdup2(g_bytes_get_data(in, NULL), len);
    k = (gnutls_datum_t){(void *)g_bytes_get_data(key, NULL), KEY_BYTES};
    v = (gnutls_datum_t){(void *)g_bytes_get_data(iv, NULL), IV_BYTES};
    ret = gnutls_cipher_init(&cipher, GNUTLS_CIPHER_AES_256_CBC, &k, &v);
    if (ret == 0) {
        ret = gnutls_cipher_decrypt(cipher, data, len);
        gnutls_cipher_deinit(cipher);
    }
    if (ret < 0) {
        error_set(errp, ERROR_INVALID, NULL, "secret", "Could not decrypt secret: %s",
                  gnutls_strerror(ret));
        return NULL;
    }
    if (!strip_padding(data, &len)) {
        error_set(errp, ERROR_INVALID, NULL, "secret",
                  "Incorrect number of padding bytes found on decrypted data");
        return NULL;
    }
    return g_bytes_new(data, len);
}

/* stored: consumed. */
static bool finish(Secret *s, GBytes *stored, const Common *c, Error **errp)
{
    if (c->base64 && stored) {
        GBytes *plain = decode(g_bytes_get_data(stored, NULL), g_bytes_get_size(stored), errp);

        g_bytes_unref(stored);
        stored = plain;
    }
    if (c->keyid && stored) {
        GBytes *plain = decrypt(stored, c, errp);

        g_bytes_unref(stored);
        stored = plain;
    }
    s->plain = stored;
    return stored;
}

static bool coroutine_fn secret_create(Object *o, Error **errp)
{
    const SecretProperties *p = &o->options->u.secret;
    const Common c = {p->has_format && p->format == SECRET_FORMAT_BASE64, p->keyid, p->iv};
    g_autoptr(GError) err = NULL;
    GBytes *stored;
    gchar *data;
    gsize len;

    if (p->data && p->file) {
        error_set(errp, ERROR_INVALID, o->id, "secret", "'file' and 'data' are mutually exclusive");
        return false;
    }
    if (!p->data && !p->file) {
        error_set(errp, ERROR_INVALID, o->id, "secret", "Either 'file' or 'data' must be provided");
        return false;
    }
    if (p->data) {
        stored = g_bytes_new(p->data, strlen(p->data));
    } else if (g_file_get_contents(p->file, &data, &len, &err)) {
        stored = g_bytes_new_take(data, len);
    } else {
        error_set(errp, ERROR_IO, p->file, "secret", "Unable to read %s: %s", p->file,
                  err->message);
        return false;
    }
    return finish((Secret *)o, stored, &c, errp);
}

static bool coroutine_fn keyring_create(Object *o, Error **errp)
{
    const SecretKeyringProperties *p = &o->options->u.secret_keyring;
    const Common c = {p->has_format && p->format == SECRET_FORMAT_BASE64, p->keyid, p->iv};
    long len = syscall(SYS_keyctl, KEYCTL_READ, p->serial, NULL, 0), got;
    guint8 *data;

    if (len < 0 || len > MAX_BYTES) {
        error_set_errno(errp, len < 0 ? errno : EFBIG, o->id, "secret",
                        "Unable to read serial key %08x", (unsigned)p->serial);
        return false;
    }
    data = g_malloc(len + 1);
    got = syscall(SYS_keyctl, KEYCTL_READ, p->serial, data, len);
    if (got < 0 || got > len) {
        error_set_errno(errp, got < 0 ? errno : EAGAIN, o->id, "secret",
                        "Unable to read serial key %08x", (unsigned)p->serial);
        g_free(data);
        return false;
    }
    return finish((Secret *)o, g_bytes_new_take(data, got), &c, errp);
}

static void secret_cleanup(Object *o)
{
    g_clear_pointer(&((Secret *)o)->plain, g_bytes_unref);
}

static const ObjectProperty secret_properties[] = {
    {"loaded", "bool", "true"},
    {"format", "QCryptoSecretFormat", "\"raw\""},
    {"keyid", "string", NULL},
    {"iv", "string", NULL},
    {"data", "string", NULL},
    {"file", "string", NULL},
    {0},
};
static const ObjectProperty keyring_properties[] = {
    {"loaded", "bool", "true"}, {"format", "QCryptoSecretFormat", "\"raw\""},
    {"keyid", "string", NULL},  {"iv", "string", NULL},
    {"serial", "int", "0"},     {0},
};

const ObjectClass object_type_secret = {
    .name = "secret",
    .parent = "secret_common",
    .size = sizeof(Secret),
    .properties = secret_properties,
    .create = secret_create,
    .cleanup = secret_cleanup,
};
const ObjectClass object_type_secret_keyring = {
    .name = "secret_keyring",
    .parent = "secret_common",
    .size = sizeof(Secret),
    .properties = keyring_properties,
    .create = keyring_create,
    .cleanup = secret_cleanup,
};

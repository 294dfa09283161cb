/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From tokens to a JSON value: stricter than json-c's own parser (no duplicate keys) and looser (strings in single quotes), with
 * the error texts that QMP's clients know.
 */
#include "json-token.h"
#include <errno.h>
#include <math.h>
#include <string.h>

typedef struct Parser {
    GPtrArray *tokens;
    guint next;
    Error **errp;
} Parser;

JsonToken *json_token_new(JsonTokenType type, const char *text, size_t len)
{
    JsonToken *t = g_malloc(sizeof(*t) + len + 1);

    t->type = type;
    t->len = len;
    memcpy(t->text, text, len);
    t->text[len] = '\0';
    return t;
}

void json_token_free(gpointer token)
{
    g_free(token);
}

static bool value(Parser *p, struct json_object **ret);

static bool fail(Parser *p, const char *msg, const char *detail)
{
    if (detail) {
        error_set(p->errp, ERROR_INVALID, NULL, "json", "JSON parse error, %s '%s'", msg, detail);
    } else {
        error_set(p->errp, ERROR_INVALID, NULL, "json", "JSON parse error, %s", msg);
    }
    return false;
}

static const JsonToken *peek(Parser *p)
{
    return p->next < p->tokens->len ? g_ptr_array_index(p->tokens, p->next) : NULL;
}

static const JsonToken *take(Parser *p)
{
    const JsonToken *t = peek(p);

    if (t) {
        p->next++;
    } else {
        fail(p, "premature EOI", NULL);
    }
    return t;
}

/* ---- strings ---- */

static int hex4(const char *s)
{
    int v = 0;

    for (unsigned i = 0; i < 4; i++) {
        if (!g_ascii_isxdigit(s[i])) {
            return -1;
        }
        v = v * 16 + g_ascii_xdigit_value(s[i]);
    }
    return v;
}

/* May it stand in text?  0 may not (names end there), nor halves of pairs, nor code points that are no characters. */
static bool is_character(gunichar c)
{
    return c != 0 && !(c >= 0xD800 && c < 0xE000) && (c & 0xFFFE) != 0xFFFE &&
           !(c >= 0xFDD0 && c <= 0xFDEF) && c <= 0x10FFFF;
}

/* \uXXXX, maybe a pair; *pos is behind the u. */
static bool unicode_escape(Parser *p, const JsonToken *t, size_t *pos, GString *out)
{
    const char *digits = t->text + *pos;
    int c = hex4(digits);
    char utf8[6];

    *pos += 4;
    if (c >= 0xD800 && c < 0xDC00 && digits[4] == '\\' && digits[5] == 'u') {
        int low = hex4(digits + 6);

        if (low >= 0xDC00 && low <= 0xDFFF) {
            c = 0x10000 + ((c - 0xD800) << 10) + (low - 0xDC00);
            *pos += 6;
        }
    }
    if (c < 0 || !is_character(c)) {
        g_autofree char *raw = g_strndup(digits, 4);
        g_autofree char *shown = g_utf8_make_valid(raw, -1);

        error_set(p->errp, ERROR_INVALID, NULL, "json",
                  "JSON parse error, \\u%s is not a valid Unicode character", shown);
        return false;
    }
    g_string_append_len(out, utf8, g_unichar_to_utf8(c, utf8));
    return true;
}

static bool all_characters(const GString *s)
{
    if (!g_utf8_validate(s->str, s->len, NULL)) {
        return false;
    }
    for (const char *p = s->str; p < s->str + s->len; p = g_utf8_next_char(p)) {
        if ((unsigned char)*p >= 0x80 && !is_character(g_utf8_get_char(p))) {
            return false;
        }
    }
    return true;
}

static char *string_text(Parser *p, const JsonToken *t)
{
    static const char codes[] = "\"'\\/bfnrt", plain[] = "\"'\\/\b\f\n\r\t";
    g_autoptr(GString) out = g_string_sized_new(t->len);

    for (size_t i = 1; i < t->len - 1;) {
        char c = t->text[i++];
        const char *code;

        if (c != '\\') {
            g_string_append_c(out, c);
            continue;
        }
        c = t->text[i++];
        code = strchr(codes, c);
        if (c == 'u') {
            if (!unicode_escape(p, t, &i, out)) {
                return NULL;
            }
            continue;
        }
        if (!code) {
            fail(p, "invalid escape sequence in string", NULL);
            return NULL;
        }
        g_string_append_c(out, plain[code - codes]);
    }
    if (!all_characters(out)) {
        fail(p, "invalid UTF-8 sequence in string", NULL);
        return NULL;
    }
    return g_string_free(g_steal_pointer(&out), false);
}

/* ---- values ---- */

static bool pair(Parser *p, struct json_object *object)
{
    const JsonToken *t = peek(p);
    g_autofree char *key = NULL;
    struct json_object *v = NULL;

    if (!t || t->type != JSON_TOKEN_STRING) {
        /* what can be no value at all is told as such */
        if (value(p, &v)) {
            json_object_put(v);
            fail(p, "key is not a string in object", NULL);
        }
        return false;
    }
    p->next++;
    key = string_text(p, t);
    if (!key) {
        return false;
    }
    t = take(p);
    if (!t) {
        return false;
    }
    if (t->type != JSON_TOKEN_COLON) {
        return fail(p, "missing : in object pair", NULL);
    }
    if (!value(p, &v)) {
        return false;
    }
    if (json_object_object_get_ex(object, key, NULL)) {
        json_object_put(v);
        return fail(p, "duplicate key", NULL);
    }
    json_object_object_add(object, key, v);
    return true;
}

static bool element(Parser *p, struct json_object *array)
{
    struct json_object *v = NULL;

    if (!value(p, &v)) {
        return false;
    }
    json_object_array_add(array, v);
    return true;
}

/* The rest of an object or array, behind its opening token. */
static bool container(Parser *p, struct json_object *c, JsonTokenType end,
                      bool (*item)(Parser *, struct json_object *), const char *separator_error)
{
    const JsonToken *t = peek(p);

    if (t && t->type == end) {
        p->next++;
        return true;
    }
    for (;;) {
        if (!item(p, c)) {
            return false;
        }
        t = take(p);
        if (!t) {
            return false;
        }
        if (t->type == end) {
            return true;
        }
        if (t->type != JSON_TOKEN_COMMA) {
            return fail(p, separator_error, NULL);
        }
    }
}

/* NULL: it is larger than any number that could be written out again. */
static struct json_object *number(const JsonToken *t)
{
    double d;

    if (t->type == JSON_TOKEN_INTEGER) {
        char *end;

        errno = 0;
        if (t->text[0] == '-') {
            gint64 v = g_ascii_strtoll(t->text, &end, 10);

            if (errno == 0) {
                return json_object_new_int64(v);
            }
        } else {
            guint64 v = g_ascii_strtoull(t->text, &end, 10);

            if (errno == 0) {
                return v <= INT64_MAX ? json_object_new_int64(v) : json_object_new_uint64(v);
            }
        }
    }
    d = g_ascii_strtod(t->text, NULL);
    return isfinite(d) ? json_object_new_double(d) : NULL;
}

static bool value(Parser *p, struct json_object **ret)
{
    const JsonToken *t = take(p);
    struct json_object *c = NULL;
    g_autofree char *text = NULL;
    bool ok;

    if (!t) {
        return false;
    }
    switch (t->type) {
    case JSON_TOKEN_LBRACE:
        c = json_object_new_object();
        ok = container(p, c, JSON_TOKEN_RBRACE, pair, "expected separator in dict");
        break;
    case JSON_TOKEN_LBRACKET:
        c = json_object_new_array();
        ok = container(p, c, JSON_TOKEN_RBRACKET, element, "expected separator in list");
        break;
    case JSON_TOKEN_STRING:
        text = string_text(p, t);
        ok = text;
        c = ok ? json_object_new_string(text) : NULL;
        break;
    case JSON_TOKEN_INTEGER:
    case JSON_TOKEN_FLOAT:
        c = number(t);
        if (!c) {
            text = g_strndup(t->text, 100);
            return fail(p, "number out of range", text);
        }
        ok = true;
        break;
    case JSON_TOKEN_KEYWORD:
        if (strcmp(t->text, "true") == 0 || strcmp(t->text, "false") == 0) {
            c = json_object_new_boolean(t->text[0] == 't');
        } else if (strcmp(t->text, "null") != 0) {
            g_autofree char *shown = g_strndup(t->text, 100);

            return fail(p, "invalid keyword", shown);
        }
        ok = true;
        break;
    default:
        return fail(p, "expecting value", NULL);
    }
    if (!ok) {
        json_object_put(c);
        return false;
    }
    *ret = c;
    return true;
}

bool json_parse_tokens(GPtrArray *tokens, struct json_object **ret_value, Error **errp)
{
    Parser p = {.tokens = tokens, .errp = errp};

    return value(&p, ret_value);
}

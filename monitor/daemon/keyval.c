/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The dotted-key syntax of option arguments.
 *
 *   argument := [ implied-value "," ] key "=" value { "," key "=" value }
 *   key      := fragment { "." fragment }       fragments: names, or decimal numbers (indices of lists)
 *
 * A value ends at a comma; a doubled comma stands for one, but not in an implied value, which can contain none.  The last of several
 * values for one key counts.
 */
#include "monitor/keyval.h"
#include "monitor/json-stream.h"
#include <string.h>

static bool fail(Error **errp, const char *fmt, const char *what)
{
    const char *hole = strstr(fmt, "%s");

    error_set(errp, ERROR_INVALID, what, "parse", "%.*s%s%s", (int)(hole - fmt), fmt, what,
              hole + 2);
    return false;
}

static bool valid_fragment(const char *f)
{
    if (g_ascii_isdigit(f[0])) {
        return strspn(f, "0123456789") == strlen(f) && strlen(f) <= 9;
    }
    if (!g_ascii_isalpha(f[0]) && f[0] != '_') {
        return false;
    }
    for (const char *p = f; *p; p++) {
        if (!g_ascii_isalnum(*p) && *p != '-' && *p != '_') {
            return false;
        }
    }
    return strlen(f) < 128;
}

/* Puts value under the key; *errp if a part of the key is a scalar and an object at once. */
static bool put(struct json_object *root, const char *key, const char *value, Error **errp)
{
    g_auto(GStrv) parts = g_strsplit(key, ".", -1);
    g_autoptr(GString) path = g_string_new(NULL);
    struct json_object *o = root, *v;

    for (unsigned i = 0; parts[i]; i++) {
        if (!valid_fragment(parts[i])) {
            return fail(errp, "Invalid parameter '%s'", key);
        }
    }
    for (unsigned i = 0; parts[i + 1]; i++) {
        g_string_append_printf(path, "%s%s", path->len ? "." : "", parts[i]);
        if (!json_object_object_get_ex(o, parts[i], &v)) {
            v = json_object_new_object();
            json_object_object_add(o, parts[i], v);
        } else if (!json_object_is_type(v, json_type_object)) {
            return fail(errp, "Parameters '%s.*' used inconsistently", path->str);
        }
        o = v;
    }
    key = parts[g_strv_length(parts) - 1];
    if (json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_object)) {
        g_string_append_printf(path, "%s%s", path->len ? "." : "", key);
        return fail(errp, "Parameters '%s.*' used inconsistently", path->str);
    }
    json_object_object_add(o, key, json_object_new_string(value));
    return true;
}

char *keyval_take_value(const char **pos)
{
    GString *s = g_string_new(NULL);
    const char *p = *pos;

    while (*p) {
        if (*p == ',') {
            if (p[1] != ',') {
                p++;
                break;
            }
            p++;
        }
        g_string_append_c(s, *p++);
    }
    *pos = p;
    return g_string_free(s, false);
}

static bool parse_all(struct json_object *root, const char *p, const char *implied, Error **errp)
{
    while (*p) {
        size_t len = strcspn(p, "=,");
        g_autofree char *key = g_strndup(p, len), *value = NULL;

        p += len;
        if (len == 0) {
            return fail(errp, "Invalid parameter '%s'", key);
        }
        if (implied && *p != '=') {
            value = g_steal_pointer(&key);
            key = g_strdup(implied);
            p += *p == ',';
        } else if (!g_utf8_validate(key, -1, NULL)) {
            g_autofree char *shown = g_utf8_make_valid(key, -1);

            return fail(errp, "Invalid parameter '%s'", shown);
        } else if (*p != '=') {
            return fail(errp, "Expected '=' after parameter '%s'", key);
        } else {
            p++;
            value = keyval_take_value(&p);
        }
        implied = NULL;
        if (!g_utf8_validate(value, -1, NULL)) {
            return fail(errp, "Parameter '%s' is not valid UTF-8", key);
        }
        if (!put(root, key, value, errp)) {
            return false;
        }
    }
    return true;
}

struct json_object *keyval_parse(const char *text, const char *implied, Error **errp)
{
    struct json_object *root = json_object_new_object();

    if (!parse_all(root, text, implied, errp)) {
        json_object_put(root);
        return NULL;
    }
    return root;
}

struct json_object *option_parse(const char *text, const char *implied, bool *ret_keyval,
                                 Error **errp)
{
    struct json_object *o;

    if (text[0] != '{') {
        o = keyval_parse(text, implied, errp);
        *ret_keyval = o;
        return o;
    }
    if (!json_parse_text(text, &o, errp)) {
        return NULL;
    }
    *ret_keyval = false;
    return o;
}

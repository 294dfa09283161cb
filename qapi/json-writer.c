/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Printing JSON as QMP's clients are used to it.
 *
 * Nothing in the printed value is touched (json-c's own printer caches text in it), so several
 * threads may print one.
 */
#include "qapi/json-writer.h"
#include <glib.h>
#include <string.h>

/* ---- member order ---- */

enum { BUCKETS = 512 };

static unsigned bucket_of(const char *key)
{
    uint32_t v = UINT32_C(0x238F13AF) * (uint32_t)strlen(key);

    for (unsigned i = 0; key[i]; i++) {
        v += (uint32_t)(unsigned char)key[i] << ((5 * i) % 24);
    }
    return (UINT32_C(1103515243) * v + 12345) % BUCKETS;
}

static int compare(const void *a, const void *b)
{
    const QapiJsonMember *x = a, *y = b;

    if (x->bucket != y->bucket) {
        return x->bucket < y->bucket ? -1 : 1;
    }
    return x->index > y->index ? -1 : x->index < y->index;
}

QapiJsonMember *qapi_json_members(struct json_object *o)
{
    unsigned n = json_object_object_length(o), i = 0;
    QapiJsonMember *members = g_new(QapiJsonMember, MAX(n, 1));

    json_object_object_foreach(o, key, value)
    {
        members[i] = (QapiJsonMember){key, value, bucket_of(key), i};
        i++;
    }
    qsort(members, n, sizeof(*members), compare);
    return members;
}

/* ---- text ---- */

static void print(GString *s, struct json_object *o, bool pretty, unsigned level);

static void new_line(GString *s, bool pretty, unsigned level)
{
    if (pretty) {
        g_string_append_printf(s, "\n%*s", (int)(4 * level), "");
    }
}

static void print_code_point(GString *s, gunichar c)
{
    static const char plain[] = "\"\\\b\f\n\r\t", escaped[] = "\"\\bfnrt";
    const char *known = c && c < 0x80 ? strchr(plain, (int)c) : NULL;

    if (known) {
        g_string_append_printf(s, "\\%c", escaped[known - plain]);
    } else if (c >= 0x10000) {
        g_string_append_printf(s, "\\u%04X\\u%04X", 0xD800 + ((c - 0x10000) >> 10),
                               0xDC00 + ((c - 0x10000) & 0x3FF));
    } else if (c < 0x20 || c >= 0x7F) {
        g_string_append_printf(s, "\\u%04X", c);
    } else {
        g_string_append_c(s, (char)c);
    }
}

static void print_string(GString *s, const char *p, size_t len)
{
    const char *end = p + len;

    g_string_append_c(s, '"');
    while (p < end) {
        /* the "validated" function takes a zero byte for the end */
        gunichar c = *p ? g_utf8_get_char_validated(p, end - p) : 0;

        if (c == (gunichar)-1 || c == (gunichar)-2) {
            print_code_point(s, 0xFFFD);
            p++;
        } else {
            print_code_point(s, c);
            p = g_utf8_next_char(p);
        }
    }
    g_string_append_c(s, '"');
}

static void print_object(GString *s, struct json_object *o, bool pretty, unsigned level)
{
    unsigned n = json_object_object_length(o);
    g_autofree QapiJsonMember *members = qapi_json_members(o);

    g_string_append_c(s, '{');
    for (unsigned i = 0; i < n; i++) {
        if (i > 0) {
            g_string_append(s, pretty ? "," : ", ");
        }
        new_line(s, pretty, level + 1);
        print_string(s, members[i].key, strlen(members[i].key));
        g_string_append(s, ": ");
        print(s, members[i].value, pretty, level + 1);
    }
    new_line(s, pretty, level);
    g_string_append_c(s, '}');
}

static void print_array(GString *s, struct json_object *o, bool pretty, unsigned level)
{
    const char *frozen = json_object_get_userdata(o);

    if (frozen && !pretty) {
        g_string_append(s, frozen);
        return;
    }
    g_string_append_c(s, '[');
    for (size_t i = 0; i < json_object_array_length(o); i++) {
        if (i > 0) {
            g_string_append(s, pretty ? "," : ", ");
        }
        new_line(s, pretty, level + 1);
        print(s, json_object_array_get_idx(o, i), pretty, level + 1);
    }
    new_line(s, pretty, level);
    g_string_append_c(s, ']');
}

static void print_integer(GString *s, struct json_object *o)
{
    int64_t v = json_object_get_int64(o);

    if (v < 0) {
        g_string_append_printf(s, "%" G_GINT64_FORMAT, v);
    } else {
        g_string_append_printf(s, "%" G_GUINT64_FORMAT, json_object_get_uint64(o));
    }
}

static void print(GString *s, struct json_object *o, bool pretty, unsigned level)
{
    char number[G_ASCII_DTOSTR_BUF_SIZE];

    switch (json_object_get_type(o)) {
    case json_type_object:
        print_object(s, o, pretty, level);
        break;
    case json_type_array:
        print_array(s, o, pretty, level);
        break;
    case json_type_string:
        print_string(s, json_object_get_string(o), json_object_get_string_len(o));
        break;
    case json_type_double:
        g_ascii_formatd(number, sizeof(number), "%.17g", json_object_get_double(o));
        g_string_append(s, number);
        break;
    case json_type_int:
        print_integer(s, o);
        break;
    case json_type_boolean:
        g_string_append(s, json_object_get_boolean(o) ? "true" : "false");
        break;
    case json_type_null:
        g_string_append(s, "null");
        break;
    }
}

char *qapi_json_print(struct json_object *o, bool pretty)
{
    GString *s = g_string_new(NULL);

    print(s, o, pretty, 0);
    return g_string_free(s, false);
}

static void free_text(struct json_object *o, void *text)
{
    (void)o;
    g_free(text);
}

void qapi_json_freeze(struct json_object *array)
{
    json_object_set_userdata(array, qapi_json_print(array, false), free_text);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Arguments of console commands, by the codes of commands.txt.
 */
#include "internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

char *hmp_take_word(const char **pos, bool *ret_bad)
{
    static const char escapes[] = "n\nr\r\\\\''\"\"";
    const char *p = *pos;
    GString *s;

    *ret_bad = false;
    while (g_ascii_isspace(*p)) {
        p++;
    }
    if (*p == '\0') {
        *pos = p;
        return NULL;
    }
    s = g_string_new(NULL);
    if (*p != '"') {
        size_t len = strcspn(p, " \t\r\n\v\f");

        g_string_append_len(s, p, len);
        *pos = p + len;
        return g_string_free(s, false);
    }
    for (p++; *p && *p != '"'; p++) {
        if (*p == '\\' && p[1]) {
            const char *e = escapes;

            p++;
            while (*e && *e != *p) {
                e += 2;
            }
            if (!*e) {
                break; /* no such escape */
            }
            g_string_append_c(s, e[1]);
        } else {
            g_string_append_c(s, *p);
        }
    }
    if (*p != '"') {
        *ret_bad = true;
        g_string_free(s, true);
        return NULL;
    }
    *pos = p + 1;
    return g_string_free(s, false);
}

bool hmp_parse_size(const char *text, uint64_t unit, int64_t *ret_size)
{
    static const char suffixes[] = "bkMGTPE";
    char *end;
    double v;
    const char *s;

    if (!g_ascii_isdigit(text[0])) {
        return false;
    }
    if (g_str_has_prefix(text, "0x") || g_str_has_prefix(text, "0X")) {
        v = g_ascii_strtoull(text, &end, 16);
    } else {
        uint64_t whole = g_ascii_strtoull(text, &end, 10);

        v = whole;
        if (*end == '\0' && unit == 1) {
            *ret_size = whole;
            return whole <= INT64_MAX;
        }
        if (*end == '.') {
            v = g_ascii_strtod(text, &end);
        }
    }
    if (*end) {
        char c = g_ascii_tolower(*end) == 'k' ? 'k' : *end == 'B' ? 'b' : *end;

        s = strchr(suffixes, c == 'k' || c == 'b' ? c : g_ascii_toupper(c));
        if (!s || end[1]) {
            return false;
        }
        unit = UINT64_C(1) << (10 * (s - suffixes));
    }
    v *= unit;
    if (v >= 9.2e18) {
        return false;
    }
    *ret_size = (int64_t)v;
    return true;
}

const char *hmp_string(struct json_object *args, const char *name)
{
    struct json_object *v;

    return json_object_object_get_ex(args, name, &v) ? json_object_get_string(v) : NULL;
}

bool hmp_flag(struct json_object *args, const char *name)
{
    struct json_object *v;

    return json_object_object_get_ex(args, name, &v) && json_object_get_boolean(v);
}

/* A code's value; false with *ret_problem. */
static bool convert(const char *command, const char *name, char code, const char *word,
                    struct json_object *o, char **ret_problem)
{
    int64_t n;
    char *end;

    switch (code) {
    case 'i':
        errno = 0;
        n = strtoll(word, &end, 0);
        if (end == word || *end || errno) {
            *ret_problem = g_strdup_printf("%s: invalid number '%s'\n", command, word);
            return false;
        }
        json_object_object_add(o, name, json_object_new_int64(n));
        return true;
    case 'o':
        if (!hmp_parse_size(word, UINT64_C(1) << 20, &n)) {
            *ret_problem = g_strdup("invalid size\n");
            return false;
        }
        json_object_object_add(o, name, json_object_new_int64(n));
        return true;
    case 'b':
        if (strcmp(word, "on") != 0 && strcmp(word, "off") != 0) {
            *ret_problem = g_strdup("Expected 'on' or 'off'\n");
            return false;
        }
        json_object_object_add(o, name, json_object_new_boolean(strcmp(word, "on") == 0));
        return true;
    default:
        json_object_object_add(o, name, json_object_new_string(word));
        return true;
    }
}

static const char *expected(char code)
{
    return code == 'B'   ? "block device name expected"
           : code == 'F' ? "filename expected"
           : code == 'i' ? "integer expected"
           : code == 'o' ? "size expected"
                         : "string expected";
}

/* The flags that stand here: "-n -v", "-nv".  They stand where the row has its first one. */
static bool take_flags(const char *command, char **specs, const char **pos, struct json_object *o,
                       char **ret_problem)
{
    for (;;) {
        const char *p = *pos;

        while (g_ascii_isspace(*p)) {
            p++;
        }
        if (*p != '-' || !g_ascii_isalpha(p[1])) {
            return true;
        }
        for (p++; *p && !g_ascii_isspace(*p); p++) {
            bool known = false;

            for (unsigned i = 0; specs[i] && !known; i++) {
                const char *colon = strchr(specs[i], ':');

                if (colon[1] == '-' && colon[2] == *p) {
                    g_autofree char *name = g_strndup(specs[i], colon - specs[i]);

                    json_object_object_add(o, name, json_object_new_boolean(true));
                    known = true;
                }
            }
            if (!known) {
                *ret_problem = g_strdup_printf("%s: unsupported option -%.*s\n", command,
                                               (int)(g_utf8_next_char(p) - p), p);
                return false;
            }
        }
        *pos = p;
    }
}

static bool take_one(const char *command, const char *spec, const char **pos, struct json_object *o,
                     char **ret_problem)
{
    const char *colon = strchr(spec, ':');
    g_autofree char *name = g_strndup(spec, colon - spec), *word = NULL;
    bool optional = colon[2] == '?', bad = false;
    char code = colon[1];

    if (code == 'S') {
        while (g_ascii_isspace(**pos)) {
            (*pos)++;
        }
        word = g_strchomp(g_strdup(*pos));
        *pos += strlen(*pos);
        if (word[0] == '\0') {
            g_clear_pointer(&word, g_free);
        }
    } else {
        word = hmp_take_word(pos, &bad);
    }
    if (bad || (!word && !optional)) {
        *ret_problem = g_strdup_printf("%s: %s\n", command, expected(code));
        return false;
    }
    return !word || convert(command, name, code, word, o, ret_problem);
}

struct json_object *hmp_parse_args(const HmpCommand *c, const char *text, char **ret_problem)
{
    g_auto(GStrv) specs = g_strsplit(c->args, ",", -1);
    g_autofree char *command = g_strndup(c->name, strcspn(c->name, "|"));
    struct json_object *o = json_object_new_object();
    bool ok = true, flags_taken = false;

    for (unsigned i = 0; ok && specs[i]; i++) {
        if (strchr(specs[i], ':')[1] != '-') {
            ok = take_one(command, specs[i], &text, o, ret_problem);
        } else if (!flags_taken) {
            flags_taken = true;
            ok = take_flags(command, specs, &text, o, ret_problem);
        }
    }
    while (g_ascii_isspace(*text)) {
        text++;
    }
    if (ok && *text) {
        *ret_problem = g_strdup_printf("%s: extraneous characters at the end of line\n", command);
        ok = false;
    }
    if (ok) {
        return o;
    }
    json_object_put(o);
    return NULL;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * JSON to C, strictly.
 *
 * Nothing is left over on failure: a value is built inside its parent, and the whole is freed from the top.  Errors name the
 * place by its path ("actions[0].data.snapshot-file"); values out of an enum or an integer's range by the last name alone, as
 * QMP's clients know it.
 */
#include "qapi/visit.h"
#include <errno.h>
#include <math.h>
#include <string.h>

/* Where we are: a chain from the innermost name outwards. */
typedef struct Path {
    const struct Path *up;
    const char *name; /* NULL: an index */
    size_t index;
} Path;

typedef struct Parse {
    bool keyval;
    Error **errp;
} Parse;

static bool parse_value(Parse *p, const Path *path, const QapiType *type, struct json_object *in, void *out);

static void path_append(GString *s, const Path *path)
{
    if (!path) {
        return;
    }
    path_append(s, path->up);
    if (path->name) {
        g_string_append_printf(s, "%s%s", s->len ? "." : "", path->name);
    } else {
        g_string_append_printf(s, "[%zu]", path->index);
    }
}

static bool fail(Parse *p, const Path *path, const char *fmt)
{
    g_autoptr(GString) s = g_string_new(NULL);
    g_autofree char *text = NULL;
    const char *hole = strstr(fmt, "%s");

    path_append(s, path);
    text = g_strdup_printf("%.*s%s%s", (int)(hole - fmt), fmt, s->str, hole + 2);
    error_set(p->errp, ERROR_INVALID, s->str, "parse", "%s", text);
    return false;
}

static bool wrong_type(Parse *p, const Path *path, const char *expected)
{
    g_autofree char *fmt = g_strdup_printf("Invalid parameter type for '%%s', expected: %s", expected);

    return fail(p, path, fmt);
}

static const char *short_name(const Path *path)
{
    return path && path->name ? path->name : "null";
}

/* ---- scalars ---- */

static bool store_int(Parse *p, const Path *path, const QapiType *type, bool negative, uint64_t magnitude, void *out)
{
    unsigned bits = type->size * 8 - (type->is_signed ? 1 : 0);
    uint64_t max = bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;
    int64_t v;

    if (negative ? (!type->is_signed && type->size < 8) || (magnitude > max + 1) : magnitude > max) {
        if (type->size == 8) {
            return fail(p, path, type->is_signed ? "Parameter '%s' expects an int64 value"
                                                 : "Parameter '%s' expects an uint64 value");
        }
        error_set(p->errp, ERROR_INVALID, short_name(path), "parse", "Parameter '%s' expects %s", short_name(path),
                  type->name);
        return false;
    }
    if (negative && !type->is_signed) {
        return fail(p, path, "Parameter '%s' expects a non-negative value");
    }
    v = negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    switch (type->size) {
    case 1:
        *(int8_t *)out = v;
        break;
    case 2:
        *(int16_t *)out = v;
        break;
    case 4:
        *(int32_t *)out = v;
        break;
    default:
        *(int64_t *)out = v;
        break;
    }
    return true;
}

static bool parse_int_text(Parse *p, const Path *path, const QapiType *type, const char *text, void *out)
{
    bool negative = text[0] == '-';
    const char *digits = text + negative;
    uint64_t v, shift = 0;
    char *end;

    errno = 0;
    v = g_ascii_isdigit(digits[0]) ? g_ascii_strtoull(digits, &end, 0) : (errno = EINVAL, 0);
    if (errno == 0 && type->is_size && *end && !end[1]) {
        static const char suffixes[] = "bkmgtpe";
        const char *s = strchr(suffixes, g_ascii_tolower(*end));

        if (s) {
            shift = 10 * (s - suffixes);
            end++;
        }
    }
    if (errno || *end || (v << shift) >> shift != v) {
        if (type->is_size) {
            return fail(p, path, "Parameter '%s' expects a size value representible as a non-negative integer, or with "
                                 "an optional multiplier suffix k, M, G, T, P, E");
        }
        return fail(p, path, "Parameter '%s' expects integer");
    }
    return store_int(p, path, type, negative && v, v << shift, out);
}

static bool parse_int(Parse *p, const Path *path, const QapiType *type, struct json_object *in, void *out)
{
    int64_t v;

    if (p->keyval && json_object_is_type(in, json_type_string)) {
        return parse_int_text(p, path, type, json_object_get_string(in), out);
    }
    if (!json_object_is_type(in, json_type_int)) {
        return wrong_type(p, path, "integer");
    }
    v = json_object_get_int64(in);
    if (v < 0) {
        return store_int(p, path, type, true, 0 - (uint64_t)v, out);
    }
    return store_int(p, path, type, false, json_object_get_uint64(in), out);
}

static bool parse_bool(Parse *p, const Path *path, struct json_object *in, bool *out)
{
    static const char *const yes[] = {"on", "yes", "true", "y", NULL}, *const no[] = {"off", "no", "false", "n", NULL};

    if (p->keyval && json_object_is_type(in, json_type_string)) {
        const char *text = json_object_get_string(in);

        if (!g_strv_contains(yes, text) && !g_strv_contains(no, text)) {
            return fail(p, path, "Parameter '%s' expects 'on' or 'off'");
        }
        *out = g_strv_contains(yes, text);
        return true;
    }
    if (!json_object_is_type(in, json_type_boolean)) {
        return wrong_type(p, path, "boolean");
    }
    *out = json_object_get_boolean(in);
    return true;
}

static bool parse_number(Parse *p, const Path *path, struct json_object *in, double *out)
{
    if (p->keyval && json_object_is_type(in, json_type_string)) {
        const char *text = json_object_get_string(in);
        char *end;
        double v = g_ascii_strtod(text, &end);

        if (end == text || *end || !isfinite(v)) {
            return fail(p, path, "Parameter '%s' expects a number");
        }
        *out = v;
        return true;
    }
    if (!json_object_is_type(in, json_type_double) && !json_object_is_type(in, json_type_int)) {
        return wrong_type(p, path, "number");
    }
    *out = json_object_get_double(in);
    return true;
}

static bool parse_str(Parse *p, const Path *path, struct json_object *in, char **out)
{
    if (!json_object_is_type(in, json_type_string)) {
        return wrong_type(p, path, "string");
    }
    *out = g_strdup(json_object_get_string(in));
    return true;
}

static bool parse_enum(Parse *p, const Path *path, const QapiType *type, struct json_object *in, int *out)
{
    int v;

    if (!json_object_is_type(in, json_type_string)) {
        return wrong_type(p, path, "string");
    }
    v = qapi_enum_parse(type, json_object_get_string(in));
    if (v < 0) {
        error_set(p->errp, ERROR_INVALID, short_name(path), "parse", "Parameter '%s' does not accept value '%s'",
                  short_name(path), json_object_get_string(in));
        return false;
    }
    *out = v;
    return true;
}

/* ---- objects ---- */

static const QapiBranch *find_branch(const QapiType *type, int value)
{
    for (size_t i = 0; i < type->branch_count; i++) {
        if (type->branches[i].value == value) {
            return &type->branches[i];
        }
    }
    return NULL;
}

/* The branch's own members follow, with the same names known: "unexpected" is for what neither side takes. */
static bool parse_members(Parse *p, const Path *path, const QapiType *type, struct json_object *in, char *out,
                          GHashTable *known)
{
    const QapiBranch *branch;

    for (size_t i = 0; i < type->member_count; i++) {
        const QapiMember *m = &type->members[i];
        Path here = {.up = path, .name = m->name};
        struct json_object *v;

        if (!json_object_object_get_ex(in, m->name, &v)) {
            if (!m->optional) {
                return fail(p, &here, "Parameter '%s' is missing");
            }
            continue;
        }
        g_hash_table_add(known, (void *)m->name);
        if (!parse_value(p, &here, m->type, v, out + m->offset)) {
            return false;
        }
        if (m->has_offset >= 0) {
            *(bool *)(out + m->has_offset) = true;
        }
    }
    if (type->branch_count == 0) {
        return true;
    }
    branch = find_branch(type, *(int *)(out + type->tag_offset));
    return !branch || parse_members(p, path, branch->type, in, out + branch->offset, known);
}

static bool parse_object(Parse *p, const Path *path, const QapiType *type, struct json_object *in, char *out)
{
    g_autoptr(GHashTable) known = NULL;

    if (!json_object_is_type(in, json_type_object)) {
        return wrong_type(p, path, "object");
    }
    known = g_hash_table_new(g_str_hash, g_str_equal);
    if (!parse_members(p, path, type, in, out, known)) {
        return false;
    }
    json_object_object_foreach(in, key, val) {
        Path here = {.up = path, .name = key};

        (void)val;
        if (!g_hash_table_contains(known, key)) {
            return fail(p, &here, "Parameter '%s' is unexpected");
        }
    }
    return true;
}

static bool parse_alternate(Parse *p, const Path *path, const QapiType *type, struct json_object *in, char *out)
{
    static const QapiKind kinds[] = {
        [json_type_null] = QAPI_KIND_NULL,     [json_type_boolean] = QAPI_KIND_BOOLEAN,
        [json_type_double] = QAPI_KIND_NUMBER, [json_type_int] = QAPI_KIND_NUMBER,
        [json_type_object] = QAPI_KIND_OBJECT, [json_type_array] = QAPI_KIND_ARRAY,
        [json_type_string] = QAPI_KIND_STRING,
    };
    QapiKind kind = kinds[json_object_get_type(in)];
    const QapiBranch *b = find_branch(type, kind);

    if (!b) {
        return wrong_type(p, path, type->name);
    }
    *(QapiKind *)(out + type->tag_offset) = kind;
    return parse_value(p, path, b->type, in, out + b->offset);
}

static bool parse_element(Parse *p, const Path *path, const QapiType *type, size_t index, struct json_object *in,
                          void ***tail)
{
    Path here = {.up = path, .index = index};
    char *item = g_malloc0(type->size);

    **tail = item; /* reachable from the top, so that a failure frees it */
    *tail = (void **)(void *)item; /* `next` is the first member */
    return parse_value(p, &here, type->element, in, item + type->value_offset);
}

static bool parse_list(Parse *p, const Path *path, const QapiType *type, struct json_object *in, void **out)
{
    void **tail = out;

    if (p->keyval && json_object_is_type(in, json_type_object)) {
        size_t n = json_object_object_length(in);

        for (size_t i = 0; i < n; i++) {
            g_autofree char *key = g_strdup_printf("%zu", i);
            Path here = {.up = path, .name = key};
            struct json_object *v;

            if (!json_object_object_get_ex(in, key, &v)) {
                return fail(p, &here, "Parameter '%s' missing");
            }
            if (!parse_element(p, path, type, i, v, &tail)) {
                return false;
            }
        }
        return true;
    }
    if (!json_object_is_type(in, json_type_array)) {
        return wrong_type(p, path, "array");
    }
    for (size_t i = 0; i < json_object_array_length(in); i++) {
        if (!parse_element(p, path, type, i, json_object_array_get_idx(in, i), &tail)) {
            return false;
        }
    }
    return true;
}

/* out: where the member or element lies; pointers are set as soon as there is something to free. */
static bool parse_value(Parse *p, const Path *path, const QapiType *type, struct json_object *in, void *out)
{
    void **pointer = out;

    switch (type->meta) {
    case QAPI_META_INT:
        return parse_int(p, path, type, in, out);
    case QAPI_META_NUMBER:
        return parse_number(p, path, in, out);
    case QAPI_META_BOOL:
        return parse_bool(p, path, in, out);
    case QAPI_META_STR:
        return parse_str(p, path, in, out);
    case QAPI_META_NULL:
        return json_object_is_type(in, json_type_null) || wrong_type(p, path, "null");
    case QAPI_META_ANY:
        *pointer = json_object_get(in);
        return true;
    case QAPI_META_ENUM:
        return parse_enum(p, path, type, in, out);
    case QAPI_META_LIST:
        return parse_list(p, path, type, in, pointer);
    case QAPI_META_OBJECT:
        *pointer = g_malloc0(type->size);
        return parse_object(p, path, type, in, *pointer);
    case QAPI_META_ALTERNATE:
        *pointer = g_malloc0(type->size);
        return parse_alternate(p, path, type, in, *pointer);
    }
    g_assert_not_reached();
}

bool qapi_parse(const QapiType *type, struct json_object *in, bool keyval, void **ret_out, Error **errp)
{
    Parse p = {.keyval = keyval, .errp = errp};
    void *value = NULL;

    if (!parse_value(&p, NULL, type, in, &value)) {
        qapi_free(type, value);
        return false;
    }
    *ret_out = value;
    return true;
}

int qapi_enum_parse(const QapiType *type, const char *name)
{
    for (size_t i = 0; i < type->enum_count; i++) {
        if (type->enum_names[i] && strcmp(type->enum_names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * JSON to C, strictly.
 *
 * Nothing is left over on failure: a value is built inside its parent, and the whole is freed from
 * the top.  Errors name the place by its path ("actions[0].data.snapshot-file"; "actions.0.data" in
 * keyval mode); values out of an enum or an integer's range by the last name alone, as QMP's
 * clients know it.
 *
 * Keyval mode: what comes from a command line has strings for all scalars, and an array is an
 * object with the members "0", "1", ...  JSON scalars and arrays are taken too.
 *
 * Integers: unsigned 64-bit ones accept a negative number as the same bit pattern, as QMP always
 * has; sizes do not: no size is meant to be just below 2^64.
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

static bool parse_value(const Parse *p, const Path *path, const QapiType *type,
                        struct json_object *in, void *out);

static void path_append(const Parse *p, GString *s, const Path *path)
{
    if (!path) {
        return;
    }
    path_append(p, s, path->up);
    if (path->name) {
        g_string_append_printf(s, "%s%s", s->len ? "." : "", path->name);
    } else {
        g_string_append_printf(s, p->keyval ? ".%zu" : "[%zu]", path->index);
    }
}

/* What is wrong at path: "Parameter '<path>' <what>". */
static bool fail(const Parse *p, const Path *path, const char *what)
{
    g_autoptr(GString) s = g_string_new(NULL);

    path_append(p, s, path);
    error_set(p->errp, ERROR_INVALID, s->str, "parse", "Parameter '%s' %s", s->str, what);
    return false;
}

static bool wrong_type(const Parse *p, const Path *path, const char *expected)
{
    g_autoptr(GString) s = g_string_new(NULL);

    path_append(p, s, path);
    error_set(p->errp, ERROR_INVALID, s->str, "parse",
              "Invalid parameter type for '%s', expected: %s", s->len ? s->str : "null", expected);
    return false;
}

/* A scalar was expected.  On a command line, members below it ("size.x=1") are what is wrong. */
static bool not_scalar(const Parse *p, const Path *path, struct json_object *in,
                       const char *expected)
{
    g_autoptr(GString) s = NULL;

    if (!p->keyval ||
        !(json_object_is_type(in, json_type_object) || json_object_is_type(in, json_type_array))) {
        return wrong_type(p, path, expected);
    }
    s = g_string_new(NULL);
    path_append(p, s, path);
    error_set(p->errp, ERROR_INVALID, s->str, "parse", "Parameters '%s.*' are unexpected", s->str);
    return false;
}

static const char *short_name(const Path *path)
{
    return path && path->name ? path->name : "null";
}

/* ---- integers ---- */

static bool out_of_range(const Parse *p, const Path *path, const QapiType *type)
{
    error_set(p->errp, ERROR_INVALID, short_name(path), "parse", "Parameter '%s' expects %s",
              short_name(path), type->name);
    return false;
}

static bool store_signed(const Parse *p, const Path *path, const QapiType *type, int64_t v,
                         void *out)
{
    unsigned shift = 64 - 8 * type->size;

    if (v > INT64_MAX >> shift || v < INT64_MIN >> shift) {
        return out_of_range(p, path, type);
    }
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

static bool store_unsigned(const Parse *p, const Path *path, const QapiType *type, uint64_t v,
                           void *out)
{
    if (v > UINT64_MAX >> (64 - 8 * type->size)) {
        return out_of_range(p, path, type);
    }
    switch (type->size) {
    case 1:
        *(uint8_t *)out = v;
        break;
    case 2:
        *(uint16_t *)out = v;
        break;
    case 4:
        *(uint32_t *)out = v;
        break;
    default:
        *(uint64_t *)out = v;
        break;
    }
    return true;
}

static bool parse_signed(const Parse *p, const Path *path, const QapiType *type,
                         struct json_object *in, void *out)
{
    if (p->keyval && json_object_is_type(in, json_type_string)) {
        const char *text = json_object_get_string(in);
        char *end;
        gint64 v;

        errno = 0;
        v = g_ascii_strtoll(text, &end, 0);
        if (errno || end == text || *end) {
            return fail(p, path, "expects integer");
        }
        return store_signed(p, path, type, v, out);
    }
    /* json-c reports more than INT64_MAX as INT64_MAX here, and as itself as unsigned */
    if (!json_object_is_type(in, json_type_int) ||
        (json_object_get_int64(in) == INT64_MAX && json_object_get_uint64(in) > INT64_MAX)) {
        return not_scalar(p, path, in, "integer");
    }
    return store_signed(p, path, type, json_object_get_int64(in), out);
}

static bool parse_unsigned(const Parse *p, const Path *path, const QapiType *type,
                           struct json_object *in, void *out)
{
    int64_t v;

    if (p->keyval && json_object_is_type(in, json_type_string)) {
        const char *text = json_object_get_string(in);
        char *end;
        guint64 u;

        errno = 0;
        u = g_ascii_strtoull(text, &end, 0);
        if (errno || end == text || *end) {
            return fail(p, path, "expects integer");
        }
        return store_unsigned(p, path, type, u, out);
    }
    if (!json_object_is_type(in, json_type_int)) {
        return p->keyval ? not_scalar(p, path, in, "integer") : fail(p, path, "expects uint64");
    }
    v = json_object_get_int64(in);
    if (v < 0 && type->is_size) {
        return fail(p, path, "expects uint64");
    }
    return store_unsigned(p, path, type, v < 0 ? (uint64_t)v : json_object_get_uint64(in), out);
}

/* Digits with an optional decimal fraction and an optional suffix of a power of 1024, or
 * hexadecimal digits alone. */
static bool size_of_text(const char *text, uint64_t *ret)
{
    static const char suffixes[] = "bkmgtpe";
    const char *digits = text + strspn(text, " \t"), *suffix;
    unsigned shift = 0;
    uint64_t whole, fraction = 0, unit = 1;
    char *end;

    if (!g_ascii_isdigit(*digits)) {
        return false;
    }
    errno = 0;
    if (digits[0] == '0' && g_ascii_tolower(digits[1]) == 'x') {
        *ret = g_ascii_strtoull(digits, &end, 16);
        return errno == 0 && *end == '\0' && g_ascii_isxdigit(digits[2]);
    }
    whole = g_ascii_strtoull(digits, &end, 10);
    if (errno) {
        return false;
    }
    if (*end == '.') {
        for (end++; g_ascii_isdigit(*end); end++) {
            /* fractions finer than the smallest unit a suffix can make of them do not count */
            if (unit < UINT64_C(100000000)) {
                fraction = fraction * 10 + (uint64_t)(*end - '0');
                unit *= 10;
            }
        }
    }
    if (*end) {
        suffix = strchr(suffixes, g_ascii_tolower(*end));
        if (!suffix || end[1]) {
            return false;
        }
        shift = 10 * (unsigned)(suffix - suffixes);
    }
    if ((fraction && shift == 0) || whole > UINT64_MAX >> shift) {
        return false;
    }
    /* the fraction is less than a unit, so it fits */
    *ret = (whole << shift) + (uint64_t)(((unsigned __int128)fraction << shift) / unit);
    return true;
}

static bool parse_int(const Parse *p, const Path *path, const QapiType *type,
                      struct json_object *in, void *out)
{
    uint64_t v;

    if (type->is_size && p->keyval && json_object_is_type(in, json_type_string)) {
        if (!size_of_text(json_object_get_string(in), &v)) {
            return fail(p, path, "expects size");
        }
        return store_unsigned(p, path, type, v, out);
    }
    return type->is_signed ? parse_signed(p, path, type, in, out)
                           : parse_unsigned(p, path, type, in, out);
}

/* ---- other scalars ---- */

static bool parse_bool(const Parse *p, const Path *path, struct json_object *in, bool *out)
{
    static const char *const yes[] = {"on", "yes", "true", "y", NULL}, *const no[] = {"off", "no",
                                                                                      "false", "n",
                                                                                      NULL};

    if (p->keyval && json_object_is_type(in, json_type_string)) {
        const char *text = json_object_get_string(in);

        if (!g_strv_contains(yes, text) && !g_strv_contains(no, text)) {
            return fail(p, path, "expects 'on' or 'off'");
        }
        *out = g_strv_contains(yes, text);
        return true;
    }
    if (!json_object_is_type(in, json_type_boolean)) {
        return not_scalar(p, path, in, "boolean");
    }
    *out = json_object_get_boolean(in);
    return true;
}

static bool parse_number(const Parse *p, const Path *path, struct json_object *in, double *out)
{
    if (p->keyval && json_object_is_type(in, json_type_string)) {
        const char *text = json_object_get_string(in);
        char *end;
        double v = g_ascii_strtod(text, &end);

        if (end == text || *end || !isfinite(v)) {
            return fail(p, path, "expects number");
        }
        *out = v;
        return true;
    }
    if (!json_object_is_type(in, json_type_double) && !json_object_is_type(in, json_type_int)) {
        return not_scalar(p, path, in, "number");
    }
    *out = json_object_get_double(in);
    return true;
}

/* The text of a JSON string; NULL (error set): it is none, or holds a zero byte, which no C
 * string can. */
static const char *string_of(const Parse *p, const Path *path, struct json_object *in)
{
    const char *text;

    if (!json_object_is_type(in, json_type_string)) {
        not_scalar(p, path, in, "string");
        return NULL;
    }
    text = json_object_get_string(in);
    if (strlen(text) != (size_t)json_object_get_string_len(in)) {
        fail(p, path, "must not contain the character U+0000");
        return NULL;
    }
    return text;
}

static bool parse_str(const Parse *p, const Path *path, struct json_object *in, char **out)
{
    *out = g_strdup(string_of(p, path, in));
    return *out;
}

static bool parse_enum(const Parse *p, const Path *path, const QapiType *type,
                       struct json_object *in, int *out)
{
    const char *text = string_of(p, path, in);
    int v;

    if (!text) {
        return false;
    }
    v = qapi_enum_parse(type, text);
    if (v < 0) {
        error_set(p->errp, ERROR_INVALID, short_name(path), "parse",
                  "Parameter '%s' does not accept value '%s'", short_name(path), text);
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

/* The branch's own members follow, with the same names known: "unexpected" is for what neither
 * side takes. */
static bool parse_members(const Parse *p, const Path *path, const QapiType *type,
                          struct json_object *in, char *out, GHashTable *known)
{
    const QapiBranch *branch;

    for (size_t i = 0; i < type->member_count; i++) {
        const QapiMember *m = &type->members[i];
        Path here = {.up = path, .name = m->name};
        struct json_object *v;

        if (!json_object_object_get_ex(in, m->name, &v)) {
            if (!m->optional) {
                return fail(p, &here, "is missing");
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

static bool parse_object(const Parse *p, const Path *path, const QapiType *type,
                         struct json_object *in, char *out)
{
    g_autoptr(GHashTable) known = g_hash_table_new(g_str_hash, g_str_equal);

    if (!parse_members(p, path, type, in, out, known)) {
        return false;
    }
    json_object_object_foreach(in, key, val)
    {
        Path here = {.up = path, .name = key};

        (void)val;
        if (!g_hash_table_contains(known, key)) {
            return fail(p, &here, "is unexpected");
        }
    }
    return true;
}

/* ---- arrays and alternates ---- */

/* On a command line, members "0", "1", ... make an array. */
static bool is_index(const char *key)
{
    return key[0] && strspn(key, "0123456789") == strlen(key);
}

/* The JSON type `in` stands for; false (error set): it is part array and part object. */
static bool kind_of(const Parse *p, const Path *path, struct json_object *in, json_type *ret)
{
    g_autoptr(GString) s = NULL;
    int indices = 0;

    *ret = json_object_get_type(in);
    if (!p->keyval || *ret != json_type_object || json_object_object_length(in) == 0) {
        return true;
    }
    json_object_object_foreach(in, key, val)
    {
        (void)val;
        indices += is_index(key);
    }
    if (indices == 0) {
        return true;
    }
    *ret = json_type_array;
    if (indices == json_object_object_length(in)) {
        return true;
    }
    s = g_string_new(NULL);
    path_append(p, s, path);
    error_set(p->errp, ERROR_INVALID, s->str, "parse", "Parameters '%s%s*' used inconsistently",
              s->str, s->len ? "." : "");
    return false;
}

static bool parse_alternate(const Parse *p, const Path *path, const QapiType *type, json_type json,
                            struct json_object *in, char *out)
{
    static const QapiKind kinds[] = {
        [json_type_null] = QAPI_KIND_NULL,     [json_type_boolean] = QAPI_KIND_BOOLEAN,
        [json_type_double] = QAPI_KIND_NUMBER, [json_type_int] = QAPI_KIND_NUMBER,
        [json_type_object] = QAPI_KIND_OBJECT, [json_type_array] = QAPI_KIND_ARRAY,
        [json_type_string] = QAPI_KIND_STRING,
    };
    const QapiBranch *b = find_branch(type, kinds[json]);

    if (!b) {
        /* The short name, as for enums: clients and their tests know it so. */
        const char *name = short_name(path);

        error_set(p->errp, ERROR_INVALID, name, "parse",
                  "Invalid parameter type for '%s', expected: %s", name, type->name);
        return false;
    }
    *(QapiKind *)(out + type->tag_offset) = kinds[json];
    return parse_value(p, path, b->type, in, out + b->offset);
}

static bool parse_list(const Parse *p, const Path *path, const QapiType *type,
                       struct json_object *in, void **out)
{
    bool plain = json_object_is_type(in, json_type_array);
    size_t n = plain ? json_object_array_length(in) : (size_t)json_object_object_length(in);
    void **tail = out;

    for (size_t i = 0; i < n; i++) {
        Path here = {.up = path, .index = i};
        struct json_object *v;
        char key[24], *item;

        if (plain) {
            v = json_object_array_get_idx(in, i);
        } else {
            g_snprintf(key, sizeof(key), "%zu", i);
            if (!json_object_object_get_ex(in, key, &v)) {
                return fail(p, &here, "missing");
            }
        }
        item = g_malloc0(type->size);
        *tail = item;                 /* reachable from the top, so that a failure frees it */
        tail = (void **)(void *)item; /* `next` is the first member */
        if (!parse_value(p, &here, type->element, v, item + type->value_offset)) {
            return false;
        }
    }
    return true;
}

/* out: where the member or element lies; pointers are set as soon as there is something to free. */
static bool parse_value(const Parse *p, const Path *path, const QapiType *type,
                        struct json_object *in, void *out)
{
    void **pointer = out;
    json_type json;

    if (!kind_of(p, path, in, &json)) {
        return false;
    }
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
        return json == json_type_array ? parse_list(p, path, type, in, pointer)
                                       : wrong_type(p, path, "array");
    case QAPI_META_OBJECT:
        if (json != json_type_object) {
            return wrong_type(p, path, "object");
        }
        *pointer = g_malloc0(type->size);
        return parse_object(p, path, type, in, *pointer);
    case QAPI_META_ALTERNATE:
        *pointer = g_malloc0(type->size);
        return parse_alternate(p, path, type, json, in, *pointer);
    }
    g_assert_not_reached();
}

bool qapi_parse(const QapiType *type, struct json_object *in, bool keyval, void **ret_out,
                Error **errp)
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

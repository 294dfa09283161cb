/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Serialising, copying and freeing values.
 */
#include "qapi/visit.h"
#include <string.h>

static const QapiBranch *branch_of(const QapiType *type, const char *value)
{
    int tag = type->branch_count ? *(const int *)(value + type->tag_offset) : 0;

    for (size_t i = 0; i < type->branch_count; i++) {
        if (type->branches[i].value == tag) {
            return &type->branches[i];
        }
    }
    return NULL;
}

static bool is_pointer(const QapiType *type)
{
    return type->meta == QAPI_META_STR || type->meta == QAPI_META_ANY ||
           type->meta >= QAPI_META_OBJECT;
}

static bool is_present(const QapiMember *m, const char *value)
{
    if (m->has_offset >= 0) {
        return *(const bool *)(value + m->has_offset);
    }
    return !m->optional || !is_pointer(m->type) || *(void *const *)(value + m->offset);
}

/* ---- serialise ---- */

static struct json_object *to_json(const QapiType *type, const void *at);

static struct json_object *int_to_json(const QapiType *type, const void *at)
{
    switch (type->size) {
    case 1:
        return json_object_new_int(type->is_signed ? *(const int8_t *)at : *(const uint8_t *)at);
    case 2:
        return json_object_new_int(type->is_signed ? *(const int16_t *)at : *(const uint16_t *)at);
    case 4:
        return json_object_new_int64(type->is_signed ? *(const int32_t *)at
                                                     : (int64_t) * (const uint32_t *)at);
    default:
        return type->is_signed ? json_object_new_int64(*(const int64_t *)at)
                               : json_object_new_uint64(*(const uint64_t *)at);
    }
}

static void members_to_json(const QapiType *type, const char *value, struct json_object *o)
{
    const QapiBranch *b = branch_of(type, value);

    for (size_t i = 0; i < type->member_count; i++) {
        const QapiMember *m = &type->members[i];

        if (is_present(m, value)) {
            json_object_object_add(o, m->name, to_json(m->type, value + m->offset));
        }
    }
    if (b) {
        members_to_json(b->type, value + b->offset, o);
    }
}

static struct json_object *list_to_json(const QapiType *type, const char *item)
{
    struct json_object *a = json_object_new_array();

    for (; item; item = *(char *const *)(const void *)item) {
        json_object_array_add(a, to_json(type->element, item + type->value_offset));
    }
    return a;
}

/* at: where the member or element lies. */
static struct json_object *to_json(const QapiType *type, const void *at)
{
    const char *value = is_pointer(type) ? *(char *const *)at : NULL;
    const QapiBranch *b;
    struct json_object *o;

    switch (type->meta) {
    case QAPI_META_INT:
        return int_to_json(type, at);
    case QAPI_META_NUMBER:
        return json_object_new_double(*(const double *)at);
    case QAPI_META_BOOL:
        return json_object_new_boolean(*(const bool *)at);
    case QAPI_META_STR:
        return json_object_new_string(value ? value : "");
    case QAPI_META_NULL:
        return NULL;
    case QAPI_META_ANY:
        return json_object_get(*(struct json_object *const *)at);
    case QAPI_META_ENUM:
        return json_object_new_string(type->enum_names[*(const int *)at]);
    case QAPI_META_LIST:
        return list_to_json(type, value);
    case QAPI_META_OBJECT:
        o = json_object_new_object();
        if (value) {
            members_to_json(type, value, o);
        }
        return o;
    case QAPI_META_ALTERNATE:
        b = branch_of(type, value);
        return to_json(b->type, value + b->offset);
    }
    g_assert_not_reached();
}

struct json_object *qapi_serialise(const QapiType *type, const void *value)
{
    return is_pointer(type) && type->meta != QAPI_META_STR ? to_json(type, &value)
                                                           : to_json(type, value);
}

struct json_object *qapi_serialise_at(const QapiType *type, const void *at)
{
    return to_json(type, at);
}

/* ---- free ---- */

static void clear(const QapiType *type, void *at);

static void clear_members(const QapiType *type, char *value)
{
    const QapiBranch *b = branch_of(type, value);

    for (size_t i = 0; i < type->member_count; i++) {
        clear(type->members[i].type, value + type->members[i].offset);
    }
    if (b) {
        clear_members(b->type, value + b->offset);
    }
}

static void clear(const QapiType *type, void *at)
{
    char *value = is_pointer(type) ? *(char **)at : NULL;
    const QapiBranch *b;

    if (!value) {
        return;
    }
    switch (type->meta) {
    case QAPI_META_ANY:
        json_object_put(*(struct json_object **)at);
        return;
    case QAPI_META_LIST:
        while (value) {
            char *next = *(char **)(void *)value;

            clear(type->element, value + type->value_offset);
            g_free(value);
            value = next;
        }
        return;
    case QAPI_META_OBJECT:
        clear_members(type, value);
        break;
    case QAPI_META_ALTERNATE:
        b = branch_of(type, value);
        if (b) {
            clear(b->type, value + b->offset);
        }
        break;
    default:
        break;
    }
    g_free(value);
}

void qapi_free(const QapiType *type, void *value)
{
    clear(type, &value);
}

void qapi_clear_at(const QapiType *type, void *at)
{
    clear(type, at);
}

/* ---- copy ---- */

static void copy(const QapiType *type, const void *from, void *to);

static void copy_members(const QapiType *type, const char *from, char *to)
{
    const QapiBranch *b = branch_of(type, from);

    for (size_t i = 0; i < type->member_count; i++) {
        const QapiMember *m = &type->members[i];

        if (m->has_offset >= 0) {
            *(bool *)(to + m->has_offset) = *(const bool *)(from + m->has_offset);
        }
        copy(m->type, from + m->offset, to + m->offset);
    }
    if (b) {
        copy_members(b->type, from + b->offset, to + b->offset);
    }
}

static void *copy_list(const QapiType *type, const char *item)
{
    void *head = NULL, **tail = &head;

    for (; item; item = *(char *const *)(const void *)item) {
        char *c = g_malloc0(type->size);

        copy(type->element, item + type->value_offset, c + type->value_offset);
        *tail = c;
        tail = (void **)(void *)c;
    }
    return head;
}

static void copy(const QapiType *type, const void *from, void *to)
{
    const char *value = is_pointer(type) ? *(char *const *)from : NULL;
    const QapiBranch *b;
    char *c;

    if (!is_pointer(type)) {
        memcpy(to, from, type->meta == QAPI_META_ENUM ? sizeof(int) : type->size);
        return;
    }
    if (!value) {
        *(void **)to = NULL;
        return;
    }
    switch (type->meta) {
    case QAPI_META_STR:
        *(char **)to = g_strdup(value);
        return;
    case QAPI_META_ANY:
        *(struct json_object **)to = json_object_get(*(struct json_object *const *)from);
        return;
    case QAPI_META_LIST:
        *(void **)to = copy_list(type, value);
        return;
    default:
        break;
    }
    c = g_malloc0(type->size);
    *(void **)to = c;
    if (type->meta == QAPI_META_OBJECT) {
        copy_members(type, value, c);
        return;
    }
    b = branch_of(type, value);
    *(int *)(c + type->tag_offset) = *(const int *)(value + type->tag_offset);
    copy(b->type, value + b->offset, c + b->offset);
}

void *qapi_copy(const QapiType *type, const void *value)
{
    void *out = NULL;

    copy(type, &value, &out);
    return out;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Values of schema types: parsing, serialising, copying, freeing, by tables that scripts/qapi
 * makes.
 *
 * Representation: scalars and enums are members by value, optional ones with a `has_` flag;
 * strings, objects, alternates, lists and `any` are pointers, NULL where absent.  A union's branch
 * lies in `u` by value; list elements are in a chain.
 * Memory is GLib's; a value owns all below it.  An `any` that is JSON null is NULL, as if absent.
 *
 * Any thread.  Nothing here suspends.
 */
#ifndef QAPI_VISIT_H
#define QAPI_VISIT_H

#include "util/error.h"
#include <json-c/json.h>
#include <stddef.h>
#include <stdint.h>

/* JSON kinds, as alternates distinguish them. */
typedef enum QapiKind {
    QAPI_KIND_NULL,
    QAPI_KIND_NUMBER,
    QAPI_KIND_STRING,
    QAPI_KIND_OBJECT,
    QAPI_KIND_ARRAY,
    QAPI_KIND_BOOLEAN,
} QapiKind;

typedef enum QapiMeta {
    QAPI_META_INT,
    QAPI_META_NUMBER,
    QAPI_META_BOOL,
    QAPI_META_STR,
    QAPI_META_NULL,
    QAPI_META_ANY,
    QAPI_META_ENUM,
    QAPI_META_OBJECT,
    QAPI_META_ALTERNATE,
    QAPI_META_LIST,
} QapiMeta;

typedef struct QapiType QapiType;

typedef struct QapiMember {
    const char *name;
    const QapiType *type;
    size_t offset;
    ptrdiff_t has_offset; /* of the has_ flag; -1: none */
    bool optional;
} QapiMember;

typedef struct QapiBranch {
    int value; /* unions: of the tag; alternates: a QapiKind */
    const QapiType *type;
    size_t offset;
} QapiBranch;

struct QapiType {
    const char *name;
    QapiMeta meta;
    size_t size; /* of the C value that a pointer of this type points to, or of the scalar */
    bool is_signed, is_size; /* integers */
    const char *const *enum_names;
    size_t enum_count;
    const QapiMember *members;
    size_t member_count;
    const QapiBranch *branches;
    size_t branch_count;
    size_t tag_offset;
    const QapiType *element;
    size_t value_offset;
};

extern const QapiType qapi_type_str, qapi_type_number, qapi_type_int, qapi_type_int8,
    qapi_type_int16, qapi_type_int32, qapi_type_int64, qapi_type_uint8, qapi_type_uint16,
    qapi_type_uint32, qapi_type_uint64, qapi_type_size, qapi_type_bool, qapi_type_any,
    qapi_type_null;

/* From JSON to C; type: an object, alternate or list type.  Strict: types must match, nothing may be
 * missing or unknown.  keyval: as on a command line, where scalars may be strings ("on", "4k" for
 * sizes) and arrays objects with the members "0", "1", ...
 * true: *ret_out is the new value (qapi_free(); NULL: an empty list); false: *errp has QEMU's text
 * (GenericError, ERROR_INVALID, the subject is the path of what is wrong).  `in` stays the
 * caller's. */
bool qapi_parse(const QapiType *type, struct json_object *in, bool keyval, void **ret_out,
                Error **errp);
/* A new JSON value of a value of such a type; members in schema order, absent ones left out. */
struct json_object *qapi_serialise(const QapiType *type, const void *value);
/* The same for a value that lies at `at` as a member of an object does, and freeing that: scalars
 * and enums by value, all else by a pointer.  Any type. */
struct json_object *qapi_serialise_at(const QapiType *type, const void *at);
void qapi_clear_at(const QapiType *type, void *at);
/* A deep copy (JSON values below `any` are shared: nobody changes them). */
void *qapi_copy(const QapiType *type, const void *value);
/* NULL: nothing happens. */
void qapi_free(const QapiType *type, void *value);
/* The value of an enum's name; -1: unknown. */
int qapi_enum_parse(const QapiType *type, const char *name);

/* qapi_parse_Foo(in, &foo, errp), qapi_parse_keyval_Foo, qapi_serialise_Foo, qapi_copy_Foo,
 * qapi_free_Foo, g_autoptr(Foo) */
#define QAPI_DECLARE_TYPE_FUNCTIONS(T)                                                             \
    static inline bool qapi_parse_##T(struct json_object *in, T **ret_out, Error **errp)           \
    {                                                                                              \
        void *value;                                                                               \
                                                                                                   \
        if (!qapi_parse(&qapi_type_##T, in, false, &value, errp)) {                                \
            return false;                                                                          \
        }                                                                                          \
        *ret_out = value;                                                                          \
        return true;                                                                               \
    }                                                                                              \
    static inline bool qapi_parse_keyval_##T(struct json_object *in, T **ret_out, Error **errp)    \
    {                                                                                              \
        void *value;                                                                               \
                                                                                                   \
        if (!qapi_parse(&qapi_type_##T, in, true, &value, errp)) {                                 \
            return false;                                                                          \
        }                                                                                          \
        *ret_out = value;                                                                          \
        return true;                                                                               \
    }                                                                                              \
    static inline struct json_object *qapi_serialise_##T(const T *value)                           \
    {                                                                                              \
        return qapi_serialise(&qapi_type_##T, value);                                              \
    }                                                                                              \
    static inline T *qapi_copy_##T(const T *value)                                                 \
    {                                                                                              \
        return qapi_copy(&qapi_type_##T, value);                                                   \
    }                                                                                              \
    static inline void qapi_free_##T(T *value)                                                     \
    {                                                                                              \
        qapi_free(&qapi_type_##T, value);                                                          \
    }                                                                                              \
    G_DEFINE_AUTOPTR_CLEANUP_FUNC(T, qapi_free_##T)

/* Arrays of the predefined types. */
#define QAPI_DECLARE_BUILTIN_LIST(N, C_TYPE)                                                       \
    typedef struct N##List N##List;                                                                \
    struct N##List {                                                                               \
        N##List *next;                                                                             \
        C_TYPE value;                                                                              \
    };                                                                                             \
    extern const QapiType qapi_type_##N##List;                                                     \
    QAPI_DECLARE_TYPE_FUNCTIONS(N##List)

QAPI_DECLARE_BUILTIN_LIST(str, char *)
QAPI_DECLARE_BUILTIN_LIST(number, double)
QAPI_DECLARE_BUILTIN_LIST(int, int64_t)
QAPI_DECLARE_BUILTIN_LIST(int8, int8_t)
QAPI_DECLARE_BUILTIN_LIST(int16, int16_t)
QAPI_DECLARE_BUILTIN_LIST(int32, int32_t)
QAPI_DECLARE_BUILTIN_LIST(int64, int64_t)
QAPI_DECLARE_BUILTIN_LIST(uint8, uint8_t)
QAPI_DECLARE_BUILTIN_LIST(uint16, uint16_t)
QAPI_DECLARE_BUILTIN_LIST(uint32, uint32_t)
QAPI_DECLARE_BUILTIN_LIST(uint64, uint64_t)
QAPI_DECLARE_BUILTIN_LIST(size, uint64_t)
QAPI_DECLARE_BUILTIN_LIST(bool, bool)
QAPI_DECLARE_BUILTIN_LIST(any, struct json_object *)
QAPI_DECLARE_BUILTIN_LIST(null, bool)

typedef struct json_object JsonObject;
static inline void qapi_json_put(JsonObject *o)
{
    json_object_put(o);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(JsonObject, qapi_json_put)

#endif

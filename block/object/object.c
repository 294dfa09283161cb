/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Objects: the list, paths and properties.
 */
#include "block/object.h"
#include "object-internal.h"
#include "qapi-types.h"
#include <string.h>

static GPtrArray *objects; /* Object *, in order of making */

static const ObjectProperty no_properties[] = {{0}};
static const ObjectClass type_object = {
    .name = "object", .not_creatable = true, .abstract = true, .properties = no_properties};
static const ObjectClass type_container = {
    .name = "container", .parent = "object", .not_creatable = true, .properties = no_properties};

#define ABSTRACT(symbol, text)                                                                     \
    static const ObjectClass type_##symbol = {.name = text,                                        \
                                              .parent = "object",                                  \
                                              .abstract = true,                                    \
                                              .not_creatable = true,                               \
                                              .properties = no_properties}

ABSTRACT(event_loop_base, "event-loop-base");
ABSTRACT(secret_common, "secret_common");
ABSTRACT(tls_creds, "tls-creds");
ABSTRACT(authz, "authz");

const ObjectClass *const object_types[] = {
    &type_object,
    &type_container,
    &type_event_loop_base,
    &type_secret_common,
    &type_tls_creds,
    &type_authz,
    &object_type_authz_list,
    &object_type_authz_list_file,
    &object_type_authz_pam,
    &object_type_authz_simple,
    &object_type_iothread,
    &object_type_main_loop,
    &object_type_secret,
    &object_type_secret_keyring,
    &object_type_throttle_group,
    &object_type_tls_creds_anon,
    &object_type_tls_creds_psk,
    &object_type_tls_creds_x509,
    NULL,
};

/* ---- types ---- */

const ObjectClass *object_type_find(const char *name)
{
    for (unsigned i = 0; object_types[i]; i++) {
        if (strcmp(object_types[i]->name, name) == 0) {
            return object_types[i];
        }
    }
    return NULL;
}

bool object_type_is_a(const ObjectClass *t, const char *ancestor)
{
    for (; t; t = t->parent ? object_type_find(t->parent) : NULL) {
        if (strcmp(t->name, ancestor) == 0 ||
            (strcmp(ancestor, "user-creatable") == 0 && !t->not_creatable)) {
            return true;
        }
    }
    return false;
}

/* The name in object-add is the type's but for one. */
static const ObjectClass *type_of(const ObjectOptions *options)
{
    const char *name = qapi_enum_ObjectType(options->qom_type);

    return object_type_find(strcmp(name, "authz-listfile") == 0 ? "authz-list-file" : name);
}

/* ---- making and deleting ---- */

static bool check_id(const char *id, Error **errp)
{
    bool good = g_ascii_isalpha(id[0]);

    for (const char *p = id; good && *p; p++) {
        good = g_ascii_isalnum(*p) || *p == '-' || *p == '.' || *p == '_';
    }
    if (!good) {
        error_set(errp, ERROR_INVALID, id, "object-add", "Parameter 'id' expects an identifier");
        error_hint(
            errp, "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.");
    }
    return good;
}

static void object_free(Object *o)
{
    if (o->type->cleanup) {
        o->type->cleanup(o);
    }
    qapi_free_ObjectOptions(o->options);
    g_free(o->id);
    g_free(o);
}

static bool check_free(const char *id, Error **errp)
{
    if (object_find(id)) {
        error_set(errp, ERROR_EXISTS, id, "object-add",
                  "attempt to add duplicate property '%s' to object (type 'container')", id);
        return false;
    }
    return true;
}

bool coroutine_fn object_add(const ObjectOptions *options, Error **errp)
{
    Object *o;

    if (!check_id(options->id, errp)) {
        return false;
    }
    if (!check_free(options->id, errp)) {
        return false;
    }
    if (!objects) {
        objects = g_ptr_array_new();
    }
    o = g_malloc0(type_of(options)->size);
    o->type = type_of(options);
    o->id = g_strdup(options->id);
    o->options = qapi_copy_ObjectOptions(options);
    /* Making it may have suspended us. */
    if (!o->type->create(o, errp) || !check_free(o->id, errp)) {
        object_free(o);
        return false;
    }
    g_ptr_array_add(objects, o);
    return true;
}

bool object_del(const char *id, Error **errp)
{
    Object *o = object_find(id);

    if (!o) {
        error_set(errp, ERROR_NOT_FOUND, id, "object-del", "object '%s' not found", id);
        return false;
    }
    if (o->type->in_use && o->type->in_use(o)) {
        error_set(errp, ERROR_BUSY, id, "object-del", "object '%s' is in use, can not be deleted",
                  id);
        return false;
    }
    g_ptr_array_remove(objects, o);
    object_free(o);
    return true;
}

Object *object_find(const char *id)
{
    for (guint i = 0; objects && i < objects->len; i++) {
        Object *o = g_ptr_array_index(objects, i);

        if (strcmp(o->id, id) == 0) {
            return o;
        }
    }
    return NULL;
}

void object_foreach(void (*fn)(void *opaque, Object *o), void *opaque)
{
    for (guint i = 0; objects && i < objects->len; i++) {
        fn(opaque, g_ptr_array_index(objects, i));
    }
}

void object_free_all(void)
{
    while (objects && objects->len > 0) {
        object_free(g_ptr_array_steal_index(objects, objects->len - 1));
    }
    g_clear_pointer(&objects, g_ptr_array_unref);
}

/* ---- paths ---- */

bool object_resolve(const char *path, ObjectPlace *ret_place, Object **ret_object, Error **errp)
{
    const char *rest = path;

    *ret_object = NULL;
    if (strcmp(path, "/") == 0) {
        *ret_place = OBJECT_PLACE_ROOT;
        return true;
    }
    rest += *rest == '/';
    if (strcmp(rest, "objects") == 0 || strcmp(rest, "objects/") == 0) {
        *ret_place = OBJECT_PLACE_OBJECTS;
        return true;
    }
    if (g_str_has_prefix(rest, "objects/")) {
        *ret_object = object_find(rest + strlen("objects/"));
    } else if (rest == path) {
        *ret_object = object_find(rest); /* the end of a path */
    }
    if (!*ret_object) {
        error_set_class(errp, ERROR_CLASS_DEVICE_NOT_FOUND, ERROR_NOT_FOUND, path, "qom",
                        "Device '%s' not found", path);
        return false;
    }
    *ret_place = OBJECT_PLACE_OBJECT;
    return true;
}

/* ---- properties ---- */

static const ObjectProperty *find_property(const Object *o, const char *name, Error **errp)
{
    for (const ObjectProperty *p = o->type->properties; p->name; p++) {
        if (strcmp(p->name, name) == 0) {
            return p;
        }
    }
    error_set(errp, ERROR_NOT_FOUND, name, "qom", "Property '%s.%s' not found", o->type->name,
              name);
    return NULL;
}

bool object_get(const Object *o, const char *property, struct json_object **ret_value, Error **errp)
{
    struct json_object *value = NULL;
    const ObjectProperty *p;

    if (strcmp(property, "type") == 0) {
        *ret_value = json_object_new_string(o->type->name);
        return true;
    }
    p = find_property(o, property, errp);
    if (!p) {
        return false;
    }
    if (o->type->get) {
        value = o->type->get(o, property);
    }
    if (!value) {
        g_autoptr(JsonObject) options = qapi_serialise_ObjectOptions(o->options);

        if (json_object_object_get_ex(options, property, &value)) {
            json_object_get(value);
        } else {
            value = p->fallback ? json_tokener_parse(p->fallback) : json_object_new_string("");
        }
    }
    *ret_value = value;
    return true;
}

bool object_set(Object *o, const char *property, struct json_object *value, Error **errp)
{
    if (strcmp(property, "type") == 0) {
        error_set(errp, ERROR_UNSUPPORTED, property, "qom-set", "Property '%s.%s' is not writable",
                  o->type->name, property);
        return false;
    }
    if (!find_property(o, property, errp)) {
        return false;
    }
    if (!o->type->set) {
        error_set(errp, ERROR_UNSUPPORTED, property, "qom-set",
                  "Property cannot be set after initialization");
        return false;
    }
    return o->type->set(o, property, value, errp);
}

bool object_value_int(const char *property, struct json_object *value, int64_t *ret, Error **errp)
{
    if (!json_object_is_type(value, json_type_int)) {
        error_set(errp, ERROR_INVALID, property, "qom-set",
                  "Invalid parameter type for '%s', expected: integer", property);
        return false;
    }
    *ret = json_object_get_int64(value);
    return true;
}

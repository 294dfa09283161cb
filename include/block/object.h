/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Objects that users create: I/O threads, secrets, credentials, ...
 *
 * An object is of a type, which has a parent type.  It keeps the options it was made from; its properties are these, unless its type knows
 * better.  Whoever needs an object for longer than a call holds a reference to what is in it (IOThread, TlsCreds, ...), or
 * counts himself as a user, so that it cannot be deleted.
 *
 * Paths: "/" has "objects", which has the objects by their ids.
 *
 * Control thread.
 */
#ifndef BLOCK_OBJECT_H
#define BLOCK_OBJECT_H

#include "util/coroutine.h"
#include "util/error.h"
#include <json-c/json.h>

typedef struct Object Object;
struct ObjectOptions;

/* An array of these ends with a name of NULL. */
typedef struct ObjectProperty {
    const char *name, *type; /* type: as qom-list shows it */
    const char *fallback;    /* JSON of the value where the options have none; NULL: "" or none */
} ObjectProperty;

typedef struct ObjectClass {
    const char *name, *parent;
    bool abstract;
    bool not_creatable; /* by users */
    size_t size;        /* of the structure that begins with Object */
    const ObjectProperty *properties;
    bool coroutine_fn (*create)(Object *o, Error **errp);
    void (*cleanup)(Object *o); /* also after create() has failed */
    bool (*in_use)(const Object *o);
    /* A property's value; the caller's.  NULL: as the options have it. */
    struct json_object *(*get)(const Object *o, const char *property);
    /* NULL: no property can be changed. */
    bool (*set)(Object *o, const char *property, struct json_object *value, Error **errp);
} ObjectClass;

struct Object {
    const ObjectClass *type;
    char *id;
    struct ObjectOptions *options;
};

/* All types, parents first; ends with NULL. */
extern const ObjectClass *const object_types[];
const ObjectClass *object_type_find(const char *name);
bool object_type_is_a(const ObjectClass *t, const char *ancestor);

bool coroutine_fn object_add(const struct ObjectOptions *options, Error **errp);
bool object_del(const char *id, Error **errp);
/* NULL: there is none. */
Object *object_find(const char *id);
void object_foreach(void (*fn)(void *opaque, Object *o), void *opaque);
/* Shutdown: nothing uses any of them any more. */
void object_free_all(void);

/* What a path leads to. */
typedef enum ObjectPlace {
    OBJECT_PLACE_ROOT,
    OBJECT_PLACE_OBJECTS,
    OBJECT_PLACE_OBJECT
} ObjectPlace;
/* *ret_object only for OBJECT_PLACE_OBJECT.  Error: class DeviceNotFound. */
bool object_resolve(const char *path, ObjectPlace *ret_place, Object **ret_object, Error **errp);
/* NULL with *errp: there is no such property; *ret_value NULL: JSON null. */
bool object_get(const Object *o, const char *property, struct json_object **ret_value,
                Error **errp);
bool object_set(Object *o, const char *property, struct json_object *value, Error **errp);

#endif

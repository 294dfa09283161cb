/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Objects throttle-group.
 *
 * Limits are given as one value, `limits`, or when the object is made by single members with names that begin with x-.
 */
#include "block/backend-limits.h"
#include "block/throttle.h"
#include "block/throttle-objects.h"
#include "object-internal.h"
#include "qapi-types.h"
#include <string.h>

typedef struct ThrottleObject {
    Object base;
    ThrottleGroup *group;
} ThrottleObject;

/* The names of limits, in the order of ThrottleKind. */
static const char *const kinds[THROTTLE_KINDS] = {"iops-total", "iops-read", "iops-write",
                                                  "bps-total",  "bps-read",  "bps-write"};

static bool take(struct json_object *o, const char *name, const char *suffix, uint64_t *value,
                 Error **errp)
{
    g_autofree char *key = g_strconcat(name, suffix, NULL);
    struct json_object *v;

    if (!json_object_object_get_ex(o, key, &v)) {
        return true;
    }
    if (json_object_get_int64(v) < 0) {
        error_set(errp, ERROR_INVALID, key, "throttle",
                  "%s value must be in range [0, %" G_GINT64_FORMAT "]", key, G_MAXINT64);
        return false;
    }
    *value = json_object_get_int64(v);
    return true;
}

/* Changes what `o` (an object of integers) names; each name is preceded by prefix. */
static bool apply(struct json_object *o, const char *prefix, ThrottleConfig *c, Error **errp)
{
    g_autofree char *size = g_strconcat(prefix, "iops-size", NULL);

    for (int k = 0; k < THROTTLE_KINDS; k++) {
        g_autofree char *name = g_strconcat(prefix, kinds[k], NULL);

        if (!take(o, name, "", &c->limit[k].rate, errp) ||
            !take(o, name, "-max", &c->limit[k].burst, errp) ||
            !take(o, name, "-max-length", &c->limit[k].length, errp)) {
            return false;
        }
    }
    return take(o, size, "", &c->iops_size, errp);
}

static struct json_object *to_json(const ThrottleConfig *c)
{
    struct json_object *o = json_object_new_object();

    for (int k = 0; k < THROTTLE_KINDS; k++) {
        g_autofree char *burst = g_strconcat(kinds[k], "-max", NULL),
                        *length = g_strconcat(kinds[k], "-max-length", NULL);

        json_object_object_add(o, kinds[k], json_object_new_int64(c->limit[k].rate));
        json_object_object_add(o, burst, json_object_new_int64(c->limit[k].burst));
        json_object_object_add(o, length, json_object_new_int64(c->limit[k].length));
    }
    json_object_object_add(o, "iops-size", json_object_new_int64(c->iops_size));
    return o;
}

static bool create(Object *o, Error **errp)
{
    ThrottleObject *t = (ThrottleObject *)o;
    g_autoptr(JsonObject) options = qapi_serialise_ObjectOptions(o->options);
    struct json_object *limits;
    ThrottleConfig c;

    t->group = backend_group_lookup(o->id);
    if (t->group) {
        error_set(errp, ERROR_EXISTS, o->id, "object-add", "A group with this name already exists");
        return false;
    }
    t->group = throttle_group_new();
    throttle_config_init(&c);
    if (!apply(options, "x-", &c, errp) ||
        (json_object_object_get_ex(options, "limits", &limits) && !apply(limits, "", &c, errp)) ||
        !throttle_config_check(&c, errp)) {
        return false;
    }
    throttle_group_set(t->group, &c);
    return true;
}

static void cleanup(Object *o)
{
    throttle_group_unref(((ThrottleObject *)o)->group);
}

static struct json_object *get(const Object *o, const char *property)
{
    ThrottleConfig c;
    struct json_object *limits, *value;

    throttle_group_get(((const ThrottleObject *)o)->group, &c);
    limits = to_json(&c);
    if (strcmp(property, "limits") == 0) {
        return limits;
    }
    value = json_object_get(json_object_object_get(limits, property + strlen("x-")));
    json_object_put(limits);
    return value;
}

static bool set(Object *o, const char *property, struct json_object *value, Error **errp)
{
    g_autoptr(JsonObject) limits = NULL;
    g_autoptr(ThrottleLimits) parsed = NULL;
    ThrottleConfig c;

    if (strcmp(property, "limits") != 0) {
        error_set(errp, ERROR_UNSUPPORTED, property, "qom-set",
                  "Property cannot be set after initialization");
        return false;
    }
    if (!qapi_parse_ThrottleLimits(value, &parsed, errp)) {
        return false;
    }
    limits = qapi_serialise_ThrottleLimits(parsed);
    throttle_group_get(((ThrottleObject *)o)->group, &c);
    if (!apply(limits, "", &c, errp) || !throttle_config_check(&c, errp)) {
        return false;
    }
    throttle_group_set(((ThrottleObject *)o)->group, &c);
    return true;
}

ThrottleGroup *throttle_group_lookup(const char *id)
{
    Object *o = object_find(id);

    return o && o->type == &object_type_throttle_group
               ? throttle_group_ref(((ThrottleObject *)o)->group)
               : backend_group_lookup(id);
}

#define LIMIT(name)                                                                                \
    {"x-" name, "int", "0"}, {"x-" name "-max", "int", "0"},                                       \
    {                                                                                              \
        "x-" name "-max-length", "int", "1"                                                        \
    }

static const ObjectProperty properties[] = {
    {"limits", "ThrottleLimits", NULL},
    LIMIT("iops-total"),
    LIMIT("iops-read"),
    LIMIT("iops-write"),
    LIMIT("bps-total"),
    LIMIT("bps-read"),
    LIMIT("bps-write"),
    {"x-iops-size", "int", "0"},
    {0},
};

const ObjectClass object_type_throttle_group = {
    .name = "throttle-group",
    .parent = "object",
    .size = sizeof(ThrottleObject),
    .properties = properties,
    .create = create,
    .cleanup = cleanup,
    .get = get,
    .set = set,
};

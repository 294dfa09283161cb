/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * object-add, object-del and the commands that look at objects; query-iothreads.
 */
#include "block/object.h"
#include "block/iothread-objects.h"
#include "qapi-commands.h"
#include "util/iothread.h"
#include <string.h>

bool coroutine_fn qmp_object_add(const ObjectOptions *arg, Error **errp)
{
    return object_add(arg, errp);
}

bool coroutine_fn qmp_object_del(const ObjectDelArg *arg, Error **errp)
{
    return object_del(arg->id, errp);
}

/* ---- lists of properties ---- */

static void add_info(ObjectPropertyInfoList ***tail, const char *name, const char *type)
{
    ObjectPropertyInfoList *item = g_new0(ObjectPropertyInfoList, 1);

    item->value = g_new0(ObjectPropertyInfo, 1);
    item->value->name = g_strdup(name);
    item->value->type = g_strdup(type);
    **tail = item;
    *tail = &item->next;
}

static void add_properties(ObjectPropertyInfoList ***tail, const ObjectClass *t)
{
    for (const ObjectProperty *p = t->properties; p->name; p++) {
        add_info(tail, p->name, p->type);
    }
}

static void add_child(void *opaque, Object *o)
{
    g_autofree char *type = g_strdup_printf("child<%s>", o->type->name);

    add_info(opaque, o->id, type);
}

bool coroutine_fn qmp_qom_list(const QomListArg *arg, ObjectPropertyInfoList **ret_out,
                               Error **errp)
{
    ObjectPropertyInfoList *list = NULL, **tail = &list;
    ObjectPlace place;
    Object *o;

    if (!object_resolve(arg->path, &place, &o, errp)) {
        return false;
    }
    add_info(&tail, "type", "string");
    if (place == OBJECT_PLACE_ROOT) {
        add_info(&tail, "objects", "child<container>");
    } else if (place == OBJECT_PLACE_OBJECTS) {
        object_foreach(add_child, &tail);
    } else {
        add_properties(&tail, o->type);
    }
    *ret_out = list;
    return true;
}

bool coroutine_fn qmp_qom_list_properties(const QomListPropertiesArg *arg,
                                          ObjectPropertyInfoList **ret_out, Error **errp)
{
    const ObjectClass *t = object_type_find(arg->typename);
    ObjectPropertyInfoList *list = NULL, **tail = &list;

    if (!t) {
        error_set_class(errp, ERROR_CLASS_DEVICE_NOT_FOUND, ERROR_NOT_FOUND, arg->typename,
                        "qom-list-properties", "Class '%s' not found", arg->typename);
        return false;
    }
    add_info(&tail, "type", "string");
    add_properties(&tail, t);
    *ret_out = list;
    return true;
}

bool coroutine_fn qmp_qom_list_types(const QomListTypesArg *arg, ObjectTypeInfoList **ret_out,
                                     Error **errp)
{
    ObjectTypeInfoList *list = NULL, **tail = &list;

    (void)errp;
    for (unsigned i = 0; object_types[i]; i++) {
        const ObjectClass *t = object_types[i];
        ObjectTypeInfoList *item;

        if ((t->abstract && !(arg->has_abstract && arg->abstract)) ||
            (arg->implements && !object_type_is_a(t, arg->implements))) {
            continue;
        }
        item = g_new0(ObjectTypeInfoList, 1);
        item->value = g_new0(ObjectTypeInfo, 1);
        item->value->name = g_strdup(t->name);
        item->value->has_abstract = item->value->abstract = t->abstract;
        item->value->parent = g_strdup(t->parent);
        *tail = item;
        tail = &item->next;
    }
    *ret_out = list;
    return true;
}

/* ---- values ---- */

/* What the containers have. */
static bool get_container(ObjectPlace place, const char *property, struct json_object **ret_value,
                          Error **errp)
{
    Object *o = place == OBJECT_PLACE_OBJECTS ? object_find(property) : NULL;

    if (strcmp(property, "type") == 0) {
        *ret_value = json_object_new_string("container");
    } else if (place == OBJECT_PLACE_ROOT && strcmp(property, "objects") == 0) {
        *ret_value = json_object_new_string("/objects");
    } else if (o) {
        g_autofree char *path = g_strdup_printf("/objects/%s", o->id);

        *ret_value = json_object_new_string(path);
    } else {
        error_set(errp, ERROR_NOT_FOUND, property, "qom-get", "Property 'container.%s' not found",
                  property);
        return false;
    }
    return true;
}

bool coroutine_fn qmp_qom_get(const QomGetArg *arg, struct json_object **ret_out, Error **errp)
{
    ObjectPlace place;
    Object *o;

    return object_resolve(arg->path, &place, &o, errp) &&
           (o ? object_get(o, arg->property, ret_out, errp)
              : get_container(place, arg->property, ret_out, errp));
}

bool coroutine_fn qmp_qom_set(const QomSetArg *arg, Error **errp)
{
    ObjectPlace place;
    struct json_object *v;
    Object *o;

    if (!object_resolve(arg->path, &place, &o, errp)) {
        return false;
    }
    if (o) {
        return object_set(o, arg->property, arg->value, errp);
    }
    if (get_container(place, arg->property, &v, errp)) {
        json_object_put(v);
        error_set(errp, ERROR_UNSUPPORTED, arg->property, "qom-set",
                  "Property 'container.%s' is not writable", arg->property);
    }
    return false;
}

static ObjectPropertiesValues *values_of(const char *path, Error **errp)
{
    g_autoptr(ObjectPropertyInfoList) infos = NULL;
    QomListArg arg = {.path = (char *)path};
    ObjectPropertiesValues *values;
    ObjectPropertyValueList **tail;

    if (!qmp_qom_list(&arg, &infos, errp)) {
        return NULL;
    }
    values = g_new0(ObjectPropertiesValues, 1);
    tail = &values->properties;
    for (ObjectPropertyInfoList *i = infos; i; i = i->next) {
        QomGetArg get = {.path = (char *)path, .property = i->value->name};
        ObjectPropertyValueList *item = g_new0(ObjectPropertyValueList, 1);
        g_autoptr(Error) err = NULL;

        item->value = g_new0(ObjectPropertyValue, 1);
        item->value->name = g_strdup(i->value->name);
        item->value->type = g_strdup(i->value->type);
        (void)qmp_qom_get(&get, &item->value->value, &err); /* what cannot be told is left out */
        *tail = item;
        tail = &item->next;
    }
    return values;
}

bool coroutine_fn qmp_qom_list_get(const QomListGetArg *arg, ObjectPropertiesValuesList **ret_out,
                                   Error **errp)
{
    ObjectPropertiesValuesList *list = NULL, **tail = &list;

    for (const strList *p = arg->paths; p; p = p->next) {
        ObjectPropertiesValues *values = values_of(p->value, errp);

        if (!values) {
            qapi_free_ObjectPropertiesValuesList(list);
            return false;
        }
        *tail = g_new0(ObjectPropertiesValuesList, 1);
        (*tail)->value = values;
        tail = &(*tail)->next;
    }
    *ret_out = list;
    return true;
}

/* ---- query-iothreads ---- */

static void add_iothread(void *opaque, Object *o)
{
    IOThreadInfoList ***tail = opaque, *item;
    IOThread *t = iothread_find(o->id);
    IOThreadParams params;

    if (!t) {
        return;
    }
    iothread_get_params(t, &params);
    item = g_new0(IOThreadInfoList, 1);
    item->value = g_new0(IOThreadInfo, 1);
    item->value->id = g_strdup(o->id);
    item->value->thread_id = iothread_tid(t);
    item->value->poll_max_ns = params.poll_max_ns;
    item->value->poll_grow = params.poll_grow;
    item->value->poll_shrink = params.poll_shrink;
    item->value->aio_max_batch = params.aio_max_batch;
    **tail = item;
    *tail = &item->next;
}

bool coroutine_fn qmp_query_iothreads(IOThreadInfoList **ret_out, Error **errp)
{
    IOThreadInfoList *list = NULL, **tail = &list;

    (void)errp;
    object_foreach(add_iothread, &tail);
    *ret_out = list;
    return true;
}

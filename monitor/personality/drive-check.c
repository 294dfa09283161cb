/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Options of nodes as drives give them: checked before they become a definition.
 *
 * A drive's options are older than the schema.  Sizes may have suffixes where blockdev-add wants a number, and what is wrong has words of its own,
 * which name the driver.  What the options of a driver are is asked of the schema.
 */
#include "block/driver.h"
#include "drive-options.h"
#include "monitor/hmp/internal.h"
#include "qapi-types.h"
#include <string.h>

static const QapiMember *find_member(const QapiType *t, const char *name)
{
    for (size_t i = 0; t && i < t->member_count; i++) {
        if (strcmp(t->members[i].name, name) == 0) {
            return &t->members[i];
        }
    }
    return NULL;
}

/* The members that are a driver's own; NULL: none. */
static const QapiType *options_of(const char *driver)
{
    int value = qapi_enum_parse(&qapi_type_BlockdevDriver, driver);

    for (size_t i = 0; i < qapi_type_BlockdevOptions.branch_count; i++) {
        if (qapi_type_BlockdevOptions.branches[i].value == value) {
            return qapi_type_BlockdevOptions.branches[i].type;
        }
    }
    return NULL;
}

static bool is_node(const QapiType *t)
{
    return t == &qapi_type_BlockdevRef || t == &qapi_type_BlockdevRefOrNull;
}

/* "size", "offset", "l2-cache-size", ...: numbers of bytes. */
static bool is_size(const QapiMember *m)
{
    return m->type->meta == QAPI_META_INT &&
           (g_str_has_suffix(m->name, "size") || strcmp(m->name, "offset") == 0 ||
            strcmp(m->name, "align") == 0);
}

static bool fail(const BlockDriver *drv, const char *option, Error **errp)
{
    if (strcmp(option, "backing") == 0) {
        error_set(errp, ERROR_INVALID, option, "open", "Driver doesn't support backing files");
    } else if (drv->is_protocol) {
        error_set(errp, ERROR_INVALID, option, "open",
                  "Block protocol '%s' doesn't support the option '%s'", drv->name, option);
    } else {
        error_set(errp, ERROR_INVALID, option, "open",
                  "Block format '%s' does not support the option '%s'", drv->name, option);
    }
    return false;
}

static bool check_missing(const char *driver, struct json_object *o, const QapiType *own,
                          Error **errp)
{
    for (size_t i = 0; own && i < own->member_count; i++) {
        const QapiMember *m = &own->members[i];

        if (m->optional || json_object_object_get_ex(o, m->name, NULL)) {
            continue;
        }
        if (strcmp(m->name, "filename") == 0) {
            error_set(errp, ERROR_INVALID, m->name, "open",
                      "The '%s' block driver requires a file name", driver);
            return false;
        }
        if (is_node(m->type)) {
            error_set(errp, ERROR_INVALID, m->name, "open",
                      "A block device must be specified for \"%s\"", m->name);
            return false;
        }
        if (strcmp(driver, "nbd") == 0 && strcmp(m->name, "server") == 0) {
            error_set(errp, ERROR_INVALID, m->name, "open", "NBD server address missing");
            return false;
        }
    }
    return true;
}

static void take_size(struct json_object *o, const char *key, struct json_object *value)
{
    int64_t bytes;

    /* What is no size is told of when it is parsed. */
    if (json_object_is_type(value, json_type_string) &&
        hmp_parse_size(json_object_get_string(value), 1, &bytes)) {
        g_autofree char *text = g_strdup_printf("%" G_GINT64_FORMAT, bytes);

        json_object_object_add(o, key, json_object_new_string(text));
    }
}

bool drive_options_check(struct json_object *o, Error **errp)
{
    g_autoptr(GPtrArray) keys = g_ptr_array_new();
    struct json_object *driver;
    const BlockDriver *drv;
    const QapiType *own;

    if (!json_object_object_get_ex(o, "driver", &driver) ||
        !json_object_is_type(driver, json_type_string) ||
        !(drv = driver_find(json_object_get_string(driver)))) {
        return true; /* told of when it is parsed */
    }
    own = options_of(drv->name);
    json_object_object_foreach(o, name, unused)
    {
        (void)unused;
        g_ptr_array_add(keys, name);
    }
    for (guint i = 0; i < keys->len; i++) {
        const char *key = g_ptr_array_index(keys, i);
        const QapiMember *m = find_member(&qapi_type_BlockdevOptions, key);
        struct json_object *value = json_object_object_get(o, key);

        m = m ? m : find_member(own, key);
        if (!m) {
            return fail(drv, key, errp);
        }
        if (is_size(m)) {
            take_size(o, key, value);
        } else if (is_node(m->type) && json_object_is_type(value, json_type_object) &&
                   !drive_options_check(value, errp)) {
            return false;
        }
    }
    return check_missing(drv->name, o, own, errp);
}

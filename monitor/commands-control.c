/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The commands of the monitor itself.
 */
#include "monitor/qmp.h"
#include "qapi/dispatch.h"
#include "qapi/json-writer.h"
#include "qapi-commands.h"
#include "qapi-introspect.h"
#include "qmp-session.h"

bool coroutine_fn qmp_qmp_capabilities(const QmpCapabilitiesArg *arg, Error **errp)
{
    QmpSession *s = qmp_session_current();

    if (s && qmp_session_is_negotiated(s)) {
        error_set_class(errp, ERROR_CLASS_COMMAND_NOT_FOUND, ERROR_INVALID, NULL,
                        "qmp_capabilities",
                        "Capabilities negotiation is already complete, command ignored");
        return false;
    }
    for (const QMPCapabilityList *c = arg->enable; c; c = c->next) {
        if (s && !qmp_session_offers_oob(s)) {
            error_set(errp, ERROR_UNSUPPORTED, NULL, "qmp_capabilities",
                      "Capability %s not available", qapi_enum_QMPCapability(c->value));
            return false;
        }
    }
    if (s) {
        qmp_session_set_negotiated(s, arg->enable); /* there is but one capability */
    }
    return true;
}

bool coroutine_fn qmp_query_version(VersionInfo **ret_out, Error **errp)
{
    VersionInfo *v = g_new0(VersionInfo, 1);

    (void)errp;
    v->qemu = g_new0(VersionTriple, 1);
    v->qemu->major = 10; /* whose protocol this is */
    v->qemu->minor = 2;
    v->qemu->micro = 50;
    v->package = g_strdup("cutpoint-" CUTPOINT_VERSION);
    *ret_out = v;
    return true;
}

bool coroutine_fn qmp_query_commands(CommandInfoList **ret_out, Error **errp)
{
    CommandInfoList *list = NULL;

    (void)errp;
    /* Latest first, as clients know it. */
    for (unsigned i = 0; i < qapi_commands_count; i++) {
        CommandInfoList *item;

        if (qapi_is_hidden(qapi_commands[i].name)) {
            continue;
        }
        item = g_new0(CommandInfoList, 1);
        item->value = g_new0(CommandInfo, 1);
        item->value->name = g_strdup(qapi_commands[i].name);
        item->next = list;
        list = item;
    }
    *ret_out = list;
    return true;
}

static struct json_object *query_qmp_schema(struct json_object *args, Error **errp)
{
    static struct json_object
        *schema; /* made once: who asks all the time must not hold up others */

    (void)args;
    (void)errp;
    if (!schema) {
        schema = json_object_new_array();
        for (unsigned i = 0; qapi_introspection[i]; i++) {
            struct json_object *entity = json_tokener_parse(qapi_introspection[i]);

            if (qapi_is_hidden(json_object_get_string(json_object_object_get(entity, "name")))) {
                json_object_put(entity);
            } else {
                json_object_array_add(schema, entity);
            }
        }
        qapi_json_freeze(schema);
    }
    return json_object_get(schema);
}

static void (*quit_hook)(void);

void qmp_set_quit(void (*quit)(void))
{
    quit_hook = quit;
    qapi_set_raw_command("query-qmp-schema", query_qmp_schema);
}

bool coroutine_fn qmp_quit(Error **errp)
{
    (void)errp;
    quit_hook();
    return true;
}

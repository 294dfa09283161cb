/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The older syntax of option arguments, which -drive, -device, -chardev and some others of the emulator have.
 */
#include "emulator.h"
#include "monitor/keyval.h"
#include <string.h>

struct json_object *legacy_opts_parse(const char *text, const char *implied, Error **errp)
{
    struct json_object *o = json_object_new_object();
    const char *p = text;

    if (!g_utf8_validate(text, -1, NULL)) {
        error_set(errp, ERROR_INVALID, NULL, "parse", "Option argument is not valid UTF-8");
        json_object_put(o);
        return NULL;
    }
    for (bool first = true; *p; first = false) {
        size_t len = strcspn(p, "=,");
        g_autofree char *key = NULL, *value = NULL;

        if (p[len] == '=' && len > 0) {
            key = g_strndup(p, len);
            p += len + 1;
            value = keyval_take_value(&p);
        } else if (first && implied) {
            key = g_strdup(implied);
            value = keyval_take_value(&p);
        } else {
            g_autofree char *flag = keyval_take_value(&p);

            if (flag[0] == '\0' || flag[0] == '=') {
                error_set(errp, ERROR_INVALID, NULL, "parse", "Invalid parameter '%s'", flag);
                json_object_put(o);
                return NULL;
            }
            if (g_str_has_prefix(flag, "no") && flag[2] != '\0' && strcmp(flag, "node-name") != 0) {
                key = g_strdup(flag + 2);
                value = g_strdup("off");
            } else {
                key = g_steal_pointer(&flag);
                value = g_strdup("on");
            }
        }
        json_object_object_add(o, key, json_object_new_string(value));
    }
    return o;
}

char *legacy_opts_take(struct json_object *opts, const char *name)
{
    struct json_object *v;
    char *s;

    if (!json_object_object_get_ex(opts, name, &v)) {
        return NULL;
    }
    s = g_strdup(json_object_get_string(v));
    json_object_object_del(opts, name);
    return s;
}

struct json_object *legacy_opts_nest(struct json_object *opts, Error **errp)
{
    g_autoptr(GString) text = g_string_new(NULL);

    json_object_object_foreach(opts, key, value)
    {
        g_string_append_printf(text, "%s%s=", text->len ? "," : "", key);
        for (const char *p = json_object_get_string(value); *p; p++) {
            g_string_append_c(text, *p);
            if (*p == ',') {
                g_string_append_c(text, ',');
            }
        }
    }
    return keyval_parse(text->str, NULL, errp);
}

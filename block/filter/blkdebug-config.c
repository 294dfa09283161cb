/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Configuration files of the filter `blkdebug`: sections of rules.
 *
 *     [inject-error]            or [inject-error "a name"], which means nothing
 *     event = "read_aio"        a member of the rule; the quotes are part of the line
 *     # a comment
 *
 * Every section is turned into the object that blockdev-add would have, and parsed as that.
 */
#include "blkdebug.h"
#include "util/worker.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CONFIG_MAX (1024 * 1024) /* bytes */

typedef struct ConfigFile {
    const char *name;
    char *text; /* NUL-terminated */
} ConfigFile;

static int read_file(void *opaque)
{
    ConfigFile *f = opaque;
    g_autofree char *buf = NULL;
    FILE *in = fopen(f->name, "re");
    size_t len;
    int ret = 0;

    if (!in) {
        return -errno;
    }
    buf = g_malloc(CONFIG_MAX + 1);
    len = fread(buf, 1, CONFIG_MAX + 1, in);
    if (ferror(in)) {
        ret = -EIO;
    } else if (len > CONFIG_MAX) {
        ret = -EFBIG;
    } else if (memchr(buf, '\0', len)) {
        ret = -EINVAL;
    }
    fclose(in);
    if (ret == 0) {
        f->text = g_strndup(buf, len);
    }
    return ret;
}

static bool refuse(const Node *n, Error **errp, const char *fmt, ...) G_GNUC_PRINTF(3, 4);
static bool refuse(const Node *n, Error **errp, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    error_set(errp, ERROR_INVALID, n->name, "open", "%s", text);
    return false;
}

/* "[group]" or "[group "id"]"; *group: an object that goes to the end of the group's list in `all`. */
static bool begin_section(const Node *n, struct json_object *all, char *line,
                          struct json_object **group, Error **errp)
{
    char *end = strchr(line, ']');
    g_autofree char *name = NULL;
    struct json_object *list;

    if (!end || g_strstrip(end + 1)[0] != '\0') {
        return refuse(n, errp, "parse error: %s", line);
    }
    name = g_strndup(line + 1, strcspn(line + 1, " \t]"));
    if (strcmp(name, "inject-error") != 0 && strcmp(name, "set-state") != 0) {
        return refuse(n, errp, "There is no option group '%s'", name);
    }
    if (!json_object_object_get_ex(all, name, &list)) {
        list = json_object_new_array();
        json_object_object_add(all, name, list);
    }
    *group = json_object_new_object();
    json_object_array_add(list, *group);
    return true;
}

/* "key = "value"". */
static bool add_member(const Node *n, struct json_object *group, char *line, Error **errp)
{
    char *equals = strchr(line, '='), *value;
    size_t len;

    if (!group) {
        return refuse(n, errp, "no group defined");
    }
    if (!equals) {
        return refuse(n, errp, "parse error: %s", line);
    }
    *equals = '\0';
    value = g_strstrip(equals + 1);
    len = strlen(value);
    if (len < 2 || value[0] != '"' || value[len - 1] != '"') {
        return refuse(n, errp, "parse error: the value of '%s' is not in quotes", g_strstrip(line));
    }
    value[len - 1] = '\0';
    json_object_object_add(group, g_strstrip(line), json_object_new_string(value + 1));
    return true;
}

static bool parse_lines(const Node *n, char *text, struct json_object *all, Error **errp)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    struct json_object *group = NULL;

    for (char **l = lines; *l; l++) {
        char *line = g_strstrip(*l);
        bool ok = true;

        if (line[0] == '[') {
            ok = begin_section(n, all, line, &group, errp);
        } else if (line[0] != '\0' && line[0] != '#') {
            ok = add_member(n, group, line, errp);
        }
        if (!ok) {
            return false;
        }
    }
    return true;
}

bool coroutine_fn blkdebug_read_config(const Node *n, BlkdebugState *s, const char *filename,
                                       Error **errp)
{
    ConfigFile f = {.name = filename};
    int ret = worker_run(WORKERS_CONTROL, read_file, &f);
    g_autofree char *text = f.text;
    g_autoptr(JsonObject) all = NULL;
    g_autoptr(BlockdevOptionsBlkdebug) o = NULL;

    if (ret < 0) {
        error_set(errp, ERROR_IO, n->name, "open", "Could not read blkdebug config file: %s",
                  g_strerror(-ret));
        return false;
    }
    all = json_object_new_object();
    if (!parse_lines(n, text, all, errp)) {
        return false;
    }
    json_object_object_add(all, "image", json_object_new_string("unused"));
    return qapi_parse_keyval_BlockdevOptionsBlkdebug(all, &o, errp) &&
           blkdebug_add_rules(n, s, o->inject_error, o->set_state, errp);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which options of a node may change.
 *
 * An option that is left out stands for its default.  What every driver lets change is `common` below; a driver adds its own (reopen_options).
 * Everything else must be said again just as it was said when the node was opened; so nothing changes that somebody did not ask for.
 */
#include "options.h"
#include "block/driver.h"
#include <string.h>

static const char *const common[] = {"read-only", "auto-read-only", "cache",
                                     "discard",   "detect-zeroes",  NULL};
/* Looked at elsewhere. */
static const char *const others[] = {"driver", "node-name", "file", "backing", "active", NULL};

static bool contains(const char *const *list, const char *name)
{
    for (; list && *list; list++) {
        if (strcmp(*list, name) == 0) {
            return true;
        }
    }
    return false;
}

static bool may_change(const Node *n, const char *name)
{
    return contains(common, name) || contains(n->driver->reopen_options, name);
}

static bool equal(struct json_object *a, struct json_object *b)
{
    return a && b && json_object_equal(a, b);
}

bool reopen_check_options(const Node *n, const BlockdevOptions *given, bool *ret_same, Error **errp)
{
    g_autoptr(JsonObject) was = qapi_serialise_BlockdevOptions(n->given);
    g_autoptr(JsonObject) now = qapi_serialise_BlockdevOptions(given);

    *ret_same = true;
    json_object_object_foreach(now, name, value)
    {
        if (contains(others, name) || equal(json_object_object_get(was, name), value)) {
            continue;
        }
        if (!may_change(n, name)) {
            error_set(errp, ERROR_INVALID, n->name, "reopen", "Cannot change the option '%s'",
                      name);
            return false;
        }
        *ret_same = false;
    }
    json_object_object_foreach(was, old_name, old_value)
    {
        (void)old_value;
        if (contains(others, old_name) || json_object_object_get(now, old_name)) {
            continue;
        }
        if (!may_change(n, old_name)) {
            error_set(errp, ERROR_INVALID, n->name, "reopen",
                      "Option '%s' cannot be reset to its default value", old_name);
            return false;
        }
        *ret_same = false;
    }
    return true;
}

const BlockdevRefOrNull *reopen_backing_option(const BlockdevOptions *o)
{
    return o->driver == BLOCKDEV_DRIVER_QCOW2 ? o->u.qcow2.backing : NULL;
}

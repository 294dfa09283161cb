/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * yank: cutting connections whose peers hang.
 *
 * A connection belongs to a node whose driver can give up its peer (BlockDriver.abandon) or to a character device that is a socket.  Nothing here
 * suspends, so the commands can be carried out beside one that waits for such a peer; all instances are looked for before one is cut.
 */
#include "block/driver.h"
#include "monitor/chardev.h"
#include "qapi-commands.h"

static Node *find_node(const char *name)
{
    Node *n = node_find(name);

    return n && n->driver->abandon ? n : NULL;
}

static Chardev *find_chardev(const char *id)
{
    Chardev *c = chardev_find(id);

    return c && chardev_is_socket(c) ? c : NULL;
}

static bool is_there(const YankInstance *i)
{
    switch (i->type) {
    case YANK_INSTANCE_TYPE_BLOCK_NODE:
        return find_node(i->u.block_node.node_name);
    case YANK_INSTANCE_TYPE_CHARDEV:
        return find_chardev(i->u.chardev.id);
    default:
        return false;
    }
}

static void cut(const YankInstance *i)
{
    if (i->type == YANK_INSTANCE_TYPE_BLOCK_NODE) {
        Node *n = find_node(i->u.block_node.node_name);

        n->driver->abandon(n);
    } else {
        chardev_disconnect(find_chardev(i->u.chardev.id));
    }
}

bool coroutine_fn qmp_yank(const YankArg *arg, Error **errp)
{
    for (const YankInstanceList *l = arg->instances; l; l = l->next) {
        if (!is_there(l->value)) {
            error_set_class(errp, ERROR_CLASS_DEVICE_NOT_FOUND, ERROR_NOT_FOUND, NULL, "yank",
                            "Instance not found");
            return false;
        }
    }
    for (const YankInstanceList *l = arg->instances; l; l = l->next) {
        cut(l->value);
    }
    return true;
}

static YankInstance *prepend(YankInstanceList **list, YankInstanceType type)
{
    YankInstanceList *item = g_new0(YankInstanceList, 1);

    item->value = g_new0(YankInstance, 1);
    item->value->type = type;
    item->next = *list;
    *list = item;
    return item->value;
}

/* Newest first, each put before the others. */
static void add_chardev(void *opaque, const char *id, const char *what, bool used)
{
    (void)what;
    (void)used;
    if (find_chardev(id)) {
        prepend(opaque, YANK_INSTANCE_TYPE_CHARDEV)->u.chardev.id = g_strdup(id);
    }
}

bool coroutine_fn qmp_query_yank(YankInstanceList **ret_out, Error **errp)
{
    g_autoptr(GPtrArray) nodes = node_list();
    YankInstanceList *list = NULL;

    (void)errp;
    for (guint i = 0; i < nodes->len; i++) {
        const Node *n = g_ptr_array_index(nodes, i);

        if (n->driver->abandon) {
            prepend(&list, YANK_INSTANCE_TYPE_BLOCK_NODE)->u.block_node.node_name =
                g_strdup(n->name);
        }
    }
    chardev_foreach(add_chardev, &list);
    *ret_out = list;
    return true;
}

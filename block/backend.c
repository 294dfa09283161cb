/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block backends.
 *
 * The medium is the target of an edge with role EDGE_ROOT, owned by the backend.  Nobody else changes that edge but changes (the cut moves
 * it), so `edge->target` is the medium at any time.
 */
#include "block/backend.h"
#include "block/graph.h"
#include "qapi-types.h"
#include <string.h>

struct Backend {
    char *name; /* NULL: anonymous */
    Edge *edge;
    unsigned perm, shared;
    bool writethrough;
    const BackendDevice *device;
};

static GPtrArray *backends; /* oldest first */

static char *describe(void *opaque)
{
    const Backend *b = opaque;

    if (b->name) {
        return g_strdup_printf("block device '%s'", b->name);
    }
    return b->device ? g_strdup_printf("block device '%s'", b->device->qdev)
                     : g_strdup("an unnamed block device");
}

static char *owner_name(void *opaque)
{
    return g_strdup(backend_name(opaque));
}

/* Guests whose machines stand still wait for their disks; `cont` makes them active. */
static bool bears_inactive(void *opaque)
{
    (void)opaque;
    return true;
}

static const EdgeOwner owner = {
    .describe = describe, .name = owner_name, .bears_inactive = bears_inactive};

Backend *backend_find(const char *name)
{
    for (guint i = 0; backends && i < backends->len; i++) {
        Backend *b = g_ptr_array_index(backends, i);

        if (b->name && strcmp(b->name, name) == 0) {
            return b;
        }
    }
    return NULL;
}

static bool check_name(const char *name, Error **errp)
{
    bool good = g_ascii_isalpha(name[0]);

    for (const char *p = name; good && *p; p++) {
        good = g_ascii_isalnum(*p) || strchr("-._", *p);
    }
    if (!good) {
        error_set(errp, ERROR_INVALID, name, "backend", "Invalid device name");
    } else if (backend_find(name)) {
        error_set(errp, ERROR_EXISTS, name, "backend", "Device with id '%s' already exists", name);
        good = false;
    } else if (node_find(name)) {
        error_set(errp, ERROR_EXISTS, name, "backend",
                  "Device name '%s' conflicts with an existing node name", name);
        good = false;
    }
    return good;
}

Backend *backend_new(const char *name, Error **errp)
{
    Backend *b;

    if (name && !check_name(name, errp)) {
        return NULL;
    }
    b = g_new0(Backend, 1);
    b->name = g_strdup(name);
    b->shared = PERM_ALL;
    if (!backends) {
        backends = g_ptr_array_new();
    }
    g_ptr_array_add(backends, b);
    return b;
}

void coroutine_fn backend_free(Backend *b)
{
    g_ptr_array_remove(backends, b);
    backend_eject(b);
    g_free(b->name);
    g_free(b);
}

void coroutine_fn backend_free_all(void)
{
    while (backends && backends->len > 0) {
        backend_free(g_ptr_array_index(backends, backends->len - 1));
    }
}

GPtrArray *backend_list(void)
{
    GPtrArray *list = g_ptr_array_new();

    for (guint i = 0; backends && i < backends->len; i++) {
        g_ptr_array_add(list, g_ptr_array_index(backends, i));
    }
    return list;
}

const char *backend_name(const Backend *b)
{
    return b->name ? b->name : "";
}

Edge *backend_edge(const Backend *b)
{
    return b->edge;
}

const char *node_backend_name(const Node *n)
{
    for (guint i = 0; backends && i < backends->len; i++) {
        const Backend *b = g_ptr_array_index(backends, i);

        if (b->name && b->edge && b->edge->target == n) {
            return b->name;
        }
    }
    return "";
}

bool coroutine_fn backend_insert(Backend *b, Node *n, Error **errp)
{
    if (b->edge) {
        error_set(errp, ERROR_BUSY, b->name, "insert", "There already is a medium in the device");
        return false;
    }
    b->edge = edge_attach(n, NULL, &owner, b, "root", EDGE_ROOT, b->perm, b->shared, errp);
    return b->edge;
}

void coroutine_fn backend_eject(Backend *b)
{
    Edge *e = b->edge;

    b->edge = NULL;
    if (e) {
        edge_detach(e);
    }
}

bool coroutine_fn backend_set_perm(Backend *b, unsigned perm, unsigned shared, Error **errp)
{
    if (b->edge && !edge_set_perm(b->edge, perm, shared, errp)) {
        return false;
    }
    b->perm = perm;
    b->shared = shared;
    return true;
}

bool coroutine_fn backend_add_perm(Backend *b, unsigned perm, Error **errp)
{
    return (b->perm & perm) == perm || backend_set_perm(b, b->perm | perm, b->shared, errp);
}

void backend_set_writethrough(Backend *b, bool on)
{
    b->writethrough = on;
}

bool backend_writethrough(const Backend *b)
{
    return b->writethrough;
}

void backend_set_device(Backend *b, const BackendDevice *d)
{
    b->device = d;
}

const BackendDevice *backend_device(const Backend *b)
{
    return b->device;
}

void backend_forget_name(Backend *b)
{
    g_clear_pointer(&b->name, g_free);
}

/* ---- query-block ---- */

static BlockInfo *info(const Backend *b, Error **errp)
{
    g_autoptr(BlockInfo) i = g_new0(BlockInfo, 1);
    const BackendDevice *d = b->device;

    i->device = g_strdup(backend_name(b));
    i->type = g_strdup("unknown");
    if (d) {
        i->qdev = g_strdup(d->qdev);
        i->locked = d->locked;
        i->has_io_status = true;
        i->io_status = BLOCK_DEVICE_IO_STATUS_OK;
    }
    i->removable = !d || d->removable; /* one that nothing is attached to can be changed */
    if (i->removable && d) {
        i->has_tray_open = true;
        i->tray_open = d->tray_open;
    }
    if (b->edge) {
        i->inserted = node_query_info(b->edge->target, false, errp);
        if (!i->inserted) {
            return NULL;
        }
        i->inserted->cache->writeback = !b->writethrough;
    }
    return g_steal_pointer(&i);
}

BlockInfoList *backend_query(Error **errp)
{
    g_autoptr(BlockInfoList) list = NULL;
    BlockInfoList **tail = &list;

    for (guint i = 0; backends && i < backends->len; i++) {
        const Backend *b = g_ptr_array_index(backends, i);
        BlockInfo *one;

        if (!b->name && !b->device) {
            continue;
        }
        one = info(b, errp);
        if (!one) {
            return NULL;
        }
        *tail = g_new0(BlockInfoList, 1);
        (*tail)->value = one;
        tail = &(*tail)->next;
    }
    return g_steal_pointer(&list);
}

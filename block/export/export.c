/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Exports, whatever their protocol: names, edges, threads, removal.
 *
 * Removal takes two steps: the protocol ends its clients (which takes as long as their requests), then the edge is detached and
 * the event sent.  In between the export is "shutting down": its name is still taken.
 */
#include "block/driver.h"
#include "block/export.h"
#include "block/graph.h"
#include "block/iothread-objects.h"
#include "block/nbd-server.h"
#include "block/stats.h"
#include "qapi-events.h"
#include "qapi-types.h"
#include <string.h>

#define REMOVAL_WAIT_NS (INT64_C(500) * 1000000)
#define REMOVAL_STEP_NS (INT64_C(1) * 1000000)

static GPtrArray *exports; /* Export *, oldest first */
static GPtrArray *waiters; /* Coroutine *: for any export to be gone */

static void resized(void *opaque)
{
    Export *e = opaque;

    if (e->driver->resized) {
        e->driver->resized(e);
    }
}

static char *owner_id(void *opaque)
{
    return g_strdup(((Export *)opaque)->id);
}

static bool bears_inactive(void *opaque)
{
    return ((Export *)opaque)->allow_inactive;
}

static const EdgeOwner owner = {.describe = edge_owner_unnamed_describe,
                                .name = edge_owner_unnamed_name,
                                .id = owner_id,
                                .resized = resized,
                                .bears_inactive = bears_inactive};

Export *export_find(const char *id)
{
    for (guint i = 0; exports && i < exports->len; i++) {
        Export *e = g_ptr_array_index(exports, i);

        if (strcmp(e->id, id) == 0) {
            return e;
        }
    }
    return NULL;
}

static bool check_id(const char *id, Error **errp)
{
    bool good = g_ascii_isalpha(id[0]);

    for (const char *p = id; good && *p; p++) {
        good = g_ascii_isalnum(*p) || strchr("-._", *p);
    }
    if (!good) {
        error_set(errp, ERROR_INVALID, id, "block-export-add", "Invalid block export id");
    } else if (export_find(id)) {
        error_set(errp, ERROR_EXISTS, id, "block-export-add",
                  "Block export id '%s' is already in use", id);
        good = false;
    }
    return good;
}

static void export_free(Export *e)
{
    for (unsigned i = 0; i < e->niothreads; i++) {
        iothread_unref(e->iothreads[i]);
    }
    g_free(e->iothreads);
    g_free(e->id);
    g_free(e->device);
    g_free(e);
}

static bool add_thread(Export *e, IOThread *t)
{
    if (!t) {
        return false;
    }
    e->iothreads = g_renew(IOThread *, e->iothreads, e->niothreads + 1);
    e->iothreads[e->niothreads++] = iothread_ref(t);
    e->iothread = e->iothreads[0];
    return true;
}

static bool add_named_thread(Export *e, const char *name, Error **errp)
{
    if (!add_thread(e, iothread_find(name))) {
        error_set(errp, ERROR_NOT_FOUND, name, "block-export-add", "iothread \"%s\" not found",
                  name);
        return false;
    }
    return true;
}

static bool find_threads(Export *e, const BlockExportIothreads *names, Error **errp)
{
    if (!names) {
        return add_thread(e, iothread_default(errp));
    }
    if (names->type == QAPI_KIND_STRING) {
        return add_named_thread(e, names->u.single, errp);
    }
    for (const strList *i = names->u.multi; i; i = i->next) {
        if (!add_named_thread(e, i->value, errp)) {
            return false;
        }
    }
    if (e->niothreads == 0 || (e->niothreads > 1 && !e->driver->many_threads)) {
        error_set(errp, ERROR_INVALID, e->id, "block-export-add",
                  e->niothreads ? "%s exports run in one I/O thread"
                                : "%s exports need at least one I/O thread",
                  e->driver->name);
        return false;
    }
    return true;
}

/* Malformed requests of clients are answered, not counted. */
static const StatsConfig counting = {.account_failed = true};

static bool coroutine_fn attach(Export *e, const BlockExportOptions *options, Error **errp)
{
    const char *node_name = options->node_name;
    Node *n = node_lookup(NULL, node_name, errp);
    unsigned perm = PERM_CONSISTENT_READ | (e->writable ? PERM_WRITE : 0) |
                    (e->driver->permissions ? e->driver->permissions(options) : 0);

    if (!n || !node_wait_unreserved(n, errp)) {
        return false;
    }
    n = node_lookup(NULL, node_name, errp);
    if (!n) {
        return false;
    }
    if (e->writable && node_is_read_only(n)) {
        error_set(errp, ERROR_PERMISSION, n->name, "block-export-add",
                  "Cannot export read-only node as writable");
        return false;
    }
    e->edge = edge_attach(n, NULL, &owner, e, "root", EDGE_ROOT, perm, PERM_ALL, errp);
    if (e->edge) {
        edge_keep_stats(e->edge, &counting);
    }
    return e->edge;
}

static bool check_inactive(const Export *e, Error **errp)
{
    if (e->allow_inactive && !e->driver->bears_inactive) {
        error_set(errp, ERROR_UNSUPPORTED, e->id, "block-export-add",
                  "Export type does not support inactive exports");
        return false;
    }
    return true;
}

bool coroutine_fn export_add(const BlockExportOptions *options, Error **errp)
{
    static const ExportDriver *const drivers[] = {
        [BLOCK_EXPORT_TYPE_FUSE] = &export_driver_fuse,
        [BLOCK_EXPORT_TYPE_NBD] = &export_driver_nbd,
        [BLOCK_EXPORT_TYPE_VHOST_USER_BLK] = &export_driver_vhost_user_blk,
    };
    const ExportDriver *driver = drivers[options->type];
    Export *e;

    if (!check_id(options->id, errp)) {
        return false;
    }
    e = g_malloc0(driver->size);
    e->driver = driver;
    e->type = options->type;
    e->id = g_strdup(options->id);
    e->writable = options->has_writable && options->writable;
    e->allow_inactive = options->has_allow_inactive && options->allow_inactive;
    e->writethrough = options->has_writethrough && options->writethrough;
    if (!exports) {
        exports = g_ptr_array_new();
        waiters = g_ptr_array_new();
    }
    g_ptr_array_add(exports, e); /* the name is taken from here on */
    if (check_inactive(e, errp) && find_threads(e, options->iothread, errp) &&
        attach(e, options, errp)) {
        if (driver->create(e, options, errp)) {
            return true;
        }
        edge_detach(e->edge);
    }
    g_ptr_array_remove(exports, e);
    export_free(e);
    return false;
}

static void coroutine_fn remove_main(void *opaque)
{
    Export *e = opaque;

    e->driver->shutdown(e);
    edge_detach(e->edge);
    e->driver->cleanup(e);
    g_ptr_array_remove(exports, e);
    qapi_event_send_block_export_deleted(e->id);
    export_free(e);
    for (guint i = 0; i < waiters->len; i++) {
        co_wake(g_ptr_array_index(waiters, i));
    }
    g_ptr_array_set_size(waiters, 0);
}

static void start_removal(Export *e)
{
    if (!e->shutting_down) {
        e->shutting_down = true;
        co_spawn(loop_control(), remove_main, e);
    }
}

void export_ended(Export *e)
{
    start_removal(e);
}

static bool is_there(const Export *e)
{
    for (guint i = 0; i < exports->len; i++) {
        if (g_ptr_array_index(exports, i) == e) {
            return true;
        }
    }
    return false;
}

bool coroutine_fn export_del(const char *id, bool hard, Error **errp)
{
    Export *e = export_find(id);

    if (!e) {
        error_set(errp, ERROR_NOT_FOUND, id, "block-export-del", "Export '%s' is not found", id);
        return false;
    }
    if (e->shutting_down) {
        error_set(errp, ERROR_BUSY, id, "block-export-del", "Export '%s' is already shutting down",
                  id);
        return false;
    }
    if (!hard && e->driver->clients(e) > 0) {
        error_set(errp, ERROR_BUSY, id, "block-export-del", "export '%s' still in use", id);
        error_hint(errp, "Use mode='hard' to force client disconnect");
        return false;
    }
    start_removal(e);
    /* Clients take it that the name is free with the reply.  Requests that hang may take longer; then the event tells. */
    for (int64_t end = clock_ns() + REMOVAL_WAIT_NS; is_there(e) && clock_ns() < end;) {
        co_sleep_ns(REMOVAL_STEP_NS);
    }
    return true;
}

void coroutine_fn export_device_ejected(const char *device)
{
    g_autoptr(GPtrArray) ids = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; exports && i < exports->len; i++) {
        const Export *e = g_ptr_array_index(exports, i);

        if (g_strcmp0(e->device, device) == 0) {
            g_ptr_array_add(ids, g_strdup(e->id));
        }
    }
    for (guint i = 0; i < ids->len; i++) {
        export_del(g_ptr_array_index(ids, i), true,
                   NULL); /* one that is going anyway is no error */
    }
}

void coroutine_fn export_remove_all(const ExportDriver *driver)
{
    for (;;) {
        bool any = false;

        for (guint i = 0; exports && i < exports->len; i++) {
            Export *e = g_ptr_array_index(exports, i);

            if (!driver || e->driver == driver) {
                start_removal(e);
                any = true;
            }
        }
        if (!any) {
            return;
        }
        g_ptr_array_add(waiters, co_self());
        co_yield();
    }
}

void coroutine_fn export_shutdown_all(void)
{
    g_autoptr(Error) err = NULL;

    if (nbd_server_running()) {
        nbd_server_stop(&err);
    }
    export_remove_all(NULL);
}

/* ---- for protocols ---- */

static ExportResizeFn *resize_fn;

void export_set_resize(ExportResizeFn *fn)
{
    resize_fn = fn;
}

bool coroutine_fn export_resize(Export *e, uint64_t size, Error **errp)
{
    g_autofree char *name = g_strdup(e->edge->target->name);

    return resize_fn(NULL, name, size, errp);
}

int64_t export_bytes_on_disk(const Export *e)
{
    g_auto(ImageFacts) facts = {.actual_size = -1};
    g_autoptr(Error) ignored = NULL;
    Node *n = e->edge->target;

    while (n->file) {
        n = n->file->target;
    }
    return n->driver->facts && n->driver->facts(n, &facts, &ignored) ? facts.actual_size : -1;
}

BlockExportInfoList *export_query(void)
{
    BlockExportInfoList *list = NULL, **tail = &list;

    /* Newest first. */
    for (guint i = exports ? exports->len : 0; i-- > 0;) {
        const Export *e = g_ptr_array_index(exports, i);
        BlockExportInfo *info;

        if (!e->edge) {
            continue; /* still being made */
        }
        info = g_new0(BlockExportInfo, 1);
        info->id = g_strdup(e->id);
        info->type = e->type;
        info->node_name = g_strdup(e->edge->target->name);
        info->shutting_down = e->shutting_down;
        *tail = g_new0(BlockExportInfoList, 1);
        (*tail)->value = info;
        tail = &(*tail)->next;
    }
    return list;
}

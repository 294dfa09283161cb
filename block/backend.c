/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block backends.
 *
 * The medium is the target of an edge with role EDGE_ROOT, owned by the backend.  Nobody else changes that edge but changes (the cut moves
 * it), so `edge->target` is the medium at any time.
 *
 * Putting a medium in, taking it out and changing permissions can suspend, so `lock` puts them in an order: they wait for locks of files, not
 * for requests.  Requests of consoles pin the medium: one that is taken out meanwhile belongs to the backend no more, and its edge goes with
 * the last pin.
 *
 * Lock order: a backend's lock, then that of updates of permissions (perm.c).
 */
#include "block/backend.h"
#include "block/backend-limits.h"
#include "block/graph.h"
#include "block/stats.h"
#include "qapi-types.h"
#include <string.h>

struct Medium {
    Backend *backend; /* referenced: it is the edge's owner */
    Edge *edge;
    unsigned pins; /* one is the backend's own, while it is in */
};

struct Backend {
    unsigned refs;
    bool gone; /* freed: takes no medium any more */
    CoMutex lock;
    char *name;     /* NULL: anonymous */
    Medium *medium; /* NULL: none */
    MediumDefaults defaults;
    unsigned perm, shared;
    bool writethrough, copy_on_read;
    const BackendDevice *device;
    BackendLimits limits;
    StatsConfig stats;
};

static GPtrArray *backends; /* oldest first */
static unsigned media;      /* that are in, or pinned */
static Coroutine *waiter;   /* for the last of them to go; NULL: nobody */

static void wake_waiter(void)
{
    if (waiter) {
        co_wake(g_steal_pointer(&waiter));
    }
}

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

static char *owner_id(void *opaque)
{
    const Backend *b = opaque;

    return b->device ? g_strdup(b->device->qdev) : NULL;
}

static const EdgeOwner owner = {
    .describe = describe, .name = owner_name, .id = owner_id, .bears_inactive = bears_inactive};

bool backend_owns(const Edge *e)
{
    return e->owner == &owner;
}

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
    b->refs = 1;
    b->shared = PERM_ALL;
    b->stats = STATS_CONFIG_DEFAULT;
    co_mutex_init(&b->lock);
    if (!backends) {
        backends = g_ptr_array_new();
    }
    g_ptr_array_add(backends, b);
    return b;
}

Backend *backend_ref(Backend *b)
{
    b->refs++;
    return b;
}

void backend_unref(Backend *b)
{
    if (--b->refs == 0) {
        backend_limits_clear(&b->limits);
        co_mutex_destroy(&b->lock);
        g_free(b->name);
        g_free(b);
    }
}

void coroutine_fn backend_free(Backend *b)
{
    g_ptr_array_remove(backends, b);
    b->gone = true;
    backend_limits_clear(&b->limits);
    backend_eject(b);
    backend_unref(b);
}

bool backend_is_gone(const Backend *b)
{
    return b->gone;
}

static void wait_timeout(void *opaque)
{
    (void)opaque;
    wake_waiter();
}

bool coroutine_fn backend_free_all(int64_t deadline_ns)
{
    Timer timer;

    while (backends && backends->len > 0) {
        backend_free(g_ptr_array_index(backends, backends->len - 1));
    }
    if (media > 0) { /* requests of consoles */
        waiter = co_self();
        timer_init(&timer, wait_timeout, NULL);
        timer_arm(&timer, deadline_ns);
        co_yield();
        timer_cancel(&timer);
    }
    return media == 0;
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
    return b->medium ? b->medium->edge : NULL;
}

Medium *backend_pin(Backend *b)
{
    if (b->medium) {
        b->medium->pins++;
    }
    return b->medium;
}

Edge *medium_edge(const Medium *m)
{
    return m->edge;
}

Backend *medium_backend(const Medium *m)
{
    return m->backend;
}

bool medium_is_in(const Medium *m)
{
    return m->backend->medium == m;
}

void coroutine_fn medium_unpin(Medium *m)
{
    if (--m->pins == 0) {
        edge_detach(m->edge);
        backend_unref(m->backend);
        g_free(m);
        if (--media == 0) {
            wake_waiter();
        }
    }
}

const char *node_backend_name(const Node *n)
{
    for (guint i = 0; backends && i < backends->len; i++) {
        const Backend *b = g_ptr_array_index(backends, i);

        if (b->name && b->medium && b->medium->edge->target == n) {
            return b->name;
        }
    }
    return "";
}

static bool coroutine_fn insert_locked(Backend *b, Node *n, Error **errp)
{
    Edge *e;

    if (b->medium) {
        error_set(errp, ERROR_BUSY, b->name, "insert", "There already is a medium in the device");
        return false;
    }
    e = b->gone ? NULL
                : edge_attach(n, NULL, &owner, b, "root", EDGE_ROOT, b->perm, b->shared, errp);
    if (e && b->gone) { /* meanwhile */
        edge_detach(e);
        e = NULL;
    }
    if (b->gone) {
        g_clear_pointer(errp, error_free);
        error_set(errp, ERROR_NOT_FOUND, NULL, "insert", "The device was removed");
    }
    if (!e) {
        return false;
    }
    edge_keep_stats(e, &b->stats);
    b->medium = g_new0(Medium, 1);
    b->medium->backend = backend_ref(b);
    b->medium->edge = e;
    b->medium->pins = 1;
    media++;
    return true;
}

bool coroutine_fn backend_insert(Backend *b, Node *n, Error **errp)
{
    bool ok;

    backend_ref(b);
    co_mutex_lock(&b->lock);
    ok = insert_locked(b, n, errp);
    co_mutex_unlock(&b->lock);
    backend_unref(b);
    return ok;
}

void coroutine_fn backend_eject(Backend *b)
{
    Medium *m;

    backend_ref(b);
    co_mutex_lock(&b->lock);
    m = b->medium;
    if (m) {
        b->defaults = backend_defaults(b);
        b->medium = NULL;
        medium_unpin(m);
    }
    co_mutex_unlock(&b->lock);
    backend_unref(b);
}

MediumDefaults backend_defaults(const Backend *b)
{
    const Node *n = b->medium ? b->medium->edge->target : NULL;

    if (!n) {
        return b->defaults;
    }
    return (MediumDefaults){.read_only = atomic_load(&n->read_only),
                            .cache_direct = n->cache_direct,
                            .cache_no_flush = n->cache_no_flush,
                            .discard_unmap = n->discard_unmap,
                            .detect_zeroes = n->detect_zeroes};
}

void backend_set_defaults(Backend *b, const MediumDefaults *d)
{
    b->defaults = *d;
}

bool coroutine_fn backend_set_perm(Backend *b, unsigned perm, unsigned shared, Error **errp)
{
    bool ok;

    backend_ref(b);
    co_mutex_lock(&b->lock);
    ok = !b->medium || edge_set_perm(b->medium->edge, perm, shared, errp);
    if (ok) {
        b->perm = perm;
        b->shared = shared;
    }
    co_mutex_unlock(&b->lock);
    backend_unref(b);
    return ok;
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

BackendLimits *backend_limits(const Backend *b)
{
    return (BackendLimits *)&b->limits;
}

void backend_set_copy_on_read(Backend *b, bool on)
{
    b->copy_on_read = on;
}

bool backend_copy_on_read(const Backend *b)
{
    return b->copy_on_read;
}

void backend_set_stats(Backend *b, const StatsConfig *config)
{
    b->stats = *config;
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
    if (d && d->has_tray) {
        i->has_tray_open = true;
        i->tray_open = d->tray_open;
    }
    if (b->medium) {
        Node *n = b->medium->edge->target;

        while (n->implicit) {
            n = n->file->target;
        }
        i->inserted = node_query_info(n, false, errp);
        if (!i->inserted) {
            return NULL;
        }
        i->inserted->cache->writeback = !b->writethrough;
        backend_limits_info(b, i->inserted);
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

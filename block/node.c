/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Nodes: names, the registry, references, closing.
 *
 * A node is made hidden from everybody (node_alloc), opened by its driver (open.c), registered under its name, used, and closed when its
 * last reference goes.  Names are unique over registered nodes and reserved names; a reservation keeps a name free
 * while a transaction prepares a node that is to have it.
 *
 * Closing runs in a coroutine of its own: a grace period (no request can still be about to enter), then until the counts are
 * zero (requests whose edge was deleted), then the driver's close, then the children.
 *
 * Everything here belongs to the control thread.
 */
#include "block/backend.h"
#include "block/bitmaps.h"
#include "block/count.h"
#include "block/graph.h"
#include "block/put-away.h"
#include "node-internal.h"
#include "qapi-types.h"
#include <string.h>

static GHashTable *names;        /* name -> Node */
static GHashTable *reserved;     /* name -> reserver */
static GPtrArray *nodes;         /* oldest first */
static unsigned closing;         /* nodes whose close is under way */
static GPtrArray *close_waiters; /* Coroutine * */
static uint64_t last_serial, last_unique;

static void registry_init(void)
{
    if (!names) {
        names = g_hash_table_new(g_str_hash, g_str_equal);
        reserved = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
        nodes = g_ptr_array_new();
        close_waiters = g_ptr_array_new();
    }
}

bool node_name_check(const char *name, Error **errp)
{
    bool good = g_ascii_isalpha(name[0]);

    for (const char *p = name; good && *p; p++) {
        good = g_ascii_isalnum(*p) || strchr("-._", *p);
    }
    if (!good) {
        error_set(errp, ERROR_INVALID, name, "name", "Invalid node-name: '%s'", name);
        return false;
    }
    if (strlen(name) > 31) {
        error_set(errp, ERROR_INVALID, name, "name", "Node name too long");
        return false;
    }
    return true;
}

char *node_generate_name(void)
{
    static uint64_t counter;

    /* Two random digits, so that nobody relies on the numbers. */
    return g_strdup_printf("#block%" G_GUINT64_FORMAT "%02d", counter++,
                           g_random_int_range(0, 100));
}

bool node_name_reserve(const char *name, const void *reserver, Error **errp)
{
    registry_init();
    if (backend_find(name)) {
        error_set(errp, ERROR_EXISTS, name, "name", "node-name=%s is conflicting with a device id",
                  name);
        return false;
    }
    if (g_hash_table_contains(names, name) || g_hash_table_contains(reserved, name)) {
        error_set(errp, ERROR_EXISTS, name, "name", "Duplicate nodes with node-name='%s'", name);
        return false;
    }
    g_hash_table_insert(reserved, g_strdup(name), (void *)reserver);
    return true;
}

void node_name_release(const char *name, const void *reserver)
{
    registry_init();
    if (g_hash_table_lookup(reserved, name) == reserver) {
        g_hash_table_remove(reserved, name);
    }
}

Node *node_alloc(const BlockDriver *driver, const char *name)
{
    Node *n = aligned_alloc(64, (sizeof(Node) + 63) & ~(size_t)63);

    registry_init();
    g_assert(n);
    memset(n, 0, sizeof(*n));
    n->unique = ++last_unique;
    n->driver = driver;
    n->state = g_malloc0(MAX(driver->state_size, 1));
    n->limits = (NodeLimits){.request_alignment = 1, .memory_alignment = 1, .max_iov = 1024};
    n->name = g_strdup(name);
    n->refs = 1;
    n->shared = PERM_ALL;
    n->parents = g_ptr_array_new();
    n->children = g_ptr_array_new();
    pthread_mutex_init(&n->wait_lock, NULL);
    co_queue_init(&n->waiters);
    g_queue_init(&n->gate_held);
    co_mutex_init(&n->flush_lock);
    co_range_lock_init(&n->rmw_lock);
    return n;
}

static void node_free(Node *n)
{
    g_assert(n->parents->len == 0 && n->children->len == 0);
    for (guint i = 0; i < nodes->len; i++) {
        Node *other = g_ptr_array_index(nodes, i);

        if (other->opened_by == n) {
            other->opened_by = n->opened_by; /* what defined n in place defined it too */
        }
    }
    node_bitmaps_free(n);
    co_range_lock_destroy(&n->rmw_lock);
    co_mutex_destroy(&n->flush_lock);
    pthread_mutex_destroy(&n->wait_lock);
    for (guint i = 0; n->parked && i < n->parked->len; i++) {
        Edge *e = g_ptr_array_index(n->parked, i);

        g_free(e->name);
        g_free(e);
    }
    g_clear_pointer(&n->parked, g_ptr_array_unref);
    g_ptr_array_free(n->parents, true);
    g_ptr_array_free(n->children, true);
    qapi_free_BlockdevOptions(n->options);
    qapi_free_BlockdevOptions(n->given);
    g_free(n->filename);
    g_free(n->header_backing);
    g_free(n->header_backing_shown);
    g_free(n->name);
    g_free(n->state);
    free(n);
}

Node *node_nothing(void)
{
    static const BlockDriver driver_nothing = {.name = "nothing"};
    static Node *n;

    if (!n) {
        n = node_alloc(&driver_nothing, "#nothing");
        atomic_store(&n->read_only, true);
    }
    return n;
}

void node_take_place(Node *n)
{
    n->serial = ++last_serial;
}

void node_register(Node *n)
{
    guint at;

    registry_init();
    g_assert(!g_hash_table_contains(names, n->name));
    g_hash_table_insert(names, n->name, n);
    if (!n->serial) {
        node_take_place(n);
    }
    at = nodes->len;
    while (at > 0 && ((Node *)g_ptr_array_index(nodes, at - 1))->serial > n->serial) {
        at--;
    }
    g_ptr_array_insert(nodes, at, n);
}

static void unregister(Node *n)
{
    if (g_hash_table_lookup(names, n->name) == n) {
        g_hash_table_remove(names, n->name);
    }
    g_ptr_array_remove(nodes, n);
}

Node *node_find_any(const char *name)
{
    registry_init();
    return g_hash_table_lookup(names, name);
}

Node *node_find(const char *name)
{
    Node *n = node_find_any(name);

    return n && !n->hidden ? n : NULL;
}

GPtrArray *node_list(void)
{
    GPtrArray *list = g_ptr_array_new();

    registry_init();
    for (guint i = nodes->len; i-- > 0;) {
        Node *n = g_ptr_array_index(nodes, i);

        if (!n->hidden) {
            g_ptr_array_add(list, n);
        }
    }
    return list;
}

void coroutine_fn node_detach_children(Node *n)
{
    while (n->children->len > 0) {
        edge_detach(g_ptr_array_index(n->children, n->children->len - 1));
    }
}

Node *node_skip_filters(Node *n)
{
    while (n->driver->is_filter && n->file) {
        n = n->file->target;
    }
    return n;
}

const Edge *node_find_use(const Node *n, EdgeRole role)
{
    for (guint i = 0; i < n->parents->len; i++) {
        const Edge *e = g_ptr_array_index(n->parents, i), *above = NULL;

        if (e->role == role) {
            return e;
        }
        if (e->role == EDGE_FILTERED && e->parent && e->parent->driver->is_filter) {
            above = node_find_use(e->parent, role);
        }
        if (above) {
            return above;
        }
    }
    return NULL;
}

bool node_can_compress(const Node *n)
{
    while (n->driver->compresses && n->driver->is_filter && n->file) {
        n = n->file->target;
    }
    return n->driver->compresses;
}

void coroutine_fn node_discard(Node *n)
{
    node_detach_children(n);
    node_free(n);
}

static void coroutine_fn node_close(void *opaque)
{
    Node *n = opaque;

    co_rcu_synchronize();
    node_wait_idle(n, -1);
    co_rcu_synchronize(); /* the last request may still be looking for waiters */
    if (n->driver->close) {
        void *watched = atomic_load(&n->read_only) ? NULL : put_away_begin(n);

        n->driver->close(n);
        put_away_end(watched);
    }
    node_detach_children(n);
    node_free(n);
    if (--closing == 0) {
        for (guint i = 0; i < close_waiters->len; i++) {
            co_wake(g_ptr_array_index(close_waiters, i));
        }
        g_ptr_array_set_size(close_waiters, 0);
    }
}

Node *node_ref(Node *n)
{
    g_assert(n->refs > 0);
    n->refs++;
    return n;
}

void node_unref(Node *n)
{
    if (!n) {
        return;
    }
    g_assert(n->refs > 0);
    if (--n->refs == 0) {
        g_assert(n->parents->len == 0);
        unregister(n);
        closing++;
        co_start(node_close, n);
    }
}

void coroutine_fn node_wait_all_closed(void)
{
    while (closing > 0) {
        g_ptr_array_add(close_waiters, co_self());
        co_yield();
    }
}

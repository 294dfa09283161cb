/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Chains of backing nodes: finding one's way, and the changes at the end of a job.  See chain.h.
 *
 * Between two images there may be filters.  Data is looked at in images alone; filters count where edges move: whose users move is the node that
 * was named, so the filters above it stay, and where they move to is the node that was named, so that those from there on down stay too.  What lies
 * between goes.
 *
 * The nodes that a job works on are held by edges of the job, so nobody else changes the chain between them; two jobs side by side on one
 * chain may end at once, and take turns (chain_lock).
 */
#include "chain.h"
#include "../filter/filter.h"
#include "../node-internal.h"
#include "block/change.h"
#include "block/io.h"
#include "util/log.h"
#include <errno.h>
#include <string.h>

/* How long what users have left may take to come to rest. */
#define REST_NS INT64_C(1000000000)

static CoMutex lock;

void coroutine_fn chain_lock(void)
{
    static bool initialised;

    if (!initialised) {
        co_mutex_init(&lock);
        initialised = true;
    }
    co_mutex_lock(&lock);
}

void chain_unlock(void)
{
    co_mutex_unlock(&lock);
}

/* ---- finding ---- */

Node *chain_below(const Node *n)
{
    Edge *e = n->driver->is_filter
                  ? n->file
                  : atomic_load_explicit(&((Node *)n)->backing, memory_order_acquire);

    return e ? e->target : NULL;
}

Node *chain_backing(const Node *n)
{
    Node *below = chain_below(node_skip_filters((Node *)n));

    return below ? node_skip_filters(below) : NULL;
}

bool chain_contains(const Node *top, const Node *n)
{
    while (top && top != n) {
        top = chain_below(top);
    }
    return top;
}

Node *chain_overlay(Node *top, const Node *n)
{
    n = node_skip_filters((Node *)n);
    top = node_skip_filters(top);
    while (top && chain_backing(top) != n) {
        top = chain_backing(top);
    }
    return top;
}

Node *chain_above(Node *top, const Node *n)
{
    while (top && chain_below(top) != n) {
        top = chain_below(top);
    }
    return top;
}

static void add_overlay_edges(const Node *n, GPtrArray *edges)
{
    for (guint i = 0; i < n->parents->len; i++) {
        Edge *e = g_ptr_array_index(n->parents, i);

        if (e->role == EDGE_COW && !e->parent->driver->is_filter) {
            g_ptr_array_add(edges, e);
        } else if (e->role == EDGE_FILTERED && e->parent && e->parent->driver->is_filter &&
                   !chain_is_filter(e->parent)) {
            add_overlay_edges(e->parent, edges);
        }
    }
}

GPtrArray *chain_overlay_edges(const Node *n)
{
    GPtrArray *edges = g_ptr_array_new();

    add_overlay_edges(n, edges);
    return edges;
}

static bool same_name(const Node *overlay, Node *n, const char *name)
{
    g_autofree char *shown = NULL, *full = NULL, *a = NULL, *b = NULL;

    if (!n->filename) {
        return false;
    }
    shown = node_shown_filename(n);
    if (strcmp(n->filename, name) == 0 || g_strcmp0(shown, name) == 0) {
        return true;
    }
    full = filename_resolve(overlay->filename, name);
    if (strcmp(full, n->filename) == 0) {
        return true;
    }
    a = realpath(full, NULL);
    b = realpath(n->filename, NULL);
    return a && b && strcmp(a, b) == 0;
}

Node *chain_find_file(Node *top, const char *name)
{
    for (Node *n = top, *b; (b = chain_backing(n)); n = b) {
        if (same_name(n, b, name)) {
            return b;
        }
    }
    return NULL;
}

/* ---- filters ---- */

/* A name for the node below it while a job runs, for those who look for the filters that others insert: requests to it are passed on, and in the
 * end whoever uses it uses what is below. */
#define FILTER(driver_name)                                                                        \
    {                                                                                              \
        .name = driver_name, .is_filter = true, .child_perm = filter_child_perm,                   \
        .child_resized = filter_child_resized, .preadv = filter_preadv, .pwritev = filter_pwritev, \
        .has_fua = true, .pwrite_zeroes = filter_pwrite_zeroes, .pdiscard = filter_pdiscard        \
    }
static const BlockDriver filters[] = {FILTER("commit_top"), FILTER("mirror_top"),
                                      FILTER("copy-on-read")};

bool chain_is_filter(const Node *n)
{
    return n->driver >= filters && n->driver < filters + G_N_ELEMENTS(filters);
}

Node *chain_named(const char *name, Error **errp)
{
    Node *n = node_lookup(NULL, name, errp);

    while (n && chain_is_filter(n)) {
        n = n->file->target;
    }
    return n;
}

Node *chain_lookup(const char *name, Error **errp)
{
    Node *n = node_lookup(NULL, name, errp);

    return n ? node_skip_filters(n) : NULL;
}

bool coroutine_fn chain_add_filter(Node *n, const char *name, const char *driver, Node **ret_filter,
                                   Error **errp)
{
    const BlockDriver *drv = NULL;
    Node *f;

    *ret_filter = NULL;
    if (!name) {
        return true;
    }
    if (!node_name_check(name, errp) || !node_name_reserve(name, n, errp)) {
        return false;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(filters); i++) {
        drv = strcmp(filters[i].name, driver) == 0 ? &filters[i] : drv;
    }
    f = node_alloc(drv, name);
    f->limits = n->limits;
    atomic_store(&f->size, atomic_load(&n->size));
    atomic_store(&f->read_only, atomic_load(&n->read_only));
    f->discard_unmap = true; /* what is below decides */
    f->filename = g_strdup(n->filename);
    node_name_release(name, n);
    node_register(f);
    f->file = edge_attach(n, f, NULL, NULL, "backing", EDGE_FILTERED, PERM_NONE, PERM_ALL, errp);
    if (!f->file) {
        node_unref(f);
        return false;
    }
    *ret_filter = f;
    return true;
}

void coroutine_fn chain_remove_filter(Node *filter)
{
    Node *below;

    if (!filter) {
        return;
    }
    below = node_ref(filter->file->target);
    if (filter->parents->len > 0) {
        Change *c = change_new();

        change_add(c, filter, below, NULL);
        change_arm(c);
        change_cut(c); /* not held: cannot fail */
        change_abandon_old(c);
        change_fold(c);
        change_free(c);
    }
    node_detach_children(filter);
    node_unref(filter);
    perm_lower(below);
    node_unref(below);
}

/* ---- beginning ---- */

bool chain_check_active(const Node *n, const char *what, const char *above, const char *prefix,
                        Error **errp)
{
    g_autofree char *name = above ? g_strdup(above) : node_generate_name();

    if (atomic_load(&((Node *)n)->inactive)) {
        error_set(errp, ERROR_BUSY, n->name, "job",
                  "%sInactive '%s' can't be a %s child of active '%s'", prefix, n->name, what,
                  name);
        return false;
    }
    return true;
}

bool coroutine_fn chain_wait_free(Node *top, const Node *bottom, Error **errp)
{
    bool waited;

    /* The chain may be another one after a wait. */
    do {
        waited = false;
        for (Node *n = top; n && !waited; n = n == bottom ? NULL : chain_below(n)) {
            waited = n->reserved_by;
            if (!node_wait_unreserved(n, errp)) {
                return false;
            }
        }
    } while (waited);
    for (Node *n = top; n; n = n == bottom ? NULL : chain_below(n)) {
        if (!node_check_no_job(n, errp)) {
            return false;
        }
    }
    return true;
}

void coroutine_fn chain_set_lenient(Node *top, const Node *base, bool lenient)
{
    for (Node *n = top; n && n != base; n = chain_backing(n)) {
        Edge *e = atomic_load(&n->backing);

        if (e) {
            e->lenient = lenient;
        }
    }
    perm_lower(top);
}

uint32_t chain_granularity(const Node *n, uint64_t size)
{
    g_auto(ImageFacts) f = {0};
    g_autoptr(Error) err = NULL;
    uint32_t granularity = 65536;

    if (n->driver->facts && n->driver->facts((Node *)n, &f, &err)) {
        granularity = MAX(granularity, MIN(f.cluster_size, UINT64_C(2) << 20));
    }
    /* At most 32 MiB of marks. */
    while (granularity < UINT32_C(1) << 30 && size / granularity > UINT64_C(1) << 28) {
        granularity *= 2;
    }
    return granularity;
}

/* ---- end ---- */

char *chain_full_name(const Node *n)
{
    if (g_str_has_prefix(n->filename, "json:") || strstr(n->filename, "://") ||
        g_path_is_absolute(n->filename)) {
        return g_strdup(n->filename);
    }
    return g_canonicalize_filename(n->filename, NULL);
}

bool coroutine_fn chain_write_backing(Node *n, const Node *backing, const char *file,
                                      bool mask_protocol, Error **errp)
{
    bool was_read_only = atomic_load(&n->read_only), ok;
    g_autofree char *name = NULL;
    g_autoptr(Error) err = NULL;
    const char *format = NULL;

    if (!n->driver->set_backing_string) {
        return true;
    }
    if (backing) {
        backing = node_skip_filters((Node *)backing);
        name = file ? g_strdup(file) : backing->filename ? chain_full_name(backing) : NULL;
        format = mask_protocol && backing->driver->is_protocol ? "raw" : backing->driver->name;
    }
    if (!node_set_writable(n, errp)) {
        return false;
    }
    ok = n->driver->set_backing_string(n, name, name ? format : NULL, errp);
    if (ok) {
        g_clear_pointer(&n->header_backing, g_free); /* nothing was opened by this name */
    }
    if (was_read_only && !node_set_read_only(n, &err)) {
        log_warn("%s: stays open for writing: %s", n->name, err->message);
    }
    return ok;
}

void coroutine_fn chain_move(GPtrArray *edges, Node *to)
{
    Change *c = change_new();

    for (guint i = 0; i < edges->len; i++) {
        change_add_edge(c, g_ptr_array_index(edges, i), to ? to : node_nothing());
    }
    change_arm(c);
    change_cut(c); /* not held: cannot fail */
    change_fold(c);
    change_free(c);
    for (guint i = 0; i < edges->len && !to; i++) {
        edge_park(g_ptr_array_index(edges, i));
    }
}

/* ---- the journal's part ---- */

JobRelink *job_relink;

static const char *file_of(const Node *n)
{
    while (n && n->file) {
        n = n->file->target;
    }
    return n && n->driver->is_protocol ? n->filename : NULL;
}

bool coroutine_fn chain_relink(const Node *n, const Node *overlay, Error **errp)
{
    const char *file = file_of(n);

    return !job_relink || !file || job_relink(file, overlay ? file_of(overlay) : NULL, errp);
}

const JobPivotJournal *job_pivot_journal;

/* A time-out is no error. */
static bool coroutine_fn come_to_rest(Node *n, bool for_good, int64_t deadline_ns, Error **errp)
{
    int ret = 0;

    for (; n && ret == 0; n = n->file ? n->file->target : NULL) {
        if (n->driver->come_to_rest && !atomic_load(&n->read_only)) {
            Request r;

            request_begin(&r, REQUEST_WRITE);
            ret = n->driver->come_to_rest(n, &r, for_good, deadline_ns);
            request_end(&r);
        }
        if (ret < 0 && ret != -ETIMEDOUT) {
            error_set_errno(errp, -ret, n->name, "write", "Write to node '%s' failed", n->name);
        }
    }
    return ret == 0;
}

static void flush_times(Node *n, bool on)
{
    while (n->file) {
        n = n->file->target;
    }
    atomic_store(&n->flush_times, on);
}

bool coroutine_fn chain_pivot_begin(Node *from, Node *to, int64_t deadline_ns, bool *ret_recorded,
                                    Error **errp)
{
    const char *from_file = file_of(from), *to_file = file_of(to);

    *ret_recorded = false;
    if (!job_pivot_journal || !from_file || !to_file) {
        return true;
    }
    if (!come_to_rest(to, false, deadline_ns, errp) || !node_write_out(to, errp)) {
        return false;
    }
    flush_times(to, true);
    if (!job_pivot_journal->begin(from_file, to_file, ret_recorded, errp)) {
        flush_times(to, false);
        return false;
    }
    flush_times(to, *ret_recorded);
    return true;
}

void coroutine_fn chain_pivot_done(Node *from, Node *to)
{
    const char *from_file = file_of(from), *to_file = file_of(to);
    g_autoptr(Error) err = NULL;

    if (!job_pivot_journal || !from_file || !to_file) {
        return;
    }
    if (!come_to_rest(from, true, clock_ns() + REST_NS, &err)) {
        log_info("%s: what its users left is still being written to", from->name);
        g_clear_pointer(&err, error_free);
    }
    if (job_pivot_journal->done(from_file, to_file, &err)) {
        flush_times(to, false);
    } else {
        log_error(
            "the snapshot journal could not be told that the users of '%s' were moved to '%s': %s",
            from_file, to_file, err->message);
    }
}

bool coroutine_fn chain_pivot_give_up(Node *to, Error **errp)
{
    for (unsigned tries = 1;; tries++) {
        g_autoptr(Error) err = NULL;

        if (job_pivot_journal->give_up(file_of(to), &err)) {
            flush_times(to, false);
            return true;
        }
        if (tries == 5) {
            error_move(errp, &err);
            return false;
        }
        co_sleep_ns(tries * REST_NS / 10);
    }
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * object-add and object-del: the I/O threads.
 */
#include "block/iothread-objects.h"
#include "qapi-commands.h"

static GHashTable *iothreads; /* id -> IOThread */
static IOThread *default_iothread, *jobs_iothread;

IOThread *iothread_find(const char *id)
{
    return iothreads ? g_hash_table_lookup(iothreads, id) : NULL;
}

IOThread *iothread_default(Error **errp)
{
    if (!default_iothread) {
        default_iothread = iothread_new("default", errp);
    }
    return default_iothread;
}

IOThread *iothread_jobs(Error **errp)
{
    if (!jobs_iothread) {
        jobs_iothread = iothread_new("jobs", errp);
    }
    return jobs_iothread;
}

void iothread_free_all(void)
{
    if (iothreads) {
        GHashTableIter iter;
        gpointer t;

        g_hash_table_iter_init(&iter, iothreads);
        while (g_hash_table_iter_next(&iter, NULL, &t)) {
            iothread_free(t);
        }
        g_hash_table_destroy(iothreads);
        iothreads = NULL;
    }
    if (default_iothread) {
        iothread_free(default_iothread);
        default_iothread = NULL;
    }
    if (jobs_iothread) {
        iothread_free(jobs_iothread);
        jobs_iothread = NULL;
    }
}

static bool check_id(const char *id, Error **errp)
{
    bool good = g_ascii_isalpha(id[0]);

    for (const char *p = id; good && *p; p++) {
        good = g_ascii_isalnum(*p) || *p == '-' || *p == '.' || *p == '_';
    }
    if (!good) {
        error_set(errp, ERROR_INVALID, id, "object-add", "Parameter 'id' expects an identifier");
        error_hint(
            errp, "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.");
    }
    return good;
}

static bool check_ranges(const IothreadProperties *p, Error **errp)
{
    const struct {
        const char *name;
        bool has;
        int64_t value;
    } table[] = {
        {"poll-max-ns", p->has_poll_max_ns, p->poll_max_ns},
        {"poll-grow", p->has_poll_grow, p->poll_grow},
        {"poll-shrink", p->has_poll_shrink, p->poll_shrink},
        {"aio-max-batch", p->has_aio_max_batch, p->aio_max_batch},
        {"thread-pool-min", p->has_thread_pool_min, p->thread_pool_min},
        {"thread-pool-max", p->has_thread_pool_max, p->thread_pool_max},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        if (table[i].has && table[i].value < 0) {
            error_set(errp, ERROR_INVALID, table[i].name, "object-add",
                      "%s value must be in range [0, %" G_GINT64_FORMAT "]", table[i].name,
                      G_MAXINT64);
            return false;
        }
    }
    return true;
}

bool coroutine_fn qmp_object_add(const ObjectOptions *arg, Error **errp)
{
    IOThread *t;

    if (!check_id(arg->id, errp)) {
        return false;
    }
    if (iothread_find(arg->id)) {
        error_set(errp, ERROR_EXISTS, arg->id, "object-add",
                  "attempt to add duplicate property '%s' to object (type 'container')", arg->id);
        return false;
    }
    t = check_ranges(&arg->u.iothread, errp) ? iothread_new(arg->id, errp) : NULL;
    if (!t) {
        return false;
    }
    if (!iothreads) {
        iothreads = g_hash_table_new(g_str_hash, g_str_equal);
    }
    g_hash_table_insert(iothreads, (void *)iothread_id(t), t);
    return true;
}

bool coroutine_fn qmp_object_del(const ObjectDelArg *arg, Error **errp)
{
    IOThread *t = iothread_find(arg->id);

    if (!t) {
        error_set(errp, ERROR_NOT_FOUND, arg->id, "object-del", "object '%s' not found", arg->id);
        return false;
    }
    if (iothread_users(t) > 0) {
        error_set(errp, ERROR_BUSY, arg->id, "object-del",
                  "object '%s' is in use, can not be deleted", arg->id);
        return false;
    }
    g_hash_table_remove(iothreads, arg->id);
    iothread_free(t);
    return true;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Objects iothread and main-loop.
 */
#include "block/iothread-objects.h"
#include "object-internal.h"
#include "qapi-types.h"
#include <string.h>
#include <sys/resource.h>

#define JOBS_NICE 10 /* setpriority(2) */

typedef struct IOThreadObject {
    Object base;
    IOThread *thread;
} IOThreadObject;

static IOThread *default_iothread, *jobs_iothread;

static const ObjectProperty properties[] = {
    {"thread-pool-min", "int", "0"},
    {"thread-pool-max", "int", "64"},
    {"aio-max-batch", "int", "0"},
    {"poll-max-ns", "int", "0"},
    {"poll-grow", "int", "0"},
    {"poll-shrink", "int", "0"},
    {0},
};

/* Where a property lies in the parameters; NULL: there is none. */
static int64_t *member(IOThreadParams *p, const char *property)
{
    const struct {
        const char *name;
        int64_t *value;
    } table[] = {
        {"thread-pool-min", &p->thread_pool_min},
        {"thread-pool-max", &p->thread_pool_max},
        {"aio-max-batch", &p->aio_max_batch},
        {"poll-max-ns", &p->poll_max_ns},
        {"poll-grow", &p->poll_grow},
        {"poll-shrink", &p->poll_shrink},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        if (strcmp(table[i].name, property) == 0) {
            return table[i].value;
        }
    }
    return NULL;
}

static bool iothread_create(Object *o, Error **errp)
{
    IOThreadObject *t = (IOThreadObject *)o;
    const IothreadProperties *p = &o->options->u.iothread;
    IOThreadParams params;

    t->thread = iothread_new(o->id, errp);
    if (!t->thread) {
        return false;
    }
    iothread_get_params(t->thread, &params);
    params.aio_max_batch = p->has_aio_max_batch ? p->aio_max_batch : params.aio_max_batch;
    params.thread_pool_min = p->has_thread_pool_min ? p->thread_pool_min : params.thread_pool_min;
    params.thread_pool_max = p->has_thread_pool_max ? p->thread_pool_max : params.thread_pool_max;
    params.poll_max_ns = p->has_poll_max_ns ? p->poll_max_ns : params.poll_max_ns;
    params.poll_grow = p->has_poll_grow ? p->poll_grow : params.poll_grow;
    params.poll_shrink = p->has_poll_shrink ? p->poll_shrink : params.poll_shrink;
    return iothread_set_params(t->thread, &params, errp);
}

static void iothread_cleanup(Object *o)
{
    IOThreadObject *t = (IOThreadObject *)o;

    if (t->thread) {
        iothread_free(t->thread);
    }
}

static bool iothread_in_use(const Object *o)
{
    return iothread_users(((const IOThreadObject *)o)->thread) > 0;
}

static struct json_object *iothread_get(const Object *o, const char *property)
{
    IOThreadParams params;

    iothread_get_params(((const IOThreadObject *)o)->thread, &params);
    return json_object_new_int64(*member(&params, property));
}

static bool iothread_set(Object *o, const char *property, struct json_object *value, Error **errp)
{
    IOThreadObject *t = (IOThreadObject *)o;
    IOThreadParams params;

    iothread_get_params(t->thread, &params);
    return object_value_int(property, value, member(&params, property), errp) &&
           iothread_set_params(t->thread, &params, errp);
}

const ObjectClass object_type_iothread = {
    .name = "iothread",
    .parent = "event-loop-base",
    .size = sizeof(IOThreadObject),
    .properties = properties,
    .create = iothread_create,
    .cleanup = iothread_cleanup,
    .in_use = iothread_in_use,
    .get = iothread_get,
    .set = iothread_set,
};

IOThread *iothread_find(const char *id)
{
    Object *o = object_find(id);

    return o && o->type == &object_type_iothread ? ((IOThreadObject *)o)->thread : NULL;
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
        if (jobs_iothread) {
            loop_set_background(iothread_loop(jobs_iothread));
            /* Where processors are short guests come first; what the ring starts for us inherits it.  Copying loses nothing
             * on a machine that has some to spare. */
            (void)setpriority(PRIO_PROCESS, iothread_tid(jobs_iothread), JOBS_NICE);
        }
    }
    return jobs_iothread;
}

void iothread_free_own(void)
{
    g_clear_pointer(&default_iothread, iothread_free);
    g_clear_pointer(&jobs_iothread, iothread_free);
}

/* ---- main-loop: GLib's loop has nothing to set; values are kept ---- */

typedef struct MainLoopObject {
    Object base;
    int64_t batch, pool_min, pool_max;
} MainLoopObject;

static bool main_loop_exists;

static const ObjectProperty main_loop_properties[] = {
    {"thread-pool-min", "int", "0"},
    {"thread-pool-max", "int", "64"},
    {"aio-max-batch", "int", "0"},
    {0},
};

static bool check_main_loop(const Object *o, int64_t batch, int64_t min, int64_t max, Error **errp)
{
    if (batch < 0) {
        error_set(errp, ERROR_INVALID, o->id, "object-add",
                  "aio-max-batch value must be in range [0, %" G_GINT64_FORMAT "]", G_MAXINT64);
        return false;
    }
    if (min < 0 || max < 1 || min > max || max > INT_MAX) {
        error_set(errp, ERROR_INVALID, o->id, "object-add",
                  "bad thread-pool-min/thread-pool-max values");
        return false;
    }
    return true;
}

static bool main_loop_create(Object *o, Error **errp)
{
    const MainLoopProperties *p = &o->options->u.main_loop;
    MainLoopObject *m = (MainLoopObject *)o;

    if (main_loop_exists) {
        error_set(errp, ERROR_EXISTS, o->id, "object-add", "only one main-loop instance allowed");
        return false;
    }
    m->batch = p->has_aio_max_batch ? p->aio_max_batch : 0;
    m->pool_min = p->has_thread_pool_min ? p->thread_pool_min : 0;
    m->pool_max = p->has_thread_pool_max ? p->thread_pool_max : 64;
    if (!check_main_loop(o, m->batch, m->pool_min, m->pool_max, errp)) {
        m->pool_max = 0; /* not the instance */
        return false;
    }
    main_loop_exists = true;
    return true;
}

static void main_loop_cleanup(Object *o)
{
    if (((MainLoopObject *)o)->pool_max) {
        main_loop_exists = false;
    }
}

static struct json_object *main_loop_get(const Object *o, const char *property)
{
    const MainLoopObject *m = (const MainLoopObject *)o;

    return json_object_new_int64(strcmp(property, "aio-max-batch") == 0     ? m->batch
                                 : strcmp(property, "thread-pool-min") == 0 ? m->pool_min
                                                                            : m->pool_max);
}

static bool main_loop_set(Object *o, const char *property, struct json_object *value, Error **errp)
{
    MainLoopObject *m = (MainLoopObject *)o;
    int64_t batch = m->batch, min = m->pool_min, max = m->pool_max;
    int64_t *target = strcmp(property, "aio-max-batch") == 0     ? &batch
                      : strcmp(property, "thread-pool-min") == 0 ? &min
                                                                 : &max;

    if (!object_value_int(property, value, target, errp) ||
        !check_main_loop(o, batch, min, max, errp)) {
        return false;
    }
    m->batch = batch;
    m->pool_min = min;
    m->pool_max = max;
    return true;
}

const ObjectClass object_type_main_loop = {
    .name = "main-loop",
    .parent = "event-loop-base",
    .size = sizeof(MainLoopObject),
    .properties = main_loop_properties,
    .create = main_loop_create,
    .cleanup = main_loop_cleanup,
    .get = main_loop_get,
    .set = main_loop_set,
};

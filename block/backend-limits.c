/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Limits of backends; see backend-limits.h.
 *
 * A request is accounted when it comes (throttle.c), which gives it its turn, and sleeps till then.  It looks again when the limits of its group
 * change, when its backend leaves the group, loses the medium or is freed, and when a clock that stands is stepped.  Who causes that
 * wakes all sleepers, in the order in which they came; changes that an object's property makes are seen after NAP_NS.
 */
#include "block/backend-limits.h"
#include "block/throttle-objects.h"
#include "qapi-types.h"
#include "util/loop.h"
#include "util/virtual-clock.h"
#include <string.h>

#define NAP_NS        INT64_C(20000000)
#define NAP_STILL_NS  INT64_C(200000000) /* under a clock that stands */
#define SETTLE_NS     INT64_C(1000000000)
#define SETTLE_NAP_NS INT64_C(200000)

/* A request that sleeps. */
typedef struct Sleeper {
    Coroutine *co; /* NULL: has been woken */
    Timer timer;
    int64_t turn;
} Sleeper;

static GPtrArray *sleepers; /* Sleeper *, on their coroutines' stacks; oldest first */
static unsigned let_go;     /* requests that have slept, and have not ended */

static void wake(void *opaque)
{
    Sleeper *s = opaque;

    if (s->co) {
        co_wake(g_steal_pointer(&s->co));
    }
}

static void wake_all(void)
{
    for (guint i = 0; sleepers && i < sleepers->len; i++) {
        wake(g_ptr_array_index(sleepers, i));
    }
}

/* Until the turn, or somebody wakes it. */
static void coroutine_fn nap(Sleeper *s)
{
    bool still = virtual_clock_stands();
    int64_t ns = still ? NAP_STILL_NS : MIN(s->turn - virtual_clock_ns(), NAP_NS);

    s->co = co_self();
    timer_init(&s->timer, wake, s);
    timer_arm(&s->timer, clock_ns() + ns);
    co_yield();
    timer_cancel(&s->timer);
}

static bool is_limited(const Medium *m)
{
    const Backend *b = medium_backend(m);

    return backend_limits((Backend *)b)->group && medium_is_in(m) && !backend_is_gone(b);
}

void coroutine_fn medium_throttle_begin(Medium *m, bool is_write, uint64_t bytes)
{
    const BackendLimits *l = backend_limits(medium_backend(m));
    ThrottleGroup *accounted = NULL; /* compared only */
    unsigned generation = 0;
    Sleeper s = {0};

    let_go++;
    if (!is_limited(m)) {
        return;
    }
    if (!sleepers) {
        sleepers = g_ptr_array_new();
    }
    g_ptr_array_add(sleepers, &s);
    while (is_limited(m)) {
        int64_t now = virtual_clock_ns();

        if (accounted != l->group || generation != throttle_group_generation(l->group)) {
            accounted = l->group;
            generation = throttle_group_generation(l->group);
            s.turn = now + throttle_group_account(l->group, is_write, bytes, now);
        }
        if (now >= s.turn) {
            break;
        }
        let_go--;
        nap(&s);
        let_go++;
    }
    g_ptr_array_remove(sleepers, &s);
}

void medium_throttle_end(void)
{
    let_go--;
}

static bool any_due(void)
{
    int64_t now = virtual_clock_ns();

    for (guint i = 0; sleepers && i < sleepers->len; i++) {
        if (((const Sleeper *)g_ptr_array_index(sleepers, i))->turn <= now) {
            return true;
        }
    }
    return false;
}

void coroutine_fn backend_limits_advance(void)
{
    int64_t deadline = clock_ns() + SETTLE_NS;

    wake_all();
    co_reschedule();
    while ((any_due() || let_go > 0) && clock_ns() < deadline) {
        co_sleep_ns(SETTLE_NAP_NS);
    }
}

static bool any_limit(const ThrottleConfig *c)
{
    for (int k = 0; k < THROTTLE_KINDS; k++) {
        if (c->limit[k].rate) {
            return true;
        }
    }
    return false;
}

ThrottleGroup *backend_group_lookup(const char *name)
{
    g_autoptr(GPtrArray) backends = backend_list();

    for (guint i = 0; i < backends->len; i++) {
        const BackendLimits *l = backend_limits(g_ptr_array_index(backends, i));

        if (l->name && strcmp(l->name, name) == 0) {
            return throttle_group_ref(l->group);
        }
    }
    return NULL;
}

void backend_limits_clear(BackendLimits *l)
{
    g_clear_pointer(&l->name, g_free);
    g_clear_pointer(&l->group, throttle_group_unref);
    wake_all();
}

static void join(BackendLimits *l, const char *name)
{
    ThrottleGroup *g = throttle_group_lookup(name); /* of backends, too */
    char *own = g_strdup(name);

    g_free(l->name);
    if (l->group) {
        throttle_group_unref(l->group);
    }
    l->name = own;
    l->group = g ? g : throttle_group_new();
}

bool coroutine_fn backend_set_limits(Backend *b, const ThrottleConfig *config, const char *group,
                                     const char *fallback, Error **errp)
{
    BackendLimits *l = backend_limits(b);

    if (!throttle_config_check(config, errp)) {
        return false;
    }
    if (!any_limit(config)) {
        bool had = l->group;

        backend_limits_clear(l);
        if (had) {
            backend_limits_advance();
        }
        return true;
    }
    if (!l->group || (group && strcmp(group, l->name) != 0)) {
        join(l, group ? group : fallback);
    }
    throttle_group_set(l->group, config);
    wake_all();
    return true;
}

void backend_limits_info(const Backend *b, BlockDeviceInfo *info)
{
    const BackendLimits *l = backend_limits((Backend *)b);
    ThrottleConfig c;

    if (!l->group) {
        return;
    }
    throttle_group_get(l->group, &c);

#define TELL(kind, name)                                                                           \
    info->name = c.limit[kind].rate;                                                               \
    info->has_##name##_max = info->has_##name##_max_length = c.limit[kind].burst;                  \
    info->name##_max = c.limit[kind].burst;                                                        \
    info->name##_max_length = c.limit[kind].length

    TELL(THROTTLE_BPS_TOTAL, bps);
    TELL(THROTTLE_BPS_READ, bps_rd);
    TELL(THROTTLE_BPS_WRITE, bps_wr);
    TELL(THROTTLE_IOPS_TOTAL, iops);
    TELL(THROTTLE_IOPS_READ, iops_rd);
    TELL(THROTTLE_IOPS_WRITE, iops_wr);
#undef TELL
    info->has_iops_size = c.iops_size;
    info->iops_size = c.iops_size;
    info->group = g_strdup(l->name);
}

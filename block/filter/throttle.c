/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The filter `throttle`: requests wait for their turn under the limits of a throttle-group object, which other nodes and drives may share.
 *
 * A request is accounted when it comes and sleeps until its time has come; so it keeps its place.  Limits that change meanwhile count at once:
 * it looks again after NAP_NS at the latest.  Whoever needs the node without requests (reopening, deletion, the end of a cut) does not
 * wait for a limit: requests are let through then.  Flushes cost nothing.
 */
#include "block/throttle.h"
#include "block/throttle-objects.h"
#include "filter.h"
#include "qapi-types.h"

/* Longest sleep before limits are looked at again, ns. */
#define NAP_NS INT64_C(20000000)

typedef struct ThrottleState {
    ThrottleGroup *group; /* changes only when no request is in the node */
} ThrottleState;

static ThrottleGroup *find_group(const Node *n, const char *id, Error **errp)
{
    ThrottleGroup *g = throttle_group_lookup(id);

    if (!g) {
        error_set(errp, ERROR_NOT_FOUND, n->name, "open", "Throttle group '%s' does not exist", id);
    }
    return g;
}

static bool coroutine_fn throttle_open(Node *n, const BlockdevOptions *options, Error **errp)
{
    const BlockdevOptionsThrottle *o = &options->u.throttle;
    ThrottleState *s = n->state;
    ThrottleGroup *g;

    if (!filter_open_file(n, o->file, errp)) {
        return false;
    }
    /* Looked up last: nothing is suspended between here and the end. */
    g = find_group(n, o->throttle_group, errp);
    s->group = g;
    return g;
}

static void coroutine_fn throttle_close(Node *n)
{
    ThrottleState *s = n->state;

    g_clear_pointer(&s->group, throttle_group_unref);
}

/* ---- reopening ---- */

static const char *const reopen_options[] = {"throttle-group", NULL};

static bool coroutine_fn throttle_reopen_prepare(Node *n, Reopen *r, Error **errp)
{
    const ThrottleState *s = n->state;
    ThrottleGroup *g = find_group(n, r->options->u.throttle.throttle_group, errp);

    if (!g || !filter_reopen_prepare(n, r, errp)) {
        g_clear_pointer(&g, throttle_group_unref);
        return false;
    }
    r->state = g;
    r->hold |= g != s->group;
    return true;
}

static void coroutine_fn throttle_reopen_switch(Node *n, Reopen *r)
{
    ThrottleState *s = n->state;
    ThrottleGroup *old = s->group;

    filter_reopen_switch(n, r);
    if (r->state != old) {
        s->group = r->state;
        r->state = old; /* dropped at the end */
    }
}

static void coroutine_fn throttle_reopen_end(Node *n, Reopen *r, bool done)
{
    (void)n;
    (void)done;
    g_clear_pointer((ThrottleGroup **)&r->state, throttle_group_unref);
}

/* ---- requests ---- */

static bool is_wanted_idle(const Node *n)
{
    return atomic_load_explicit(&((Node *)n)->gate, memory_order_relaxed) ||
           atomic_load_explicit(&((Node *)n)->idle_waiters, memory_order_relaxed) ||
           atomic_load_explicit(&((Node *)n)->write_waiters, memory_order_relaxed);
}

static void coroutine_fn wait_turn(const Node *n, bool is_write, uint64_t bytes)
{
    ThrottleGroup *g = ((const ThrottleState *)n->state)->group;
    unsigned generation = throttle_group_generation(g);
    int64_t now = clock_ns();
    int64_t turn = now + throttle_group_account(g, is_write, bytes, now);

    while (now < turn && !is_wanted_idle(n)) {
        co_sleep_ns(MIN(turn - now, NAP_NS));
        now = clock_ns();
        if (throttle_group_generation(g) != generation) {
            generation = throttle_group_generation(g);
            turn = now + throttle_group_account(g, is_write, bytes, now);
        }
    }
}

static int coroutine_fn throttle_preadv(Node *n, Request *r, GuestOffset offset,
                                        const IoVector *iov, unsigned flags)
{
    wait_turn(n, false, iov->size);
    return filter_preadv(n, r, offset, iov, flags);
}

static int coroutine_fn throttle_pwritev(Node *n, Request *r, GuestOffset offset,
                                         const IoVector *iov, unsigned flags)
{
    wait_turn(n, true, iov->size);
    return filter_pwritev(n, r, offset, iov, flags);
}

static int coroutine_fn throttle_pwrite_zeroes(Node *n, Request *r, GuestOffset offset,
                                               uint64_t bytes, unsigned flags)
{
    wait_turn(n, true, bytes);
    return filter_pwrite_zeroes(n, r, offset, bytes, flags);
}

static int coroutine_fn throttle_pdiscard(Node *n, Request *r, GuestOffset offset, uint64_t bytes)
{
    wait_turn(n, true, bytes);
    return filter_pdiscard(n, r, offset, bytes);
}

const BlockDriver driver_throttle = {
    .name = "throttle",
    .is_filter = true,
    .state_size = sizeof(ThrottleState),
    .open = throttle_open,
    .close = throttle_close,
    .reopen_options = reopen_options,
    .reopen_prepare = throttle_reopen_prepare,
    .reopen_switch = throttle_reopen_switch,
    .reopen_end = throttle_reopen_end,
    .child_perm = filter_child_perm,
    .child_resized = filter_child_resized,
    .preadv = throttle_preadv,
    .pwritev = throttle_pwritev,
    .compresses = true,
    .has_fua = true, /* passed on */
    .pwrite_zeroes = throttle_pwrite_zeroes,
    .copy_up = filter_copy_up,
    .pdiscard = throttle_pdiscard,
    .truncate = filter_truncate,
};

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The moment of internal snapshots.
 *
 * An overlay takes what is written after the cut; an internal snapshot stays in the file that goes on being written to.  So between the instant in
 * which its state is taken and the cut no write may get in: writes of these disks, and of no others, wait (block/gate.c), at most HOLD_NS.  If
 * that is not enough, they go on, and it is tried again.
 *
 *   hold      of all internal snapshots of the group; a write that was let in before is in the snapshot
 *   still     those writes have ended; what was written last is counted
 *   flip      the state is taken: memory only
 *   store     the snapshot is durable in its file
 *   record, cut
 *   let go
 *
 * Why it is one instant with the other disks of the group: a write that is in a snapshot was let in before the hold, so it began before the cut.
 * One that is not was let in after the cut.  So what holds for overlays (change.c) holds for all: whatever a write depends on is on its side.
 *
 * In a transaction that does nothing else, no other disk is cut: writes are let go right after the flip, and the rest happens behind them.  If it fails, the
 * snapshots are removed again, which nobody notices.
 *
 * With overlays writes wait until the cut, since a group that is not recorded leaves none.  A hold that ends between record and cut takes the record
 * back first of all.  (A crash in just that moment finds the group committed, though the old images of overlays have a few writes more
 * than their instant allows: after a journal that took longer than the hold, and for the time of one more write to it.)
 */
#include "action.h"
#include "journal-internal.h"
#include "util/log.h"

#define HOLD_NS      INT64_C(50000000)
#define TRIES_NS     INT64_C(10000000000)
#define FIRST_NAP_NS INT64_C(5000000)
#define LAST_NAP_NS  INT64_C(400000000)

typedef struct Part {
    Action *action;
    CoGroup *group;
    int64_t deadline;
    FreezeResult coroutine_fn (*fn)(Action *a, int64_t deadline_ns, Error **errp);
    FreezeResult result;
    Error *err;
} Part;

static GPtrArray *freezers(const Transaction *t)
{
    GPtrArray *list = g_ptr_array_new();

    for (guint i = 0; i < t->actions->len; i++) {
        Action *a = g_ptr_array_index(t->actions, i);

        if (a->ops->freeze) {
            g_ptr_array_add(list, a);
        }
    }
    return list;
}

bool transaction_freezes(const Transaction *t)
{
    g_autoptr(GPtrArray) list = freezers(t);

    return list->len > 0;
}

static void coroutine_fn run_part(void *opaque)
{
    Part *p = opaque;

    p->result = p->fn(p->action, p->deadline, &p->err);
    co_group_done(p->group);
}

/* fn of all, side by side; the first failure, else whether one is late. */
static FreezeResult coroutine_fn for_all(GPtrArray *list,
                                         FreezeResult coroutine_fn (*fn)(Action *, int64_t,
                                                                         Error **),
                                         int64_t deadline, Error **errp)
{
    g_autofree Part *parts = g_new0(Part, list->len);
    FreezeResult result = FREEZE_DONE;
    CoGroup group;

    co_group_init(&group);
    co_group_add(&group, list->len);
    for (guint i = 0; i < list->len; i++) {
        parts[i] = (Part){
            .action = g_ptr_array_index(list, i), .group = &group, .deadline = deadline, .fn = fn};
        co_start(run_part, &parts[i]);
    }
    co_group_wait(&group);
    co_group_destroy(&group);
    for (guint i = 0; i < list->len; i++) {
        if (parts[i].result == FREEZE_FAILED && result != FREEZE_FAILED) {
            error_move(errp, &parts[i].err);
            result = FREEZE_FAILED;
        } else if (parts[i].result == FREEZE_LATE && result == FREEZE_DONE) {
            result = FREEZE_LATE;
        }
        error_free(parts[i].err);
    }
    return result;
}

static bool claim_all(GPtrArray *list)
{
    for (guint i = 0; i < list->len; i++) {
        Action *a = g_ptr_array_index(list, i);

        if (!a->ops->freeze->claim(a)) {
            return false; /* those that are claimed are let go by who called */
        }
    }
    return true;
}

static void let_all_go(GPtrArray *list)
{
    for (guint i = 0; i < list->len; i++) {
        Action *a = g_ptr_array_index(list, i);

        a->ops->freeze->let_go(a);
    }
}

static FreezeResult coroutine_fn part_still(Action *a, int64_t deadline, Error **errp)
{
    return a->ops->freeze->still(a, deadline, errp);
}

static FreezeResult coroutine_fn part_store(Action *a, int64_t deadline, Error **errp)
{
    return a->ops->freeze->store(a, deadline, errp);
}

/* Behind the hold, if the group has nothing else to cut. */
static FreezeResult coroutine_fn store_and_record(Transaction *t, GPtrArray *list, int64_t deadline,
                                                  Error **errp)
{
    FreezeResult result = for_all(list, part_store, deadline, errp);

    if (result == FREEZE_DONE && !transaction_record(t, errp)) {
        result = FREEZE_FAILED;
    }
    return result;
}

/* With overlays: cut while all is claimed. */
static FreezeResult coroutine_fn finish_held(Transaction *t, GPtrArray *list, int64_t deadline,
                                             Error **errp)
{
    FreezeResult result = for_all(list, part_store, deadline, errp);

    if (result != FREEZE_DONE) {
        return result;
    }
    if (clock_ns() >= deadline) {
        return FREEZE_LATE;
    }
    if (!transaction_record(t, errp)) {
        return FREEZE_FAILED;
    }
    if (claim_all(list)) {
        transaction_cut_now(t);
        return FREEZE_DONE;
    }
    let_all_go(list);
    t->recorded = false;
    return journal_unrecord(t->group, errp) ? FREEZE_LATE : FREEZE_FAILED;
}

static FreezeResult coroutine_fn attempt(Transaction *t, GPtrArray *list, Error **errp)
{
    int64_t deadline = clock_ns() + HOLD_NS;
    bool alone = list->len == t->actions->len;
    FreezeResult result;

    for (guint i = 0; i < list->len; i++) {
        Action *a = g_ptr_array_index(list, i);

        a->ops->freeze->hold(a, deadline);
    }
    result = for_all(list, part_still, deadline, errp);
    if (result == FREEZE_DONE && !claim_all(list)) {
        result = FREEZE_LATE;
    }
    if (result != FREEZE_DONE) {
        let_all_go(list);
        return result;
    }
    for (guint i = 0; i < list->len; i++) {
        Action *a = g_ptr_array_index(list, i);

        a->ops->freeze->flip(a);
    }
    t->flipped = g_get_real_time() * 1000;
    if (alone) {
        let_all_go(list);
        result = store_and_record(t, list, deadline, errp);
        if (result == FREEZE_DONE) {
            transaction_cut_now(t);
        }
        return result;
    }
    for (guint i = 0; i < list->len; i++) {
        Action *a = g_ptr_array_index(list, i);

        a->ops->freeze->unclaim(a);
    }
    result = finish_held(t, list, deadline, errp);
    let_all_go(list);
    return result;
}

static bool coroutine_fn again(GPtrArray *list, Error **errp)
{
    for (guint i = 0; i < list->len; i++) {
        Action *a = g_ptr_array_index(list, i);

        if (!a->ops->freeze->again(a, errp)) {
            return false;
        }
    }
    return true;
}

bool coroutine_fn transaction_freeze(Transaction *t, Error **errp)
{
    g_autoptr(GPtrArray) list = freezers(t);
    int64_t give_up = clock_ns() + TRIES_NS, nap = FIRST_NAP_NS;

    for (;;) {
        FreezeResult result = attempt(t, list, errp);

        if (result != FREEZE_LATE) {
            return result == FREEZE_DONE;
        }
        log_info("snapshot group %s: requests or storage took longer than %d ms; writes go on, and "
                 "it is tried again",
                 t->group->id, (int)(HOLD_NS / 1000000));
        if (clock_ns() >= give_up) {
            error_set(errp, ERROR_TIMEOUT, NULL, "snapshot",
                      "Internal snapshots could not be taken within %d ms",
                      (int)(HOLD_NS / 1000000));
            error_hint(errp,
                       "writes to a disk do not end, or storage is too slow; it was tried for "
                       "%d s",
                       (int)(TRIES_NS / 1000000000));
            return false;
        }
        co_sleep_ns(nap);
        nap = MIN(2 * nap, LAST_NAP_NS);
        if (!again(list, errp)) {
            return false;
        }
    }
}

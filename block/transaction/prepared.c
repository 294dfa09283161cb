/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Prepared transactions: kept between prepare and the decision.
 *
 *   PREPARED --hold--> HELD --commit--> settling      (record, then the hold; the commit is the cut alone)
 *      | `--commit--> settling                        (record, cut)
 *      `-- abort, deadline --> undone <-- abort, deadline -- HELD
 *
 * One decision at a time: `ending` is set while one is being carried out that suspends, and a second one is refused or, for the same
 * decision again, waits for the outcome.  The deadline of a hold releases I/O in the I/O threads (block/hold.c); the timer here
 * tidies up behind it.  After a deadline nothing can be committed any more.
 *
 * What is decided stays known by its name (group.h): the same request again has the same answer.
 */
#include "action.h"
#include "journal-internal.h"
#include "qapi-events.h"
#include "util/log.h"
#include <string.h>

/* How long a repeated request waits for the first one. */
#define SAME_REQUEST_TIMEOUT_NS (60 * INT64_C(1000000000))

static Transaction *find(const char *id)
{
    GPtrArray *all = transactions_under_way();

    for (guint i = 0; i < all->len; i++) {
        Transaction *t = g_ptr_array_index(all, i);

        if (strcmp(t->group->id, id) == 0) {
            return t;
        }
    }
    return NULL;
}

static bool refuse_decided(const Group *g, Error **errp)
{
    error_set(errp, ERROR_INVALID, g->id, "transaction", "Transaction '%s' %s", g->id,
              g->state == SNAPSHOT_GROUP_STATE_ABORTED   ? "was aborted"
              : g->state == SNAPSHOT_GROUP_STATE_EXPIRED ? "has expired"
                                                         : "is committed already");
    return false;
}

static bool is_committed(const Group *g)
{
    return g->state != SNAPSHOT_GROUP_STATE_ABORTED && g->state != SNAPSHOT_GROUP_STATE_EXPIRED;
}

bool coroutine_fn transaction_claim(const char *id, const char *digest, bool *ret_done,
                                    Transaction **ret_kept, Error **errp)
{
    int64_t deadline = clock_ns() + SAME_REQUEST_TIMEOUT_NS;
    const Transaction *t;
    const Group *g;

    *ret_done = false;
    *ret_kept = NULL;
    if (!group_id_check(id, errp)) {
        return false;
    }
    while ((t = find(id))) {
        if (g_strcmp0(t->digest, digest) != 0) {
            error_set(errp, ERROR_EXISTS, id, "transaction",
                      "Transaction '%s' exists already, with other arguments", id);
            return false;
        }
        if (t->kept && !t->ending) {
            *ret_kept = (Transaction *)t;
            return true;
        }
        if (t->group_registered) {
            break;
        }
        if (clock_ns() >= deadline) {
            error_set(errp, ERROR_BUSY, id, "transaction", "Transaction '%s' is busy", id);
            return false;
        }
        transaction_wait_other(deadline);
    }
    g = group_find(id);
    if (!g) {
        return true;
    }
    if (!is_committed(g)) {
        return refuse_decided(g, errp);
    }
    if (!g->digest || g_strcmp0(g->digest, digest) != 0) {
        error_set(errp, ERROR_EXISTS, id, "transaction", "Snapshot group '%s' exists already", id);
        return false;
    }
    *ret_done = true;
    return true;
}

/* ---- decisions ---- */

/* Undoes t, which was prepared or held, and frees it. */
static void coroutine_fn give_up(Transaction *t, SnapshotGroupState state)
{
    Group *g = t->group;

    timer_cancel(&t->expiry);
    t->ending = true;
    transaction_set_state(t, TRANSACTION_STATE_ABORTING);
    if (t->armed) {
        change_disarm(t->change); /* first of all, writes go on */
        t->armed = false;
    }
    g->state = state;
    g_ptr_array_set_size(g->members, 0);
    journal_undoing(g);
    transaction_undo(t);
    journal_undone(g);
    g->durable = journal_active();
    t->group_registered = true;
    group_register(g);
    transaction_end(t); /* wakes who waits to decide */
    transaction_free(t);
}

static void coroutine_fn expire(void *opaque)
{
    Transaction *t = opaque;
    bool held = t->state == TRANSACTION_STATE_HELD;

    log_warn("transaction %s has expired; %sit is undone", t->group->id,
             held ? "writes to its disks go on, and " : "");
    qapi_event_send_transaction_expired(t->group->id, held);
    give_up(t, SNAPSHOT_GROUP_STATE_EXPIRED);
}

static void deadline_passed(void *opaque)
{
    Transaction *t = opaque;

    if (!t->ending) {
        t->ending = true;
        co_spawn(loop_control(), expire, t);
    }
}

static void set_deadline(Transaction *t, int64_t timeout_ns)
{
    t->deadline = clock_ns() + timeout_ns;
    timer_arm(&t->expiry, t->deadline);
}

/* The kept transaction of that name, for a decision that suspends; NULL: see errp, or *ret_group, which was decided.  While somebody
 * else decides, waits (bounded) for how that ends. */
static Transaction *coroutine_fn begin_decision(const char *id, const Group **ret_group,
                                                Error **errp)
{
    int64_t deadline = clock_ns() + SAME_REQUEST_TIMEOUT_NS;
    Transaction *t;

    while ((t = find(id)) && t->kept && t->ending && !t->group_registered &&
           clock_ns() < deadline) {
        transaction_wait_other(deadline);
    }
    *ret_group = NULL;
    if (t && t->kept && !t->ending) {
        t->ending = true;
        timer_cancel(&t->expiry);
        return t;
    }
    if (t && !t->group_registered) {
        error_set(errp, ERROR_BUSY, id, "transaction",
                  t->kept ? "Transaction '%s' is being decided"
                          : "Transaction '%s' is not prepared yet",
                  id);
        return NULL;
    }
    *ret_group = group_find(id);
    if (!*ret_group) {
        error_set(errp, ERROR_NOT_FOUND, id, "transaction", "Transaction '%s' not found", id);
    }
    return NULL;
}

static bool check_can_hold(const Transaction *t, Error **errp)
{
    if (transaction_freezes(t)) {
        error_set(errp, ERROR_UNSUPPORTED, t->group->id, "transaction",
                  "Transactions with internal snapshots cannot be held");
        return false;
    }
    return true;
}

/* Record, arm, hold.  t->ending is set.  On failure t is gone. */
static bool coroutine_fn hold(Transaction *t, int64_t timeout_ns, Error **errp)
{
    if (!check_can_hold(t, errp) || !transaction_record(t, errp)) {
        give_up(t, SNAPSHOT_GROUP_STATE_ABORTED);
        return false;
    }
    change_arm(t->change);
    t->armed = true;
    t->deadline = clock_ns() + timeout_ns;
    change_hold(t->change, t->deadline);
    timer_arm(&t->expiry, t->deadline);
    transaction_set_state(t, TRANSACTION_STATE_HELD);
    t->ending = false;
    return true;
}

static bool coroutine_fn note_files(Transaction *t, Error **errp)
{
    g_autoptr(GPtrArray) files = g_ptr_array_new();

    for (guint i = 0; i < t->actions->len; i++) {
        Action *a = g_ptr_array_index(t->actions, i);

        if (a->member) {
            g_ptr_array_add(files, a->ops->file ? a->ops->file(a) : NULL);
        }
    }
    return journal_files(t->group, files, errp);
}

bool coroutine_fn transaction_keep(Transaction *t, int64_t timeout_ns, bool do_hold, Error **errp)
{
    if (!transaction_prepare(t, errp)) {
        transaction_free(t);
        return false;
    }
    t->ending = true;
    if (!note_files(t, errp)) {
        transaction_set_state(t, TRANSACTION_STATE_ABORTING);
        transaction_undo(t);
        journal_forget(t->group);
        transaction_end(t);
        transaction_free(t);
        return false;
    }
    t->kept = true;
    timer_init(&t->expiry, deadline_passed, t);
    if (do_hold) {
        return hold(t, timeout_ns, errp);
    }
    set_deadline(t, timeout_ns);
    t->ending = false;
    transaction_wake_waiters();
    return true;
}

bool coroutine_fn transaction_hold(const char *id, int64_t timeout_ns, TransactionInfo **ret_info,
                                   Error **errp)
{
    const Group *decided;
    Transaction *t = begin_decision(id, &decided, errp);

    if (!t) {
        return decided ? refuse_decided(decided, errp) : false;
    }
    if (t->state == TRANSACTION_STATE_HELD) {
        /* The same again; the deadline stays, or holds could be renewed without end. */
        timer_arm(&t->expiry, t->deadline);
        t->ending = false;
    } else if (!hold(t, timeout_ns, errp)) {
        return false;
    }
    *ret_info = transaction_info(t);
    return true;
}

bool coroutine_fn transaction_commit(const char *id, Error **errp)
{
    const Group *decided;
    Transaction *t = begin_decision(id, &decided, errp);

    if (!t) {
        return decided && (is_committed(decided) || refuse_decided(decided, errp));
    }
    if (t->state == TRANSACTION_STATE_PREPARED) {
        transaction_set_state(t, TRANSACTION_STATE_COMMITTING);
        if (!transaction_decide(t, errp)) {
            give_up(t, SNAPSHOT_GROUP_STATE_ABORTED);
            return false;
        }
    } else if (!transaction_cut(t)) {
        error_set(errp, ERROR_TIMEOUT, id, "transaction", "Transaction '%s' has expired", id);
        expire(t);
        return false;
    }
    transaction_free(t);
    return true;
}

bool coroutine_fn transaction_abort(const char *id, Error **errp)
{
    const Group *decided;
    Transaction *t = begin_decision(id, &decided, errp);

    if (!t) {
        return decided && (!is_committed(decided) || refuse_decided(decided, errp));
    }
    give_up(t, SNAPSHOT_GROUP_STATE_ABORTED);
    return true;
}

void coroutine_fn transaction_abort_all(void)
{
    GPtrArray *all = transactions_under_way();

    for (guint i = 0; i < all->len;) {
        Transaction *t = g_ptr_array_index(all, i);

        if (t->kept && !t->ending) {
            log_warn("transaction %s was neither committed nor aborted; it is undone",
                     t->group->id);
            give_up(t, SNAPSHOT_GROUP_STATE_ABORTED);
            i = 0; /* the list may be another one */
        } else {
            i++;
        }
    }
}

/* ---- queries ---- */

TransactionInfo *transaction_info(const Transaction *t)
{
    TransactionInfo *info = g_new0(TransactionInfo, 1);

    info->id = g_strdup(t->group->id);
    info->state = t->state;
    info->actions = t->actions->len;
    for (guint i = t->nodes->len; i-- > 0;) {
        strList *l = g_new0(strList, 1);

        l->value = g_strdup(((Node *)g_ptr_array_index(t->nodes, i))->name);
        l->next = info->nodes;
        info->nodes = l;
    }
    if (t->state == TRANSACTION_STATE_PREPARED || t->state == TRANSACTION_STATE_HELD) {
        info->has_remaining = t->kept;
        info->remaining = t->kept ? MAX(0, (t->deadline - clock_ns()) / 1000000) : 0;
    }
    return info;
}

TransactionInfo *transaction_info_of_committed(const char *id)
{
    TransactionInfo *info = g_new0(TransactionInfo, 1);

    info->id = g_strdup(id);
    info->state = TRANSACTION_STATE_SETTLING;
    info->actions = group_find(id)->members->len;
    return info;
}

TransactionInfoList *transaction_query(void)
{
    GPtrArray *all = transactions_under_way();
    TransactionInfoList *list = NULL;

    for (guint i = all->len; i-- > 0;) {
        TransactionInfoList *l = g_new0(TransactionInfoList, 1);

        l->value = transaction_info(g_ptr_array_index(all, i));
        l->next = list;
        list = l;
    }
    return list;
}

SnapshotGroupInfoList *snapshot_group_query(const char *id)
{
    return group_query(id);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The action `blockdev-snapshot-internal-sync`: the image file keeps the disk's state.
 *
 * What a snapshot needs is prepared while requests run (block/internal-snapshot.h); then freeze.c lets the disk stand for the moment of the cut,
 * and stores the snapshot.  undo removes it, whatever has been reached.
 */
#include "action.h"
#include "journal-internal.h"
#include "snapshot-common.h"
#include "../gate.h"
#include "block/driver.h"
#include "block/internal-snapshot.h"
#include "qapi-types.h"
#include <errno.h>
#include <string.h>

typedef struct InternalAction {
    Action base;
    char *device, *name;
    PlannedNode *top; /* what the user named */
    Node *node;       /* that keeps the snapshots; reference */
    /* Several of one image are one thing to do, and the first action does it. */
    struct InternalAction *first; /* of the same node; itself if it is */
    GPtrArray *names;             /* the first one's: char * of all of them, not owned */
    InternalSnapshot *made;       /* the first one's, from prepare on; NULL: none */
    bool flipped;
} InternalAction;

static const InternalSnapshotOps *ops_of(const InternalAction *ia)
{
    return ia->node->driver->snapshots;
}

/* ---- plan ---- */

static bool check_name(const InternalAction *ia, Error **errp)
{
    SnapshotInfoList *list;
    bool exists = false;

    if (!*ia->name) {
        error_set(errp, ERROR_INVALID, ia->device, "snapshot", "Name is empty");
        return false;
    }
    if (strlen(ia->name) > INTERNAL_SNAPSHOT_NAME_MAX) {
        error_set(errp, ERROR_LIMIT, ia->device, "snapshot",
                  "Snapshot name is too long: at most %u bytes", INTERNAL_SNAPSHOT_NAME_MAX);
        return false;
    }
    if (ops_of(ia)->check(ia->node) < 0) {
        error_set_errno(errp, -ops_of(ia)->check(ia->node), ia->device, "snapshot",
                        "Failed to get a snapshot list");
        return false;
    }
    list = ops_of(ia)->list(ia->node);
    for (const SnapshotInfoList *l = list; l; l = l->next) {
        exists |= strcmp(l->value->name, ia->name) == 0;
    }
    qapi_free_SnapshotInfoList(list);
    for (guint i = 0; i < ia->first->names->len; i++) {
        exists |= strcmp(g_ptr_array_index(ia->first->names, i), ia->name) == 0;
    }
    if (exists) {
        error_set(errp, ERROR_EXISTS, ia->device, "snapshot",
                  "Snapshot with name '%s' already exists on device '%s'", ia->name, ia->device);
    }
    return !exists;
}

static bool plan_again(InternalAction *ia, PlannedGraph *g, Error **errp)
{
    PlannedNode *top = planned_lookup(g, ia->device, ia->device, errp), *keeper;
    Node *node;

    if (!top) {
        return false;
    }
    ia->top = top;
    if (!top->real) {
        error_set(errp, ERROR_BUSY, top->name, "snapshot",
                  "Node '%s' is busy: an earlier action of the transaction makes it", top->name);
        return false;
    }
    if (top->overlay || !internal_snapshot_check_root(top->real, errp)) {
        if (!*errp) {
            error_set(errp, ERROR_BUSY, top->name, "snapshot", "Need a root block node");
        }
        return false;
    }
    if (atomic_load(&top->real->read_only)) {
        error_set(errp, ERROR_PERMISSION, ia->device, "snapshot", "Device '%s' is read only",
                  ia->device);
        return false;
    }
    node = internal_snapshot_node(top->real);
    if (!node) {
        error_set(errp, ERROR_UNSUPPORTED, ia->device, "snapshot",
                  "Block format '%s' used by device '%s' does not support internal snapshots",
                  top->real->driver->name, ia->device);
        return false;
    }
    keeper = planned_lookup(g, NULL, node->name, errp);
    if (!keeper) {
        return false;
    }
    if (!keeper->snapshots) {
        keeper->snapshots = &ia->base;
        g_ptr_array_set_size(ia->names, 0);
    }
    ia->first = (InternalAction *)keeper->snapshots;
    node_ref(node);
    g_clear_pointer(&ia->node, node_unref);
    ia->node = node;
    if (!check_name(ia, errp)) {
        return false;
    }
    g_ptr_array_add(ia->first->names, ia->name);
    return true;
}

static bool plan(Action *a, PlannedGraph *g, Error **errp)
{
    return plan_again((InternalAction *)a, g, errp);
}

static GroupMember *member(Action *a, Group *g)
{
    InternalAction *ia = (InternalAction *)a;
    char *file = ia->node->filename ? snapshot_backing_name(ia->node) : NULL;
    GroupMember *m = group_add_member(g, g_strdup(ia->node->name), file, NULL, NULL);

    m->snapshot = g_strdup(ia->name);
    return m;
}

/* ---- prepare ---- */

static bool coroutine_fn failed(const InternalAction *ia, int ret, Error **errp)
{
    error_set_errno(errp, -ret, ia->device, "snapshot",
                    "Failed to create snapshot '%s' on device '%s'", ia->name, ia->device);
    return false;
}

static bool coroutine_fn prepare(Action *a, Error **errp)
{
    InternalAction *ia = (InternalAction *)a;
    int ret;

    if (ia->first != ia) {
        return true;
    }
    ia->flipped = false;
    ret = ops_of(ia)->begin(ia->node, ia->names, &ia->made);
    return ret == 0 || failed(ia, ret, errp);
}

static void coroutine_fn undo(Action *a)
{
    InternalAction *ia = (InternalAction *)a;

    if (ia->made) {
        ops_of(ia)->end(ia->made, false);
        ia->made = NULL;
    }
}

/* ---- the moment ---- */

static void hold(Action *a, int64_t deadline_ns)
{
    const InternalAction *ia = (InternalAction *)a;

    if (ia->first == ia) {
        atomic_store_explicit(&ia->node->longest_wait, 0, memory_order_relaxed);
        gate_close_writes(ia->node, deadline_ns);
    }
}

static FreezeResult coroutine_fn still(Action *a, int64_t deadline_ns, Error **errp)
{
    const InternalAction *ia = (InternalAction *)a;
    int ret;

    if (ia->first != ia) {
        return FREEZE_DONE;
    }
    if (!gate_wait_writes(ia->node)) {
        return FREEZE_LATE;
    }
    ret = ops_of(ia)->catch_up(ia->made, deadline_ns);
    if (ret == -ETIMEDOUT) {
        return FREEZE_LATE;
    }
    return ret == 0 || failed(ia, ret, errp) ? FREEZE_DONE : FREEZE_FAILED;
}

static bool claim(Action *a)
{
    const InternalAction *ia = (InternalAction *)a;

    return ia->first != ia || gate_claim(ia->node);
}

static void unclaim(Action *a)
{
    gate_unclaim(((InternalAction *)a)->node);
}

static void flip(Action *a)
{
    InternalAction *ia = (InternalAction *)a;

    if (ia->first == ia) {
        ops_of(ia)->flip(ia->made);
        ia->flipped = true;
    }
}

static void let_go(Action *a)
{
    gate_open(((InternalAction *)a)->node);
}

static FreezeResult coroutine_fn store(Action *a, int64_t deadline_ns, Error **errp)
{
    InternalAction *ia = (InternalAction *)a;
    int ret = ia->first == ia ? ops_of(ia)->store(ia->made) : 0;

    (void)deadline_ns;
    return ret == 0 || failed(ia, ret, errp) ? FREEZE_DONE : FREEZE_FAILED;
}

static bool coroutine_fn again(Action *a, Error **errp)
{
    InternalAction *ia = (InternalAction *)a;

    if (!ia->flipped) {
        return true;
    }
    undo(a);
    return prepare(a, errp);
}

/* ---- afterwards ---- */

static void coroutine_fn settled(Action *a)
{
    InternalAction *ia = (InternalAction *)a;
    GroupMember *m = a->member;

    if (ia->made) {
        ops_of(ia)->end(ia->made, true);
        ia->made = NULL;
    }
    m->state = SNAPSHOT_GROUP_STATE_SETTLED;
    m->longest_wait = atomic_load_explicit(&ia->node->longest_wait, memory_order_relaxed);
    m->settle_ns = 0; /* it was durable before */
}

static void free_action(Action *a)
{
    InternalAction *ia = (InternalAction *)a;

    node_unref(ia->node);
    g_ptr_array_free(ia->names, true);
    g_free(ia->device);
    g_free(ia->name);
    g_free(ia);
}

static const FreezeOps freeze = {
    .hold = hold,
    .still = still,
    .claim = claim,
    .unclaim = unclaim,
    .flip = flip,
    .let_go = let_go,
    .store = store,
    .again = again,
};

static const ActionOps ops = {
    .name = "blockdev-snapshot-internal-sync",
    .plan = plan,
    .member = member,
    .prepare = prepare,
    .freeze = &freeze,
    .settled = settled,
    .undo = undo,
    .free = free_action,
};

void transaction_add_snapshot_internal(Transaction *t, const char *device, const char *name)
{
    InternalAction *ia = g_new0(InternalAction, 1);

    ia->base.ops = &ops;
    ia->device = g_strdup(device);
    ia->name = g_strdup(name);
    ia->names = g_ptr_array_new();
    transaction_add(t, &ia->base);
}

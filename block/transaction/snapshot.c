/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The action `blockdev-snapshot`: an overlay that the user has opened, without backing, goes on top of a node.
 *
 * The overlay's header may name no backing file; then the true one is written there before the cut (else the chain would
 * be lost at the next start) and taken out again by undo.  A different name is accepted: reusing an image means just that.
 */
#include "snapshot-common.h"

typedef struct SnapshotAction {
    Action base;
    char *node, *overlay;
    Snapshot s;
} SnapshotAction;

static bool plan(Action *a, PlannedGraph *g, Error **errp)
{
    SnapshotAction *sa = (SnapshotAction *)a;

    if (!snapshot_plan_old(g, sa->node, sa->node, &sa->s.old, errp)) {
        return false;
    }
    sa->s.overlay = planned_lookup(g, sa->overlay, sa->overlay, errp);
    return sa->s.overlay && snapshot_plan_overlay(sa->s.old, sa->s.overlay, errp);
}

static GroupMember *member(Action *a, Group *g)
{
    SnapshotAction *sa = (SnapshotAction *)a;
    const Node *overlay = sa->s.overlay->real;

    return group_add_member(g, g_strdup(sa->s.old->name), planned_filename(sa->s.old),
                            g_strdup(sa->s.overlay->name), snapshot_backing_name(overlay));
}

static bool coroutine_fn check(Action *a, char **ret_warning, Error **errp)
{
    SnapshotAction *sa = (SnapshotAction *)a;

    (void)errp;
    *ret_warning = snapshot_backing_warning(sa->s.overlay->real, sa->s.old);
    return true;
}

static bool coroutine_fn prepare(Action *a, Error **errp)
{
    SnapshotAction *sa = (SnapshotAction *)a;

    SnapshotQuiesce q;

    snapshot_quiesce_begin(&q, &sa->s);
    return snapshot_quiesce_end(&q, errp);
}

static bool coroutine_fn link_overlay(Action *a, Error **errp)
{
    SnapshotAction *sa = (SnapshotAction *)a;

    return snapshot_link(&sa->s, a->t, errp) && snapshot_complete_header(&sa->s, a, errp);
}

static void coroutine_fn settled(Action *a)
{
    SnapshotAction *sa = (SnapshotAction *)a;

    snapshot_settled(&sa->s, a);
}

static void coroutine_fn undo(Action *a)
{
    SnapshotAction *sa = (SnapshotAction *)a;

    snapshot_unlink(&sa->s);
}

static void free_action(Action *a)
{
    SnapshotAction *sa = (SnapshotAction *)a;

    snapshot_clear(&sa->s);
    g_free(sa->node);
    g_free(sa->overlay);
    g_free(sa);
}

static const ActionOps ops = {
    .name = "blockdev-snapshot",
    .plan = plan,
    .member = member,
    .check = check,
    .prepare = prepare,
    .link = link_overlay,
    .settled = settled,
    .undo = undo,
    .free = free_action,
};

Action *snapshot_action_new(const char *node, const char *overlay)
{
    SnapshotAction *sa = g_new0(SnapshotAction, 1);

    sa->base.ops = &ops;
    sa->node = g_strdup(node);
    sa->overlay = g_strdup(overlay);
    return &sa->base;
}

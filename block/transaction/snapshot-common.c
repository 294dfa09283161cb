/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * External snapshots: putting an overlay on an old node.
 *
 * Plan checks what can be known before anything exists; link looks at the real pair, since by then the overlay is open and, in
 * a transaction with two snapshots of one disk, the old node may itself be an overlay of a moment ago.
 *
 * The backing edge is attached before the cut, when the old node still has writers.  Until those have moved it shares everything;
 * its proper permissions are set when the old node has settled and is read-only.
 */
#include "snapshot-common.h"
#include "journal-internal.h"
#include "../io-internal.h"
#include "../node-internal.h"
#include "block/reopen.h"
#include "util/log.h"
#include <string.h>

char *snapshot_backing_name(const Node *n)
{
    if (g_str_has_prefix(n->filename, "json:") || strstr(n->filename, "://") ||
        g_path_is_absolute(n->filename)) {
        return g_strdup(n->filename);
    }
    return g_canonicalize_filename(n->filename, NULL);
}

static bool check_use(const Node *n, EdgeRole role, const char *as, Error **errp)
{
    const Edge *e = node_find_use(n, role);

    if (e) {
        error_set(errp, ERROR_BUSY, n->name, "snapshot",
                  "Node '%s' is busy: node is used as %s of '%s'", n->name, as, e->parent->name);
    }
    return !e;
}

static bool check_busy(const Node *n, Error **errp)
{
    /* An overlay on the file of a format node would put a format below a format: the image would read as garbage. */
    return node_check_no_job(n, errp) && check_use(n, EDGE_COW, "backing hd", errp) &&
           check_use(n, EDGE_STORAGE, "file", errp);
}

bool snapshot_plan_old(PlannedGraph *g, const char *device, const char *node_name,
                       PlannedNode **ret_old, Error **errp)
{
    PlannedNode *old = planned_lookup(g, device, node_name, errp);

    if (!old) {
        return false;
    }
    if (old->overlay) {
        error_set(errp, ERROR_BUSY, old->name, "snapshot",
                  "Node '%s' is busy: node is used as backing hd of '%s'", old->name,
                  old->overlay->name);
        return false;
    }
    if (old->filter) {
        error_set(errp, ERROR_BUSY, old->name, "snapshot",
                  "Node '%s' is busy: block device is in use by block job: backup", old->name);
        return false;
    }
    if (old->real && (!check_busy(old->real, errp) || !planned_check_nesting(g, old, errp))) {
        return false;
    }
    *ret_old = old;
    return true;
}

/* Does anybody read the overlay already?  (A write-only user, a mirror that fills it, is welcome.) */
static bool check_unused(const Node *n, Error **errp)
{
    for (guint i = 0; i < n->parents->len; i++) {
        if (((Edge *)g_ptr_array_index(n->parents, i))->perm & PERM_CONSISTENT_READ) {
            error_set(errp, ERROR_BUSY, n->name, "snapshot", "The overlay is already in use");
            return false;
        }
    }
    return true;
}

static bool check_overlay(const Node *n, Error **errp)
{
    if (!node_check_filled_only(n, errp) || !check_unused(n, errp)) {
        return false;
    }
    if (n->driver->is_filter) {
        error_set(errp, ERROR_INVALID, n->name, "snapshot", "Filters cannot be used as overlays");
        return false;
    }
    if (atomic_load(&((Node *)n)->backing)) {
        error_set(errp, ERROR_INVALID, n->name, "snapshot",
                  "The overlay already has a backing image");
        return false;
    }
    if (!n->driver->supports_backing) {
        error_set(errp, ERROR_UNSUPPORTED, n->name, "snapshot",
                  "The overlay does not support backing images");
        return false;
    }
    return true;
}

bool snapshot_plan_overlay(PlannedNode *old, PlannedNode *overlay, Error **errp)
{
    if (overlay->is_overlay || overlay->overlay || overlay->maker) {
        error_set(errp, ERROR_BUSY, overlay->name, "snapshot", "The overlay is already in use");
        return false;
    }
    if (!check_overlay(overlay->real, errp)) {
        return false;
    }
    for (const PlannedNode *p = old; p; p = p->overlay) {
        if (p->real && node_reaches(p->real, overlay->real)) {
            error_set(errp, ERROR_INVALID, overlay->name, "snapshot",
                      "Making '%s' a backing child of '%s' would create a cycle", old->name,
                      overlay->name);
            return false;
        }
    }
    overlay->is_overlay = true;
    old->overlay = overlay;
    return true;
}

static bool coroutine_fn prepare_read_only(Snapshot *s, Error **errp)
{
    if (!s->ro_prepared && !atomic_load(&s->old_node->read_only)) {
        if (!node_ro_prepare(s->old_node, errp)) {
            return false;
        }
        s->ro_prepared = true;
    }
    return true;
}

static void coroutine_fn quiesce(void *opaque)
{
    SnapshotQuiesce *q = opaque;

    q->ok = node_flush_ahead(q->s->old_node, &q->err) && prepare_read_only(q->s, &q->err);
    co_group_done(&q->group);
}

void coroutine_fn snapshot_quiesce_begin(SnapshotQuiesce *q, Snapshot *s)
{
    Node *old = s->old->real;

    *q = (SnapshotQuiesce){.s = s, .ok = true};
    co_group_init(&q->group);
    if (old && !atomic_load(&old->read_only)) {
        s->old_node = node_ref(old);
        co_group_add(&q->group, 1);
        co_start(quiesce, q);
    }
}

bool coroutine_fn snapshot_quiesce_end(SnapshotQuiesce *q, Error **errp)
{
    co_group_wait(&q->group);
    co_group_destroy(&q->group);
    if (!q->ok && errp && !*errp) {
        error_move(errp, &q->err);
    }
    error_free(q->err);
    return q->ok;
}

/* The parents that will move must get along with those the overlay has, and be able to write if they do. */
static bool check_parents_fit(const Node *old, const Node *overlay, Error **errp)
{
    for (guint i = 0; i < old->parents->len; i++) {
        const Edge *a = g_ptr_array_index(old->parents, i);

        if ((a->perm & (PERM_WRITE | PERM_WRITE_UNCHANGED)) && node_is_read_only(overlay)) {
            error_set(errp, ERROR_PERMISSION, overlay->name, "snapshot", "Block node is read-only");
            return false;
        }
        for (guint j = 0; j < overlay->parents->len; j++) {
            const Edge *b = g_ptr_array_index(overlay->parents, j);
            unsigned conflict = (a->perm & ~b->shared) | (b->perm & ~a->shared);

            if (conflict) {
                g_autofree char *what = perm_names(conflict);

                error_set(errp, ERROR_BUSY, overlay->name, "snapshot",
                          "Permission conflict on node '%s': permissions '%s' are needed or "
                          "unshared by users of node "
                          "'%s'",
                          overlay->name, what, old->name);
                return false;
            }
        }
    }
    return true;
}

static bool check_size(const Node *old, const Node *overlay, Error **errp)
{
    uint64_t have = atomic_load(&((Node *)overlay)->size), need = atomic_load(&((Node *)old)->size);

    if (have < need) {
        error_set(errp, ERROR_INVALID, overlay->name, "snapshot",
                  "Overlay '%s' is smaller than node '%s': %" G_GUINT64_FORMAT
                  " < %" G_GUINT64_FORMAT " bytes",
                  overlay->name, old->name, have, need);
        return false;
    }
    return true;
}

/* An overlay of an inactive disk is inactive, as the disk was; one of an active disk must be active for those who write. */
static bool coroutine_fn match_activity(Snapshot *s, Error **errp)
{
    Node *old = s->old_node, *overlay = s->overlay_node;
    bool inactive = atomic_load(&old->inactive);

    if (inactive && !atomic_load(&overlay->inactive)) {
        s->inactivated = blockdev_set_active_reserved(overlay, false, errp);
        return s->inactivated;
    }
    if (!inactive && atomic_load(&overlay->inactive) &&
        (old->perm & (PERM_WRITE | PERM_WRITE_UNCHANGED))) {
        error_set(errp, ERROR_PERMISSION, overlay->name, "snapshot",
                  "Permission 'write' unavailable on inactive node");
        return false;
    }
    return true;
}

bool coroutine_fn snapshot_link(Snapshot *s, Transaction *t, Error **errp)
{
    if (!s->old_node) {
        s->old_node = node_ref(planned_node(s->old));
    }
    s->overlay_node = node_ref(planned_node(s->overlay));
    if (!check_overlay(s->overlay_node, errp) || !check_size(s->old_node, s->overlay_node, errp) ||
        !check_parents_fit(s->old_node, s->overlay_node, errp) || !match_activity(s, errp)) {
        return false;
    }
    s->backing = edge_attach(s->old_node, s->overlay_node, NULL, NULL, "backing", EDGE_COW,
                             PERM_CONSISTENT_READ, PERM_ALL, errp);
    if (!s->backing) {
        return false;
    }
    s->backing->unsettled = true;
    atomic_store_explicit(&s->overlay_node->backing, s->backing, memory_order_release);
    if (!prepare_read_only(s, errp)) {
        return false;
    }
    change_add_overlay(t->change, s->old_node, s->overlay_node, s->backing);
    return true;
}

void coroutine_fn snapshot_unlink(Snapshot *s)
{
    g_autoptr(Error) err = NULL;

    if (s->wrote_backing_string) {
        if (!s->overlay_node->driver->set_backing_string(s->overlay_node, NULL, NULL, &err)) {
            log_warn("%s: could not take the backing file name out again: %s",
                     s->overlay_node->filename, err->message);
        }
        s->wrote_backing_string = false;
    }
    if (s->ro_prepared) {
        node_ro_abort(s->old_node);
        s->ro_prepared = false;
    }
    if (s->backing) {
        edge_detach(s->backing);
        s->backing = NULL;
    }
    if (s->inactivated && !blockdev_set_active_reserved(s->overlay_node, true, &err)) {
        log_warn("%s: could not be made active again: %s", s->overlay_node->name, err->message);
    }
    s->inactivated = false;
    g_clear_pointer(&s->overlay_node, node_unref);
    g_clear_pointer(&s->old_node, node_unref);
}

static void tell_member(GroupMember *m, Node *old, int64_t cut_time, bool degraded)
{
    m->state = degraded ? SNAPSHOT_GROUP_STATE_DEGRADED : SNAPSHOT_GROUP_STATE_SETTLED;
    m->longest_wait = atomic_load_explicit(&old->longest_wait, memory_order_relaxed);
    m->settle_ns = clock_ns() - cut_time;
}

void coroutine_fn snapshot_settled(Snapshot *s, const Action *a)
{
    /* A successful flush has taken this back. */
    bool degraded = atomic_load_explicit(&s->old_node->unflushed_old, memory_order_acquire);

    s->backing->unsettled = false;
    tell_member(a->member, s->old_node, change_cut_time(a->t->change), degraded);
    if (degraded) {
        /* What could not be flushed may be later, by a guest's flush: the image stays open for writing, but only for that. */
        if (s->ro_prepared) {
            node_ro_abort(s->old_node);
            s->ro_prepared = false;
        }
        atomic_store_explicit(&s->old_node->read_only, true, memory_order_seq_cst);
        return;
    }
    if (s->ro_prepared) {
        node_ro_commit(s->old_node);
        s->ro_prepared = false;
    }
    if (atomic_load(&s->old_node->inactive)) {
        node_rest_read_only(s->old_node);
    }
    /* The backing edge now shares what a backing edge shares; the old node's file is given up for writing. */
    perm_lower(s->overlay_node);
}

void snapshot_clear(Snapshot *s)
{
    g_clear_pointer(&s->overlay_node, node_unref);
    g_clear_pointer(&s->old_node, node_unref);
}

bool coroutine_fn snapshot_complete_header(Snapshot *s, const Action *a, Error **errp)
{
    Node *overlay = s->overlay_node;
    g_auto(ImageFacts) facts = {0};
    g_autofree char *name = NULL;

    if (!overlay->driver->set_backing_string || !overlay->driver->facts ||
        atomic_load(&overlay->read_only)) {
        return true;
    }
    if (!overlay->driver->facts(overlay, &facts, errp)) {
        return false;
    }
    if (facts.backing_file) {
        return true; /* another one than the true one is what reusing an image means */
    }
    name = snapshot_backing_name(s->old_node);
    if (!journal_backing_name(a->t->group, a->member, errp) ||
        !overlay->driver->set_backing_string(overlay, name,
                                             node_skip_filters(s->old_node)->driver->name, errp)) {
        return false;
    }
    s->wrote_backing_string = true;
    return true;
}

char *snapshot_backing_warning(Node *overlay, const PlannedNode *old)
{
    g_autofree char *name = planned_filename(old);
    g_auto(ImageFacts) facts = {0};
    g_autoptr(Error) err = NULL;

    if (!overlay->driver->facts || !overlay->driver->facts(overlay, &facts, &err) ||
        !facts.backing_file || g_strcmp0(facts.backing_file, name) == 0) {
        return NULL;
    }
    return g_strdup_printf(
        "the header of '%s' names the backing file '%s', but it will be on top of '%s'",
        overlay->filename ? overlay->filename : overlay->name, facts.backing_file,
        name ? name : old->name);
}

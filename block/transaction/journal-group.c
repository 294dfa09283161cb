/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What transactions write to the journal: the states of a group.
 *
 *   intent     the names of all files are known, and what the old images are; each file is announced before it gets its name
 *   prepared   kept: all files are complete, with size and time of change
 *   recorded   committed
 *   settled, degraded
 *   undoing    a kept group on its way back (also one that was recorded, whose hold ended without a commit)
 *   aborted, expired   its name is remembered, its members are not
 *
 * Whatever is found in one of the states intent, prepared, undoing at a start is undone; recorded is completed (journal-recover.c).
 */
#include "journal-internal.h"
#include "journal-store.h"
#include "journal-superseded.h"
#include "util/log.h"
#include "util/worker.h"
#include <fcntl.h>

bool journal_active(void)
{
    return store_is_open();
}

static bool concerns(const Group *g)
{
    return journal_active() && g->members->len > 0;
}

/* ---- intent ---- */

static bool insert_member(sqlite3 *db, const Group *g, unsigned i, Error **errp)
{
    const GroupMember *m = g_ptr_array_index(g->members, i);
    FileIdentity id = {0};

    /* Another member's overlay may not exist yet: it is found by its name, then. */
    if (m->file) {
        (void)file_identity_at(AT_FDCWD, m->file, &id);
    }
    return store_exec(db, errp,
                      "INSERT INTO members (grp, idx, node, file, dev, ino, birth, overlay, "
                      "overlay_file) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                      "sissiiiss", g->id, (int64_t)i, m->node, m->file, (int64_t)id.dev,
                      (int64_t)id.ino, id.birth, m->overlay ? m->overlay : "", m->overlay_file) &&
           journal_write_internal(db, g, i, errp);
}

static bool write_intent(sqlite3 *db, void *opaque, Error **errp)
{
    const Group *g = opaque;

    if (!store_exec(db, errp,
                    "INSERT INTO groups (id, uuid, named, digest, state, begun) "
                    "VALUES (?, ?, ?, ?, 'intent', ?)",
                    "ssisi", g->id, g->uuid, (int64_t)g->named, g->digest,
                    g_get_real_time() * 1000)) {
        return false;
    }
    for (guint i = 0; i < g->members->len; i++) {
        if (!insert_member(db, g, i, errp)) {
            return false;
        }
    }
    return true;
}

bool coroutine_fn journal_intent(Group *g, Error **errp)
{
    return !concerns(g) || store_write(write_intent, g, errp);
}

/* ---- files ---- */

typedef struct Announcement {
    const Group *g;
    unsigned index;
    const SnapshotFileInfo *info;
} Announcement;

static bool write_file(sqlite3 *db, const Group *g, unsigned index, const SnapshotFileInfo *f,
                       Error **errp)
{
    static const char *const how[] = {"created", "filled", "replaced"};

    return store_exec(db, errp,
                      "UPDATE members SET overlay_file = ?, how = ?, o_dev = ?, o_ino = ?, "
                      "o_birth = ?, size = ?, changed = ?, first_name = coalesce(?, first_name), "
                      "aside_name = ?, a_dev = ?, a_ino = ?, a_birth = ? "
                      "WHERE grp = ? AND idx = ?",
                      "ssiiiiissiiisi", f->path, how[f->how], (int64_t)f->id.dev,
                      (int64_t)f->id.ino, f->id.birth, (int64_t)f->size, f->changed, f->first_name,
                      f->aside_name, (int64_t)f->aside.dev, (int64_t)f->aside.ino, f->aside.birth,
                      g->id, (int64_t)index);
}

static bool write_announcement(sqlite3 *db, void *opaque, Error **errp)
{
    const Announcement *a = opaque;

    return write_file(db, a->g, a->index, a->info, errp);
}

bool journal_announce(const Group *g, unsigned index, const SnapshotFileInfo *info, Error **errp)
{
    Announcement a = {.g = g, .index = index, .info = info};

    return store_write_blocking(write_announcement, &a, errp);
}

typedef struct Files {
    Group *g;
    GPtrArray *files;
} Files;

static bool write_files(sqlite3 *db, void *opaque, Error **errp)
{
    const Files *f = opaque;

    for (guint i = 0; i < f->files->len; i++) {
        SnapshotFile *file = g_ptr_array_index(f->files, i);
        SnapshotFileInfo info;

        if (file &&
            (!snapshot_file_info(file, &info, errp) || !write_file(db, f->g, i, &info, errp))) {
            return false;
        }
    }
    return store_exec(db, errp, "UPDATE groups SET state = 'prepared', prepare_ns = ? WHERE id = ?",
                      "is", f->g->prepare_ns, f->g->id);
}

bool coroutine_fn journal_files(Group *g, GPtrArray *files, Error **errp)
{
    Files f = {.g = g, .files = files};

    return !concerns(g) || store_write(write_files, &f, errp);
}

typedef struct BackingName {
    const Group *g;
    const GroupMember *m;
} BackingName;

static bool write_backing_name(sqlite3 *db, void *opaque, Error **errp)
{
    const BackingName *b = opaque;
    unsigned index;

    return !g_ptr_array_find(b->g->members, b->m, &index) ||
           store_exec(db, errp, "UPDATE members SET wrote_backing = 1 WHERE grp = ? AND idx = ?",
                      "si", b->g->id, (int64_t)index);
}

bool coroutine_fn journal_backing_name(const Group *g, const GroupMember *m, Error **errp)
{
    BackingName b = {.g = g, .m = m};

    return !concerns(g) || store_write(write_backing_name, &b, errp);
}

/* ---- the decision ---- */

static bool write_record(sqlite3 *db, void *opaque, Error **errp)
{
    const Group *g = opaque;

    /* Without a better one the record's time stands for the cut's, until settled. */
    return store_exec(db, errp,
                      "UPDATE groups SET state = 'recorded', prepare_ns = ?, cut_time = ? "
                      "WHERE id = ?",
                      "iis", g->prepare_ns, g_get_real_time() * 1000, g->id);
}

bool coroutine_fn journal_record(Group *g, Error **errp)
{
    if (!concerns(g)) {
        return true;
    }
    if (!store_write(write_record, g, errp)) {
        return false;
    }
    g->durable = true;
    return true;
}

static bool write_unrecord(sqlite3 *db, void *opaque, Error **errp)
{
    return store_exec(db, errp, "UPDATE groups SET state = 'intent', cut_time = NULL WHERE id = ?",
                      "s", ((const Group *)opaque)->id);
}

bool coroutine_fn journal_unrecord(Group *g, Error **errp)
{
    g->durable = false;
    return !concerns(g) || store_write(write_unrecord, g, errp);
}

static bool write_undoing(sqlite3 *db, void *opaque, Error **errp)
{
    return store_exec(db, errp, "UPDATE groups SET state = 'undoing' WHERE id = ?", "s",
                      ((const Group *)opaque)->id);
}

void coroutine_fn journal_undoing(Group *g)
{
    g_autoptr(Error) err = NULL;

    if (journal_active() && !store_write(write_undoing, g, &err)) {
        log_error("group %s is undone, but the journal may not know it: %s", g->id, err->message);
    }
}

static bool write_undone(sqlite3 *db, void *opaque, Error **errp)
{
    const Group *g = opaque;

    return store_exec(db, errp, "DELETE FROM members WHERE grp = ?", "s", g->id) &&
           store_exec(db, errp, "UPDATE groups SET state = ?, cut_time = NULL WHERE id = ?", "ss",
                      qapi_enum_SnapshotGroupState(g->state), g->id);
}

void coroutine_fn journal_undone(Group *g)
{
    g_autoptr(Error) err = NULL;

    if (journal_active() && !store_write(write_undone, g, &err)) {
        log_error("group %s was undone, but the journal may not know it: %s", g->id, err->message);
    }
}

static bool write_forget(sqlite3 *db, void *opaque, Error **errp)
{
    return store_exec(db, errp, "DELETE FROM groups WHERE id = ?", "s",
                      ((const Group *)opaque)->id);
}

void coroutine_fn journal_forget(Group *g)
{
    g_autoptr(Error) err = NULL;

    if (concerns(g) && !store_write(write_forget, g, &err)) {
        log_warn("group %s was undone, but the journal does not know it: %s", g->id, err->message);
    }
}

/* ---- settled ---- */

/* A copy: the write may come after the register has forgotten the group. */
static Group *copy_results(const Group *g)
{
    Group *c = group_new(g->id, NULL);

    c->state = g->state;
    c->cut_time = g->cut_time;
    c->record_ns = g->record_ns;
    c->cut_ns = g->cut_ns;
    c->settle_ns = g->settle_ns;
    c->longest_wait = g->longest_wait;
    for (guint i = 0; i < g->members->len; i++) {
        const GroupMember *m = g_ptr_array_index(g->members, i);
        GroupMember *n = group_add_member(c, NULL, NULL, NULL, NULL);

        n->state = m->state;
        n->longest_wait = m->longest_wait;
        n->settle_ns = m->settle_ns;
    }
    for (guint i = 0; i < g->messages->len; i++) {
        group_message(c, "%s", (const char *)g_ptr_array_index(g->messages, i));
    }
    return c;
}

static bool write_settled(sqlite3 *db, void *opaque, Error **errp)
{
    const Group *g = opaque;
    g_autofree char *messages = NULL;

    g_ptr_array_add(g->messages, NULL);
    messages = g_strjoinv("\n", (char **)g->messages->pdata);
    if (!store_exec(db, errp,
                    "UPDATE groups SET state = ?, cut_time = ?, record_ns = ?, cut_ns = ?, "
                    "settle_ns = ?, longest_wait = ?, messages = ? WHERE id = ?",
                    "siiiiiss", qapi_enum_SnapshotGroupState(g->state), g->cut_time, g->record_ns,
                    g->cut_ns, g->settle_ns, g->longest_wait, messages, g->id)) {
        return false;
    }
    for (guint i = 0; i < g->members->len; i++) {
        const GroupMember *m = g_ptr_array_index(g->members, i);

        if (!store_exec(db, errp,
                        "UPDATE members SET state = ?, longest_wait = ?, settle_ns = ? "
                        "WHERE grp = ? AND idx = ?",
                        "siisi", qapi_enum_SnapshotGroupState(m->state), m->longest_wait,
                        m->settle_ns, g->id, (int64_t)i)) {
            return false;
        }
    }
    return true;
}

static void free_copy(void *opaque)
{
    group_free(opaque);
}

void journal_settled(Group *g)
{
    if (concerns(g)) {
        superseded_add_group(g);
        store_write_later(write_settled, free_copy, copy_results(g));
    }
}

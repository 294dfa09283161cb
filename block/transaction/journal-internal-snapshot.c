/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Internal snapshots in the journal.
 *
 * The intent says which disk shall get a snapshot of which name: a row beside that of the member.  Whether it is there, its image says.  What an
 * undecided group left is removed at the next start, if the image is the file that it was, and the snapshot no older than the group.
 */
#include "block/driver.h"
#include "block/graph.h"
#include "block/internal-snapshot.h"
#include "journal-internal.h"
#include "journal-store.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>

static bool make_table(sqlite3 *db, Error **errp)
{
    return store_exec(db, errp,
                      "CREATE TABLE IF NOT EXISTS internal ("
                      "grp TEXT NOT NULL REFERENCES groups(id) ON DELETE CASCADE, "
                      "idx INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY (grp, idx))",
                      "");
}

bool journal_write_internal(sqlite3 *db, const Group *g, unsigned index, Error **errp)
{
    const GroupMember *m = g_ptr_array_index(g->members, index);

    return !m->snapshot ||
           (make_table(db, errp) &&
            store_exec(db, errp, "INSERT INTO internal (grp, idx, name) VALUES (?, ?, ?)", "sis",
                       g->id, (int64_t)index, m->snapshot));
}

bool journal_read_internal(sqlite3 *db, Group *g, Error **errp)
{
    sqlite3_stmt *s = NULL;
    int ret;

    if (!make_table(db, errp)) {
        return false;
    }
    ret = sqlite3_prepare_v2(db, "SELECT idx, name FROM internal WHERE grp = ?", -1, &s, NULL);
    if (ret == SQLITE_OK) {
        ret = sqlite3_bind_text(s, 1, g->id, -1, SQLITE_TRANSIENT);
    }
    while (ret == SQLITE_OK && (ret = sqlite3_step(s)) == SQLITE_ROW) {
        int64_t index = sqlite3_column_int64(s, 0);

        if (index >= 0 && index < g->members->len) {
            GroupMember *m = g_ptr_array_index(g->members, index);

            m->snapshot = g_strdup((const char *)sqlite3_column_text(s, 1));
            g_clear_pointer(&m->overlay, g_free);
        }
        ret = SQLITE_OK;
    }
    if (ret != SQLITE_DONE) {
        store_error(db, errp, "read");
    }
    sqlite3_finalize(s);
    return ret == SQLITE_DONE;
}

/* ---- recovery ---- */

static Node *coroutine_fn open_image(const char *file, bool read_only, Error **errp)
{
    struct json_object *o = json_object_new_object(), *f = json_object_new_object();
    g_autoptr(BlockdevOptions) options = NULL;
    Node *n = NULL;

    json_object_object_add(f, "driver", json_object_new_string("file"));
    json_object_object_add(f, "filename", json_object_new_string(file));
    json_object_object_add(o, "driver", json_object_new_string("qcow2"));
    json_object_object_add(o, "read-only", json_object_new_boolean(read_only));
    json_object_object_add(o, "file", f);
    if (qapi_parse_BlockdevOptions(o, &options, errp)) {
        n = node_open(options, NODE_OPEN_HIDDEN | NODE_OPEN_NO_BACKING, NULL, errp);
    }
    json_object_put(o);
    return n;
}

/* The snapshot, if it is the group's; -1: it is not there. */
static int64_t find_date(const Node *n, const char *name)
{
    SnapshotInfoList *list = n->driver->snapshots->list(n);
    int64_t date = -1;

    for (const SnapshotInfoList *l = list; l; l = l->next) {
        if (strcmp(l->value->name, name) == 0) {
            date = l->value->date_sec;
        }
    }
    qapi_free_SnapshotInfoList(list);
    return date;
}

static char *coroutine_fn undo(Node *n, const GroupMember *m, int64_t begun_ns)
{
    int64_t date = find_date(n, m->snapshot);
    SnapshotInfo *info = NULL;
    int ret;

    if (date < 0) {
        return NULL;
    }
    if (date < begun_ns / 1000000000) {
        return g_strdup_printf("the snapshot '%s' in '%s' is older than the group; it stays",
                               m->snapshot, m->file);
    }
    ret = n->driver->snapshots->remove(n, NULL, m->snapshot, &info);
    qapi_free_SnapshotInfo(info);
    return ret < 0 ? g_strdup_printf("the snapshot '%s' in '%s' could not be removed: %s",
                                     m->snapshot, m->file, g_strerror(-ret))
                   : g_strdup_printf("the snapshot '%s' in '%s' was removed", m->snapshot, m->file);
}

char *coroutine_fn journal_undo_internal(const GroupMember *m, const FileIdentity *id,
                                         int64_t begun_ns)
{
    g_autoptr(Error) err = NULL;
    g_autoptr(Node) n = NULL;
    FileIdentity now;

    if (!m->file || file_identity_at(AT_FDCWD, m->file, &now) < 0 ||
        !file_identity_equal(&now, id)) {
        return g_strdup_printf(
            "the image of node '%s' is not the file that it was; a snapshot '%s' "
            "in it may be left",
            m->node, m->snapshot);
    }
    n = open_image(m->file, false, &err);
    if (!n) {
        return g_strdup_printf("a snapshot '%s' may be left in '%s': %s", m->snapshot, m->file,
                               err->message);
    }
    return undo(n, m, begun_ns);
}

char *coroutine_fn journal_check_internal(const GroupMember *m)
{
    g_autoptr(Error) err = NULL;
    g_autoptr(Node) n = m->file ? open_image(m->file, true, &err) : NULL;

    if (n && find_date(n, m->snapshot) < 0) {
        return g_strdup_printf("the snapshot '%s' is not in '%s' any more", m->snapshot, m->file);
    }
    return n || !m->file
               ? NULL
               : g_strdup_printf("'%s' could not be looked at: %s", m->file, err->message);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Recovery: what a start with a journal does before anything else.
 *
 *   intent, prepared, undoing    the group is not committed: what was made for it is taken back, newest member first; then `aborted`
 *                                (undoing: what it would have become)
 *   recorded                     the group is committed: its old files are synced, which a crash before settled may have left
 *                                undone, and what was set aside is deleted; then `settled`, or `degraded` if a file
 *                                could not be synced
 *   settled, degraded,           known
 *   aborted, expired
 *
 * Each step can be repeated: a crash during recovery is followed by another one.  What it does and what it leaves is in the log and in
 * the group's messages.
 */
#include "block/job.h"
#include "block/journal.h"
#include "block/graph.h"
#include "block/put-away.h"
#include "journal-internal.h"
#include "journal-store.h"
#include "journal-superseded.h"
#include "qapi-events.h"
#include "util/log.h"
#include "util/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_UNDECIDED_KEPT 1000 /* aborted and expired groups that are remembered */

typedef struct FoundMember {
    FileIdentity id; /* of the old image */
    bool has_file;
    SnapshotFileInfo file; /* strings are owned */
    bool wrote_backing;
} FoundMember;

typedef struct Found {
    Group *g;
    char *state;
    int64_t begun;
    GPtrArray *members; /* FoundMember *, as g->members */
} Found;

static void member_free(gpointer p)
{
    FoundMember *m = p;

    g_free((char *)m->file.path);
    g_free((char *)m->file.first_name);
    g_free((char *)m->file.aside_name);
    g_free(m);
}

static void found_free(gpointer p)
{
    Found *f = p;

    group_free(f->g);
    g_free(f->state);
    g_ptr_array_free(f->members, true);
    g_free(f);
}

/* ---- reading ---- */

static char *text(sqlite3_stmt *s, int column)
{
    return g_strdup((const char *)sqlite3_column_text(s, column));
}

static int64_t number(sqlite3_stmt *s, int column, int64_t if_null)
{
    return sqlite3_column_type(s, column) == SQLITE_NULL ? if_null
                                                         : sqlite3_column_int64(s, column);
}

static FileIdentity identity(sqlite3_stmt *s, int column)
{
    return (FileIdentity){.dev = sqlite3_column_int64(s, column),
                          .ino = sqlite3_column_int64(s, column + 1),
                          .birth = sqlite3_column_int64(s, column + 2)};
}

/* Of a state, the one that the register shows; -1: none yet. */
static int state_of(const char *name)
{
    for (int i = 0; name && i < SNAPSHOT_GROUP_STATE__MAX; i++) {
        if (strcmp(qapi_enum_SnapshotGroupState(i), name) == 0) {
            return i;
        }
    }
    return -1;
}

static void read_member(sqlite3_stmt *s, Found *f)
{
    g_autofree char *how = text(s, 7);
    int state = state_of((const char *)sqlite3_column_text(s, 18));
    GroupMember *m = group_add_member(f->g, text(s, 0), text(s, 1), text(s, 5), text(s, 6));
    FoundMember *n = g_new0(FoundMember, 1);

    m->state = state < 0 ? SNAPSHOT_GROUP_STATE_SETTLING : (SnapshotGroupState)state;
    m->longest_wait = number(s, 19, -1);
    m->settle_ns = number(s, 20, -1);
    n->id = identity(s, 2);
    n->has_file = how != NULL;
    n->file.how = g_strcmp0(how, "filled") == 0     ? FILE_FILLED
                  : g_strcmp0(how, "replaced") == 0 ? FILE_REPLACED
                                                    : FILE_CREATED;
    n->file.path = g_strdup(m->overlay_file);
    n->file.id = identity(s, 8);
    n->file.size = sqlite3_column_int64(s, 11);
    n->file.changed = sqlite3_column_int64(s, 12);
    n->file.first_name = text(s, 13);
    n->file.aside_name = text(s, 14);
    n->file.aside = identity(s, 15);
    n->wrote_backing = sqlite3_column_int64(s, 21);
    g_ptr_array_add(f->members, n);
}

static bool read_members(sqlite3 *db, Found *f, Error **errp)
{
    sqlite3_stmt *s = NULL;
    int ret = sqlite3_prepare_v2(
        db,
        "SELECT node, file, dev, ino, birth, overlay, overlay_file, how, o_dev, o_ino, o_birth, "
        "size, changed, first_name, aside_name, a_dev, a_ino, a_birth, state, longest_wait, "
        "settle_ns, wrote_backing FROM members WHERE grp = ? ORDER BY idx",
        -1, &s, NULL);

    if (ret == SQLITE_OK) {
        ret = sqlite3_bind_text(s, 1, f->g->id, -1, SQLITE_TRANSIENT);
    }
    while (ret == SQLITE_OK && (ret = sqlite3_step(s)) == SQLITE_ROW) {
        read_member(s, f);
        ret = SQLITE_OK;
    }
    if (ret != SQLITE_DONE) {
        store_error(db, errp, "read");
    }
    sqlite3_finalize(s);
    return ret == SQLITE_DONE;
}

static Found *read_group(sqlite3_stmt *s)
{
    Found *f = g_new0(Found, 1);
    g_autofree char *id = text(s, 0), *digest = text(s, 3), *messages = text(s, 14);
    Group *g = group_new(id, digest);
    int state;

    g_free(g->uuid);
    g->uuid = text(s, 1);
    g->named = sqlite3_column_int64(s, 2);
    f->state = text(s, 4);
    f->begun = sqlite3_column_int64(s, 5);
    state = state_of(f->state);
    g->state = state < 0 ? SNAPSHOT_GROUP_STATE_SETTLING : (SnapshotGroupState)state;
    g->durable = true;
    g->cut_time = sqlite3_column_int64(s, 6);
    g->prepare_ns = number(s, 7, -1);
    g->record_ns = number(s, 8, -1);
    g->cut_ns = number(s, 9, -1);
    g->settle_ns = number(s, 10, -1);
    g->longest_wait = number(s, 11, -1);
    g->recovered = sqlite3_column_int64(s, 12);
    g->retired = sqlite3_column_int64(s, 13);
    if (messages && *messages) {
        g_auto(GStrv) lines = g_strsplit(messages, "\n", -1);

        for (char **l = lines; *l; l++) {
            group_message(g, "%s", *l);
        }
    }
    f->g = g;
    f->members = g_ptr_array_new_with_free_func(member_free);
    return f;
}

static bool read_all(sqlite3 *db, void *opaque, Error **errp)
{
    GPtrArray *all = opaque;
    sqlite3_stmt *s = NULL;
    int ret = sqlite3_prepare_v2(
        db,
        "SELECT id, uuid, named, digest, state, begun, cut_time, prepare_ns, record_ns, cut_ns, "
        "settle_ns, longest_wait, recovered, retired, messages FROM groups ORDER BY begun",
        -1, &s, NULL);
    bool ok = true;

    while (ok && ret == SQLITE_OK && (ret = sqlite3_step(s)) == SQLITE_ROW) {
        Found *f = read_group(s);

        g_ptr_array_add(all, f);
        ok = read_members(db, f, errp) && journal_read_internal(db, f->g, errp);
        ret = SQLITE_OK;
    }
    if (ok && ret != SQLITE_DONE) {
        store_error(db, errp, "read");
        ok = false;
    }
    sqlite3_finalize(s);
    return ok;
}

/* ---- what was not committed ---- */

static void say(Group *g, const char *text)
{
    log_info("recovery of group %s: %s", g->id, text);
    group_message(g, "%s", text);
}

/* Files that were born under their names leave an empty one if the crash came before they were announced. */
static void look_for_leftover(Found *f, const GroupMember *m)
{
    FileIdentity id;
    struct stat st;

    if (m->overlay_file && lstat(m->overlay_file, &st) == 0 && st.st_size == 0 &&
        file_identity_at(AT_FDCWD, m->overlay_file, &id) == 0 && id.birth >= f->begun) {
        g_autofree char *line =
            g_strdup_printf("the empty file '%s' may be left from it", m->overlay_file);

        say(f->g, line);
    }
}

static int undo_files(void *opaque)
{
    Found *f = opaque;

    for (guint i = f->members->len; i-- > 0;) {
        const FoundMember *m = g_ptr_array_index(f->members, i);
        g_autofree char *done = NULL, *message = NULL;

        if (!m->has_file) {
            look_for_leftover(f, g_ptr_array_index(f->g->members, i));
            continue;
        }
        snapshot_file_recover_undo(&m->file, f->g->uuid, &done, &message);
        if (done) {
            say(f->g, done);
        }
        if (message) {
            say(f->g, message);
        }
    }
    return 0;
}

/* A user's overlay, into whose header the transaction wrote the name of the backing file. */
static bool coroutine_fn clear_backing(const GroupMember *m, Error **errp)
{
    struct json_object *o = json_object_new_object(), *file = json_object_new_object();
    g_autoptr(BlockdevOptions) options = NULL;
    g_auto(ImageFacts) facts = {0};
    g_autoptr(Node) n = NULL;

    json_object_object_add(file, "driver", json_object_new_string("file"));
    json_object_object_add(file, "filename", json_object_new_string(m->overlay_file));
    json_object_object_add(o, "driver", json_object_new_string("qcow2"));
    json_object_object_add(o, "file", file);
    if (qapi_parse_BlockdevOptions(o, &options, errp)) {
        n = node_open(options, NODE_OPEN_HIDDEN | NODE_OPEN_NO_BACKING, NULL, errp);
    }
    json_object_put(o);
    return n && n->driver->facts(n, &facts, errp) &&
           (g_strcmp0(facts.backing_file, m->file) != 0 ||
            n->driver->set_backing_string(n, NULL, NULL, errp));
}

static void coroutine_fn undo_group(Found *f)
{
    f->g->state = strcmp(f->state, "undoing") == 0 ? SNAPSHOT_GROUP_STATE_EXPIRED
                                                   : SNAPSHOT_GROUP_STATE_ABORTED;
    say(f->g, "it was not committed");
    if (strcmp(f->state, "undoing") == 0) {
        /* We had begun to change the files: size and time of change say nothing. */
        for (guint i = 0; i < f->members->len; i++) {
            ((FoundMember *)g_ptr_array_index(f->members, i))->file.changed = 0;
        }
    }
    worker_run(WORKERS_CONTROL, undo_files, f);
    for (guint i = f->members->len; i-- > 0;) {
        const FoundMember *m = g_ptr_array_index(f->members, i);
        const GroupMember *member = g_ptr_array_index(f->g->members, i);
        g_autoptr(Error) err = NULL;

        if (m->wrote_backing && !clear_backing(member, &err)) {
            g_autofree char *line =
                g_strdup_printf("the name of the backing file stays in the header of '%s': %s",
                                member->overlay_file, err->message);

            say(f->g, line);
        }
        if (member->snapshot) {
            g_autofree char *line = journal_undo_internal(member, &m->id, f->begun);

            if (line) {
                say(f->g, line);
            }
        }
    }
    node_wait_all_closed();
    g_ptr_array_set_size(f->g->members, 0);
}

/* ---- what was ---- */

static bool sync_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    bool ok = fd >= 0 && fsync(fd) == 0;
    int err = errno;

    if (fd >= 0) {
        close(fd);
    }
    errno = err;
    return ok;
}

static void complete_member(Found *f, guint i)
{
    GroupMember *m = g_ptr_array_index(f->g->members, i);
    const FoundMember *n = g_ptr_array_index(f->members, i);
    g_autofree char *line = NULL;

    m->state = SNAPSHOT_GROUP_STATE_SETTLED;
    if (m->file && !sync_file(m->file)) {
        line = g_strdup_printf("'%s' could not be synced: %s", m->file, g_strerror(errno));
        m->state = SNAPSHOT_GROUP_STATE_DEGRADED;
        f->g->state = SNAPSHOT_GROUP_STATE_DEGRADED;
    } else if (m->file && m->overlay_file && access(m->overlay_file, F_OK) < 0) {
        line = g_strdup_printf("the overlay '%s' is not there any more", m->overlay_file);
    } else if (n->has_file) {
        snapshot_file_recover_commit(&n->file, &line);
    }
    if (line) {
        say(f->g, line);
    }
}

static int complete_files(void *opaque)
{
    Found *f = opaque;

    for (guint i = 0; i < f->members->len; i++) {
        complete_member(f, i);
    }
    return 0;
}

static void coroutine_fn complete_group(Found *f)
{
    f->g->state = SNAPSHOT_GROUP_STATE_SETTLED;
    say(f->g, "it was committed; its old images are synced");
    worker_run(WORKERS_CONTROL, complete_files, f);
    for (guint i = 0; i < f->g->members->len; i++) {
        const GroupMember *m = g_ptr_array_index(f->g->members, i);
        g_autofree char *line = m->snapshot ? journal_check_internal(m) : NULL;

        if (line) {
            say(f->g, line);
        }
    }
    node_wait_all_closed();
}

/* ---- all of it ---- */

static bool write_recovered(sqlite3 *db, void *opaque, Error **errp)
{
    const Found *f = opaque;
    const Group *g = f->g;
    bool committed =
        g->state == SNAPSHOT_GROUP_STATE_SETTLED || g->state == SNAPSHOT_GROUP_STATE_DEGRADED;
    g_autofree char *messages = NULL;
    g_autoptr(GPtrArray) lines = g_ptr_array_new();

    for (guint i = 0; i < g->messages->len; i++) {
        g_ptr_array_add(lines, g_ptr_array_index(g->messages, i));
    }
    g_ptr_array_add(lines, NULL);
    messages = g_strjoinv("\n", (char **)lines->pdata);
    return store_exec(db, errp,
                      "UPDATE groups SET state = ?, recovered = 1, messages = ? WHERE id = ?",
                      "sss", qapi_enum_SnapshotGroupState(g->state), messages, g->id) &&
           store_exec(db, errp,
                      committed ? "UPDATE members SET state = 'settled' WHERE grp = ?"
                                : "DELETE FROM members WHERE grp = ?",
                      "s", g->id);
}

static bool trim(sqlite3 *db, void *opaque, Error **errp)
{
    (void)opaque;
    return store_exec(db, errp,
                      "DELETE FROM groups WHERE id IN (SELECT id FROM groups WHERE state IN "
                      "('aborted', 'expired') ORDER BY begun DESC LIMIT -1 OFFSET ?)",
                      "i", (int64_t)MAX_UNDECIDED_KEPT);
}

static bool coroutine_fn recover_group(Found *f, Error **errp)
{
    if (state_of(f->state) >= 0 && g_strcmp0(f->state, "settling") != 0) {
        return true;
    }
    f->g->recovered = true;
    if (strcmp(f->state, "recorded") == 0) {
        complete_group(f);
    } else {
        undo_group(f);
    }
    if (!store_write(write_recovered, f, errp)) {
        return false;
    }
    qapi_event_send_snapshot_group_recovered(f->g->id, f->g->state);
    return true;
}

static void remember(Found *f)
{
    for (guint i = 0; i < f->g->members->len; i++) {
        const GroupMember *m = g_ptr_array_index(f->g->members, i);
        const FoundMember *n = g_ptr_array_index(f->members, i);

        if (m->file && !f->g->retired) {
            superseded_add(f->g->id, m->file, &n->id, m->overlay_file, f->begun);
        }
    }
    group_register(g_steal_pointer(&f->g));
}

static bool coroutine_fn recover(Error **errp)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(found_free);

    if (!store_write(trim, NULL, errp) || !store_write(read_all, all, errp)) {
        return false;
    }
    for (guint i = 0; i < all->len; i++) {
        if (!recover_group(g_ptr_array_index(all, i), errp)) {
            return false;
        }
    }
    for (guint i = 0; i < all->len; i++) {
        remember(g_ptr_array_index(all, i));
    }
    return journal_load_pivots(errp) && journal_load_relinks(errp);
}

typedef struct Open {
    const JournalOptions *options;
    Error *err;
} Open;

static int open_on_worker(void *opaque)
{
    Open *o = opaque;

    return store_open(o->options->path, o->options->set_aside_damaged, &o->err) ? 0 : -1;
}

static int close_on_worker(void *opaque)
{
    (void)opaque;
    store_close();
    return 0;
}

bool coroutine_fn journal_open(const JournalOptions *options, Error **errp)
{
    Open o = {.options = options};

    if (store_is_open()) {
        error_set(errp, ERROR_EXISTS, options->path, "open", "There is a snapshot journal already");
        return false;
    }
    if (worker_run(WORKERS_CONTROL, open_on_worker, &o) < 0) {
        error_move(errp, &o.err);
        return false;
    }
    superseded_set_follow(options->follow);
    job_relink = journal_relink;
    job_pivot_journal = &journal_pivot;
    put_away_watch = &journal_put_away;
    if (!recover(errp)) {
        journal_close();
        return false;
    }
    return true;
}

void coroutine_fn journal_close(void)
{
    if (store_is_open()) {
        worker_run(WORKERS_CONTROL, close_on_worker, NULL);
        superseded_clear();
        job_relink = NULL;
        job_pivot_journal = NULL;
        put_away_watch = NULL;
    }
}

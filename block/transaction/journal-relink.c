/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Chains that jobs have merged: which disk is on top of which now.
 *
 * A recorded group protects the disks that it has put overlays on.  When a job takes an overlay out of the chain, or makes an old disk the
 * newest again, that changes: the journal gets a row that says so before it happens.  Rows are kept beside the groups, which go on to
 * tell what once was.  A row counts against all that was recorded of the file before it.
 */
#include "journal-internal.h"
#include "journal-store.h"
#include "journal-superseded.h"
#include <fcntl.h>

typedef struct Relink {
    char *file, *overlay; /* overlay: NULL: none */
    FileIdentity id;
    int64_t at; /* ns since the epoch */
} Relink;

static void relink_free(gpointer p)
{
    Relink *r = p;

    g_free(r->file);
    g_free(r->overlay);
    g_free(r);
}

static bool make_table(sqlite3 *db, Error **errp)
{
    return store_exec(
        db, errp,
        "CREATE TABLE IF NOT EXISTS relinked (dev INTEGER, ino INTEGER, birth INTEGER, "
        "file TEXT NOT NULL, overlay_file TEXT, at INTEGER NOT NULL, "
        "PRIMARY KEY (dev, ino, birth))",
        "");
}

bool relink_write(sqlite3 *db, const char *file, const FileIdentity *id, const char *overlay,
                  int64_t at, Error **errp)
{
    return make_table(db, errp) &&
           store_exec(db, errp,
                      "INSERT OR REPLACE INTO relinked (dev, ino, birth, file, overlay_file, at) "
                      "VALUES (?, ?, ?, ?, ?, ?)",
                      "iiissi", (int64_t)id->dev, (int64_t)id->ino, id->birth, file, overlay, at);
}

static bool write_relink(sqlite3 *db, void *opaque, Error **errp)
{
    const Relink *r = opaque;

    return relink_write(db, r->file, &r->id, r->overlay, r->at, errp);
}

bool coroutine_fn journal_relink(const char *file, const char *overlay, Error **errp)
{
    Relink r = {.file = (char *)file, .overlay = (char *)overlay, .at = g_get_real_time() * 1000};

    if (!journal_active() || file_identity_at(AT_FDCWD, file, &r.id) < 0 || r.id.ino == 0 ||
        (!overlay && !superseded_has(&r.id))) {
        return true;
    }
    if (!store_write(write_relink, &r, errp)) {
        return false;
    }
    superseded_relink(file, &r.id, overlay, r.at);
    return true;
}

static bool read_all(sqlite3 *db, void *opaque, Error **errp)
{
    GPtrArray *all = opaque;
    sqlite3_stmt *s = NULL;
    int ret;

    if (!make_table(db, errp)) {
        return false;
    }
    ret = sqlite3_prepare_v2(
        db, "SELECT dev, ino, birth, file, overlay_file, at FROM relinked ORDER BY at", -1, &s,
        NULL);
    while (ret == SQLITE_OK && (ret = sqlite3_step(s)) == SQLITE_ROW) {
        Relink *r = g_new0(Relink, 1);

        r->id.dev = sqlite3_column_int64(s, 0);
        r->id.ino = sqlite3_column_int64(s, 1);
        r->id.birth = sqlite3_column_int64(s, 2);
        r->file = g_strdup((const char *)sqlite3_column_text(s, 3));
        r->overlay = g_strdup((const char *)sqlite3_column_text(s, 4));
        r->at = sqlite3_column_int64(s, 5);
        g_ptr_array_add(all, r);
        ret = SQLITE_OK;
    }
    if (ret != SQLITE_DONE) {
        store_error(db, errp, "read");
    }
    sqlite3_finalize(s);
    return ret == SQLITE_DONE;
}

bool coroutine_fn journal_load_relinks(Error **errp)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new_with_free_func(relink_free);

    if (!store_write(read_all, all, errp)) {
        return false;
    }
    for (guint i = 0; i < all->len; i++) {
        const Relink *r = g_ptr_array_index(all, i);

        superseded_relink(r->file, &r->id, r->overlay, r->at);
    }
    return true;
}

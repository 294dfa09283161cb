/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Disks whose users a job moves to another image (the pivot of an active commit): which of the two is the disk after a crash.
 *
 * Words: `from` is what users leave, `to` where they go.
 *
 * While writes to `from` are held, both images have the same data.  What decides afterwards is the first write that a guest is told of: into `to`
 * if the pivot happened, into `from` if the hold ended by itself.  A hold that could only end after a write to the journal would have no limit, so
 * the journal cannot know in time which it was.  Hence a row that is in doubt:
 *
 *   begin     "`to` is the disk once its file is another one than now", where "now" is its time of modification and size.  `to` is at rest: nothing
 *             writes to it but guests after the pivot.  If it never happens, or nobody writes, `from` is the disk, and it has everything
 *   done      `to` is the disk, `from` is merged
 *   give_up   no row; only after it may the job write into `to` again
 *
 * Between begin and the other two a flush of `to` makes its times durable too (Node.flush_times), so that a power failure tells the same.  The
 * clock that files' times are taken from must have ticked between begin and the pivot, or the first write would not show.
 *
 * A row in doubt is decided when the journal is opened.  A merged disk is not opened for writing as long as its file is what the job left, or what its
 * driver has made of it when it was put away afterwards.
 */
#include "block/job.h"
#include "block/put-away.h"
#include "journal-internal.h"
#include "journal-store.h"
#include "journal-superseded.h"
#include "util/log.h"
#include "util/loop.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

/* A clock that is further ahead than this is another machine's (network file systems). */
#define SAME_CLOCK_NS INT64_C(20000000)

typedef struct Pivot {
    char *from, *to;
    FileIdentity from_id, to_id;
    FilePrint print; /* begin: of `to`; done: of `from` */
    int64_t at;      /* ns since the epoch */
} Pivot;

static void pivot_free(gpointer p)
{
    Pivot *v = p;

    g_free(v->from);
    g_free(v->to);
    g_free(v);
}

bool file_print(const char *file, FilePrint *ret)
{
    struct stat st;

    if (stat(file, &st) < 0) {
        return false;
    }
    *ret = (FilePrint){
        .modified = st.st_mtim.tv_sec * INT64_C(1000000000) + st.st_mtim.tv_nsec,
        .size = st.st_size,
    };
    return true;
}

bool file_print_equal(const FilePrint *a, const FilePrint *b)
{
    return a->modified == b->modified && a->size == b->size;
}

static bool identify(const char *file, FileIdentity *ret)
{
    return file_identity_at(AT_FDCWD, file, ret) == 0 && ret->ino != 0;
}

static bool make_tables(sqlite3 *db, Error **errp)
{
    return store_exec(db, errp,
                      "CREATE TABLE IF NOT EXISTS pivots (dev INTEGER, ino INTEGER, birth INTEGER, "
                      "file TEXT NOT NULL, from_file TEXT NOT NULL, modified INTEGER NOT NULL, "
                      "size INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (dev, ino, birth))",
                      "") &&
           store_exec(db, errp,
                      "CREATE TABLE IF NOT EXISTS merged (dev INTEGER, ino INTEGER, birth INTEGER, "
                      "file TEXT NOT NULL, into_file TEXT NOT NULL, modified INTEGER NOT NULL, "
                      "size INTEGER NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (dev, ino, birth))",
                      "");
}

static bool delete_row(sqlite3 *db, const char *table, const FileIdentity *id, Error **errp)
{
    g_autofree char *sql =
        g_strdup_printf("DELETE FROM %s WHERE dev = ? AND ino = ? AND birth = ?", table);

    return store_exec(db, errp, sql, "iii", (int64_t)id->dev, (int64_t)id->ino, id->birth);
}

static bool write_begin(sqlite3 *db, void *opaque, Error **errp)
{
    Pivot *v = opaque;

    if (!file_print(v->to, &v->print)) {
        error_set(errp, ERROR_IO, v->to, "stat", "Could not read the state of '%s'", v->to);
        return false;
    }
    return make_tables(db, errp) &&
           store_exec(db, errp,
                      "INSERT OR REPLACE INTO pivots (dev, ino, birth, file, from_file, modified, "
                      "size, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                      "iiissiii", (int64_t)v->to_id.dev, (int64_t)v->to_id.ino, v->to_id.birth,
                      v->to, v->from, v->print.modified, v->print.size, v->at);
}

static bool write_done(sqlite3 *db, void *opaque, Error **errp)
{
    Pivot *v = opaque;

    if (!file_print(v->from, &v->print)) {
        v->print = (FilePrint){0}; /* nobody can open it either */
    }
    return make_tables(db, errp) && relink_write(db, v->to, &v->to_id, NULL, v->at, errp) &&
           store_exec(db, errp,
                      "INSERT OR REPLACE INTO merged (dev, ino, birth, file, into_file, modified, "
                      "size, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                      "iiissiii", (int64_t)v->from_id.dev, (int64_t)v->from_id.ino,
                      v->from_id.birth, v->from, v->to, v->print.modified, v->print.size, v->at) &&
           delete_row(db, "pivots", &v->to_id, errp);
}

static bool write_give_up(sqlite3 *db, void *opaque, Error **errp)
{
    const Pivot *v = opaque;

    return delete_row(db, "pivots", &v->to_id, errp);
}

static void pivot_init(Pivot *v, const char *from, const char *to)
{
    *v = (Pivot){.from = (char *)from, .to = (char *)to, .at = g_get_real_time() * 1000};
}

static int64_t clock_of_files(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME_COARSE, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static bool coroutine_fn begin(const char *from, const char *to, bool *ret_recorded, Error **errp)
{
    int64_t ahead;
    Pivot v;

    *ret_recorded = false;
    pivot_init(&v, from, to);
    if (!journal_active() || !identify(from, &v.from_id) || !identify(to, &v.to_id)) {
        return true;
    }
    if (!store_write(write_begin, &v, errp)) {
        return false;
    }
    *ret_recorded = true;
    while ((ahead = v.print.modified - clock_of_files()) >= 0 && ahead < SAME_CLOCK_NS) {
        co_sleep_ns(500000);
    }
    return true;
}

static void remember(const Pivot *v)
{
    superseded_relink(v->to, &v->to_id, NULL, v->at);
    superseded_relink(v->from, &v->from_id, NULL, v->at);
    superseded_add_merged(v->from, &v->from_id, v->to, &v->print, v->at);
}

static bool coroutine_fn done(const char *from, const char *to, Error **errp)
{
    Pivot v;

    pivot_init(&v, from, to);
    if (!identify(from, &v.from_id) || !identify(to, &v.to_id)) {
        return true;
    }
    if (!store_write(write_done, &v, errp)) {
        return false;
    }
    remember(&v);
    return true;
}

static bool coroutine_fn give_up(const char *to, Error **errp)
{
    Pivot v;

    pivot_init(&v, NULL, to);
    return !identify(to, &v.to_id) || store_write(write_give_up, &v, errp);
}

/* ---- afterwards ---- */

/* A merged disk is put away: what its driver writes of its own into the file (bitmaps) is not somebody's data. */
static void *merged_begin(const char *file)
{
    return superseded_is_merged(file) ? g_strdup(file) : NULL;
}

static bool write_print(sqlite3 *db, void *opaque, Error **errp)
{
    Pivot *v = opaque;

    return store_exec(
        db, errp,
        "UPDATE merged SET modified = ?, size = ? WHERE dev = ? AND ino = ? AND birth = ?", "iiiii",
        v->print.modified, v->print.size, (int64_t)v->from_id.dev, (int64_t)v->from_id.ino,
        v->from_id.birth);
}

static void coroutine_fn merged_end(void *token)
{
    g_autofree char *file = token;
    g_autoptr(Error) err = NULL;
    Pivot v = {.from = file};

    if (superseded_is_merged(file) || !identify(file, &v.from_id) || !file_print(file, &v.print)) {
        return; /* nothing was written, or it is gone */
    }
    superseded_set_print(file, &v.print);
    if (!store_write(write_print, &v, &err)) {
        log_error("the snapshot journal could not be told what '%s', which was merged, looks like "
                  "now: %s",
                  file, err->message);
    }
}

const PutAwayWatch journal_put_away = {.begin = merged_begin, .end = merged_end};

const JobPivotJournal journal_pivot = {.begin = begin, .done = done, .give_up = give_up};

/* ---- at the start ---- */

static bool read_rows(sqlite3 *db, const char *sql, GPtrArray *ret, Error **errp)
{
    sqlite3_stmt *s = NULL;
    int code = sqlite3_prepare_v2(db, sql, -1, &s, NULL);

    while (code == SQLITE_OK && (code = sqlite3_step(s)) == SQLITE_ROW) {
        Pivot *v = g_new0(Pivot, 1);

        v->from = g_strdup((const char *)sqlite3_column_text(s, 0));
        v->to = g_strdup((const char *)sqlite3_column_text(s, 1));
        v->print.modified = sqlite3_column_int64(s, 2);
        v->print.size = sqlite3_column_int64(s, 3);
        v->at = sqlite3_column_int64(s, 4);
        v->from_id = v->to_id = (FileIdentity){
            .dev = sqlite3_column_int64(s, 5),
            .ino = sqlite3_column_int64(s, 6),
            .birth = sqlite3_column_int64(s, 7),
        };
        g_ptr_array_add(ret, v);
        code = SQLITE_OK;
    }
    if (code != SQLITE_DONE) {
        store_error(db, errp, "read");
    }
    sqlite3_finalize(s);
    return code == SQLITE_DONE;
}

/* A row in doubt: of the two, whose file is the disk? */
static bool decide(sqlite3 *db, Pivot *v, Error **errp)
{
    FileIdentity now;
    FilePrint print;

    if (!identify(v->to, &now) || !file_identity_equal(&now, &v->to_id) ||
        !identify(v->from, &v->from_id) || !file_print(v->to, &print) ||
        file_print_equal(&print, &v->print)) {
        return write_give_up(db, v, errp);
    }
    log_info("the users of '%s' had been moved to '%s' when the last process ended", v->from,
             v->to);
    return write_done(db, v, errp);
}

static bool load(sqlite3 *db, void *opaque, Error **errp)
{
    g_autoptr(GPtrArray) doubtful = g_ptr_array_new_with_free_func(pivot_free);

    if (!make_tables(db, errp) ||
        !read_rows(
            db,
            "SELECT from_file, file, modified, size, at, dev, ino, birth FROM pivots ORDER BY at",
            doubtful, errp)) {
        return false;
    }
    for (guint i = 0; i < doubtful->len; i++) {
        if (!decide(db, g_ptr_array_index(doubtful, i), errp)) {
            return false;
        }
    }
    return read_rows(
        db, "SELECT file, into_file, modified, size, at, dev, ino, birth FROM merged ORDER BY at",
        opaque, errp);
}

bool coroutine_fn journal_load_pivots(Error **errp)
{
    g_autoptr(GPtrArray) merged = g_ptr_array_new_with_free_func(pivot_free);

    if (!store_write(load, merged, errp)) {
        return false;
    }
    for (guint i = 0; i < merged->len; i++) {
        const Pivot *v = g_ptr_array_index(merged, i);

        superseded_relink(v->from, &v->from_id, NULL, v->at);
        superseded_add_merged(v->from, &v->from_id, v->to, &v->print, v->at);
    }
    return true;
}

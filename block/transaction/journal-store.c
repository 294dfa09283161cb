/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The journal's store.
 *
 * SQLite in WAL mode with full sync: a write is one append and one fdatasync.  The database is locked exclusively from open to close, so
 * that a second daemon is refused.  One thread of its own writes, so that no worker that is busy with files delays a record;
 * what is waiting when it begins goes into one database transaction (each in a savepoint: one that fails takes nothing with it).
 *
 * A failed COMMIT may or may not be in the file.  Nothing that was in it is reported as done; the transactions concerned are undone.
 * The next COMMIT that succeeds takes the place of the failed one in the log, so one is tried before anything else is
 * written.  Should the process end before that and recovery find a group recorded that was undone, its overlays are not there.
 *
 * Lock: `lock` protects the queue; nothing is called with it held.
 */
#include "journal-store.h"
#include "block/file.h"
#include "util/worker.h"
#include "util/log.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define APPLICATION_ID 0x43757450 /* "CutP" */
#define SCHEMA_VERSION 1

static const char schema[] =
    "CREATE TABLE groups ("
    " id TEXT PRIMARY KEY, uuid TEXT NOT NULL, named INTEGER NOT NULL, digest TEXT,"
    " state TEXT NOT NULL, begun INTEGER, cut_time INTEGER, prepare_ns INTEGER, record_ns INTEGER,"
    " cut_ns INTEGER, settle_ns INTEGER, longest_wait INTEGER, recovered INTEGER NOT NULL DEFAULT "
    "0,"
    " retired INTEGER NOT NULL DEFAULT 0, messages TEXT);"
    "CREATE TABLE members ("
    " grp TEXT NOT NULL REFERENCES groups(id) ON DELETE CASCADE, idx INTEGER NOT NULL,"
    " node TEXT NOT NULL, file TEXT, dev INTEGER, ino INTEGER, birth INTEGER,"
    " overlay TEXT NOT NULL, overlay_file TEXT, how TEXT, o_dev INTEGER, o_ino INTEGER,"
    " o_birth INTEGER, size INTEGER, changed INTEGER, first_name TEXT, aside_name TEXT,"
    " a_dev INTEGER, a_ino INTEGER, a_birth INTEGER, wrote_backing INTEGER NOT NULL DEFAULT 0,"
    " state TEXT, longest_wait INTEGER, settle_ns INTEGER, PRIMARY KEY (grp, idx));"
    "CREATE TABLE writes (failures INTEGER NOT NULL);"
    "INSERT INTO writes VALUES (0);";

typedef struct Job {
    struct Job *next;
    StoreFn *fn;
    void *opaque;
    Error *err;
    bool ok;
    void (*done)(struct Job *j);
    void (*later_done)(void *opaque);
    Coroutine *co;
    bool finished; /* blocking ones; under lock */
} Job;

static struct {
    sqlite3 *db;
    char *path;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work, finished;
    Job *head, **tail;
    bool stop, failed;
} store = {.lock = PTHREAD_MUTEX_INITIALIZER,
           .work = PTHREAD_COND_INITIALIZER,
           .finished = PTHREAD_COND_INITIALIZER,
           .tail = &store.head};

void store_error(sqlite3 *db, Error **errp, const char *what)
{
    error_set(errp, ERROR_IO, store.path, what, "Could not %s the snapshot journal '%s': %s", what,
              store.path, sqlite3_errmsg(db));
}

bool store_is_open(void)
{
    return store.db != NULL;
}

bool store_exec(sqlite3 *db, Error **errp, const char *sql, const char *format, ...)
{
    sqlite3_stmt *stmt = NULL;
    va_list ap;
    int ret = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);

    va_start(ap, format);
    for (int i = 0; ret == SQLITE_OK && format[i]; i++) {
        if (format[i] == 's') {
            const char *text = va_arg(ap, const char *);

            ret = text ? sqlite3_bind_text(stmt, i + 1, text, -1, SQLITE_TRANSIENT)
                       : sqlite3_bind_null(stmt, i + 1);
        } else {
            ret = sqlite3_bind_int64(stmt, i + 1, va_arg(ap, int64_t));
        }
    }
    va_end(ap);
    if (ret == SQLITE_OK) {
        do {
            ret = sqlite3_step(stmt);
        } while (ret == SQLITE_ROW);
    }
    if (ret != SQLITE_DONE && errp) {
        store_error(db, errp, "write");
    }
    sqlite3_finalize(stmt);
    return ret == SQLITE_DONE;
}

/* ---- the thread ---- */

/* False: the whole batch fails.  (A job that fails by itself takes back what it did, and only that.) */
static bool run_job(Job *j)
{
    if (!store_exec(store.db, &j->err, "SAVEPOINT job", "")) {
        return false;
    }
    j->ok = j->fn(store.db, j->opaque, &j->err);
    if (!j->ok) {
        (void)store_exec(store.db, NULL, "ROLLBACK TO job", "");
    }
    return store_exec(store.db, j->err ? NULL : &j->err, "RELEASE job", "");
}

static void fail_job(Job *j, const Error *err)
{
    j->ok = false;
    if (!j->err) {
        error_set(&j->err, ERROR_IO, store.path, "write", "%s", err->message);
    }
}

/* After a failed COMMIT: see above. */
static bool overwrite_failure(Error **errp)
{
    if (store.failed) {
        if (!store_exec(store.db, errp, "UPDATE writes SET failures = failures + 1", "")) {
            return false;
        }
        store.failed = false;
        log_info("the snapshot journal can be written again");
    }
    return true;
}

static bool run_jobs(Job *jobs, Error **errp)
{
    if (!store_exec(store.db, errp, "BEGIN IMMEDIATE", "")) {
        return false;
    }
    for (Job *j = jobs; j; j = j->next) {
        if (!run_job(j)) {
            error_set(errp, ERROR_IO, store.path, "write", "%s", j->err->message);
            (void)store_exec(store.db, NULL, "ROLLBACK", "");
            return false;
        }
    }
    if (!store_exec(store.db, errp, "COMMIT", "")) {
        store.failed = true;
        (void)store_exec(store.db, NULL, "ROLLBACK", "");
        return false;
    }
    return true;
}

/* Runs what waits in one database transaction. */
static void run_batch(Job *jobs)
{
    g_autoptr(Error) err = NULL;

    if (!overwrite_failure(&err) || !run_jobs(jobs, &err)) {
        log_warn("%s", err->message);
        for (Job *j = jobs; j; j = j->next) {
            fail_job(j, err);
        }
    }
}

static void *store_main(void *unused)
{
    (void)unused;
    pthread_setname_np(pthread_self(), "journal");
    pthread_mutex_lock(&store.lock);
    for (;;) {
        Job *jobs;

        while (!store.head && !store.stop) {
            pthread_cond_wait(&store.work, &store.lock);
        }
        if (!store.head) {
            break;
        }
        jobs = store.head;
        store.head = NULL;
        store.tail = &store.head;
        pthread_mutex_unlock(&store.lock);
        run_batch(jobs);
        while (jobs) {
            Job *next = jobs->next;

            jobs->done(jobs); /* gone */
            jobs = next;
        }
        pthread_mutex_lock(&store.lock);
    }
    pthread_mutex_unlock(&store.lock);
    return NULL;
}

static void submit(Job *j)
{
    j->next = NULL;
    pthread_mutex_lock(&store.lock);
    *store.tail = j;
    store.tail = &j->next;
    pthread_cond_signal(&store.work);
    pthread_mutex_unlock(&store.lock);
}

static bool result(Job *j, Error **errp)
{
    if (!j->ok && j->err && errp) {
        error_move(errp, &j->err);
    }
    error_free(j->err);
    return j->ok;
}

static void wake_coroutine(Job *j)
{
    co_wake(j->co);
}

bool coroutine_fn store_write(StoreFn *fn, void *opaque, Error **errp)
{
    Job j = {.fn = fn, .opaque = opaque, .done = wake_coroutine, .co = co_self()};

    submit(&j);
    co_yield();
    return result(&j, errp);
}

static void wake_thread(Job *j)
{
    pthread_mutex_lock(&store.lock);
    j->finished = true;
    pthread_cond_broadcast(&store.finished);
    pthread_mutex_unlock(&store.lock);
}

bool store_write_blocking(StoreFn *fn, void *opaque, Error **errp)
{
    Job j = {.fn = fn, .opaque = opaque, .done = wake_thread};

    submit(&j);
    worker_wait_begin(); /* others shall have their part in the same durable write */
    pthread_mutex_lock(&store.lock);
    while (!j.finished) {
        pthread_cond_wait(&store.finished, &store.lock);
    }
    pthread_mutex_unlock(&store.lock);
    worker_wait_end();
    return result(&j, errp);
}

static void free_later(Job *j)
{
    if (j->later_done) {
        j->later_done(j->opaque);
    }
    error_free(j->err);
    g_free(j);
}

void store_write_later(StoreFn *fn, void (*done)(void *opaque), void *opaque)
{
    Job *j = g_new0(Job, 1);

    j->fn = fn;
    j->opaque = opaque;
    j->done = free_later;
    j->later_done = done;
    submit(j);
}

/* ---- open and close ---- */

typedef enum Opened { OPENED, DAMAGED, REFUSED } Opened;

static int one_int(void *ret, int n, char **values, char **names)
{
    (void)names;
    *(int64_t *)ret = n > 0 && values[0] ? g_ascii_strtoll(values[0], NULL, 10) : 0;
    return 0;
}

static int one_text(void *ret, int n, char **values, char **names)
{
    (void)names;
    if (n > 0 && !*(char **)ret) {
        *(char **)ret = g_strdup(values[0]);
    }
    return 0;
}

static bool is_damage(int ret)
{
    return (ret & 0xff) == SQLITE_CORRUPT || (ret & 0xff) == SQLITE_NOTADB;
}

static Opened refuse(int ret, Error **errp)
{
    if ((ret & 0xff) == SQLITE_BUSY || (ret & 0xff) == SQLITE_LOCKED) {
        error_set(errp, ERROR_BUSY, store.path, "open",
                  "Snapshot journal '%s' is in use by another process", store.path);
        return REFUSED;
    }
    if (is_damage(ret)) {
        error_set(errp, ERROR_CORRUPT, store.path, "open", "Snapshot journal '%s' is damaged: %s",
                  store.path, sqlite3_errmsg(store.db));
        return DAMAGED;
    }
    store_error(store.db, errp, "open");
    return REFUSED;
}

static Opened check_content(Error **errp)
{
    int64_t version = 0, application = 0, tables = 0;
    g_autofree char *problem = NULL;
    int ret = sqlite3_exec(store.db, "PRAGMA quick_check(1)", one_text, &problem, NULL);

    if (ret == SQLITE_OK) {
        ret = sqlite3_exec(store.db, "PRAGMA user_version", one_int, &version, NULL);
    }
    if (ret == SQLITE_OK) {
        ret = sqlite3_exec(store.db, "PRAGMA application_id", one_int, &application, NULL);
    }
    if (ret == SQLITE_OK) {
        ret = sqlite3_exec(store.db, "SELECT count(*) FROM sqlite_master", one_int, &tables, NULL);
    }
    if (ret != SQLITE_OK) {
        return refuse(ret, errp);
    }
    if (g_strcmp0(problem, "ok") != 0) {
        error_set(errp, ERROR_CORRUPT, store.path, "open", "Snapshot journal '%s' is damaged: %s",
                  store.path, problem);
        return DAMAGED;
    }
    if (tables == 0) {
        g_autofree char *sql = g_strdup_printf(
            "BEGIN; %s PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT;", schema,
            APPLICATION_ID, SCHEMA_VERSION);

        ret = sqlite3_exec(store.db, sql, NULL, NULL, NULL);
        return ret == SQLITE_OK ? OPENED : refuse(ret, errp);
    }
    if (application != APPLICATION_ID) {
        error_set(errp, ERROR_INVALID, store.path, "open",
                  "'%s' is a database, but no snapshot journal", store.path);
        return REFUSED;
    }
    if (version != SCHEMA_VERSION) {
        error_set(errp, ERROR_UNSUPPORTED, store.path, "open",
                  "Snapshot journal '%s' has version %d; this program knows version %d", store.path,
                  (int)version, SCHEMA_VERSION);
        return REFUSED;
    }
    return OPENED;
}

static Opened open_database(Error **errp)
{
    static const char *const pragmas[] = {
        "PRAGMA locking_mode = EXCLUSIVE",
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA foreign_keys = ON",
        "PRAGMA wal_autocheckpoint = 1000",
        "BEGIN EXCLUSIVE", /* takes the lock, which stays */
        "COMMIT",
    };
    struct stat st;
    int ret;

    if (stat(store.path, &st) == 0 && !S_ISREG(st.st_mode)) {
        error_set(errp, ERROR_INVALID, store.path, "open",
                  "Could not open the snapshot journal '%s': not a regular file", store.path);
        return REFUSED;
    }
    ret = sqlite3_open_v2(store.path, &store.db,
                          SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOFOLLOW |
                              SQLITE_OPEN_FULLMUTEX,
                          NULL);
    for (unsigned i = 0; ret == SQLITE_OK && i < G_N_ELEMENTS(pragmas); i++) {
        ret = sqlite3_exec(store.db, pragmas[i], NULL, NULL, NULL);
    }
    return ret == SQLITE_OK ? check_content(errp) : refuse(ret, errp);
}

static void close_database(void)
{
    sqlite3_close(store.db);
    store.db = NULL;
}

/* The database and what SQLite keeps beside it. */
static bool set_aside(Error **errp)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    g_autofree char *now = g_strdup_printf("%" G_GINT64_FORMAT, (int64_t)time(NULL));

    for (unsigned i = 0; i < G_N_ELEMENTS(suffixes); i++) {
        g_autofree char *from = g_strconcat(store.path, suffixes[i], NULL);
        g_autofree char *to = g_strconcat(store.path, ".damaged-", now, suffixes[i], NULL);

        if (rename(from, to) < 0 && (errno != ENOENT || i == 0)) {
            error_set_errno(errp, errno, from, "open", "Could not rename '%s' to '%s'", from, to);
            return false;
        }
    }
    log_warn("the damaged snapshot journal is kept as '%s.damaged-%s'; a new one is begun: what "
             "groups it held is not known any more",
             store.path, now);
    return true;
}

/* As open_database(); while the process starts it waits for another one that has it open. */
static Opened open_when_free(Error **errp)
{
    for (;;) {
        g_autoptr(Error) err = NULL;
        Opened o = open_database(&err);

        if (o == OPENED || err->kind != ERROR_BUSY || !file_locks_wait()) {
            error_move(errp, &err);
            return o;
        }
        close_database();
    }
}

static bool open_or_set_aside(bool may_set_aside, Error **errp)
{
    g_autoptr(Error) err = NULL;
    Opened o = open_when_free(&err);

    if (o == DAMAGED && may_set_aside) {
        close_database();
        g_clear_pointer(&err, error_free);
        if (!set_aside(errp)) {
            return false;
        }
        o = open_database(&err);
    } else if (o == DAMAGED) {
        error_hint(&err,
                   "The option damaged=set-aside keeps it under another name and begins a new one");
    }
    if (o != OPENED) {
        close_database();
        error_move(errp, &err);
    }
    return o == OPENED;
}

bool store_open(const char *path, bool may_set_aside, Error **errp)
{
    g_assert(!store.db);
    store.path = g_canonicalize_filename(path, NULL);
    if (!open_or_set_aside(may_set_aside, errp)) {
        g_clear_pointer(&store.path, g_free);
        return false;
    }
    store.stop = store.failed = false;
    if (pthread_create(&store.thread, NULL, store_main, NULL) != 0) {
        error_set(errp, ERROR_IO, path, "open", "Could not start the journal's thread");
        close_database();
        return false;
    }
    return true;
}

void store_close(void)
{
    if (!store.db) {
        return;
    }
    pthread_mutex_lock(&store.lock);
    store.stop = true;
    pthread_cond_signal(&store.work);
    pthread_mutex_unlock(&store.lock);
    pthread_join(store.thread, NULL);
    close_database();
    g_clear_pointer(&store.path, g_free);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The journal's store: an SQLite database and the thread that writes to it; private to block/transaction/.
 */
#ifndef BLOCK_TRANSACTION_JOURNAL_STORE_H
#define BLOCK_TRANSACTION_JOURNAL_STORE_H

#include "util/coroutine.h"
#include "util/error.h"
#include <sqlite3.h>

/* Runs in the journal's thread, inside a database transaction; on false what it did is undone. */
typedef bool StoreFn(sqlite3 *db, void *opaque, Error **errp);

/* Blocks.  Errors as journal_open()'s.  set_aside: a damaged one is renamed and a new one begun. */
bool store_open(const char *path, bool set_aside, Error **errp);
/* Blocks until all is written. */
void store_close(void);
bool store_is_open(void);

/* Durable when it returns true.  Several that are asked for at once share one write. */
bool coroutine_fn store_write(StoreFn *fn, void *opaque, Error **errp);
/* The same from a worker thread: blocks. */
bool store_write_blocking(StoreFn *fn, void *opaque, Error **errp);
/* Does not wait; done (may be NULL) runs in the journal's thread afterwards. */
void store_write_later(StoreFn *fn, void (*done)(void *opaque), void *opaque);

/* Runs one statement.  format: 's' const char *, 'i' int64_t; one for each parameter.  False: errp (may be NULL) says why. */
bool store_exec(sqlite3 *db, Error **errp, const char *sql, const char *format, ...);
/* An error of SQLite's. */
void store_error(sqlite3 *db, Error **errp, const char *what);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The snapshot journal: what makes groups all or nothing even across a crash.
 *
 * An SQLite database that one daemon at a time has open.  docs/operations.md tells users about it, block/transaction/journal.c how
 * it is kept.
 */
#ifndef BLOCK_JOURNAL_H
#define BLOCK_JOURNAL_H

#include "block/node.h"

struct BlockdevOptions;

typedef struct JournalOptions {
    const char *path;
    bool follow; /* opening a superseded disk for writing opens the recorded top instead */
    bool set_aside_damaged; /* a damaged journal is renamed, and a new one begun */
} JournalOptions;

/* Opens or makes the journal and recovers: undoes groups that are not recorded, completes those that are.  Before any other node is
 * opened.  Errors: it is in use by another process, is damaged, is of a newer version, cannot be read or written. */
bool coroutine_fn journal_open(const JournalOptions *options, Error **errp);
/* Everything that was to be written has been.  Does nothing without a journal. */
void coroutine_fn journal_close(void);

#endif

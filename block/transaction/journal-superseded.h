/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Disks that recorded groups have superseded: their data goes on in an overlay, and writing to them would damage it.  Control thread.
 *
 * A disk is known by its file's identity, so that a copy or another file under the same name is not meant.
 */
#ifndef BLOCK_TRANSACTION_JOURNAL_SUPERSEDED_H
#define BLOCK_TRANSACTION_JOURNAL_SUPERSEDED_H

#include "block/file.h"
#include "group.h"

/* The group of id `group`, begun at `at` (ns since the epoch), put overlay_file on the file that had this identity.  Strings are copied. */
void superseded_add(const char *group, const char *file, const FileIdentity *id,
                    const char *overlay_file, int64_t at);
/* What a file shows of having been written to. */
typedef struct FilePrint {
    int64_t modified; /* ns since the epoch */
    int64_t size;     /* bytes */
} FilePrint;
/* Blocks.  False: there is no such file. */
bool file_print(const char *file, FilePrint *ret);
bool file_print_equal(const FilePrint *a, const FilePrint *b);

/* Is there a record of the file with this identity? */
bool superseded_has(const FileIdentity *id);
/* A job merged chains at `at`: what is recorded of the file from before does not count any more; overlay_file (NULL: none) is on top of it now. */
void superseded_relink(const char *file, const FileIdentity *id, const char *overlay_file,
                       int64_t at);
/* A job moved the users of the file to into_file at `at`, and the file was like `print` then: as long as it still is, nobody shall write to it. */
void superseded_add_merged(const char *file, const FileIdentity *id, const char *into_file,
                           const FilePrint *print, int64_t at);
/* Is it known by this name, and is it still like that?  Blocks. */
bool superseded_is_merged(const char *file);
/* It is like `print` now, and nobody has written to it. */
void superseded_set_print(const char *file, const FilePrint *print);
/* All members of a committed group. */
void superseded_add_group(const Group *g);
void superseded_set_follow(bool follow);
void superseded_clear(void);

#endif

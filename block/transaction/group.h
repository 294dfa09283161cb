/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Snapshot groups: what is known of them, now and afterwards; private to block/transaction/.  Control thread.
 *
 * Every transaction has a group from its start.  When the transaction is decided (cut, aborted on demand, expired) its group goes
 * to the register, which query-snapshot-groups shows; a transaction that fails leaves none.  With a journal the register is
 * filled from it at the start.
 */
#ifndef BLOCK_TRANSACTION_GROUP_H
#define BLOCK_TRANSACTION_GROUP_H

#include "qapi-types.h"
#include "util/error.h"
#include <glib.h>

typedef struct GroupMember {
    char *node, *file;            /* the old image; file may be NULL */
    char *overlay, *overlay_file; /* likewise; both NULL for an internal snapshot: */
    char *snapshot;               /* its name */
    SnapshotGroupState state;     /* settling, settled, degraded */
    int64_t longest_wait;         /* ns; -1: not known */
    int64_t settle_ns;            /* from the cut; -1: not known */
} GroupMember;

typedef struct Group {
    char *id;     /* its name, or the UUID */
    char *uuid;   /* as text */
    bool named;   /* the user chose the id */
    char *digest; /* of what was asked for under this id; NULL: nothing can be asked again */
    SnapshotGroupState state;
    bool durable, recovered, retired;
    int64_t cut_time; /* ns since the epoch; 0: none */
    int64_t prepare_ns, record_ns, cut_ns, settle_ns, longest_wait; /* -1: not known */
    GPtrArray *members;                                             /* GroupMember * */
    GPtrArray *messages;                                            /* char * */
} Group;

/* id: NULL: the UUID.  Both strings are copied. */
Group *group_new(const char *id, const char *digest);
void group_free(Group *g);
/* Takes over the strings. */
GroupMember *group_add_member(Group *g, char *node, char *file, char *overlay, char *overlay_file);
void group_message(Group *g, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* "Invalid group name '%s'" */
bool group_id_check(const char *id, Error **errp);

/* The register owns g from here on. */
void group_register(Group *g);
/* A registered group; NULL: none. */
Group *group_find(const char *id);
/* One, or all if id is NULL. */
SnapshotGroupInfoList *group_query(const char *id);

#endif

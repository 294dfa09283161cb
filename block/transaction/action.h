/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Actions and the planned graph; private to block/transaction/.
 *
 * An action answers for its part of every phase (transaction.c says when each is called).  All functions run in the control
 * thread; those marked coroutine_fn may suspend.
 */
#ifndef BLOCK_TRANSACTION_ACTION_H
#define BLOCK_TRANSACTION_ACTION_H

#include "block/change.h"
#include "block/graph.h"
#include "block/job.h"
#include "block/transaction.h"
#include "group.h"

typedef struct Action Action;
typedef struct PlannedGraph PlannedGraph;
typedef struct PlannedNode PlannedNode;

typedef enum FreezeResult {
    FREEZE_DONE,
    FREEZE_LATE,   /* the deadline passed: writes go on, it can be tried again */
    FREEZE_FAILED, /* with an error */
} FreezeResult;

/* Actions whose disk has to stand still for a moment; freeze.c says when each is called. */
typedef struct FreezeOps {
    /* Writes to the disk wait, at most until clock_ns() passes the deadline. */
    void (*hold)(Action *a, int64_t deadline_ns);
    /* The writes inside have ended, and what they leave to do is done. */
    FreezeResult coroutine_fn (*still)(Action *a, int64_t deadline_ns, Error **errp);
    /* The deadline does not count any more, until unclaim or let_go, which follow in the same turn of the loop.  False: it has passed. */
    bool (*claim)(Action *a);
    void (*unclaim)(Action *a);
    /* Claimed: the state is taken.  Neither fails nor suspends. */
    void (*flip)(Action *a);
    /* Writes go on; also after a deadline. */
    void (*let_go)(Action *a);
    /* What was taken gets durable. */
    FreezeResult coroutine_fn (*store)(Action *a, int64_t deadline_ns, Error **errp);
    /* After LATE: as after prepare. */
    bool coroutine_fn (*again)(Action *a, Error **errp);
} FreezeOps;

typedef struct ActionOps {
    const char *name; /* as in the schema */
    /* Checks against the graph as the earlier actions will leave it, adds to it what this one will do, and reserves.
     * Changes nothing else; may be followed by free alone. */
    bool (*plan)(Action *a, PlannedGraph *g, Error **errp);
    /* After a successful plan: adds the disk that the action snapshots to the group.  NULL: it snapshots none. */
    GroupMember *(*member)(Action *a, Group *g);
    /* Beyond plan, for transaction-check: what prepare would find, without doing anything that leaves a trace; errors and
     * warnings.  May suspend. */
    bool coroutine_fn (*check)(Action *a, char **ret_warning, Error **errp);
    /* File name of the overlay that it will open; freed by the caller. */
    char *(*filename)(const Action *a);
    /* The file that prepare made; NULL: none. */
    struct SnapshotFile *(*file)(Action *a);
    /* All that is slow and can fail, and needs no other action.  Runs beside the prepares of all other actions. */
    bool coroutine_fn (*prepare)(Action *a, Error **errp);
    /* After all prepares, in list order: what builds on earlier actions.  May fail. */
    bool coroutine_fn (*link)(Action *a, Error **errp);
    const FreezeOps *freeze; /* NULL: the disk need not stand still */
    /* At the cut, right after it, in list order: what queries show.  Cannot fail nor suspend. */
    void (*commit)(Action *a);
    /* Old requests have ended, nothing of `settled` has begun; in list order.  Cannot fail nor suspend. */
    void (*ended)(Action *a);
    /* Settled: gives up what only old requests needed.  Beside those of the other actions.  Cannot fail. */
    void coroutine_fn (*settled)(Action *a);
    /* Takes back all that prepare and link did, however far they came.  Newest action first. */
    void coroutine_fn (*undo)(Action *a);
    /* Frees memory. */
    void (*free)(Action *a);
} ActionOps;

struct Action {
    const ActionOps *ops;
    Transaction *t;
    unsigned index;      /* in the list, from 0 */
    GroupMember *member; /* the group's */
};

struct Transaction {
    char *id, *digest; /* as asked for; NULL: none */
    TransactionState state;
    GPtrArray *actions;         /* Action * */
    PlannedGraph *graph;        /* while planning and preparing */
    GPtrArray *nodes;           /* reserved, references */
    GPtrArray *names;           /* reserved node names */
    GPtrArray *files_to_commit; /* SnapshotFile *, the actions': from settled on, to be committed */
    Group *group;               /* from prepare on */
    Change *change;
    int64_t begun, prepared, settled; /* clock_ns() */
    int64_t
        flipped; /* ns since the epoch: when the state of internal snapshots was taken; 0: there are none */
    int64_t settle_timeout_ns;
    JobGroup *jobs; /* of the jobs of all actions; NULL: each has its own */
    bool running;
    bool armed;            /* the change is: undo disarms it */
    bool recorded;         /* T2: there is no way back, but for a hold that expires or is aborted */
    bool group_registered; /* the register owns the group */
    bool detached;         /* the command has its reply; settling goes on: frees itself */
    /* prepared.c */
    bool
        kept; /* prepared, until somebody decides or the time passes: others fail as busy at once */
    bool ending;      /* somebody decides right now */
    int64_t deadline; /* clock_ns() */
    Timer expiry;
};

/* ---- transaction.c: the phases; all are coroutines of the control thread ---- */

/* Plan, intent, prepare and link.  On failure all is as before. */
bool coroutine_fn transaction_prepare(Transaction *t, Error **errp);
/* On failure the caller undoes. */
bool coroutine_fn transaction_record(Transaction *t, Error **errp);
/* Cut, and settle as far as a reply waits for it.  False: it was held and the time passed; the caller undoes. */
bool coroutine_fn transaction_cut(Transaction *t);
/* Record, cut and settle of a transaction that is not held.  On failure the caller undoes. */
bool coroutine_fn transaction_decide(Transaction *t, Error **errp);
/* The cut alone, of one that is not held: cannot fail, nor suspend. */
void transaction_cut_now(Transaction *t);
void coroutine_fn transaction_undo(Transaction *t);
/* Reservations end; t may be freed. */
void coroutine_fn transaction_end(Transaction *t);
void transaction_set_state(Transaction *t, TransactionState state);
GPtrArray *transactions_under_way(void);

/* Takes ownership of a. */
void transaction_add(Transaction *t, Action *a);

/* ---- freeze.c ---- */

/* Are there actions that need it? */
bool transaction_freezes(const Transaction *t);
/* Takes and stores internal snapshots, records, cuts.  On failure the caller undoes. */
bool coroutine_fn transaction_freeze(Transaction *t, Error **errp);

/* ---- plan.c ---- */

struct PlannedNode {
    char *name;
    Node *real;           /* NULL: an earlier action will have made it */
    Action *maker;        /* of a planned one */
    Node *made;           /* set by the maker when it has opened it */
    PlannedNode *overlay; /* on top of it in this transaction */
    Action *filter;       /* puts a filter on top of it in this transaction */
    bool is_overlay;      /* of another in this transaction */
    Action *snapshots;    /* the first that makes an internal snapshot in it */
};

PlannedGraph *planned_graph_new(Transaction *t);
void planned_graph_free(PlannedGraph *g);
/* As node_lookup(), over real and planned nodes. */
PlannedNode *planned_lookup(PlannedGraph *g, const char *device, const char *node_name,
                            Error **errp);
/* A node that an action will make; its name is reserved.  Error: "New overlay node-name already in use". */
PlannedNode *planned_new(PlannedGraph *g, Action *maker, const char *name, Error **errp);
/* No old node of a transaction may be below another one of it. */
bool planned_check_nesting(PlannedGraph *g, const PlannedNode *old, Error **errp);
/* The same as planned_new() with a generated name, which nobody can have. */
PlannedNode *planned_new_auto(PlannedGraph *g, Action *maker, const char *name);
/* A file that an action will write; the same one twice fails as QEMU's lock does. */
bool planned_file(PlannedGraph *g, const char *path, Error **errp);
/* File name of a node, real or planned; NULL: it has none.  Freed by the caller. */
char *planned_filename(const PlannedNode *p);
/* The node that a planned one is by now. */
Node *planned_node(const PlannedNode *p);

/* ---- reserve.c ---- */

/* Reserves n for t.  False: another transaction has it; *ret_busy names the node. */
bool transaction_reserve(Transaction *t, Node *n);
void transaction_release_all(Transaction *t);
void transaction_began(Transaction *t);
void transaction_ended(Transaction *t);
/* Suspends until some transaction ends or clock_ns() passes the deadline. */
void coroutine_fn transaction_wait_other(int64_t deadline_ns);
/* Some transaction has another state. */
void transaction_wake_waiters(void);

/* The bitmap of that name when the actions before a have been carried out; NULL: none. */
struct UserBitmap;
struct UserBitmap *planned_bitmap(const Action *a, const PlannedNode *p, const char *name);

/* ---- actions ---- */
Action *snapshot_sync_action_new(const SnapshotSyncArgs *args);
Action *snapshot_action_new(const char *node, const char *overlay);
Action *abort_action_new(void);

#endif

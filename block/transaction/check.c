/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Checking a transaction without doing it.
 *
 * Every action is planned against the graph as the earlier ones would leave it, as for a real transaction, and what it planned is
 * given back; then it is asked what its prepare would find (ActionOps.check).  An action that fails leaves the planned graph as it
 * was, and the next ones are planned all the same: one that needs what the failing one would have made fails as well.
 */
#include "action.h"

typedef struct Check {
    TransactionFailureList **failures;
    TransactionWarningList **warnings;
} Check;

static void add_failure(Check *c, const Action *a, const Error *err)
{
    TransactionFailureList *l = g_new0(TransactionFailureList, 1);

    l->value = g_new0(TransactionFailure, 1);
    l->value->index = a->index;
    l->value->class = (QapiErrorClass)err->cls;
    l->value->desc = g_strdup(err->message);
    *c->failures = l;
    c->failures = &l->next;
}

static void add_warning(Check *c, const Action *a, char *text)
{
    TransactionWarningList *l = g_new0(TransactionWarningList, 1);

    l->value = g_new0(TransactionWarning, 1);
    l->value->index = a->index;
    l->value->desc = text;
    *c->warnings = l;
    c->warnings = &l->next;
}

TransactionCheckInfo *coroutine_fn transaction_check(Transaction *t)
{
    TransactionCheckInfo *info = g_new0(TransactionCheckInfo, 1);
    Check c = {.failures = &info->failures, .warnings = &info->warnings};
    g_autofree bool *planned = g_new0(bool, MAX(t->actions->len, 1));

    transaction_began(t); /* who meets our reservations waits for our end */
    t->graph = planned_graph_new(t);
    for (guint i = 0; i < t->actions->len; i++) {
        Action *a = g_ptr_array_index(t->actions, i);
        g_autoptr(Error) err = NULL;

        planned[i] = !a->ops->plan || a->ops->plan(a, t->graph, &err);
        if (!planned[i]) {
            add_failure(&c, a, err);
        }
    }
    for (guint i = 0; i < t->actions->len; i++) {
        Action *a = g_ptr_array_index(t->actions, i);
        g_autofree char *warning = NULL;
        g_autoptr(Error) err = NULL;

        if (planned[i] && a->ops->check && !a->ops->check(a, &warning, &err)) {
            add_failure(&c, a, err);
        }
        if (warning) {
            add_warning(&c, a, g_steal_pointer(&warning));
        }
    }
    transaction_release_all(t);
    transaction_ended(t);
    return info;
}

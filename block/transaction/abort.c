/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The action `abort`: makes its transaction fail, after what comes before it in the list succeeded.
 */
#include "action.h"

static bool coroutine_fn abort_link(Action *a, Error **errp)
{
    (void)a;
    error_set(errp, ERROR_CANCELLED, NULL, "abort", "Transaction aborted using Abort action");
    return false;
}

static void abort_free(Action *a)
{
    g_free(a);
}

static const ActionOps abort_ops = {
    .name = "abort",
    .link = abort_link,
    .free = abort_free,
};

Action *abort_action_new(void)
{
    Action *a = g_new0(Action, 1);

    a->ops = &abort_ops;
    return a;
}

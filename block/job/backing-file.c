/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * change-backing-file: another name of the backing file in an image's header; no job, but what jobs do at their end.
 */
#include "chain.h"
#include <string.h>

static bool coroutine_fn change(const char *device, const char *image, const char *file,
                                Error **errp)
{
    Node *top = node_lookup(device, device, errp), *n;

    if (!top) {
        return false;
    }
    n = chain_lookup(image, errp);
    if (!n || !node_wait_unreserved(n, errp)) {
        return false;
    }
    n = chain_lookup(image, errp);
    if (!n || !node_check_no_job(n, errp)) {
        return false;
    }
    if (!chain_backing(n)) {
        error_set(errp, ERROR_INVALID, image, "backing",
                  "not allowing backing file change on an image without a backing file");
        return false;
    }
    if (!chain_contains(top, n)) {
        error_set(errp, ERROR_INVALID, image, "backing",
                  "'%s' and image file are not in the same chain", device);
        return false;
    }
    return chain_write_backing(n, chain_backing(n), file, false, errp);
}

bool coroutine_fn job_change_backing_file(const char *device, const char *image, const char *file,
                                          Error **errp)
{
    bool ok;

    chain_lock();
    ok = change(device, image, file, errp);
    chain_unlock();
    return ok;
}

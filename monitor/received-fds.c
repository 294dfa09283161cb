/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Descriptors that came with a client's bytes; see received-fds.h.
 */
#include "received-fds.h"
#include <unistd.h>

#define MAX_WAITING 64

typedef struct ReceivedFd {
    int fd;
    unsigned batch;
} ReceivedFd;

static void close_first(ReceivedFds *r)
{
    close(g_array_index(r->fds, ReceivedFd, 0).fd);
    g_array_remove_index(r->fds, 0);
}

void received_fds_add(ReceivedFds *r, const int *fds, unsigned n)
{
    if (!r->fds) {
        r->fds = g_array_new(false, false, sizeof(ReceivedFd));
    }
    r->newest++;
    for (unsigned i = 0; i < n; i++) {
        ReceivedFd f = {fds[i], r->newest};

        g_array_append_val(r->fds, f);
    }
    while (r->fds->len > MAX_WAITING) {
        close_first(r);
    }
}

int received_fds_take(ReceivedFds *r, unsigned batch)
{
    int fd;

    while (r->fds && r->fds->len > 0 &&
           (int)(g_array_index(r->fds, ReceivedFd, 0).batch - batch) < 0) {
        close_first(r);
    }
    if (!r->fds || r->fds->len == 0 || g_array_index(r->fds, ReceivedFd, 0).batch != batch) {
        return -1;
    }
    fd = g_array_index(r->fds, ReceivedFd, 0).fd;
    g_array_remove_index(r->fds, 0);
    return fd;
}

void received_fds_clear(ReceivedFds *r)
{
    while (r->fds && r->fds->len > 0) {
        close_first(r);
    }
    g_clear_pointer(&r->fds, g_array_unref);
}

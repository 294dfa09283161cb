/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Descriptors that came with a client's bytes, until a command takes them; private to monitor/.
 *
 * A client sends descriptors with a request or before it.  What comes later replaces what came before, for the requests that are
 * complete then: so each batch has a number, a request notes the newest when it is complete, and older ones are closed
 * when it looks.
 */
#ifndef MONITOR_RECEIVED_FDS_H
#define MONITOR_RECEIVED_FDS_H

#include <glib.h>
#include <stdbool.h>

typedef struct ReceivedFds {
    GArray *fds; /* of ReceivedFd, oldest first */
    unsigned newest;
} ReceivedFds;

/* Keeps a batch; all of fds are consumed.  Beyond a limit the oldest are closed. */
void received_fds_add(ReceivedFds *r, const int *fds, unsigned n);
/* The first descriptor of the batch; -1: there is none (left).  Closes older batches. */
int received_fds_take(ReceivedFds *r, unsigned batch);
void received_fds_clear(ReceivedFds *r);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * I/O threads by name, as users create them.  Control thread.
 */
#ifndef BLOCK_IOTHREAD_OBJECTS_H
#define BLOCK_IOTHREAD_OBJECTS_H

#include "util/iothread.h"

/* NULL: there is none. */
IOThread *iothread_find(const char *id);
/* The one that serves whatever has no thread of its own; started at first use.  NULL with errp: it cannot be. */
IOThread *iothread_default(Error **errp);
/* The one that carries the data of jobs, so that guests' requests need not queue behind it; as above. */
IOThread *iothread_jobs(Error **errp);
/* Shutdown: nothing runs any more on the threads that are there by themselves. */
void iothread_free_own(void);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * I/O threads: a thread with an I/O loop, an object that users create (`object-add iothread`) or that is there by itself.
 *
 * All functions: control thread, unless said otherwise.
 */
#ifndef UTIL_IOTHREAD_H
#define UTIL_IOTHREAD_H

#include "util/loop.h"

typedef struct IOThread IOThread;

/* Starts a thread with a loop.  id is copied, used as the thread's name too.  NULL with errp when the system has no more
 * threads, descriptors or slots (LOOP_SLOTS). */
IOThread *iothread_new(const char *id, Error **errp);
/* One more / one less user (exports).  iothread_free() needs that there is none. */
IOThread *iothread_ref(IOThread *t);
void iothread_unref(IOThread *t);
unsigned iothread_users(const IOThread *t);
/* Ends the loop when what is queued has run, joins the thread.  The caller saw to it that nothing runs on it any more. */
void iothread_free(IOThread *t);

const char *iothread_id(const IOThread *t);
/* Any thread. */
Loop *iothread_loop(const IOThread *t);

#endif

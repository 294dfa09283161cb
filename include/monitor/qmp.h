/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * QMP monitors.  Control thread.
 */
#ifndef MONITOR_QMP_H
#define MONITOR_QMP_H

#include "monitor/chardev.h"

/* Serves QMP on a character device from now on. */
bool qmp_monitor_new(Chardev *c, bool pretty, Error **errp);

/* What `quit` does before its reply: set by the daemon; a coroutine. */
void qmp_set_quit(void (*quit)(void));
/* The session whose command is running in this coroutine has asked to quit: fn runs when its reply has been sent. */
void qmp_after_reply(void (*fn)(void));

#endif

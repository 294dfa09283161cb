/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The human monitor: a console for people.  Control thread.
 */
#ifndef MONITOR_HMP_H
#define MONITOR_HMP_H

#include "monitor/chardev.h"

/* Serves the console on a character device from now on. */
bool hmp_monitor_new(Chardev *c, Error **errp);

#endif

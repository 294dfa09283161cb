/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rate limits of events; private to monitor/.  Control thread.
 */
#ifndef MONITOR_EVENT_RATE_H
#define MONITOR_EVENT_RATE_H

#include <json-c/json.h>

/* Sends an event: now, or, for kinds that can come in masses, at most one a second of each kind and subject.  Of those that come
 * within the second the last one is sent at its end. */
void event_rate_send(struct json_object *event, void (*send)(struct json_object *event));

#endif

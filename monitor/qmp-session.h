/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A QMP session, as the control commands see it; private to monitor/.
 */
#ifndef MONITOR_QMP_SESSION_H
#define MONITOR_QMP_SESSION_H

#include <stdbool.h>

typedef struct QmpSession QmpSession;

/* The session whose command runs in the calling coroutine. */
QmpSession *qmp_session_current(void);
bool qmp_session_is_negotiated(const QmpSession *s);
void qmp_session_set_negotiated(QmpSession *s);

#endif

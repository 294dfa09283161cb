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
/* oob: with out-of-band execution. */
void qmp_session_set_negotiated(QmpSession *s, bool oob);
/* Whether the session's device lets it offer out-of-band execution. */
bool qmp_session_offers_oob(const QmpSession *s);
/* A descriptor that came with the running request, or before it; the caller owns it.  -1: there is none. */
int qmp_session_take_fd(QmpSession *s);

#endif

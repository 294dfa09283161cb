/* SPDX-License-Identifier: BSD-3-Clause */
/* The human monitor. */
#include "monitor/hmp.h"

bool hmp_monitor_new(Chardev *c, bool readline, Error **errp)
{
    (void)c;
    (void)readline;
    error_set(errp, ERROR_UNSUPPORTED, NULL, "monitor", "there is no human monitor yet");
    return false;
}

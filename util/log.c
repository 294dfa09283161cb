/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Log lines on stderr.
 */
#include "util/log.h"
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static const char *program = "cutpointd";
static LogLevel max_level = LOG_LEVEL_INFO;

void log_init(const char *name, LogLevel level)
{
    program = g_strdup(name); /* once a process */
    max_level = level;
}

void log_line(LogLevel level, const char *fmt, ...)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    char line[2048];
    va_list ap;
    int len;

    if (level > max_level) {
        return;
    }
    len = snprintf(line, sizeof(line), "%s: %s: ", program, names[level]);
    va_start(ap, fmt);
    len += vsnprintf(line + len, sizeof(line) - len - 1, fmt, ap);
    va_end(ap);
    len = MIN(len, (int)sizeof(line) - 2);
    line[len++] = '\n';
    if (write(STDERR_FILENO, line, len) < 0) {
        return; /* nobody to tell */
    }
}

bool log_limit_pass(LogLimit *limit)
{
    static GMutex lock;
    gint64 now = g_get_monotonic_time() / G_USEC_PER_SEC;
    int dropped = 0;
    bool pass;

    g_mutex_lock(&lock);
    if (limit->second != now) {
        limit->second = now;
        limit->lines = 0;
        dropped = limit->dropped;
        limit->dropped = 0;
    }
    pass = limit->lines < 10;
    *(pass ? &limit->lines : &limit->dropped) += 1;
    g_mutex_unlock(&lock);
    if (dropped) {
        log_warn("(%d similar lines were dropped)", dropped);
    }
    return pass;
}

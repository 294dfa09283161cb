/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Log lines on stderr.
 *
 * A line is put together in memory of the thread, so logging needs neither a lock nor the heap nor much of
 * a coroutine's stack, and goes out in one write(2).  What a peer sent may be part of the text, so
 * control characters are replaced: a line stays one line, and a terminal is not controlled by it.
 */
#include "util/log.h"
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES   8192
#define LINES_PER_SECOND 10

static char program[32] = "cutpointd";
static _Atomic LogLevel max_level = LOG_LEVEL_INFO;
static bool plain_errors;

void log_init(const char *name, LogLevel level)
{
    g_strlcpy(program, name, sizeof(program));
    max_level = level;
}

void log_plain_errors(void)
{
    plain_errors = true;
}

static void write_all(const char *p, size_t len)
{
    while (len > 0) {
        ssize_t n = write(STDERR_FILENO, p, len);

        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return; /* nobody to tell */
        }
        p += n;
        len -= n;
    }
}

void log_line(LogLevel level, const char *fmt, ...)
{
    static const char *const names[] = {
        [LOG_LEVEL_ERROR] = "error",
        [LOG_LEVEL_WARN] = "warning",
        [LOG_LEVEL_INFO] = "info",
        [LOG_LEVEL_DEBUG] = "debug",
    };
    static __thread char line[LINE_MAX_BYTES];
    int saved_errno = errno;
    const size_t room = sizeof(line) - 1; /* for the newline */
    size_t head, len;
    va_list ap;
    int n;

    if (level > max_level) {
        return;
    }
    head = len = plain_errors && level == LOG_LEVEL_ERROR
                     ? snprintf(line, room, "%s: ", program)
                     : snprintf(line, room, "%s: %s: ", program, names[level]);
    errno = saved_errno; /* "%m" */
    va_start(ap, fmt);
    n = vsnprintf(line + len, room - len, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n >= room - len) {
        len = room - 1;
        memcpy(line + len - 3, "...", 3);
    } else {
        len += MAX(n, 0);
    }
    for (size_t i = head; i < len; i++) {
        if ((unsigned char)line[i] < ' ' || line[i] == 0x7f) {
            line[i] = line[i] == '\n' || line[i] == '\t' ? ' ' : '?';
        }
    }
    line[len++] = '\n';
    write_all(line, len);
    errno = saved_errno;
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
    pass = limit->lines < LINES_PER_SECOND;
    if (pass) {
        limit->lines++;
    } else {
        limit->dropped++;
    }
    g_mutex_unlock(&lock);
    if (dropped > 0) {
        log_warn("%d lines like the next one were dropped", dropped);
    }
    return pass;
}

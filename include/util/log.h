/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Log lines on stderr: `cutpointd: <level>: <text>`, one write(2) each, from any thread.
 * log_warn_limited() drops lines when one call site speaks more than 10 times a second (hostile peers).
 */
#ifndef UTIL_LOG_H
#define UTIL_LOG_H

#include <glib.h>
#include <stdbool.h>

typedef enum LogLevel { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG } LogLevel;

/* Lines above this level are dropped; default LOG_LEVEL_INFO.  `name` is put first (default "cutpointd"). */
void log_init(const char *name, LogLevel level);
/* Errors come without the word "error", as QEMU writes them.  Before there is a second thread. */
void log_plain_errors(void);
void log_line(LogLevel level, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

typedef struct LogLimit {
    gint64 second; /* monotonic seconds of the current window */
    int lines, dropped;
} LogLimit;
bool log_limit_pass(LogLimit *limit); /* any thread; true: speak */

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)
#define log_warn_limited(...)                                                                      \
    do {                                                                                           \
        static LogLimit limit_;                                                                    \
        if (log_limit_pass(&limit_)) {                                                             \
            log_warn(__VA_ARGS__);                                                                 \
        }                                                                                          \
    } while (0)

#endif

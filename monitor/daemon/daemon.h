/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The parts of the main program; private to monitor/daemon/.
 */
#ifndef MONITOR_DAEMON_H
#define MONITOR_DAEMON_H

#include "qapi/visit.h"
#include "util/coroutine.h"
#include "util/error.h"

/* The command line, split: options that are done first, and the others in order. */
typedef struct Option {
    const char *name; /* without dashes */
    const char *arg;
    const char *dashes; /* in messages: "--" or "-" */
} Option;

typedef struct CommandLine {
    bool daemonize;
    const char *pidfile;
    const char *journal; /* argument of --snapshot-journal; NULL: none */
    GArray *options;     /* of Option */
} CommandLine;

/* An option that takes an argument. */
typedef struct OptionKind {
    const char *name;    /* without dashes */
    const char *implied; /* key of a first value without one; NULL: there is none */
    const QapiType
        *type; /* of the argument; NULL: character devices, which have options of their own */
    bool coroutine_fn (*run)(struct json_object *o, bool keyval, Error **errp);
    const char *what; /* for help */
} OptionKind;

/* ---- help.c ---- */

/* --help: all options and what they take. */
void help_print(const OptionKind *options, unsigned n);
/* Prints what an option or a kind of it takes if that is what the argument asks for ("help", "KIND,help").  False: it does not. */
bool help_for_argument(const OptionKind *o, const char *arg);

/* ---- options.c ---- */

/* Exits the process for --help, --version and bad syntax. */
void command_line_parse(CommandLine *cl, int argc, char **argv);
/* Carries one option out.  Coroutine of the control thread. */
bool coroutine_fn option_run(const Option *o, Error **errp);

/* --snapshot-journal; does nothing if it was not given. */
bool coroutine_fn option_run_journal(const CommandLine *cl, Error **errp);

/* Forks; returns in the child.  The parent exits when the child says ready or dies. */
void daemonize_fork(void);
/* The child is ready: lets the parent exit with 0, gives up the standard descriptors. */
void daemonize_ready(void);

/* Writes and locks the file; removed by pidfile_remove(). */
bool pidfile_create(const char *path, Error **errp);
void pidfile_remove(void);

/* Prints an error of the command line: one line, whatever the arguments contain. */
void report_error(const Error *err);

/* For so long a start waits for locks that a killed predecessor may have left. */
#define START_LOCK_SECONDS 5

/* Ends everything in order; a coroutine.  Twice is once. */
void coroutine_fn daemon_shutdown(void);
/* After this many seconds the process ends, whatever hangs. */
#define SHUTDOWN_SECONDS 30
/* How long it waits for servers on the network that do not answer. */
#define PEER_SECONDS 2

#endif

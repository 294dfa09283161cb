/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The human monitor's parts; private to monitor/.  Control thread; handlers are coroutines.
 */
#ifndef MONITOR_HMP_INTERNAL_H
#define MONITOR_HMP_INTERNAL_H

#include "util/coroutine.h"
#include "qapi/visit.h"
#include "util/error.h"
#include <json-c/json.h>

struct SnapshotInfoList;

/* What a running command has: where its output goes.  Lines end with "\n" here. */
typedef struct Hmp {
    GString *out;
    bool leaves; /* the program ends: no prompt any more */
} Hmp;

/* A row of the table; strings as in commands.txt.  The handler prints, or fails with *errp. */
typedef struct HmpCommand {
    const char *name, *args, *params, *help, *needs;
    bool coroutine_fn (*handler)(Hmp *h, struct json_object *args, Error **errp);
} HmpCommand;

extern const HmpCommand hmp_commands[], hmp_info_commands[]; /* end with a NULL name */

/* Carries out a line; appends all it says to h->out, errors included. */
void coroutine_fn hmp_run_line(const char *line, Hmp *h);

/* The command of this name (or an alias) that is there; NULL: none. */
const HmpCommand *hmp_find(const HmpCommand *table, const char *name);
/* Is what the command stands on there? */
bool hmp_available(const HmpCommand *c);

/* ---- args.c ---- */

/* One word, or text in double quotes, from *pos on; NULL: none, or with *ret_bad set a quote that does not end. */
char *hmp_take_word(const char **pos, bool *ret_bad);
/* Arguments by a row's codes: strings, integers, booleans by name.  NULL: *ret_problem says why (the console's words; freed by the
 * caller). */
struct json_object *hmp_parse_args(const HmpCommand *c, const char *text, char **ret_problem);
const char *hmp_string(struct json_object *args, const char *name); /* NULL: absent */
bool hmp_flag(struct json_object *args, const char *name);
/* "64k", "1.5G"; a number alone is in `unit` bytes.  False: it is none, or does not fit. */
bool hmp_parse_size(const char *text, uint64_t unit, int64_t *ret_size);

/* ---- for handlers ---- */

void hmp_print(Hmp *h, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* A QMP command; args is consumed (NULL: none).  *ret: what it returns, the caller's; may be NULL. */
bool coroutine_fn hmp_qmp(const char *command, struct json_object *args, struct json_object **ret,
                          Error **errp);
/* 67108864 -> "64 MiB"; freed by the caller. */
char *hmp_human_size(int64_t bytes);
/* Members of replies. */
const char *hmp_get_string(struct json_object *o, const char *name); /* "" if absent */
int64_t hmp_get_int(struct json_object *o, const char *name);
bool hmp_get_bool(struct json_object *o, const char *name);
struct json_object *hmp_get(struct json_object *o, const char *name); /* NULL if absent */
/* Builds an object of strings: name, value, ..., NULL; values that are NULL are left out. */
struct json_object *hmp_object(const char *name, ...) G_GNUC_NULL_TERMINATED;

/* ---- snapshots.c ---- */

/* A table of them, with a heading. */
void hmp_print_snapshots(Hmp *h, const struct SnapshotInfoList *list);

/* ---- complete.c ---- */

/* What the last word of a line that is being written could become, sorted; freed by the caller. */
GPtrArray *coroutine_fn hmp_complete(const char *text);

/* ---- editor.c ---- */

/* The bytes that a person sends become lines; what a terminal has to show is appended to `echo`. */
typedef struct LineEditor LineEditor;
LineEditor *line_editor_new(void);
void line_editor_free(LineEditor *e);
/* Another person comes: the line that was begun goes, the history stays. */
void line_editor_reset(LineEditor *e);
typedef enum LineEvent {
    LINE_GOES_ON,
    LINE_ENDED,    /* *ret_line is a line, without its end; NULL: it was too long */
    LINE_COMPLETE, /* *ret_line is what is left of the cursor: line_editor_complete() is asked for */
} LineEvent;
/* What a byte means; *ret_line is freed by the caller. */
LineEvent line_editor_feed(LineEditor *e, unsigned char byte, GString *echo, char **ret_line);
/* words: candidates for the last word left of the cursor, whole ones, sorted. */
void line_editor_complete(LineEditor *e, GPtrArray *words, GString *echo);
#define LINE_EDITOR_MAX 4095
#define HMP_PROMPT      "(qemu) "

#endif

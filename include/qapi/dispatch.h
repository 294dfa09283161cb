/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commands: the table, and carrying out a request.  Control thread; qapi_dispatch() is a coroutine.
 */
#ifndef QAPI_DISPATCH_H
#define QAPI_DISPATCH_H

#include "qapi/visit.h"
#include "util/coroutine.h"

enum {
    QAPI_COMMAND_OOB = 1 << 0,
    QAPI_COMMAND_PRECONFIG = 1 << 1,
    QAPI_COMMAND_NO_RESPONSE = 1 << 2,
    QAPI_COMMAND_DEPRECATED = 1 << 3,
    QAPI_COMMAND_UNSTABLE = 1 << 4,
};

typedef struct QapiCommand {
    const char *name;
    const QapiType *arg, *ret; /* NULL: none */
    /* NULL: the command answers with JSON of its own (raw) */
    bool coroutine_fn (*marshal)(const void *arg, void **ret_out, Error **errp);
    unsigned flags;
} QapiCommand;

/* Where the commands that make their own JSON register: query-qmp-schema. */
typedef struct json_object *QapiRawCommand(Error **errp);
void qapi_set_raw_command(const char *name, QapiRawCommand *fn);

/* Carries out `request` (any JSON value) with commands of `table`; `allowed` may refuse a command by name (sets errp), NULL: all.  Returns the
 * whole reply, with the request's id; never NULL.  The request stays the caller's. */
struct json_object *coroutine_fn qapi_dispatch(const QapiCommand *table, unsigned count, struct json_object *request,
                                               bool (*allowed)(void *opaque, const char *name, Error **errp),
                                               void *opaque);
/* An error reply; id may be NULL. */
struct json_object *qapi_error_reply(const Error *err, struct json_object *id);

#endif

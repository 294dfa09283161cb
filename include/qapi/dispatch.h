/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commands: the table, and carrying out a request.
 *
 * Control thread only.  qapi_dispatch() is a coroutine function, as every command handler is: while
 * one waits, others run.
 */
#ifndef QAPI_DISPATCH_H
#define QAPI_DISPATCH_H

#include "qapi/visit.h"
#include "util/coroutine.h"

enum {
    QAPI_COMMAND_OOB = 1 << 0,
    QAPI_COMMAND_PRECONFIG = 1 << 1,
    QAPI_COMMAND_NO_RESPONSE = 1 << 2, /* success is not answered */
    QAPI_COMMAND_DEPRECATED = 1 << 3,
    QAPI_COMMAND_UNSTABLE = 1 << 4,
    QAPI_COMMAND_COROUTINE = 1 << 5, /* said so by the schema; here every handler may yield */
};

typedef struct QapiCommand {
    const char *name;
    const QapiType *arg, *ret; /* NULL: none */
    /* Sets what ret_out points to (if there is a ret) on success: a value of that type, as
     * qapi_serialise_at() takes it.  NULL: it answers with JSON of its own. */
    bool coroutine_fn (*marshal)(const void *arg, void *ret_out, Error **errp);
    unsigned flags;
} QapiCommand;

/* Where the commands that make their own JSON ('gen': false in the schema: query-qmp-schema)
 * register, once, before the first request.  fn returns the value of "return", or NULL with *errp
 * set. */
typedef struct json_object *coroutine_fn QapiRawCommand(struct json_object *args, Error **errp);
void qapi_set_raw_command(const char *name, QapiRawCommand *fn);
/* The same for a command that takes more members than the schema says (device_add): it checks its arguments itself. */
void qapi_set_open_command(const char *name, QapiRawCommand *fn);

/* A command or event of the schema that this process does not have: no request finds it, and no query lists it.  Before the first request; the
 * name is not copied. */
void qapi_hide(const char *name);
bool qapi_is_hidden(const char *name);

/* Refuses a command by its name, before it is looked up: true, or false with *errp set. */
typedef bool QapiAllowed(void *opaque, const char *name, Error **errp);

/* Carries out `request` (any JSON value) with the commands of `table`; `allowed` may be NULL:
 * all are. Returns the whole reply, with the request's id; NULL only after success of a command
 * that has QAPI_COMMAND_NO_RESPONSE.  The request stays the caller's, the reply is its
 * (json_object_put()). Errors are replies: what is wrong with the request (GenericError), an
 * unknown command (CommandNotFound), wrong arguments (GenericError), and what the command itself
 * says. */
struct json_object *coroutine_fn qapi_dispatch(const QapiCommand *table, unsigned count,
                                               struct json_object *request, QapiAllowed *allowed,
                                               void *opaque);

/* The same for a session that has negotiated out-of-band execution: "exec-oob" is understood. */
struct json_object *coroutine_fn qapi_dispatch_oob(const QapiCommand *table, unsigned count,
                                                   struct json_object *request,
                                                   QapiAllowed *allowed, void *opaque);

/* Whether a request asks for out-of-band execution; the reader decides by this before it queues. */
bool qapi_request_is_oob(struct json_object *request);

/* An error reply; id may be NULL: none (an id of JSON null is passed on by qapi_dispatch()). */
struct json_object *qapi_error_reply(const Error *err, struct json_object *id);

#endif

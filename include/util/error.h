/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Errors of the control path.
 *
 * An Error says four things: its kind (what a program acts on), its subject (which image, node, command), the
 * operation that failed on it, and the message (what a person or a QMP client reads; for errors that QEMU's clients
 * know, the text is QEMU's).  Data-path functions return a negative errno instead: nobody reads prose per request.
 *
 * Convention: a function that can fail returns bool (true: success) or a pointer (NULL: failure), takes `Error **errp`
 * last, and sets *errp exactly when it fails.  errp is never NULL and *errp is NULL on entry.  Outputs are untouched on
 * failure.  Errors belong to the caller; `g_autoptr(Error) err = NULL;` frees them.
 *
 * Thread safety: an Error has one owner at a time; all functions may be called from any thread.
 */
#ifndef UTIL_ERROR_H
#define UTIL_ERROR_H

#include <glib.h>
#include <stdarg.h>
#include <stdbool.h>

/* The class that a QMP error reply shows. */
typedef enum ErrorClass {
    ERROR_CLASS_GENERIC_ERROR,
    ERROR_CLASS_COMMAND_NOT_FOUND,
    ERROR_CLASS_DEVICE_NOT_ACTIVE,
    ERROR_CLASS_DEVICE_NOT_FOUND,
    ERROR_CLASS_KVM_MISSING_CAP,
} ErrorClass;

/* Stable kinds: what went wrong, independent of wording. */
typedef enum ErrorKind {
    ERROR_INVALID,     /* an argument or option makes no sense */
    ERROR_NOT_FOUND,   /* something named does not exist */
    ERROR_EXISTS,      /* something named exists already */
    ERROR_BUSY,        /* in use: by a lock, a job, a transaction, a parent */
    ERROR_PERMISSION,  /* the system or the graph does not permit it */
    ERROR_UNSUPPORTED, /* valid, but not something this driver or build can do */
    ERROR_CORRUPT,     /* an image or a peer's data contradicts its specification */
    ERROR_NO_SPACE,    /* the file system or the image is full */
    ERROR_IO,          /* the system reported a failure of storage or network */
    ERROR_LIMIT,       /* larger than a limit of ours or of the format */
    ERROR_TIMEOUT,     /* a deadline passed */
    ERROR_CANCELLED,   /* somebody asked to stop */
} ErrorKind;

typedef struct Error {
    ErrorClass cls;
    ErrorKind kind;
    int err;         /* errno value (positive), 0 where none is behind it */
    char *subject;   /* node, file, command, ...; may be NULL */
    char *operation; /* what was attempted: "open", "create", ...; may be NULL */
    char *message;   /* never NULL; no trailing newline or full stop added */
    char *hint;      /* further advice for a console, not part of a QMP reply; may be NULL */
} Error;

/* Sets *errp to a new error of class GenericError.  subject and operation are copied and may be NULL. */
void error_set(Error **errp, ErrorKind kind, const char *subject, const char *operation,
               const char *fmt, ...) G_GNUC_PRINTF(5, 6);

/* The same; appends ": " and the text of err, a positive errno value, from which the kind follows as well. */
void error_set_errno(Error **errp, int err, const char *subject, const char *operation,
                     const char *fmt, ...) G_GNUC_PRINTF(5, 6);

/* The same as error_set() with another class. */
void error_set_class(Error **errp, ErrorClass cls, ErrorKind kind, const char *subject,
                     const char *operation, const char *fmt, ...) G_GNUC_PRINTF(6, 7);

/* Puts a formatted text before the message of *errp, which must be set. */
void error_prefix(Error **errp, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* Sets the hint of *errp, which must be set. */
void error_hint(Error **errp, const char *fmt, ...) G_GNUC_PRINTF(2, 3);

/* Hands *src (may be NULL: nothing happens) over to *errp; *src becomes NULL. */
void error_move(Error **errp, Error **src);

Error *error_copy(const Error *err);
void error_free(Error *err);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Error, error_free)

/* The kind that stands for a positive errno value. */
ErrorKind error_kind_of_errno(int err);
/* A negative errno that stands for err: -err->err where set, else one that fits the kind. */
int error_to_errno(const Error *err);
/* The name QMP uses for a class: "GenericError", ... */
const char *error_class_name(ErrorClass cls);

#endif

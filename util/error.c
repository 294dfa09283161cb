/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Errors of the control path; see the header for the conventions.
 */
#include "util/error.h"
#include <errno.h>
#include <string.h>

static void set(Error **errp, ErrorClass cls, ErrorKind kind, int err, const char *subject,
                const char *operation, const char *fmt, va_list ap)
{
    Error *e = g_new0(Error, 1);
    g_autofree char *text = g_strdup_vprintf(fmt, ap);

    g_assert(errp && !*errp);
    e->cls = cls;
    e->kind = kind;
    e->err = err;
    e->subject = g_strdup(subject);
    e->operation = g_strdup(operation);
    e->message = err ? g_strdup_printf("%s: %s", text, g_strerror(err)) : g_steal_pointer(&text);
    *errp = e;
}

void error_set(Error **errp, ErrorKind kind, const char *subject, const char *operation,
               const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    set(errp, ERROR_CLASS_GENERIC_ERROR, kind, 0, subject, operation, fmt, ap);
    va_end(ap);
}

void error_set_errno(Error **errp, int err, const char *subject, const char *operation,
                     const char *fmt, ...)
{
    va_list ap;

    g_assert(err > 0);
    va_start(ap, fmt);
    set(errp, ERROR_CLASS_GENERIC_ERROR, error_kind_of_errno(err), err, subject, operation, fmt,
        ap);
    va_end(ap);
}

void error_set_class(Error **errp, ErrorClass cls, ErrorKind kind, const char *subject,
                     const char *operation, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    set(errp, cls, kind, 0, subject, operation, fmt, ap);
    va_end(ap);
}

void error_prefix(Error **errp, const char *fmt, ...)
{
    g_autofree char *prefix = NULL, *old = (*errp)->message;
    va_list ap;

    va_start(ap, fmt);
    prefix = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    (*errp)->message = g_strconcat(prefix, old, NULL);
}

void error_hint(Error **errp, const char *fmt, ...)
{
    va_list ap;

    g_free((*errp)->hint);
    va_start(ap, fmt);
    (*errp)->hint = g_strdup_vprintf(fmt, ap);
    va_end(ap);
}

void error_move(Error **errp, Error **src)
{
    if (*src) {
        g_assert(!*errp);
        *errp = *src;
        *src = NULL;
    }
}

Error *error_copy(const Error *err)
{
    Error *e = g_new(Error, 1);

    *e = *err;
    e->subject = g_strdup(err->subject);
    e->operation = g_strdup(err->operation);
    e->message = g_strdup(err->message);
    e->hint = g_strdup(err->hint);
    return e;
}

void error_free(Error *err)
{
    if (err) {
        g_free(err->subject);
        g_free(err->operation);
        g_free(err->message);
        g_free(err->hint);
        g_free(err);
    }
}

ErrorKind error_kind_of_errno(int err)
{
    switch (err) {
    case ENOENT:
    case ENODEV:
    case ENXIO:
    case ESRCH:
        return ERROR_NOT_FOUND;
    case EEXIST:
        return ERROR_EXISTS;
    case EBUSY:
    case EAGAIN:
    case ETXTBSY:
        return ERROR_BUSY;
    case EPERM:
    case EACCES:
    case EROFS:
        return ERROR_PERMISSION;
    case ENOTSUP:
    case ENOSYS:
    case ENOTTY:
        return ERROR_UNSUPPORTED;
    case ENOSPC:
    case EDQUOT:
        return ERROR_NO_SPACE;
    case EFBIG:
    case E2BIG:
    case ENAMETOOLONG:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
        return ERROR_LIMIT;
    case ETIMEDOUT:
        return ERROR_TIMEOUT;
    case ECANCELED:
        return ERROR_CANCELLED;
    case EINVAL:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
        return ERROR_INVALID;
    default:
        return ERROR_IO;
    }
}

int error_to_errno(const Error *err)
{
    static const int fallback[] = {
        [ERROR_INVALID] = EINVAL, [ERROR_NOT_FOUND] = ENOENT,  [ERROR_EXISTS] = EEXIST,
        [ERROR_BUSY] = EBUSY,     [ERROR_PERMISSION] = EPERM,  [ERROR_UNSUPPORTED] = ENOTSUP,
        [ERROR_CORRUPT] = EIO,    [ERROR_NO_SPACE] = ENOSPC,   [ERROR_IO] = EIO,
        [ERROR_LIMIT] = EFBIG,    [ERROR_TIMEOUT] = ETIMEDOUT, [ERROR_CANCELLED] = ECANCELED,
    };

    return err->err ? -err->err : -fallback[err->kind];
}

const char *error_class_name(ErrorClass cls)
{
    static const char *const names[] = {
        [ERROR_CLASS_GENERIC_ERROR] = "GenericError",
        [ERROR_CLASS_COMMAND_NOT_FOUND] = "CommandNotFound",
        [ERROR_CLASS_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
        [ERROR_CLASS_DEVICE_NOT_FOUND] = "DeviceNotFound",
        [ERROR_CLASS_KVM_MISSING_CAP] = "KVMMissingCap",
    };

    return names[cls];
}

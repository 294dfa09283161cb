/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Commands about descriptors that clients pass.
 */
#include "qapi-commands.h"
#include "qmp-session.h"
#include "util/passed-fd.h"
#include <inttypes.h>
#include <unistd.h>

static int take(const char *operation, Error **errp)
{
    QmpSession *s = qmp_session_current();
    int fd = s ? qmp_session_take_fd(s) : -1;

    if (fd < 0) {
        error_set(errp, ERROR_INVALID, NULL, operation,
                  "No file descriptor supplied via SCM_RIGHTS");
    }
    return fd;
}

bool coroutine_fn qmp_getfd(const GetfdArg *arg, Error **errp)
{
    int fd = take("getfd", errp);

    if (fd < 0) {
        return false;
    }
    if (g_ascii_isdigit(arg->fdname[0])) {
        close(fd);
        error_set(errp, ERROR_INVALID, "fdname", "getfd",
                  "Parameter 'fdname' expects a name not starting with a digit");
        return false;
    }
    named_fd_put(qmp_session_current(), arg->fdname, fd);
    return true;
}

bool coroutine_fn qmp_closefd(const ClosefdArg *arg, Error **errp)
{
    int fd = named_fd_take(qmp_session_current(), arg->fdname);

    if (fd < 0) {
        error_set(errp, ERROR_NOT_FOUND, arg->fdname, "closefd",
                  "File descriptor named '%s' not found", arg->fdname);
        return false;
    }
    close(fd);
    return true;
}

bool coroutine_fn qmp_add_fd(const AddFdArg *arg, AddfdInfo **ret_out, Error **errp)
{
    int fd = take("add-fd", errp);
    int64_t set;

    if (fd < 0 || !fdset_add(arg->has_fdset_id, arg->fdset_id, fd, arg->opaque, &set, errp)) {
        return false;
    }
    *ret_out = g_new0(AddfdInfo, 1);
    (*ret_out)->fdset_id = set;
    (*ret_out)->fd = fd;
    return true;
}

bool coroutine_fn qmp_remove_fd(const RemoveFdArg *arg, Error **errp)
{
    if (arg->has_fd && arg->fd < 0) {
        error_set(errp, ERROR_NOT_FOUND, "fd", "remove-fd",
                  "File descriptor named 'fdset-id:%" PRId64 ", fd:%" PRId64 "' not found",
                  arg->fdset_id, arg->fd);
        return false;
    }
    return fdset_remove(arg->fdset_id, arg->has_fd ? arg->fd : -1, errp);
}

/* The ends of both lists. */
typedef struct Tails {
    FdsetInfoList *head, *set;
    FdsetFdInfoList *fd;
} Tails;

static void add_member(void *opaque, int64_t set, int fd, const char *text)
{
    Tails *t = opaque;
    FdsetFdInfoList *item = g_new0(FdsetFdInfoList, 1);

    item->value = g_new0(FdsetFdInfo, 1);
    item->value->fd = fd;
    item->value->opaque = g_strdup(text);
    if (t->set && t->set->value->fdset_id == set) {
        t->fd->next = item;
    } else {
        FdsetInfoList *s = g_new0(FdsetInfoList, 1);

        s->value = g_new0(FdsetInfo, 1);
        s->value->fdset_id = set;
        s->value->fds = item;
        *(t->set ? &t->set->next : &t->head) = s;
        t->set = s;
    }
    t->fd = item;
}

bool coroutine_fn qmp_query_fdsets(FdsetInfoList **ret_out, Error **errp)
{
    Tails t = {0};

    (void)errp;
    fdset_foreach(add_member, &t);
    *ret_out = t.head;
    return true;
}

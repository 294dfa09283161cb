/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Descriptors that clients pass.
 *
 * Why fdset_open() opens anew through /proc where it can: a duplicate shares its description with the set's member, and
 * with it the locks on the file and the flag O_DIRECT.  Where the process may not open the file by itself (which can be
 * the reason to pass it a descriptor) the duplicate is what there is.
 *
 * Lock: `lock`, innermost; it is held while descriptors are opened, which does not wait for storage of others.
 */
#include "util/passed-fd.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX "/dev/fdset/"

typedef struct NamedFd {
    const void *owner;
    char *name;
    int fd;
} NamedFd;

typedef struct Member {
    int64_t set;
    int fd;
    char *opaque;
} Member;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static GArray *names;   /* of NamedFd */
static GArray *members; /* of Member: sets ascending, then in order of adding */
static const void *(*current_owner)(void);

/* ---- names ---- */

/* Locked. */
static int take(const void *owner, const char *name)
{
    for (guint i = 0; names && i < names->len; i++) {
        NamedFd *n = &g_array_index(names, NamedFd, i);

        if (n->owner == owner && (!name || strcmp(n->name, name) == 0)) {
            int fd = n->fd;

            g_free(n->name);
            g_array_remove_index(names, i);
            return fd;
        }
    }
    return -1;
}

void named_fd_put(const void *owner, const char *name, int fd)
{
    NamedFd n = {owner, g_strdup(name), fd};
    int old;

    pthread_mutex_lock(&lock);
    if (!names) {
        names = g_array_new(false, false, sizeof(NamedFd));
    }
    old = take(owner, name);
    g_array_append_val(names, n);
    pthread_mutex_unlock(&lock);
    if (old >= 0) {
        close(old);
    }
}

int named_fd_take(const void *owner, const char *name)
{
    int fd;

    pthread_mutex_lock(&lock);
    fd = take(owner, name);
    pthread_mutex_unlock(&lock);
    return fd;
}

void named_fd_forget(const void *owner)
{
    int fd;

    while ((fd = named_fd_take(owner, NULL)) >= 0) {
        close(fd);
    }
}

void named_fd_set_owner(const void *(*current)(void))
{
    current_owner = current;
}

/* A descriptor that was inherited has no close-on-exec flag: our own, and those taken before, have. */
static int take_inherited(const char *text, Error **errp)
{
    char *end;
    guint64 fd = g_ascii_strtoull(text, &end, 10);
    int flags;

    if (*end || fd > INT_MAX) {
        error_set(errp, ERROR_INVALID, text, "socket", "Unable to parse FD number %s", text);
        return -1;
    }
    flags = fcntl(fd, F_GETFD);
    if (flags < 0 || flags & FD_CLOEXEC) {
        error_set(errp, ERROR_INVALID, text, "socket", "File descriptor '%s' is not a socket%s",
                  text, flags > 0 ? " of yours" : "");
        return -1;
    }
    return fd;
}

int passed_fd_socket(const char *text, Error **errp)
{
    bool number = g_ascii_isdigit(text[0]);
    int fd = number          ? take_inherited(text, errp)
             : current_owner ? named_fd_take(current_owner(), text)
                             : -1,
        type;
    socklen_t len = sizeof(type);

    if (fd < 0) {
        if (!number) {
            error_set(errp, ERROR_NOT_FOUND, text, "socket",
                      "File descriptor named '%s' has not been found", text);
        }
        return -1;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0) {
        error_set(errp, ERROR_INVALID, text, "socket", "File descriptor '%s' is not a socket",
                  text);
        if (!number) {
            close(fd);
        }
        return -1;
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
}

/* ---- sets ---- */

/* Locked.  Where the members of a set begin, or where they would. */
static guint first_of(int64_t set)
{
    guint i = 0;

    while (i < members->len && g_array_index(members, Member, i).set < set) {
        i++;
    }
    return i;
}

static int64_t lowest_free(void)
{
    int64_t set = 0;

    for (guint i = 0; i < members->len && g_array_index(members, Member, i).set <= set; i++) {
        set = g_array_index(members, Member, i).set + 1;
    }
    return set;
}

bool fdset_add(bool has_set, int64_t set, int fd, const char *opaque, int64_t *ret_set,
               Error **errp)
{
    Member m = {.fd = fd, .opaque = g_strdup(opaque)};
    guint i;

    if (has_set && set < 0) {
        error_set(errp, ERROR_INVALID, "fdset-id", "add-fd",
                  "Parameter 'fdset-id' expects a non-negative value");
        close(fd);
        g_free(m.opaque);
        return false;
    }
    pthread_mutex_lock(&lock);
    if (!members) {
        members = g_array_new(false, false, sizeof(Member));
    }
    m.set = has_set ? set : lowest_free();
    i = first_of(m.set);
    while (i < members->len && g_array_index(members, Member, i).set == m.set) {
        i++;
    }
    g_array_insert_val(members, i, m);
    pthread_mutex_unlock(&lock);
    *ret_set = m.set;
    return true;
}

bool fdset_remove(int64_t set, int64_t fd, Error **errp)
{
    bool found = false;

    pthread_mutex_lock(&lock);
    for (guint i = members ? first_of(set) : 0;
         members && i < members->len && g_array_index(members, Member, i).set == set;) {
        Member *m = &g_array_index(members, Member, i);

        if (fd >= 0 && m->fd != fd) {
            i++;
            continue;
        }
        close(m->fd);
        g_free(m->opaque);
        g_array_remove_index(members, i);
        found = true;
    }
    pthread_mutex_unlock(&lock);
    if (!found) {
        g_autofree char *which = fd < 0 ? g_strdup("") : g_strdup_printf(", fd:%" PRId64, fd);

        error_set(errp, ERROR_NOT_FOUND, "fdset-id", "remove-fd",
                  "File descriptor named 'fdset-id:%" PRId64 "%s' not found", set, which);
    }
    return found;
}

void fdset_foreach(void (*fn)(void *opaque, int64_t set, int fd, const char *text), void *opaque)
{
    pthread_mutex_lock(&lock);
    for (guint end = members ? members->len : 0; end > 0;) {
        guint first = first_of(g_array_index(members, Member, end - 1).set);

        for (guint i = first; i < end; i++) {
            Member *m = &g_array_index(members, Member, i);

            fn(opaque, m->set, m->fd, m->opaque);
        }
        end = first;
    }
    pthread_mutex_unlock(&lock);
}

bool fdset_is_name(const char *path)
{
    return g_str_has_prefix(path, PREFIX);
}

static bool parse_name(const char *path, int64_t *ret_set)
{
    return fdset_is_name(path) &&
           g_ascii_string_to_signed(path + strlen(PREFIX), 10, 0, G_MAXINT64, ret_set, NULL);
}

static int open_anew(int fd, int flags)
{
    char proc[32];

    g_snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
    return open(proc, (flags & (O_ACCMODE | O_DIRECT)) | O_CLOEXEC | O_NOCTTY);
}

static int duplicate(int fd, int flags)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0), now;

    if (copy < 0) {
        return -errno;
    }
    now = fcntl(copy, F_GETFL);
    if (((now ^ flags) & O_DIRECT) && fcntl(copy, F_SETFL, now ^ O_DIRECT) < 0) {
        int err = errno;

        close(copy);
        return -err;
    }
    return copy;
}

/* A member of any use: one that can do at least as much. */
static int open_member(const Member *m, int flags)
{
    int mode = fcntl(m->fd, F_GETFL) & O_ACCMODE, wanted = flags & O_ACCMODE, fd;
    struct stat st;

    if (mode != wanted && mode != O_RDWR) {
        return -EACCES;
    }
    /* Only files have descriptions that can be had anew. */
    if (fstat(m->fd, &st) == 0 && S_ISREG(st.st_mode)) {
        fd = open_anew(m->fd, flags);
        if (fd >= 0 || errno == EINVAL) {
            return fd >= 0 ? fd : -EINVAL;
        }
    }
    return mode == wanted ? duplicate(m->fd, flags) : -EACCES;
}

int fdset_open(const char *path, int flags)
{
    int64_t set;
    int fd = -ENOENT;

    if (!parse_name(path, &set)) {
        return -ENOENT;
    }
    pthread_mutex_lock(&lock);
    for (guint i = members ? first_of(set) : 0; members && fd < 0 && i < members->len; i++) {
        const Member *m = &g_array_index(members, Member, i);

        if (m->set != set) {
            break;
        }
        fd = open_member(m, flags);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Listening at a local socket; see the header.
 */
#include "unix-listener.h"
#include "qapi-types.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* What an earlier process left there is in the way; anything but a socket is not ours to remove. */
static bool make_room(const char *path, Error **errp)
{
    struct stat st;

    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
        error_set_errno(errp, EADDRINUSE, path, "listen", "Failed to bind socket to %s", path);
        return false;
    }
    if (unlink(path) < 0 && errno != ENOENT && errno != ENOTDIR) {
        error_set_errno(errp, errno, path, "listen", "Failed to unlink socket %s", path);
        return false;
    }
    return true;
}

int unix_listener_open(UnixListener *l, const UnixSocketAddress *a, int backlog, Error **errp)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    bool abstract = a->has_abstract && a->abstract, tight = !a->has_tight || a->tight;
    size_t room = sizeof(sa.sun_path) - (abstract ? 1 : 0), len = strlen(a->path);
    socklen_t sa_len = sizeof(sa);
    struct stat st;
    int fd;

    if (len >= room + (abstract ? 1 : 0)) {
        error_set(errp, ERROR_LIMIT, a->path, "listen", "UNIX socket path '%s' is too long",
                  a->path);
        return -1;
    }
    memcpy(sa.sun_path + (abstract ? 1 : 0), a->path, len);
    if (abstract && tight) {
        sa_len = offsetof(struct sockaddr_un, sun_path) + 1 + len;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        error_set_errno(errp, errno, a->path, "listen", "Failed to create a socket");
        return -1;
    }
    if (!abstract && !make_room(a->path, errp)) {
        ; /* said why */
    } else if (bind(fd, (struct sockaddr *)&sa, sa_len) < 0) {
        error_set_errno(errp, errno, a->path, "listen", "Failed to bind socket to %s", a->path);
    } else if (listen(fd, backlog) < 0 || (!abstract && lstat(a->path, &st) < 0)) {
        error_set_errno(errp, errno, a->path, "listen", "Failed to listen on socket");
    } else {
        *l = (UnixListener){0};
        if (!abstract) {
            *l = (UnixListener){
                .path = g_canonicalize_filename(a->path, NULL),
                .dev = st.st_dev,
                .ino = st.st_ino,
            };
        }
        return fd;
    }
    close(fd);
    return -1;
}

void unix_listener_remove(UnixListener *l)
{
    struct stat st;

    if (l->path && lstat(l->path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino) {
        unlink(l->path);
    }
    g_clear_pointer(&l->path, g_free);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What snapshot_file_prepare() would find, without doing anything: for checks.  Nothing it says is a promise: the file may come or go
 * in the next moment.
 */
#include "block/file.h"
#include "block/types.h"
#include "file-create-internal.h"
#include "file-dir.h"
#include "file-lock.h"
#include "file-open.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static bool refuse(const char *path, int err, Error **errp)
{
    error_set_errno(errp, err, path, "create", "Could not create '%s'", path);
    return false;
}

static bool check_existing(const char *path, const FilePlace *place, Error **errp)
{
    struct stat st;
    int fd = file_open_regular(place->dir, place->name, O_RDWR | O_NOFOLLOW, &st);
    bool ok;

    if (fd == FILE_NOT_REGULAR && !S_ISDIR(st.st_mode)) {
        error_set(errp, ERROR_UNSUPPORTED, path, "create",
                  "Could not create '%s': it exists and is not a regular file", path);
        return false;
    }
    if (fd < 0) {
        return refuse(path, fd == FILE_NOT_REGULAR ? EISDIR : -fd, errp);
    }
    ok = !file_lock_supported(fd) || file_lock_check(fd, path, file_create_locks, errp);
    close(fd);
    return ok;
}

bool snapshot_file_check(SnapshotFile *f, Error **errp)
{
    const char *path = snapshot_file_path(f);
    FilePlace place = {.dir = -1};
    int ret = file_place_find(path, &place);
    bool ok;

    if (ret < 0) {
        return refuse(path, -ret, errp);
    }
    if (faccessat(place.dir, place.name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
        ok = check_existing(path, &place, errp);
    } else {
        ok = faccessat(place.dir, ".", W_OK | X_OK, AT_EACCESS) == 0 || refuse(path, errno, errp);
    }
    file_place_clear(&place);
    return ok;
}

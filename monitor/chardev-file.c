/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Character devices of the kinds file and pipe.
 *
 * A pipe is one FIFO for both directions or two (NAME.in, NAME.out), opened for reading and writing so that opening never waits for
 * the other side.
 */
#include "chardev-internal.h"
#include "qapi-types.h"
#include "util/passed-fd.h"
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

typedef struct FileDevice {
    Chardev base;
    Stream stream;
    int in, out; /* -1: none */
} FileDevice;

static void ended(Stream *s)
{
    /* The end of a file is not the end of the device: more may be written. */
    stream_set_reading(s, false);
}

static int open_fd(const char *path, int flags, Error **errp)
{
    int fd = fdset_is_name(path) ? fdset_open(path, flags)
                                 : open(path, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666);

    if (fd < 0) {
        error_set_errno(errp, fd == -1 ? errno : -fd, path, "chardev", "Could not open '%s'", path);
        return -1;
    }
    return fd;
}

static void init(FileDevice *d)
{
    d->in = d->out = -1;
    stream_init(&d->stream, &d->base, ended);
}

static bool file_open(Chardev *c, const ChardevBackend *b, Error **errp)
{
    const ChardevFile *o = b->u.file.data;
    FileDevice *d = (FileDevice *)c;

    init(d);
    d->out = open_fd(o->out, O_WRONLY | O_CREAT | (o->has_append && o->append ? O_APPEND : O_TRUNC),
                     errp);
    if (d->out >= 0 && o->in) {
        d->in = open_fd(o->in, O_RDONLY, errp);
    }
    return d->out >= 0 && (!o->in || d->in >= 0);
}

static bool pipe_open(Chardev *c, const ChardevBackend *b, Error **errp)
{
    const char *name = b->u.pipe.data->device;
    g_autofree char *in = g_strconcat(name, ".in", NULL), *out = g_strconcat(name, ".out", NULL);
    FileDevice *d = (FileDevice *)c;

    init(d);
    if (access(in, F_OK) == 0 && access(out, F_OK) == 0) {
        d->in = open_fd(in, O_RDWR, errp);
        d->out = d->in >= 0 ? open_fd(out, O_RDWR, errp) : -1;
    } else {
        d->in = open_fd(name, O_RDWR, errp);
        d->out = d->in >= 0 ? dup(d->in) : -1;
    }
    return d->in >= 0 && d->out >= 0;
}

static void file_start(Chardev *c)
{
    FileDevice *d = (FileDevice *)c;

    stream_start(&d->stream, d->in, d->out);
}

static void file_write(Chardev *c, const char *data, size_t len)
{
    stream_write(&((FileDevice *)c)->stream, data, len);
}

static size_t file_queued(const Chardev *c)
{
    return stream_queued(&((const FileDevice *)c)->stream);
}

static void file_set_reading(Chardev *c, bool on)
{
    stream_set_reading(&((FileDevice *)c)->stream, on);
}

static void file_close(Chardev *c)
{
    FileDevice *d = (FileDevice *)c;

    stream_stop(&d->stream, true);
    stream_cleanup(&d->stream);
    if (d->in >= 0) {
        close(d->in);
    }
    if (d->out >= 0) {
        close(d->out);
    }
}

const ChardevKind chardev_kind_file = {
    .name = "file",
    .size = sizeof(FileDevice),
    .open = file_open,
    .start = file_start,
    .write = file_write,
    .queued = file_queued,
    .set_reading = file_set_reading,
    .close = file_close,
};
const ChardevKind chardev_kind_pipe = {
    .name = "pipe",
    .size = sizeof(FileDevice),
    .open = pipe_open,
    .start = file_start,
    .write = file_write,
    .queued = file_queued,
    .set_reading = file_set_reading,
    .close = file_close,
};

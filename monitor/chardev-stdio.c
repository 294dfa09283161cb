/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Character devices of kind stdio.
 *
 * Standard input and output belong to one device at a time; what was changed is put back at the end, since others may share them.
 */
#include "chardev-internal.h"
#include "qapi-types.h"
#include <errno.h>
#include <fcntl.h>
#include <termios.h>
#include <unistd.h>

typedef struct Stdio {
    Chardev base;
    Stream stream;
    int flags[2];
    bool terminal_changed;
    struct termios terminal;
} Stdio;

static Stdio *owner; /* NULL: none */

static void ended(Stream *s)
{
    stream_stop(s, false);
    chardev_closed(s->device);
}

static bool stdio_open(Chardev *c, const ChardevBackend *b, Error **errp)
{
    const ChardevStdio *o = b->u.stdio.data;
    Stdio *d = (Stdio *)c;

    if (owner) {
        error_set(errp, ERROR_BUSY, c->id, "chardev",
                  "cannot use stdio by multiple character devices");
        return false;
    }
    owner = d;
    stream_init(&d->stream, c, ended);
    for (int fd = 0; fd < 2; fd++) {
        d->flags[fd] = fcntl(fd, F_GETFL);
        fcntl(fd, F_SETFL, d->flags[fd] | O_NONBLOCK);
    }
    if (o->has_signal && !o->signal && tcgetattr(STDIN_FILENO, &d->terminal) == 0) {
        struct termios t = d->terminal;

        t.c_lflag &= ~ISIG;
        d->terminal_changed = tcsetattr(STDIN_FILENO, TCSANOW, &t) == 0;
    }
    return true;
}

static void stdio_start(Chardev *c)
{
    stream_start(&((Stdio *)c)->stream, STDIN_FILENO, STDOUT_FILENO);
}

static void stdio_write(Chardev *c, const char *data, size_t len)
{
    stream_write(&((Stdio *)c)->stream, data, len);
}

static size_t stdio_queued(const Chardev *c)
{
    return stream_queued(&((const Stdio *)c)->stream);
}

static void stdio_set_reading(Chardev *c, bool on)
{
    stream_set_reading(&((Stdio *)c)->stream, on);
}

static void stdio_disconnect(Chardev *c)
{
    Stdio *d = (Stdio *)c;

    if (d->stream.in >= 0) {
        ended(&d->stream);
    }
}

static void stdio_close(Chardev *c)
{
    Stdio *d = (Stdio *)c;

    if (owner != d) {
        return;
    }
    stream_stop(&d->stream, true);
    stream_cleanup(&d->stream);
    for (int fd = 0; fd < 2; fd++) {
        fcntl(fd, F_SETFL, d->flags[fd]);
    }
    if (d->terminal_changed) {
        tcsetattr(STDIN_FILENO, TCSANOW, &d->terminal);
    }
    owner = NULL;
}

void chardev_set_raw(Chardev *c)
{
    Stdio *d = (Stdio *)c;
    struct termios t;

    if (owner != d || tcgetattr(STDIN_FILENO, &t) < 0) {
        return;
    }
    if (!d->terminal_changed) {
        d->terminal = t;
    }
    t.c_iflag &= ~(ICRNL | INLCR | IGNCR | IXON);
    t.c_lflag &= ~(ECHO | ECHONL | ICANON | IEXTEN);
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    d->terminal_changed = tcsetattr(STDIN_FILENO, TCSANOW, &t) == 0;
}

void chardev_write_stdout(const char *data, size_t len)
{
    if (owner && owner->stream.out >= 0) {
        chardev_write(&owner->base, data, len);
        return;
    }
    while (len > 0) {
        ssize_t n = write(STDOUT_FILENO, data, len);

        if (n < 0 && errno != EINTR) {
            return; /* nobody reads it */
        }
        if (n > 0) {
            data += n;
            len -= n;
        }
    }
}

const ChardevKind chardev_kind_stdio = {
    .name = "stdio",
    .size = sizeof(Stdio),
    .open = stdio_open,
    .start = stdio_start,
    .write = stdio_write,
    .queued = stdio_queued,
    .set_reading = stdio_set_reading,
    .disconnect = stdio_disconnect,
    .close = stdio_close,
};

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Character devices of kind mux: several users share another device.
 *
 * All write; what comes goes to one of them, the focus.  Control-A is followed by a command: c moves the focus, h tells the
 * commands, b sends a break (which nobody here minds), Control-A stands for itself.
 */
#include "chardev-internal.h"
#include "qapi-types.h"
#include <string.h>

#define USERS_MAX 4
#define ESCAPE    1 /* Control-A */

typedef struct Mux {
    Chardev base;
    Chardev *device;
    struct {
        const ChardevUser *user;
        void *opaque;
    } users[USERS_MAX];
    unsigned count, focus;
    bool connected, escaped;
} Mux;

static const char help[] = "\r\n"
                           "C-a h  print this help\r\n"
                           "C-a b  send a break\r\n"
                           "C-a c  go on with the next user of the device\r\n"
                           "C-a C-a  send C-a\r\n";

static void on_opened(void *opaque)
{
    Mux *m = opaque;

    m->connected = true;
    for (unsigned i = 0; i < m->count; i++) {
        m->users[i].user->opened(m->users[i].opaque);
    }
}

static void on_closed(void *opaque)
{
    Mux *m = opaque;

    m->connected = m->escaped = false;
    for (unsigned i = 0; i < m->count; i++) {
        m->users[i].user->closed(m->users[i].opaque);
    }
}

static void on_drained(void *opaque)
{
    Mux *m = opaque;

    for (unsigned i = 0; i < m->count; i++) {
        if (m->users[i].user->drained) {
            m->users[i].user->drained(m->users[i].opaque);
        }
    }
}

static void to_focus(Mux *m, const char *data, size_t len)
{
    if (len > 0 && m->count > 0) {
        m->users[m->focus].user->received(m->users[m->focus].opaque, data, len);
    }
}

static void command(Mux *m, char c)
{
    switch (c) {
    case 'c':
        m->focus = m->count ? (m->focus + 1) % m->count : 0;
        break;
    case 'h':
    case '?':
        chardev_write(m->device, help, strlen(help));
        break;
    case ESCAPE:
        to_focus(m, &c, 1);
        break;
    }
}

static void on_received(void *opaque, const char *data, size_t len)
{
    Mux *m = opaque;

    while (len > 0 && m->connected) {
        const char *special = memchr(data, ESCAPE, len);
        size_t n = special ? (size_t)(special - data) : len;

        if (m->escaped) {
            m->escaped = false;
            command(m, *data);
            n = 1;
        } else {
            to_focus(m, data, n);
            m->escaped = special;
            n += special ? 1 : 0;
        }
        data += n;
        len -= n;
    }
}

static const ChardevUser mux_user = {
    .opened = on_opened,
    .received = on_received,
    .drained = on_drained,
    .closed = on_closed,
};

static bool coroutine_fn mux_open(Chardev *c, const ChardevBackend *b, Error **errp)
{
    const char *name = b->u.mux.data->chardev;
    Chardev *device = chardev_find(name);
    Mux *m = (Mux *)c;

    if (!device) {
        error_set(errp, ERROR_NOT_FOUND, name, "chardev", "mux: base chardev %s not found", name);
        return false;
    }
    if (!chardev_attach(device, &mux_user, m, errp)) {
        return false;
    }
    m->device = device;
    return true;
}

static void mux_start(Chardev *c)
{
    (void)c; /* users are told when they are attached */
}

bool chardev_mux_attach(Chardev *c, const ChardevUser *user, void *opaque, Error **errp)
{
    Mux *m = (Mux *)c;

    if (m->count == USERS_MAX) {
        error_set(errp, ERROR_LIMIT, c->id, "chardev",
                  "too many uses of multiplexed chardev '%s' (maximum is %d)", c->id, USERS_MAX);
        return false;
    }
    m->users[m->count].user = user;
    m->users[m->count].opaque = opaque;
    m->focus = m->count++; /* the last one has the keyboard */
    if (m->connected) {
        user->opened(opaque);
    }
    return true;
}

static void mux_write(Chardev *c, const char *data, size_t len)
{
    chardev_write(((Mux *)c)->device, data, len);
}

static size_t mux_queued(const Chardev *c)
{
    return chardev_queued(((const Mux *)c)->device);
}

static void mux_set_reading(Chardev *c, bool on)
{
    chardev_set_reading(((Mux *)c)->device, on);
}

static void mux_disconnect(Chardev *c)
{
    chardev_disconnect(((Mux *)c)->device);
}

static void mux_close(Chardev *c)
{
    Mux *m = (Mux *)c;

    if (m->device) {
        chardev_detach(m->device);
    }
}

const ChardevKind chardev_kind_mux = {
    .name = "mux",
    .size = sizeof(Mux),
    .open = mux_open,
    .start = mux_start,
    .write = mux_write,
    .queued = mux_queued,
    .set_reading = mux_set_reading,
    .disconnect = mux_disconnect,
    .close = mux_close,
};

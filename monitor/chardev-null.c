/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Character devices of kind null: nothing comes, what is written is dropped.
 */
#include "chardev-internal.h"
#include "qapi-types.h"

static bool null_open(Chardev *c, const ChardevBackend *b, Error **errp)
{
    (void)c;
    (void)b;
    (void)errp;
    return true;
}

static void null_start(Chardev *c)
{
    chardev_opened(c);
}

static void null_write(Chardev *c, const char *data, size_t len)
{
    (void)c;
    (void)data;
    (void)len;
}

const ChardevKind chardev_kind_null = {
    .name = "null",
    .size = sizeof(Chardev),
    .open = null_open,
    .start = null_start,
    .write = null_write,
};

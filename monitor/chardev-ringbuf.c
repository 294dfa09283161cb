/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Character devices of kind ringbuf: memory that keeps the last of what was written.
 *
 * `put` and `taken` count bytes for ever; what is between them is in the buffer.
 */
#include "monitor/ringbuf.h"
#include "chardev-internal.h"
#include "qapi-types.h"

#define DEFAULT_SIZE 65536
#define MAX_SIZE     (INT64_C(1) << 30)

typedef struct Ringbuf {
    Chardev base;
    guint8 *buf;
    size_t size;
    guint64 put, taken;
} Ringbuf;

static bool ringbuf_open(Chardev *c, const ChardevBackend *b, Error **errp)
{
    const ChardevRingbuf *o = b->u.ringbuf.data; /* memory has the same */
    int64_t size = o->has_size ? o->size : DEFAULT_SIZE;
    Ringbuf *r = (Ringbuf *)c;

    if (size <= 0 || (size & (size - 1))) {
        error_set(errp, ERROR_INVALID, c->id, "chardev",
                  "size of ringbuf chardev must be power of two");
        return false;
    }
    r->buf = size <= MAX_SIZE ? g_try_malloc(size) : NULL;
    if (!r->buf) {
        error_set(errp, ERROR_LIMIT, c->id, "chardev",
                  "no memory for a ringbuf of %" G_GINT64_FORMAT " bytes", size);
        return false;
    }
    r->size = size;
    return true;
}

static void ringbuf_start(Chardev *c)
{
    chardev_opened(c);
}

void ringbuf_write(Chardev *c, const void *data, size_t len)
{
    Ringbuf *r = (Ringbuf *)c;

    for (size_t i = 0; i < len; i++) {
        r->buf[r->put++ % r->size] = ((const guint8 *)data)[i];
    }
    if (r->put - r->taken > r->size) {
        r->taken = r->put - r->size;
    }
}

static void user_wrote(Chardev *c, const char *data, size_t len)
{
    ringbuf_write(c, data, len);
}

GByteArray *ringbuf_read(Chardev *c, size_t size)
{
    Ringbuf *r = (Ringbuf *)c;
    GByteArray *out = g_byte_array_new();

    for (guint64 n = MIN(size, r->put - r->taken); n > 0; n--) {
        g_byte_array_append(out, &r->buf[r->taken++ % r->size], 1);
    }
    return out;
}

static void ringbuf_close(Chardev *c)
{
    g_free(((Ringbuf *)c)->buf);
}

Chardev *ringbuf_find(const char *id, Error **errp)
{
    Chardev *c = chardev_find(id);

    if (!c) {
        error_set(errp, ERROR_NOT_FOUND, id, "ringbuf", "Device '%s' not found", id);
        return NULL;
    }
    if (c->kind->open != ringbuf_open) {
        error_set(errp, ERROR_INVALID, id, "ringbuf", "%s is not a ringbuf device", id);
        return NULL;
    }
    return c;
}

const ChardevKind chardev_kind_ringbuf = {
    .name = "ringbuf",
    .size = sizeof(Ringbuf),
    .open = ringbuf_open,
    .start = ringbuf_start,
    .write = user_wrote,
    .close = ringbuf_close,
};
const ChardevKind chardev_kind_memory = {
    .name = "memory",
    .size = sizeof(Ringbuf),
    .open = ringbuf_open,
    .start = ringbuf_start,
    .write = user_wrote,
    .close = ringbuf_close,
};

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Character devices of kind ringbuf, from the side that is not their user.  Control thread.
 */
#ifndef MONITOR_RINGBUF_H
#define MONITOR_RINGBUF_H

#include "monitor/chardev.h"
#include <glib.h>

/* NULL with *errp: there is no such device, or it is of another kind. */
Chardev *ringbuf_find(const char *id, Error **errp);
/* The user gets the bytes; what is beyond the size pushes out the oldest. */
void ringbuf_write(Chardev *c, const void *data, size_t len);
/* Takes at most size bytes out; the caller's. */
GByteArray *ringbuf_read(Chardev *c, size_t size);

#endif

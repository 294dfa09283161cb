/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the files of the console command `qemu-io` share.  Control thread.
 */
#ifndef MONITOR_HMP_QEMU_IO_H
#define MONITOR_HMP_QEMU_IO_H

#include "block/node.h"

/* Prints to the daemon's standard output. */
void qemu_io_print(const char *fmt, ...) G_GNUC_PRINTF(1, 2);

/* Commands; words[0] is the command.  n: the disk, which the caller holds.  What fails there is printed; false: the words are wrong. */
bool coroutine_fn qemu_io_break(Node *n, char **words, Error **errp);
bool coroutine_fn qemu_io_remove_break(Node *n, char **words, Error **errp);
bool coroutine_fn qemu_io_resume(Node *n, char **words, Error **errp);
bool coroutine_fn qemu_io_wait_break(Node *n, char **words, Error **errp);

#endif

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Copies of dirty sectors on their way to the file; see table.c.
 */
#ifndef QCOW2_TABLE_H
#define QCOW2_TABLE_H

#include "qcow2.h"

typedef struct TableCopies {
    GArray *list;      /* of TableCopy */
    GPtrArray *tables; /* Table *, whose `writing` counts us */
    bool failed;       /* no memory for a copy */
} TableCopies;

void copies_init(TableCopies *c);
/* Under lock: copies t's dirty sectors and makes them clean.  Nothing happens when there are none. */
void copies_take(Qcow2 *q, TableCopies *c, Table *t);
bool copies_empty(const TableCopies *c);
int coroutine_fn copies_write(Qcow2 *q, Request *r, TableCopies *c);
/* Takes the lock.  ok: they are in the file; otherwise their sectors are dirty again. */
void copies_end(Qcow2 *q, TableCopies *c, bool ok);

#endif

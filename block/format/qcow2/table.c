/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Tables: memory that mirrors a piece of the file, and which sectors of it differ.
 *
 * Writing back works on copies that are taken under the lock, so that tables can change while earlier contents are on their way
 * to the file; that is what makes the order of flush.c possible.  A copy holds a run of dirty sectors; short gaps of clean ones are
 * copied along, which saves writes and changes nothing.
 *
 * While `writing` is not zero, the file may have older contents than what memory calls clean: the table stays in memory.
 */
#include "table.h"
#include "batch.h"
#include <stdlib.h>

#define WORD_BITS (8 * sizeof(unsigned long))
#define MERGE_GAP 8u /* sectors */

typedef struct TableCopy {
    Table *table;
    HostOffset offset; /* where the table was when the copy was made */
    uint32_t from, bytes;
    void *data;
} TableCopy;

static bool dirty_bit(const Table *t, uint32_t sector)
{
    return t->dirty[sector / WORD_BITS] >> (sector % WORD_BITS) & 1;
}

bool table_init(Table *t, TableKind kind, HostOffset offset, uint32_t size)
{
    *t = (Table){.kind = kind, .offset = offset, .size = size};
    t->data = block_try_alloc(size);
    if (!t->data) {
        return false;
    }
    memset(t->data, 0, size);
    t->dirty = g_new0(unsigned long, div_up(size / SECTOR, WORD_BITS));
    return true;
}

void table_clear(Table *t)
{
    free(t->data);
    g_free(t->dirty);
    *t = (Table){0};
}

L1 *l1_new(HostOffset offset, uint32_t entries, uint32_t covered)
{
    L1 *l1 = g_malloc0(sizeof(L1) + covered * sizeof(l1->l2[0]));
    uint64_t bytes = MAX(((uint64_t)entries * 8 + SECTOR - 1) & ~(uint64_t)(SECTOR - 1), SECTOR);

    if (!table_init(&l1->t, TABLE_L1, offset, bytes)) {
        g_free(l1);
        return NULL;
    }
    l1->entries = entries;
    l1->covered = covered;
    return l1;
}

void l1_free(L1 *l1)
{
    table_clear(&l1->t);
    g_free(l1);
}

bool table_is_dirty(const Table *t)
{
    return t->queued || t->writing > 0;
}

void table_mark_dirty(Qcow2 *q, Table *t, uint32_t from, uint32_t bytes)
{
    for (uint32_t s = from / SECTOR; s <= (from + bytes - 1) / SECTOR; s++) {
        t->dirty[s / WORD_BITS] |= 1ul << (s % WORD_BITS);
    }
    if (!t->queued) {
        t->queued = true;
        g_ptr_array_add(q->dirty_tables, t);
        atomic_store_explicit(&q->ndirty, q->dirty_tables->len, memory_order_relaxed);
    }
}

void table_set_entry(Qcow2 *q, Table *t, uint64_t i, uint64_t value)
{
    atomic_store_explicit(&((_Atomic uint64_t *)t->data)[i], htobe64(value), memory_order_release);
    table_mark_dirty(q, t, i * sizeof(uint64_t), sizeof(uint64_t));
}

void copies_init(TableCopies *c)
{
    c->list = g_array_new(false, false, sizeof(TableCopy));
    c->tables = g_ptr_array_new();
    c->failed = false;
}

bool copies_empty(const TableCopies *c)
{
    return c->list->len == 0 && !c->failed;
}

/* The end of the run of dirty sectors that begins at `s`. */
static uint32_t run_end(const Table *t, uint32_t s, uint32_t nsectors)
{
    uint32_t end = s + 1;

    for (uint32_t i = end; i < nsectors && i < end + MERGE_GAP; i++) {
        if (dirty_bit(t, i)) {
            end = i + 1;
        }
    }
    return end;
}

void copies_take(Qcow2 *q, TableCopies *c, Table *t)
{
    uint32_t n = t->size / SECTOR,
             step = t->size % q->table_align == 0 ? q->table_align / SECTOR : 1;
    bool any = false;

    for (uint32_t s = 0; s < n; s++) {
        TableCopy copy = {.table = t, .offset = t->offset};
        uint32_t from, to;

        if (!dirty_bit(t, s)) {
            continue;
        }
        from = s - s % step;
        to = run_end(t, s, n);
        to = MIN((to + step - 1) / step * step, n);
        copy.from = from * SECTOR;
        copy.bytes = (to - from) * SECTOR;
        copy.data = block_try_alloc(copy.bytes);
        if (copy.data) {
            memcpy(copy.data, (uint8_t *)t->data + copy.from, copy.bytes);
            if (G_UNLIKELY(q->draft)) {
                draft_mask(q, t, copy.from, copy.bytes, copy.data);
            }
        } else {
            c->failed = true;
        }
        g_array_append_val(c->list, copy);
        any = true;
        s = to - 1;
    }
    memset(t->dirty, 0, div_up(n, WORD_BITS) * sizeof(unsigned long));
    if (t->queued) {
        t->queued = false;
        g_ptr_array_remove_fast(q->dirty_tables, t);
        atomic_store_explicit(&q->ndirty, q->dirty_tables->len, memory_order_relaxed);
    }
    if (any) {
        t->writing++;
        g_ptr_array_add(c->tables, t);
    }
}

typedef struct CopyPiece {
    Qcow2 *q;
    Request *r;
    const TableCopy *copy;
} CopyPiece;

static int coroutine_fn write_copy(void *opaque)
{
    CopyPiece *p = opaque;

    return edge_pwrite(p->q->file, p->r, host_to_child(host_add(p->copy->offset, p->copy->from)),
                       p->copy->data, p->copy->bytes, 0);
}

int coroutine_fn copies_write(Qcow2 *q, Request *r, TableCopies *c)
{
    Batch b;

    if (c->failed) {
        return -ENOMEM;
    }
    batch_init(&b, 16);
    for (guint i = 0; i < c->list->len; i++) {
        CopyPiece *p = g_new(CopyPiece, 1);

        *p = (CopyPiece){.q = q, .r = r, .copy = &g_array_index(c->list, TableCopy, i)};
        batch_add(&b, write_copy, p);
    }
    return batch_wait(&b);
}

void copies_end(Qcow2 *q, TableCopies *c, bool ok)
{
    pthread_mutex_lock(&q->lock);
    for (guint i = 0; i < c->list->len; i++) {
        TableCopy *copy = &g_array_index(c->list, TableCopy, i);

        if (!ok) {
            table_mark_dirty(q, copy->table, copy->from, copy->bytes);
        }
        free(copy->data);
    }
    for (guint i = 0; i < c->tables->len; i++) {
        ((Table *)g_ptr_array_index(c->tables, i))->writing--;
    }
    pthread_mutex_unlock(&q->lock);
    g_array_free(c->list, true);
    g_ptr_array_free(c->tables, true);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Stories; see qcow2-story.h.
 */
#include "qcow2-story.h"
#include <string.h>

void story_init(Story *s, uint64_t size)
{
    memset(s, 0, sizeof(*s));
    s->m = simmachine_default();
    s->sectors = size / 512;
    s->writes = g_new(GArray *, s->sectors);
    for (uint64_t i = 0; i < s->sectors; i++) {
        s->writes[i] = g_array_new(false, false, sizeof(Write));
    }
    s->flushes = g_array_new(false, false, sizeof(Flush));
    pthread_mutex_init(&s->lock, NULL);
    atomic_store(&s->last_id, 1000);
}

void story_clear(Story *s)
{
    for (uint64_t i = 0; i < s->sectors; i++) {
        g_array_free(s->writes[i], true);
    }
    g_free(s->writes);
    g_array_free(s->flushes, true);
    pthread_mutex_destroy(&s->lock);
}

void story_write(Story *s, uint64_t sector, uint64_t id)
{
    Write w = {.id = id, .begun = simmachine_time(s->m)};

    g_array_append_val(s->writes[sector], w);
}

static void story_ended(Story *s, uint64_t sector)
{
    g_array_index(s->writes[sector], Write, s->writes[sector]->len - 1).ended =
        simmachine_time(s->m);
}

/* A sector's contents: its id and number, over and over. */
void story_put_sector(uint8_t *p, uint64_t sector, uint64_t id)
{
    for (unsigned i = 0; i < 512; i += 16) {
        uint64_t v[2] = {id, id ? sector : 0};

        memcpy(p + i, v, 16);
    }
}

/* ---- writers ---- */

typedef struct Writer {
    Story *s;
    Edge *edge;
    unsigned id, n;
    unsigned requests;
    uint64_t cluster;
    GRand *rand;
    CoGroup *done;
} Writer;

typedef enum Kind { WRITE, COMPRESS, ZERO, UNMAP, DISCARD } Kind;

static int coroutine_fn change(Writer *w, Request *r, Kind kind, uint64_t from, uint64_t count)
{
    uint64_t per_cluster = w->cluster / 512;
    g_autofree uint8_t *buf = g_malloc(count * 512);
    uint64_t id = kind <= COMPRESS ? atomic_fetch_add(&w->s->last_id, 1) : 0, first = from,
             end = from + count;
    int ret;

    if (kind == DISCARD) {
        first = (from + per_cluster - 1) / per_cluster * per_cluster;
        end = end / per_cluster * per_cluster;
    }
    for (uint64_t i = first; i < end; i++) {
        story_write(w->s, i, id);
    }
    for (uint64_t i = 0; i < count; i++) {
        story_put_sector(buf + i * 512, from + i, id);
    }
    switch (kind) {
    case WRITE:
    case COMPRESS:
        ret = edge_pwrite(w->edge, r, guest(from * 512), buf, count * 512,
                          kind == COMPRESS ? REQ_COMPRESSED : 0);
        break;
    case DISCARD:
        ret = edge_pdiscard(w->edge, r, guest(from * 512), count * 512);
        break;
    default:
        ret = edge_pwrite_zeroes(w->edge, r, guest(from * 512), count * 512,
                                 kind == UNMAP ? REQ_MAY_UNMAP : 0);
        break;
    }
    for (uint64_t i = first; i < end && ret == 0; i++) {
        story_ended(w->s, i);
    }
    return ret;
}

static int coroutine_fn flush(Writer *w, Request *r)
{
    Flush f = {.begun = simmachine_time(w->s->m)};
    int ret = edge_flush(w->edge, r);

    if (ret == 0) {
        f.ended = simmachine_time(w->s->m);
        pthread_mutex_lock(&w->s->lock);
        g_array_append_val(w->s->flushes, f);
        pthread_mutex_unlock(&w->s->lock);
    }
    return ret;
}

/* Whatever is read anywhere has been written there: not what another sector had, whose cluster it was or will be. */
static int coroutine_fn look_around(Writer *w, Request *r)
{
    uint64_t count = 1 + g_rand_int_range(w->rand, 0, 64),
             from = g_rand_int_range(w->rand, 0, w->s->sectors - count + 1);
    g_autofree uint8_t *buf = g_malloc(count * 512);
    int ret = edge_pread(w->edge, r, guest(from * 512), buf, count * 512, 0);

    for (uint64_t i = 0; i < count && ret == 0; i++) {
        for (unsigned k = 0; k < 512; k += 16) {
            uint64_t v[2];

            memcpy(v, buf + i * 512 + k, 16);
            if (v[0] ? v[1] != from + i || v[0] > atomic_load(&w->s->last_id) : v[1] != 0) {
                g_error("sector %" G_GUINT64_FORMAT " reads as sector %" G_GUINT64_FORMAT
                        ", id %" G_GUINT64_FORMAT,
                        from + i, v[1], v[0]);
            }
        }
    }
    return ret;
}

static void coroutine_fn writer_main(void *opaque)
{
    Writer *w = opaque;
    uint64_t part = w->s->sectors / w->n, start = w->id * part;

    for (unsigned i = 0; i < w->requests; i++) {
        int dice = g_rand_int_range(w->rand, 0, 20), ret;
        uint64_t len = 1 + g_rand_int_range(w->rand, 0, dice % 3 ? 20 : MIN(part, 300));
        uint64_t from = start + g_rand_int_range(w->rand, 0, part - len + 1);
        Request r;

        request_begin(&r, dice == 0 ? REQUEST_FLUSH : dice >= 15 ? REQUEST_READ : REQUEST_WRITE);
        ret = dice == 0   ? flush(w, &r)
              : dice <= 2 ? change(w, &r, DISCARD, from, len)
              : dice == 3 ? change(w, &r, ZERO, from, len)
              : dice == 4 ? change(w, &r, UNMAP, from, len)
              : dice >= 15
                  ? look_around(w, &r)
                  : change(w, &r, dice >= 10 && w->s->compresses ? COMPRESS : WRITE, from, len);
        request_end(&r);
        if (ret < 0 && !atomic_load(&w->s->expect_errors)) {
            g_error("request failed: %s", g_strerror(-ret));
        }
    }
    co_group_done(w->done);
}

void coroutine_fn story_run_writers(Story *s, Edge *edge, uint64_t cluster, unsigned n,
                                    unsigned requests, uint32_t seed)
{
    g_autofree Writer *writers = g_new0(Writer, n);
    CoGroup done;

    co_group_init(&done);
    co_group_add(&done, n);
    for (unsigned i = 0; i < n; i++) {
        writers[i] = (Writer){
            .s = s,
            .edge = edge,
            .id = i,
            .n = n,
            .requests = requests,
            .cluster = cluster,
            .rand = g_rand_new_with_seed(seed * 100 + i),
            .done = &done,
        };
        co_spawn(test_loop(TEST_THREAD_0 + i % 2), writer_main, &writers[i]);
    }
    co_group_wait(&done);
    co_group_destroy(&done);
    for (unsigned i = 0; i < n; i++) {
        g_rand_free(writers[i].rand);
    }
}

/* ---- judging ---- */

uint64_t story_covered(const Story *s, uint64_t t)
{
    uint64_t covered = 0;

    for (guint i = 0; i < s->flushes->len; i++) {
        const Flush *f = &g_array_index(s->flushes, Flush, i);

        if (f->ended <= t) {
            covered = MAX(covered, f->begun);
        }
    }
    return covered;
}

bool story_may_have(const Story *s, uint64_t sector, uint64_t t, uint64_t covered,
                    const uint8_t *have)
{
    const GArray *list = s->writes[sector];
    guint first = 0;
    uint8_t want[512];

    for (guint i = 0; i < list->len; i++) {
        const Write *w = &g_array_index(list, Write, i);

        /* The clock ticks with operations of the disk only: the same time says nothing. */
        if (w->ended && w->ended < covered) {
            first = i;
        }
    }
    for (guint i = first; i < list->len; i++) {
        const Write *w = &g_array_index(list, Write, i);

        story_put_sector(want, sector, w->id);
        if (w->begun <= t && memcmp(have, want, 512) == 0) {
            return true;
        }
    }
    return false;
}

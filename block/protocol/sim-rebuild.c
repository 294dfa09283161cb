/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a power failure leaves of a simulated disk.  include/block/simdisk.h defines which results
 * are permitted; this chooses one of them.
 *
 *   1. Operations are parted into durable ones and ones in doubt.
 *   2. The durable ones, in the order in which they took effect, give the durable content.
 *   3. Of each one in doubt it is decided which of its sectors reached the medium, less those that
 *      a durable operation has overwritten since it completed.
 *   4. They are put in an order: each gets a random moment of the time it was under way.  If one
 *      had completed before another was issued, its moment is earlier; else either can be.
 *   5. In that order they are laid over the durable content.
 */
#include "sim-internal.h"
#include <string.h>

typedef struct Doubt {
    const SimRecord *op;
    uint64_t begin, end; /* bytes that it changes (not the size) */
    uint8_t *reached;    /* one byte a sector of [begin, end) */
    bool size_reached;   /* SIM_TRUNCATE */
    uint64_t moment, tie;
} Doubt;

typedef enum Style {
    STYLE_NONE,
    STYLE_ALL,
    STYLE_WHOLE, /* each, as a whole, by chance */
    STYLE_TORN,  /* each in any of the ways */
    STYLE_BUT_ONE,
    STYLE_ONE,
    STYLE_FIRST, /* those before a moment; one at it torn */
    STYLE_LAST,  /* those after a moment */
    STYLE_COUNT,
} Style;

/* ---- durable or in doubt ---- */

/* For each flush, as issued: whether what completed just before its issue is durable. */
static bool *flush_answers(const GPtrArray *flushes, uint64_t t)
{
    bool *answer = g_new0(bool, flushes->len + 1);

    for (guint i = flushes->len; i-- > 0;) {
        const SimRecord *f = g_ptr_array_index(flushes, i);

        if (f->err) {
            answer[i] = false; /* it failed: no later flush helps */
        } else {
            answer[i] = (f->completed && f->completed <= t) || answer[i + 1];
        }
    }
    return answer;
}

/* The first flush that was issued after `time`. */
static guint flush_after(const GPtrArray *flushes, uint64_t time)
{
    guint low = 0, high = flushes->len;

    while (low < high) {
        guint mid = (low + high) / 2;

        if (((SimRecord *)g_ptr_array_index(flushes, mid))->issued > time) {
            high = mid;
        } else {
            low = mid + 1;
        }
    }
    return low;
}

static void part(const SimDisk *d, uint64_t t, GPtrArray *durable, GPtrArray *doubt)
{
    g_autoptr(GPtrArray) flushes = g_ptr_array_new();
    g_autofree bool *answers = NULL;

    for (guint i = 0; i < d->ops->len; i++) {
        SimRecord *r = g_ptr_array_index(d->ops, i);

        if (r->kind == SIM_FLUSH && r->issued <= t) {
            g_ptr_array_add(flushes, r);
        }
    }
    answers = flush_answers(flushes, t);
    for (guint i = 0; i < d->ops->len; i++) {
        SimRecord *r = g_ptr_array_index(d->ops, i);

        if (r->kind == SIM_FLUSH || r->err || r->issued > t) {
            continue;
        }
        if (r->completed && r->completed <= t && answers[flush_after(flushes, r->completed)]) {
            g_ptr_array_add(durable, r);
        } else {
            g_ptr_array_add(doubt, r);
        }
    }
}

static gint by_effect(gconstpointer a, gconstpointer b)
{
    const SimRecord *ra = *(SimRecord *const *)a, *rb = *(SimRecord *const *)b;

    return ra->applied < rb->applied ? -1 : ra->applied > rb->applied;
}

/* ---- the durable content ---- */

static void lay_durable(SimImage *image, GPtrArray *durable)
{
    g_ptr_array_sort(durable, by_effect);
    for (guint i = 0; i < durable->len; i++) {
        const SimRecord *r = g_ptr_array_index(durable, i);

        switch (r->kind) {
        case SIM_WRITE:
            sim_image_write(image, r->offset, r->data, r->bytes);
            break;
        case SIM_ZERO:
        case SIM_DISCARD:
            sim_image_zero(image, r->offset, r->bytes);
            break;
        case SIM_TRUNCATE:
            sim_image_resize(image, r->bytes);
            break;
        case SIM_FLUSH:
            break;
        }
    }
}

/* ---- those in doubt ---- */

/* Bytes whose content an operation changes. */
static void changed_bytes(const SimDisk *d, const SimRecord *r, uint64_t *ret_begin,
                          uint64_t *ret_end)
{
    if (r->kind == SIM_TRUNCATE) {
        *ret_begin = r->bytes;
        *ret_end = MAX(r->applied ? r->old_size : d->max_size, r->bytes);
    } else {
        *ret_begin = r->offset;
        *ret_end = r->offset + r->bytes;
    }
}

static guint sectors(const Doubt *w)
{
    return (w->end - w->begin) / SIM_SECTOR;
}

static void reach_all(Doubt *w)
{
    memset(w->reached, 1, sectors(w));
    w->size_reached = true;
}

static void tear(Doubt *w, uint64_t *random)
{
    guint n = sectors(w), at;

    if (w->op->kind == SIM_TRUNCATE || n < 2) {
        if (sim_random(random) & 1) {
            reach_all(w);
        }
        return;
    }
    at = 1 + sim_random(random) % (n - 1);
    switch (sim_random(random) % 5) {
    case 0:
        break;
    case 1:
        reach_all(w);
        break;
    case 2:
        memset(w->reached, 1, at);
        break;
    case 3:
        memset(w->reached + at, 1, n - at);
        break;
    default:
        for (guint i = 0; i < n; i++) {
            w->reached[i] = sim_random(random) & 1;
        }
        break;
    }
}

static void choose(GArray *doubt, Style style, uint64_t *random)
{
    guint n = doubt->len, one = n ? sim_random(random) % n : 0;

    for (guint i = 0; i < n; i++) {
        Doubt *w = &g_array_index(doubt, Doubt, i);

        switch (style) {
        case STYLE_ALL:
            reach_all(w);
            break;
        case STYLE_WHOLE:
            if (sim_random(random) & 1) {
                reach_all(w);
            }
            break;
        case STYLE_TORN:
            tear(w, random);
            break;
        case STYLE_BUT_ONE:
            if (i != one) {
                reach_all(w);
            }
            break;
        case STYLE_ONE:
            if (i == one) {
                reach_all(w);
            }
            break;
        case STYLE_FIRST:
        case STYLE_LAST:
            if (i == one) {
                tear(w, random);
            } else if ((i < one) == (style == STYLE_FIRST)) {
                reach_all(w);
            }
            break;
        default:
            break;
        }
    }
}

/* What has been overwritten durably since it took effect does not come back; while it is under way
 * it still can come. */
static void forget_overwritten(const SimDisk *d, Doubt *w, const GPtrArray *durable, uint64_t t)
{
    if (!w->op->completed || w->op->completed > t) {
        return;
    }
    for (guint i = durable->len; i-- > 0;) {
        const SimRecord *r = g_ptr_array_index(durable, i);
        uint64_t begin, end;

        if (r->applied < w->op->applied) {
            return; /* sorted: so are all before it */
        }
        changed_bytes(d, r, &begin, &end);
        begin = MAX(begin, w->begin);
        end = MIN(end, w->end);
        if (begin < end) {
            memset(w->reached + (begin - w->begin) / SIM_SECTOR, 0, (end - begin) / SIM_SECTOR);
        }
        if (r->kind == SIM_TRUNCATE) {
            w->size_reached = false;
        }
    }
}

static gint by_moment(gconstpointer a, gconstpointer b)
{
    const Doubt *da = a, *db = b;

    if (da->moment != db->moment) {
        return da->moment < db->moment ? -1 : 1;
    }
    return da->tie < db->tie ? -1 : da->tie > db->tie;
}

static GArray *doubts_new(const SimDisk *d, const GPtrArray *ops, uint64_t t, uint64_t *random)
{
    GArray *doubt = g_array_new(false, true, sizeof(Doubt));

    for (guint i = 0; i < ops->len; i++) {
        Doubt w = {.op = g_ptr_array_index(ops, i)};
        uint64_t last = w.op->completed ? MIN(w.op->completed, t) : t;

        changed_bytes(d, w.op, &w.begin, &w.end);
        w.reached = g_malloc0(MAX(sectors(&w), 1));
        w.moment = w.op->issued + sim_random(random) % (last - w.op->issued + 1);
        w.tie = sim_random(random);
        g_array_append_val(doubt, w);
    }
    g_array_sort(doubt, by_moment);
    return doubt;
}

static void lay_doubt(SimImage *image, const Doubt *w, uint64_t *size)
{
    for (guint i = 0; i < sectors(w); i++) {
        uint64_t offset = w->begin + (uint64_t)i * SIM_SECTOR;

        if (!w->reached[i]) {
            continue;
        }
        if (w->op->kind == SIM_WRITE) {
            sim_image_write(image, offset, w->op->data + (uint64_t)i * SIM_SECTOR, SIM_SECTOR);
        } else {
            sim_image_zero(image, offset, SIM_SECTOR);
        }
    }
    if (w->op->kind == SIM_TRUNCATE && w->size_reached) {
        *size = w->op->bytes;
    }
}

static void rebuild(const SimDisk *d, uint64_t t, uint64_t seed, SimImage *image)
{
    g_autoptr(GPtrArray) durable = g_ptr_array_new(), ops = g_ptr_array_new();
    uint64_t random = seed ^ ((uint64_t)g_str_hash(d->name) << 32), size;
    GArray *doubt;

    sim_image_copy(image, &d->initial);
    part(d, t, durable, ops);
    lay_durable(image, durable);
    doubt = doubts_new(d, ops, t, &random);
    choose(doubt, seed % STYLE_COUNT, &random);
    size = image->size;
    image->size = d->max_size; /* until it is known how much of it is there */
    for (guint i = 0; i < doubt->len; i++) {
        Doubt *w = &g_array_index(doubt, Doubt, i);

        forget_overwritten(d, w, durable, t);
        lay_doubt(image, w, &size);
        g_free(w->reached);
    }
    g_array_free(doubt, true);
    sim_image_resize(image, size);
}

bool simmachine_rebuild(SimMachine *m, uint64_t t, uint64_t seed, const char *disk,
                        const char *path, Error **errp)
{
    SimImage image = {0};
    SimDisk *d;
    bool ok;

    pthread_mutex_lock(&m->lock);
    d = sim_find(m, disk);
    if (d) {
        rebuild(d, t, seed, &image);
    }
    pthread_mutex_unlock(&m->lock);
    if (!d) {
        error_set(errp, ERROR_NOT_FOUND, disk, "rebuild", "There is no simulated disk '%s'", disk);
        return false;
    }
    ok = sim_image_save(&image, path, errp);
    sim_image_clear(&image);
    return ok;
}

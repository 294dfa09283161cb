/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reopening a qcow2 node.
 *
 *   other options           take effect at the switch; tables in memory stay
 *   read-only to writable   the refcounts are read beside what is there
 *   writable to read-only   everything is written; tables stay
 *   another file            a state of its own is read from it, and takes the place of the present one as a whole
 *   inactive to active      the same, as the file may be another one in all but its name
 */
#include "bitmap.h"
#include "block/reopen.h"
#include "qapi-types.h"
#include "util/log.h"
#include <string.h>

const char *const qcow2_reopen_options[] = {
    "lazy-refcounts",      "pass-discard-request", "pass-discard-snapshot",
    "pass-discard-other",  "discard-no-unref",     "overlap-check",
    "cache-size",          "l2-cache-size",        "l2-cache-entry-size",
    "refcount-cache-size", "cache-clean-interval", NULL};

typedef struct Qcow2Reopen {
    Qcow2Options opt;
    Qcow2 *fresh;        /* another file, or one that has changed: its state */
    bool stopped;        /* housekeeping is */
    bool read_refcounts; /* for this reopen */
} Qcow2Reopen;

static bool is_writable(const Node *n)
{
    return !atomic_load_explicit(&((Node *)n)->read_only, memory_order_relaxed);
}

static bool same_options(const Qcow2Options *a, const Qcow2Options *b)
{
    return a->lazy_refcounts == b->lazy_refcounts && a->discard_request == b->discard_request &&
           a->discard_snapshot == b->discard_snapshot && a->discard_other == b->discard_other &&
           a->discard_no_unref == b->discard_no_unref && a->l2_cache_size == b->l2_cache_size &&
           a->refcount_cache_size == b->refcount_cache_size &&
           a->clean_interval == b->clean_interval;
}

bool coroutine_fn qcow2_reopen_prepare(Node *n, Reopen *r, Error **errp)
{
    Qcow2 *q = qcow2_of(n);
    Qcow2Reopen *s = g_new0(Qcow2Reopen, 1);

    r->state = s;
    if (r->auto_read_only && node_will_be_read_only(r->file->target)) {
        r->read_only = true;
    }
    if (!qcow2_options(n, r->options, r->discard_unmap, &s->opt, errp) ||
        !qcow2_check_entry_size(q, r->options, errp)) {
        return false;
    }
    r->hold |= !same_options(&s->opt, &q->opt);
    /* Until it is certain that nobody will write, nobody does (B2). */
    r->hold |= is_writable(n) && r->read_only && bitmaps_any(q);
    return r->new_file || r->reload || r->read_only || is_writable(n) ||
           header_check_supported(&q->header, true, errp);
}

bool coroutine_fn qcow2_reopen_quiesce(Node *n, Reopen *r, Error **errp)
{
    Qcow2 *q = qcow2_of(n);
    Qcow2Reopen *s = r->state;
    Request request;
    bool ok;
    int ret;

    if (!r->new_file && !r->reload && !(is_writable(n) && r->read_only)) {
        return true;
    }
    s->stopped = true;
    keeper_stop(q);
    if (!is_writable(n) || atomic_load(&q->corrupt)) {
        return true; /* nothing that could be written */
    }
    request_begin(&request, REQUEST_WRITE);
    request.passes_gates = true;
    ok = bitmaps_store(q, &request, errp);
    ret = ok ? qcow2_write_everything(q, &request) : 0;
    request_end(&request);
    if (ret < 0) {
        error_set_errno(errp, -ret, n->name, "reopen", "Could not write the metadata of '%s'",
                        n->name);
    }
    return ok && ret == 0;
}

static bool coroutine_fn load(Node *n, Reopen *r, Request *request, Error **errp)
{
    Qcow2 *q = qcow2_of(n);
    Qcow2Reopen *s = r->state;

    if (r->new_file || r->reload) {
        s->fresh = qcow2_state_new(n);
        s->fresh->file = r->file;
        s->fresh->opt = s->opt;
        return qcow2_load(s->fresh, request, r->options, !r->read_only, errp) &&
               data_file_take(s->fresh, q, errp);
    }
    if (r->read_only || is_writable(n) || q->reft.data) {
        return true;
    }
    s->read_refcounts = true;
    return qcow2_open_writable(q, request, errp);
}

bool coroutine_fn qcow2_reopen_load(Node *n, Reopen *r, Error **errp)
{
    Request request;
    bool ok;

    request_begin(&request, REQUEST_WRITE);
    request.passes_gates = true;
    ok = load(n, r, &request, errp);
    request_end(&request);
    return ok;
}

/* The first thing that a writable image gets.  Should it fail, nothing else gets in. */
static void coroutine_fn begin_writing(Qcow2 *q)
{
    g_autoptr(Error) err = NULL;
    Request request;

    request_begin(&request, REQUEST_WRITE);
    request.passes_gates = true;
    if (!qcow2_clear_autoclear(q, &request, &err) || !bitmaps_mark_in_use(q, &request, &err)) {
        log_error("%s: %s; no writes are taken", q->node->name, err->message);
        atomic_store(&q->corrupt, true);
    }
    request_end(&request);
}

void coroutine_fn qcow2_reopen_switch(Node *n, Reopen *r)
{
    Qcow2 *q = qcow2_of(n);
    Qcow2Reopen *s = r->state;

    if (s->fresh) {
        timer_cancel(&q->clean_timer);
        *(Qcow2 **)n->state = s->fresh;
        s->fresh = q; /* to be freed */
        q = qcow2_of(n);
        atomic_store_explicit(&n->size, q->header.size, memory_order_release);
        qcow2_set_limits(n, q);
        qcow2_clean_regularly(q);
        bitmaps_release(n);
        bitmaps_adopt(q);
    } else if (r->hold) {
        q->opt = s->opt;
        qcow2_set_cache_limits(q);
        q->table_align = MAX(SECTOR, q->file->target->limits.request_alignment);
        timer_cancel(&q->clean_timer);
        qcow2_clean_regularly(q);
    }
    if (r->inactive) {
        bitmaps_release(n);
    }
    if (!r->read_only && (s->fresh || !is_writable(n))) {
        alloc_restart(q);
        pthread_mutex_lock(&q->lock);
        q->closing = false;
        pthread_mutex_unlock(&q->lock);
        begin_writing(q);
    }
}

void coroutine_fn qcow2_reopen_end(Node *n, Reopen *r, bool done)
{
    Qcow2 *q = qcow2_of(n);
    Qcow2Reopen *s = r->state;

    if (s->fresh) {
        qcow2_state_free(s->fresh);
    }
    if (!done && s->read_refcounts) {
        refcount_free_all(q);
        overlap_close(q);
    }
    if (!done && s->stopped && is_writable(n)) {
        begin_writing(q); /* what was stored is in use again */
    }
    if (!done && s->stopped) {
        pthread_mutex_lock(&q->lock);
        q->closing = false;
        pthread_mutex_unlock(&q->lock);
    }
    g_free(s);
    r->state = NULL;
}

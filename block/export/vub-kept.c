/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What must be known when a guest outlives us.
 *
 * A front end can connect its running guest to our successor.  That is right only if the successor's disk has everything that the
 * guest was told is written.  After an orderly end it has.  After a kill, the kernel still has what was written to files, but an image
 * format's metadata may have been in our memory only.  So the in-flight buffer, which the front end keeps, says
 *
 *   acked, saved   writes that were answered while metadata was only in memory, and how many of them a flush has covered since.
 *                  Not equal, and left by another process: the disk has forgotten something, the guest is refused.
 *   the image      to which the newest answered write went.  A successor that serves another one (a base, because it does not know of
 *                  a snapshot) has forgotten everything since: refused.
 *   wce            the guest's choice; a guest that had turned the cache off does not flush.
 *
 * With `metadata-writethrough` metadata is flushed before a write is answered that needs it: acked does not grow, and the guest goes on
 * after every kill.
 *
 * Lock: kept_lock, before nothing; held by who tells the buffer of another image.
 */
#include "block/saved.h"
#include "util/log.h"
#include "vub-internal.h"
#include <sys/random.h>

static uint64_t instance(void)
{
    static _Atomic uint64_t id;
    uint64_t now = atomic_load(&id), fresh = 0;

    if (now == 0) {
        if (getrandom(&fresh, sizeof(fresh), 0) != sizeof(fresh) || fresh == 0) {
            fresh = (uint64_t)g_get_real_time();
        }
        now = atomic_compare_exchange_strong(&id, &now, fresh) ? fresh : now;
    }
    return now;
}

/* The file of the node that new requests go to; its unique number. */
static uint64_t newest(VubExport *e, FileIdentity *ret)
{
    uint64_t unique;
    Request r;
    Node *n;

    request_begin(&r, REQUEST_READ);
    n = edge_enter(e->base.edge, &r);
    if (!node_file_identity(n, ret)) {
        *ret = (FileIdentity){0};
    }
    unique = n->unique;
    request_end(&r);
    return unique;
}

static void note_image(VubKept *k, const FileIdentity *id)
{
    k->dev = id->dev;
    k->ino = id->ino;
    k->birth = id->birth;
}

static void coroutine_fn tell_image(VubSession *s)
{
    VubExport *e = s->exp;
    FileIdentity id;
    uint64_t unique;

    co_mutex_lock(&e->kept_lock);
    unique = newest(e, &id);
    note_image(s->inflight->kept, &id);
    atomic_store_explicit(&e->known_node, unique, memory_order_release);
    co_mutex_unlock(&e->kept_lock);
}

void vub_kept_wce(VubSession *s, bool wce)
{
    atomic_store_explicit(&s->wce, wce, memory_order_relaxed);
    if (s->inflight) {
        s->inflight->kept->wce = wce;
    }
}

static bool same_image(const VubKept *k, const FileIdentity *now)
{
    FileIdentity then = {.dev = k->dev, .ino = k->ino, .birth = k->birth};

    return then.ino == 0 || file_identity_equal(&then, now);
}

bool coroutine_fn vub_kept_adopt(VubSession *s, bool fresh, Error **errp)
{
    VubKept *k = s->inflight->kept;
    bool ours = k->instance == instance();
    FileIdentity id;

    if (!fresh && !ours) {
        if (atomic_load(&k->acked) != atomic_load(&k->saved)) {
            error_set(errp, ERROR_CORRUPT, s->exp->base.id, "vhost-user",
                      "the guest is not connected again: the process that served it before was "
                      "killed while metadata of answered writes was in its memory only "
                      "(see metadata-writethrough); start the guest again");
            return false;
        }
        newest(s->exp, &id);
        if (!same_image(k, &id)) {
            error_set(
                errp, ERROR_CORRUPT, s->exp->base.id, "vhost-user",
                "the guest is not connected again: the process that served it before wrote "
                "to another image than this one serves; serve that one, or start the guest again");
            return false;
        }
    }
    if (fresh) {
        k->wce = atomic_load_explicit(&s->wce, memory_order_relaxed);
        atomic_store(&k->acked, 0);
        atomic_store(&k->saved, 0);
    } else {
        atomic_store_explicit(&s->wce, k->wce && !s->exp->base.writethrough, memory_order_relaxed);
    }
    k->instance = instance();
    tell_image(s);
    return true;
}

int coroutine_fn vub_kept_written(VubSession *s, Request *r)
{
    VubExport *e = s->exp;
    Edge *edge = e->base.edge;
    Node *n = edge_enter(edge, r);

    if (!s->inflight) {
        return 0;
    }
    if (G_UNLIKELY(n->unique != atomic_load_explicit(&e->known_node, memory_order_acquire))) {
        tell_image(s);
    }
    if (edge_unsaved(edge, r)) {
        if (e->metadata_writethrough) {
            return edge_flush(edge, r);
        }
        atomic_fetch_add_explicit(&s->inflight->kept->acked, 1, memory_order_relaxed);
    }
    return 0;
}

int coroutine_fn vub_kept_flush(VubSession *s, Request *r)
{
    VubKept *k = s->inflight ? s->inflight->kept : NULL;
    uint64_t acked = k ? atomic_load_explicit(&k->acked, memory_order_relaxed) : 0, saved;
    int ret = edge_flush(s->exp->base.edge, r);

    if (ret == 0 && k) {
        saved = atomic_load_explicit(&k->saved, memory_order_relaxed);
        while (saved < acked && !atomic_compare_exchange_weak(&k->saved, &saved, acked)) {
        }
    }
    return ret;
}

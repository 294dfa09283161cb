/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Copy mode write-blocking: a guest is told that something is written when the target has it too.
 *
 * A write that ended in the source is marked like every other, then carried (copy_now) by a coroutine of its own on the guest's thread, and the guest
 * waits for that one.  It is bounded: after `timeout` the guest is told, and the coroutine goes on alone.  Whenever a write could not be
 * carried, because of an error or of time, it is marked, and nobody waits for the target any more until the workers have copied everything: the mode is
 * *suspended*.  About an error the job does what the user said, as when a worker meets it.
 *
 * The target is the same as the source ("actively synced") when all marks that were there as this began have been looked for once, and nothing failed:
 * what has been written since then carries itself.
 *
 * A coroutine and the write that it was made for are on one thread: what they share needs no lock.
 */
#include "mirror.h"
#include "util/log.h"
#include <errno.h>

typedef struct Through {
    MirrorJob *m;
    uint64_t offset, bytes;
    Coroutine *guest; /* waits; NULL: nobody does */
    Timer timer;
    bool done, alone;
    _Atomic bool stop;
} Through;

static void wake_guest(Through *t)
{
    Coroutine *co = t->guest;

    t->guest = NULL;
    if (co) {
        co_wake(co);
    }
}

static void timed_out(void *opaque)
{
    wake_guest(opaque);
}

static void coroutine_fn carry(void *opaque)
{
    Through *t = opaque;
    MirrorJob *m = t->m;

    if (copy_now(&m->copy, t->offset, t->bytes, &t->stop) < 0) {
        atomic_store(&m->suspended, true);
    }
    t->done = true;
    if (t->alone) {
        atomic_fetch_sub(&m->alone, 1);
        g_free(t);
    } else {
        wake_guest(t);
    }
    co_group_done(&m->carrying);
}

static void coroutine_fn wrote(void *opaque, uint64_t offset, uint64_t bytes)
{
    MirrorJob *m = opaque;
    Through *t;

    if (atomic_load(&m->suspended) || (job_is_cancelled(&m->job) && !atomic_load(&m->job.soft))) {
        return;
    }
    t = g_new0(Through, 1);
    *t = (Through){.m = m, .offset = offset, .bytes = bytes};
    co_group_add(&m->carrying, 1);
    co_start(carry, t);
    if (!t->done) {
        timer_init(&t->timer, timed_out, t);
        timer_arm(&t->timer, clock_ns() + m->timeout);
        t->guest = co_self();
        co_yield();
        timer_cancel(&t->timer);
    }
    if (t->done) {
        g_free(t);
        return;
    }
    t->alone = true;
    atomic_fetch_add(&m->alone, 1);
    atomic_store(&t->stop, true);
    if (!atomic_exchange(&m->suspended, true)) {
        log_warn(
            "mirror job '%s': target '%s' has not taken a write for %d ms; until it has caught up "
            "guests do not wait for it",
            m->job.id, m->target->name, (int)(m->timeout / 1000000));
    }
}

void coroutine_fn mirror_through_begin(MirrorJob *m)
{
    co_group_init(&m->carrying);
    m->follower.wrote = wrote;
    m->follower.opaque = m;
    (void)node_set_follower(m->source, &m->follower); /* no two jobs have one source */
}

void coroutine_fn mirror_through_end(MirrorJob *m)
{
    node_remove_follower(m->source, &m->follower);
    co_group_wait(&m->carrying);
    co_group_destroy(&m->carrying);
}

void mirror_through_set(MirrorJob *m, bool active)
{
    if (atomic_load(&m->follower.active) != active) {
        m->synced = false;
        m->since = atomic_load(&m->copy.rounds);
        atomic_store(&m->follower.active, active);
    }
}

bool mirror_is_through(const MirrorJob *m)
{
    return atomic_load(&((MirrorJob *)m)->follower.active);
}

void mirror_through_look(MirrorJob *m)
{
    unsigned rounds = atomic_load(&m->copy.rounds), failures = atomic_load(&m->copy.failures);
    bool suspended = atomic_load(&m->suspended), all;

    if (failures != m->failures || (suspended && !m->seen_suspended)) {
        m->failures = failures;
        m->since = rounds;
        m->synced = false;
    }
    m->seen_suspended = suspended;
    if (!mirror_is_through(m)) {
        return;
    }
    all = copy_is_idle(&m->copy) || rounds - m->since >= 2;
    if (suspended && all && atomic_load(&m->alone) == 0) {
        m->seen_suspended = false;
        m->since = rounds;
        atomic_store(&m->suspended, false);
    } else if (!suspended && all) {
        m->synced = true;
    }
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Grace periods (liburcu) and the asymmetric barrier (membarrier(2)).
 *
 * What liburcu orders is invisible to TSan, so it is told: what was read in a section happens before the end
 * of a grace period that waits for it, and what was written before a grace period before any section that
 * begins afterwards.
 */
#define URCU_API_MAP
#include "util/rcu.h"
#include "util/worker.h"
#include <errno.h>
#include <glib.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <urcu/urcu-memb.h>

#if BARRIER_IS_TSAN
#include <sanitizer/tsan_interface.h>
static char grace_begins, grace_ends;
#define tsan_release(p) __tsan_release(p)
#define tsan_acquire(p) __tsan_acquire(p)
#else
#define tsan_release(p) ((void)0)
#define tsan_acquire(p) ((void)0)
#endif

bool barrier_light_is_fence = true;
_Atomic unsigned barrier_dummy;

static int membarrier(int command)
{
    return syscall(SYS_membarrier, command, 0, 0);
}

void rcu_init_process(void)
{
    /* Tests: as where a seccomp filter forbids it. */
    bool forbidden = BARRIER_IS_TSAN || g_getenv("CUTPOINT_NO_MEMBARRIER");

    barrier_light_is_fence =
        forbidden || membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) != 0;
}

void rcu_thread_register(void)
{
    urcu_memb_register_thread();
}

void rcu_thread_unregister(void)
{
    urcu_memb_unregister_thread();
}

void rcu_begin(void)
{
    urcu_memb_read_lock();
    tsan_acquire(&grace_begins);
}

void rcu_end(void)
{
    tsan_release(&grace_ends);
    urcu_memb_read_unlock();
}

void rcu_synchronize(void)
{
    tsan_release(&grace_begins);
    urcu_memb_synchronize_rcu();
    tsan_acquire(&grace_ends);
}

static int synchronize_on_worker(void *opaque)
{
    (void)opaque;
    rcu_synchronize();
    return 0;
}

void coroutine_fn co_rcu_synchronize(void)
{
    worker_run(WORKERS_CONTROL, synchronize_on_worker, NULL);
}

void barrier_heavy(void)
{
    if (barrier_light_is_fence) {
        barrier_fence();
        return;
    }
    if (membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0) {
        return;
    }
    /* A process that was forked after it had registered may have to do so again. */
    if (errno == EPERM && membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0 &&
        membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0) {
        return;
    }
    /* The light sides have relied on it: going on could corrupt disks. */
    g_error("membarrier, which worked at start, fails: %s", g_strerror(errno));
}

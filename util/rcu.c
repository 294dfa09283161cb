/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Grace periods (liburcu) and the asymmetric barrier (membarrier(2)).
 */
#define URCU_API_MAP
#include "util/rcu.h"
#include "util/worker.h"
#include <glib.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <urcu/urcu-memb.h>

bool barrier_light_is_fence = true;
_Atomic unsigned barrier_dummy;

void rcu_init_process(void)
{
    const char *refuse = g_getenv("CUTPOINT_NO_MEMBARRIER"); /* tests: as under a strict seccomp filter */

    barrier_light_is_fence =
        BARRIER_IS_TSAN || refuse || syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) != 0;
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
}

/* liburcu's ordering is invisible to TSan: what was read in a section happens before a grace period's end. */
#if BARRIER_IS_TSAN
#include <sanitizer/tsan_interface.h>
static char grace;
#define tsan_section_ends() __tsan_release(&grace)
#define tsan_grace_ends()   __tsan_acquire(&grace)
#else
#define tsan_section_ends()
#define tsan_grace_ends()
#endif

void rcu_end(void)
{
    tsan_section_ends();
    urcu_memb_read_unlock();
}

void rcu_synchronize(void)
{
    urcu_memb_synchronize_rcu();
    tsan_grace_ends();
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
    if (barrier_light_is_fence || syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) != 0) {
        barrier_fence();
    }
}

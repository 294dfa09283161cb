/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Mapped files that get shorter.
 *
 * Guest memory is a file that the front end can truncate while we have it mapped; touching what is gone raises SIGBUS.  For mappings that
 * are guarded, the handler puts a page of zeroes there and lets the thread go on: the guest, whose memory is gone, gets what it
 * deserves, and nobody else notices.  (Calls of the kernel with such memory fail with EFAULT and need no help.)  Any other SIGBUS ends the
 * process as before.
 *
 * The table is read by the signal handler: entries are set in an order that shows it nothing half made.
 */
#include "vub-internal.h"
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_GUARDS 4096

typedef struct Guard {
    _Atomic uintptr_t start; /* 0: free */
    _Atomic size_t len;
} Guard;

static Guard guards[MAX_GUARDS];
static _Atomic unsigned used;                            /* entries that were ever in use */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* innermost; changes of the table */
static struct sigaction former;
static size_t page_size;

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)info->si_addr;
    unsigned n = atomic_load(&used);
    int saved_errno = errno;

    (void)context;
    for (unsigned i = 0; i < n; i++) {
        uintptr_t start = atomic_load(&guards[i].start);

        if (start && at >= start && at - start < atomic_load(&guards[i].len)) {
            void *page = (void *)(at & ~(page_size - 1));

            if (mmap(page, page_size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page) {
                errno = saved_errno;
                return;
            }
        }
    }
    sigaction(sig, &former, NULL); /* the instruction is tried again, and ends as it would have */
}

static void install(void)
{
    struct sigaction sa = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};

    page_size = sysconf(_SC_PAGESIZE);
    sigemptyset(&sa.sa_mask);
    sigaction(SIGBUS, &sa, &former);
}

bool vub_fault_guard(void *map, size_t len)
{
    static bool installed;
    bool found = false;

    pthread_mutex_lock(&lock);
    if (!installed) {
        install();
        installed = true;
    }
    for (unsigned i = 0; i < MAX_GUARDS && !found; i++) {
        if (atomic_load(&guards[i].start) == 0) {
            atomic_store(&guards[i].len, len);
            atomic_store(&guards[i].start, (uintptr_t)map);
            if (i >= atomic_load(&used)) {
                atomic_store(&used, i + 1);
            }
            found = true;
        }
    }
    pthread_mutex_unlock(&lock);
    return found;
}

void vub_fault_unguard(void *map)
{
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < atomic_load(&used); i++) {
        if (atomic_load(&guards[i].start) == (uintptr_t)map) {
            atomic_store(&guards[i].start, 0);
            break;
        }
    }
    pthread_mutex_unlock(&lock);
}

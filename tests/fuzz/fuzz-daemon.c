/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * For fuzz targets with the commands of the whole daemon.
 */
#include "fuzz-daemon.h"
#include "block/backend.h"
#include "block/export.h"
#include "block/graph.h"
#include "block/iothread-objects.h"
#include "block/job.h"
#include "block/object.h"
#include "block/transaction.h"
#include "monitor/personality/emulator.h"
#include <stdlib.h>
#include <unistd.h>

static char *directory;

static void remove_files(void)
{
    GDir *d = g_dir_open(directory, 0, NULL);
    const char *name;

    while (d && (name = g_dir_read_name(d))) {
        unlink(name);
    }
    if (d) {
        g_dir_close(d);
    }
}

void coroutine_fn fuzz_daemon_take_down(void)
{
    int64_t deadline = clock_ns() + 20 * INT64_C(1000000000);
    GPtrArray *left;

    transaction_abort_all();
    g_assert_true(transaction_wait_all(deadline));
    g_assert_true(job_cancel_all(deadline));
    export_shutdown_all();
    device_free_all();
    g_assert_true(backend_free_all(deadline));
    drive_forget_all();
    g_assert_true(graph_close_all(deadline));
    left = node_list();
    g_assert_cmpuint(left->len, ==, 0);
    g_ptr_array_free(left, true);
    object_free_all();
    iothread_free_own();
    remove_files();
}

static void leave(void)
{
    remove_files();
    rmdir(directory);
}

void fuzz_daemon_init(void)
{
    fuzz_init();
    directory = g_strdup("/dev/shm/cutpoint-fuzz-XXXXXX"); /* files are synced a lot */
    if (!g_mkdtemp(directory) || chdir(directory) < 0) {
        FUZZ_FAIL("cannot make a directory");
    }
    atexit(leave);
}

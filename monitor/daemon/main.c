/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * cutpointd.
 *
 * Start: the command line is read; --daemonize forks before there is any thread; then the control loop runs, and a coroutine
 * carries the options out in order.  When they are done the process says that it is ready (pidfile, parent's exit).
 *
 * End: `quit`, SIGTERM, SIGINT or SIGHUP run daemon_shutdown(), which is bounded: a watchdog thread ends the process after
 * SHUTDOWN_SECONDS, or at the second signal, if some storage never answers.  A signal that comes during the start is obeyed between two
 * options; a character device that waits for its client stops to wait.  Until START_LOCK_SECONDS have passed, what a process that was
 * killed just before has not given up yet is waited for, not an error.
 */
#include "block/export.h"
#include "block/file.h"
#include "block/graph.h"
#include "block/journal.h"
#include "block/iothread-objects.h"
#include "block/job.h"
#include "block/nbd-server.h"
#include "block/object.h"
#include "block/transaction.h"
#include "../personality/emulator.h"
#include "daemon.h"
#include "monitor/chardev.h"
#include "monitor/qmp.h"
#include "util/log.h"
#include "util/loop.h"
#include "util/rcu.h"
#include <fcntl.h>
#include <glib-unix.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define DESCRIPTORS                                                                                \
    16384 /* for so many there is room from the start, if the process may have them */

static GMainLoop *main_loop;
static CommandLine command_line;
static int exit_status;
static bool starting = true, stop_requested, shutting_down, by_signal;

static void *watchdog(void *unused)
{
    (void)unused;
    sleep(SHUTDOWN_SECONDS);
    log_error("shutdown did not end within %d s: some storage does not answer; leaving without it",
              SHUTDOWN_SECONDS);
    pidfile_remove();
    _exit(1);
}

static void start_watchdog(void)
{
    static bool started;

    if (!started) {
        started = true;
        g_thread_unref(g_thread_new("watchdog", watchdog, NULL));
    }
}

static gboolean give_up_peers(gpointer unused)
{
    (void)unused;
    graph_abandon_all();
    return G_SOURCE_REMOVE;
}

void coroutine_fn daemon_shutdown(void)
{
    int64_t deadline = clock_ns() + (SHUTDOWN_SECONDS - 5) * INT64_C(1000000000);

    if (shutting_down) {
        return;
    }
    shutting_down = true;
    start_watchdog();
    g_timeout_add_seconds(PEER_SECONDS, give_up_peers, NULL);
    machine_shutdown(by_signal);
    transaction_abort_all();
    if (!transaction_wait_all(clock_ns() + TRANSACTION_SETTLE_TIMEOUT_NS)) {
        log_warn("a transaction has not ended; leaving without it");
    }
    if (!job_cancel_all(deadline)) {
        log_warn("a job has not ended; leaving without it");
    }
    export_shutdown_all();
    device_free_all();
    if (!backend_free_all(deadline)) {
        log_warn("requests of a console have not ended; leaving without them");
    }
    if (!graph_close_all(deadline)) {
        exit_status = 1;
    }
    journal_close();
}

static void leave(void)
{
    g_main_loop_quit(main_loop);
}

static void coroutine_fn quit(void)
{
    daemon_shutdown();
    qmp_after_reply(leave);
}

static void coroutine_fn shut_down_and_leave(void *unused)
{
    (void)unused;
    daemon_shutdown();
    leave();
}

static gboolean on_signal(gpointer unused)
{
    (void)unused;
    if (shutting_down || stop_requested) {
        log_warn("second signal: leaving at once");
        pidfile_remove();
        _exit(1);
    }
    by_signal = true;
    if (starting) {
        stop_requested = true;
        file_locks_wait_until(0);
        chardev_stop_waiting();
        start_watchdog();
    } else {
        co_spawn(loop_control(), shut_down_and_leave, NULL);
    }
    return G_SOURCE_CONTINUE;
}

static void coroutine_fn start(void *unused)
{
    g_autoptr(Error) err = NULL;

    (void)unused;
    file_locks_wait_until(clock_ns() + START_LOCK_SECONDS * INT64_C(1000000000));
    option_run_journal(&command_line, &err); /* recovery comes before anything is opened */
    if (machine_is_emulator() && !err) {
        emulator_start(&err);
    } else {
        for (guint i = 0; i < command_line.options->len && !err && !stop_requested; i++) {
            option_run(&g_array_index(command_line.options, Option, i), &err);
        }
    }
    if (!err && !stop_requested && command_line.pidfile) {
        pidfile_create(command_line.pidfile, &err);
    }
    file_locks_wait_until(0);
    if (err || stop_requested) {
        if (!stop_requested) {
            report_error(err);
            exit_status = 1;
        }
        daemon_shutdown();
        leave();
        return;
    }
    starting = false;
    nbd_server_serve();
    chardev_serve();
    daemonize_ready();
}

/* The kernel makes a process's table of descriptors larger when it is full.  In a process with threads it waits for all processors
 * before it goes on, ten milliseconds or more, and until then nobody gets a descriptor: in the middle of a snapshot of many disks.  So the
 * table gets its size now, while there is one thread. */
static void make_room_for_descriptors(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC), last;
    struct rlimit limit;

    if (fd < 0 || getrlimit(RLIMIT_NOFILE, &limit) < 0) {
        return;
    }
    last = fcntl(fd, F_DUPFD_CLOEXEC, (int)MIN(limit.rlim_cur, DESCRIPTORS) - 1);
    if (last >= 0) {
        close(last);
    }
    close(fd);
}

int main(int argc, char **argv)
{
    g_autofree char *program = g_path_get_basename(argv[0]);

    g_set_prgname(program);
    argv[0] = program; /* getopt puts it before its messages */
    driver_register_all();
    machine_init(emulator_by_name(program));
    if (machine_is_emulator()) {
        emulator_parse(&command_line, argc, argv);
    } else {
        command_line_parse(&command_line, argc, argv);
    }
    if (command_line.daemonize) {
        daemonize_fork();
    }
    make_room_for_descriptors();
    log_init(program, LOG_LEVEL_INFO);
    if (machine_is_emulator()) {
        log_plain_errors();
    }
    signal(SIGPIPE, SIG_IGN);
    rcu_init_process();
    loop_control_init();
    qmp_set_quit(quit);
    main_loop = g_main_loop_new(NULL, false);
    g_unix_signal_add(SIGTERM, on_signal, NULL);
    g_unix_signal_add(SIGINT, on_signal, NULL);
    g_unix_signal_add(SIGHUP, on_signal, NULL);
    co_spawn(loop_control(), start, NULL);
    g_main_loop_run(main_loop);
    qtest_close();
    chardev_close_all();
    object_free_all();
    iothread_free_own();
    pidfile_remove();
    g_array_free(command_line.options, true);
    g_main_loop_unref(main_loop);
    return exit_status;
}

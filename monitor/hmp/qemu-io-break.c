/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Breakpoints of the console command `qemu-io`: break, remove_break, resume, wait_break, on the blkdebug node that is below the disk.
 */
#include "block/debug.h"
#include "block/driver.h"
#include "qemu-io.h"
#include <errno.h>
#include <string.h>

/* wait_break gives up after this: no monitor waits for ever. */
#define WAIT_MAX_NS  INT64_C(60000000000)
#define WAIT_STEP_NS INT64_C(1000000)

static bool count_words(char **words, unsigned want, Error **errp)
{
    unsigned have = g_strv_length(words) - 1;

    if (have != want) {
        error_set(errp, ERROR_INVALID, words[0], "qemu-io",
                  "bad argument count %u to %s, expected %u argument%s", have, words[0], want,
                  want == 1 ? "" : "s");
        return false;
    }
    return true;
}

static bool parse_event(const char *name, BlkdebugEvent *ret)
{
    for (int i = 0; i < BLKDEBUG_EVENT__MAX; i++) {
        if (strcmp(qapi_enum_BlkdebugEvent(i), name) == 0) {
            *ret = i;
            return true;
        }
    }
    return false;
}

bool coroutine_fn qemu_io_break(Node *top, char **words, Error **errp)
{
    Node *n = node_debugged(top);
    BlkdebugEvent event;
    int ret;

    if (!count_words(words, 2, errp)) {
        return false;
    }
    ret = !n                               ? -ENOTSUP
          : !parse_event(words[1], &event) ? -ENOENT
                                           : n->driver->debug->set_break(n, event, words[2]);
    if (ret < 0) {
        qemu_io_print("Could not set breakpoint: %s\n", g_strerror(-ret));
    }
    return true;
}

bool coroutine_fn qemu_io_remove_break(Node *top, char **words, Error **errp)
{
    Node *n = node_debugged(top);
    int ret;

    if (!count_words(words, 1, errp)) {
        return false;
    }
    ret = n ? n->driver->debug->remove_break(n, words[1]) : -ENOTSUP;
    if (ret < 0) {
        qemu_io_print("Could not remove breakpoint %s: %s\n", words[1], g_strerror(-ret));
    }
    return true;
}

bool coroutine_fn qemu_io_resume(Node *top, char **words, Error **errp)
{
    Node *n = node_debugged(top);
    int ret;

    if (!count_words(words, 1, errp)) {
        return false;
    }
    ret = n ? n->driver->debug->resume(n, words[1]) : -ENOTSUP;
    if (ret < 0) {
        qemu_io_print("Could not resume request: %s\n", g_strerror(-ret));
    }
    return true;
}

bool coroutine_fn qemu_io_wait_break(Node *top, char **words, Error **errp)
{
    Node *n = node_debugged(top);
    int64_t deadline = clock_ns() + WAIT_MAX_NS;

    if (!count_words(words, 1, errp)) {
        return false;
    }
    if (!n) {
        qemu_io_print("Could not wait for a breakpoint: %s\n", g_strerror(ENOTSUP));
        return true;
    }
    node_ref(n);
    while (!n->driver->debug->is_suspended(n, words[1])) {
        if (clock_ns() > deadline) {
            error_set(errp, ERROR_TIMEOUT, words[1], "qemu-io",
                      "No request waits at breakpoint '%s' after 60 s", words[1]);
            node_unref(n);
            return false;
        }
        co_sleep_ns(WAIT_STEP_NS);
    }
    node_unref(n);
    return true;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The console: any bytes, as a terminal sends them, through the line editor, completion and the commands.
 *
 * What is shown is text; at the end everything that was made can be taken down, and nothing is left.
 *
 * Commands act on files of the working directory: lines that could lead out of it, to the network, to standard input or to descriptors, or that
 * end or delay the daemon, are not carried out.
 */
#include "fuzz-daemon.h"
#include "monitor/hmp/internal.h"
#include "monitor/personality/emulator.h"
#include <string.h>

#define MAX_LINES 24

static bool harmless(const char *line)
{
    static const char *const forbidden[] = {"inet", "vsock", "fd",   "tcp",    "socket", "pty",
                                            "udp",  "stdio", "pipe", "..",     "quit",   "sleep",
                                            "host", "{",     "0x",   "latency"};

    for (unsigned i = 0; i < G_N_ELEMENTS(forbidden); i++) {
        if (strstr(line, forbidden[i])) {
            return false;
        }
    }
    if (strstr(line, "nbd_server_start") && !strstr(line, "unix:")) {
        return false;
    }
    line += strspn(line, " \t\r\n\v\f");
    return !strpbrk(line, "/\\") && strcmp(line, "q") != 0 && !g_str_has_prefix(line, "q ");
}

static void coroutine_fn run(const char *line)
{
    g_autoptr(GString) out = g_string_new(NULL);
    Hmp h = {.out = out};

    if (!harmless(line)) {
        return;
    }
    hmp_run_line(line, &h);
    g_assert_true(g_utf8_validate(out->str, out->len, NULL));
    g_assert_false(h.leaves);
}

typedef struct Input {
    const uint8_t *data;
    size_t size;
} Input;

static void coroutine_fn body(void *opaque)
{
    const Input *in = opaque;
    LineEditor *e = line_editor_new();
    g_autoptr(GString) echo = g_string_new(NULL);
    unsigned lines = 0;

    for (size_t i = 0; i < in->size && lines < MAX_LINES; i++) {
        g_autofree char *line = NULL;
        LineEvent event = line_editor_feed(e, in->data[i], echo, &line);

        if (event == LINE_ENDED) {
            lines++;
            if (line) {
                g_assert_cmpuint(strlen(line), <=, LINE_EDITOR_MAX);
                run(line);
            }
        } else if (event == LINE_COMPLETE && !strchr(line, '/')) {
            g_autoptr(GPtrArray) words = hmp_complete(line);

            line_editor_complete(e, words, echo);
        }
    }
    line_editor_free(e);
    fuzz_daemon_take_down();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_daemon_init();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Input in = {data, size};

    fuzz_run(body, &in);
    return 0;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The test protocol of emulators, as far as it concerns a machine without a machine: the clock.
 *
 * A client sends lines; each has one line as its answer.  clock_step moves a clock that stands still otherwise (util/virtual-clock.h): limits
 * and statistics of drives go by it.  What it lets go has ended when it is answered.  When the client comes and goes is told on stderr, as clients look for it there.
 */
#include "block/backend-limits.h"
#include "emulator.h"
#include "monitor/chardev.h"
#include "util/loop.h"
#include "util/virtual-clock.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MAX_BYTES 65536

static struct {
    Chardev *chardev;
    GString *line;
    int64_t opened; /* clock_ns() */
} qtest;

static void answer(const char *text)
{
    g_autofree char *line = g_strconcat(text, "\n", NULL);

    chardev_write(qtest.chardev, line, strlen(line));
}

static void coroutine_fn answer_step(void *opaque)
{
    g_autofree char *text = NULL;

    (void)opaque;
    backend_limits_advance();
    text = g_strdup_printf("OK %" G_GINT64_FORMAT, virtual_clock_ns());
    answer(text);
}

static void step(int64_t ns)
{
    virtual_clock_step(MAX(ns, 0));
    co_start(answer_step, NULL);
}

static void carry_out(char *line)
{
    g_auto(GStrv) words = g_strsplit(g_strstrip(line), " ", 3);
    g_autofree char *text = NULL;

    if (!words[0]) {
        return;
    }
    if (strcmp(words[0], "clock_step") == 0) {
        step(words[1] ? g_ascii_strtoll(words[1], NULL, 0) : 0);
    } else if (strcmp(words[0], "clock_set") == 0 && words[1]) {
        step(g_ascii_strtoll(words[1], NULL, 0) - virtual_clock_ns());
    } else {
        text = g_strdup_printf("FAIL Unknown command '%s'", words[0]);
        answer(text);
    }
}

static void on_opened(void *opaque)
{
    (void)opaque;
    qtest.opened = clock_ns();
    g_string_truncate(qtest.line, 0);
    fprintf(stderr, "[I 0.000000] OPENED\n");
}

static void on_closed(void *opaque)
{
    (void)opaque;
    if (qtest.opened) {
        int64_t us = (clock_ns() - qtest.opened) / 1000;

        fprintf(stderr, "[I +%" G_GINT64_FORMAT ".%06" G_GINT64_FORMAT "] CLOSED\n", us / 1000000,
                us % 1000000);
        qtest.opened = 0;
    }
}

static void on_received(void *opaque, const char *data, size_t len)
{
    char *end;

    (void)opaque;
    g_string_append_len(qtest.line, data, len);
    while ((end = memchr(qtest.line->str, '\n', qtest.line->len))) {
        size_t n = end - qtest.line->str;
        g_autofree char *line = g_strndup(qtest.line->str, n);

        g_string_erase(qtest.line, 0, n + 1);
        carry_out(line);
    }
    if (qtest.line->len > LINE_MAX_BYTES) {
        g_string_truncate(qtest.line, 0);
        answer("FAIL line too long");
    }
}

static const ChardevUser user = {
    .opened = on_opened,
    .received = on_received,
    .closed = on_closed,
};

bool qtest_new(const char *device, Error **errp)
{
    const char *id = g_str_has_prefix(device, "chardev:") ? device + strlen("chardev:") : device;

    qtest.chardev = chardev_find(id);
    if (!qtest.chardev) {
        error_set(errp, ERROR_NOT_FOUND, id, "qtest", "chardev \"%s\" not found", id);
        return false;
    }
    qtest.line = g_string_new(NULL);
    return chardev_attach(qtest.chardev, &user, NULL, errp);
}

void qtest_close(void)
{
    on_closed(NULL);
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Log lines: form, levels, what hostile text becomes, one write a line from many threads, the limit.
 */
#include "util/log.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int saved_stderr, sink;

static void capture(void)
{
    g_autofree char *name = g_strdup("/tmp/test-log-XXXXXX");

    saved_stderr = dup(STDERR_FILENO);
    sink = g_mkstemp_full(name, O_RDWR | O_APPEND | O_CLOEXEC, 0600);
    g_assert_cmpint(sink, >=, 0);
    unlink(name);
    dup2(sink, STDERR_FILENO);
}

static char *captured(void)
{
    off_t len = lseek(sink, 0, SEEK_END);
    char *text = g_malloc0(len + 1);

    g_assert_cmpint(pread(sink, text, len, 0), ==, len);
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(sink);
    return text;
}

static void test_form(void)
{
    g_autofree char *text = NULL;

    capture();
    log_init("prog", LOG_LEVEL_INFO);
    errno = ENOENT;
    log_error("one %d: %m", 1);
    g_assert_cmpint(errno, ==, ENOENT);
    log_warn("two");
    log_info("three");
    log_debug("four");
    log_init("cutpointd", LOG_LEVEL_DEBUG);
    log_debug("five");
    log_init("cutpointd", LOG_LEVEL_ERROR);
    log_warn("six");
    log_init("cutpointd", LOG_LEVEL_INFO);
    text = captured();
    g_assert_cmpstr(text, ==,
                    "prog: error: one 1: No such file or directory\n"
                    "prog: warning: two\n"
                    "prog: info: three\n"
                    "cutpointd: debug: five\n");
}

static void test_hostile(void)
{
    g_autofree char *text = NULL, *huge = g_strnfill(100000, 'x');

    capture();
    log_warn("a\nb\tc\033[2Jd\177e\rf");
    log_warn("%s", huge);
    log_warn("\303\244");
    text = captured();
    g_assert_true(g_str_has_prefix(text, "cutpointd: warning: a b c?[2Jd?e?f\n"
                                         "cutpointd: warning: xxxx"));
    g_assert_nonnull(strstr(text, "xxx...\ncutpointd: warning: \303\244\n"));
    g_assert_cmpuint(strlen(text), <, 10000);
}

static gpointer speak(gpointer opaque)
{
    char c = 'a' + GPOINTER_TO_INT(opaque);
    char word[61];

    memset(word, c, 60);
    word[60] = 0;
    for (int i = 0; i < 300; i++) {
        log_info("%s", word);
    }
    return NULL;
}

static void test_threads(void)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    GThread *threads[4];
    int n = 0;

    capture();
    for (int i = 0; i < 4; i++) {
        threads[i] = g_thread_new("speaker", speak, GINT_TO_POINTER(i));
    }
    for (int i = 0; i < 4; i++) {
        g_thread_join(threads[i]);
    }
    text = captured();
    lines = g_strsplit(text, "\n", -1);
    for (char **l = lines; **l; l++, n++) {
        const char *word = *l + strlen("cutpointd: info: ");

        g_assert_cmpuint(strlen(*l), ==, strlen("cutpointd: info: ") + 60);
        g_assert_cmpuint(strspn(word, (char[]){word[0], 0}), ==, 60);
    }
    g_assert_cmpint(n, ==, 4 * 300);
}

static void speak_limited(int n)
{
    for (int i = 0; i < n; i++) {
        log_warn_limited("hello");
    }
}

static void test_limit(void)
{
    g_autofree char *text = NULL;
    int lines = 0;

    capture();
    /* So that the second does not end in between. */
    while (g_get_monotonic_time() % G_USEC_PER_SEC > G_USEC_PER_SEC / 2) {
        g_usleep(1000);
    }
    speak_limited(25);
    g_usleep(G_USEC_PER_SEC);
    speak_limited(1);
    text = captured();
    for (const char *p = text; (p = strstr(p, ": hello\n")); p++) {
        lines++;
    }
    g_assert_cmpint(lines, ==, 11);
    g_assert_nonnull(strstr(text, "hello\n"
                                  "cutpointd: warning: 15 lines like the next one were dropped\n"
                                  "cutpointd: warning: hello\n"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/log/form", test_form);
    g_test_add_func("/log/hostile-text", test_hostile);
    g_test_add_func("/log/threads", test_threads);
    g_test_add_func("/log/limit", test_limit);
    return g_test_run();
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A line editor for consoles on any character device.
 *
 * Own, because libedit cannot do this: it reads a FILE whose descriptor is a terminal and sets that terminal up, it blocks in the
 * middle of a line, and where it does not (its readline interface) it has one state for the whole process.  Here consoles are many, on
 * sockets, and fed with bytes as they come.
 *
 * What is typed at the end of the line is echoed as it is; other changes are shown by moving the cursor back (ESC [ n D) and clearing what
 * is behind it (ESC [ K).  Characters of several bytes count as one column.
 */
#include "internal.h"
#include <string.h>

#define HISTORY_MAX 100

typedef enum InputState { PLAIN, ESCAPE, SEQUENCE } InputState;

struct LineEditor {
    GString *line;
    size_t cursor; /* bytes */
    bool too_long;
    bool after_cr; /* a line feed that follows belongs to it */
    InputState state;
    unsigned number;    /* of a sequence */
    GPtrArray *history; /* char *, oldest first */
    guint at;           /* in history; its length: the line that is being written */
    char *written;      /* that line, while an older one is shown */
};

LineEditor *line_editor_new(void)
{
    LineEditor *e = g_new0(LineEditor, 1);

    e->line = g_string_new(NULL);
    e->history = g_ptr_array_new_with_free_func(g_free);
    return e;
}

void line_editor_free(LineEditor *e)
{
    if (e) {
        g_string_free(e->line, true);
        g_ptr_array_free(e->history, true);
        g_free(e->written);
        g_free(e);
    }
}

/* ---- showing ---- */

static bool is_start(char c)
{
    return ((unsigned char)c & 0xC0) != 0x80;
}

static unsigned columns(const char *s, size_t len)
{
    unsigned n = 0;

    for (size_t i = 0; i < len; i++) {
        n += is_start(s[i]);
    }
    return n;
}

static void move_back(GString *echo, unsigned n)
{
    if (n > 0) {
        g_string_append_printf(echo, "\033[%uD", n);
    }
}

/* Shows the line from the cursor on anew, and puts the terminal's cursor back. */
static void show_tail(LineEditor *e, GString *echo)
{
    const char *tail = e->line->str + e->cursor;
    size_t len = e->line->len - e->cursor;

    g_string_append_len(echo, tail, len);
    g_string_append(echo, "\033[K");
    move_back(echo, columns(tail, len));
}

static void to_start(LineEditor *e, GString *echo)
{
    move_back(echo, columns(e->line->str, e->cursor));
    e->cursor = 0;
}

static void to_end(LineEditor *e, GString *echo)
{
    g_string_append_len(echo, e->line->str + e->cursor, e->line->len - e->cursor);
    e->cursor = e->line->len;
}

static void left(LineEditor *e, GString *echo)
{
    if (e->cursor > 0) {
        do {
            e->cursor--;
        } while (e->cursor > 0 && !is_start(e->line->str[e->cursor])); /* text need not be UTF-8 */
        move_back(echo, 1);
    }
}

static void right(LineEditor *e, GString *echo)
{
    if (e->cursor < e->line->len) {
        do {
            g_string_append_c(echo, e->line->str[e->cursor++]);
        } while (e->cursor < e->line->len && !is_start(e->line->str[e->cursor]));
    }
}

/* ---- changing ---- */

static void insert(LineEditor *e, const char *text, size_t len, GString *echo)
{
    if (e->line->len + len > LINE_EDITOR_MAX) {
        e->too_long = true;
        return;
    }
    g_string_insert_len(e->line, e->cursor, text, len);
    g_string_append_len(echo, text, len);
    e->cursor += len;
    if (e->cursor < e->line->len) {
        show_tail(e, echo);
    }
}

static void delete_right(LineEditor *e, GString *echo)
{
    size_t end = e->cursor;

    if (end < e->line->len) {
        do {
            end++;
        } while (end < e->line->len && !is_start(e->line->str[end]));
        g_string_erase(e->line, e->cursor, end - e->cursor);
        show_tail(e, echo);
    }
}

static void delete_left(LineEditor *e, GString *echo)
{
    if (e->cursor > 0) {
        left(e, echo);
        delete_right(e, echo);
    }
}

static void delete_word(LineEditor *e, GString *echo)
{
    size_t start = e->cursor, end = e->cursor;

    while (start > 0 && e->line->str[start - 1] == ' ') {
        start--;
    }
    while (start > 0 && e->line->str[start - 1] != ' ') {
        start--;
    }
    move_back(echo, columns(e->line->str + start, end - start));
    g_string_erase(e->line, start, end - start);
    e->cursor = start;
    show_tail(e, echo);
}

static void delete_to_end(LineEditor *e, GString *echo)
{
    g_string_truncate(e->line, e->cursor);
    g_string_append(echo, "\033[K");
}

static void replace(LineEditor *e, const char *text, GString *echo)
{
    to_start(e, echo);
    g_string_assign(e->line, text);
    e->cursor = e->line->len;
    g_string_append(echo, text);
    g_string_append(echo, "\033[K");
}

/* ---- history ---- */

static void older(LineEditor *e, GString *echo)
{
    if (e->at > 0) {
        if (e->at == e->history->len) {
            g_free(e->written);
            e->written = g_strdup(e->line->str);
        }
        replace(e, g_ptr_array_index(e->history, --e->at), echo);
    }
}

static void newer(LineEditor *e, GString *echo)
{
    if (e->at < e->history->len) {
        e->at++;
        replace(e, e->at < e->history->len ? g_ptr_array_index(e->history, e->at) : e->written,
                echo);
    }
}

static void remember(LineEditor *e, const char *line)
{
    bool same = e->history->len > 0 &&
                strcmp(g_ptr_array_index(e->history, e->history->len - 1), line) == 0;

    if (line[0] && !same) {
        if (e->history->len == HISTORY_MAX) {
            g_ptr_array_remove_index(e->history, 0);
        }
        g_ptr_array_add(e->history, g_strdup(line));
    }
    e->at = e->history->len;
}

/* ---- completion ---- */

static size_t common_prefix(GPtrArray *words)
{
    const char *first = g_ptr_array_index(words, 0);
    size_t len = strlen(first);

    for (guint i = 1; i < words->len; i++) {
        const char *w = g_ptr_array_index(words, i);
        size_t n = 0;

        while (n < len && w[n] == first[n]) {
            n++;
        }
        len = n;
    }
    return len;
}

void line_editor_complete(LineEditor *e, GPtrArray *words, GString *echo)
{
    g_autofree char *text = g_strndup(e->line->str, e->cursor);
    const char *space = strrchr(text, ' '), *word = space ? space + 1 : text;
    size_t have = strlen(word), len;

    if (words->len == 0) {
        return;
    }
    len = common_prefix(words);
    if (len > have) {
        insert(e, (const char *)g_ptr_array_index(words, 0) + have, len - have, echo);
    }
    if (words->len == 1) {
        if (len == 0 || !strchr("=/", ((const char *)g_ptr_array_index(words, 0))[len - 1])) {
            insert(e, " ", 1, echo); /* nothing can follow */
        }
    } else if (len == have) {
        g_string_append(echo, "\r\n");
        for (guint i = 0; i < words->len; i++) {
            g_string_append_printf(echo, "%s%s", (const char *)g_ptr_array_index(words, i),
                                   i % 4 == 3 ? "\r\n" : "  ");
        }
        g_string_append(echo, "\r\n" HMP_PROMPT);
        g_string_append_len(echo, e->line->str, e->cursor);
        show_tail(e, echo);
    }
}

/* ---- bytes ---- */

static void start_line(LineEditor *e)
{
    g_string_truncate(e->line, 0);
    e->cursor = 0;
    e->too_long = false;
    e->at = e->history->len;
}

void line_editor_reset(LineEditor *e)
{
    e->state = PLAIN;
    e->after_cr = false;
    start_line(e);
}

static void control(LineEditor *e, unsigned char byte, GString *echo)
{
    switch (byte) {
    case 1: /* ^A */
        to_start(e, echo);
        break;
    case 2: /* ^B */
        left(e, echo);
        break;
    case 3: /* ^C */
        g_string_append(echo, "^C\r\n" HMP_PROMPT);
        start_line(e);
        break;
    case 4: /* ^D */
        delete_right(e, echo);
        break;
    case 5: /* ^E */
        to_end(e, echo);
        break;
    case 6: /* ^F */
        right(e, echo);
        break;
    case 8:   /* ^H */
    case 127: /* DEL */
        delete_left(e, echo);
        break;
    case 11: /* ^K */
        delete_to_end(e, echo);
        break;
    case 14: /* ^N */
        newer(e, echo);
        break;
    case 16: /* ^P */
        older(e, echo);
        break;
    case 21: /* ^U */
        replace(e, "", echo);
        break;
    case 23: /* ^W */
        delete_word(e, echo);
        break;
    default:
        break;
    }
}

static void end_sequence(LineEditor *e, unsigned char byte, GString *echo)
{
    if (byte == '~') {
        byte = e->number == 1 || e->number == 7   ? 'H'
               : e->number == 4 || e->number == 8 ? 'F'
                                                  : byte;
    }
    switch (byte) {
    case 'A':
        older(e, echo);
        break;
    case 'B':
        newer(e, echo);
        break;
    case 'C':
        right(e, echo);
        break;
    case 'D':
        left(e, echo);
        break;
    case 'H':
        to_start(e, echo);
        break;
    case 'F':
        to_end(e, echo);
        break;
    case '~':
        if (e->number == 3) {
            delete_right(e, echo);
        }
        break;
    default:
        break;
    }
}

/* True: the byte belongs to an escape sequence. */
static bool escape(LineEditor *e, unsigned char byte, GString *echo)
{
    switch (e->state) {
    case PLAIN:
        if (byte == 27) {
            e->state = ESCAPE;
        }
        return byte == 27;
    case ESCAPE:
        e->state = byte == '[' || byte == 'O' ? SEQUENCE : PLAIN;
        e->number = 0;
        return true;
    default:
        if (g_ascii_isdigit(byte)) {
            e->number = MIN(e->number * 10 + byte - '0', 1000);
        } else if (byte != ';') {
            e->state = PLAIN;
            end_sequence(e, byte, echo);
        }
        return true;
    }
}

LineEvent line_editor_feed(LineEditor *e, unsigned char byte, GString *echo, char **ret_line)
{
    bool after_cr = e->after_cr;
    char c = byte;

    e->after_cr = byte == '\r';
    if (byte == '\n' && after_cr) {
        return LINE_GOES_ON;
    }
    if (byte == '\r' || byte == '\n') {
        e->state = PLAIN;
        g_string_append(echo, "\r\n");
        *ret_line = e->too_long ? NULL : g_strdup(e->line->str);
        if (*ret_line) {
            remember(e, *ret_line);
        }
        start_line(e);
        return LINE_ENDED;
    }
    if (escape(e, byte, echo)) {
        return LINE_GOES_ON;
    }
    if (byte == '\t') {
        *ret_line = g_strndup(e->line->str, e->cursor);
        return LINE_COMPLETE;
    }
    if (byte < 32 || byte == 127) {
        control(e, byte, echo);
    } else {
        insert(e, &c, 1, echo);
    }
    return LINE_GOES_ON;
}

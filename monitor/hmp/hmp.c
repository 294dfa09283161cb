/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Consoles: sessions of the human monitor.
 *
 * Bytes go through the line editor; a line is carried out in a coroutine of the control thread, during which nothing more is read: what has
 * come already waits in `input`.  All output of a command is sent when it has ended.
 *
 * A client that goes away while its command runs: the command goes on, its output is dropped (`epoch` tells clients apart).
 */
#include "monitor/hmp.h"
#include "internal.h"
#include "qapi-commands.h"
#include "qapi/dispatch.h"
#include "util/loop.h"
#include <string.h>

typedef struct Session {
    Chardev *chardev;
    LineEditor *editor;
    GByteArray *input;
    unsigned epoch;
    bool connected, running;
} Session;

/* ---- carrying out ---- */

static const QapiCommand *find_qmp(const char *name)
{
    for (unsigned i = 0; i < qapi_commands_count; i++) {
        if (strcmp(qapi_commands[i].name, name) == 0 && !qapi_is_hidden(name)) {
            return &qapi_commands[i];
        }
    }
    return NULL;
}

bool hmp_available(const HmpCommand *c)
{
    return !c->needs || find_qmp(c->needs);
}

static bool has_name(const char *names, const char *name)
{
    g_auto(GStrv) all = g_strsplit(names, "|", -1);

    return g_strv_contains((const char *const *)all, name);
}

const HmpCommand *hmp_find(const HmpCommand *table, const char *name)
{
    for (; table->name; table++) {
        if (has_name(table->name, name) && hmp_available(table)) {
            return table;
        }
    }
    return NULL;
}

bool coroutine_fn hmp_qmp(const char *command, struct json_object *args, struct json_object **ret,
                          Error **errp)
{
    g_autoptr(JsonObject) given = args ? args : json_object_new_object();
    const QapiCommand *c = find_qmp(command);
    union {
        void *pointer;
        int64_t integer;
        double number;
    } value = {0};
    void *arg = NULL;
    bool ok;

    if (!c || !c->marshal) {
        error_set_class(errp, ERROR_CLASS_COMMAND_NOT_FOUND, ERROR_NOT_FOUND, command, "console",
                        "The command %s has not been found", command);
        return false;
    }
    if (c->arg && !qapi_parse(c->arg, given, false, &arg, errp)) {
        return false;
    }
    ok = c->marshal(arg, &value, errp);
    if (ok && ret) {
        *ret = c->ret ? qapi_serialise_at(c->ret, &value) : json_object_new_object();
    }
    if (ok && c->ret) {
        qapi_clear_at(c->ret, &value);
    }
    if (c->arg) {
        qapi_free(c->arg, arg);
    }
    return ok;
}

void hmp_print(Hmp *h, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_string_append_vprintf(h->out, fmt, ap);
    va_end(ap);
}

static void run_command(const HmpCommand *c, const char *rest, const char *prefix, Hmp *h)
{
    g_autofree char *problem = NULL;
    g_autofree char *name = g_strndup(c->name, strcspn(c->name, "|"));
    g_autoptr(JsonObject) args = hmp_parse_args(c, rest, &problem);
    g_autoptr(Error) err = NULL;

    if (!args) {
        hmp_print(h, "%sTry \"help %s%s\" for more information\n", problem, prefix, name);
        return;
    }
    if (!c->handler(h, args, &err)) {
        hmp_print(h, "Error: %s\n", err->message);
        if (err->hint) {
            hmp_print(h, "%s\n", err->hint);
        }
    }
}

void coroutine_fn hmp_run_line(const char *line, Hmp *h)
{
    g_autofree char *name = NULL;
    const HmpCommand *c;
    const char *p = line;

    if (!g_utf8_validate(line, -1, NULL)) {
        hmp_print(h, "Error: the line is not valid UTF-8\n");
        return;
    }
    while (g_ascii_isspace(*p)) {
        p++;
    }
    if (*p == '\0' || *p == '#') {
        return;
    }
    name = g_strndup(p, strcspn(p, " \t"));
    p += strlen(name);
    c = hmp_find(hmp_commands, name);
    if (!c) {
        hmp_print(h, "unknown command: '%s'\n", name);
        return;
    }
    if (strcmp(c->name, "info") == 0) {
        const char *q = p;
        g_autofree char *item = NULL;

        while (g_ascii_isspace(*q)) {
            q++;
        }
        item = g_strndup(q, strcspn(q, " \t"));
        if (item[0]) {
            const HmpCommand *i = hmp_find(hmp_info_commands, item);

            if (!i) {
                hmp_print(h, "unknown command: 'info %s'\n", item);
            } else {
                run_command(i, q + strlen(item), "info ", h);
            }
            return;
        }
    }
    run_command(c, p, "", h);
}

bool coroutine_fn qmp_human_monitor_command(const HumanMonitorCommandArg *arg, char **ret_out,
                                            Error **errp)
{
    g_autoptr(GString) out = g_string_new(NULL);
    Hmp h = {.out = out};

    if (arg->has_cpu_index) {
        error_set(errp, ERROR_INVALID, "cpu-index", "console",
                  "Parameter 'cpu-index' expects a CPU number");
        return false;
    }
    hmp_run_line(arg->command_line, &h);
    g_string_replace(out, "\n", "\r\n", 0);
    *ret_out = g_strdup(out->str);
    return true;
}

/* ---- sessions ---- */

static void show(Session *s, const GString *text)
{
    chardev_write(s->chardev, text->str, text->len);
}

typedef struct Execution {
    Session *session;
    char *line; /* NULL: it was too long */
    unsigned epoch;
} Execution;

static void go_on(Session *s);

static void coroutine_fn execute(void *opaque)
{
    Execution *x = opaque;
    Session *s = x->session;
    g_autoptr(GString) out = g_string_new(NULL);
    Hmp h = {.out = out};

    if (x->line) {
        hmp_run_line(x->line, &h);
    } else {
        g_string_append_printf(out, "Error: a line may have %d bytes at most\n", LINE_EDITOR_MAX);
    }
    g_string_replace(out, "\n", "\r\n", 0);
    if (!h.leaves) {
        g_string_append(out, HMP_PROMPT);
    }
    if (s->connected && s->epoch == x->epoch) {
        show(s, out);
    }
    g_free(x->line);
    g_free(x);
    s->running = false;
    go_on(s);
}

/* A key asked for the rest of a word. */
static void coroutine_fn complete(void *opaque)
{
    Execution *x = opaque;
    Session *s = x->session;
    g_autoptr(GPtrArray) words = hmp_complete(x->line);
    g_autoptr(GString) echo = g_string_new(NULL);

    if (s->connected && s->epoch == x->epoch) {
        line_editor_complete(s->editor, words, echo);
        show(s, echo);
    }
    g_free(x->line);
    g_free(x);
    s->running = false;
    go_on(s);
}

/* Takes what has come up to the next line. */
static void go_on(Session *s)
{
    g_autoptr(GString) echo = g_string_new(NULL);
    char *line = NULL;
    LineEvent event = LINE_GOES_ON;
    guint n = 0;

    if (s->running || !s->connected) {
        return;
    }
    while (n < s->input->len && event == LINE_GOES_ON) {
        event = line_editor_feed(s->editor, s->input->data[n++], echo, &line);
    }
    g_byte_array_remove_range(s->input, 0, n);
    show(s, echo);
    if (event != LINE_GOES_ON) {
        Execution *x = g_new(Execution, 1);

        *x = (Execution){.session = s, .line = line, .epoch = s->epoch};
        s->running = true;
        co_spawn(loop_control(), event == LINE_ENDED ? execute : complete, x);
    }
    chardev_set_reading(s->chardev, event == LINE_GOES_ON);
}

static void on_opened(void *opaque)
{
    static const char greeting[] =
        "QEMU 10.2.50 monitor - type 'help' for more information\r\n" HMP_PROMPT;
    Session *s = opaque;

    s->epoch++;
    s->connected = true;
    line_editor_reset(s->editor);
    chardev_write(s->chardev, greeting, strlen(greeting));
}

static void on_received(void *opaque, const char *data, size_t len)
{
    Session *s = opaque;

    g_byte_array_append(s->input, (const guint8 *)data, len);
    go_on(s);
}

static void on_closed(void *opaque)
{
    Session *s = opaque;

    s->connected = false;
    g_byte_array_set_size(s->input, 0);
}

static const ChardevUser user = {
    .opened = on_opened,
    .received = on_received,
    .closed = on_closed,
};

static GPtrArray *consoles; /* Session *: like those of QMP they live as long as the process */

bool hmp_monitor_new(Chardev *c, Error **errp)
{
    Session *s = g_new0(Session, 1);

    s->chardev = c;
    s->editor = line_editor_new();
    s->input = g_byte_array_new();
    if (!chardev_attach(c, &user, s, errp)) {
        line_editor_free(s->editor);
        g_byte_array_unref(s->input);
        g_free(s);
        return false;
    }
    chardev_set_raw(c);
    if (!consoles) {
        consoles = g_ptr_array_new();
    }
    g_ptr_array_add(consoles, s);
    return true;
}

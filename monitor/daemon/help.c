/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Help about the command line.
 *
 * What an option's argument may have is written down once, in the schema, and which drivers there are in their registry: the lists here are made
 * of these tables, so that they name what is there and nothing else.  An argument "help" lists the kinds of an option, "KIND,help" the members
 * of one.
 *
 * Notation: name=WHAT, optional ones in brackets; WHAT is the values of an enum, or a type in capitals; "a.b" is a member of a member, "list.0"
 * the first of a list.
 */
#include "block/driver.h"
#include "daemon.h"
#include "monitor/chardev.h"
#include <stdio.h>
#include <string.h>

#define WIDTH 78

/* Appends words to a line, and breaks it before one that does not fit. */
typedef struct Wrapped {
    GString *text;
    unsigned indent, column;
} Wrapped;

/* How much of a word that is too long for a line goes on one: up to a '|', since values are listed with that. */
static size_t piece_of(const char *word, size_t room)
{
    size_t len = strlen(word), n;

    if (len <= room) {
        return len;
    }
    for (n = room; n > 0 && word[n - 1] != '|'; n--) {
    }
    return n > 0 ? n : len;
}

static void wrapped_add(Wrapped *w, const char *word)
{
    if (w->column + 1 + strlen(word) > WIDTH && w->column > w->indent) {
        g_string_append_printf(w->text, "\n%*s", (int)w->indent, "");
        w->column = w->indent;
    } else if (w->column > w->indent) {
        g_string_append_c(w->text, ' ');
        w->column++;
    }
    while (*word) {
        size_t n = piece_of(word, WIDTH - w->indent);

        g_string_append_len(w->text, word, (gssize)n);
        w->column += n;
        word += n;
        if (*word) {
            g_string_append_printf(w->text, "\n%*s", (int)w->indent, "");
            w->column = w->indent;
        }
    }
}

static char *join_names(const QapiType *t)
{
    GString *s = g_string_new(NULL);

    for (size_t i = 0; i < t->enum_count; i++) {
        if (t->enum_names[i]) {
            g_string_append_printf(s, "%s%s", s->len ? "|" : "", t->enum_names[i]);
        }
    }
    return g_string_free(s, false);
}

static char *value_text(const QapiType *t)
{
    switch (t->meta) {
    case QAPI_META_INT:
        return g_strdup(t->is_size ? "SIZE" : "NUMBER");
    case QAPI_META_NUMBER:
        return g_strdup("NUMBER");
    case QAPI_META_BOOL:
        return g_strdup("on|off");
    case QAPI_META_ENUM:
        return join_names(t);
    default:
        return g_strdup("TEXT");
    }
}

static const QapiMember *tag_of(const QapiType *t)
{
    for (size_t i = 0; t->branch_count > 0 && i < t->member_count; i++) {
        if (t->members[i].offset == t->tag_offset) {
            return &t->members[i];
        }
    }
    return NULL;
}

static const QapiType *branch_of(const QapiType *t, QapiKind kind)
{
    for (size_t i = 0; i < t->branch_count; i++) {
        if (t->branches[i].value == (int)kind) {
            return t->branches[i].type;
        }
    }
    return NULL;
}

static void add_members(Wrapped *w, const QapiType *t, const QapiMember *except, const char *prefix,
                        bool optional);

static void add_value(Wrapped *w, const char *name, const QapiType *t, bool optional)
{
    g_autofree char *value = NULL, *word = NULL, *nested = NULL;

    switch (t->meta) {
    case QAPI_META_OBJECT:
        nested = g_strconcat(name, ".", NULL);
        if (!tag_of(t)) {
            add_members(w, t, NULL, nested, optional);
            return;
        }
        value = value_text(tag_of(t)->type);
        word = g_strdup_printf(optional ? "[%s%s=%s,...]" : "%s%s=%s,...", nested, tag_of(t)->name,
                               value);
        break;
    case QAPI_META_LIST:
        nested = g_strconcat(name, ".0", NULL);
        add_value(w, nested, t->element, optional);
        return;
    case QAPI_META_ALTERNATE:
        if (branch_of(t, QAPI_KIND_OBJECT) && branch_of(t, QAPI_KIND_STRING)) {
            const QapiMember *tag = tag_of(branch_of(t, QAPI_KIND_OBJECT));

            /* A node that is there, or one that is described in place; a word, or one member by one. */
            value = value_text(branch_of(t, QAPI_KIND_STRING));
            word = g_strdup_printf(optional ? "[%s=%s|%s.%s=...]" : "%s=%s|%s.%s=...", name, value,
                                   name, tag ? tag->name : "*");
            break;
        }
        /* fall through */
    default:
        value = value_text(t);
        word = g_strdup_printf(optional ? "[%s=%s]" : "%s=%s", name, value);
        break;
    }
    wrapped_add(w, word);
}

static void add_members(Wrapped *w, const QapiType *t, const QapiMember *except, const char *prefix,
                        bool optional)
{
    for (unsigned pass = 0; pass < 2; pass++) { /* what must be there first */
        for (size_t i = 0; i < t->member_count; i++) {
            const QapiMember *m = &t->members[i];
            g_autofree char *name = g_strconcat(prefix, m->name, NULL);

            if (m != except && m->optional == (pass == 1)) {
                add_value(w, name, m->type, optional || m->optional);
            }
        }
    }
}

/* Blocks have drivers; what the schema names but no driver is there for is left out. */
static bool kind_is_there(const QapiMember *tag, const char *kind)
{
    return kind && (strcmp(tag->type->name, "BlockdevDriver") != 0 || driver_find(kind));
}

static void print_line(const char *kind, unsigned indent, const QapiType *t,
                       const QapiMember *except)
{
    Wrapped w = {.text = g_string_new(NULL), .indent = indent + 18};

    g_string_append_printf(w.text, "%*s%-17s ", (int)indent, "", kind);
    w.column = w.indent;
    if (strlen(kind) > 17) {
        g_string_append_printf(w.text, "\n%*s", (int)w.indent, "");
    }
    if (t) {
        add_members(&w, t, except, "", false);
    }
    puts(g_strchomp(w.text->str));
    g_string_free(w.text, true);
}

static const QapiType *branch_type(const QapiType *t, int value)
{
    for (size_t i = 0; i < t->branch_count; i++) {
        if (t->branches[i].value == value) {
            return t->branches[i].type;
        }
    }
    return NULL;
}

/* kind: NULL for all.  False: there is none of that name. */
static bool print_kinds(const OptionKind *o, const char *kind)
{
    const QapiMember *tag = o->type ? tag_of(o->type) : NULL;
    bool found = false;

    if (!o->type) {
        return chardev_print_help(kind);
    }
    if (!kind || !tag) {
        print_line(tag ? "all of them:" : "", 2, o->type, tag);
    }
    for (size_t i = 0; tag && i < tag->type->enum_count; i++) {
        const char *name = tag->type->enum_names[i];

        if (kind_is_there(tag, name) && (!kind || strcmp(kind, name) == 0)) {
            print_line(name, 2, branch_type(o->type, i), NULL);
            found = true;
        }
    }
    if (kind && found) {
        print_line("all of them:", 2, o->type, tag);
    }
    return found || !tag;
}

bool help_for_argument(const OptionKind *o, const char *arg)
{
    size_t len = strcspn(arg, ",");
    g_autofree char *kind = g_strndup(arg, len);
    const char *name = kind;

    if (o->implied && g_str_has_prefix(kind, o->implied) && kind[strlen(o->implied)] == '=') {
        name = kind + strlen(o->implied) + 1;
    }
    if (strcmp(arg, "help") == 0 || strcmp(arg, "?") == 0) {
        printf("--%s: %s\n", o->name, o->what);
        (void)print_kinds(o, NULL);
        return true;
    }
    return (strcmp(arg + len, ",help") == 0 || strcmp(arg + len, ",?") == 0) &&
           print_kinds(o, name);
}

static void print_kind_names(const OptionKind *o)
{
    const QapiMember *tag = o->type ? tag_of(o->type) : NULL;
    Wrapped w = {.text = g_string_new(NULL), .indent = 27, .column = 27};

    for (size_t i = 0; tag && i < tag->type->enum_count; i++) {
        if (kind_is_there(tag, tag->type->enum_names[i])) {
            wrapped_add(&w, tag->type->enum_names[i]);
        }
    }
    if (!o->type) {
        for (unsigned i = 0; chardev_kind_name(i); i++) {
            wrapped_add(&w, chardev_kind_name(i));
        }
    }
    if (w.text->len) {
        printf("%*s%s\n", (int)w.indent, "", w.text->str);
    }
    g_string_free(w.text, true);
}

void help_print(const OptionKind *options, unsigned n)
{
    printf("Usage: %s [options]\n"
           "Serves disk images; snapshots groups of them at one instant.\n"
           "\n"
           "  -h, --help             show this help and exit\n"
           "  -V, --version          show the version and exit\n"
           "      --daemonize        go to the background when everything is ready\n"
           "      --pidfile PATH     write the process id there when everything is ready\n",
           g_get_prgname());
    for (unsigned i = 0; i < n; i++) {
        const char *implied = options[i].implied;

        printf("      --%s %s%s%s...\n%*s%s\n", options[i].name, implied ? "[" : "",
               implied ? implied : "", implied ? "=]" : "", 25, "", options[i].what);
        print_kind_names(&options[i]);
    }
    printf("\nOptions are carried out in the order in which they stand.  Their arguments are\n"
           "NAME=VALUE,... (a comma in a value is doubled) or JSON objects.  \"--OPTION help\"\n"
           "shows what an option takes, \"--OPTION KIND,help\" what a kind of it takes.\n");
    for (unsigned i = 0; i < n; i++) {
        printf("\n--%s\n", options[i].name);
        (void)print_kinds(&options[i], NULL);
    }
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The command line: that of qemu-storage-daemon.
 *
 * Options are carried out in order, by the same handlers as the QMP commands.
 */
#include "block/graph.h"
#include "block/journal.h"
#include "daemon.h"
#include "../personality/emulator.h"
#include "monitor/chardev.h"
#include "monitor/hmp.h"
#include "monitor/keyval.h"
#include "monitor/qmp.h"
#include "qapi-commands.h"
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One line on a terminal: control characters of arguments are shown, not sent. */
static char *one_line(const char *text)
{
    GString *s = g_string_new(NULL);

    for (const char *p = text; *p; p++) {
        if (g_ascii_iscntrl(*p)) {
            g_string_append_printf(s, "\\x%02x", (unsigned char)*p);
        } else {
            g_string_append_c(s, *p);
        }
    }
    return g_string_free(s, false);
}

static void report(const char *text)
{
    g_autofree char *line = one_line(text);

    fprintf(stderr, "%s: %s\n", g_get_prgname(), line);
}

void report_error(const Error *err)
{
    if (machine_is_emulator()) {
        report(err->message);
        if (err->hint) {
            g_autofree char *hint = one_line(err->hint);

            fprintf(stderr, "%s\n", hint);
        }
        return;
    }
    g_autofree char *text =
        err->hint ? g_strdup_printf("%s (%s)", err->message, err->hint) : g_strdup(err->message);

    report(text);
}

static G_GNUC_NORETURN void bad(const char *what, const char *msg)
{
    g_autofree char *text = g_strdup_printf("%s: %s", what, msg);

    report(text);
    g_clear_pointer(&text, g_free); /* exit() does not come back to free it */
    exit(1);
}

/* ---- carrying out ---- */

#define PARSE(T, o, keyval, ret, errp) qapi_parse(&qapi_type_##T, o, keyval, (void **)(ret), errp)

static bool coroutine_fn run_blockdev(struct json_object *o, bool keyval, Error **errp)
{
    g_autoptr(BlockdevOptions) options = NULL;

    return PARSE(BlockdevOptions, o, keyval, &options, errp) && qmp_blockdev_add(options, errp);
}

static bool coroutine_fn run_export(struct json_object *o, bool keyval, Error **errp)
{
    g_autoptr(BlockExportOptions) options = NULL;

    return PARSE(BlockExportOptions, o, keyval, &options, errp) &&
           qmp_block_export_add(options, errp);
}

static bool coroutine_fn run_object(struct json_object *o, bool keyval, Error **errp)
{
    g_autoptr(ObjectOptions) options = NULL;

    return PARSE(ObjectOptions, o, keyval, &options, errp) && qmp_object_add(options, errp);
}

/* The command's address has its members one level deeper. */
static bool coroutine_fn run_nbd_server(struct json_object *o, bool keyval, Error **errp)
{
    g_autoptr(NbdServerOptions) options = NULL;
    g_autoptr(NbdServerStartArg) arg = NULL;
    g_autoptr(JsonObject) addr = NULL, legacy = NULL;

    if (!PARSE(NbdServerOptions, o, keyval, &options, errp)) {
        return false;
    }
    addr = qapi_serialise_SocketAddress(options->addr);
    legacy = json_object_new_object();
    json_object_object_add(legacy, "type", json_object_get(json_object_object_get(addr, "type")));
    json_object_object_del(addr, "type");
    json_object_object_add(legacy, "data", json_object_get(addr));
    arg = g_new0(NbdServerStartArg, 1);
    arg->has_handshake_max_seconds = options->has_handshake_max_seconds;
    arg->handshake_max_seconds = options->handshake_max_seconds;
    arg->has_max_connections = options->has_max_connections;
    arg->max_connections = options->max_connections;
    arg->tls_creds = g_strdup(options->tls_creds);
    arg->tls_authz = g_strdup(options->tls_authz);
    return qapi_parse_SocketAddressLegacy(legacy, &arg->addr, errp) &&
           qmp_nbd_server_start(arg, errp);
}

static bool coroutine_fn run_chardev(struct json_object *o, bool keyval, Error **errp)
{
    (void)keyval;
    return chardev_new(o, errp);
}

static bool coroutine_fn run_monitor(struct json_object *o, bool keyval, Error **errp)
{
    g_autoptr(MonitorOptions) options = NULL;
    Chardev *c;

    if (!PARSE(MonitorOptions, o, keyval, &options, errp)) {
        return false;
    }
    c = chardev_find(options->chardev);
    if (!c) {
        error_set(errp, ERROR_NOT_FOUND, options->chardev, "monitor", "chardev \"%s\" not found",
                  options->chardev);
        return false;
    }
    if (options->has_mode && options->mode == MONITOR_MODE_READLINE) {
        if (options->has_pretty) {
            error_set(errp, ERROR_INVALID, "pretty", "monitor",
                      "'pretty' is not compatible with HMP monitors");
            return false;
        }
        return hmp_monitor_new(c, errp);
    }
    return qmp_monitor_new(c, options->has_pretty && options->pretty, errp);
}

bool coroutine_fn option_run_journal(const CommandLine *cl, Error **errp)
{
    g_autoptr(SnapshotJournalOptions) options = NULL;
    g_autoptr(JsonObject) args = NULL;
    JournalOptions o = {0};
    bool keyval;

    if (!cl->journal) {
        return true;
    }
    args = option_parse(cl->journal, "path", &keyval, errp);
    if (args && PARSE(SnapshotJournalOptions, args, keyval, &options, errp)) {
        o.path = options->path;
        o.follow = options->has_follow && options->follow;
        o.set_aside_damaged =
            options->has_damaged && options->damaged == SNAPSHOT_JOURNAL_DAMAGED_SET_ASIDE;
        if (journal_open(&o, errp)) {
            return true;
        }
    }
    error_prefix(errp, "--snapshot-journal %s: ", cl->journal);
    return false;
}

/* ---- which there are ---- */

static const OptionKind kinds[] = {
    {"blockdev", "driver", &qapi_type_BlockdevOptions, run_blockdev, "open a node"},
    {"chardev", "backend", NULL, run_chardev, "make a character device"},
    {"export", "type", &qapi_type_BlockExportOptions, run_export, "export a node"},
    {"monitor", "chardev", &qapi_type_MonitorOptions, run_monitor,
     "serve QMP, or the console, on a character device"},
    {"nbd-server", NULL, &qapi_type_NbdServerOptions, run_nbd_server, "start the NBD server"},
    {"object", "qom-type", &qapi_type_ObjectOptions, run_object,
     "make an I/O thread, a secret, credentials, ..."},
    {"snapshot-journal", "path", &qapi_type_SnapshotJournalOptions, NULL,
     "keep snapshot groups all or nothing across crashes"},
};

static const OptionKind *find_kind(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (strcmp(kinds[i].name, name) == 0) {
            return &kinds[i];
        }
    }
    g_assert_not_reached();
}

static void answer_help(const char *name, const char *arg)
{
    if (help_for_argument(find_kind(name), arg)) {
        exit(fflush(stdout) == 0 ? 0 : 1);
    }
}

void command_line_parse(CommandLine *cl, int argc, char **argv)
{
    static const struct option table[] = {
        {"blockdev", required_argument, NULL, 'b'},
        {"chardev", required_argument, NULL, 'c'},
        {"daemonize", no_argument, NULL, 'd'},
        {"export", required_argument, NULL, 'e'},
        {"help", no_argument, NULL, 'h'},
        {"monitor", required_argument, NULL, 'm'},
        {"nbd-server", required_argument, NULL, 'n'},
        {"object", required_argument, NULL, 'o'},
        {"pidfile", required_argument, NULL, 'p'},
        {"snapshot-journal", required_argument, NULL, 'j'},
        {"version", no_argument, NULL, 'V'},
        {NULL, 0, NULL, 0},
    };
    int c, index;

    *cl = (CommandLine){.options = g_array_new(false, false, sizeof(Option))};
    while ((c = getopt_long(argc, argv, "-hV", table, &index)) != -1) {
        Option o = {.arg = optarg, .dashes = "--"};

        switch (c) {
        case 'h':
            help_print(kinds, G_N_ELEMENTS(kinds));
            exit(0);
        case 'V':
            printf("%s version " CUTPOINT_VERSION " (speaks the protocol of QEMU 10.2)\n",
                   g_get_prgname());
            exit(0);
        case 'd':
            cl->daemonize = true;
            break;
        case 'p':
            cl->pidfile = optarg;
            break;
        case 'j':
            answer_help("snapshot-journal", optarg);
            if (cl->journal) {
                bad("--snapshot-journal", "can be given only once");
            }
            cl->journal = optarg;
            break;
        case '?':
            exit(1); /* getopt has said why */
        case 1:
            bad(optarg, "Unexpected argument");
        default:
            o.name = table[index].name;
            answer_help(o.name, optarg);
            g_array_append_val(cl->options, o);
            break;
        }
    }
}

bool coroutine_fn option_run(const Option *o, Error **errp)
{
    const OptionKind *kind = find_kind(o->name);
    bool keyval, ok;
    g_autoptr(JsonObject) args = option_parse(o->arg, kind->implied, &keyval, errp);

    ok = args && kind->run(args, keyval, errp);
    if (!ok) {
        error_prefix(errp, "%s%s %s: ", o->dashes, o->name, o->arg);
    }
    return ok;
}

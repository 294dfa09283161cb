/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The emulator's command line.
 *
 * Options have one or two dashes.  They are carried out by kind, not in their order on the line, since later ones are named by earlier
 * ones: character devices, objects, nodes, drives, devices, monitors.  Options about what is not there (processors, firmware, displays,
 * networks) are known and change nothing; an option that would promise what cannot be done (-incoming, -loadvm) is refused.
 */
#include "../daemon/daemon.h"
#include "block/driver.h"
#include "emulator.h"
#include "monitor/hmp.h"
#include "monitor/keyval.h"
#include "monitor/chardev.h"
#include "monitor/qmp.h"
#include "qapi/visit.h"
#include "util/virtual-clock.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum Kind {
    IGNORED,
    REFUSED,
    BLOCKDEV,
    CHARDEV,
    DEVICE,
    DRIVE,
    IMAGE, /* -hda and the like */
    MONITOR,
    OBJECT,
    QTEST,
    ACCEL,
    FLAG, /* known here by its name */
} Kind;

static const struct {
    const char *name;
    bool has_arg;
    Kind kind;
} table[] = {
    {"accel", true, ACCEL},
    {"audio", true, IGNORED},
    {"blockdev", true, BLOCKDEV},
    {"boot", true, IGNORED},
    {"cdrom", true, IMAGE},
    {"chardev", true, CHARDEV},
    {"cpu", true, IGNORED},
    {"d", true, IGNORED},
    {"D", true, IGNORED},
    {"daemonize", false, FLAG},
    {"device", true, DEVICE},
    {"display", true, IGNORED},
    {"drive", true, DRIVE},
    {"enable-kvm", false, IGNORED},
    {"fda", true, IMAGE},
    {"fdb", true, IMAGE},
    {"global", true, IGNORED},
    {"h", false, FLAG},
    {"hda", true, IMAGE},
    {"hdb", true, IMAGE},
    {"hdc", true, IMAGE},
    {"hdd", true, IMAGE},
    {"help", false, FLAG},
    {"incoming", true, FLAG},
    {"k", true, IGNORED},
    {"L", true, IGNORED},
    {"loadvm", true, REFUSED},
    {"m", true, IGNORED},
    {"M", true, IGNORED},
    {"machine", true, IGNORED},
    {"mon", true, MONITOR},
    {"monitor", true, MONITOR},
    {"msg", true, IGNORED},
    {"name", true, IGNORED},
    {"net", true, IGNORED},
    {"netdev", true, IGNORED},
    {"nic", true, IGNORED},
    {"no-reboot", false, IGNORED},
    {"no-shutdown", false, IGNORED},
    {"no-user-config", false, IGNORED},
    {"nodefaults", false, FLAG},
    {"nographic", false, FLAG},
    {"object", true, OBJECT},
    {"overcommit", true, IGNORED},
    {"parallel", true, IGNORED},
    {"pidfile", true, FLAG},
    {"preconfig", false, REFUSED},
    {"qmp", true, MONITOR},
    {"qmp-pretty", true, MONITOR},
    {"qtest", true, QTEST},
    {"qtest-log", true, IGNORED},
    {"rtc", true, IGNORED},
    {"S", false, FLAG},
    {"sandbox", true, IGNORED},
    {"serial", true, IGNORED},
    {"set", true, FLAG},
    {"smbios", true, IGNORED},
    {"smp", true, IGNORED},
    {"snapshot", false, FLAG},
    {"snapshot-journal", true, FLAG},
    {"trace", true, IGNORED},
    {"usb", false, IGNORED},
    {"uuid", true, IGNORED},
    {"version", false, FLAG},
    {"vga", true, IGNORED},
    {"vnc", true, IGNORED},
};

static struct {
    GArray *options; /* of Option */
    bool nodefaults, nographic, has_monitor, has_accel;
} line;

bool emulator_by_name(const char *program)
{
    return g_str_has_prefix(program, "qemu-system-");
}

/* ---- answers without starting ---- */

static void print_formats(void)
{
    g_autoptr(GPtrArray) names = driver_names();

    for (unsigned pass = 0; pass < 2; pass++) {
        printf(pass ? "Supported formats (read-only):" : "Supported formats:");
        for (guint i = 0; i < names->len; i++) {
            printf(" %s", (const char *)g_ptr_array_index(names, i));
        }
        printf("\n");
    }
}

static G_GNUC_NORETURN void leave(void)
{
    exit(fflush(stdout) == 0 ? 0 : 1);
}

static void answer_help(const char *name, const char *arg)
{
    bool help = strcmp(arg, "help") == 0 || strcmp(arg, "?") == 0;

    if (help && (strcmp(name, "machine") == 0 || strcmp(name, "M") == 0)) {
        printf("Supported machines are:\n"
               "none                 no processors, buses for disks only\n"
               "pc                   the same, with what a PC's drives are called (default)\n"
               "q35                  the same\n");
    } else if (help && strcmp(name, "device") == 0) {
        device_print_help();
    } else if (help && strcmp(name, "accel") == 0) {
        printf("Accelerators supported in QEMU binary:\nqtest\n");
    } else if (strcmp(name, "drive") == 0 &&
               (strcmp(arg, "format=help") == 0 || strcmp(arg, "format=?") == 0)) {
        print_formats();
    } else {
        return;
    }
    leave();
}

static G_GNUC_NORETURN void print_usage(void)
{
    printf("usage: %s [options] [disk_image]\n\n"
           "A machine without a machine: what the emulator of this name does with disks, without a "
           "guest.\n\n",
           g_get_prgname());
    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        printf("-%s%s%s\n", table[i].name, table[i].has_arg ? " <argument>" : "",
               table[i].kind == IGNORED || table[i].kind == ACCEL ? "  (changes nothing)"
               : table[i].kind == REFUSED                         ? "  (not supported)"
                                                                  : "");
    }
    leave();
}

static G_GNUC_NORETURN void print_version(void)
{
    printf("QEMU emulator version 10.2.50 (cutpoint-" CUTPOINT_VERSION ")\n");
    leave();
}

/* ---- reading ---- */

static G_GNUC_NORETURN void bad(const char *option, const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", g_get_prgname(), option, what);
    exit(1);
}

static G_GNUC_NORETURN void fail_set(const char *arg, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
static void fail_set(const char *arg, const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "%s: -set %s: ", g_get_prgname(), arg);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

/* -set GROUP.ID.NAME=VALUE: one more option for what was described before. */
static void take_set(const char *arg)
{
    static const char *const groups[] = {"chardev", "device", "drive", "mon", NULL};
    g_autoptr(GRegex) regex =
        g_regex_new("^([^.]+)\\.([^.]+)\\.([^=]+)=(.*)$", G_REGEX_DOTALL, 0, NULL);
    g_autoptr(GMatchInfo) m = NULL;
    g_autofree char *group = NULL, *id = NULL, *name = NULL, *value = NULL;

    if (!g_regex_match(regex, arg, 0, &m)) {
        fail_set(arg, "can't parse: \"%s\"", arg);
    }
    group = g_match_info_fetch(m, 1);
    id = g_match_info_fetch(m, 2);
    name = g_match_info_fetch(m, 3);
    value = g_match_info_fetch(m, 4);
    if (!g_strv_contains(groups, group)) {
        fail_set(arg, "There is no option group '%s'", group);
    }
    for (guint i = 0; i < line.options->len; i++) {
        Option *o = &g_array_index(line.options, Option, i);
        g_autoptr(JsonObject) opts = NULL;
        g_autoptr(Error) ignored = NULL;
        g_autofree char *own = NULL, *longer = NULL;
        g_auto(GStrv) parts = NULL;

        if (strcmp(o->name, group) != 0 || o->arg[0] == '{' ||
            !(opts = legacy_opts_parse(o->arg, "", &ignored))) {
            continue; /* what is wrong with it is told when it is carried out */
        }
        own = legacy_opts_take(opts, "id");
        if (g_strcmp0(own, id) == 0) {
            parts = g_strsplit(value, ",", -1);
            g_free(value);
            value = g_strjoinv(",,", parts);
            longer = g_strdup_printf("%s,%s=%s", o->arg, name, value);
            o->arg = g_intern_string(longer); /* for as long as the program runs */
            return;
        }
    }
    fail_set(arg, "there is no %s \"%s\" defined", group, id);
}

static void take_flag(CommandLine *cl, const char *name, const char *arg)
{
    if (strcmp(name, "daemonize") == 0) {
        cl->daemonize = true;
    } else if (strcmp(name, "pidfile") == 0) {
        cl->pidfile = arg;
    } else if (strcmp(name, "snapshot-journal") == 0) {
        cl->journal = arg;
    } else if (strcmp(name, "nodefaults") == 0) {
        line.nodefaults = true;
    } else if (strcmp(name, "nographic") == 0) {
        line.nographic = true;
    } else if (strcmp(name, "snapshot") == 0) {
        drive_set_all_temporary();
    } else if (strcmp(name, "S") == 0) {
        machine_set_prelaunch();
    } else if (strcmp(name, "incoming") == 0) {
        if (strcmp(arg, "defer") != 0) {
            bad("-incoming",
                "there is no migration here: 'defer' only, which leaves disks inactive");
        }
        machine_set_incoming();
    } else if (strcmp(name, "set") == 0) {
        take_set(arg);
    } else if (strcmp(name, "version") == 0) {
        print_version();
    } else {
        print_usage();
    }
}

static void take(CommandLine *cl, unsigned i, const char *spelled, const char *arg)
{
    Option o = {.name = table[i].name, .arg = arg, .dashes = "-"};

    switch (table[i].kind) {
    case IGNORED:
        if (arg) {
            answer_help(o.name, arg);
        }
        break;
    case ACCEL:
        answer_help(o.name, arg);
        if (!line.has_accel && (strcmp(arg, "qtest") == 0 || g_str_has_prefix(arg, "qtest,"))) {
            virtual_clock_stop();
        }
        line.has_accel = true; /* the first one counts */
        break;
    case REFUSED:
        bad(spelled, "not supported");
    case FLAG:
        take_flag(cl, o.name, arg);
        break;
    default:
        answer_help(o.name, arg);
        line.has_monitor |= table[i].kind == MONITOR;
        g_array_append_val(line.options, o);
        break;
    }
}

void emulator_parse(CommandLine *cl, int argc, char **argv)
{
    *cl = (CommandLine){.options = g_array_new(false, false, sizeof(Option))};
    line.options = cl->options;
    for (int n = 1; n < argc; n++) {
        const char *name = argv[n];
        unsigned i = 0;

        if (name[0] != '-' || name[1] == '\0') {
            Option o = {.name = "hda", .arg = name, .dashes = ""};

            g_array_append_val(line.options, o);
            continue;
        }
        name += name[1] == '-' ? 2 : 1;
        while (i < G_N_ELEMENTS(table) && strcmp(table[i].name, name) != 0) {
            i++;
        }
        if (i == G_N_ELEMENTS(table)) {
            bad(argv[n], "invalid option");
        }
        if (table[i].has_arg && n + 1 == argc) {
            bad(argv[n], "requires an argument");
        }
        take(cl, i, argv[n], table[i].has_arg ? argv[n + 1] : NULL);
        n += table[i].has_arg;
    }
}

/* ---- carrying out ---- */

static bool coroutine_fn run_chardev(const char *arg, Error **errp)
{
    g_autoptr(JsonObject) o = legacy_opts_parse(arg, "backend", errp);

    return o && chardev_new(o, errp);
}

static bool coroutine_fn run_device(const char *arg, Error **errp)
{
    g_autoptr(JsonObject) o = NULL;
    bool keyval;

    if (arg[0] == '{') {
        o = option_parse(arg, "driver", &keyval, errp);
    } else {
        o = legacy_opts_parse(arg, "driver", errp);
    }
    return o && device_new(o, errp);
}

static bool coroutine_fn run_drive(const char *arg, Error **errp)
{
    const Drive *d;

    return drive_new(arg, &d, errp);
}

static bool coroutine_fn run_image(const char *name, const char *arg, Error **errp)
{
    g_autoptr(GString) options = g_string_new("file=");
    const Drive *d;

    for (const char *p = arg; *p; p++) {
        g_string_append_c(options, *p);
        if (*p == ',') {
            g_string_append_c(options, ',');
        }
    }
    if (strcmp(name, "cdrom") == 0) {
        g_string_append(options, ",index=2,media=cdrom");
    } else if (name[0] == 'f') {
        g_string_append_printf(options, ",if=floppy,index=%d", name[2] - 'a');
    } else {
        g_string_append_printf(options, ",index=%d,media=disk", name[2] - 'a');
    }
    return drive_new(options->str, &d, errp);
}

static bool attach_monitor(const char *chardev, bool control, bool pretty, Error **errp)
{
    Chardev *c = chardev_find(chardev);

    if (!c) {
        error_set(errp, ERROR_NOT_FOUND, chardev, "monitor", "chardev \"%s\" not found", chardev);
        return false;
    }
    return control ? qmp_monitor_new(c, pretty, errp) : hmp_monitor_new(c, errp);
}

static bool run_mon(const char *arg, Error **errp)
{
    g_autoptr(JsonObject) o = legacy_opts_parse(arg, "chardev", errp);
    g_autofree char *chardev = NULL, *mode = NULL, *pretty = NULL, *id = NULL;

    if (!o) {
        return false;
    }
    chardev = legacy_opts_take(o, "chardev");
    mode = legacy_opts_take(o, "mode");
    pretty = legacy_opts_take(o, "pretty");
    id = legacy_opts_take(o, "id");
    if (!chardev) {
        error_set(errp, ERROR_INVALID, "chardev", "monitor", "Parameter 'chardev' is missing");
        return false;
    }
    if (mode && strcmp(mode, "control") != 0 && strcmp(mode, "readline") != 0) {
        error_set(errp, ERROR_INVALID, "mode", "monitor",
                  "Parameter 'mode' does not accept value '%s'", mode);
        return false;
    }
    if (json_object_object_length(o) > 0) {
        json_object_object_foreach(o, key, value)
        {
            (void)value;
            error_set(errp, ERROR_INVALID, key, "monitor", "Invalid parameter '%s'", key);
            return false;
        }
    }
    return attach_monitor(chardev, mode && mode[0] == 'c', pretty && strcmp(pretty, "on") == 0,
                          errp);
}

static bool coroutine_fn run_monitor(const char *option, const char *arg, Error **errp)
{
    static unsigned count;
    g_autofree char *name = g_strdup_printf("compat_monitor%u", count++), *chardev = NULL;

    if (strcmp(option, "mon") == 0) {
        return run_mon(arg, errp);
    }
    return device_syntax_chardev(arg, name, &chardev, errp) &&
           (!chardev ||
            attach_monitor(chardev, option[0] == 'q', strcmp(option, "qmp-pretty") == 0, errp));
}

static bool coroutine_fn run_one(const Option *o, Kind kind, Error **errp)
{
    bool ok;

    switch (kind) {
    case CHARDEV:
        ok = run_chardev(o->arg, errp);
        break;
    case DRIVE:
        ok = run_drive(o->arg, errp);
        break;
    case IMAGE:
        ok = run_image(o->name, o->arg, errp);
        break;
    case DEVICE:
        ok = run_device(o->arg, errp);
        break;
    case MONITOR:
        ok = run_monitor(o->name, o->arg, errp);
        break;
    case QTEST:
        ok = qtest_new(o->arg, errp);
        break;
    default:
        return option_run(o, errp); /* the storage daemon's own: says its name itself */
    }
    if (!ok) {
        error_prefix(errp, "%s%s %s: ", o->dashes, o->name, o->arg);
    }
    return ok;
}

static Kind kind_of(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        if (strcmp(table[i].name, name) == 0) {
            return table[i].kind;
        }
    }
    g_assert_not_reached();
}

static bool coroutine_fn run_kind(Kind first, Kind second, Error **errp)
{
    for (guint i = 0; i < line.options->len; i++) {
        const Option *o = &g_array_index(line.options, Option, i);
        Kind kind = kind_of(o->name);

        if ((kind == first || kind == second) && !run_one(o, kind, errp)) {
            return false;
        }
    }
    return true;
}

static bool coroutine_fn run_drive_devices(Error **errp)
{
    g_autoptr(GPtrArray) drives = drive_list();

    for (guint i = 0; i < drives->len; i++) {
        if (!device_new_for_drive(g_ptr_array_index(drives, i), errp)) {
            return false;
        }
    }
    return true;
}

/* -nographic without anything said about monitors: the console is on the terminal. */
static bool coroutine_fn run_default_monitor(Error **errp)
{
    return line.nodefaults || !line.nographic || line.has_monitor ||
           run_monitor("monitor", "stdio", errp);
}

bool coroutine_fn emulator_start(Error **errp)
{
    return run_kind(CHARDEV, CHARDEV, errp) && run_kind(OBJECT, OBJECT, errp) &&
           run_kind(BLOCKDEV, BLOCKDEV, errp) && run_kind(DRIVE, IMAGE, errp) &&
           run_drive_devices(errp) && run_kind(DEVICE, DEVICE, errp) &&
           run_kind(MONITOR, QTEST, errp) && run_default_monitor(errp) && machine_start(errp);
}

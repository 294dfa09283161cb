/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The console command `qemu-io`: reading and writing a disk by hand.
 *
 * Commands, options and output are those of the program of that name; output goes to the daemon's standard output.  The aio_ variants return
 * at once and print when they are done; aio_flush waits for all of them.
 *
 * A device's disk is reached through its backend (what the command needs is added to its permissions and stays); a node through an edge of the
 * command's own, which goes when its last request has ended.
 */
#include "block/backend-limits.h"
#include "block/copy-on-read.h"
#include "block/graph.h"
#include "block/io.h"
#include "block/stats.h"
#include "hmp-table.h"
#include "monitor/chardev.h"
#include "monitor/personality/emulator.h"
#include "qemu-io.h"
#include "util/loop.h"
#include <stdlib.h>
#include <string.h>

#define LENGTH_MAX (INT64_C(1) << 31) /* as one request may have */

/* A disk in use by commands; counted by those that run. */
typedef struct Target {
    Backend *backend; /* NULL: a node */
    Medium *medium;   /* pinned: it may be taken out meanwhile */
    Edge *edge;       /* the medium's, or one of our own */
    unsigned refs;
} Target;

typedef struct Io {
    Target *t;
    bool write, zero, discard, unmap, fua, quiet, count, verify, async, invalid;
    int pattern; /* -1: none */
    int64_t offset, length;
    int64_t began;
} Io;

static unsigned under_way;       /* aio requests */
static GPtrArray *flush_waiters; /* Coroutine * */

void qemu_io_print(const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    chardev_write_stdout(text, strlen(text));
}

/* ---- targets ---- */

/* b: NULL, or the backend that is meant. */
static Target *coroutine_fn target_open(Backend *b, const char *name, Error **errp)
{
    Node *n;
    Target *t;

    b = b ? b : backend_find(name);
    n = b ? NULL : node_find(name);
    t = g_new0(Target, 1);
    t->refs = 1;
    if (b) {
        t->medium = backend_pin(b);
        if (!t->medium) {
            error_set(errp, ERROR_NOT_FOUND, name, "qemu-io", "Device '%s' has no medium", name);
            g_free(t);
            return NULL;
        }
        t->backend = backend_ref(b);
        t->edge = medium_edge(t->medium);
    } else {
        if (!n) {
            error_set(errp, ERROR_NOT_FOUND, name, "qemu-io",
                      "Cannot find device='' nor node-name='%s'", name);
            g_free(t);
            return NULL;
        }
        t->edge = edge_attach(n, NULL, &edge_owner_unnamed, (void *)&edge_owner_unnamed, "root",
                              EDGE_ROOT, PERM_NONE, PERM_ALL, errp);
        if (!t->edge) {
            g_free(t);
            return NULL;
        }
    }
    return t;
}

static void coroutine_fn target_unref(Target *t)
{
    if (--t->refs > 0) {
        return;
    }
    if (t->medium) {
        medium_unpin(t->medium);
        backend_unref(t->backend);
    } else {
        edge_detach(t->edge);
    }
    g_free(t);
}

static bool coroutine_fn target_need(Target *t, unsigned perm, Error **errp)
{
    if (t->backend) {
        if (!backend_add_perm(t->backend, perm, errp)) {
            return false;
        }
        if (!medium_is_in(t->medium)) { /* nobody has that permission on it now */
            error_set(errp, ERROR_NOT_FOUND, NULL, "qemu-io", "Device has no medium");
            return false;
        }
        return true;
    }
    return (t->edge->perm & perm) == perm ||
           edge_set_perm(t->edge, t->edge->perm | perm, PERM_ALL, errp);
}

static bool copies_on_read(const Target *t)
{
    return t->backend && backend_copy_on_read(t->backend) &&
           !atomic_load(&t->edge->target->read_only);
}

static unsigned perm_of(const Io *io)
{
    unsigned read = PERM_CONSISTENT_READ;

    return io->write ? PERM_WRITE : copies_on_read(io->t) ? read | PERM_WRITE_UNCHANGED : read;
}

/* ---- one request ---- */

static char *size_text(double v)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned i = 0;
    g_autofree char *number = NULL;

    while (v >= 1024 && i + 1 < G_N_ELEMENTS(units)) {
        v /= 1024;
        i++;
    }
    number = g_strdup_printf("%.3f", v);
    while (g_str_has_suffix(number, "0")) {
        number[strlen(number) - 1] = '\0';
    }
    if (g_str_has_suffix(number, ".")) {
        number[strlen(number) - 1] = '\0';
    }
    return g_strdup_printf("%s %s", number, units[i]);
}

static void report(const Io *io, const char *verb)
{
    double seconds = MAX(clock_ns() - io->began, 1000) / 1e9;
    g_autofree char *size = size_text(io->length), *rate = size_text(io->length / seconds);
    int hours = seconds / 3600, minutes = (int)(seconds / 60) % 60;

    if (io->quiet) {
        return;
    }
    qemu_io_print("%s %" G_GINT64_FORMAT "/%" G_GINT64_FORMAT " bytes at offset %" G_GINT64_FORMAT
                  "\n",
                  verb, io->length, io->length, io->offset);
    qemu_io_print("%s, 1 ops; %02d:%02d:%05.2f (%s/sec and %.4f ops/sec)\n", size, hours, minutes,
                  seconds - hours * 3600 - minutes * 60, rate, 1 / seconds);
}

static int coroutine_fn transfer(const Io *io, uint8_t *buf)
{
    Edge *e = io->t->edge;
    Request r;
    int ret;

    if (io->t->medium) {
        medium_throttle_begin(io->t->medium, io->write, io->length);
    }
    if (!io->write && copies_on_read(io->t)) {
        edge_copy_range_up(e, NULL, (GuestOffset){io->offset}, io->length, false);
    }
    request_begin(&r, io->write ? REQUEST_WRITE : REQUEST_READ);
    if (io->discard) {
        ret = edge_pdiscard(e, &r, (GuestOffset){io->offset}, io->length);
    } else if (io->zero) {
        ret = edge_pwrite_zeroes(e, &r, (GuestOffset){io->offset}, io->length,
                                 (io->unmap ? REQ_MAY_UNMAP : 0) | (io->fua ? REQ_FUA : 0));
    } else if (io->write) {
        ret = edge_pwrite(e, &r, (GuestOffset){io->offset}, buf, io->length, io->fua ? REQ_FUA : 0);
    } else {
        ret = edge_pread(e, &r, (GuestOffset){io->offset}, buf, io->length, 0);
    }
    request_end(&r);
    if (io->t->medium) {
        medium_throttle_end();
    }
    return ret;
}

static void verify(const Io *io, const uint8_t *buf)
{
    for (int64_t i = 0; i < io->length; i++) {
        if (buf[i] != io->pattern) {
            qemu_io_print("Pattern verification failed at offset %" G_GINT64_FORMAT
                          ", %" G_GINT64_FORMAT " bytes\n",
                          io->offset, io->length);
            return;
        }
    }
}

static void coroutine_fn carry_out(Io *io)
{
    uint8_t *buf = NULL;
    const char *verb = io->discard ? "discard" : io->write ? "write" : "read";
    int ret = 0;

    if (!io->discard && !io->zero) {
        buf = block_try_alloc(MAX(io->length, 1));
        if (!buf) {
            ret = -ENOMEM;
        } else {
            memset(buf, io->pattern >= 0 && io->write ? io->pattern : 0xcd, io->length);
        }
    }
    io->began = clock_ns();
    ret = ret < 0 ? ret : transfer(io, buf);
    if (ret < 0) {
        qemu_io_print("%s%s failed: %s\n", io->async ? "aio_" : "", verb, g_strerror(-ret));
    } else {
        if (io->verify) {
            verify(io, buf);
        }
        report(io, io->discard ? "discard" : io->write ? "wrote" : "read");
    }
    free(buf);
}

static void coroutine_fn run_async(void *opaque)
{
    Io *io = opaque;

    carry_out(io);
    target_unref(io->t);
    g_free(io);
    if (--under_way == 0 && flush_waiters) {
        for (guint i = 0; i < flush_waiters->len; i++) {
            co_wake(g_ptr_array_index(flush_waiters, i));
        }
        g_ptr_array_set_size(flush_waiters, 0);
    }
}

static void coroutine_fn wait_async(void)
{
    if (!flush_waiters) {
        flush_waiters = g_ptr_array_new();
    }
    while (under_way > 0) {
        g_ptr_array_add(flush_waiters, co_self());
        co_yield();
    }
}

/* ---- commands ---- */

static bool parse_range(Io *io, char **words, Error **errp)
{
    if (!words[0] || !words[1] || words[2]) {
        error_set(errp, ERROR_INVALID, NULL, "qemu-io",
                  "bad argument count %u, expected 2 arguments", g_strv_length(words));
        return false;
    }
    for (unsigned i = 0; i < 2; i++) {
        if (!hmp_parse_size(words[i], 1, i ? &io->length : &io->offset)) {
            error_set(errp, ERROR_INVALID, words[i], "qemu-io", "non-numeric %s argument -- %s",
                      i ? "length" : "offset", words[i]);
            return false;
        }
    }
    if (io->length >= LENGTH_MAX && !io->discard && !io->zero) {
        error_set(errp, ERROR_LIMIT, words[1], "qemu-io",
                  "length cannot exceed %" G_GINT64_FORMAT ", given %s", LENGTH_MAX - 1, words[1]);
        return false;
    }
    return true;
}

static bool parse_io(Io *io, char **words, Error **errp)
{
    for (; words[0] && words[0][0] == '-' && words[0][1]; words++) {
        for (const char *p = words[0] + 1; *p; p++) {
            if (*p == 'P') {
                char *end;
                const char *value = p[1] ? p + 1 : *++words;

                io->pattern = value ? (int)strtol(value, &end, 0) : -1;
                if (!value || *end || io->pattern < 0 || io->pattern > 255) {
                    error_set(errp, ERROR_INVALID, "-P", "qemu-io", "invalid pattern value -- %s",
                              value ? value : "");
                    return false;
                }
                io->verify = !io->write;
                break;
            }
            if (*p == 'z' && io->write) {
                io->zero = true;
            } else if (*p == 'u' && io->write) {
                io->unmap = true;
            } else if (*p == 'f' && io->write) {
                io->fua = true;
            } else if (*p == 'q') {
                io->quiet = true;
            } else if (*p == 'i' && io->async) { /* for who looks at statistics */
                io->invalid = true;
            } else if (*p != 'C' && *p != 'n' && *p != 'p') {
                error_set(errp, ERROR_INVALID, words[0], "qemu-io", "invalid option -- '%.*s'",
                          (int)(g_utf8_next_char(p) - p), p);
                return false;
            }
        }
    }
    if (io->zero && io->pattern >= 0) {
        error_set(errp, ERROR_INVALID, NULL, "qemu-io",
                  "-z and -P cannot be specified at the same time");
        return false;
    }
    return parse_range(io, words, errp);
}

static bool coroutine_fn cmd_io(Target *t, char **words, Error **errp)
{
    const char *name = words[0];
    Io *io = g_new0(Io, 1);

    io->t = t;
    io->pattern = -1;
    io->async = g_str_has_prefix(name, "aio_");
    io->discard = strcmp(name, "discard") == 0;
    io->write = io->discard || strstr(name, "write");
    if (!parse_io(io, words + 1, errp) || !target_need(t, perm_of(io), errp)) {
        g_free(io);
        return false;
    }
    if (io->invalid) {
        if (t->edge->stats) {
            edge_stat_invalid(t->edge, io->write ? STAT_WRITE : STAT_READ);
        }
        g_free(io);
        return true;
    }
    if (io->async) {
        t->refs++;
        under_way++;
        co_spawn(loop_control(), run_async, io);
        return true;
    }
    carry_out(io);
    g_free(io);
    return true;
}

static bool coroutine_fn cmd_flush(Target *t, char **words, Error **errp)
{
    Edge *e = t->edge;
    Request r;
    int ret;

    (void)errp;
    if (strcmp(words[0], "aio_flush") == 0) {
        int64_t began = clock_ns();

        wait_async();
        if (e->stats) {
            edge_stat_waited(e, began);
        }
        return true;
    }
    request_begin(&r, REQUEST_FLUSH);
    ret = edge_flush(e, &r);
    request_end(&r);
    if (ret < 0) {
        qemu_io_print("flush failed: %s\n", g_strerror(-ret));
    }
    return true;
}

static bool coroutine_fn cmd_length(Target *t, char **words, Error **errp)
{
    g_autofree char *size = size_text(atomic_load(&t->edge->target->size));

    (void)words;
    (void)errp;
    qemu_io_print("%s\n", size);
    return true;
}

static bool coroutine_fn cmd_info(Target *t, char **words, Error **errp)
{
    const Node *n = t->edge->target;

    (void)words;
    (void)errp;
    qemu_io_print("format name: %s\n", n->driver->name);
    if (n->driver->facts) {
        g_auto(ImageFacts) f = {0};
        g_autoptr(Error) ignored = NULL;

        if (n->driver->facts((Node *)n, &f, &ignored) && f.cluster_size) {
            g_autofree char *size = size_text(f.cluster_size);

            qemu_io_print("cluster size: %s\n", size);
        }
    }
    return true;
}

/* map: runs of clusters that are in this image or not. */
static bool coroutine_fn cmd_map(Target *t, char **words, Error **errp)
{
    Edge *e = t->edge;
    uint64_t size = atomic_load(&e->target->size), offset = 0;

    (void)words;
    if (!target_need(t, PERM_CONSISTENT_READ, errp)) {
        return false;
    }
    while (offset < size) {
        g_autofree char *length = NULL, *at = NULL;
        uint64_t n = 0, sum = 0;
        bool allocated = false;

        while (offset + sum < size) {
            Request r;
            bool here;
            int ret;

            request_begin(&r, REQUEST_READ);
            ret = edge_block_status(e, &r, (GuestOffset){offset + sum}, size - offset - sum, 0,
                                    false, &n, NULL);
            request_end(&r);
            if (ret < 0) {
                qemu_io_print("Failed to query allocation status: %s\n", g_strerror(-ret));
                return true;
            }
            here = ret & (STATUS_DATA | STATUS_ZERO);
            if (sum == 0) {
                allocated = here;
            } else if (here != allocated) {
                break;
            }
            sum += n;
        }
        length = size_text(sum);
        at = size_text(offset);
        qemu_io_print("%s (0x%" PRIx64 ") bytes %s at offset %s (0x%" PRIx64 ")\n", length, sum,
                      allocated ? "    allocated" : "not allocated", at, offset);
        offset += sum;
    }
    return true;
}

static bool coroutine_fn cmd_sleep(Target *t, char **words, Error **errp)
{
    int64_t ms;

    (void)t;
    if (!words[1] || !hmp_parse_size(words[1], 1, &ms) || ms > 60000) {
        error_set(errp, ERROR_INVALID, NULL, "qemu-io",
                  "sleep expects milliseconds, at most 60000");
        return false;
    }
    co_sleep_ns(ms * 1000000);
    return true;
}

static bool coroutine_fn cmd_break(Target *t, char **words, Error **errp)
{
    static const struct {
        const char *name;
        bool coroutine_fn (*fn)(Node *n, char **words, Error **errp);
    } table[] = {
        {"break", qemu_io_break},
        {"remove_break", qemu_io_remove_break},
        {"resume", qemu_io_resume},
        {"wait_break", qemu_io_wait_break},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        if (strcmp(words[0], table[i].name) == 0) {
            return table[i].fn(t->edge->target, words, errp);
        }
    }
    return true;
}

static bool coroutine_fn run(Target *t, char **words, Error **errp)
{
    static const struct {
        const char *name;
        bool coroutine_fn (*fn)(Target *t, char **words, Error **errp);
    } table[] = {
        {"read", cmd_io},       {"r", cmd_io},
        {"write", cmd_io},      {"w", cmd_io},
        {"aio_read", cmd_io},   {"aio_write", cmd_io},
        {"discard", cmd_io},    {"flush", cmd_flush},
        {"f", cmd_flush},       {"aio_flush", cmd_flush},
        {"length", cmd_length}, {"l", cmd_length},
        {"info", cmd_info},     {"i", cmd_info},
        {"map", cmd_map},       {"sleep", cmd_sleep},
        {"break", cmd_break},   {"remove_break", cmd_break},
        {"resume", cmd_break},  {"wait_break", cmd_break},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {
        if (strcmp(words[0], table[i].name) == 0) {
            return table[i].fn(t, words, errp);
        }
    }
    qemu_io_print("command \"%s\" not found\n", words[0]);
    return true;
}

bool coroutine_fn hmp_qemu_io(Hmp *h, struct json_object *args, Error **errp)
{
    g_autofree char *whole = g_strdup(hmp_string(args, "command"));
    const char *p = whole;
    g_autofree char *quoted = NULL;
    Backend *b = NULL;
    g_auto(GStrv) words = NULL;
    bool bad = false, ok;
    Target *t;

    (void)h;
    if (whole[0] == '"') {
        quoted = hmp_take_word(&p, &bad);
        if (bad || *p) {
            error_set(errp, ERROR_INVALID, NULL, "qemu-io", "the command must be one quotation");
            return false;
        }
    } else {
        quoted = g_strdup(whole);
    }
    if (hmp_flag(args, "qdev")) {
        b = device_backend(hmp_string(args, "device"), errp);
        if (!b) {
            return false;
        }
    }
    words = g_regex_split_simple("\\s+", g_strstrip(quoted), 0, 0);
    if (!words[0] || !words[0][0]) {
        return true;
    }
    t = target_open(b, hmp_string(args, "device"), errp);
    if (!t) {
        return false;
    }
    ok = run(t, words, errp);
    target_unref(t);
    return ok;
}

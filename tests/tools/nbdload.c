/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * nbdload: a write or read load on many NBD exports at once, from one process, with exact latencies.
 *
 * Two kinds of load:
 *   independent   every connection keeps --depth requests of --block bytes under way, at random or rising offsets.
 *   chain         dependent writers.  Chain c writes record 1, 2, 3, ... one after another, record i to disk (i - 1 + c) mod N and only
 *                 when record i - 1 was acknowledged.  A record names its chain and number and carries, for every chain, the number
 *                 of the last record acknowledged before it was sent: all those it depends on.  A set of disk images that holds a
 *                 record but not all of these is not a consistent cut.  tests/functional/lib/records.py reads them back.
 *
 * Windows: lines on standard input, "begin NAME" and "end", mark a stretch of time; "stop" ends the load, and so does the end of
 * input or --seconds.  A request belongs to every window that it overlaps, also to one that began after it was sent and ended before it
 * was answered: the stalled requests are the ones that matter.  So "end" is answered when all such requests have been.  Every answer is
 * one line of JSON on standard output: ready, begun, window, total.
 *
 * Threads: each has its connections and an epoll; nothing is shared but the windows (written by the main thread) and the counters of
 * the chains (each written by its thread).  `settled` of a thread hands its statistics of ended windows to the main thread.
 */
#include "load-conn.h"
#include "load-stats.h"
#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zlib.h>

enum { MAX_WINDOWS = 4096, MAX_CHAINS = 256 };

typedef enum Mode { MODE_READ, MODE_WRITE, MODE_CHAIN } Mode;

typedef struct Window {
    char name[64];
    uint64_t begin;    /* ns; written before the window is counted in n_windows */
    atomic_ullong end; /* 0: still open */
    double cpu_begin, cpu_end;
    uint64_t completed[MAX_CHAINS]; /* by chain, when it began */
} Window;

/* A request slot: idle or under way. */
typedef struct Flight {
    uint64_t sent; /* 0: idle */
    unsigned conn, chain;
    bool flushing; /* chain: the flush after a record */
} Flight;

typedef struct LoadThread {
    GThread *thread;
    unsigned index;
    int epoll;
    LoadConn *conns;
    unsigned *disk_of_conn;
    unsigned n_conns;
    Flight *flights;
    uint32_t *reply_bytes;
    unsigned n_flights;
    char *payload;
    uint64_t random, next_block;
    Stats total;
    Stats *windows[MAX_WINDOWS]; /* NULL: no request yet */
    unsigned first_window;       /* those below have ended and are settled */
    atomic_uint settled;         /* the same, for the main thread */
} LoadThread;

/* A record of a chain on disk: this, then the numbers of the other chains, then filling; the last 4 bytes are a CRC-32 of the rest. */
typedef struct Record {
    uint64_t magic;
    uint32_t chain, n_chains, disk, n_disks;
    uint64_t number;
} Record;

#define RECORD_MAGIC 0x3144524f43455243u /* "CRECORD1" */

static struct {
    char *socket, *mode_name;
    char **exports;
    int depth, block, threads, chains, slots, flush_every, connections;
    double seconds;
    gint64 range;
    gboolean sequential, expect_loss;
} opt = {.depth = 1, .block = 4096, .threads = 1, .chains = 8, .slots = 64, .connections = 1};

static Mode mode;
static unsigned n_disks;
static Window windows[MAX_WINDOWS];
static atomic_uint n_windows;
static atomic_bool stop;
static atomic_ulong n_done;
static atomic_ullong completed[MAX_CHAINS], submitted[MAX_CHAINS];
static LoadThread *threads;
static GMutex output;

static double cpu_seconds(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* ---- output ---- */

static void print_numbers(const char *name, const uint64_t *numbers)
{
    printf(", \"%s\": [", name);
    for (int i = 0; mode == MODE_CHAIN && i < opt.chains; i++) {
        printf("%s%" PRIu64, i ? ", " : "", numbers[i]);
    }
    printf("]");
}

static void load_numbers(atomic_ullong *from, uint64_t *to)
{
    for (int i = 0; i < opt.chains; i++) {
        to[i] = atomic_load(&from[i]);
    }
}

static void print_stats(const Stats *s, double seconds, double cpu)
{
    printf("\"seconds\": %.6f, \"requests\": %" PRIu64
           ", \"mean_ms\": %.6f, \"p50_ms\": %.6f, \"p99_ms\": %.6f, "
           "\"p999_ms\": %.6f, \"max_ms\": %.6f, \"max_disk\": %u, \"client_cpu_s\": %.4f",
           seconds, s->count, s->count ? (double)s->sum_ns / (double)s->count / 1e6 : 0,
           (double)stats_percentile(s, 0.5) / 1e6, (double)stats_percentile(s, 0.99) / 1e6,
           (double)stats_percentile(s, 0.999) / 1e6, (double)s->max_ns / 1e6, s->max_disk, cpu);
}

static void print_total(const Stats *s, double seconds, bool lost)
{
    uint64_t done[MAX_CHAINS], sent[MAX_CHAINS];

    load_numbers(completed, done);
    load_numbers(submitted, sent);
    printf("{\"total\": true, \"lost\": %s, ", lost ? "true" : "false");
    print_stats(s, seconds, cpu_seconds());
    print_numbers("completed", done);
    print_numbers("submitted", sent);
    printf("}\n");
    fflush(stdout);
}

void load_lost(const char *why)
{
    static Stats none;

    if (!opt.expect_loss) {
        load_die("connection lost: %s", why);
    }
    g_mutex_lock(&output);
    print_total(&none, 0, true);
    _exit(0);
}

/* ---- requests; all on the thread they belong to ---- */

static uint64_t next_random(LoadThread *t)
{
    /* xorshift64: any full-period generator does */
    t->random ^= t->random << 13;
    t->random ^= t->random >> 7;
    t->random ^= t->random << 17;
    return t->random;
}

static void send_queued(LoadThread *t, unsigned conn)
{
    LoadConn *c = &t->conns[conn];
    bool all = load_conn_send(c);

    if (all == c->want_write) {
        struct epoll_event e = {.events = all ? EPOLLIN : EPOLLIN | EPOLLOUT, .data.u32 = conn};

        c->want_write = !all;
        epoll_ctl(t->epoll, EPOLL_CTL_MOD, c->fd, &e);
    }
}

static void submit_independent(LoadThread *t, uint32_t handle)
{
    Flight *f = &t->flights[handle];
    LoadConn *c = &t->conns[f->conn];
    uint32_t length = (uint32_t)opt.block;
    uint64_t range = opt.range > 0 && (uint64_t)opt.range < c->size ? (uint64_t)opt.range : c->size;
    uint64_t blocks = range / length;
    uint64_t block = opt.sequential ? t->next_block++ % blocks : next_random(t) % blocks;
    char *payload = NULL;

    if (mode == MODE_WRITE) {
        payload = t->payload;
        memcpy(payload, &t->random, sizeof t->random); /* no two blocks alike */
    }
    t->reply_bytes[handle] = payload ? 0 : length;
    f->sent = load_now();
    load_conn_queue(c, payload ? NBD_CMD_WRITE : NBD_CMD_READ, handle, block * length, length,
                    payload);
}

static void fill_record(LoadThread *t, unsigned chain, uint64_t number, unsigned disk)
{
    size_t size = (size_t)opt.block;
    Record r = {RECORD_MAGIC, chain, (uint32_t)opt.chains, disk, n_disks, number};
    uint64_t *others = (uint64_t *)(t->payload + sizeof r);
    uint32_t crc;

    memcpy(t->payload, &r, sizeof r);
    for (int i = 0; i < opt.chains; i++) {
        others[i] = atomic_load(&completed[i]);
    }
    memset(t->payload + sizeof r + (size_t)opt.chains * 8, (int)(number & 0xff),
           size - sizeof r - (size_t)opt.chains * 8 - 4);
    crc = (uint32_t)crc32(0, (const Bytef *)t->payload, (uInt)(size - 4));
    memcpy(t->payload + size - 4, &crc, sizeof crc);
}

static void submit_record(LoadThread *t, uint32_t handle)
{
    Flight *f = &t->flights[handle];
    uint64_t number = atomic_load(&submitted[f->chain]) + 1;
    unsigned disk = (unsigned)((number - 1 + f->chain) % n_disks);
    uint64_t slot = (number - 1) / n_disks % (uint64_t)opt.slots;
    uint64_t offset = (slot * (uint64_t)opt.chains + f->chain) * (uint64_t)opt.block;

    fill_record(t, f->chain, number, disk);
    atomic_store(&submitted[f->chain], number);
    f->conn = disk;
    f->flushing = false;
    f->sent = load_now();
    load_conn_queue(&t->conns[disk], NBD_CMD_WRITE, handle, offset, (uint32_t)opt.block,
                    t->payload);
    send_queued(t, disk);
}

static void chain_step(LoadThread *t, uint32_t handle)
{
    Flight *f = &t->flights[handle];
    uint64_t number = atomic_load(&submitted[f->chain]);

    if (!f->flushing) {
        atomic_store(&completed[f->chain], number);
        if (opt.flush_every > 0 && number % (uint64_t)opt.flush_every == 0) {
            f->flushing = true;
            f->sent = load_now();
            load_conn_queue(&t->conns[f->conn], NBD_CMD_FLUSH, handle, 0, 0, NULL);
            send_queued(t, f->conn);
            return;
        }
    }
    if (!atomic_load(&stop)) {
        submit_record(t, handle);
    }
}

static void account(LoadThread *t, const Flight *f, uint64_t now)
{
    unsigned disk = t->disk_of_conn[f->conn];

    stats_add(&t->total, f->sent, now - f->sent, disk);
    for (unsigned w = atomic_load_explicit(&n_windows, memory_order_acquire);
         w-- > t->first_window;) {
        uint64_t end = atomic_load(&windows[w].end);

        if (end && end < f->sent) {
            break;
        }
        if (windows[w].begin <= now) {
            if (!t->windows[w]) {
                t->windows[w] = g_new0(Stats, 1);
            }
            stats_add(t->windows[w], f->sent, now - f->sent, disk);
        }
    }
}

static void on_reply(void *opaque, uint32_t handle, uint32_t error)
{
    LoadThread *t = opaque;
    Flight *f;

    if (handle >= t->n_flights || !t->flights[handle].sent) {
        load_die("reply to request %u, which was not sent", handle);
    }
    f = &t->flights[handle];
    if (error) {
        load_die("disk %u: a request failed: %s", t->disk_of_conn[f->conn], strerror((int)error));
    }
    account(t, f, load_now());
    f->sent = 0;
    atomic_fetch_add_explicit(&n_done, 1, memory_order_relaxed);
    if (mode == MODE_CHAIN) {
        chain_step(t, handle);
    } else if (!atomic_load(&stop)) {
        submit_independent(t, handle);
    }
}

/* ---- threads ---- */

/* Hands over the windows that have ended and in which no request of this thread is under way. */
static void settle_windows(LoadThread *t)
{
    while (t->first_window < atomic_load_explicit(&n_windows, memory_order_acquire)) {
        uint64_t end = atomic_load(&windows[t->first_window].end);

        if (!end) {
            return;
        }
        for (unsigned i = 0; i < t->n_flights; i++) {
            if (t->flights[i].sent && t->flights[i].sent <= end) {
                return;
            }
        }
        t->first_window++;
        atomic_store_explicit(&t->settled, t->first_window, memory_order_release);
    }
}

static bool idle(const LoadThread *t)
{
    for (unsigned i = 0; i < t->n_flights; i++) {
        if (t->flights[i].sent) {
            return false;
        }
    }
    return true;
}

static void start_flights(LoadThread *t)
{
    for (uint32_t i = 0; i < t->n_flights; i++) {
        if (mode == MODE_CHAIN) {
            submit_record(t, i);
        } else {
            submit_independent(t, i);
        }
    }
    for (unsigned i = 0; i < t->n_conns; i++) {
        send_queued(t, i);
    }
}

static void *run_thread(void *opaque)
{
    LoadThread *t = opaque;

    start_flights(t);
    while (!atomic_load(&stop) || !idle(t)) {
        struct epoll_event events[64];
        int n = epoll_wait(t->epoll, events, 64, 5);

        for (int i = 0; i < n; i++) {
            unsigned conn = events[i].data.u32;

            if (events[i].events & ~(uint32_t)EPOLLOUT) {
                load_conn_receive(&t->conns[conn], on_reply, t);
            }
            send_queued(t, conn);
        }
        settle_windows(t);
    }
    settle_windows(t);
    return NULL;
}

static void add_conn(LoadThread *t, unsigned disk)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = t->n_conns};
    LoadConn *c = &t->conns[t->n_conns];
    uint64_t need = mode == MODE_CHAIN
                        ? (uint64_t)opt.slots * (uint64_t)opt.chains * (uint64_t)opt.block
                        : (uint64_t)opt.block;

    load_conn_open(c, opt.socket, opt.exports[disk], t->reply_bytes);
    if (c->size < need) {
        load_die("export '%s' has %" PRIu64 " bytes, the load needs %" PRIu64, opt.exports[disk],
                 c->size, need);
    }
    t->disk_of_conn[t->n_conns] = disk;
    if (epoll_ctl(t->epoll, EPOLL_CTL_ADD, c->fd, &e) < 0) {
        load_die("epoll_ctl: %s", strerror(errno));
    }
    t->n_conns++;
}

/* Connections and request slots of one thread. */
static void make_thread(LoadThread *t, unsigned index)
{
    unsigned n_threads = (unsigned)opt.threads, all_conns = n_disks * (unsigned)opt.connections;

    t->index = index;
    t->random = 0x9e3779b97f4a7c15u * (index + 1);
    t->epoll = epoll_create1(EPOLL_CLOEXEC);
    t->conns = g_new0(LoadConn, all_conns);
    t->disk_of_conn = g_new0(unsigned, all_conns);
    t->payload = g_malloc0((size_t)opt.block);
    for (int i = 0; i < opt.block; i++) {
        t->payload[i] = (char)next_random(t);
    }
    if (mode == MODE_CHAIN) {
        t->flights = g_new0(Flight, (gsize)opt.chains);
        t->reply_bytes = g_new0(uint32_t, (gsize)opt.chains);
        for (unsigned d = 0; d < n_disks; d++) {
            add_conn(t, d);
        }
        for (unsigned c = index; c < (unsigned)opt.chains; c += n_threads) {
            t->flights[t->n_flights++].chain = c;
        }
        return;
    }
    t->flights = g_new0(Flight, (gsize)all_conns * (gsize)opt.depth);
    t->reply_bytes = g_new0(uint32_t, (gsize)all_conns * (gsize)opt.depth);
    for (unsigned i = index; i < all_conns; i += n_threads) {
        for (int d = 0; d < opt.depth; d++) {
            t->flights[t->n_flights++].conn = t->n_conns;
        }
        add_conn(t, i % n_disks);
    }
}

/* ---- commands ---- */

static void begin_window(const char *name)
{
    unsigned w = atomic_load(&n_windows);

    if (w == MAX_WINDOWS || (w > 0 && !atomic_load(&windows[w - 1].end))) {
        load_die(w == MAX_WINDOWS ? "too many windows" : "a window is open already");
    }
    g_strlcpy(windows[w].name, name, sizeof windows[w].name);
    load_numbers(completed, windows[w].completed);
    windows[w].cpu_begin = cpu_seconds();
    windows[w].begin = load_now();
    atomic_store_explicit(&n_windows, w + 1, memory_order_release);
    printf("{\"begun\": \"%s\"}\n", name);
    fflush(stdout);
}

static void end_window(void)
{
    unsigned w = atomic_load(&n_windows);
    g_autofree Stats *sum = g_new0(Stats, 1);
    uint64_t sent[MAX_CHAINS], now;

    if (w == 0 || atomic_load(&windows[w - 1].end)) {
        load_die("no window is open");
    }
    w--;
    load_numbers(submitted, sent);
    windows[w].cpu_end = cpu_seconds();
    now = load_now();
    atomic_store(&windows[w].end, now);
    for (int i = 0; i < opt.threads; i++) {
        while (atomic_load_explicit(&threads[i].settled, memory_order_acquire) <= w) {
            g_usleep(500);
        }
        if (threads[i].windows[w]) {
            stats_merge(sum, threads[i].windows[w]);
        }
    }
    g_mutex_lock(&output);
    printf("{\"window\": \"%s\", \"max_at_s\": %.6f, ", windows[w].name,
           sum->count ? ((double)sum->max_at_ns - (double)windows[w].begin) / 1e9 : 0);
    print_stats(sum, (double)(now - windows[w].begin) / 1e9,
                windows[w].cpu_end - windows[w].cpu_begin);
    print_numbers("completed", windows[w].completed);
    print_numbers("submitted", sent);
    printf("}\n");
    fflush(stdout);
    g_mutex_unlock(&output);
}

/* One line of input; false: stop. */
static bool obey(char *line)
{
    g_strchomp(line);
    if (g_str_has_prefix(line, "begin ")) {
        begin_window(line + 6);
    } else if (strcmp(line, "end") == 0) {
        end_window();
    } else if (strcmp(line, "stop") == 0) {
        return false;
    } else if (line[0]) {
        load_die("unknown command: %s", line);
    }
    return true;
}

static void command_loop(uint64_t started)
{
    char buffer[4096];
    size_t used = 0;

    for (;;) {
        struct pollfd p = {.fd = 0, .events = POLLIN};
        int timeout = -1;
        ssize_t got;
        char *end;

        if (opt.seconds > 0) {
            double left = opt.seconds - (double)(load_now() - started) / 1e9;

            if (left <= 0) {
                return;
            }
            timeout = (int)(left * 1000) + 1;
        }
        if (poll(&p, 1, timeout) <= 0) {
            continue;
        }
        got = read(0, buffer + used, sizeof buffer - 1 - used);
        if (got <= 0) {
            if (opt.seconds > 0) { /* no controller: the time is the limit */
                g_usleep(
                    (gulong)(MAX(opt.seconds - (double)(load_now() - started) / 1e9, 0) * 1e6));
            }
            return;
        }
        used += (size_t)got;
        buffer[used] = '\0';
        while ((end = strchr(buffer, '\n'))) {
            *end = '\0';
            if (!obey(buffer)) {
                return;
            }
            used -= (size_t)(end + 1 - buffer);
            memmove(buffer, end + 1, used + 1);
        }
        if (used == sizeof buffer - 1) {
            load_die("a command is too long");
        }
    }
}

/* ---- start ---- */

static void parse_options(int argc, char **argv)
{
    const GOptionEntry entries[] = {
        {"socket", 0, 0, G_OPTION_ARG_FILENAME, &opt.socket, "Unix socket of the NBD server",
         "PATH"},
        {"export", 0, 0, G_OPTION_ARG_STRING_ARRAY, &opt.exports, "an export; repeat for each disk",
         "NAME"},
        {"mode", 0, 0, G_OPTION_ARG_STRING, &opt.mode_name, "read, write or chain", "MODE"},
        {"depth", 0, 0, G_OPTION_ARG_INT, &opt.depth, "requests under way on each connection (1)",
         "N"},
        {"connections", 0, 0, G_OPTION_ARG_INT, &opt.connections, "connections to each disk (1)",
         "N"},
        {"block", 0, 0, G_OPTION_ARG_INT, &opt.block, "bytes of a request (4096)", "BYTES"},
        {"range", 0, 0, G_OPTION_ARG_INT64, &opt.range, "part of each disk that is used (all)",
         "BYTES"},
        {"sequential", 0, 0, G_OPTION_ARG_NONE, &opt.sequential, "rising offsets", NULL},
        {"threads", 0, 0, G_OPTION_ARG_INT, &opt.threads, "threads (1)", "N"},
        {"chains", 0, 0, G_OPTION_ARG_INT, &opt.chains, "chain: dependent writers (8)", "N"},
        {"slots", 0, 0, G_OPTION_ARG_INT, &opt.slots,
         "chain: records that each has on each disk (64)", "N"},
        {"flush-every", 0, 0, G_OPTION_ARG_INT, &opt.flush_every,
         "chain: flush after so many records (never)", "N"},
        {"seconds", 0, 0, G_OPTION_ARG_DOUBLE, &opt.seconds, "end after so long", "S"},
        {"expect-loss", 0, 0, G_OPTION_ARG_NONE, &opt.expect_loss,
         "a lost connection ends the load, with its totals", NULL},
        {0},
    };
    g_autoptr(GOptionContext) context = g_option_context_new("- load on NBD exports");
    g_autoptr(GError) err = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &err)) {
        load_die("%s", err->message);
    }
    if (!opt.socket || !opt.exports || !opt.mode_name || argc > 1) {
        load_die("--socket, --export and --mode are needed, and nothing without an option");
    }
    mode = strcmp(opt.mode_name, "read") == 0    ? MODE_READ
           : strcmp(opt.mode_name, "write") == 0 ? MODE_WRITE
                                                 : MODE_CHAIN;
    if (mode == MODE_CHAIN && strcmp(opt.mode_name, "chain") != 0) {
        load_die("unknown mode: %s", opt.mode_name);
    }
    n_disks = g_strv_length(opt.exports);
    if (opt.depth < 1 || opt.depth > 1024 || opt.block < 512 || opt.block > 128 * 1024 ||
        opt.threads < 1 || opt.threads > 64 || opt.chains < 1 || opt.chains > MAX_CHAINS ||
        opt.slots < 1 || opt.connections < 1 || opt.connections > 64 || opt.range < 0 ||
        opt.flush_every < 0) {
        load_die("an option is out of range");
    }
    if (mode == MODE_CHAIN && sizeof(Record) + (size_t)opt.chains * 8 + 4 > (size_t)opt.block) {
        load_die("--block is too small for so many chains");
    }
}

int main(int argc, char **argv)
{
    g_autofree Stats *sum = g_new0(Stats, 1);
    unsigned long first = 0;
    uint64_t started;

    parse_options(argc, argv);
    threads = g_new0(LoadThread, (gsize)opt.threads);
    for (int i = 0; i < opt.threads; i++) {
        make_thread(&threads[i], (unsigned)i);
        first += threads[i].n_flights;
    }
    started = load_now();
    for (int i = 0; i < opt.threads; i++) {
        threads[i].thread = g_thread_new("load", run_thread, &threads[i]);
    }
    while (atomic_load(&n_done) < first) {
        g_usleep(500);
    }
    printf("{\"ready\": true}\n");
    fflush(stdout);
    command_loop(started);
    atomic_store(&stop, true);
    for (int i = 0; i < opt.threads; i++) {
        g_thread_join(threads[i].thread);
        stats_merge(sum, &threads[i].total);
    }
    print_total(sum, (double)(load_now() - started) / 1e9, false);
    for (int i = 0; i < opt.threads; i++) {
        for (unsigned c = 0; c < threads[i].n_conns; c++) {
            load_conn_close(&threads[i].conns[c]);
        }
        for (unsigned w = 0; w < MAX_WINDOWS; w++) {
            g_free(threads[i].windows[w]);
        }
        close(threads[i].epoll);
        g_free(threads[i].conns);
        g_free(threads[i].disk_of_conn);
        g_free(threads[i].flights);
        g_free(threads[i].reply_bytes);
        g_free(threads[i].payload);
    }
    g_free(threads);
    g_strfreev(opt.exports);
    g_free(opt.socket);
    g_free(opt.mode_name);
    return 0;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Helpers for tests of drivers; see node-test.h.
 */
#include "node-test.h"
#include "qapi-types.h"
#include "util/rcu.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char *dir;
static GPtrArray *files;
static IOThread *threads[2];
static TestLoop use;

static int count_descriptors(void)
{
    GDir *d = g_dir_open("/proc/self/fd", 0, NULL);
    int n = 0;

    while (g_dir_read_name(d)) {
        n++;
    }
    g_dir_close(d);
    return n;
}

void node_test_init(void)
{
    g_autoptr(Error) err = NULL;

    dir = g_dir_make_tmp("cutpoint-test-XXXXXX", NULL);
    g_assert_nonnull(dir);
    files = g_ptr_array_new_with_free_func(g_free);
    if (geteuid() == 0) {
        g_assert_cmpint(chown(dir, 65534, 65534), ==, 0);
        g_assert_cmpint(setresgid(65534, 65534, 65534), ==, 0);
        g_assert_cmpint(setresuid(65534, 65534, 65534), ==, 0);
    }
    rcu_init_process();
    loop_control_init();
    driver_register(&driver_file);
    driver_register(&driver_nbd);
    driver_register(&driver_raw);
    driver_register(&driver_qcow2);
    driver_register(&driver_null_co);
    driver_register(&driver_null_aio);
#ifdef CONFIG_TEST_DRIVERS
    driver_register(&driver_simdisk);
#endif
    for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++) {
        threads[i] = iothread_new(i ? "test1" : "test0", &err);
        g_assert_nonnull(threads[i]);
    }
}

void node_test_end(void)
{
    const char *const argv[] = {"rm", "-rf", dir, NULL};

    for (unsigned i = 0; i < G_N_ELEMENTS(threads); i++) {
        iothread_free(threads[i]);
    }
    test_spawn(argv, NULL);
    g_ptr_array_free(files, true);
    g_free(dir);
}

const char *node_test_dir(void)
{
    return dir;
}

const char *node_test_file(const char *name)
{
    char *file = g_build_filename(dir, name, NULL);

    g_ptr_array_add(files, file);
    return file;
}

/* ---- bodies ---- */

typedef struct Body {
    void (*fn)(void);
    GMainLoop *loop;
    int before, after; /* descriptors */
} Body;

static void coroutine_fn run_body(void *opaque)
{
    Body *b = opaque;

    b->before = count_descriptors();
    b->fn();
    node_wait_all_closed();
    b->after = count_descriptors();
    g_main_loop_quit(b->loop);
}

static void in_coroutine(gconstpointer fn)
{
    Body b = {.loop = g_main_loop_new(NULL, false)};
    GPtrArray *left;

    memcpy(&b.fn, &fn, sizeof(fn));
    use = TEST_CONTROL;
    co_spawn(loop_control(), run_body, &b);
    g_main_loop_run(b.loop);
    g_main_loop_unref(b.loop);
    left = node_list();
    g_assert_cmpint(left->len, ==, 0);
    g_ptr_array_free(left, true);
    g_assert_cmpint(b.after, ==, b.before);
}

void node_test_add(const char *path, void coroutine_fn (*body)(void))
{
    gconstpointer data;

    memcpy(&data, &body, sizeof(data));
    g_test_add_data_func(path, data, in_coroutine);
}

Loop *test_loop(TestLoop loop)
{
    return loop == TEST_CONTROL ? loop_control() : iothread_loop(threads[loop - TEST_THREAD_0]);
}

void node_test_use(TestLoop loop)
{
    use = loop;
}

void coroutine_fn node_test_on_each_loop(void coroutine_fn (*body)(void))
{
    for (use = TEST_CONTROL; use <= TEST_THREAD_1; use++) {
        body();
    }
    use = TEST_CONTROL;
}

/* ---- nodes and edges ---- */

static Node *coroutine_fn open_json(const char *fmt, va_list ap, Error **errp)
{
    g_autofree char *text = g_strdelimit(g_strdup_vprintf(fmt, ap), "'", '"');
    struct json_object *o = json_tokener_parse(text);
    g_autoptr(BlockdevOptions) options = NULL;
    bool ok;

    g_assert_nonnull(o);
    ok = qapi_parse_BlockdevOptions(o, &options, errp);
    json_object_put(o);
    return ok ? node_open(options, 0, NULL, errp) : NULL;
}

Node *coroutine_fn node_test_open(const char *fmt, ...)
{
    g_autoptr(Error) err = NULL;
    va_list ap;
    Node *n;

    va_start(ap, fmt);
    n = open_json(fmt, ap, &err);
    va_end(ap);
    if (!n) {
        g_error("%s: %s", fmt, err->message);
    }
    return n;
}

void coroutine_fn node_test_refused(const char *text, const char *fmt, ...)
{
    g_autoptr(Error) err = NULL;
    va_list ap;
    Node *n;

    va_start(ap, fmt);
    n = open_json(fmt, ap, &err);
    va_end(ap);
    g_assert_null(n);
    g_assert_cmpstr(err->message, ==, text);
    g_assert_cmpint(err->cls, ==, ERROR_CLASS_GENERIC_ERROR);
}

static char *describe(void *opaque)
{
    (void)opaque;
    return g_strdup("a test");
}

const EdgeOwner node_test_owner = {.describe = describe, .name = describe};

Edge *coroutine_fn node_test_attach(Node *n, unsigned perm, unsigned shared)
{
    g_autoptr(Error) err = NULL;
    Edge *e = edge_attach(n, NULL, &node_test_owner, NULL, "root", EDGE_ROOT, perm, shared, &err);

    if (!e) {
        g_error("%s: %s", n->name, err->message);
    }
    return e;
}

/* ---- requests ---- */

typedef struct Call {
    enum { READ, WRITE, ZERO, DISCARD, FLUSH, TRUNCATE, STATUS } op;
    Edge *edge;
    uint64_t offset, len;
    void *buf;
    unsigned flags;
    uint64_t *ret_len;
    HostOffset map;
    int ret;
    CoGroup done;
} Call;

static void coroutine_fn call_main(void *opaque)
{
    Call *c = opaque;
    Request r;

    request_begin(&r, c->op == READ || c->op == STATUS ? REQUEST_READ
                      : c->op == FLUSH                 ? REQUEST_FLUSH
                                                       : REQUEST_WRITE);
    switch (c->op) {
    case READ:
        c->ret = edge_pread(c->edge, &r, guest(c->offset), c->buf, c->len, c->flags);
        break;
    case WRITE:
        c->ret = edge_pwrite(c->edge, &r, guest(c->offset), c->buf, c->len, c->flags);
        break;
    case ZERO:
        c->ret = edge_pwrite_zeroes(c->edge, &r, guest(c->offset), c->len, c->flags);
        break;
    case DISCARD:
        c->ret = edge_pdiscard(c->edge, &r, guest(c->offset), c->len);
        break;
    case FLUSH:
        c->ret = edge_flush(c->edge, &r);
        break;
    case TRUNCATE:
        c->ret = edge_truncate(c->edge, &r, c->len, true);
        break;
    case STATUS:
        c->ret =
            edge_block_status(c->edge, &r, guest(c->offset), c->len, 0, true, c->ret_len, &c->map);
        break;
    }
    request_end(&r);
    co_group_done(&c->done);
}

static int coroutine_fn call(Call *c)
{
    co_group_init(&c->done);
    co_group_add(&c->done, 1);
    co_spawn(test_loop(use), call_main, c);
    co_group_wait(&c->done);
    co_group_destroy(&c->done);
    return c->ret;
}

int coroutine_fn test_write(Edge *e, uint64_t offset, const void *buf, size_t len)
{
    return call(&(Call){.op = WRITE, .edge = e, .offset = offset, .buf = (void *)buf, .len = len});
}

int coroutine_fn test_read(Edge *e, uint64_t offset, void *buf, size_t len)
{
    return call(&(Call){.op = READ, .edge = e, .offset = offset, .buf = buf, .len = len});
}

int coroutine_fn test_fill(Edge *e, uint64_t offset, uint8_t byte, size_t len)
{
    g_autofree uint8_t *buf = g_malloc(MAX(len, 1));

    memset(buf, byte, len);
    return test_write(e, offset, buf, len);
}

int coroutine_fn test_zero(Edge *e, uint64_t offset, uint64_t len, unsigned flags)
{
    return call(&(Call){.op = ZERO, .edge = e, .offset = offset, .len = len, .flags = flags});
}

int coroutine_fn test_discard(Edge *e, uint64_t offset, uint64_t len)
{
    return call(&(Call){.op = DISCARD, .edge = e, .offset = offset, .len = len});
}

int coroutine_fn test_flush(Edge *e)
{
    return call(&(Call){.op = FLUSH, .edge = e});
}

int coroutine_fn test_truncate(Edge *e, uint64_t size)
{
    return call(&(Call){.op = TRUNCATE, .edge = e, .len = size});
}

int coroutine_fn test_status(Edge *e, uint64_t offset, uint64_t len, uint64_t *ret_len,
                             uint64_t *ret_map)
{
    Call c = {.op = STATUS, .edge = e, .offset = offset, .len = len, .ret_len = ret_len};

    call(&c);
    if (ret_map) {
        *ret_map = c.map.v;
    }
    return c.ret;
}

void coroutine_fn test_expect(Edge *e, uint64_t offset, uint8_t byte, size_t len)
{
    g_autofree uint8_t *buf = g_malloc(len);

    memset(buf, ~byte, len);
    g_assert_cmpint(test_read(e, offset, buf, len), ==, 0);
    for (size_t i = 0; i < len; i++) {
        if (buf[i] != byte) {
            g_error("byte %zu of the %zu at %" G_GUINT64_FORMAT " is %#x, not %#x", i, len, offset,
                    buf[i], byte);
        }
    }
}

int test_spawn(const char *const *argv, char **ret_err)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *out = NULL, *errors = NULL;
    int status;

    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &out, &errors,
                      &status, &err)) {
        g_error("%s: %s", argv[0], err->message);
    }
    if (ret_err) {
        *ret_err = g_steal_pointer(&errors);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qcow2: images of qemu-img read and written, images of ours judged by qemu-img.
 */
#include "qcow2-test.h"
#include <string.h>

static char *describe(void *opaque)
{
    (void)opaque;
    return g_strdup("a test");
}

static const EdgeOwner creator = {.describe = describe, .name = describe};

static Node *coroutine_fn open_image(const char *image, const char *options)
{
    return node_test_open("{'driver': 'qcow2', 'node-name': 'q', 'discard': 'unmap'%s, "
                          "'file': {'driver': 'file', 'filename': '%s'}}",
                          options, image);
}

static void coroutine_fn close_image(Node *n, Edge *e)
{
    if (e) {
        edge_detach(e);
    }
    node_unref(n);
    node_wait_all_closed();
}

/* ---- reading what others made ---- */

static const char *make_source(uint64_t size)
{
    const char *file = node_test_file("source.raw");
    g_autofree uint8_t *data = g_malloc0(size);
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);

    /* Runs of text, of noise, and of nothing. */
    for (uint64_t at = 0; at < size;) {
        uint64_t len = MIN(size - at, (uint64_t)g_rand_int_range(rand, 512, 300000));
        int kind = g_rand_int_range(rand, 0, 3);

        for (uint64_t i = 0; kind && i < len; i++) {
            data[at + i] = kind == 1 ? (uint8_t) "qcow2 "[i % 6] : (uint8_t)g_rand_int(rand);
        }
        at += len;
    }
    g_assert_true(g_file_set_contents(file, (char *)data, size, NULL));
    return file;
}

static void coroutine_fn read_foreign(void)
{
    static const char *const options[] = {
        "-o compat=0.10",
        "-o compat=1.1",
        "-o cluster_size=512",
        "-o cluster_size=4k",
        "-o cluster_size=2M",
        "-o refcount_bits=1",
        "-o refcount_bits=2",
        "-o refcount_bits=4",
        "-o refcount_bits=8",
        "-o refcount_bits=32",
        "-o refcount_bits=64",
        "-o lazy_refcounts=on",
        "-o preallocation=metadata",
        "-c",
        "-c -o compat=0.10",
        "-c -o cluster_size=512",
        "-c -o cluster_size=2M",
        "-c -o compression_type=zstd",
        "-c -o compression_type=zstd,cluster_size=4k",
        "-o extended_l2=on",
        "-c -o extended_l2=on,cluster_size=16k",
    };
    const char *source = make_source(5 * 1024 * 1024 + 512),
               *image = node_test_file("foreign.qcow2");
    Model m = {0};

    for (unsigned i = 0; i < G_N_ELEMENTS(options); i++) {
        Fuzz f = {.model = &m, .workers = 4, .requests = 60, .ops = FUZZ_ZERO | FUZZ_FLUSH};
        Node *n;
        Edge *e;

        model_load(&m, source, "raw");
        shell("qemu-img convert -f raw -O qcow2 %s '%s' '%s'", options[i], source, image);
        n = open_image(image, ", 'read-only': true");
        e = node_test_attach(n, PERM_CONSISTENT_READ, PERM_ALL);
        model_compare(e, &m);
        close_image(n, e);

        /* And written: compressed and preallocated clusters are replaced. */
        n = open_image(image, "");
        e = node_test_attach(n, QCOW2_RW, PERM_ALL);
        f.edge = e;
        f.seed = i;
        fuzz_run(&f);
        model_compare(e, &m);
        close_image(n, e);
        g_test_message("%s", options[i]);
        model_judge(image, &m);
        model_clear(&m);
    }
}

/* ---- internal snapshots ---- */

static void coroutine_fn snapshots(void)
{
    const char *source = make_source(3 * 1024 * 1024), *image = node_test_file("snap.qcow2");
    static const char *const options[] = {
        "", "-o cluster_size=512", "-o cluster_size=4k,refcount_bits=2", "-c", "-o extended_l2=on"};
    Model m = {0}, before = {0};

    for (unsigned i = 0; i < G_N_ELEMENTS(options); i++) {
        Fuzz f = {.model = &m, .workers = 4, .requests = 150, .seed = 99 + i};
        Node *n;

        f.ops = FUZZ_ZERO | FUZZ_FLUSH | FUZZ_DISCARD | FUZZ_TINY;
        model_load(&m, source, "raw");
        model_load(&before, source, "raw");
        shell("qemu-img convert -f raw -O qcow2 %s '%s' '%s' && qemu-img snapshot -c one '%s'",
              options[i], source, image, image);
        n = open_image(image, "");
        f.edge = node_test_attach(n, QCOW2_RW, PERM_ALL);
        f.cluster = i == 1 ? 512 : i == 2 ? 4096 : 65536;
        fuzz_run(&f);
        model_compare(f.edge, &m);
        close_image(n, f.edge);
        model_judge(image, &m);
        shell("qemu-img snapshot -a one '%s'", image);
        model_judge(image, &before);
        shell("qemu-img snapshot -d one '%s'", image);
        model_judge(image, &before);
        model_clear(&m);
        model_clear(&before);
    }
}

/* ---- random requests on images of any kind ---- */

typedef struct Case {
    const char *options; /* of qemu-img create; NULL: created by us */
    uint64_t cluster;
    const char *open;
    bool backing;
    bool v2;
} Case;

static void coroutine_fn create_own(const char *image, const CreateSpec *spec)
{
    g_autoptr(Error) err = NULL;
    Node *file;
    Edge *e;

    g_assert_true(g_file_set_contents(image, "", 0, NULL));
    file = node_test_open("{'driver': 'file', 'filename': '%s'}", image);
    e = edge_attach(file, NULL, &creator, NULL, "root", EDGE_ROOT, QCOW2_RW, PERM_ALL, &err);
    g_assert_nonnull(e);
    if (!driver_qcow2.create(e, spec, &err)) {
        g_error("%s", err->message);
    }
    close_image(file, e);
}

static void coroutine_fn fuzz_case(const Case *c, unsigned i)
{
    const char *image = node_test_file("fuzz.qcow2"), *base = node_test_file("fuzz-base.qcow2");
    uint64_t size = 6 * 1024 * 1024 + 3 * 512;
    Fuzz f = {.workers = 8,
              .requests = 250,
              .cluster = c->cluster,
              .seed = 1 + i,
              .discard_shows_backing = c->v2 && c->backing};
    Model m = {0};
    Node *n;

    f.ops = FUZZ_ZERO | FUZZ_DISCARD | FUZZ_FLUSH | (i % 2 ? FUZZ_TINY : 0);
    if (c->backing) {
        /* Shorter than the overlay. */
        shell("qemu-img convert -f raw -O qcow2 '%s' '%s'", make_source(4 * 1024 * 1024 + 512),
              base);
    }
    if (c->options) {
        shell("qemu-img create -q -f qcow2 %s %s '%s' %" G_GUINT64_FORMAT, c->options,
              c->backing ? "-F qcow2 -b fuzz-base.qcow2" : "", image, size);
    } else {
        create_own(image, &(CreateSpec){
                              .size = size,
                              .cluster_size = c->cluster,
                              .backing_file = c->backing ? base : NULL,
                              .backing_format = c->backing ? "qcow2" : NULL,
                          });
        g_assert_cmpint(shell_status("qemu-img check -q -f qcow2 '%s'", image), ==, 0);
    }
    model_load(&m, image, "qcow2");
    f.model = &m;
    for (unsigned round = 0; round < 2; round++) {
        n = open_image(image, c->open);
        f.edge = node_test_attach(n, QCOW2_RW, PERM_ALL);
        fuzz_run(&f);
        model_compare(f.edge, &m);
        close_image(n, f.edge);
        model_judge(image, &m);
        f.seed += 1000;
    }
    model_clear(&m);
}

static void coroutine_fn fuzz_all(void)
{
    static const Case cases[] = {
        {NULL, 65536, "", false, false},
        {NULL, 65536, "", true, false},
        {NULL, 512, "", true, false},
        {NULL, 4096, "", false, false},
        {NULL, 1 << 21, "", true, false},
        {"-o compat=0.10", 65536, "", false, true},
        {"-o compat=0.10,cluster_size=4k", 4096, "", true, true},
        {"-o cluster_size=512,refcount_bits=64", 512, ", 'cache-size': 65536", false, false},
        {"-o cluster_size=512,refcount_bits=1", 512, ", 'l2-cache-size': 2048", true, false},
        {"-o cluster_size=1k,refcount_bits=2", 1024, ", 'discard-no-unref': true", true, false},
        {"-o cluster_size=4k,refcount_bits=32", 4096, ", 'pass-discard-other': true", true, false},
        {"-o preallocation=metadata", 65536, "", false, false},
        {"-o preallocation=full,cluster_size=8k", 8192, "", false, false},
        {"-o extended_l2=on", 65536, "", true, false},
        {"-o extended_l2=on,cluster_size=16k", 16384, ", 'discard-no-unref': true", true, false},
        {"-o extended_l2=on,preallocation=metadata", 65536, "", false, false},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_test_message("case %u", i);
        fuzz_case(&cases[i], i);
    }
}

int main(int argc, char **argv)
{
    int ret;

    node_test_init();
    g_test_init(&argc, &argv, NULL);
    node_test_add("/qcow2/read-foreign", read_foreign);
    node_test_add("/qcow2/snapshots", snapshots);
    node_test_add("/qcow2/fuzz", fuzz_all);
    ret = g_test_run();
    node_test_end();
    return ret;
}

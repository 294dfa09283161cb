/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qcow2: what is refused when an image is opened, and in which words; corruption that shows later; headers that are changed.
 */
#include "block/format/qcow2/types.h"
#include "qapi-types.h"
#include "qcow2-test.h"
#include <errno.h>
#include <string.h>

static const char *image;

static void poke(uint64_t offset, uint64_t value, unsigned bytes)
{
    g_autofree char *data = NULL;
    gsize len;

    g_assert_true(g_file_get_contents(image, &data, &len, NULL));
    g_assert_cmpuint(offset + bytes, <=, len);
    for (unsigned i = 0; i < bytes; i++) {
        data[offset + i] = value >> (8 * (bytes - 1 - i));
    }
    g_assert_true(g_file_set_contents(image, data, len, NULL));
}

static uint64_t peek(uint64_t offset, unsigned bytes)
{
    g_autofree char *data = NULL;
    uint64_t v = 0;
    gsize len;

    g_assert_true(g_file_get_contents(image, &data, &len, NULL));
    for (unsigned i = 0; i < bytes; i++) {
        v = v << 8 | (uint8_t)data[offset + i];
    }
    return v;
}

#define OPEN                                                                                       \
    "{'driver': 'qcow2', 'node-name': 'q', 'read-only': %s%s, 'file': {'driver': 'file', "         \
    "'filename': '%s'}}"

static Node *coroutine_fn open_image(bool read_only, const char *more)
{
    return node_test_open(OPEN, read_only ? "true" : "false", more, image);
}

static void coroutine_fn refused(bool read_only, const char *text)
{
    node_test_refused(text, OPEN, read_only ? "true" : "false", "", image);
    node_wait_all_closed();
}

static void coroutine_fn close_node(Node *n)
{
    node_unref(n);
    node_wait_all_closed();
}

/* ---- headers ---- */

typedef struct Bad {
    struct {
        uint64_t offset, value;
        unsigned bytes;
    } set[3];
    const char *text;
    bool writable_only; /* reading is fine */
} Bad;

static const Bad bad[] = {
    {{{0, 1, 4}}, "Image is not in qcow2 format", false},
    {{{4, 1, 4}}, "Unsupported qcow2 version 1", false},
    {{{4, 4, 4}}, "Unsupported qcow2 version 4", false},
    {{{20, 8, 4}}, "Unsupported cluster size: 2^8", false},
    {{{20, 22, 4}}, "Unsupported cluster size: 2^22", false},
    {{{20, UINT32_MAX, 4}}, "Unsupported cluster size: 2^4294967295", false},
    {{{100, 96, 4}}, "qcow2 header too short", false},
    {{{100, 70000, 4}}, "qcow2 header exceeds cluster size", false},
    {{{100, 105, 4}}, "qcow2 header length is not a multiple of 8", false},
    {{{96, 7, 4}}, "Reference count entry width too large; may not exceed 64 bits", false},
    {{{32, 3, 4}}, "Unsupported encryption method 3", false},
    {{{32, 1, 4}}, "Unsupported qcow2 feature(s): AES encryption", false},
    {{{32, 2, 4}}, "Unsupported qcow2 feature(s): LUKS encryption", false},
    {{{8, 70000, 8}}, "Invalid backing file offset", false},
    {{{8, 64, 8}}, "Invalid backing file offset", false},
    {{{8, 1024, 8}, {16, 1024, 4}}, "Backing file name too long", false},
    {{{8, 65000, 8}, {16, 1000, 4}}, "Backing file name too long", false},
    {{{112, 0x12345678, 4}, {116, 0x7fffffff, 4}}, "Header extension too large", false},
    {{{112, 0xe2792aca, 4}, {116, 16, 4}}, "Backing format name too long (16 bytes)", false},
    {{{56, 0, 4}}, "Image does not contain a reference count table", false},
    {{{56, 0x1000, 4}}, "Reference count table too large", false},
    {{{48, 0x10001, 8}}, "Reference count table offset invalid", false},
    {{{48, 0, 8}}, "Reference count table offset invalid", false},
    {{{48, 0x7fffffffffff0000, 8}}, "Reference count table offset invalid", false},
    {{{48, 0x100000000, 8}}, "Could not initialize refcount handling: Input/output error", true},
    {{{60, 0x10000000, 4}}, "Snapshot table too large", false},
    {{{60, 1, 4}, {64, 0x1234, 8}}, "Snapshot table offset invalid", false},
    {{{60, 1, 4}, {64, 0x800000000000, 8}},
     "Could not read snapshots: The snapshot table reaches beyond the end of the file",
     false},
    {{{36, 0x8000000, 4}}, "Active L1 table too large", false},
    {{{40, 0x10001, 8}}, "Active L1 table offset invalid", false},
    {{{40, 0, 8}}, "Active L1 table offset invalid", false},
    {{{40, 0x7fffffff0000, 8}}, "Could not read L1 table: Input/output error", false},
    {{{36, 0, 4}}, "L1 table is too small", false},
    {{{24, UINT64_C(1) << 62, 8}}, "Image is too big", false},
    {{{24, UINT64_MAX, 8}}, "Image is too big", false},
    {{{72, 1 << 10, 8}}, "Unsupported qcow2 feature(s): Unknown incompatible feature: 400", false},
    {{{72, 1 << 5 | 1 << 4, 8}},
     "Unsupported qcow2 feature(s): Unknown incompatible feature: 20",
     false},
    {{{72, 1 << 5, 8}, {121, 5, 1}},
     "Unsupported qcow2 feature(s): dirty bit",
     false}, /* its name for bit 5 */
    {{{72, 4, 8}}, "'data-file' is required for this image", false},
    {{{72, 16, 8}, {20, 13, 4}, {24, 1 << 20, 8}},
     "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
     false},
    {{{104, 1, 1}}, "qcow2: Compression type incompatible feature bit must be set", false},
    {{{72, 8, 8}}, "qcow2: Compression type incompatible feature bit must not be set", false},
    {{{72, 8, 8}, {104, 2, 1}}, "qcow2: unknown compression type: 2", false},
    {{{72, 2, 8}}, "qcow2: Image is corrupt; cannot be opened read/write", true},
    {{{72, 1, 8}},
     "qcow2: Image was not closed cleanly and its refcounts need repair; cannot be opened "
     "read/write before 'qemu-img "
     "check -r all'",
     true},
};

static void coroutine_fn headers(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        const Bad *b = &bad[i];
        g_autofree char *before = NULL, *after = NULL;
        gsize len, len_after;

        shell("qemu-img create -q -f qcow2 '%s' 64M", image);
        for (unsigned k = 0; k < 3 && b->set[k].bytes; k++) {
            poke(b->set[k].offset, b->set[k].value, b->set[k].bytes);
        }
        g_assert_true(g_file_get_contents(image, &before, &len, NULL));
        g_test_message("%s", b->text);
        refused(false, b->text);
        if (b->writable_only) {
            close_node(open_image(true, ""));
        } else {
            refused(true, b->text);
        }
        g_assert_true(g_file_get_contents(image, &after, &len_after, NULL));
        g_assert_cmpmem(before, len, after, len_after);
    }
}

static void coroutine_fn truncated(void)
{
    static const struct {
        uint64_t size;
        const char *text;
    } cuts[] = {
        {0, "Image is not in qcow2 format"},
        {7, "Unsupported qcow2 version 0"},
        {50, "qcow2 header too short"},
        {100, "qcow2 header too short"},
        {65536, "Could not read L1 table: Input/output error"},
        {3 * 65536, "Could not read L1 table: Input/output error"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cuts); i++) {
        shell("qemu-img create -q -f qcow2 '%s' 64M", image);
        shell("truncate -s %" G_GUINT64_FORMAT " '%s'", cuts[i].size, image);
        refused(false, cuts[i].text);
        refused(true, cuts[i].text);
    }
}

static void coroutine_fn bitmaps(void)
{
    shell("qemu-img create -q -f qcow2 '%s' 64M && qemu-img bitmap --add '%s' b", image, image);
    g_assert_cmphex(peek(HDR_AUTOCLEAR, 8), ==, AUTOCLEAR_BITMAPS);
    for (int read_only = 0; read_only < 2; read_only++) {
        close_node(open_image(read_only, ""));
        g_assert_cmphex(peek(HDR_AUTOCLEAR, 8), ==, AUTOCLEAR_BITMAPS);
        g_assert_cmpint(shell_status("qemu-img info '%s' | grep -q 'name: b'", image), ==, 0);
        g_assert_cmpint(shell_status("qemu-img info '%s' | grep -q in-use", image), !=, 0);
    }
}

/* Auto-clear bits that nobody knows are cleared before anything is written. */
static void coroutine_fn autoclear(void)
{
    shell("qemu-img create -q -f qcow2 '%s' 64M", image);
    poke(HDR_AUTOCLEAR, 0x80, 8);
    close_node(open_image(true, ""));
    g_assert_cmphex(peek(HDR_AUTOCLEAR, 8), ==, 0x80);
    close_node(open_image(false, ""));
    g_assert_cmphex(peek(HDR_AUTOCLEAR, 8), ==, 0);
}

static void coroutine_fn options(void)
{
    shell("qemu-img create -q -f qcow2 '%s' 64M", image);
    node_test_refused(
        "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time", OPEN,
        "true", ", 'cache-size': 1, 'l2-cache-size': 1, 'refcount-cache-size': 1", image);
    node_test_refused("l2-cache-size may not exceed cache-size", OPEN, "true",
                      ", 'cache-size': 1, 'l2-cache-size': 2", image);
    node_test_refused("refcount-cache-size may not exceed cache-size", OPEN, "true",
                      ", 'cache-size': 1, 'refcount-cache-size': 2", image);
    node_test_refused("Cache sizes must not be negative", OPEN, "true", ", 'l2-cache-size': -1",
                      image);
    node_test_refused("Cache clean interval too big", OPEN, "true",
                      ", 'cache-clean-interval': 5000000000", image);
    node_test_refused(
        "L2 cache entry size must be a power of two between 512 and the cluster size (65536)", OPEN,
        "true", ", 'l2-cache-entry-size': 1000", image);
    node_test_refused(
        "L2 cache entry size must be a power of two between 512 and the cluster size (65536)", OPEN,
        "true", ", 'l2-cache-entry-size': 131072", image);
    node_wait_all_closed();
    close_node(open_image(
        false, ", 'lazy-refcounts': true, 'overlap-check': 'all', 'cache-clean-interval': 1, "
               "'l2-cache-entry-size': 4096, 'pass-discard-snapshot': true"));
}

/* ---- corruption that shows later ---- */

/* An image with data at 0 and at 1 MiB; returns where its first L2 table is. */
static uint64_t make_allocated(const char *opts)
{
    shell("qemu-img create -q -f qcow2 %s '%s' 64M && qemu-io -f qcow2 -c 'write -P 1 0 64k' -c "
          "'write -P 2 1M 64k' "
          "'%s' >/dev/null",
          opts, image, image);
    return peek(peek(HDR_L1_OFFSET, 8), 8) & ENTRY_OFFSET_MASK;
}

static void coroutine_fn expect_corrupt(uint64_t offset, bool by_reading, bool rest_is_fine)
{
    Node *n = open_image(true, "");
    Edge *e = node_test_attach(n, PERM_CONSISTENT_READ, PERM_ALL);
    uint8_t buf[512];

    g_assert_cmpint(test_read(e, offset, buf, sizeof(buf)), ==, by_reading ? -EIO : 0);
    edge_detach(e);
    close_node(n);
    g_assert_cmphex(peek(HDR_INCOMPATIBLE, 8), ==, 0);

    n = open_image(false, "");
    e = node_test_attach(n, QCOW2_RW, PERM_ALL);
    g_assert_cmpint(test_fill(e, offset, 'x', 512), ==, -EIO);
    /* No more writes anywhere; what is whole is still read. */
    g_assert_cmpint(test_fill(e, 1 << 20, 'x', 512), ==, -EIO);
    g_assert_cmpint(test_zero(e, 1 << 20, 65536, REQ_NO_FALLBACK), ==, -EIO);
    if (rest_is_fine) {
        test_expect(e, 1 << 20, 2, 65536);
    }
    edge_detach(e);
    close_node(n);
    g_assert_cmphex(peek(HDR_INCOMPATIBLE, 8), ==, INCOMPAT_CORRUPT);
    refused(false, "qcow2: Image is corrupt; cannot be opened read/write");
}

static void coroutine_fn corruption(void)
{
    uint64_t l1, l2;

    /* an L2 entry that is not aligned */
    l2 = make_allocated("");
    poke(l2, ENTRY_COPIED | 0x50200, 8);
    expect_corrupt(0, true, true);
    /* data in the header, L1, the refcount table, a refcount block, an L2 table */
    for (unsigned i = 0; i < 5; i++) {
        l2 = make_allocated("");
        l1 = peek(HDR_L1_OFFSET, 8);
        poke(l2,
             ENTRY_COPIED | (i == 0   ? 0
                             : i == 1 ? l1
                             : i == 2 ? peek(HDR_REFT_OFFSET, 8)
                             : i == 3 ? peek(peek(HDR_REFT_OFFSET, 8), 8)
                                      : l2),
             8);
        if (i > 0) { /* an offset of 0 is an unallocated cluster */
            expect_corrupt(0, false, true);
        }
    }
    /* an L2 table that is not aligned, or lies in the header, L1, the refcount table or a block */
    for (unsigned i = 0; i < 4; i++) {
        make_allocated("-o cluster_size=4k");
        l1 = peek(HDR_L1_OFFSET, 8);
        poke(l1,
             ENTRY_COPIED | (i == 0   ? 0x5200
                             : i == 1 ? l1
                             : i == 2 ? peek(HDR_REFT_OFFSET, 8)
                                      : peek(peek(HDR_REFT_OFFSET, 8), 8)),
             8);
        /* who only reads need not know the refcounts */
        expect_corrupt(0, i < 2, false);
    }
    /* a refcount block that is not aligned, or lies in L1: found when clusters are allocated */
    for (unsigned i = 0; i < 2; i++) {
        make_allocated("");
        poke(peek(HDR_REFT_OFFSET, 8), i ? peek(HDR_L1_OFFSET, 8) : 0x20200, 8);
        expect_corrupt(8 << 20, false, true);
    }
    /* refcounts that say metadata is free: nothing is written over it */
    for (unsigned c = 0; c < 4; c++) {
        make_allocated("");
        poke(peek(peek(HDR_REFT_OFFSET, 8), 8) + 2 * c, 0, 2);
        expect_corrupt(8 << 20, false, true);
    }
}

/* ---- the name of the backing file ---- */

static void coroutine_fn set_backing(const char *file, const char *format)
{
    g_autoptr(Error) err = NULL;
    g_auto(ImageFacts) facts = {0};
    Node *n = open_image(false, ", 'backing': null");

    if (!driver_qcow2.set_backing_string(n, file, format, &err)) {
        g_error("%s", err->message);
    }
    g_assert_true(driver_qcow2.facts(n, &facts, &err));
    g_assert_cmpstr(facts.backing_file, ==, file);
    g_assert_cmpstr(facts.backing_format, ==, file ? format : NULL);
    close_node(n);
    /* without the backing file, which there is none of */
    g_assert_cmpint(
        shell_status("qemu-img check -q 'json:{\"driver\": \"qcow2\", \"backing\": null, \"file\": "
                     "{\"driver\": \"file\", \"filename\": \"%s\"}}'",
                     image),
        ==, 0);
    if (file) {
        shell("qemu-img info -U '%s' | grep -q 'backing file: %.1000s'", image, file);
    } else {
        g_assert_cmpint(shell_status("qemu-img info -U '%s' | grep -q 'backing file'", image), ==,
                        1);
    }
    if (file && format) {
        shell("qemu-img info -U '%s' | grep -q 'backing file format: %s'", image, format);
    }
    if (peek(HDR_VERSION, 4) == 3 && peek(HDR_CLUSTER_BITS, 4) > 12) {
        shell("grep -q 'raw external data' '%s'", image); /* other extensions are still there */
    }
}

static void coroutine_fn backing_strings(void)
{
    static const char *const opts[] = {"", "-o compat=0.10", "-o cluster_size=4k",
                                       "-o cluster_size=512"};
    g_autofree char *longest = g_strnfill(1000, 'n'), *huge = g_strnfill(1024, 'n');

    for (unsigned i = 0; i < G_N_ELEMENTS(opts); i++) {
        g_autoptr(Error) err = NULL;
        Node *n;

        shell("qemu-img create -q -f qcow2 %s '%s' 1M", opts[i], image);
        set_backing("one.img", "qcow2");
        set_backing("another, longer.img", "raw");
        set_backing("x", NULL);
        if (i != 3) {
            set_backing(longest, "qcow2");
            set_backing("short", "raw");
            set_backing(longest, "raw");
        }
        set_backing(NULL, NULL);
        set_backing("again", "qcow2");

        n = open_image(false, ", 'backing': null");
        g_assert_false(driver_qcow2.set_backing_string(n, huge, "raw", &err));
        g_assert_cmpstr(err->message, ==, "Backing file name too long");
        close_node(n);
    }
}

/* ---- resizing ---- */

static void coroutine_fn growing(void)
{
    static const char *const opts[] = {"-o cluster_size=512", "-o cluster_size=4k", "",
                                       "-o compat=0.10"};
    const char *base = node_test_file("grow-base.raw");
    g_autofree char *data = g_strnfill(3 << 20, 'b');

    g_assert_true(g_file_set_contents(base, data, 3 << 20, NULL));
    for (unsigned i = 0; i < G_N_ELEMENTS(opts); i++) {
        Node *n;
        Edge *e;

        /* The backing file is longer: it must not show. */
        shell("qemu-img create -q -f qcow2 %s -F raw -b '%s' '%s' 1000448", opts[i], base, image);
        n = open_image(false, "");
        e = node_test_attach(n, QCOW2_RW, PERM_ALL);
        g_assert_cmpint(test_fill(e, 1000000, 'x', 448), ==, 0);
        g_assert_cmpint(test_truncate(e, 1000000), ==, -EINVAL);
        if (i == 3) {
            g_assert_cmpint(test_truncate(e, 4 << 20), ==, -ENOTSUP); /* version 2 cannot hide it */
        } else {
            g_assert_cmpint(test_truncate(e, 4 << 20), ==, 0);
            g_assert_cmpuint(atomic_load(&n->size), ==, 4 << 20);
            test_expect(e, 999000, 'b', 1000);
            test_expect(e, 1000000, 'x', 448);
            test_expect(e, 1000448, 0, (4 << 20) - 1000448);
            g_assert_cmpint(test_fill(e, (4 << 20) - 100, 'y', 100), ==, 0);
            g_assert_cmpint(test_truncate(e, i == 0 ? 64 << 20 : UINT64_C(40) << 30), ==, 0);
            g_assert_cmpint(test_fill(e, 60 << 20, 'z', 100), ==, 0);
            g_assert_cmpint(test_truncate(e, UINT64_C(1) << 62), ==, -EFBIG);
        }
        edge_detach(e);
        close_node(n);
        g_assert_cmpint(shell_status("qemu-img check -q -f qcow2 '%s'", image), ==, 0);
        if (i < 3) {
            shell("qemu-io -f qcow2 -c 'read -P 0 1000448 3000000' -c 'read -P 0x78 1000000 448' "
                  "-c 'read -P 0x79 "
                  "4194204 100' -c 'read -P 0x7a 62914560 100' '%s' >/dev/null",
                  image);
        }
    }
}

static void coroutine_fn shrinking(void)
{
    static const char *const opts[] = {"-o cluster_size=512", "", "-o compat=0.10"};
    const uint64_t from = 8 << 20, to = (3 << 20) + 512;

    for (unsigned i = 0; i < G_N_ELEMENTS(opts); i++) {
        Node *n;
        Edge *e;

        shell("qemu-img create -q -f qcow2 %s '%s' 8M", opts[i], image);
        n = open_image(false, "");
        e = node_test_attach(n, QCOW2_RW, PERM_ALL);
        g_assert_cmpint(test_fill(e, 0, 'x', from), ==, 0);
        g_assert_cmpint(test_truncate(e, 1000), ==, -EINVAL);
        g_assert_cmpint(test_truncate(e, to), ==, 0);
        g_assert_cmpuint(atomic_load(&n->size), ==, to);
        g_assert_cmpint(test_fill(e, to, 'y', 512), ==, -EIO);
        g_assert_cmpint(test_truncate(e, from), ==, 0);
        test_expect(e, 0, 'x', to);
        test_expect(e, to, 0, from - to);
        g_assert_cmpint(test_truncate(e, 0), ==, 0);
        g_assert_cmpint(test_truncate(e, 1 << 20), ==, 0);
        test_expect(e, 0, 0, 1 << 20);
        edge_detach(e);
        close_node(n);
        g_assert_cmpint(shell_status("qemu-img check -q -f qcow2 '%s'", image), ==, 0);
        shell("qemu-io -f qcow2 -c 'read -P 0 0 1M' '%s' >/dev/null", image);
    }
}

/* ---- creating ---- */

static char *describe(void *opaque)
{
    (void)opaque;
    return g_strdup("a test");
}

static const EdgeOwner creator = {.describe = describe, .name = describe};

/* NULL: success. */
static char *coroutine_fn create(const CreateSpec *spec)
{
    g_autoptr(Error) err = NULL;
    Node *file;
    Edge *e;

    g_assert_true(g_file_set_contents(image, "", 0, NULL));
    file = node_test_open("{'driver': 'file', 'filename': '%s'}", image);
    e = edge_attach(file, NULL, &creator, NULL, "root", EDGE_ROOT, QCOW2_RW, PERM_ALL, &err);
    g_assert_nonnull(e);
    (void)driver_qcow2.create(e, spec, &err);
    edge_detach(e);
    close_node(file);
    return err ? g_strdup(err->message) : NULL;
}

static void coroutine_fn creation(void)
{
    static const uint64_t sizes[] = {0, 512, 1 << 20, UINT64_C(1) << 36, UINT64_C(1) << 37};
    g_autofree char *too_long = g_strnfill(1024, 'n'), *name = g_strnfill(1023, 'n');
    static const struct {
        CreateSpec spec;
        const char *text;
    } wrong[] = {
        {{.size = UINT64_C(1) << 56},
         "The image size is too large for file format 'qcow2' (try using a larger cluster size)"},
        {{.size = UINT64_MAX},
         "The image size is too large for file format 'qcow2' (try using a larger cluster size)"},
        {{.size = UINT64_C(1) << 38, .cluster_size = 512},
         "The image size is too large for file format 'qcow2' (try using a larger cluster size)"},
        {{.size = 512, .cluster_size = 500},
         "Cluster size must be a power of two between 512 and 2048k"},
        {{.size = 512, .cluster_size = 256},
         "Cluster size must be a power of two between 512 and 2048k"},
        {{.size = 512, .cluster_size = 4 << 20},
         "Cluster size must be a power of two between 512 and 2048k"},
    };
    g_autofree char *err = NULL;

    for (unsigned i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autofree char *text = create(&wrong[i].spec);

        g_assert_cmpstr(text, ==, wrong[i].text);
        shell("test ! -s '%s'", image);
    }
    err = create(&(CreateSpec){.size = 512, .backing_file = too_long, .backing_format = "raw"});
    g_assert_true(g_str_has_prefix(err, "Could not assign backing file 'nnn"));
    g_assert_null(
        create(&(CreateSpec){.size = 512, .backing_file = name, .backing_format = "raw"}));
    shell("qemu-img info -U '%s' | grep -q 'backing file: nnn'", image);

    for (unsigned bits = 9; bits <= 21; bits++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(sizes); i++) {
            g_assert_null(
                create(&(CreateSpec){.size = sizes[i], .cluster_size = UINT64_C(1) << bits}));
            g_assert_cmpint(shell_status("qemu-img check -q -f qcow2 '%s'", image), ==, 0);
            shell("qemu-img info -U --output=json '%s' | grep -q '\"virtual-size\": "
                  "%" G_GUINT64_FORMAT ",'",
                  image, sizes[i]);
        }
    }
    /* As the field's tools make them. */
    g_assert_null(create(&(CreateSpec){.size = 1000}));
    shell("qemu-img info -U '%s' | grep -q 'virtual size: 1 KiB (1024 bytes)'", image);
    shell("qemu-img info -U '%s' | grep -q 'compat: 1.1'", image);
    shell("qemu-img info -U '%s' | grep -q 'refcount bits: 16'", image);
}

/* ---- facts ---- */

static void coroutine_fn facts(void)
{
    g_auto(ImageFacts) f = {0};
    g_autoptr(Error) err = NULL;
    const ImageInfoSpecificQCow2 *v;
    Node *n;

    shell("qemu-img create -q -f qcow2 -o "
          "lazy_refcounts=on,compression_type=zstd,cluster_size=4k,refcount_bits=8 '%s' 1M",
          image);
    n = open_image(true, "");
    g_assert_true(driver_qcow2.facts(n, &f, &err));
    g_assert_cmpuint(f.cluster_size, ==, 4096);
    g_assert_true(f.has_dirty);
    g_assert_false(f.dirty);
    g_assert_null(f.backing_file);
    v = f.specific->u.qcow2.data;
    g_assert_cmpstr(v->compat, ==, "1.1");
    g_assert_true(v->has_lazy_refcounts && v->lazy_refcounts);
    g_assert_true(v->has_corrupt && !v->corrupt);
    g_assert_true(v->has_extended_l2 && !v->extended_l2);
    g_assert_cmpint(v->refcount_bits, ==, 8);
    g_assert_cmpint(v->compression_type, ==, QCOW2_COMPRESSION_TYPE_ZSTD);
    close_node(n);
}

/* ---- block status ---- */

static void coroutine_fn status(void)
{
    uint64_t len, map;
    Node *n;
    Edge *e;

    shell("qemu-img create -q -f qcow2 '%s' 2G && qemu-io -f qcow2 -c 'write -P 1 64k 128k' -c "
          "'write -z 256k 64k' "
          "-c 'write -c -P 3 512k 64k' -c 'write -c -P 3 576k 64k' '%s' >/dev/null",
          image, image);
    n = open_image(false, "");
    e = node_test_attach(n, QCOW2_RW, PERM_ALL);
    g_assert_cmphex(test_status(e, 0, 1 << 20, &len, NULL), ==, 0);
    g_assert_cmpuint(len, ==, 65536);
    g_assert_cmphex(test_status(e, 65536 + 512, 1 << 20, &len, &map), ==,
                    STATUS_DATA | STATUS_ALLOCATED | STATUS_OFFSET_VALID);
    g_assert_cmpuint(len, ==, 131072 - 512);
    g_assert_cmpuint(map % 65536, ==, 512);
    g_assert_cmphex(test_status(e, 256 << 10, 1 << 20, &len, NULL), ==,
                    STATUS_ZERO | STATUS_ALLOCATED);
    g_assert_cmpuint(len, ==, 65536);
    g_assert_cmphex(test_status(e, 512 << 10, 1 << 20, &len, NULL), ==,
                    STATUS_DATA | STATUS_ALLOCATED | STATUS_COMPRESSED);
    g_assert_cmpuint(len, ==, 131072);
    /* over the ends of L2 tables, to the end of the disk */
    g_assert_cmphex(test_status(e, 1 << 20, UINT64_C(2) << 30, &len, NULL), ==, STATUS_EOF);
    g_assert_cmpuint(len, ==, (UINT64_C(2) << 30) - (1 << 20));
    /* zeroes that keep their place */
    g_assert_cmpint(test_zero(e, 65536, 65536, 0), ==, 0);
    g_assert_cmphex(test_status(e, 65536, 65536, &len, NULL), ==,
                    STATUS_ZERO | STATUS_ALLOCATED | STATUS_OFFSET_VALID);
    edge_detach(e);
    close_node(n);
}

int main(int argc, char **argv)
{
    int ret;

    node_test_init();
    image = node_test_file("open.qcow2");
    g_test_init(&argc, &argv, NULL);
    node_test_add("/qcow2/open/headers", headers);
    node_test_add("/qcow2/open/truncated", truncated);
    node_test_add("/qcow2/open/bitmaps", bitmaps);
    node_test_add("/qcow2/open/autoclear", autoclear);
    node_test_add("/qcow2/open/options", options);
    node_test_add("/qcow2/open/corruption", corruption);
    node_test_add("/qcow2/open/backing-strings", backing_strings);
    node_test_add("/qcow2/open/facts", facts);
    node_test_add("/qcow2/status", status);
    node_test_add("/qcow2/growing", growing);
    node_test_add("/qcow2/shrinking", shrinking);
    node_test_add("/qcow2/creation", creation);
    ret = g_test_run();
    node_test_end();
    return ret;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Images that nobody made: a qcow2 image of any bytes is opened, read, asked for its status, written to, and closed.
 *
 * Nothing may crash, hang or read memory that it should not; what cannot be opened has an error; reads and status go to the end of
 * the disk; what was written without an error is read back.
 *
 * The last byte of the input says how it is opened and what is done; the bytes before it are the image.
 */
#include "block/graph.h"
#include "fuzz-util.h"
#include "qapi-types.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PIECE (64u * 1024)

enum { OPEN_READ_ONLY = 1, DO_ZERO = 2, DO_DISCARD = 4, DO_RESIZE = 8, AT_THE_END = 16 };

typedef struct Input {
    const uint8_t *data;
    size_t size;
} Input;

static char *describe(void *opaque)
{
    (void)opaque;
    return g_strdup("the fuzzer");
}

static const EdgeOwner owner = {.describe = describe, .name = describe};

static Node *coroutine_fn open_image(bool read_only)
{
    g_autofree char *text = g_strdup_printf(
        "{\"driver\": \"qcow2\", \"node-name\": \"q\", \"file\": \"image\", \"backing\": null, "
        "\"discard\": \"unmap\", \"read-only\": %s}",
        read_only ? "true" : "false");
    struct json_object *o = json_tokener_parse(text);
    g_autoptr(BlockdevOptions) options = NULL;
    g_autoptr(Error) err = NULL;
    Node *n;

    g_assert_true(qapi_parse_BlockdevOptions(o, &options, &err));
    json_object_put(o);
    n = node_open(options, 0, NULL, &err);
    g_assert_true(!n == !!err);
    if (err) {
        g_assert_true(g_utf8_validate(err->message, -1, NULL));
    }
    return n;
}

/* The first and the last part of the disk. */
static void coroutine_fn read_some(Edge *e, uint64_t size)
{
    uint8_t *buf = block_try_alloc(PIECE);

    for (uint64_t at = 0; at < size && at < 16 * PIECE; at += PIECE) {
        uint64_t from = at < 8 * PIECE || size < 16 * PIECE ? at : size - (16 * PIECE - at);
        uint64_t len = MIN(PIECE, size - from);
        Request r;

        request_begin(&r, REQUEST_READ);
        g_assert_cmpint(edge_pread(e, &r, guest(from), buf, len, 0), <=, 0);
        request_end(&r);
    }
    free(buf);
}

static void coroutine_fn ask_status(Edge *e, uint64_t size)
{
    uint64_t at = 0;

    for (unsigned i = 0; at < size && i < 1000; i++) {
        uint64_t len = 0;
        Request r;
        int ret, depth;

        request_begin(&r, REQUEST_READ);
        ret = edge_block_status_above(e, &r, guest(at), size - at, 0, &len, &depth);
        request_end(&r);
        if (ret < 0) {
            break;
        }
        g_assert_cmpuint(len, >, 0);
        g_assert_cmpuint(len, <=, size - at);
        at += len;
    }
}

static bool coroutine_fn write_one(Edge *e, uint64_t at, uint64_t len, uint8_t byte, unsigned what)
{
    uint8_t *buf = block_try_alloc(len);
    Request r;
    int ret;

    memset(buf, byte, len);
    request_begin(&r, REQUEST_WRITE);
    if (what & DO_ZERO) {
        ret = edge_pwrite_zeroes(e, &r, guest(at), len, byte & 1 ? REQ_MAY_UNMAP : 0);
    } else if (what & DO_DISCARD) {
        ret = edge_pdiscard(e, &r, guest(at), len);
    } else {
        ret = edge_pwrite(e, &r, guest(at), buf, len, 0);
    }
    request_end(&r);
    free(buf);
    return ret == 0;
}

/* The image may be corrupt so that two places of the disk are one: only the last write is compared. */
static void coroutine_fn write_some(Edge *e, uint64_t size, unsigned what)
{
    uint64_t base = what & AT_THE_END && size > 3 * PIECE ? size - 3 * PIECE : 0;
    uint8_t got[512];
    uint64_t at = 0, len = 0;
    bool written = false;
    Request r;

    for (unsigned i = 0; i < 4; i++) {
        at = base + i * (PIECE / 2 + 512);
        if (at + 512 > size) {
            break;
        }
        len = MIN(size - at, i & 1 ? 512 : PIECE);
        written = write_one(e, at, len, 0x40 + i, i < 3 ? what : 0);
    }
    request_begin(&r, REQUEST_FLUSH);
    (void)edge_flush(e, &r);
    request_end(&r);
    if (written) {
        request_begin(&r, REQUEST_READ);
        if (edge_pread(e, &r, guest(at), got, 512, 0) == 0) {
            g_assert_cmpuint(got[0], ==, 0x43);
            g_assert_cmpuint(got[511], ==, 0x43);
        }
        request_end(&r);
    }
    if (what & DO_RESIZE) {
        request_begin(&r, REQUEST_WRITE);
        (void)edge_truncate(e, &r, size + PIECE, true);
        request_end(&r);
    }
}

static void coroutine_fn body(void *opaque)
{
    const Input *in = opaque;
    uint8_t what = in->data[in->size - 1];
    Node *disk = fuzz_disk_new("image", in->data, in->size - 1), *n;
    g_autoptr(Error) err = NULL;

    n = open_image(what & OPEN_READ_ONLY);
    if (n) {
        unsigned perm =
            PERM_CONSISTENT_READ | (atomic_load(&n->read_only) ? 0 : PERM_WRITE | PERM_RESIZE);
        Edge *e = edge_attach(n, NULL, &owner, NULL, "root", EDGE_ROOT, perm, PERM_ALL, &err);

        if (e) {
            uint64_t size = atomic_load(&n->size);
            ImageFacts facts = {0};

            if (n->driver->facts(n, &facts, NULL)) {
                image_facts_clear(&facts);
            }
            read_some(e, size);
            ask_status(e, size);
            if (perm & PERM_WRITE) {
                write_some(e, size, what);
            }
            edge_detach(e);
        }
        node_unref(n);
    }
    node_unref(disk);
    node_wait_all_closed();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_init();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Input in = {data, size};

    if (size > 0 && size < FUZZ_DISK_MAX) {
        fuzz_run(body, &in);
    }
    return 0;
}

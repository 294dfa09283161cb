/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Recognising an overlay that nobody has written to; include/block/untouched.h says what for.
 *
 * The file is read as it is, not opened as a node: opening for writing might change it.  In doubt the answer is no.
 */
#include "block/untouched.h"
#include "header.h"
#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Header, refcount table and refcount block of an image with the default cluster size; then comes L1, which is zero. */
#define UNFINISHED_BYTES (3 * 65536)

void uuid_from_text(const char *text, uint8_t *ret_16_bytes)
{
    unsigned n = 0;

    memset(ret_16_bytes, 0, 16);
    for (; *text && n < 32; text++) {
        int digit = g_ascii_xdigit_value(*text);

        if (digit >= 0) {
            ret_16_bytes[n / 2] |= n % 2 ? digit : digit << 4;
            n++;
        }
    }
}

/* Reads all of it, or as far as the file goes; -1: error. */
static ssize_t read_at(int fd, uint8_t *buf, size_t len, uint64_t offset)
{
    size_t done = 0;

    while (done < len) {
        ssize_t ret = pread(fd, buf + done, len - done, offset + done);

        if (ret < 0 && errno == EINTR) {
            continue;
        }
        if (ret <= 0) {
            return ret < 0 ? -1 : (ssize_t)done;
        }
        done += ret;
    }
    return done;
}

static bool is_zero(const uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (buf[i]) {
            return false;
        }
    }
    return true;
}

/* No L2 table: nothing is allocated. */
static bool l1_is_empty(int fd, const Qcow2Header *h)
{
    uint64_t at = h->l1_offset.v, end = at + (uint64_t)h->l1_size * 8;
    g_autofree uint8_t *buf = g_malloc(64 * 1024);

    while (at < end) {
        ssize_t len = read_at(fd, buf, MIN(end - at, 64 * 1024), at);

        if (len <= 0 || !is_zero(buf, len)) {
            return len == 0; /* the file ends before: nothing there */
        }
        at += len;
    }
    return true;
}

/* The group's UUID in the first sector, whatever became of the others. */
static bool first_sector_has_group(const uint8_t *buf, size_t len, const uint8_t *uuid)
{
    size_t at;

    if (len < 512 || !header_probe(buf, len)) {
        return false;
    }
    at = get_be32(buf + HDR_HEADER_LENGTH);
    while (at <= 512 - 24) {
        uint32_t type = get_be32(buf + at), size = get_be32(buf + at + 4);

        if (type == EXT_SNAPSHOT_GROUP) {
            return size == 16 && memcmp(buf + at + 8, uuid, 16) == 0;
        }
        if (type == EXT_END || size > 512) {
            return false;
        }
        at += 8 + ((size + 7) & ~7u);
    }
    return false;
}

static bool rest_is_zero(int fd, uint64_t at)
{
    g_autofree uint8_t *buf = g_malloc(64 * 1024);
    ssize_t len;

    while ((len = read_at(fd, buf, 64 * 1024, at)) > 0) {
        if (!is_zero(buf, len)) {
            return false;
        }
        at += len;
    }
    return len == 0;
}

/* What can be found after a crash while it was being made: of header, refcount table and refcount block each sector is there or not;
 * nothing else was ever written. */
static bool is_unfinished(int fd, const uint8_t *buf, size_t len, const uint8_t *uuid)
{
    return (is_zero(buf, MIN(len, 512)) || first_sector_has_group(buf, len, uuid)) &&
           rest_is_zero(fd, UNFINISHED_BYTES);
}

bool image_is_untouched(int fd, const char *group_uuid, bool unfinished)
{
    size_t len = UINT64_C(1) << QCOW2_MAX_CLUSTER_BITS;
    g_autofree uint8_t *buf = g_malloc(len);
    ssize_t have = read_at(fd, buf, len, 0);
    g_autoptr(Error) err = NULL;
    uint8_t uuid[16];
    Qcow2Header h;
    bool yes;

    if (have < 0) {
        return false;
    }
    uuid_from_text(group_uuid, uuid);
    if (unfinished && is_unfinished(fd, buf, have, uuid)) {
        return true;
    }
    header_init(&h);
    yes = header_parse(&h, buf, have, &err) && header_has_group(&h, uuid) && h.nb_snapshots == 0 &&
          l1_is_empty(fd, &h);
    header_clear(&h);
    return yes;
}

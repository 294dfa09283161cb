/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Contents of simulated disks: pages in a hash table, so that large and mostly empty disks cost
 * nothing.
 */
#include "sim-internal.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void sim_image_init(SimImage *i, uint64_t size)
{
    i->size = size;
    i->pages = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
}

void sim_image_clear(SimImage *i)
{
    g_clear_pointer(&i->pages, g_hash_table_destroy);
    i->size = 0;
}

static void put_page(SimImage *i, uint64_t number, uint8_t *page)
{
    gint64 *key = g_new(gint64, 1);

    *key = number;
    g_hash_table_insert(i->pages, key, page);
}

static uint8_t *page_of(const SimImage *i, uint64_t offset)
{
    gint64 number = offset / SIM_PAGE;

    return g_hash_table_lookup(i->pages, &number);
}

void sim_image_copy(SimImage *to, const SimImage *from)
{
    GHashTableIter iter;
    gpointer key, value;

    sim_image_init(to, from->size);
    g_hash_table_iter_init(&iter, from->pages);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        put_page(to, *(gint64 *)key, g_memdup2(value, SIM_PAGE));
    }
}

void sim_image_zero(SimImage *i, uint64_t offset, uint64_t bytes)
{
    uint64_t end = MIN(offset + bytes, i->size);

    while (offset < end) {
        uint64_t in = offset % SIM_PAGE, len = MIN(SIM_PAGE - in, end - offset);
        uint8_t *page = page_of(i, offset);

        if (page && len == SIM_PAGE) {
            gint64 number = offset / SIM_PAGE;

            g_hash_table_remove(i->pages, &number);
        } else if (page) {
            memset(page + in, 0, len);
        }
        offset += len;
    }
}

void sim_image_resize(SimImage *i, uint64_t size)
{
    GHashTableIter iter;
    gpointer key;

    if (size < i->size) {
        sim_image_zero(i, size, MIN(i->size - size, SIM_PAGE - size % SIM_PAGE));
        g_hash_table_iter_init(&iter, i->pages);
        while (g_hash_table_iter_next(&iter, &key, NULL)) {
            if ((uint64_t) * (gint64 *)key * SIM_PAGE >= size) {
                g_hash_table_iter_remove(&iter);
            }
        }
    }
    i->size = size;
}

void sim_image_write(SimImage *i, uint64_t offset, const uint8_t *data, uint64_t bytes)
{
    uint64_t end = MIN(offset + bytes, i->size);

    while (offset < end) {
        uint64_t in = offset % SIM_PAGE, len = MIN(SIM_PAGE - in, end - offset);
        uint8_t *page = page_of(i, offset);

        if (!page) {
            page = g_malloc0(SIM_PAGE);
            put_page(i, offset / SIM_PAGE, page);
        }
        memcpy(page + in, data, len);
        data += len;
        offset += len;
    }
}

void sim_image_read(const SimImage *i, uint64_t offset, uint8_t *buf, uint64_t bytes)
{
    for (uint64_t end = offset + bytes; offset < end;) {
        uint64_t in = offset % SIM_PAGE, len = MIN(SIM_PAGE - in, end - offset);
        const uint8_t *page = page_of(i, offset);

        if (page) {
            memcpy(buf, page + in, len);
        } else {
            memset(buf, 0, len);
        }
        buf += len;
        offset += len;
    }
}

bool sim_image_has_data(const SimImage *i, uint64_t offset, uint64_t bytes, uint64_t *ret_len)
{
    bool data = page_of(i, offset);
    uint64_t end = offset + bytes, pos = offset;

    while (pos < end && !!page_of(i, pos) == data) {
        pos += SIM_PAGE - pos % SIM_PAGE;
    }
    *ret_len = MIN(pos, end) - offset;
    return data;
}

bool sim_image_save(const SimImage *i, const char *path, Error **errp)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    bool ok = fd >= 0 && ftruncate(fd, i->size) == 0;
    GHashTableIter iter;
    gpointer key, value;
    int err = errno;

    g_hash_table_iter_init(&iter, i->pages);
    while (ok && g_hash_table_iter_next(&iter, &key, &value)) {
        uint64_t offset = (uint64_t) * (gint64 *)key * SIM_PAGE;
        size_t len = MIN(SIM_PAGE, i->size - offset);

        ok = pwrite(fd, value, len, offset) == (ssize_t)len;
        err = errno;
    }
    if (fd >= 0 && close(fd) < 0 && ok) {
        ok = false;
        err = errno;
    }
    if (!ok) {
        error_set_errno(errp, err, path, "save", "Could not save a simulated disk to '%s'", path);
    }
    return ok;
}

static bool load_data(SimImage *i, int fd)
{
    uint8_t buf[SIM_PAGE];
    off_t pos = 0;

    while ((pos = lseek(fd, pos, SEEK_DATA)) >= 0) {
        ssize_t n;

        pos -= pos % SIM_PAGE;
        n = pread(fd, buf, sizeof(buf), pos);
        if (n <= 0) {
            return n == 0;
        }
        sim_image_write(i, pos, buf, n);
        pos += SIM_PAGE;
    }
    return errno == ENXIO;
}

bool sim_image_load(SimImage *i, const char *path, Error **errp)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    bool ok = fd >= 0 && fstat(fd, &st) == 0;

    if (ok && (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > SIM_SIZE_MAX)) {
        errno = S_ISREG(st.st_mode) ? EFBIG : EINVAL;
        ok = false;
    }
    if (ok) {
        sim_image_init(i, ((uint64_t)st.st_size + SIM_SECTOR - 1) / SIM_SECTOR * SIM_SECTOR);
        ok = load_data(i, fd);
        if (!ok) {
            int err = errno;

            sim_image_clear(i);
            errno = err;
        }
    }
    if (!ok) {
        error_set_errno(errp, errno, path, "load", "Could not load a simulated disk from '%s'",
                        path);
    }
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

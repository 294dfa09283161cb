/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Guest memory: the table of regions that the front end shares, and the dirty log of live migration.
 *
 * Tables are values: a change makes a new one, which shares the regions that stay.  A queue moves to the new table between two
 * requests; requests that are under way keep the old one, and with it the mappings they do I/O to.
 */
#include "vub-internal.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* ---- regions ---- */

static VubRegion *region_ref(VubRegion *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
    return r;
}

static void region_unref(VubRegion *r)
{
    if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) == 1) {
        vub_fault_unguard(r->map);
        munmap(r->map, r->map_len);
        g_free(r);
    }
}

/* Pages are those of the file: of 4 KiB or larger, whose size st_blksize tells (hugetlbfs). */
static VubRegion *region_map(const VubRegionInfo *info, int fd, Error **errp)
{
    struct stat st;
    uint64_t page, start, len;
    VubRegion *r;
    void *map;

    if (info->size == 0 || info->guest_addr > UINT64_MAX - info->size ||
        info->user_addr > UINT64_MAX - info->size || info->mmap_offset > INT64_MAX - info->size) {
        error_set(errp, ERROR_INVALID, NULL, "vhost-user", "a memory region has no sense");
        return NULL;
    }
    if (fstat(fd, &st) < 0) {
        error_set_errno(errp, errno, NULL, "vhost-user", "a memory region's descriptor");
        return NULL;
    }
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < info->mmap_offset + info->size) {
        error_set(errp, ERROR_INVALID, NULL, "vhost-user",
                  "a memory region does not lie in its file");
        return NULL;
    }
    page = MAX((uint64_t)st.st_blksize, 4096);
    start = info->mmap_offset & ~(page - 1);
    len = (info->mmap_offset - start + info->size + page - 1) & ~(page - 1);
    map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, start);
    if (map == MAP_FAILED) {
        error_set_errno(errp, errno, NULL, "vhost-user", "a memory region cannot be mapped");
        return NULL;
    }
    madvise(map, len, MADV_DONTDUMP);
    if (!vub_fault_guard(map, len)) {
        munmap(map, len);
        error_set(errp, ERROR_LIMIT, NULL, "vhost-user", "too many memory regions");
        return NULL;
    }
    r = g_new0(VubRegion, 1);
    atomic_init(&r->refs, 1);
    r->guest_addr = info->guest_addr;
    r->user_addr = info->user_addr;
    r->size = info->size;
    r->map = map;
    r->map_len = len;
    r->host = (uint8_t *)map + (info->mmap_offset - start);
    return r;
}

/* ---- tables ---- */

static VubMemory *table_new(unsigned n)
{
    VubMemory *m = g_malloc0(sizeof(VubMemory) + n * sizeof(VubRegion *));

    atomic_init(&m->refs, 1);
    m->n = n;
    return m;
}

VubMemory *vub_memory_new(void)
{
    return table_new(0);
}

VubMemory *vub_memory_ref(VubMemory *m)
{
    atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
    return m;
}

void vub_memory_unref(VubMemory *m)
{
    if (m && atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) == 1) {
        for (unsigned i = 0; i < m->n; i++) {
            region_unref(m->region[i]);
        }
        g_free(m);
    }
}

static bool overlap(uint64_t a, uint64_t b, uint64_t a_size, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size;
}

VubMemory *vub_memory_add(const VubMemory *old, const VubRegionInfo *info, int fd, Error **errp)
{
    VubRegion *r;
    VubMemory *m;
    unsigned at = 0;

    if (old->n >= VUB_MAX_REGIONS) {
        error_set(errp, ERROR_LIMIT, NULL, "vhost-user", "too many memory regions");
        return NULL;
    }
    r = region_map(info, fd, errp);
    if (!r) {
        return NULL;
    }
    for (unsigned i = 0; i < old->n; i++) {
        const VubRegion *o = old->region[i];

        if (overlap(o->guest_addr, r->guest_addr, o->size, r->size) ||
            overlap(o->user_addr, r->user_addr, o->size, r->size)) {
            error_set(errp, ERROR_INVALID, NULL, "vhost-user", "memory regions overlap");
            region_unref(r);
            return NULL;
        }
        at += o->guest_addr < r->guest_addr;
    }
    m = table_new(old->n + 1);
    for (unsigned i = 0; i < old->n; i++) {
        m->region[i + (i >= at)] = region_ref(old->region[i]);
    }
    m->region[at] = r;
    return m;
}

VubMemory *vub_memory_remove(const VubMemory *old, const VubRegionInfo *info, Error **errp)
{
    for (unsigned gone = 0; gone < old->n; gone++) {
        const VubRegion *r = old->region[gone];

        if (r->guest_addr == info->guest_addr && r->user_addr == info->user_addr &&
            r->size == info->size) {
            VubMemory *m = table_new(old->n - 1);

            for (unsigned i = 0; i < m->n; i++) {
                m->region[i] = region_ref(old->region[i + (i >= gone)]);
            }
            return m;
        }
    }
    error_set(errp, ERROR_NOT_FOUND, NULL, "vhost-user", "there is no such memory region");
    return NULL;
}

/* ---- translation ---- */

void *vub_memory_guest(const VubMemory *m, GuestPhys addr, uint64_t len, uint64_t *ret_len)
{
    unsigned from = 0, to = m->n;

    while (from < to) {
        unsigned middle = (from + to) / 2;
        const VubRegion *r = m->region[middle];

        if (addr.v < r->guest_addr) {
            to = middle;
        } else if (addr.v - r->guest_addr >= r->size) {
            from = middle + 1;
        } else {
            uint64_t in = addr.v - r->guest_addr;

            *ret_len = MIN(len, r->size - in);
            return r->host + in;
        }
    }
    return NULL;
}

void *vub_memory_user(const VubMemory *m, UserAddr addr, uint64_t len, unsigned align)
{
    for (unsigned i = 0; i < m->n; i++) {
        const VubRegion *r = m->region[i];

        if (addr.v >= r->user_addr && addr.v - r->user_addr < r->size) {
            uint8_t *p = r->host + (addr.v - r->user_addr);

            if (len > r->size - (addr.v - r->user_addr) || ((uintptr_t)p & (align - 1))) {
                return NULL;
            }
            return p;
        }
    }
    return NULL;
}

bool vub_memory_reverse(const VubMemory *m, const void *p, GuestPhys *ret)
{
    for (unsigned i = 0; i < m->n; i++) {
        const VubRegion *r = m->region[i];
        const uint8_t *b = p;

        if (b >= r->host && b < r->host + r->size) {
            *ret = (GuestPhys){r->guest_addr + (uint64_t)(b - r->host)};
            return true;
        }
    }
    return false;
}

bool vub_memory_read(const VubMemory *m, GuestPhys addr, void *buf, size_t len)
{
    uint8_t *to = buf;

    while (len > 0) {
        uint64_t part;
        const void *p = vub_memory_guest(m, addr, len, &part);

        if (!p || addr.v > UINT64_MAX - part) {
            return false;
        }
        memcpy(to, p, part);
        to += part;
        addr.v += part;
        len -= part;
    }
    return true;
}

/* ---- the dirty log ---- */

VubLog *vub_log_new(int fd, uint64_t size, uint64_t offset, Error **errp)
{
    struct stat st;
    uint64_t start = offset & ~UINT64_C(4095);
    VubLog *l;
    void *map;

    if (size == 0 || offset > INT64_MAX - size || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
        (uint64_t)st.st_size < offset + size) {
        error_set(errp, ERROR_INVALID, NULL, "vhost-user", "the log does not lie in its file");
        return NULL;
    }
    map = mmap(NULL, offset - start + size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, start);
    if (map == MAP_FAILED) {
        error_set_errno(errp, errno, NULL, "vhost-user", "the log cannot be mapped");
        return NULL;
    }
    if (!vub_fault_guard(map, offset - start + size)) {
        munmap(map, offset - start + size);
        error_set(errp, ERROR_LIMIT, NULL, "vhost-user", "too many mappings");
        return NULL;
    }
    l = g_new0(VubLog, 1);
    l->map = map;
    l->map_len = offset - start + size;
    l->bits = (uint8_t *)map + (offset - start);
    l->size = size;
    return l;
}

void vub_log_free(VubLog *l)
{
    if (l) {
        vub_fault_unguard(l->map);
        munmap(l->map, l->map_len);
        g_free(l);
    }
}

void vub_log_mark(VubLog *l, uint64_t addr, uint64_t len)
{
    uint64_t first = addr / VUB_LOG_PAGE, last = (addr + MAX(len, 1) - 1) / VUB_LOG_PAGE;

    for (uint64_t page = first; page <= last && page / 8 < l->size; page++) {
        atomic_fetch_or_explicit((_Atomic uint8_t *)&l->bits[page / 8], 1u << (page % 8),
                                 memory_order_relaxed);
    }
}

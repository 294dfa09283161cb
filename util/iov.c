/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * I/O vectors; see the header.
 */
#include "util/iov.h"
#include <string.h>

void iov_init_buf(IoVector *v, void *buf, size_t len)
{
    v->local[0] = (struct iovec){.iov_base = buf, .iov_len = len};
    v->iov = v->local;
    v->niov = 1;
    v->size = len;
    v->heap = NULL;
}

void iov_init_external(IoVector *v, struct iovec *iov, unsigned niov)
{
    v->iov = iov;
    v->niov = niov;
    v->heap = NULL;
    v->size = 0;
    for (unsigned i = 0; i < niov; i++) {
        v->size += iov[i].iov_len;
    }
}

void iov_init_slice(IoVector *v, const IoVector *src, size_t offset, size_t len)
{
    unsigned first = 0, end, n = 0;
    size_t skip = offset, covered = 0;

    g_assert(offset <= src->size && len <= src->size - offset);
    while (first < src->niov && skip >= src->iov[first].iov_len) {
        skip -= src->iov[first++].iov_len;
    }
    for (end = first; covered < skip + len; end++) {
        covered += src->iov[end].iov_len;
    }
    v->heap = end - first > G_N_ELEMENTS(v->local) ? g_new(struct iovec, end - first) : NULL;
    v->iov = v->heap ? v->heap : v->local;
    v->size = len;
    for (unsigned i = first; i < end && len > 0; i++) {
        size_t part = MIN(src->iov[i].iov_len - skip, len);

        if (part > 0) {
            v->iov[n++] = (struct iovec){
                .iov_base = (char *)src->iov[i].iov_base + skip,
                .iov_len = part,
            };
        }
        len -= part;
        skip = 0;
    }
    v->niov = n;
}

void iov_cleanup(IoVector *v)
{
    g_free(v->heap);
    v->heap = NULL;
}

typedef enum Direction { FROM_BUF, TO_BUF, FILL } Direction;

/* buf is moved along for the two that copy. */
static void walk(const IoVector *v, size_t offset, char *buf, size_t len, Direction direction,
                 int c)
{
    g_assert(offset <= v->size && len <= v->size - offset);
    for (unsigned i = 0; len > 0; i++) {
        size_t have = v->iov[i].iov_len, part;
        char *p;

        if (offset >= have) {
            offset -= have;
            continue;
        }
        p = (char *)v->iov[i].iov_base + offset;
        part = MIN(have - offset, len);
        switch (direction) {
        case FROM_BUF:
            memcpy(p, buf, part);
            buf += part;
            break;
        case TO_BUF:
            memcpy(buf, p, part);
            buf += part;
            break;
        case FILL:
            memset(p, c, part);
            break;
        }
        len -= part;
        offset = 0;
    }
}

void iov_from_buf(const IoVector *v, size_t offset, const void *buf, size_t len)
{
    walk(v, offset, (char *)buf, len, FROM_BUF, 0);
}

void iov_to_buf(const IoVector *v, size_t offset, void *buf, size_t len)
{
    walk(v, offset, buf, len, TO_BUF, 0);
}

void iov_memset(const IoVector *v, size_t offset, int c, size_t len)
{
    walk(v, offset, NULL, len, FILL, c);
}

/* Data that is not zero mostly shows it in the first bytes; then 64 bytes at a time, which compilers turn into
 * vector instructions. */
bool buffer_is_zero(const void *buf, size_t len)
{
    const char *p = buf;
    uint64_t words[8];

    for (; len >= sizeof(words); p += sizeof(words), len -= sizeof(words)) {
        uint64_t any = 0;

        memcpy(words, p, sizeof(words));
        for (unsigned i = 0; i < G_N_ELEMENTS(words); i++) {
            any |= words[i];
        }
        if (any) {
            return false;
        }
    }
    for (; len > 0; p++, len--) {
        if (*p) {
            return false;
        }
    }
    return true;
}

bool iov_is_zero(const IoVector *v)
{
    for (unsigned i = 0; i < v->niov; i++) {
        if (!buffer_is_zero(v->iov[i].iov_base, v->iov[i].iov_len)) {
            return false;
        }
    }
    return true;
}

bool iov_is_aligned(const IoVector *v, size_t align)
{
    for (unsigned i = 0; i < v->niov; i++) {
        if (((uintptr_t)v->iov[i].iov_base | v->iov[i].iov_len) & (align - 1)) {
            return false;
        }
    }
    return true;
}

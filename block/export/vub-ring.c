/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What split and packed rings have in common: chains of descriptors become I/O vectors over guest memory.
 */
#include "vub-internal.h"
#include <string.h>

#define DESC_SIZE 16u

void vub_chain_init(VubChain *c)
{
    c->iov = c->local;
    c->room = G_N_ELEMENTS(c->local);
}

void vub_chain_clear(VubChain *c)
{
    if (c->iov != c->local) {
        g_free(c->iov);
    }
}

static struct iovec *next_piece(VubChain *c)
{
    unsigned n = c->nout + c->nin;

    if (n == c->room) {
        struct iovec *more = g_new(struct iovec, 2 * c->room);

        memcpy(more, c->iov, n * sizeof(*more));
        vub_chain_clear(c);
        c->iov = more;
        c->room *= 2;
    }
    return &c->iov[n];
}

bool vub_ring_add(VubRing *r, VubChain *c, uint64_t addr, uint32_t len, bool writable)
{
    if (!writable && c->nin > 0) {
        r->why = "a readable descriptor follows a writable one";
        return false;
    }
    while (len > 0) {
        uint64_t part;
        void *p = vub_memory_guest(r->mem, (GuestPhys){addr}, len, &part);

        if (!p) {
            r->why = "a descriptor's address is not in guest memory";
            return false;
        }
        if (c->nout + c->nin >= 2 * VUB_MAX_DESCRIPTORS) {
            r->why = "too many pieces";
            return false;
        }
        *next_piece(c) = (struct iovec){.iov_base = p, .iov_len = part};
        if (writable) {
            c->nin++;
        } else {
            c->nout++;
        }
        addr += part; /* does not wrap: regions do not */
        len -= part;
    }
    return true;
}

unsigned vub_ring_indirect(VubRing *r, uint64_t addr, uint32_t len)
{
    if (!r->indirect) {
        r->why = "an indirect descriptor was not negotiated";
    } else if (len == 0 || len % DESC_SIZE || len / DESC_SIZE > VUB_MAX_DESCRIPTORS) {
        r->why = "an indirect table has an impossible length";
    } else if (!vub_memory_read(r->mem, (GuestPhys){addr}, r->scratch, len)) {
        r->why = "an indirect table is not in guest memory";
    } else {
        return len / DESC_SIZE;
    }
    return 0;
}

void vub_ring_init(VubRing *r)
{
    const VubRingOps *ops = r->ops;

    *r = (VubRing){.ops = ops};
    r->scratch = g_malloc((size_t)VUB_MAX_DESCRIPTORS * DESC_SIZE);
    r->resubmit = g_array_new(false, false, sizeof(uint16_t));
}

void vub_ring_clear(VubRing *r)
{
    g_clear_pointer(&r->scratch, g_free);
    g_clear_pointer(&r->busy, g_free);
    if (r->resubmit) {
        g_array_free(r->resubmit, true);
        r->resubmit = NULL;
    }
}

void vub_ring_log(VubRing *r, const void *p, size_t len)
{
    if (r->log) {
        vub_log_mark(r->log, r->log_addr + (uint64_t)((const uint8_t *)p - (uint8_t *)r->used),
                     len);
    }
}

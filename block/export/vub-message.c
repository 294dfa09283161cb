/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Messages of the front end: what each one means.
 *
 * A message that cannot be obeyed ends the session, with a line in the log; before that the front end is told, if it wanted to
 * be (REPLY_ACK).
 */
#include "vub-internal.h"
#include "util/log.h"
#include <errno.h>
#include <glib-unix.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PROTOCOL_FEATURES                                                                          \
    (VUB_PROTOCOL_MQ | VUB_PROTOCOL_LOG_SHMFD | VUB_PROTOCOL_REPLY_ACK |                           \
     VUB_PROTOCOL_BACKEND_REQ | VUB_PROTOCOL_CONFIG | VUB_PROTOCOL_INFLIGHT_SHMFD |                \
     VUB_PROTOCOL_MEM_SLOTS)

uint64_t vub_features(const VubExport *e)
{
    return VUB_F_VERSION_1 | VUB_F_RING_PACKED | VUB_F_INDIRECT | VUB_F_EVENT_IDX | VUB_F_LOG_ALL |
           VUB_F_PROTOCOL_FEATURES | BIT64(VIRTIO_BLK_F_SEG_MAX) | BIT64(VIRTIO_BLK_F_BLK_SIZE) |
           BIT64(VIRTIO_BLK_F_TOPOLOGY) | BIT64(VIRTIO_BLK_F_FLUSH) |
           BIT64(VIRTIO_BLK_F_CONFIG_WCE) | BIT64(VIRTIO_BLK_F_MQ) | BIT64(VIRTIO_BLK_F_DISCARD) |
           BIT64(VIRTIO_BLK_F_WRITE_ZEROES) | (e->base.writable ? 0 : BIT64(VIRTIO_BLK_F_RO));
}

static bool bad(Error **errp, const char *what)
{
    error_set(errp, ERROR_INVALID, NULL, "vhost-user", "%s", what);
    return false;
}

static int take_fd(VubMessage *m, unsigned i)
{
    int fd = i < m->nfds ? m->fds[i] : -1;

    if (fd >= 0) {
        m->fds[i] = -1;
    }
    return fd;
}

/* ---- features ---- */

static bool coroutine_fn set_features(VubSession *s, VubMessage *m, Error **errp)
{
    uint64_t flush = BIT64(VIRTIO_BLK_F_FLUSH) | BIT64(VIRTIO_BLK_F_CONFIG_WCE);
    bool logging;

    if (m->u64 & ~vub_features(s->exp)) {
        return bad(errp, "features that were not offered");
    }
    logging = (m->u64 ^ s->features) & VUB_F_LOG_ALL;
    if ((m->u64 ^ s->features) & ~VUB_F_LOG_ALL) {
        for (unsigned i = 0; i < s->exp->num_queues; i++) {
            if (s->exp->queues[i].started) {
                return bad(errp, "features change while queues run");
            }
        }
    }
    s->features = m->u64;
    atomic_store_explicit(&s->flush_negotiated, m->u64 & flush, memory_order_relaxed);
    for (unsigned i = 0; logging && i < s->exp->num_queues; i++) {
        if (!vub_queue_update(&s->exp->queues[i], s, errp)) {
            return false;
        }
    }
    return true;
}

/* ---- memory ---- */

/* Queues move to the new table; the old one is let go. */
static bool coroutine_fn adopt_memory(VubSession *s, VubMemory *new)
{
    VubMemory *old = s->mem;

    if (!new) {
        return false;
    }
    s->mem = new;
    for (unsigned i = 0; i < s->exp->num_queues; i++) {
        g_autoptr(Error) err = NULL;

        /* One that is not in memory any more is broken, which is its own affair. */
        vub_queue_update(&s->exp->queues[i], s, &err);
    }
    vub_memory_unref(old);
    return true;
}

static bool coroutine_fn set_mem_table(VubSession *s, VubMessage *m, Error **errp)
{
    VubMemory *t = vub_memory_new();

    if (m->head.size < 8 || m->table.n > VUB_MAX_REGIONS_IN_TABLE || m->table.n != m->nfds ||
        m->head.size < 8 + m->table.n * sizeof(VubRegionInfo)) {
        vub_memory_unref(t);
        return bad(errp, "a memory table whose regions and descriptors do not match");
    }
    for (unsigned i = 0; t && i < m->table.n; i++) {
        VubMemory *more = vub_memory_add(t, &m->table.region[i], m->fds[i], errp);

        vub_memory_unref(t);
        t = more;
    }
    return adopt_memory(s, t);
}

static bool coroutine_fn add_mem_reg(VubSession *s, VubMessage *m, Error **errp)
{
    if (m->nfds != 1) {
        return bad(errp, "a memory region without its descriptor");
    }
    return adopt_memory(s, vub_memory_add(s->mem, &m->slot.region, m->fds[0], errp));
}

static bool coroutine_fn rem_mem_reg(VubSession *s, VubMessage *m, Error **errp)
{
    return adopt_memory(s, vub_memory_remove(s->mem, &m->slot.region, errp));
}

static bool coroutine_fn set_log_base(VubSession *s, VubMessage *m, Error **errp)
{
    VubLog *old = s->log, *new;

    if (m->nfds != 1) {
        return bad(errp, "a log without its descriptor");
    }
    new = vub_log_new(m->fds[0], m->log.size, m->log.offset, errp);
    if (!new) {
        return false;
    }
    s->log = new;
    for (unsigned i = 0; i < s->exp->num_queues; i++) {
        g_autoptr(Error) err = NULL;

        vub_queue_update(&s->exp->queues[i], s, &err);
    }
    vub_log_free(old); /* every queue has looked */
    m->head.size = 0;
    return true;
}

/* ---- queues ---- */

static VubQueue *queue_of(VubSession *s, uint32_t index, Error **errp)
{
    if (index >= s->exp->num_queues) {
        bad(errp, "there is no such queue");
        return NULL;
    }
    return &s->exp->queues[index];
}

static bool coroutine_fn set_vring_num(VubSession *s, VubMessage *m, Error **errp)
{
    VubQueue *q = queue_of(s, m->state.index, errp);

    if (!q) {
        return false;
    }
    if (q->started || m->state.num == 0 || m->state.num > VUB_MAX_QUEUE_SIZE) {
        return bad(errp, "a queue of impossible size");
    }
    q->num = m->state.num;
    return true;
}

static bool coroutine_fn set_vring_addr(VubSession *s, VubMessage *m, Error **errp)
{
    VubQueue *q = queue_of(s, m->addr.index, errp);

    if (!q) {
        return false;
    }
    q->addr = m->addr;
    q->has_addr = true;
    return q->started ? vub_queue_update(q, s, errp) : vub_queue_start(q, s, errp);
}

static bool coroutine_fn set_vring_base(VubSession *s, VubMessage *m, Error **errp)
{
    VubQueue *q = queue_of(s, m->state.index, errp);

    if (!q) {
        return false;
    }
    if (q->started) {
        return bad(errp, "a position for a queue that runs");
    }
    q->base = m->state.num;
    return true;
}

static bool coroutine_fn get_vring_base(VubSession *s, VubMessage *m, Error **errp)
{
    VubQueue *q = queue_of(s, m->state.index, errp);

    if (!q) {
        return false;
    }
    vub_queue_stop(q, &m->state.num);
    /* It starts again with a kick descriptor. */
    if (q->kick_fd >= 0) {
        close(q->kick_fd);
        q->kick_fd = -1;
    }
    m->head.size = sizeof(m->state);
    return true;
}

static bool coroutine_fn set_vring_enable(VubSession *s, VubMessage *m, Error **errp)
{
    VubQueue *q = queue_of(s, m->state.index, errp);

    if (!q) {
        return false;
    }
    q->enabled = m->state.num;
    if (!q->enabled) {
        vub_queue_stop(q, NULL);
        return true;
    }
    return vub_queue_start(q, s, errp);
}

/* The descriptor of a kick, call or error message: an eventfd, since others could make us wait; -1: none. */
static bool vring_fd(VubSession *s, VubMessage *m, VubQueue **ret_q, int *ret_fd, Error **errp)
{
    bool none = m->u64 & VUB_VRING_NOFD;
    char name[64], link[64] = "";

    *ret_q = queue_of(s, m->u64 & VUB_VRING_INDEX_MASK, errp);
    if (!*ret_q) {
        return false;
    }
    if (m->nfds != (none ? 0 : 1)) {
        return bad(errp, "a queue's descriptor is missing");
    }
    *ret_fd = -1;
    if (!none) {
        snprintf(name, sizeof(name), "/proc/self/fd/%d", m->fds[0]);
        if (readlink(name, link, sizeof(link) - 1) < 0 ||
            !g_str_has_prefix(link, "anon_inode:[eventfd")) {
            return bad(errp, "a queue's descriptor is no eventfd");
        }
        g_unix_set_fd_nonblocking(m->fds[0], true, NULL);
        *ret_fd = take_fd(m, 0);
    }
    return true;
}

static bool coroutine_fn set_vring_kick(VubSession *s, VubMessage *m, Error **errp)
{
    VubQueue *q;
    int fd;

    if (!vring_fd(s, m, &q, &fd, errp)) {
        return false;
    }
    vub_queue_stop(q, NULL);
    if (q->kick_fd >= 0) {
        close(q->kick_fd);
    }
    q->kick_fd = fd;
    if (fd < 0) {
        return bad(errp, "polling instead of kicks is not supported");
    }
    if (!(s->features & VUB_F_PROTOCOL_FEATURES)) {
        q->enabled = true;
    }
    return vub_queue_start(q, s, errp);
}

typedef struct NewFd {
    int *place, fd;
} NewFd;

static void coroutine_fn swap_fd(VubQueue *q, void *opaque)
{
    NewFd *n = opaque;
    int old = *n->place;

    (void)q;
    *n->place = n->fd;
    n->fd = old;
}

static bool coroutine_fn set_vring_fd(VubSession *s, VubMessage *m, bool call, Error **errp)
{
    VubQueue *q;
    NewFd n;

    if (!vring_fd(s, m, &q, &n.fd, errp)) {
        return false;
    }
    n.place = call ? &q->call_fd : &q->err_fd;
    vub_queue_call(q, swap_fd, &n); /* its thread uses it */
    if (n.fd >= 0) {
        close(n.fd);
    }
    return true;
}

/* ---- in-flight buffer ---- */

static bool none_started(const VubSession *s, Error **errp)
{
    for (unsigned i = 0; i < s->exp->num_queues; i++) {
        if (s->exp->queues[i].started) {
            return bad(errp, "an in-flight buffer while queues run");
        }
    }
    return true;
}

static bool coroutine_fn get_inflight(VubSession *s, VubMessage *m, Error **errp)
{
    VubInflight *f;

    if (!none_started(s, errp)) {
        return false;
    }
    f = vub_inflight_new(&m->inflight, &m->reply_fd, errp);
    if (!f) {
        return false;
    }
    vub_inflight_free(s->inflight);
    s->inflight = f;
    m->head.size = sizeof(m->inflight);
    return vub_kept_adopt(s, true, errp);
}

static bool coroutine_fn set_inflight(VubSession *s, VubMessage *m, Error **errp)
{
    VubInflight *f;

    if (!none_started(s, errp)) {
        return false;
    }
    if (m->nfds != 1) {
        return bad(errp, "an in-flight buffer without its descriptor");
    }
    f = vub_inflight_open(&m->inflight, m->fds[0], errp);
    if (!f) {
        return false;
    }
    vub_inflight_free(s->inflight);
    s->inflight = f;
    if (!vub_kept_adopt(s, false, errp)) {
        g_clear_pointer(&s->inflight, vub_inflight_free);
        return false;
    }
    return true;
}

/* ---- configuration space ---- */

static bool config_range(const VubMessage *m)
{
    size_t head = offsetof(VubMessage, config.data) - offsetof(VubMessage, config);

    return m->head.size >= head && m->config.size <= VUB_CONFIG_SIZE &&
           m->config.offset <= VUB_CONFIG_SIZE - m->config.size &&
           m->head.size == head + m->config.size;
}

static bool coroutine_fn get_config(VubSession *s, VubMessage *m)
{
    uint8_t config[VUB_CONFIG_SIZE];

    if (!config_range(m)) {
        m->head.size = 0; /* the protocol's way to say so */
        return true;
    }
    vub_config_get(s->exp, s, config);
    memcpy(m->config.data, config + m->config.offset, m->config.size);
    return true;
}

static bool coroutine_fn set_config(VubSession *s, VubMessage *m, Error **errp)
{
    if (!config_range(m)) {
        return bad(errp, "a change outside of the configuration space");
    }
    return vub_config_set(s, m->config.offset, m->config.data, m->config.size, errp);
}

static bool coroutine_fn set_backend_fd(VubSession *s, VubMessage *m, Error **errp)
{
    int fd, old;

    if (m->nfds != 1) {
        return bad(errp, "a back-end channel without its descriptor");
    }
    fd = take_fd(m, 0);
    pthread_mutex_lock(&s->exp->lock);
    old = s->exp->backend_fd;
    s->exp->backend_fd = fd;
    pthread_mutex_unlock(&s->exp->lock);
    if (old >= 0) {
        close(old);
    }
    return true;
}

/* ---- all ---- */

/* Bytes of payload that a message must have; more is permitted where the protocol lets it grow. */
static uint32_t payload_of(uint32_t request)
{
    switch (request) {
    case VUB_SET_FEATURES:
    case VUB_SET_PROTOCOL_FEATURES:
    case VUB_SET_VRING_KICK:
    case VUB_SET_VRING_CALL:
    case VUB_SET_VRING_ERR:
        return sizeof(uint64_t);
    case VUB_SET_VRING_NUM:
    case VUB_SET_VRING_BASE:
    case VUB_GET_VRING_BASE:
    case VUB_SET_VRING_ENABLE:
        return sizeof(VubVringState);
    case VUB_SET_VRING_ADDR:
        return sizeof(VubVringAddr);
    case VUB_GET_INFLIGHT_FD:
    case VUB_SET_INFLIGHT_FD:
        return offsetof(VubInflightInfo, pad);
    case VUB_ADD_MEM_REG:
    case VUB_REM_MEM_REG:
        return sizeof(uint64_t) + sizeof(VubRegionInfo);
    case VUB_SET_LOG_BASE:
        return 2 * sizeof(uint64_t);
    default:
        return 0;
    }
}

static bool reply_u64(VubMessage *m, bool *ret_reply, uint64_t value)
{
    m->u64 = value;
    m->head.size = sizeof(m->u64);
    *ret_reply = true;
    return true;
}

bool coroutine_fn vub_message_run(VubSession *s, VubMessage *m, bool *ret_reply, Error **errp)
{
    *ret_reply = false;
    if (m->head.size < payload_of(m->head.request)) {
        return bad(errp, "a message is too short");
    }
    switch (m->head.request) {
    case VUB_GET_FEATURES:
        return reply_u64(m, ret_reply, vub_features(s->exp));
    case VUB_SET_FEATURES:
        return set_features(s, m, errp);
    case VUB_GET_PROTOCOL_FEATURES:
        return reply_u64(m, ret_reply, PROTOCOL_FEATURES);
    case VUB_SET_PROTOCOL_FEATURES:
        if (m->u64 & ~PROTOCOL_FEATURES) {
            return bad(errp, "protocol features that were not offered");
        }
        s->protocol_features = m->u64;
        return true;
    case VUB_GET_QUEUE_NUM:
        return reply_u64(m, ret_reply, s->exp->num_queues);
    case VUB_GET_MAX_MEM_SLOTS:
        return reply_u64(m, ret_reply, VUB_MAX_REGIONS);
    case VUB_SET_OWNER:
    case VUB_RESET_OWNER: /* deprecated; "recommended to ignore" */
    case VUB_SET_LOG_FD:  /* nobody needs to be told */
        return true;
    case VUB_SET_MEM_TABLE:
        return set_mem_table(s, m, errp);
    case VUB_ADD_MEM_REG:
        return add_mem_reg(s, m, errp);
    case VUB_REM_MEM_REG:
        return rem_mem_reg(s, m, errp);
    case VUB_SET_LOG_BASE:
        *ret_reply = s->protocol_features & VUB_PROTOCOL_LOG_SHMFD;
        return set_log_base(s, m, errp);
    case VUB_SET_VRING_NUM:
        return set_vring_num(s, m, errp);
    case VUB_SET_VRING_ADDR:
        return set_vring_addr(s, m, errp);
    case VUB_SET_VRING_BASE:
        return set_vring_base(s, m, errp);
    case VUB_GET_VRING_BASE:
        *ret_reply = true;
        return get_vring_base(s, m, errp);
    case VUB_SET_VRING_KICK:
        return set_vring_kick(s, m, errp);
    case VUB_SET_VRING_CALL:
        return set_vring_fd(s, m, true, errp);
    case VUB_SET_VRING_ERR:
        return set_vring_fd(s, m, false, errp);
    case VUB_SET_VRING_ENABLE:
        return set_vring_enable(s, m, errp);
    case VUB_SET_BACKEND_REQ_FD:
        return set_backend_fd(s, m, errp);
    case VUB_GET_CONFIG:
        *ret_reply = true;
        return get_config(s, m);
    case VUB_SET_CONFIG:
        return set_config(s, m, errp);
    case VUB_GET_INFLIGHT_FD:
        *ret_reply = true;
        return get_inflight(s, m, errp);
    case VUB_SET_INFLIGHT_FD:
        return set_inflight(s, m, errp);
    default:
        error_set(errp, ERROR_UNSUPPORTED, NULL, "vhost-user", "message %u is not known",
                  m->head.request);
        return false;
    }
}

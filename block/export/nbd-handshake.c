/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The handshake: fixed newstyle.
 *
 * The client sends options until one of them begins the transmission (EXPORT_NAME, GO) or ends the connection (ABORT).  Every
 * option is read whole before it is answered; options that are too long are skipped and answered with TOO_BIG.  Unknown ones
 * are answered with UNSUP.
 */
#include "nbd-internal.h"
#include "util/log.h"
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* How much of a name an answer repeats. */
#define SHOWN_NAME 80

typedef struct __attribute__((packed)) OptionHeader {
    uint64_t magic;
    uint32_t option, length;
} OptionHeader;

typedef struct __attribute__((packed)) OptionReply {
    uint64_t magic;
    uint32_t option, type, length;
} OptionReply;

/* A cursor over an option's data. */
typedef struct Data {
    const uint8_t *p;
    size_t left;
} Data;

static int coroutine_fn send_bytes(NbdConn *c, const void *a, size_t a_len, const void *b,
                                   size_t b_len)
{
    struct iovec iov[] = {{(void *)a, a_len}, {(void *)b, b_len}};

    return nbd_send_all(c, iov, b_len ? 2 : 1);
}

static int coroutine_fn reply(NbdConn *c, uint32_t option, uint32_t type, const void *data,
                              size_t len)
{
    OptionReply r = {htobe64(NBD_OPTION_REPLY_MAGIC), htobe32(option), htobe32(type), htobe32(len)};

    return send_bytes(c, &r, sizeof(r), data, len);
}

static int coroutine_fn reply_error(NbdConn *c, uint32_t option, uint32_t type, const char *text)
{
    return reply(c, option, type, text, strlen(text));
}

static int coroutine_fn reply_unknown(NbdConn *c, uint32_t option, const char *name)
{
    bool longer = strlen(name) > SHOWN_NAME;
    g_autofree char *text =
        g_strdup_printf("export '%.*s%s' not present", SHOWN_NAME, name, longer ? "..." : "");

    return reply_error(c, option, NBD_REP_ERR_UNKNOWN, text);
}

static bool take_u16(Data *d, uint16_t *ret)
{
    if (d->left < 2) {
        return false;
    }
    *ret = d->p[0] << 8 | d->p[1];
    d->p += 2;
    d->left -= 2;
    return true;
}

static bool take_u32(Data *d, uint32_t *ret)
{
    uint16_t high, low;

    if (!take_u16(d, &high) || !take_u16(d, &low)) {
        return false;
    }
    *ret = (uint32_t)high << 16 | low;
    return true;
}

/* A 32-bit length and that many bytes, without a zero among them. */
static char *take_string(Data *d)
{
    uint32_t len;
    char *s;

    if (!take_u32(d, &len) || len > d->left || len > NBD_MAX_NAME || memchr(d->p, 0, len)) {
        return NULL;
    }
    s = g_strndup((const char *)d->p, len);
    d->p += len;
    d->left -= len;
    return s;
}

/* ---- options ---- */

typedef struct ListItem {
    char *name, *description;
} ListItem;

static void collect(void *opaque, const char *name, const char *description)
{
    ListItem item = {g_strdup(name), g_strdup(description)};

    g_array_append_val((GArray *)opaque, item);
}

static int coroutine_fn option_list(NbdConn *c, Data *d)
{
    g_autoptr(GArray) items = NULL;
    int ret = 0;

    if (d->left) {
        return reply_error(c, NBD_OPT_LIST, NBD_REP_ERR_INVALID, "no data expected");
    }
    items = g_array_new(false, false, sizeof(ListItem));
    nbd_export_foreach(collect, items); /* sending may suspend: not under its lock */
    for (guint i = 0; i < items->len; i++) {
        ListItem *item = &g_array_index(items, ListItem, i);
        g_autoptr(GByteArray) b = g_byte_array_new();
        uint32_t len = htobe32(strlen(item->name));

        g_byte_array_append(b, (guint8 *)&len, 4);
        g_byte_array_append(b, (guint8 *)item->name, strlen(item->name));
        if (item->description) {
            g_byte_array_append(b, (guint8 *)item->description, strlen(item->description));
        }
        ret = ret < 0 ? ret : reply(c, NBD_OPT_LIST, NBD_REP_SERVER, b->data, b->len);
        g_free(item->name);
        g_free(item->description);
    }
    return ret < 0 ? ret : reply(c, NBD_OPT_LIST, NBD_REP_ACK, NULL, 0);
}

static int coroutine_fn send_info(NbdConn *c, uint32_t option, const char *name,
                                  const NbdExportFacts *f, Data *wanted, uint16_t count)
{
    struct __attribute__((packed)) {
        uint16_t type;
        uint64_t size;
        uint16_t flags;
    } export_info = {htobe16(NBD_INFO_EXPORT), htobe64(f->size), htobe16(f->flags)};
    struct __attribute__((packed)) {
        uint16_t type;
        uint32_t min, preferred, max;
    } block_info = {htobe16(NBD_INFO_BLOCK_SIZE), htobe32(1), htobe32(4096),
                    htobe32(NBD_MAX_REQUEST)};
    int ret = 0;

    while (ret == 0 && count-- > 0) {
        g_autoptr(GByteArray) b = g_byte_array_new();
        const char *text = NULL;
        uint16_t type = 0, be;

        (void)take_u16(wanted, &type);
        be = htobe16(type);
        if (type == NBD_INFO_NAME) {
            text = name;
        } else if (type == NBD_INFO_DESCRIPTION) {
            text = f->description;
        }
        if (text) {
            g_byte_array_append(b, (guint8 *)&be, 2);
            g_byte_array_append(b, (const guint8 *)text, strlen(text));
            ret = reply(c, option, NBD_REP_INFO, b->data, b->len);
        }
    }
    ret = ret < 0 ? ret : reply(c, option, NBD_REP_INFO, &block_info, sizeof(block_info));
    return ret < 0 ? ret : reply(c, option, NBD_REP_INFO, &export_info, sizeof(export_info));
}

static void forget_contexts(NbdConn *c)
{
    if (c->contexts) {
        g_array_set_size(c->contexts, 0);
    }
}

static int coroutine_fn option_go(NbdConn *c, uint32_t option, Data *d, bool *ret_go)
{
    g_autofree char *name = take_string(d);
    g_auto(NbdExportFacts) facts = {0};
    uint16_t count;
    int ret;

    if (!name || !take_u16(d, &count) || d->left != count * 2u) {
        return reply_error(c, option, NBD_REP_ERR_INVALID, "malformed request");
    }
    if (!nbd_export_look(name, &facts)) {
        return reply_unknown(c, option, name);
    }
    ret = send_info(c, option, name, &facts, d, count);
    if (ret < 0) {
        return ret;
    }
    if (option == NBD_OPT_GO) {
        if (!nbd_export_enter(name, c)) {
            return reply_error(c, option, NBD_REP_ERR_UNKNOWN, "the export has just been removed");
        }
        if (c->exp->unique != c->ctx_unique) {
            forget_contexts(c);
        }
        *ret_go = true;
    }
    return reply(c, option, NBD_REP_ACK, NULL, 0);
}

static int coroutine_fn option_export_name(NbdConn *c, Data *d, bool *ret_go)
{
    g_autofree char *name = g_strndup((const char *)d->p, d->left);
    struct __attribute__((packed)) {
        uint64_t size;
        uint16_t flags;
        uint8_t zeroes[124];
    } r = {0};
    g_auto(NbdExportFacts) facts = {0};

    /* This option cannot be answered with an error: the connection ends. */
    if (!nbd_export_look(name, &facts) || !nbd_export_enter(name, c)) {
        log_warn_limited("NBD client %s: no export '%.100s': disconnected", c->peer, name);
        return -ENOENT;
    }
    r.size = htobe64(facts.size);
    r.flags = htobe16(facts.flags);
    if (c->exp->unique != c->ctx_unique) {
        forget_contexts(c);
    }
    *ret_go = true;
    return send_bytes(c, &r, c->no_zeroes ? sizeof(r) - sizeof(r.zeroes) : sizeof(r), NULL, 0);
}

static int coroutine_fn send_context(NbdConn *c, uint32_t option, uint32_t id, const char *name)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    uint32_t be = htobe32(option == NBD_OPT_SET_META_CONTEXT ? id : 0);

    g_byte_array_append(b, (guint8 *)&be, 4);
    g_byte_array_append(b, (const guint8 *)name, strlen(name));
    return reply(c, option, NBD_REP_META_CONTEXT, b->data, b->len);
}

/* Does a query name `context`?  For listing, what ends with a colon names all that begin so. */
static bool query_matches(const char *query, const char *context, bool listing)
{
    return strcmp(query, context) == 0 ||
           (listing && g_str_has_suffix(query, ":") && g_str_has_prefix(context, query));
}

/* All that the export has: number - NBD_CONTEXT_ALLOCATION is the index.  NULL where there is none. */
static GPtrArray *offered_contexts(const NbdExportFacts *f)
{
    GPtrArray *names = g_ptr_array_new();

    g_ptr_array_add(names, (gpointer) "base:allocation");
    g_ptr_array_add(names, f->allocation_depth ? (gpointer) "qemu:allocation-depth" : NULL);
    for (char **b = f->bitmap_contexts; *b; b++) {
        g_ptr_array_add(names, *b);
    }
    return names;
}

static bool select_contexts(const GPtrArray *offered, Data *d, uint32_t count, bool listing,
                            bool *selected)
{
    for (guint i = 0; i < offered->len; i++) {
        selected[i] = listing && count == 0 && g_ptr_array_index(offered, i);
    }
    while (count-- > 0) {
        g_autofree char *query = take_string(d);

        if (!query) {
            return false;
        }
        for (guint i = 0; i < offered->len; i++) {
            const char *context = g_ptr_array_index(offered, i);

            selected[i] |= context && query_matches(query, context, listing);
        }
    }
    return d->left == 0;
}

static int coroutine_fn option_meta_context(NbdConn *c, uint32_t option, Data *d)
{
    bool listing = option == NBD_OPT_LIST_META_CONTEXT;
    g_auto(NbdExportFacts) facts = {0};
    g_autoptr(GPtrArray) offered = NULL;
    g_autofree bool *selected = NULL;
    g_autofree char *name = NULL;
    uint32_t count;
    int ret = 0;

    if (!listing) {
        forget_contexts(c);
    }
    if (!c->structured) {
        return reply_error(c, option, NBD_REP_ERR_INVALID, "structured replies come first");
    }
    name = take_string(d);
    if (!name || !take_u32(d, &count)) {
        return reply_error(c, option, NBD_REP_ERR_INVALID, "malformed request");
    }
    if (!nbd_export_look(name, &facts)) {
        return reply_unknown(c, option, name);
    }
    offered = offered_contexts(&facts);
    selected = g_new(bool, offered->len);
    if (!select_contexts(offered, d, count, listing, selected)) {
        return reply_error(c, option, NBD_REP_ERR_INVALID, "malformed request");
    }
    c->ctx_unique = listing ? c->ctx_unique : facts.unique;
    for (guint i = 0; i < offered->len && ret == 0; i++) {
        uint32_t id = NBD_CONTEXT_ALLOCATION + i;

        if (!selected[i]) {
            continue;
        }
        if (!listing) {
            c->contexts = c->contexts ? c->contexts : g_array_new(false, false, sizeof(uint32_t));
            g_array_append_val(c->contexts, id);
        }
        ret = send_context(c, option, id, g_ptr_array_index(offered, i));
    }
    return ret < 0 ? ret : reply(c, option, NBD_REP_ACK, NULL, 0);
}

static int coroutine_fn option_starttls(NbdConn *c, Data *d)
{
    int ret;

    if (!c->creds) {
        return reply_error(c, NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY, "TLS not configured");
    }
    if (c->tls || d->left) {
        return reply_error(c, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID,
                           c->tls ? "TLS is in use already" : "no data expected");
    }
    ret = reply(c, NBD_OPT_STARTTLS, NBD_REP_ACK, NULL, 0);
    if (ret < 0) {
        return ret;
    }
    /* What was said in the clear counts for nothing: somebody else may have said it. */
    c->structured = false;
    forget_contexts(c);
    return nbd_start_tls(c) ? 0 : -EPROTO;
}

/* Where TLS is demanded, what may come before it. */
static int coroutine_fn option_too_early(NbdConn *c, uint32_t option)
{
    if (option == NBD_OPT_EXPORT_NAME) {
        log_warn_limited("NBD client %s: no TLS: disconnected", c->peer);
        return -EPROTO;
    }
    return reply_error(c, option, NBD_REP_ERR_TLS_REQD, "TLS is required");
}

/* One option; a negative errno ends the connection.  *ret_go: transmission follows. */
static int coroutine_fn handle_option(NbdConn *c, uint32_t option, Data *d, bool *ret_go)
{
    if (c->creds && !c->tls && option != NBD_OPT_STARTTLS && option != NBD_OPT_ABORT) {
        return option_too_early(c, option);
    }
    switch (option) {
    case NBD_OPT_EXPORT_NAME:
        return option_export_name(c, d, ret_go);
    case NBD_OPT_STARTTLS:
        return option_starttls(c, d);
    case NBD_OPT_ABORT:
        (void)reply(c, option, NBD_REP_ACK, NULL, 0);
        return -ECONNRESET;
    case NBD_OPT_LIST:
        return option_list(c, d);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return option_go(c, option, d, ret_go);
    case NBD_OPT_STRUCTURED_REPLY:
        if (d->left) {
            return reply_error(c, option, NBD_REP_ERR_INVALID, "no data expected");
        }
        c->structured = true;
        return reply(c, option, NBD_REP_ACK, NULL, 0);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return option_meta_context(c, option, d);
    default:
        return reply_error(c, option, NBD_REP_ERR_UNSUP, "not supported");
    }
}

static int coroutine_fn skip(NbdConn *c, size_t len)
{
    char buf[4096];
    int ret = 0;

    while (len > 0 && ret == 0) {
        size_t n = MIN(len, sizeof(buf));

        ret = nbd_read(c, buf, n);
        len -= n;
    }
    return ret;
}

static int coroutine_fn options(NbdConn *c)
{
    g_autofree uint8_t *buf = g_malloc(NBD_MAX_OPTION);
    bool go = false;
    int ret;

    while (!go) {
        OptionHeader h;
        uint32_t len;
        Data d;

        ret = nbd_read(c, &h, sizeof(h));
        if (ret < 0) {
            return ret;
        }
        if (be64toh(h.magic) != NBD_OPTION_MAGIC) {
            log_warn_limited("NBD client %s: bad magic of an option: disconnected", c->peer);
            return -EPROTO;
        }
        len = be32toh(h.length);
        if (len > NBD_MAX_OPTION) {
            if (len > NBD_MAX_REQUEST || be32toh(h.option) == NBD_OPT_EXPORT_NAME) {
                log_warn_limited("NBD client %s: an option of %u bytes: disconnected", c->peer,
                                 len);
                return -EPROTO;
            }
            ret = skip(c, len);
            ret =
                ret < 0 ? ret : reply_error(c, be32toh(h.option), NBD_REP_ERR_TOO_BIG, "too long");
        } else {
            ret = nbd_read(c, buf, len);
            d = (Data){buf, len};
            ret = ret < 0 ? ret : handle_option(c, be32toh(h.option), &d, &go);
        }
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

bool coroutine_fn nbd_handshake(NbdConn *c)
{
    struct __attribute__((packed)) {
        uint64_t magic, option_magic;
        uint16_t flags;
    } hello = {htobe64(NBD_MAGIC), htobe64(NBD_OPTION_MAGIC),
               htobe16(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)};
    uint32_t flags;

    if (send_bytes(c, &hello, sizeof(hello), NULL, 0) < 0 ||
        nbd_read(c, &flags, sizeof(flags)) < 0) {
        return false;
    }
    flags = be32toh(flags);
    if (flags & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES)) {
        log_warn_limited("NBD client %s: unknown flags 0x%x: disconnected", c->peer, flags);
        return false;
    }
    c->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    return options(c) == 0;
}

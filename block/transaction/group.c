/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The register of snapshot groups; group.h says what it is for.
 *
 * Without a journal it is bounded: old groups are forgotten, but never one that is still settling.
 */
#include "group.h"
#include "journal-internal.h"
#include <string.h>

#define MAX_ID          64
#define MAX_WITHOUT_LOG 1000

static GQueue groups = G_QUEUE_INIT; /* Group *, oldest first */
static GHashTable *by_id;

static void member_free(gpointer p)
{
    GroupMember *m = p;

    g_free(m->node);
    g_free(m->file);
    g_free(m->overlay);
    g_free(m->overlay_file);
    g_free(m->snapshot);
    g_free(m);
}

Group *group_new(const char *id, const char *digest)
{
    Group *g = g_new0(Group, 1);

    g->uuid = g_uuid_string_random();
    g->id = g_strdup(id ? id : g->uuid);
    g->named = id != NULL;
    g->digest = g_strdup(digest);
    g->state = SNAPSHOT_GROUP_STATE_SETTLING;
    g->prepare_ns = g->record_ns = g->cut_ns = g->settle_ns = g->longest_wait = -1;
    g->members = g_ptr_array_new_with_free_func(member_free);
    g->messages = g_ptr_array_new_with_free_func(g_free);
    return g;
}

void group_free(Group *g)
{
    if (g) {
        g_free(g->id);
        g_free(g->uuid);
        g_free(g->digest);
        g_ptr_array_free(g->members, true);
        g_ptr_array_free(g->messages, true);
        g_free(g);
    }
}

GroupMember *group_add_member(Group *g, char *node, char *file, char *overlay, char *overlay_file)
{
    GroupMember *m = g_new0(GroupMember, 1);

    m->node = node;
    m->file = file;
    m->overlay = overlay;
    m->overlay_file = overlay_file;
    m->state = SNAPSHOT_GROUP_STATE_SETTLING;
    m->longest_wait = m->settle_ns = -1;
    g_ptr_array_add(g->members, m);
    return m;
}

void group_message(Group *g, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_ptr_array_add(g->messages, g_strdup_vprintf(fmt, ap));
    va_end(ap);
}

bool group_id_check(const char *id, Error **errp)
{
    size_t len = strlen(id);

    for (size_t i = 0; i < len; i++) {
        if (!g_ascii_isalnum(id[i]) && !strchr("-_.:", id[i])) {
            len = 0;
        }
    }
    if (len < 1 || len > MAX_ID) {
        error_set(errp, ERROR_INVALID, id, "transaction", "Invalid group name '%s'", id);
        error_hint(errp, "1 to %d letters, digits, '-', '_', '.' or ':'", MAX_ID);
        return false;
    }
    return true;
}

static void forget_oldest(void)
{
    GList *l = groups.head;

    while (l && groups.length > MAX_WITHOUT_LOG) {
        GList *next = l->next;
        Group *g = l->data;

        if (g->state != SNAPSHOT_GROUP_STATE_SETTLING) {
            g_hash_table_remove(by_id, g->id);
            group_free(g);
            g_queue_delete_link(&groups, l);
        }
        l = next;
    }
}

void group_register(Group *g)
{
    if (!by_id) {
        by_id = g_hash_table_new(g_str_hash, g_str_equal);
    }
    g_queue_push_tail(&groups, g);
    g_hash_table_insert(by_id, g->id, g);
    if (!journal_active()) {
        forget_oldest();
    }
}

Group *group_find(const char *id)
{
    return by_id ? g_hash_table_lookup(by_id, id) : NULL;
}

/* ---- queries ---- */

#define KNOWN(info, member, value)                                                                 \
    do {                                                                                           \
        (info)->has_##member = (value) >= 0;                                                       \
        (info)->member = MAX((value), 0);                                                          \
    } while (0)

static SnapshotGroupMember *member_info(const GroupMember *m)
{
    SnapshotGroupMember *info = g_new0(SnapshotGroupMember, 1);

    info->node = g_strdup(m->node);
    info->file = g_strdup(m->file);
    info->overlay = g_strdup(m->overlay);
    info->overlay_file = g_strdup(m->overlay_file);
    info->snapshot = g_strdup(m->snapshot);
    info->state = m->state;
    KNOWN(info, longest_wait, m->longest_wait);
    KNOWN(info, settle_duration, m->settle_ns);
    return info;
}

static SnapshotGroupInfo *group_info(const Group *g)
{
    SnapshotGroupInfo *info = g_new0(SnapshotGroupInfo, 1);

    info->id = g_strdup(g->id);
    info->uuid = g_strdup(g->uuid);
    info->state = g->state;
    info->durable = g->durable;
    info->recovered = g->recovered;
    info->retired = g->retired;
    info->has_cut_time = g->cut_time != 0;
    info->cut_time = g->cut_time;
    KNOWN(info, prepare_duration, g->prepare_ns);
    KNOWN(info, record_duration, g->record_ns);
    KNOWN(info, cut_duration, g->cut_ns);
    KNOWN(info, settle_duration, g->settle_ns);
    KNOWN(info, longest_wait, g->longest_wait);
    for (guint i = g->members->len; i-- > 0;) {
        SnapshotGroupMemberList *l = g_new0(SnapshotGroupMemberList, 1);

        l->value = member_info(g_ptr_array_index(g->members, i));
        l->next = info->members;
        info->members = l;
    }
    for (guint i = g->messages->len; i-- > 0;) {
        strList *l = g_new0(strList, 1);

        l->value = g_strdup(g_ptr_array_index(g->messages, i));
        l->next = info->messages;
        info->messages = l;
    }
    return info;
}

SnapshotGroupInfoList *group_query(const char *id)
{
    SnapshotGroupInfoList *list = NULL;

    for (const GList *l = groups.tail; l; l = l->prev) {
        const Group *g = l->data;

        if (!id || strcmp(g->id, id) == 0) {
            SnapshotGroupInfoList *e = g_new0(SnapshotGroupInfoList, 1);

            e->value = group_info(g);
            e->next = list;
            list = e;
        }
    }
    return list;
}

/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Superseded disks; journal-superseded.h says what they are.
 *
 * Opening one for writing is refused, or follows to the newest overlay.  A record whose overlay is gone protects nothing any more: it
 * warns, once.
 */
#include "journal-superseded.h"
#include "block/graph.h"
#include "block/superseded.h"
#include "qapi-types.h"
#include "util/log.h"
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

typedef struct Superseded {
    char *group, *file, *overlay_file;
    FileIdentity id;
    int64_t at;
    bool warned;
    bool merged;     /* no group put an overlay on it: a job moved its users to overlay_file ... */
    FilePrint print; /* ... when it was like this */
} Superseded;

static GHashTable *by_inode; /* ino -> GPtrArray of Superseded *, oldest first */
static bool follow_on;

static void entry_free(gpointer p)
{
    Superseded *s = p;

    g_free(s->group);
    g_free(s->file);
    g_free(s->overlay_file);
    g_free(s);
}

static Superseded *add(const char *group, const char *file, const FileIdentity *id,
                       const char *overlay_file, int64_t at)
{
    Superseded *s;
    GPtrArray *list;

    if (!by_inode) {
        by_inode = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free,
                                         (GDestroyNotify)g_ptr_array_unref);
    }
    list = g_hash_table_lookup(by_inode, &id->ino);
    if (!list) {
        list = g_ptr_array_new_with_free_func(entry_free);
        g_hash_table_insert(by_inode, g_memdup2(&id->ino, sizeof(id->ino)), list);
    }
    s = g_new0(Superseded, 1);
    s->group = g_strdup(group);
    s->file = g_strdup(file);
    s->overlay_file = g_strdup(overlay_file);
    s->id = *id;
    s->at = at;
    g_ptr_array_add(list, s);
    return s;
}

void superseded_add(const char *group, const char *file, const FileIdentity *id,
                    const char *overlay_file, int64_t at)
{
    if (overlay_file && id->ino != 0) {
        add(group, file, id, overlay_file, at);
    }
}

void superseded_add_merged(const char *file, const FileIdentity *id, const char *into_file,
                           const FilePrint *print, int64_t at)
{
    Superseded *s = add("", file, id, into_file, at);

    s->merged = true;
    s->print = *print;
}

bool superseded_has(const FileIdentity *id)
{
    GPtrArray *list = by_inode ? g_hash_table_lookup(by_inode, &id->ino) : NULL;

    for (guint i = 0; list && i < list->len; i++) {
        if (file_identity_equal(&((Superseded *)g_ptr_array_index(list, i))->id, id)) {
            return true;
        }
    }
    return false;
}

void superseded_relink(const char *file, const FileIdentity *id, const char *overlay_file,
                       int64_t at)
{
    GPtrArray *list = by_inode ? g_hash_table_lookup(by_inode, &id->ino) : NULL;
    g_autofree char *group = NULL;

    for (guint i = list ? list->len : 0; i-- > 0;) {
        Superseded *s = g_ptr_array_index(list, i);

        if (file_identity_equal(&s->id, id) && s->at < at) {
            if (!group) {
                group = g_strdup(s->group);
            }
            g_ptr_array_remove_index(list, i);
        }
    }
    if (overlay_file) {
        superseded_add(group ? group : "", file, id, overlay_file, at);
    }
}

void superseded_add_group(const Group *g)
{
    for (guint i = 0; i < g->members->len; i++) {
        const GroupMember *m = g_ptr_array_index(g->members, i);
        FileIdentity id;

        if (m->file && file_identity_at(AT_FDCWD, m->file, &id) == 0) {
            superseded_add(g->id, m->file, &id, m->overlay_file, g_get_real_time() * 1000);
        }
    }
}

void superseded_set_follow(bool follow)
{
    follow_on = follow;
}

void superseded_clear(void)
{
    g_clear_pointer(&by_inode, g_hash_table_destroy);
    follow_on = false;
}

/* Has the file been made an overlay since? */
static bool used_again(const Superseded *merged)
{
    GHashTableIter iter;
    gpointer list;

    g_hash_table_iter_init(&iter, by_inode);
    while (g_hash_table_iter_next(&iter, NULL, &list)) {
        for (guint i = 0; i < ((GPtrArray *)list)->len; i++) {
            const Superseded *s = g_ptr_array_index((GPtrArray *)list, i);

            if (s->at > merged->at && strcmp(s->overlay_file, merged->file) == 0) {
                return true;
            }
        }
    }
    return false;
}

/* Is it still what the job left?  Who makes an image anew in the same file, or writes to it otherwise, knows what he does. */
static bool is_untouched(const Superseded *s)
{
    FilePrint now;

    return file_print(s->file, &now) && file_print_equal(&now, &s->print) && !used_again(s);
}

/* The newest record of the file; NULL: none that counts. */
static const Superseded *find(const char *file)
{
    FileIdentity id;
    GPtrArray *list;

    if (!by_inode || file_identity_at(AT_FDCWD, file, &id) < 0 ||
        !(list = g_hash_table_lookup(by_inode, &id.ino))) {
        return NULL;
    }
    for (guint i = list->len; i-- > 0;) {
        Superseded *s = g_ptr_array_index(list, i);

        if (!file_identity_equal(&s->id, &id) || (s->merged && !is_untouched(s))) {
            continue;
        }
        if (access(s->overlay_file, F_OK) == 0) {
            return s;
        }
        if (!s->warned && !s->merged) {
            s->warned = true;
            log_warn("snapshot group %s put '%s' on '%s', but the overlay is not there any more",
                     s->group, s->overlay_file, file);
        }
    }
    return NULL;
}

static Superseded *find_merged(const char *file)
{
    Superseded *newest = NULL;
    GHashTableIter iter;
    gpointer list;

    if (!by_inode) {
        return NULL;
    }
    g_hash_table_iter_init(&iter, by_inode);
    while (g_hash_table_iter_next(&iter, NULL, &list)) {
        for (guint i = 0; i < ((GPtrArray *)list)->len; i++) {
            Superseded *s = g_ptr_array_index((GPtrArray *)list, i);

            if (s->merged && strcmp(s->file, file) == 0 && (!newest || s->at > newest->at)) {
                newest = s;
            }
        }
    }
    return newest;
}

bool superseded_is_merged(const char *file)
{
    const Superseded *s = find_merged(file);

    return s && find(file) == s;
}

void superseded_set_print(const char *file, const FilePrint *print)
{
    Superseded *s = find_merged(file);

    if (s) {
        s->print = *print;
    }
}

/* The newest overlay over s; bounded, since files can be renamed into a ring. */
static const Superseded *top_of(const Superseded *s)
{
    for (int depth = 0; depth < 1000; depth++) {
        const Superseded *next = find(s->overlay_file);

        if (!next) {
            return s;
        }
        s = next;
    }
    return NULL;
}

/* ---- options ---- */

static const char *file_of_ref(const BlockdevRef *ref);

/* The file behind these options, as far as they say; NULL: none. */
static const char *file_of(const BlockdevOptions *o)
{
    const BlockdevRef *below = options_file(o);

    return o->driver == BLOCKDEV_DRIVER_FILE          ? o->u.file.filename
           : o->driver == BLOCKDEV_DRIVER_HOST_DEVICE ? o->u.host_device.filename
           : below                                    ? file_of_ref(below)
                                                      : NULL;
}

static const char *file_of_node(const Node *n)
{
    while (n->file) {
        n = n->file->target;
    }
    return n->options && (n->options->driver == BLOCKDEV_DRIVER_FILE ||
                          n->options->driver == BLOCKDEV_DRIVER_HOST_DEVICE)
               ? n->options->u.file.filename /* of both */
               : NULL;
}

static const char *file_of_ref(const BlockdevRef *ref)
{
    const Node *n;

    if (ref->type == QAPI_KIND_OBJECT) {
        return file_of(ref->u.definition);
    }
    n = node_find(ref->u.reference);
    return n ? file_of_node(n) : NULL;
}

/* Opens it for writing?  A file that becomes writable only when its user needs it is asked about when that is opened. */
static bool for_writing(const BlockdevOptions *o)
{
    return !(o->has_read_only && o->read_only) && !(o->has_auto_read_only && o->auto_read_only);
}

/* The same disk with its newest overlay: what is common to all drivers stays, the file is another one. */
static bool follow_to(const BlockdevOptions *o, const Superseded *top, BlockdevOptions **ret,
                      Error **errp)
{
    static const char *const common[] = {"node-name", "discard",     "cache",
                                         "read-only", "force-share", "detect-zeroes"};
    struct json_object *have = qapi_serialise_BlockdevOptions(o), *want = json_object_new_object(),
                       *file = json_object_new_object();
    bool ok;

    json_object_object_add(want, "driver", json_object_new_string("qcow2"));
    for (unsigned i = 0; i < G_N_ELEMENTS(common); i++) {
        struct json_object *v;

        if (json_object_object_get_ex(have, common[i], &v)) {
            json_object_object_add(want, common[i], json_object_get(v));
        }
    }
    json_object_object_add(file, "driver",
                           json_object_new_string(filename_driver(top->overlay_file)));
    json_object_object_add(file, "filename", json_object_new_string(top->overlay_file));
    json_object_object_add(want, "file", file);
    ok = qapi_parse_BlockdevOptions(want, ret, errp);
    json_object_put(want);
    json_object_put(have);
    return ok;
}

/* The quorum that o is or has as its file, defined in place; NULL: none. */
static const BlockdevOptionsQuorum *quorum_of(const BlockdevOptions *o)
{
    for (const BlockdevRef *ref; o->driver != BLOCKDEV_DRIVER_QUORUM; o = ref->u.definition) {
        ref = options_file(o);
        if (!ref || ref->type != QAPI_KIND_OBJECT) {
            return NULL;
        }
    }
    return &o->u.quorum;
}

/* Of several places none is followed to an overlay: the others would be left behind. */
static bool check_quorum(const BlockdevOptionsQuorum *q, Error **errp)
{
    for (const BlockdevRefList *l = q->children; l; l = l->next) {
        const char *file = file_of_ref(l->value);
        const Superseded *s = file ? find(file) : NULL;

        if (s) {
            error_set(errp, ERROR_BUSY, file, "open",
                      "Disk '%s' was superseded by '%s' in snapshot group '%s': writing to it "
                      "would damage the overlay",
                      file, s->overlay_file, s->group);
            return false;
        }
    }
    return true;
}

/* Nor is a blkverify node's pair. */
static bool check_pair(const BlockdevOptions *o, Error **errp)
{
    const BlockdevOptionsBlkverify *v = &o->u.blkverify;
    BlockdevRefList raw = {.value = v->raw};
    BlockdevRefList test = {.value = v->test, .next = &raw};
    BlockdevOptionsQuorum both = {.children = &test};

    return check_quorum(&both, errp);
}

bool superseded_check(const BlockdevOptions *o, BlockdevOptions **ret_instead, Error **errp)
{
    const BlockdevOptionsQuorum *quorum = for_writing(o) ? quorum_of(o) : NULL;
    const char *file = for_writing(o) ? file_of(o) : NULL;
    const Superseded *s = file ? find(file) : NULL, *top;

    *ret_instead = NULL;
    if (o->driver == BLOCKDEV_DRIVER_BLKVERIFY && for_writing(o)) {
        return check_pair(o, errp);
    }
    if (quorum) {
        return check_quorum(quorum, errp);
    }
    if (!s) {
        return true;
    }
    top = top_of(s);
    if (follow_on && top && !top->merged &&
        !(o->driver == BLOCKDEV_DRIVER_QCOW2 && o->u.qcow2.backing)) {
        log_info("'%s' was superseded by '%s' in snapshot group %s, which is opened instead", file,
                 top->overlay_file, top->group);
        return follow_to(o, top, ret_instead, errp);
    }
    if (s->merged) {
        error_set(
            errp, ERROR_BUSY, file, "open",
            "Disk '%s' was merged into '%s', which its users were moved to: what is in it is old",
            file, s->overlay_file);
        return false;
    }
    error_set(errp, ERROR_BUSY, file, "open",
              "Disk '%s' was superseded by '%s' in snapshot group '%s': writing to it would damage "
              "the overlay",
              file, s->overlay_file, s->group);
    if (top && top != s) {
        error_hint(errp, "The newest overlay is '%s'", top->overlay_file);
    }
    return false;
}

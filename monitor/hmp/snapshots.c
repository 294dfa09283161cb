/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Console commands about internal snapshots.
 *
 * `info snapshots` looks at all disks that can have some: what devices hold, then nodes that nobody uses as a part of another.  A snapshot is of a
 * machine if all of them have one of its name; what only some have is shown disk by disk.
 */
#include "block/backend.h"
#include "block/driver.h"
#include "block/internal-snapshot.h"
#include "hmp-table.h"
#include "qapi-types.h"
#include <string.h>

bool coroutine_fn hmp_snapshot_blkdev_internal(Hmp *h, struct json_object *args, Error **errp)
{
    (void)h;
    return hmp_qmp(
        "blockdev-snapshot-internal-sync",
        hmp_object("device", hmp_string(args, "device"), "name", hmp_string(args, "name"), NULL),
        NULL, errp);
}

bool coroutine_fn hmp_snapshot_delete_blkdev_internal(Hmp *h, struct json_object *args,
                                                      Error **errp)
{
    g_autoptr(JsonObject) gone = NULL;

    (void)h;
    return hmp_qmp("blockdev-snapshot-delete-internal-sync",
                   hmp_object("device", hmp_string(args, "device"), "name",
                              hmp_string(args, "name"), "id", hmp_string(args, "id"), NULL),
                   &gone, errp);
}

/* ---- info snapshots ---- */

typedef struct Disk {
    char *device; /* empty: none */
    SnapshotInfoList *snapshots;
} Disk;

static void disk_free(gpointer p)
{
    Disk *d = p;

    g_free(d->device);
    qapi_free_SnapshotInfoList(d->snapshots);
    g_free(d);
}

static void add_disk(GPtrArray *disks, GHashTable *seen, Node *n, const char *device)
{
    Node *keeper = n ? internal_snapshot_node(n) : NULL;
    Disk *d;

    if (!keeper || atomic_load(&n->read_only) || !g_hash_table_add(seen, keeper)) {
        return;
    }
    d = g_new0(Disk, 1);
    d->device = g_strdup(device);
    d->snapshots = keeper->driver->snapshots->list(keeper);
    g_ptr_array_add(disks, d);
}

static bool is_root(const Node *n)
{
    for (guint i = 0; i < n->parents->len; i++) {
        if (((const Edge *)g_ptr_array_index(n->parents, i))->parent) {
            return false;
        }
    }
    return n->monitor_owned;
}

static GPtrArray *find_disks(void)
{
    GPtrArray *disks = g_ptr_array_new_with_free_func(disk_free);
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    g_autoptr(GPtrArray) backends = backend_list(), nodes = node_list();

    for (guint i = 0; i < backends->len; i++) {
        const Backend *b = g_ptr_array_index(backends, i);

        add_disk(disks, seen, backend_edge(b) ? backend_edge(b)->target : NULL, backend_name(b));
    }
    for (guint i = nodes->len; i-- > 0;) {
        Node *n = g_ptr_array_index(nodes, i);

        if (is_root(n)) {
            add_disk(disks, seen, n, "");
        }
    }
    return disks;
}

static bool has(const Disk *d, const char *name)
{
    for (const SnapshotInfoList *l = d->snapshots; l; l = l->next) {
        if (strcmp(l->value->name, name) == 0) {
            return true;
        }
    }
    return false;
}

static bool all_have(const GPtrArray *disks, const char *name)
{
    for (guint i = 0; i < disks->len; i++) {
        if (!has(g_ptr_array_index(disks, i), name)) {
            return false;
        }
    }
    return true;
}

static void print_head(Hmp *h)
{
    hmp_print(h, "%-7s %-16s %8s %19s %15s %10s\n", "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK",
              "ICOUNT");
}

static void print_snapshot(Hmp *h, const SnapshotInfo *s, const char *id)
{
    g_autofree char *size = hmp_human_size(s->vm_state_size);
    g_autoptr(GDateTime) date = g_date_time_new_from_unix_local(s->date_sec);
    g_autofree char *when = date ? g_date_time_format(date, "%Y-%m-%d %H:%M:%S") : g_strdup("--");
    g_autofree char *icount =
        s->has_icount ? g_strdup_printf("%" G_GINT64_FORMAT, s->icount) : g_strdup("--");
    int64_t sec = s->vm_clock_sec;
    g_autofree char *clock =
        g_strdup_printf("%04d:%02d:%02d.%03d", (int)(sec / 3600), (int)(sec / 60 % 60),
                        (int)(sec % 60), (int)(s->vm_clock_nsec / 1000000));

    hmp_print(h, "%-7s %-16s %8s %19s %15s %10s\n", id, s->name, size, when, clock, icount);
}

void hmp_print_snapshots(Hmp *h, const SnapshotInfoList *list)
{
    print_head(h);
    for (; list; list = list->next) {
        print_snapshot(h, list->value, list->value->id);
    }
}

/* Those that all disks have, or those that not all have; how many. */
static unsigned print_list(Hmp *h, const GPtrArray *disks, const Disk *d, bool common)
{
    unsigned n = 0;

    for (const SnapshotInfoList *l = d->snapshots; l; l = l->next) {
        if (all_have(disks, l->value->name) != common) {
            continue;
        }
        if (n++ == 0) {
            if (!common) {
                hmp_print(h, "\nList of partial (non-loadable) snapshots on '%s':\n", d->device);
            }
            print_head(h);
        }
        print_snapshot(h, l->value, common ? "--" : l->value->id);
    }
    return n;
}

bool coroutine_fn hmp_info_snapshots(Hmp *h, struct json_object *args, Error **errp)
{
    g_autoptr(GPtrArray) disks = find_disks();
    bool any = false;

    (void)args;
    if (disks->len == 0) {
        error_set(errp, ERROR_UNSUPPORTED, NULL, "console",
                  "no block device can store vmstate for snapshot");
        return false;
    }
    for (guint i = 0; i < disks->len; i++) {
        any |= ((const Disk *)g_ptr_array_index(disks, i))->snapshots != NULL;
    }
    if (!any) {
        hmp_print(h, "There is no snapshot available.\n");
        return true;
    }
    hmp_print(h, "List of snapshots present on all disks:\n");
    if (print_list(h, disks, g_ptr_array_index(disks, 0), true) == 0) {
        hmp_print(h, "None\n");
    }
    for (guint i = 0; i < disks->len; i++) {
        print_list(h, disks, g_ptr_array_index(disks, i), false);
    }
    return true;
}

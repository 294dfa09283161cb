/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The table of drivers, and probing.
 */
#include "block/driver.h"
#include "block/image-created.h"
#include "qapi-types.h"
#include <string.h>

static GPtrArray *drivers;

void driver_register(const BlockDriver *driver)
{
    if (!drivers) {
        drivers = g_ptr_array_new();
    }
    g_ptr_array_add(drivers, (void *)driver);
}

const BlockDriver *driver_find(const char *name)
{
    for (guint i = 0; drivers && i < drivers->len; i++) {
        const BlockDriver *d = g_ptr_array_index(drivers, i);

        if (strcmp(d->name, name) == 0) {
            return d;
        }
    }
    return NULL;
}

static gint compare_names(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

GPtrArray *driver_names(void)
{
    GPtrArray *names = g_ptr_array_new();

    for (guint i = 0; drivers && i < drivers->len; i++) {
        const BlockDriver *d = g_ptr_array_index(drivers, i);

        g_ptr_array_add(names, (gpointer)d->name);
    }
    g_ptr_array_sort(names, compare_names);
    return names;
}

const BlockDriver *driver_of_protocol(const char *protocol)
{
    for (guint i = 0; drivers && i < drivers->len; i++) {
        const BlockDriver *d = g_ptr_array_index(drivers, i);

        if (d->protocols && g_strv_contains(d->protocols, protocol)) {
            return d;
        }
    }
    return NULL;
}

/* A LUKS volume, version 1 (LUKS On-Disk Format, "Partition header"): magic and version. */
static bool is_luks(const uint8_t *buf, size_t len)
{
    static const uint8_t magic[] = {'L', 'U', 'K', 'S', 0xba, 0xbe, 0, 1};

    return len >= sizeof(magic) && memcmp(buf, magic, sizeof(magic)) == 0;
}

const BlockDriver *driver_probe(const uint8_t *buf, size_t len, Error **errp)
{
    for (guint i = 0; drivers && i < drivers->len; i++) {
        const BlockDriver *d = g_ptr_array_index(drivers, i);

        if (d->probe && d->probe(buf, len)) {
            return d;
        }
    }
    if (is_luks(buf, len)) {
        error_set(errp, ERROR_UNSUPPORTED, NULL, "open",
                  "Image is encrypted with LUKS, which is not supported; only the format 'raw' "
                  "gives its encrypted bytes");
        return NULL;
    }
    return &driver_raw;
}

void image_facts_clear(ImageFacts *f)
{
    g_free(f->backing_file);
    g_free(f->backing_format);
    qapi_free_ImageInfoSpecific(f->specific);
    qapi_free_SnapshotInfoList(f->snapshots);
    *f = (ImageFacts){0};
}

static ImageCreatedFn *image_listener;

void image_created_set_listener(ImageCreatedFn *fn)
{
    image_listener = fn;
}

void image_created(const char *filename, const char *format, const CreateSpec *spec)
{
    if (image_listener) {
        image_listener(filename, format, spec);
    }
}

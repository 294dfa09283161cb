/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Simulated machines: disks that work, and the record of what was done to them.
 * include/block/simdisk.h defines the model.
 */
#include "sim-internal.h"
#include <errno.h>
#include <string.h>

/* ---- machines ---- */

static void record_free(gpointer p)
{
    SimRecord *r = p;

    g_free(r->data);
    g_free(r);
}

static void disk_free(gpointer p)
{
    SimDisk *d = p;

    g_assert(d->users == 0);
    g_ptr_array_free(d->ops, true);
    sim_image_clear(&d->initial);
    sim_image_clear(&d->now);
    g_free(d->name);
    g_free(d);
}

static void machine_setup(SimMachine *m)
{
    m->disks = g_ptr_array_new_with_free_func(disk_free);
    m->ops = g_ptr_array_new_with_free_func(record_free);
    m->clock = m->applied = m->fail_at = m->stop_at = 0;
    m->stopped = false;
    m->latency_max = 0;
}

static void machine_clear(SimMachine *m)
{
    g_ptr_array_free(m->disks, true);
    g_ptr_array_free(m->ops, true);
    if (m->log) {
        fclose(m->log);
        m->log = NULL;
    }
}

SimMachine *simmachine_new(void)
{
    SimMachine *m = g_new0(SimMachine, 1);

    pthread_mutex_init(&m->lock, NULL);
    machine_setup(m);
    return m;
}

void simmachine_free(SimMachine *m)
{
    machine_clear(m);
    pthread_mutex_destroy(&m->lock);
    g_free(m);
}

static SimMachine *default_machine;

static void make_default(void)
{
    default_machine = simmachine_new();
}

SimMachine *simmachine_default(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, make_default);
    return default_machine;
}

void simmachine_reset(SimMachine *m)
{
    pthread_mutex_lock(&m->lock);
    machine_clear(m);
    machine_setup(m);
    pthread_mutex_unlock(&m->lock);
}

void simmachine_fail(SimMachine *m, uint64_t k, int err)
{
    pthread_mutex_lock(&m->lock);
    m->fail_at = k;
    m->fail_err = err;
    pthread_mutex_unlock(&m->lock);
}

void simmachine_stop(SimMachine *m, uint64_t k)
{
    pthread_mutex_lock(&m->lock);
    m->stop_at = k;
    pthread_mutex_unlock(&m->lock);
}

void simmachine_stop_now(SimMachine *m)
{
    pthread_mutex_lock(&m->lock);
    m->stopped = true;
    pthread_mutex_unlock(&m->lock);
}

bool simmachine_stopped(SimMachine *m)
{
    bool stopped;

    pthread_mutex_lock(&m->lock);
    stopped = m->stopped;
    pthread_mutex_unlock(&m->lock);
    return stopped;
}

void simmachine_set_latency(SimMachine *m, int64_t max_ns, uint64_t seed)
{
    pthread_mutex_lock(&m->lock);
    m->latency_max = max_ns;
    m->random = seed;
    pthread_mutex_unlock(&m->lock);
}

int64_t sim_latency(SimMachine *m)
{
    int64_t ns = 0;

    pthread_mutex_lock(&m->lock);
    if (m->latency_max > 0 && !m->stopped) {
        ns = 1 + sim_random(&m->random) % m->latency_max;
    }
    pthread_mutex_unlock(&m->lock);
    return ns;
}

bool simmachine_set_log(SimMachine *m, const char *path, Error **errp)
{
    FILE *log = path ? fopen(path, "we") : NULL;

    if (path && !log) {
        error_set_errno(errp, errno, path, "open", "Could not open '%s'", path);
        return false;
    }
    pthread_mutex_lock(&m->lock);
    if (m->log) {
        fclose(m->log);
    }
    m->log = log;
    pthread_mutex_unlock(&m->lock);
    return true;
}

/* ---- disks ---- */

SimDisk *sim_find(SimMachine *m, const char *name)
{
    for (guint i = 0; i < m->disks->len; i++) {
        SimDisk *d = g_ptr_array_index(m->disks, i);

        if (strcmp(d->name, name) == 0) {
            return d;
        }
    }
    return NULL;
}

static SimDisk *add_disk(SimMachine *m, const char *name, const SimImage *content)
{
    SimDisk *d = g_new0(SimDisk, 1);

    d->machine = m;
    d->name = g_strdup(name);
    d->ops = g_ptr_array_new();
    d->max_size = content->size;
    sim_image_copy(&d->initial, content);
    sim_image_copy(&d->now, content);
    g_ptr_array_add(m->disks, d);
    return d;
}

SimDisk *simdisk_get(SimMachine *m, const char *name, uint64_t size, Error **errp)
{
    SimImage empty;
    SimDisk *d;

    if (size > SIM_SIZE_MAX || size % SIM_SECTOR) {
        error_set(errp, ERROR_INVALID, name, "open",
                  "Simulated disk '%s': size %" G_GUINT64_FORMAT " is not possible", name, size);
        return NULL;
    }
    sim_image_init(&empty, size);
    pthread_mutex_lock(&m->lock);
    d = sim_find(m, name);
    if (!d) {
        d = add_disk(m, name, &empty);
    }
    pthread_mutex_unlock(&m->lock);
    sim_image_clear(&empty);
    return d;
}

bool simmachine_load(SimMachine *m, const char *name, const char *path, Error **errp)
{
    bool in_use;
    SimImage content;
    SimDisk *d;

    if (!sim_image_load(&content, path, errp)) {
        return false;
    }
    pthread_mutex_lock(&m->lock);
    d = sim_find(m, name);
    in_use = d && (d->users > 0 || d->ops->len > 0);
    if (!in_use) {
        if (d) {
            g_ptr_array_remove(m->disks, d);
        }
        add_disk(m, name, &content);
    }
    pthread_mutex_unlock(&m->lock);
    sim_image_clear(&content);
    if (in_use) {
        error_set(errp, ERROR_BUSY, name, "load", "Simulated disk '%s' is in use or has a record",
                  name);
    }
    return !in_use;
}

bool sim_take(SimDisk *d)
{
    bool taken;

    pthread_mutex_lock(&d->machine->lock);
    taken = d->users == 0;
    d->users = 1;
    pthread_mutex_unlock(&d->machine->lock);
    return taken;
}

void sim_give_back(SimDisk *d)
{
    pthread_mutex_lock(&d->machine->lock);
    d->users = 0;
    pthread_mutex_unlock(&d->machine->lock);
}

uint64_t simdisk_size(SimDisk *d)
{
    uint64_t size;

    pthread_mutex_lock(&d->machine->lock);
    size = d->now.size;
    pthread_mutex_unlock(&d->machine->lock);
    return size;
}

bool simmachine_size(SimMachine *m, const char *disk, uint64_t *ret_size)
{
    SimDisk *d;

    pthread_mutex_lock(&m->lock);
    d = sim_find(m, disk);
    if (d) {
        *ret_size = d->now.size;
    }
    pthread_mutex_unlock(&m->lock);
    return d;
}

char **simmachine_disks(SimMachine *m)
{
    char **names;

    pthread_mutex_lock(&m->lock);
    names = g_new0(char *, m->disks->len + 1);
    for (guint i = 0; i < m->disks->len; i++) {
        names[i] = g_strdup(((SimDisk *)g_ptr_array_index(m->disks, i))->name);
    }
    pthread_mutex_unlock(&m->lock);
    return names;
}

bool simmachine_save(SimMachine *m, const char *disk, const char *path, Error **errp)
{
    SimImage copy = {0};
    SimDisk *d;
    bool ok;

    pthread_mutex_lock(&m->lock);
    d = sim_find(m, disk);
    if (d) {
        sim_image_copy(&copy, &d->now);
    }
    pthread_mutex_unlock(&m->lock);
    if (!d) {
        error_set(errp, ERROR_NOT_FOUND, disk, "save", "There is no simulated disk '%s'", disk);
        return false;
    }
    ok = sim_image_save(&copy, path, errp);
    sim_image_clear(&copy);
    return ok;
}

/* ---- operations ---- */

SimTicket sim_issue(SimDisk *d, SimOpKind kind, uint64_t offset, uint64_t bytes, const void *data)
{
    SimMachine *m = d->machine;
    SimRecord *r;
    SimTicket t = {0};

    g_assert(offset % SIM_SECTOR == 0 && bytes % SIM_SECTOR == 0);
    pthread_mutex_lock(&m->lock);
    if (!m->stopped) {
        r = g_new0(SimRecord, 1);
        r->index = t.index = m->ops->len + 1;
        r->disk = d;
        r->kind = kind;
        r->offset = offset;
        r->bytes = bytes;
        r->data = kind == SIM_WRITE ? g_memdup2(data, bytes) : NULL;
        r->issued = ++m->clock;
        r->err = r->index == m->fail_at ? m->fail_err : 0;
        if (kind == SIM_TRUNCATE) {
            d->max_size = MAX(d->max_size, bytes);
        }
        g_ptr_array_add(m->ops, r);
        g_ptr_array_add(d->ops, r);
    }
    pthread_mutex_unlock(&m->lock);
    return t;
}

static SimRecord *record_of(SimMachine *m, SimTicket t)
{
    return t.index ? g_ptr_array_index(m->ops, t.index - 1) : NULL;
}

void sim_apply(SimDisk *d, SimTicket t)
{
    SimMachine *m = d->machine;
    SimRecord *r;

    pthread_mutex_lock(&m->lock);
    r = record_of(m, t);
    if (r && !m->stopped && !r->err) {
        g_assert(!r->applied && !r->completed);
        r->applied = ++m->applied;
        switch (r->kind) {
        case SIM_WRITE:
            sim_image_write(&d->now, r->offset, r->data, r->bytes);
            break;
        case SIM_ZERO:
        case SIM_DISCARD:
            sim_image_zero(&d->now, r->offset, r->bytes);
            break;
        case SIM_TRUNCATE:
            r->old_size = d->now.size;
            sim_image_resize(&d->now, r->bytes);
            break;
        case SIM_FLUSH:
            break;
        }
    }
    pthread_mutex_unlock(&m->lock);
}

static void log_op(SimMachine *m, const SimRecord *r)
{
    static const char *const kinds[] = {"write", "zero", "discard", "truncate", "flush"};

    fprintf(m->log,
            "%" G_GUINT64_FORMAT " %s %s %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT
            " %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT " %d\n",
            r->index, r->disk->name, kinds[r->kind], r->offset, r->bytes, r->issued, r->completed,
            r->result);
    fflush(m->log);
}

int sim_complete(SimDisk *d, SimTicket t)
{
    SimMachine *m = d->machine;
    SimRecord *r;
    int ret = -EIO;

    pthread_mutex_lock(&m->lock);
    r = record_of(m, t);
    if (r && m->stopped) {
        r->result = -EIO;
    } else if (r) {
        g_assert(!r->completed && (r->applied || r->err));
        r->completed = ++m->clock;
        r->result = ret = -r->err;
        if (m->log) {
            log_op(m, r);
        }
        if (r->index == m->stop_at) {
            m->stopped = true;
        }
    }
    pthread_mutex_unlock(&m->lock);
    return ret;
}

int sim_read(SimDisk *d, uint64_t offset, void *buf, uint64_t bytes)
{
    int ret = -EIO;

    pthread_mutex_lock(&d->machine->lock);
    if (!d->machine->stopped) {
        sim_image_read(&d->now, offset, buf, bytes);
        ret = 0;
    }
    pthread_mutex_unlock(&d->machine->lock);
    return ret;
}

bool sim_has_data(SimDisk *d, uint64_t offset, uint64_t bytes, uint64_t *ret_len)
{
    bool data;

    pthread_mutex_lock(&d->machine->lock);
    data = sim_image_has_data(&d->now, offset, bytes, ret_len);
    pthread_mutex_unlock(&d->machine->lock);
    return data;
}

/* ---- the record ---- */

uint64_t simmachine_ops(SimMachine *m)
{
    uint64_t n;

    pthread_mutex_lock(&m->lock);
    n = m->ops->len;
    pthread_mutex_unlock(&m->lock);
    return n;
}

uint64_t simmachine_time(SimMachine *m)
{
    uint64_t t;

    pthread_mutex_lock(&m->lock);
    t = m->clock;
    pthread_mutex_unlock(&m->lock);
    return t;
}

void simmachine_op(SimMachine *m, uint64_t k, SimOp *ret)
{
    SimRecord *r;

    pthread_mutex_lock(&m->lock);
    g_assert(k >= 1 && k <= m->ops->len);
    r = g_ptr_array_index(m->ops, k - 1);
    *ret = (SimOp){
        .index = r->index,
        .disk = r->disk->name,
        .kind = r->kind,
        .offset = r->offset,
        .bytes = r->bytes,
        .issued = r->issued,
        .completed = r->completed,
        .result = r->result,
    };
    pthread_mutex_unlock(&m->lock);
}

uint64_t simmachine_time_of(SimMachine *m, uint64_t k)
{
    SimOp op;

    simmachine_op(m, k, &op);
    return op.completed ? op.completed : op.issued;
}

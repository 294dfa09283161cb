/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The machine's state, as far as there is one, and the commands about it.
 */
#include "emulator.h"
#include "block/image-created.h"
#include "block/reopen.h"
#include "block/transaction.h"
#include "monitor/chardev.h"
#include "qapi-commands.h"
#include "qapi-events.h"
#include "qapi/dispatch.h"

static bool is_emulator;
static RunState state = RUN_STATE_RUNNING;

static struct json_object *coroutine_fn device_add(struct json_object *args, Error **errp)
{
    return device_new(args, errp) ? json_object_new_object() : NULL;
}

/* Users of emulators expect to read what image was made. */
static void print_created(const char *filename, const char *format, const CreateSpec *spec)
{
    g_autoptr(GString) s = g_string_new(NULL);

    g_string_append_printf(s, "Formatting '%s', fmt=%s cluster_size=%" G_GUINT64_FORMAT, filename,
                           format, spec->cluster_size ? spec->cluster_size : 65536);
    g_string_append_printf(s, " extended_l2=off compression_type=%s size=%" G_GUINT64_FORMAT,
                           spec->zstd ? "zstd" : "zlib", spec->size);
    if (spec->backing_file) {
        g_string_append_printf(s, " backing_file=%s backing_fmt=%s", spec->backing_file,
                               spec->backing_format);
    }
    g_string_append_printf(s, " lazy_refcounts=%s refcount_bits=%" G_GUINT64_FORMAT "\n",
                           spec->lazy_refcounts ? "on" : "off",
                           spec->refcount_bits ? spec->refcount_bits : 16);
    chardev_write_stdout(s->str, s->len);
}

void machine_init(bool emulator)
{
    is_emulator = emulator;
    if (!emulator) {
        media_hide_commands();
    } else {
        image_created_set_listener(print_created);
        snapshot_group_tell_unnamed(false); /* an emulator's clients know no such event */
    }
    qapi_set_open_command("device_add", device_add);
}

bool machine_is_emulator(void)
{
    return is_emulator;
}

void machine_set_prelaunch(void)
{
    state = state == RUN_STATE_INMIGRATE ? state : RUN_STATE_PRELAUNCH;
}

bool machine_is_incoming(void)
{
    return state == RUN_STATE_INMIGRATE;
}

void machine_set_incoming(void)
{
    state = RUN_STATE_INMIGRATE;
    node_set_inactive_by_default(true);
}

bool coroutine_fn machine_start(Error **errp)
{
    return state != RUN_STATE_RUNNING || blockdev_set_active(NULL, true, errp);
}

void machine_shutdown(bool by_signal)
{
    if (is_emulator) {
        qapi_event_send_shutdown(false, by_signal ? SHUTDOWN_CAUSE_HOST_SIGNAL
                                                  : SHUTDOWN_CAUSE_HOST_QMP_QUIT);
    }
}

bool coroutine_fn qmp_query_status(StatusInfo **ret_out, Error **errp)
{
    StatusInfo *i = g_new0(StatusInfo, 1);

    (void)errp;
    i->running = state == RUN_STATE_RUNNING;
    i->status = state;
    *ret_out = i;
    return true;
}

bool coroutine_fn qmp_stop(Error **errp)
{
    (void)errp;
    if (state == RUN_STATE_INMIGRATE) {
        return true; /* `cont` has still to give devices their disks */
    }
    if (state == RUN_STATE_RUNNING) {
        qapi_event_send_stop();
    }
    state = RUN_STATE_PAUSED;
    return true;
}

bool coroutine_fn qmp_cont(Error **errp)
{
    RunState was = state;

    if (!blockdev_set_active(NULL, true, errp)) {
        return false;
    }
    if (was == RUN_STATE_INMIGRATE) {
        state = RUN_STATE_PAUSED;
        if (!device_take_all(errp)) {
            state = was;
            return false;
        }
    }
    node_set_inactive_by_default(false);
    if (state != RUN_STATE_RUNNING) {
        qapi_event_send_resume();
    }
    state = RUN_STATE_RUNNING;
    return true;
}

bool coroutine_fn qmp_system_reset(Error **errp)
{
    (void)errp;
    qapi_event_send_reset(false, SHUTDOWN_CAUSE_HOST_QMP_SYSTEM_RESET);
    return true;
}

bool coroutine_fn qmp_device_del(const DeviceDelArg *arg, Error **errp)
{
    return device_del(arg->id, errp);
}

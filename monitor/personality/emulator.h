/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The emulator's personality: a machine without a machine.
 *
 * Started under a name qemu-system-*, the daemon takes the emulator's command line.  What concerns disks works (drives, nodes, devices that
 * hold disks, monitors); what concerns processors, displays or firmware is accepted and means nothing.  Private to monitor/; control
 * thread; words are those of block/backend.h.
 */
#ifndef MONITOR_EMULATOR_H
#define MONITOR_EMULATOR_H

#include "block/backend.h"
#include "util/coroutine.h"
#include "util/error.h"
#include <json-c/json.h>

/* ---- legacy-opts.c ---- */

/* "file.img,if=virtio,snapshot": values end at a comma (doubled: one comma), a name alone is on, with "no" before it off.  `implied`: the
 * name of a first element without "=", or NULL.  An object of strings, names as they are, last value counts; NULL with *errp. */
struct json_object *legacy_opts_parse(const char *text, const char *implied, Error **errp);
/* Takes a member out; NULL if there is none.  Freed by the caller. */
char *legacy_opts_take(struct json_object *opts, const char *name);
/* Members that are left, dots in their names nested. */
struct json_object *legacy_opts_nest(struct json_object *opts, Error **errp);

/* ---- drive.c ---- */

typedef enum DriveInterface {
    DRIVE_NONE,
    DRIVE_IDE,
    DRIVE_SCSI,
    DRIVE_FLOPPY,
    DRIVE_PFLASH,
    DRIVE_MTD,
    DRIVE_SD,
    DRIVE_VIRTIO,
    DRIVE_XEN,
} DriveInterface;

/* A drive of -drive or drive_add. */
typedef struct Drive {
    char *id;
    DriveInterface interface;
    int bus, unit;
    bool cdrom;
} Drive;

/* Makes a backend of -drive's options, with its medium if there is one.  *ret_drive belongs to the register of drives. */
bool coroutine_fn drive_new(const char *options, const Drive **ret_drive, Error **errp);
/* The drive behind a backend of that name; NULL if -drive did not make it. */
const Drive *drive_find(const char *id);
void drive_forget(const char *id);
void drive_forget_all(void);
/* Drives whose interface says that a device is theirs, without one. */
GPtrArray *drive_list(void);
/* "null-co://" and the like to options: an object for what is below the format.  NULL with *errp. */
struct json_object *drive_parse_filename(const char *filename, Error **errp);

/* snapshot=on is the default from now on. */
void drive_set_all_temporary(void);
/* Opens what a drive is to have: for writing if it can be, unless the options say otherwise; never a disk that a snapshot group has
 * superseded.  A reference is the caller's. */
Node *coroutine_fn drive_open(struct BlockdevOptions *options, Error **errp);

/* ---- temporary.c ---- */

/* The definition of an empty image that lies in a temporary file, with what is given as its backing.  *ret_path is the file's name, for
 * temporary_forget() when the image is open; the definition is freed by the caller.  Error: "Could not open temporary file '%s': ...". */
struct BlockdevOptions *coroutine_fn temporary_overlay(const struct BlockdevOptions *below,
                                                       char **ret_path, Error **errp);
/* Removes the name, and frees it; NULL: nothing. */
void coroutine_fn temporary_forget(char *path);

/* ---- device.c ---- */

/* Makes a device of -device's or device_add's options: an object of strings, booleans and numbers. */
bool coroutine_fn device_new(struct json_object *options, Error **errp);
/* The one that -drive's if= means. */
bool coroutine_fn device_new_for_drive(const Drive *d, Error **errp);
bool coroutine_fn device_del(const char *id, Error **errp);
/* The backend of a device, by its name or path; NULL with *errp. */
Backend *device_backend(const char *id, Error **errp);
/* Tells the device that uses b, if one does, that its tray is closed (load) or opened, or that its medium came or goes: it takes what it needs of
 * the medium, or gives it up; the event tells of a tray that moved.  Fails, with nothing changed, if others use the medium in a way that the
 * device does not bear. */
bool coroutine_fn device_load(Backend *b, bool load, Error **errp);
/* The machine goes on: devices take what they need of their disks.  One that cannot fails it; those before it keep what they have. */
bool coroutine_fn device_take_all(Error **errp);
void coroutine_fn device_free_all(void);
/* Names of devices, oldest first; and of the i-th type (NULL behind the last). */
char **device_names(void);
const char *device_type_name(unsigned i);
/* The output of -device help. */
void device_print_help(void);

/* ---- media.c ---- */

/* A storage daemon has no removable media: their commands are not there.  Before the first request. */
void media_hide_commands(void);
/* The backend that a command means by its device or id, of which one is not NULL; referenced. */
Backend *media_find_backend(const char *device, const char *id, Error **errp);

/* ---- machine.c ---- */

void machine_init(bool emulator);
bool machine_is_emulator(void);
void machine_set_prelaunch(void);
/* Somebody else still has the disks: they are inactive until `cont`, or until they are made active one by one. */
void machine_set_incoming(void);
/* It is so still; devices take nothing of their disks meanwhile. */
bool machine_is_incoming(void);
/* Everything is there: unless -S was given the guest would run from here on, and its disks are active. */
bool coroutine_fn machine_start(Error **errp);
/* Event SHUTDOWN, if an emulator is asked for. */
void machine_shutdown(bool by_signal);

/* ---- qtest.c ---- */

/* The test protocol on a character device: "chardev:ID". */
bool qtest_new(const char *device, Error **errp);
void qtest_close(void);

/* ---- options.c ---- */

/* Is this program an emulator, by its name? */
bool emulator_by_name(const char *program);
/* Reads the command line; exits for help, probes and bad syntax. */
struct CommandLine;
void emulator_parse(struct CommandLine *cl, int argc, char **argv);
/* Carries it out. */
bool coroutine_fn emulator_start(Error **errp);

/* ---- device-syntax.c ---- */

/* "stdio", "unix:/path,server=on", "tcp:host:port", "null", "chardev:id", ... to a character device with this name (or the one
 * that is named there).  *ret_id: freed by the caller; NULL for "none". */
bool coroutine_fn device_syntax_chardev(const char *text, const char *name, char **ret_id,
                                        Error **errp);

#endif

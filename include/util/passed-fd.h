/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Descriptors that clients pass to the process.
 *
 * Named ones (getfd) belong to the monitor that got them, and are used once: who takes one by its name owns it.
 * Sets (add-fd) belong to everybody: whoever opens "/dev/fdset/<number>" gets a descriptor of the set that permits what
 * he wants to do.  Sets live while they have members.
 *
 * Any thread, except where said.
 */
#ifndef UTIL_PASSED_FD_H
#define UTIL_PASSED_FD_H

#include "util/error.h"
#include <stdint.h>

/* ---- names ---- */

/* Keeps fd (consumed) as `name` of `owner`; one that had the name is closed. */
void named_fd_put(const void *owner, const char *name, int fd);
/* Takes the descriptor out; the caller owns it.  -1: there is none of that name. */
int named_fd_take(const void *owner, const char *name);
/* Closes all of an owner. */
void named_fd_forget(const void *owner);
/* Whose names count for code that does not know monitors: the monitor's answer for the running command.  Set once. */
void named_fd_set_owner(const void *(*current)(void));

/* What a socket address with a descriptor means: a name from getfd, or a number of a descriptor that the process has inherited.
 * Returns a descriptor that the caller owns, or -1 with *errp.  Control thread. */
int passed_fd_socket(const char *text, Error **errp);

/* ---- sets ---- */

/* Adds fd (consumed, also on failure) to a set: the one given if has_set, which comes to exist, else a new one with the lowest free
 * number.  opaque (copied, may be NULL) comes back in queries.  False with *errp: the number is negative. */
bool fdset_add(bool has_set, int64_t set, int fd, const char *opaque, int64_t *ret_set,
               Error **errp);
/* Removes one descriptor (fd < 0: all).  What was opened through the set goes on. */
bool fdset_remove(int64_t set, int64_t fd, Error **errp);
/* Calls fn for every member: sets by descending number, members in the order of their adding.  Not for calls of this interface. */
void fdset_foreach(void (*fn)(void *opaque, int64_t set, int fd, const char *text), void *opaque);

/* Is this the name of a set? */
bool fdset_is_name(const char *path);
/* Opens a member; flags as of open(2): access mode and O_DIRECT count.  A new description of the same file where the system permits
 * that, else a duplicate of a member that has just that access mode.  -ENOENT: no such set; -EACCES: no member permits it. */
int fdset_open(const char *path, int flags);

#endif

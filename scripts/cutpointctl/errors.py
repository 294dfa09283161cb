# SPDX-License-Identifier: BSD-3-Clause
"""Errors, each with the exit status that it leads to; what scripts can rely on is in the manual page."""

REFUSED = 1      # nothing has changed
USAGE = 2
UNKNOWN = 3      # no connection, or it was lost: what happened is not known
INCOMPLETE = 4   # the snapshot is there, but something after it failed
INTERRUPTED = 130


class CtlError(Exception):
    """One line for a person; status: of the process."""
    status = REFUSED


class Refused(CtlError):
    """The daemon or an agent said no."""

    def __init__(self, text, error_class='GenericError'):
        super().__init__(text)
        self.error_class = error_class


class UsageError(CtlError):
    status = USAGE


class Disconnected(CtlError):
    """Nobody is there, or does not answer any more."""
    status = UNKNOWN


class Incomplete(CtlError):
    status = INCOMPLETE


class Interrupted(CtlError):
    """A signal asked to stop."""
    status = INTERRUPTED

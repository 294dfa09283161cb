# SPDX-License-Identifier: BSD-3-Clause
"""Stopping one thread of another process."""
import ctypes
import os

SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17  # <sys/ptrace.h>
WALL = 0x40000000  # __WALL of waitpid


def stop_thread(tid):
    """Stops it as a debugger does, the others run on; call the result to let it go."""
    libc = ctypes.CDLL(None, use_errno=True)

    def ptrace(request):
        if libc.ptrace(request, tid, None, None) < 0:
            raise OSError(ctypes.get_errno(), 'ptrace')

    ptrace(SEIZE)
    ptrace(INTERRUPT)
    os.waitpid(tid, WALL)
    return lambda: ptrace(DETACH)

# SPDX-License-Identifier: BSD-3-Clause
"""What ends a test whose daemon does not answer any more, and tells where its threads are."""
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

from .daemon import SLOW


def stacks(pid):
    """Where the threads of a process are: by gdb, if there is one; else what the kernel says."""
    if shutil.which('gdb'):
        out = subprocess.run(['gdb', '-p', str(pid), '-batch', '-ex', 'thread apply all bt'], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors='replace').stdout
        if 'Thread' in out:
            return out
    lines = []
    for task in sorted(Path(f'/proc/{pid}/task').iterdir()):
        try:
            lines.append(' '.join([task.name] + [(task / name).read_text().strip() for name in ('comm', 'wchan', 'syscall')]))
        except OSError as e:
            lines.append(f'{task.name} {e}')
    return '\n'.join(lines)


class Watchdog:
    """Kills the daemon when nobody has called beat() for so long; whoever waits for it then finds it gone.

    `fired` tells that this happened.  Counted in looks, not by a clock: a machine that stood still is no deadlock.
    """

    def __init__(self, daemon, seconds=60):
        self.daemon = daemon
        self.limit = int(seconds * SLOW)
        self.looks = 0
        self.fired = False
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def beat(self):
        self.looks = 0

    def _watch(self):
        while not self.ended.wait(1):
            self.looks += 1
            if self.looks > self.limit and self.daemon.alive():
                self.fired = True
                print(f'# nothing has moved for {self.limit} s:\n{stacks(self.daemon.process.pid)}', file=sys.stderr)
                self.daemon.process.send_signal(signal.SIGKILL)  # its owner does the rest
                return

    def stop(self):
        self.ended.set()
        self.thread.join()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()

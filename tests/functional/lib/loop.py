# SPDX-License-Identifier: BSD-3-Clause
"""Loop devices: files that tests can use as devices of the host."""
import os
import subprocess

import pytest


def losetup(*args):
    return subprocess.run(['losetup', *map(str, args)], check=True, capture_output=True, text=True).stdout.strip()


class LoopDevice:
    """A loop device over a file; `name` is that of the device."""

    def __init__(self, path, sector=512, read_only=False):
        self.path = path
        args = ['--find', '--show', '--sector-size', sector] + (['--read-only'] if read_only else [])
        self.name = losetup(*args, path)

    def resize(self, size):
        """Makes the file longer, and the device with it."""
        os.truncate(self.path, size)
        losetup('--set-capacity', self.name)

    def detach(self):
        losetup('--detach', self.name)


def require():
    """Skips the test where the system gives nobody a loop device (no root, a container)."""
    try:
        losetup('--find')
        with open('/dev/loop-control', 'rb'):
            pass
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f'no loop devices here: {e}')
